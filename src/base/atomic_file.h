// Durable output: a file or folder appears complete under its name, or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace skiff {

// Writes to a temporary beside `path`; commit() = fsync, rename, fsync of the folder. Destroyed uncommitted: the temporary is removed.
class AtomicFile {
public:
    static Result<AtomicFile> create(const std::string& path);
    AtomicFile(AtomicFile&& other) noexcept;
    AtomicFile& operator=(AtomicFile&&) = delete;
    ~AtomicFile();

    Status write(std::span<const std::byte> bytes);
    Status write(std::string_view text);
    Status write_at(std::uint64_t offset_bytes, std::span<const std::byte> bytes);  // does not move the write position
    Status pad_to(std::uint64_t alignment_bytes);                                   // zeros up to the next multiple
    std::uint64_t size_bytes() const { return size_bytes_; }
    Status commit();

private:
    AtomicFile(int fd, std::string path, std::string temporary) : fd_(fd), path_(std::move(path)), temporary_(std::move(temporary)) {}
    int fd_ = -1;
    std::string path_;
    std::string temporary_;
    std::uint64_t size_bytes_ = 0;
};

Status write_file_atomic(const std::string& path, std::string_view text);

// An output folder. Work goes into `<path>.partial`, which survives a kill so that a run can resume; commit() renames it to `path`. One process at a
// time works there: another one's create() is refused until this object, or its process, is gone.
// `path` itself must not exist, unless `replace` is asked for: then the old folder is moved aside and removed after the rename.
class AtomicDirectory {
public:
    enum class IfExists { refuse, replace };
    static Result<AtomicDirectory> create(const std::string& path, IfExists if_exists);
    const std::string& working_path() const { return working_path_; }
    bool resumed() const { return resumed_; }  // the partial folder was already there
    Status commit();
    Status discard();  // removes the partial folder

private:
    std::string path_, working_path_;
    IfExists if_exists_ = IfExists::refuse;
    bool resumed_ = false;
    std::shared_ptr<const void> lock_;  // of the working folder
};

Status make_directories(const std::string& path);
Status remove_all(const std::string& path);
Result<std::uint64_t> free_disk_bytes(const std::string& path);

}  // namespace skiff
