#include "measure/logits_file.h"

#include <bit>
#include <cstdio>
#include <cstring>

#include "base/checked.h"
#include "base/span_reader.h"

namespace skiff {
namespace {

static_assert(std::endian::native == std::endian::little, "logits are written as they lie in memory");
constexpr char magic[] = "SKIFFLOG";
constexpr std::uint32_t version = 1;
constexpr std::size_t magic_bytes = 8, preamble_bytes = 16, alignment_bytes = 4096, max_header_bytes = 1 << 16;

std::size_t rows_offset(std::size_t json_bytes) { return round_up(preamble_bytes + json_bytes, alignment_bytes); }

std::string gib_text(std::uint64_t bytes) {
    char buffer[48];
    std::snprintf(buffer, sizeof buffer, "%.2f GiB", static_cast<double>(bytes) / (1 << 30));
    return buffer;
}

Result<LogitsHeader> header_from_json(const Json& json) {
    LogitsHeader header;
    for (auto [key, field] :
         {std::pair("model_name", &header.model_name), std::pair("model_hash", &header.model_hash), std::pair("text_sha256", &header.text_sha256),
          std::pair("tokens_hash", &header.tokens_hash), std::pair("protocol", &header.protocol)}) {
        SKIFF_TRY(*field, json[key].as_string(key));
    }
    for (auto [key, field] : {std::pair("window", &header.window), std::pair("n_windows", &header.n_windows), std::pair("n_scored", &header.n_scored),
                              std::pair("n_vocab", &header.n_vocab)}) {
        SKIFF_TRY(*field, json[key].as_int(key));
        if (*field < 1) return corrupt(std::string(key) + " is " + std::to_string(*field) + ", expected at least 1");
    }
    return header;
}

class FileParent : public ParentLogits {
public:
    FileParent(std::shared_ptr<const MappedFile> file, const LogitsHeader& header, std::size_t rows_at)
        : file_(std::move(file)), header_(header), rows_at_(rows_at) {
        file_->advise_sequential();
    }
    std::int64_t n_vocab() const override { return header_.n_vocab; }
    Status begin_window(std::int64_t window) override {
        next_row_ = window * (header_.n_scored / header_.n_windows);
        return {};
    }
    Result<std::span<const float>> chunk(std::span<const std::int32_t>, std::int64_t n_scored) override {
        if (next_row_ + n_scored > header_.n_scored)
            return usage_error(file_->path() + ": holds " + std::to_string(header_.n_scored) + " rows, more were asked for");
        const std::size_t row_bytes = static_cast<std::size_t>(header_.n_vocab) * sizeof(float);
        const std::size_t begin = rows_at_ + static_cast<std::size_t>(next_row_) * row_bytes;
        if (begin > dropped_) file_->drop(dropped_, begin - dropped_);  // what was read is not needed again
        dropped_ = begin;
        next_row_ += n_scored;
        const auto* rows = reinterpret_cast<const float*>(file_->bytes().data() + begin);
        return std::span(rows, static_cast<std::size_t>(n_scored) * static_cast<std::size_t>(header_.n_vocab));
    }

private:
    std::shared_ptr<const MappedFile> file_;
    LogitsHeader header_;
    std::size_t rows_at_, dropped_ = 0;
    std::int64_t next_row_ = 0;
};

}  // namespace

Json LogitsHeader::to_json() const {
    return Json::object({{"model_name", model_name},
                         {"model_hash", model_hash},
                         {"text_sha256", text_sha256},
                         {"tokens_hash", tokens_hash},
                         {"protocol", protocol},
                         {"window", window},
                         {"n_windows", n_windows},
                         {"n_scored", n_scored},
                         {"n_vocab", n_vocab}});
}

std::uint64_t LogitsHeader::file_bytes() const {
    return rows_offset(to_json().dump().size()) + static_cast<std::uint64_t>(n_scored) * static_cast<std::uint64_t>(n_vocab) * sizeof(float);
}

LogitsHeader logits_header(const TextWindows& windows, std::int64_t n_vocab) {
    LogitsHeader header;
    header.tokens_hash = windows.tokens_hash();
    header.protocol = protocol_name(windows.protocol());
    header.window = windows.window();
    header.n_windows = windows.n_windows();
    header.n_scored = windows.n_scored();
    header.n_vocab = n_vocab;
    return header;
}

Result<LogitsWriter> LogitsWriter::create(const std::string& path, const LogitsHeader& header) {
    const std::string folder = parent_path(path).empty() ? "." : parent_path(path);
    SKIFF_TRY(const std::uint64_t free_bytes, free_disk_bytes(folder));
    if (free_bytes < header.file_bytes())
        return resource_error(path + ": the logits take " + gib_text(header.file_bytes()) + ", " + gib_text(free_bytes) +
                              " are free there; use --max-windows or another disk");
    SKIFF_TRY(auto file, AtomicFile::create(path));
    LogitsWriter writer(std::move(file));
    writer.expected_bytes_ = header.file_bytes();
    const std::string json = header.to_json().dump();
    const auto json_bytes = static_cast<std::uint32_t>(json.size());
    SKIFF_CHECK(writer.file_.write(std::string_view(magic, magic_bytes)));
    SKIFF_CHECK(writer.file_.write(std::as_bytes(std::span(&version, 1))));
    SKIFF_CHECK(writer.file_.write(std::as_bytes(std::span(&json_bytes, 1))));
    SKIFF_CHECK(writer.file_.write(json));
    SKIFF_CHECK(writer.file_.pad_to(alignment_bytes));
    return writer;
}

Status LogitsWriter::add(std::span<const float> rows) { return file_.write(std::as_bytes(rows)); }

Status LogitsWriter::finish() {
    if (file_.size_bytes() != expected_bytes_)
        return runtime_error("the logits file has " + std::to_string(file_.size_bytes()) + " bytes, expected " + std::to_string(expected_bytes_));
    return file_.commit();
}

bool is_logits_file(const std::string& path) {
    if (!file_exists(path) || is_directory(path)) return false;
    auto file = MappedFile::open(path);
    return file.ok() && (*file)->bytes().size() >= magic_bytes && std::memcmp((*file)->bytes().data(), magic, magic_bytes) == 0;
}

Result<LogitsFile> LogitsFile::open(const std::string& path) {
    LogitsFile result;
    SKIFF_TRY(result.file_, MappedFile::open(path));
    SpanReader reader(result.file_->bytes());
    auto in_file = [&](Error error) { return std::move(error).with_context(path); };
    auto name = reader.take_string(magic_bytes, "the file's name mark");
    if (!name.ok() || *name != std::string_view(magic, magic_bytes)) return in_file(corrupt("is no file of logits (its first bytes are not SKIFFLOG)"));
    auto found_version = reader.read<std::uint32_t>("the version");
    if (!found_version.ok()) return in_file(found_version.take_error());
    if (*found_version != version)
        return in_file(unsupported("version " + std::to_string(*found_version) + " of the logits format; this program reads version 1"));
    auto json_bytes = reader.read<std::uint32_t>("the header's length");
    if (!json_bytes.ok()) return in_file(json_bytes.take_error());
    if (*json_bytes > max_header_bytes)
        return in_file(
            corrupt("the header claims " + std::to_string(*json_bytes) + " bytes, at most " + std::to_string(max_header_bytes) + " are allowed"));
    auto text = reader.take_string(*json_bytes, "the header");
    if (!text.ok()) return in_file(text.take_error());
    auto json = Json::parse(*text);
    if (!json.ok()) return in_file(json.take_error());
    auto header = header_from_json(*json);
    if (!header.ok()) return in_file(header.take_error());
    result.header_ = std::move(*header);
    result.rows_at_ = rows_offset(*json_bytes);
    const std::int64_t factors[] = {result.header_.n_scored, result.header_.n_vocab, sizeof(float)};
    const auto rows_bytes = checked_product(factors);
    if (!rows_bytes || result.header_.n_scored % result.header_.n_windows != 0 || result.file_->bytes().size() < result.rows_at_ ||
        result.file_->bytes().size() - result.rows_at_ != static_cast<std::size_t>(*rows_bytes))
        return in_file(corrupt("has " + std::to_string(result.file_->bytes().size()) + " bytes, not what its header says; write it anew with --save-logits"));
    return result;
}

Status LogitsFile::check_matches(const LogitsHeader& expected) const {
    auto differs = [&](const std::string& what, const std::string& here, const std::string& wanted) {
        return usage_error(file_->path() + ": holds logits for another " + what + " (" + here + ", this evaluation has " + wanted +
                           "); write it anew with --save-logits, or repeat the options it was made with");
    };
    if (header_.protocol != expected.protocol) return differs("protocol", header_.protocol, expected.protocol);
    if (header_.window != expected.window) return differs("window", std::to_string(header_.window), std::to_string(expected.window));
    if (header_.n_windows != expected.n_windows) return differs("number of windows", std::to_string(header_.n_windows), std::to_string(expected.n_windows));
    if (header_.n_vocab != expected.n_vocab)
        return differs("vocabulary", std::to_string(header_.n_vocab) + " tokens", std::to_string(expected.n_vocab) + " tokens");
    if (header_.text_sha256 != expected.text_sha256) return differs("text", header_.text_sha256.substr(0, 12), expected.text_sha256.substr(0, 12));
    if (header_.tokens_hash != expected.tokens_hash)
        return differs("tokenizer", "token hash " + header_.tokens_hash.substr(0, 12), expected.tokens_hash.substr(0, 12));
    if (header_.n_scored != expected.n_scored) return differs("number of positions", std::to_string(header_.n_scored), std::to_string(expected.n_scored));
    return {};
}

std::unique_ptr<ParentLogits> LogitsFile::rows() const { return std::make_unique<FileParent>(file_, header_, rows_at_); }

}  // namespace skiff
