// The safetensors file: 8 bytes of header length, a JSON header, then the tensors' bytes without gaps.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "base/result.h"
#include "tensor/tensor.h"

namespace skiff {

struct TensorEntry {
    std::string name;
    DType dtype = DType::f32;
    Shape shape;
    std::uint64_t begin = 0, end = 0;  // bytes within the data part
};

using SafetensorsMetadata = std::vector<std::pair<std::string, std::string>>;

struct SafetensorsHeader {
    std::vector<TensorEntry> entries;  // in the order of their bytes
    SafetensorsMetadata metadata;
    std::uint64_t data_begin = 0;      // in the file
};

// Reads and checks the header. `bytes` is the file or its beginning; every tensor it returns lies within `file_size_bytes`.
Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> bytes, std::uint64_t file_size_bytes);

class SafetensorsFile {
public:
    // Maps and checks a file. Pickles (.bin, .pt, .pth, .ckpt, .pkl) are refused by name: loading one can run any code.
    static Result<SafetensorsFile> open(const std::string& path);

    const std::vector<TensorEntry>& entries() const { return header_.entries; }
    const SafetensorsMetadata& metadata() const { return header_.metadata; }
    const TensorEntry* find(std::string_view name) const;
    Result<TensorView> view(std::string_view name) const;  // into the mapping, perhaps unaligned
    TensorView view(const TensorEntry& entry) const;       // of an entry of this file
    const std::shared_ptr<const MappedFile>& owner() const { return file_; }
    const std::string& path() const { return file_->path(); }

private:
    SafetensorsFile(std::shared_ptr<const MappedFile> file, SafetensorsHeader header);
    std::shared_ptr<const MappedFile> file_;
    SafetensorsHeader header_;
    std::map<std::string, std::size_t, std::less<>> index_;
};

// Nothing, or why this file name is refused and what to do instead.
Status refuse_pickle(const std::string& path);

// A tensor to be written: known before its bytes.
struct TensorDeclaration {
    std::string name;
    DType dtype = DType::f32;
    Shape shape;
};

// The beginning of a file with these tensors, and where their bytes go: widest type first, then by name.
struct SafetensorsHead {
    std::vector<TensorEntry> entries;
    std::vector<std::byte> bytes;  // up to the first tensor
    std::uint64_t file_size_bytes() const { return bytes.size() + (entries.empty() ? 0 : entries.back().end); }
};
// `path` is for messages. Error: tensors that the reader would refuse.
Result<SafetensorsHead> safetensors_head(const std::string& path, std::vector<TensorDeclaration> tensors,
                                         const SafetensorsMetadata& metadata = {{"format", "pt"}});

// Streams a file. All tensors are declared first; their bytes may then come in chunks and in any order of tensors. The file lays them out
// widest type first, then by name, as the reference implementation does, so that every tensor is aligned to its type.
class SafetensorsWriter {
public:
    static Result<SafetensorsWriter> create(const std::string& path, std::vector<TensorDeclaration> tensors,
                                            const SafetensorsMetadata& metadata = {{"format", "pt"}});

    Status write(std::string_view name, std::span<const std::byte> bytes);  // the next bytes of this tensor
    Status commit();                                                        // an error if a tensor is not complete
    const std::vector<TensorEntry>& entries() const { return entries_; }
    std::uint64_t file_size_bytes() const { return data_begin_ + (entries_.empty() ? 0 : entries_.back().end); }

private:
    SafetensorsWriter(AtomicFile file, std::vector<TensorEntry> entries, std::uint64_t data_begin);
    AtomicFile file_;
    std::vector<TensorEntry> entries_;
    std::vector<std::uint64_t> written_;  // bytes so far, per entry
    std::map<std::string, std::size_t, std::less<>> index_;
    std::uint64_t data_begin_ = 0;
};

}  // namespace skiff
