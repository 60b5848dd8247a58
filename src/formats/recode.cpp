#include "formats/recode.h"

#include <algorithm>
#include <cstring>

#include "base/mapped_file.h"

namespace skiff {
namespace {

class Recoder {
public:
    Recoder(const CheckpointFiles& files, std::string folder, const RecodeOptions& options) : files_(files), folder_(std::move(folder)), options_(options), pool_(std::max(1, options.n_threads)) {
        for (const std::string& name : files.names()) total_bytes_ += dtype_bytes(files.entry(name)->dtype, element_count(files.entry(name)->shape)).value_or(0);
    }

    Result<RecodeReport> run() {
        std::map<std::string, std::string, std::less<>> file_of;
        for (std::size_t i = 0; i < files_.files().size(); ++i) SKIFF_CHECK(write_file(i, file_of));
        // A folder may have an index for a single shard.
        const bool has_index = files_.files().size() > 1 || base_name(files_.files()[0].path()) != "model.safetensors";
        if (!folder_.empty() && has_index) SKIFF_CHECK(write_shard_index(folder_, file_of, report_.total.stored_bytes));
        return std::move(report_);
    }

private:
    // What becomes of a tensor, and its code unless there is too much of it.
    struct Made {
        std::string name;
        bool is_coded = false;
        std::vector<std::byte> code;
    };

    Status write_file(std::size_t number, std::map<std::string, std::string, std::less<>>& file_of) {
        const SafetensorsFile& source = files_.files()[number];
        std::vector<TensorDeclaration> declared;
        std::vector<Made> all;
        std::uint64_t kept = 0;
        for (const std::string& name : files_.names_in(number)) {
            SKIFF_TRY(const auto found, files_.tensor(name));
            SKIFF_TRY(auto made, make(name, found.view));
            std::uint64_t stored = found.view.data.size();
            if (made.is_coded) {
                stored = made.code.size();
                declared.push_back({name + std::string(coded_end), DType::u8, {static_cast<std::int64_t>(stored)}});
                kept += stored;
                if (folder_.empty() || kept > options_.keep_bytes) std::vector<std::byte>().swap(made.code);
            } else {
                declared.push_back({name, found.view.dtype, found.view.shape});
            }
            file_of.emplace(declared.back().name, base_name(source.path()));
            count(found.view, stored);
            if (options_.progress) options_.progress({"code", name, report_.total.plain_bytes, total_bytes_});
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
            all.push_back(std::move(made));
        }
        return folder_.empty() ? Status() : write(join_path(folder_, base_name(source.path())), std::move(declared), metadata_of(source, all), all);
    }

    Result<Made> make(const std::string& name, const TensorView& view) {
        Made made{name, false, {}};
        if (options_.to == RecodeOptions::To::plain) return made;
        if (name.ends_with(coded_end)) return unsupported("tensor " + name + ": names that end in " + std::string(coded_end) + " are kept for coded tensors");
        double begin = monotonic_seconds();
        auto code = encode_tensor(view, pool_);
        report_.encode_seconds += monotonic_seconds() - begin;
        if (!code) return made;
        auto parsed = parse_coded_tensor(*code);
        if (!parsed.ok()) return parsed.take_error().with_context("tensor " + name);
        std::vector<std::byte> again(view.data.size());
        begin = monotonic_seconds();
        auto status = decode_tensor(*parsed, again, options_.n_threads);
        report_.decode_seconds += monotonic_seconds() - begin;
        if (!status.ok()) return status.take_error().with_context("tensor " + name);
        if (parsed->shape != view.shape || parsed->dtype != view.dtype || std::memcmp(again.data(), view.data.data(), again.size()) != 0)
            return runtime_error("tensor " + name + " does not decode to what was coded; this is a fault of skiff, nothing was written");
        ++report_.n_coded;
        report_.coded_plain_bytes += view.data.size();
        made.is_coded = true;
        made.code = std::move(*code);
        return made;
    }

    void count(const TensorView& view, std::uint64_t stored) {
        for (RecodeReport::Row* row : {&report_.total, &report_.by_type[std::string(dtype_info(view.dtype).name)]}) {
            ++row->n_tensors;
            row->plain_bytes += view.data.size();
            row->stored_bytes += stored;
        }
    }

    static SafetensorsMetadata metadata_of(const SafetensorsFile& source, const std::vector<Made>& all) {
        SafetensorsMetadata metadata;
        for (const auto& [key, value] : source.metadata())
            if (key != coded_metadata_key) metadata.emplace_back(key, value);
        if (std::any_of(all.begin(), all.end(), [](const Made& made) { return made.is_coded; })) metadata.emplace_back(coded_metadata_key, coded_metadata_value);
        return metadata;
    }

    Status write(const std::string& path, std::vector<TensorDeclaration> declared, const SafetensorsMetadata& metadata, const std::vector<Made>& all) {
        SKIFF_TRY(auto writer, SafetensorsWriter::create(path, std::move(declared), metadata));
        for (const Made& made : all) {
            SKIFF_TRY(const auto found, files_.tensor(made.name));
            if (!made.is_coded) {
                SKIFF_CHECK(writer.write(made.name, found.view.data));
            } else if (!made.code.empty()) {
                SKIFF_CHECK(writer.write(made.name + std::string(coded_end), made.code));
            } else {
                const auto code = encode_tensor(found.view, pool_);
                SKIFF_CHECK(writer.write(made.name + std::string(coded_end), *code));
            }
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
        }
        return writer.commit();
    }

    const CheckpointFiles& files_;
    const std::string folder_;
    const RecodeOptions& options_;
    ThreadPool pool_;
    std::uint64_t total_bytes_ = 0;
    RecodeReport report_;
};

}  // namespace

Result<RecodeReport> recode(const CheckpointFiles& files, const std::string& folder, const RecodeOptions& options) { return Recoder(files, folder, options).run(); }

Result<double> decoding_seconds(const CheckpointFiles& files, int n_threads) {
    double seconds = 0;
    for (const std::string& name : files.names()) {
        const CodedTensor* tensor = files.coded(name);
        if (tensor == nullptr) continue;
        std::vector<std::byte> bytes(static_cast<std::size_t>(tensor->plain_bytes));
        const double begin = monotonic_seconds();
        auto status = decode_tensor(*tensor, bytes, n_threads);
        seconds += monotonic_seconds() - begin;
        if (!status.ok()) return status.take_error().with_context("tensor " + name + std::string(coded_end));
    }
    return seconds;
}

}  // namespace skiff
