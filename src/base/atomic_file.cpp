#include "base/atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/mapped_file.h"

namespace skiff {
namespace {

Error io_error(const std::string& path, const char* action) {
    std::string reason = std::strerror(errno);
    if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)
        return resource_error(path + ": " + action + ": " + reason + "; free some disk space and run the same command again");
    return runtime_error(path + ": " + action + ": " + reason);
}

Status sync_directory(const std::string& path) {
    int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return io_error(path, "cannot open folder");
    int rc = ::fsync(fd);
    ::close(fd);
    if (rc != 0 && errno != EINVAL) return io_error(path, "cannot sync folder");
    return {};
}

}  // namespace

Result<AtomicFile> AtomicFile::create(const std::string& path) {
    std::string temporary = path + ".tmp" + std::to_string(::getpid());
    int fd = ::open(temporary.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return io_error(temporary, "cannot create");
    return AtomicFile(fd, path, temporary);
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)), temporary_(std::move(other.temporary_)), size_bytes_(other.size_bytes_) {}

AtomicFile::~AtomicFile() {
    if (fd_ < 0) return;
    ::close(fd_);
    ::unlink(temporary_.c_str());
}

Status AtomicFile::write_at(std::uint64_t offset_bytes, std::span<const std::byte> bytes) {
    std::size_t done = 0;
    while (done < bytes.size()) {
        ssize_t n = ::pwrite(fd_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset_bytes + done));
        if (n < 0) {
            if (errno == EINTR) continue;
            return io_error(path_, "cannot write");
        }
        done += static_cast<std::size_t>(n);
    }
    return {};
}

Status AtomicFile::write(std::span<const std::byte> bytes) {
    SKIFF_CHECK(write_at(size_bytes_, bytes));
    size_bytes_ += bytes.size();
    return {};
}

Status AtomicFile::write(std::string_view text) { return write(std::as_bytes(std::span(text.data(), text.size()))); }

Status AtomicFile::pad_to(std::uint64_t alignment_bytes) {
    static constexpr std::byte zeros[256] = {};
    while (size_bytes_ % alignment_bytes != 0) {
        std::uint64_t missing = alignment_bytes - size_bytes_ % alignment_bytes;
        SKIFF_CHECK(write(std::span(zeros, static_cast<std::size_t>(std::min<std::uint64_t>(missing, sizeof zeros)))));
    }
    return {};
}

Status AtomicFile::commit() {
    if (::fsync(fd_) != 0) return io_error(path_, "cannot sync");
    if (::close(std::exchange(fd_, -1)) != 0) return io_error(path_, "cannot close");
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
        Error error = io_error(path_, "cannot rename into place");
        ::unlink(temporary_.c_str());
        return error;
    }
    return sync_directory(parent_path(path_));
}

Status write_file_atomic(const std::string& path, std::string_view text) {
    SKIFF_TRY(auto file, AtomicFile::create(path));
    SKIFF_CHECK(file.write(text));
    return file.commit();
}

namespace {

// Held until the last copy of the result is gone, or the process.
Result<std::shared_ptr<const void>> lock_directory(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return io_error(path, "cannot open");
    std::shared_ptr<const void> lock(nullptr, [fd](const void*) { ::close(fd); });
    // Some network file systems know no locks; there nothing is refused.
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return resource_error(path + ": another process is working there; wait until it is done, or give another -o");
    return lock;
}

}  // namespace

Result<AtomicDirectory> AtomicDirectory::create(const std::string& path, IfExists if_exists) {
    AtomicDirectory directory;
    directory.path_ = path;
    while (directory.path_.size() > 1 && directory.path_.back() == '/') directory.path_.pop_back();
    directory.working_path_ = directory.path_ + ".partial";
    directory.if_exists_ = if_exists;
    std::error_code ignored;
    if (std::filesystem::exists(directory.path_, ignored) && if_exists == IfExists::refuse)
        return usage_error(path + ": already exists; give another -o, remove it, or add --force");
    directory.resumed_ = is_directory(directory.working_path_);
    SKIFF_CHECK(make_directories(directory.working_path_));
    SKIFF_TRY(directory.lock_, lock_directory(directory.working_path_));
    return directory;
}

Status AtomicDirectory::commit() {
    SKIFF_CHECK(sync_directory(working_path_));
    std::error_code ignored;
    std::string old = path_ + ".old";
    bool had_old = std::filesystem::exists(path_, ignored);
    if (had_old) {
        if (if_exists_ == IfExists::refuse) return usage_error(path_ + ": appeared while working; the result is in " + working_path_);
        SKIFF_CHECK(remove_all(old));
        if (::rename(path_.c_str(), old.c_str()) != 0) return io_error(path_, "cannot move the old folder aside");
    }
    if (::rename(working_path_.c_str(), path_.c_str()) != 0) return io_error(path_, "cannot rename into place");
    SKIFF_CHECK(sync_directory(parent_path(path_)));
    if (had_old) return remove_all(old);
    return {};
}

Status AtomicDirectory::discard() { return remove_all(working_path_); }

Status make_directories(const std::string& path) {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) return runtime_error(path + ": cannot create folder: " + error.message());
    return {};
}

Status remove_all(const std::string& path) {
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error) return runtime_error(path + ": cannot remove: " + error.message());
    return {};
}

Result<std::uint64_t> free_disk_bytes(const std::string& path) {
    struct statvfs info {};
    std::string folder = path;
    while (::statvfs(folder.c_str(), &info) != 0) {
        if (folder == "." || folder == "/") return io_error(path, "cannot read free disk space");
        folder = parent_path(folder);
    }
    return static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
}

}  // namespace skiff
