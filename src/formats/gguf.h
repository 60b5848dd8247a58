// A GGUF model on disk: one file, or all parts of a split one, mapped and checked.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"
#include "formats/gguf_parse.h"
#include "tensor/weight.h"

namespace skiff {

class GgufFile {
public:
    // Any part of a split model ("x-00001-of-00003.gguf") opens all of them, from the same folder.
    static Result<GgufFile> open(const std::string& path);
    static bool is_gguf(const std::string& path);  // by its first four bytes

    const std::string& path() const { return path_; }
    std::uint32_t version() const { return version_; }
    std::uint64_t alignment() const { return alignment_; }
    const GgufMetadata& metadata() const { return metadata_; }        // of the first part
    const std::vector<GgufTensor>& tensors() const { return tensors_; }  // of all parts, in order
    std::size_t n_parts() const { return files_.size(); }
    const std::vector<std::shared_ptr<const MappedFile>>& files() const { return files_; }

    const GgufTensor* find(std::string_view name) const;
    // Plain types become numbers of the tensor's shape, block types Blocks; one-dimensional blocks become one row.
    // Types known by size only are an unsupported error. The weight keeps the file mapped.
    Result<Weight> weight(std::string_view name) const;
    Result<Weight> weight(const GgufTensor& tensor) const;

private:
    Status add_part(const std::string& path, GgufPart& part);
    Status open_parts(const std::string& path, const GgufPart& first);

    std::string path_;
    std::uint32_t version_ = gguf_version;
    std::uint64_t alignment_ = gguf_default_alignment;
    GgufMetadata metadata_;
    std::vector<GgufTensor> tensors_;
    std::vector<std::uint32_t> by_name_;  // indices of tensors_ in order of name
    std::shared_ptr<const void> owner_;   // all mapped files
    std::vector<std::shared_ptr<const MappedFile>> files_;
};

// "prefix-00002-of-00005.gguf"
struct GgufSplitName {
    std::string prefix;  // with the folder
    int part = 1, n_parts = 1;  // part counts from 1
    std::string part_path(int number) const;
};
std::optional<GgufSplitName> parse_gguf_split_name(const std::string& path);

}  // namespace skiff
