// A checkpoint whose files are laid out in full before the first tensor is ready, so that work which was killed goes on in the same files.
// For long work in AtomicDirectory's working folder; a journal beside it says which tensors are complete.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/checkpoint_files.h"

namespace skiff {

class StagedCheckpoint {
public:
    enum class Start : std::uint8_t {
        fresh,   // new files; their disk space is taken at once where the file system can
        resume,  // files of the same tensors that are there already; an error where they are not as they were left
    };
    static Result<StagedCheckpoint> open(const std::string& folder, const std::vector<ShardDeclaration>& shards, Start start);
    StagedCheckpoint(StagedCheckpoint&&) = default;

    // All bytes of a tensor. They survive a crash once sync() has returned.
    Status write(std::string_view name, std::span<const std::byte> bytes);
    // A tensor that turned out to be of another type than was declared (scales that F16 does not hold): kept in a file of its own until finish() lays its
    // shard out anew, which may then be a little larger than asked for.
    Status write_as(std::string_view name, DType dtype, std::span<const std::byte> bytes);
    Status sync();
    Status finish();  // the index of shards, if there are several; what was never written is zero: the caller keeps account
    // The files of write_as(), which a resumed run needs until nothing is left to do.
    static Status remove_parts(const std::string& folder);

private:
    struct File;
    struct Place {
        std::size_t file;
        TensorEntry entry;
    };
    explicit StagedCheckpoint(std::string folder) : folder_(std::move(folder)) {}
    std::string part_path(const File& file, std::size_t at, DType dtype) const;
    std::map<std::size_t, DType> parts_of(const File& file, std::size_t n_declared) const;  // by place among the declared tensors
    Status lay_out_anew(std::size_t index);
    std::string folder_;
    std::vector<std::shared_ptr<File>> files_;
    std::map<std::string, Place, std::less<>> places_;
};

}  // namespace skiff
