// The weights of a Hugging Face folder: model.safetensors, or shards named by model.safetensors.index.json. One lookup by tensor name.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/coded_tensor.h"
#include "formats/safetensors.h"

namespace skiff {

// A tensor and what keeps its bytes alive.
struct FoundTensor {
    TensorView view;
    std::shared_ptr<const void> owner;
};

// What entropy coding saves in some files.
struct CodedTotals {
    std::size_t n_tensors = 0;
    std::uint64_t stored_bytes = 0, plain_bytes = 0;  // of these tensors
};

class CheckpointFiles {
public:
    // A folder, or one .safetensors file. Every shard is opened and checked: the index and the shards must agree on each tensor. Coded tensors
    // (coded_tensor.h) appear as what they decode to, under their own names.
    static Result<CheckpointFiles> open(const std::string& path);

    std::vector<std::string> names() const;  // sorted
    bool contains(std::string_view name) const { return places_.find(name) != places_.end(); }
    const TensorEntry* entry(std::string_view name) const;  // nullptr when absent
    // A view into the file; of a coded tensor into memory, which lives as long as somebody holds it: whoever asks meanwhile gets the same.
    Result<FoundTensor> tensor(std::string_view name) const;
    const std::vector<SafetensorsFile>& files() const { return files_; }
    std::vector<std::string> names_in(std::size_t file) const;  // sorted
    std::uint64_t tensor_bytes() const;  // of all tensors, as they are stored
    const CodedTensor* coded(std::string_view name) const;  // nullptr: stored as it is
    CodedTotals coded_totals() const;

private:
    struct Place {
        std::size_t file;
        std::size_t entry;
    };
    struct Coded {
        CodedTensor tensor;
        TensorEntry entry;  // of what it decodes to; begin and end say where its code lies
    };
    struct Decoded;
    explicit CheckpointFiles(std::string path);
    Status add(SafetensorsFile file);
    Status add_coded(const SafetensorsFile& file, const TensorEntry& entry, const std::string& name);
    Status add_shards(const std::string& index_path);
    Result<FoundTensor> decoded(std::string_view name, const Coded& coded) const;

    std::string path_;
    std::vector<SafetensorsFile> files_;
    std::map<std::string, Place, std::less<>> places_;
    std::map<std::string, Coded, std::less<>> coded_;
    std::shared_ptr<Decoded> decoded_;
};

// One file of a checkpoint that is to be written.
struct ShardDeclaration {
    std::string file_name;  // model.safetensors, or model-00001-of-00002.safetensors
    std::vector<TensorDeclaration> tensors;
};
// Fills files in the order of the tensors up to `max_shard_bytes` each. A tensor is never split.
Result<std::vector<ShardDeclaration>> assign_shards(const std::string& folder, std::vector<TensorDeclaration> tensors, std::uint64_t max_shard_bytes);
// model.safetensors.index.json: which file holds each tensor.
Status write_shard_index(const std::string& folder, const std::map<std::string, std::string, std::less<>>& file_of, std::uint64_t total_bytes);

// Writes tensors into a folder that exists (such as AtomicDirectory's working one): model.safetensors, or numbered shards and the index
// when they take more than `max_shard_bytes` together.
class CheckpointWriter {
public:
    static constexpr std::uint64_t default_max_shard_bytes = 5'000'000'000;

    static Result<CheckpointWriter> create(const std::string& folder, std::vector<TensorDeclaration> tensors,
                                           std::uint64_t max_shard_bytes = default_max_shard_bytes);

    Status write(std::string_view name, std::span<const std::byte> bytes);  // the next bytes of this tensor
    Status commit();
    std::vector<std::string> file_names() const;  // of the shards

private:
    explicit CheckpointWriter(std::string folder) : folder_(std::move(folder)) {}
    std::string folder_;
    std::vector<SafetensorsWriter> shards_;
    std::vector<std::string> shard_names_;
    std::map<std::string, std::size_t, std::less<>> shard_of_;
    std::uint64_t total_bytes_ = 0;
};

}  // namespace skiff
