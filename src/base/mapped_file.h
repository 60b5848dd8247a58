// Read-only access to a whole regular file, by mmap.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace skiff {

class MappedFile {
public:
    // Maps `path` read-only and private. Refuses folders, pipes and devices. An empty file gives an empty span.
    static Result<std::shared_ptr<const MappedFile>> open(const std::string& path);

    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    ~MappedFile();

    std::span<const std::byte> bytes() const { return {data_, size_bytes_}; }
    const std::string& path() const { return path_; }
    // Tells the kernel that this part will be read once from front to back / is no longer needed.
    void advise_sequential() const;
    void drop(std::size_t offset_bytes, std::size_t size_bytes) const;

private:
    MappedFile(std::string path, const std::byte* data, std::size_t size_bytes) : path_(std::move(path)), data_(data), size_bytes_(size_bytes) {}
    std::string path_;
    const std::byte* data_ = nullptr;
    std::size_t size_bytes_ = 0;
};

// Whole-file helpers. `max_bytes` bounds what is read on a file's word.
Result<std::string> read_text_file(const std::string& path, std::size_t max_bytes);
bool file_exists(const std::string& path);
bool is_directory(const std::string& path);
Result<std::uint64_t> file_size_bytes(const std::string& path);
std::string join_path(const std::string& folder, const std::string& name);
std::string base_name(const std::string& path);
std::string parent_path(const std::string& path);

}  // namespace skiff
