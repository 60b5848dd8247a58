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
    Status sync();
    Status finish();  // the index of shards, if there are several; what was never written is zero: the caller keeps account

private:
    struct File;
    struct Place {
        std::size_t file;
        TensorEntry entry;
    };
    explicit StagedCheckpoint(std::string folder) : folder_(std::move(folder)) {}
    std::string folder_;
    std::vector<std::shared_ptr<File>> files_;
    std::map<std::string, Place, std::less<>> places_;
};

}  // namespace skiff
