#include "formats/checkpoint_files.h"

#include <dirent.h>

#include <mutex>

#include "base/checked.h"
#include "base/cpu_features.h"
#include "base/json.h"

namespace skiff {
namespace {

constexpr std::string_view single_name = "model.safetensors", index_name = "model.safetensors.index.json";
constexpr std::size_t max_shards = 10'000, max_index_bytes = std::size_t{256} << 20;

// A shard's name is a plain file name beside the index, so that no index reaches out of its folder.
Status check_shard_name(const std::string& name) {
    const bool plain = !name.empty() && name.size() <= 255 && name[0] != '.' && name.find_first_of("/\\") == std::string::npos &&
                       name.find('\0') == std::string::npos;
    if (!plain) return corrupt("weight_map names the shard \"" + name.substr(0, 80) + "\", which is not a plain file name");
    if (!name.ends_with(".safetensors")) {
        SKIFF_CHECK(refuse_pickle(name));
        return corrupt("weight_map names the shard \"" + name.substr(0, 80) + "\", which does not end in .safetensors");
    }
    return {};
}

// Whether its tensors of a certain name are coded ones.
Result<bool> holds_coded(const SafetensorsFile& file) {
    for (const auto& [key, value] : file.metadata()) {
        if (key != coded_metadata_key) continue;
        if (value != coded_metadata_value) return unsupported(file.path() + ": its tensors are coded in the form \"" + value.substr(0, 16) + "\", which a newer skiff reads");
        return true;
    }
    return false;
}

// Shard name -> the tensors it must hold.
using ShardMap = std::map<std::string, std::vector<std::string>>;

Result<ShardMap> read_index(const std::string& path) {
    JsonLimits limits;
    limits.max_bytes = max_index_bytes;
    limits.max_depth = 8;
    SKIFF_TRY(const auto index, read_json_file(path, limits));
    if (!index["weight_map"].is_object()) return corrupt("has no object weight_map");
    ShardMap shards;
    for (const auto& [tensor, shard] : index["weight_map"].members()) {
        if (!shard.is_string()) return corrupt("weight_map \"" + tensor.substr(0, 80) + "\" must be a string");
        SKIFF_CHECK(check_shard_name(shard.text()));
        shards[shard.text()].push_back(tensor);
        if (shards.size() > max_shards) return corrupt("names more than " + std::to_string(max_shards) + " shards");
    }
    return shards;
}

// Why a folder has no weights this program reads.
Error no_weights(const std::string& folder) {
    bool has_gguf = false;
    std::string pickle;
    if (DIR* entries = ::opendir(folder.c_str())) {
        while (const dirent* entry = ::readdir(entries)) {
            const std::string name = entry->d_name;
            if (name.ends_with(".gguf")) has_gguf = true;
            if (name == "pytorch_model.bin" || name.starts_with("pytorch_model-") || name == "consolidated.00.pth") pickle = name;
        }
        ::closedir(entries);
    }
    if (!pickle.empty()) return refuse_pickle(join_path(folder, pickle)).take_error();
    return not_found(folder + ": there is neither " + std::string(single_name) + " nor " + std::string(index_name) +
                     (has_gguf ? "; it holds a GGUF file, name that one" : ""));
}

}  // namespace

// Coded tensors that are in use.
struct CheckpointFiles::Decoded {
    std::mutex mutex;
    std::map<std::string, std::weak_ptr<const std::byte[]>, std::less<>> alive;
};

CheckpointFiles::CheckpointFiles(std::string path) : path_(std::move(path)), decoded_(std::make_shared<Decoded>()) {}

Status CheckpointFiles::add(SafetensorsFile file) {
    const std::size_t number = files_.size();
    SKIFF_TRY(const bool has_coded, holds_coded(file));
    for (std::size_t i = 0; i < file.entries().size(); ++i) {
        const TensorEntry& entry = file.entries()[i];
        const bool is_coded = has_coded && entry.name.size() > coded_end.size() && entry.name.ends_with(coded_end);
        const std::string name = is_coded ? entry.name.substr(0, entry.name.size() - coded_end.size()) : entry.name;
        if (is_coded && entry.dtype != DType::u8) return corrupt("is " + std::string(dtype_info(entry.dtype).name) + ", expected U8, which holds code").with_context("tensor " + entry.name.substr(0, 80)).with_context(file.path());
        if (is_coded) SKIFF_CHECK(add_coded(file, entry, name));
        const auto [place, is_new] = places_.emplace(name, Place{number, i});
        if (!is_new && place->second.file == number)
            return corrupt("tensor \"" + name.substr(0, 80) + "\" is in it twice, as it is and coded; fetch or write the file again").with_context(file.path());
        if (!is_new)
            return corrupt("tensor \"" + place->first + "\" is in two shards, " + base_name(files_[place->second.file].path()) + " and " +
                           base_name(file.path()))
                .with_context(path_);
    }
    files_.push_back(std::move(file));
    return {};
}

Status CheckpointFiles::add_coded(const SafetensorsFile& file, const TensorEntry& entry, const std::string& name) {
    auto tensor = parse_coded_tensor(file.view(entry).data);
    if (!tensor.ok()) return tensor.take_error().with_context("tensor " + entry.name).with_context(file.path());
    TensorEntry plain{name, tensor->dtype, tensor->shape, entry.begin, entry.end};
    coded_.emplace(name, Coded{std::move(*tensor), std::move(plain)});
    return {};
}

Status CheckpointFiles::add_shards(const std::string& index_path) {
    auto shards = read_index(index_path);
    if (!shards.ok()) return shards.take_error().with_context(index_path);
    std::size_t n_listed = 0;
    for (const auto& [shard, tensors] : *shards) {
        auto file = SafetensorsFile::open(join_path(path_, shard));
        if (!file.ok()) return file.take_error().with_context(index_path);
        for (const auto& tensor : tensors)
            if (file->find(tensor) == nullptr)
                return corrupt("weight_map says that " + shard + " holds \"" + tensor.substr(0, 80) + "\", but it does not").with_context(index_path);
        n_listed += tensors.size();
        SKIFF_CHECK(add(std::move(*file)));
    }
    if (n_listed != places_.size())
        return corrupt("weight_map lists " + std::to_string(n_listed) + " tensors, the shards hold " + std::to_string(places_.size()))
            .with_context(index_path);
    return {};
}

Result<CheckpointFiles> CheckpointFiles::open(const std::string& path) {
    CheckpointFiles files(path);
    if (!is_directory(path)) {
        SKIFF_TRY(auto file, SafetensorsFile::open(path));
        SKIFF_CHECK(files.add(std::move(file)));
        return files;
    }
    const std::string single = join_path(path, std::string(single_name)), index = join_path(path, std::string(index_name));
    if (file_exists(single)) {
        SKIFF_TRY(auto file, SafetensorsFile::open(single));
        SKIFF_CHECK(files.add(std::move(file)));
        return files;
    }
    if (!file_exists(index)) return no_weights(path);
    SKIFF_CHECK(files.add_shards(index));
    return files;
}

std::vector<std::string> CheckpointFiles::names() const {
    std::vector<std::string> names;
    names.reserve(places_.size());
    for (const auto& place : places_) names.push_back(place.first);
    return names;
}

const TensorEntry* CheckpointFiles::entry(std::string_view name) const {
    auto place = places_.find(name);
    if (const auto found = coded_.find(name); found != coded_.end()) return &found->second.entry;
    return place == places_.end() ? nullptr : &files_[place->second.file].entries()[place->second.entry];
}

Result<FoundTensor> CheckpointFiles::tensor(std::string_view name) const {
    auto place = places_.find(name);
    if (place == places_.end()) return not_found(path_ + ": there is no tensor \"" + std::string(name) + "\"");
    if (const auto found = coded_.find(name); found != coded_.end()) return decoded(name, found->second);
    const SafetensorsFile& file = files_[place->second.file];
    return FoundTensor{file.view(file.entries()[place->second.entry]), file.owner()};
}

Result<FoundTensor> CheckpointFiles::decoded(std::string_view name, const Coded& coded) const {
    const std::lock_guard lock(decoded_->mutex);
    std::weak_ptr<const std::byte[]>& alive = decoded_->alive[std::string(name)];
    const auto size = static_cast<std::size_t>(coded.tensor.plain_bytes);
    std::shared_ptr<const std::byte[]> bytes = alive.lock();
    if (bytes == nullptr) {
        const std::shared_ptr<std::byte[]> made(new std::byte[size]);  // not make_shared: its bytes would live as long as the weak pointer to them
        auto status = decode_tensor(coded.tensor, {made.get(), size}, default_thread_count());
        if (!status.ok()) return status.take_error().with_context("tensor " + std::string(name) + std::string(coded_end)).with_context(files_[places_.find(name)->second.file].path());
        alive = bytes = made;
    }
    return FoundTensor{{coded.tensor.dtype, coded.tensor.shape, {bytes.get(), size}}, bytes};
}

std::vector<std::string> CheckpointFiles::names_in(std::size_t file) const {
    std::vector<std::string> names;
    for (const auto& [name, place] : places_)
        if (place.file == file) names.push_back(name);
    return names;
}

const CodedTensor* CheckpointFiles::coded(std::string_view name) const {
    const auto found = coded_.find(name);
    return found == coded_.end() ? nullptr : &found->second.tensor;
}

CodedTotals CheckpointFiles::coded_totals() const {
    CodedTotals totals;
    for (const auto& [name, coded] : coded_) {
        ++totals.n_tensors;
        totals.stored_bytes += coded.entry.end - coded.entry.begin;
        totals.plain_bytes += coded.tensor.plain_bytes;
    }
    return totals;
}

std::uint64_t CheckpointFiles::tensor_bytes() const {
    std::uint64_t total = 0;
    for (const auto& file : files_)
        if (!file.entries().empty()) total += file.entries().back().end;
    return total;
}

Result<std::vector<ShardDeclaration>> assign_shards(const std::string& folder, std::vector<TensorDeclaration> tensors, std::uint64_t max_shard_bytes) {
    std::vector<ShardDeclaration> shards(1);
    std::map<std::string, bool, std::less<>> seen;
    std::uint64_t shard_bytes = 0;
    for (auto& tensor : tensors) {
        auto n_elements = checked_product(tensor.shape);
        auto size = n_elements ? dtype_bytes(tensor.dtype, *n_elements) : std::nullopt;
        if (!size) return usage_error(folder + ": tensor \"" + tensor.name + "\" " + shape_text(tensor.shape) + " has no size in bytes");
        if (!seen.emplace(tensor.name, true).second) return usage_error(folder + ": tensor \"" + tensor.name + "\" is declared twice");
        if (shard_bytes > 0 && shard_bytes + static_cast<std::uint64_t>(*size) > max_shard_bytes) {
            shards.emplace_back();
            shard_bytes = 0;
        }
        shard_bytes += static_cast<std::uint64_t>(*size);
        shards.back().tensors.push_back(std::move(tensor));
    }
    shards[0].file_name = single_name;
    const auto number = [](std::size_t n) {
        const std::string digits = std::to_string(n);
        return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
    };
    for (std::size_t i = 0; shards.size() > 1 && i < shards.size(); ++i)
        shards[i].file_name = "model-" + number(i + 1) + "-of-" + number(shards.size()) + ".safetensors";
    return shards;
}

Status write_shard_index(const std::string& folder, const std::map<std::string, std::string, std::less<>>& file_of, std::uint64_t total_bytes) {
    Json::Object weight_map;
    for (const auto& [name, file] : file_of) weight_map.emplace_back(name, file);
    const Json index = Json::object({{"metadata", Json::object({{"total_size", total_bytes}})}, {"weight_map", std::move(weight_map)}});
    return write_file_atomic(join_path(folder, std::string(index_name)), index.dump(2) + "\n");
}

Result<CheckpointWriter> CheckpointWriter::create(const std::string& folder, std::vector<TensorDeclaration> tensors, std::uint64_t max_shard_bytes) {
    CheckpointWriter writer(folder);
    SKIFF_TRY(auto shards, assign_shards(folder, std::move(tensors), max_shard_bytes));
    for (std::size_t i = 0; i < shards.size(); ++i) {
        for (const auto& tensor : shards[i].tensors) writer.shard_of_.emplace(tensor.name, i);
        SKIFF_TRY(auto shard, SafetensorsWriter::create(join_path(folder, shards[i].file_name), std::move(shards[i].tensors)));
        if (!shard.entries().empty()) writer.total_bytes_ += shard.entries().back().end;
        writer.shards_.push_back(std::move(shard));
        writer.shard_names_.push_back(std::move(shards[i].file_name));
    }
    return writer;
}

Status CheckpointWriter::write(std::string_view name, std::span<const std::byte> bytes) {
    auto shard = shard_of_.find(name);
    if (shard == shard_of_.end()) return usage_error("tensor \"" + std::string(name) + "\" was not declared");
    return shards_[shard->second].write(name, bytes);
}

Status CheckpointWriter::commit() {
    for (auto& shard : shards_) SKIFF_CHECK(shard.commit());
    if (shards_.size() == 1) return {};
    std::map<std::string, std::string, std::less<>> file_of;
    for (const auto& [name, shard] : shard_of_) file_of.emplace(name, shard_names_[shard]);
    return write_shard_index(folder_, file_of, total_bytes_);
}

std::vector<std::string> CheckpointWriter::file_names() const { return shard_names_; }

}  // namespace skiff
