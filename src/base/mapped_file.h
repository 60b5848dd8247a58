// Read-only access to a whole regular file, by mmap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace skiff {

// What tells a file from an earlier one of the same name, without reading it.
struct FileStamp {
    std::uint64_t size_bytes = 0;
    std::int64_t modified_ns = 0;
    std::uint64_t inode = 0;
    std::uint32_t owner = 0;  // user id
};

class MappedFile {
public:
    // Maps `path` read-only and private. Refuses folders, pipes and devices. An empty file gives an empty span.
    static Result<std::shared_ptr<const MappedFile>> open(const std::string& path);

    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    ~MappedFile();

    std::span<const std::byte> bytes() const { return {data_, size_bytes_}; }
    const std::string& path() const { return path_; }
    const FileStamp& stamp() const { return stamp_; }  // when it was opened
    // Tells the kernel that this part will be read once from front to back / is no longer needed.
    void advise_sequential() const;
    void advise_huge_pages() const;
    void drop(std::size_t offset_bytes, std::size_t size_bytes) const;

private:
    MappedFile(std::string path, const std::byte* data, const FileStamp& stamp)
        : path_(std::move(path)), stamp_(stamp), data_(data), size_bytes_(static_cast<std::size_t>(stamp.size_bytes)) {}
    std::string path_;
    FileStamp stamp_;
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
