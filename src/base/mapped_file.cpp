#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/memory_pages.h"

namespace skiff {
namespace {

Error open_error(const std::string& path) {
    std::string reason = std::strerror(errno);
    if (errno == ENOENT || errno == ENOTDIR) return not_found(path + ": no such file; check the path");
    return runtime_error(path + ": cannot open: " + reason);
}

class FileDescriptor {
public:
    explicit FileDescriptor(int fd) : fd_(fd) {}
    ~FileDescriptor() {
        if (fd_ >= 0) ::close(fd_);
    }
    FileDescriptor(const FileDescriptor&) = delete;
    FileDescriptor& operator=(const FileDescriptor&) = delete;
    int get() const { return fd_; }

private:
    int fd_;
};

}  // namespace

Result<std::shared_ptr<const MappedFile>> MappedFile::open(const std::string& path) {
    FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a pipe must not make us wait
    if (file.get() < 0) return open_error(path);
    struct stat info {};
    if (::fstat(file.get(), &info) != 0) return open_error(path);
    if (!S_ISREG(info.st_mode)) return corrupt(path + ": expected a regular file, found a folder, pipe or device");
    auto size = static_cast<std::size_t>(info.st_size);
    const std::byte* data = nullptr;
    if (size > 0) {
        void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
        if (address == MAP_FAILED) return resource_error(path + ": cannot map " + std::to_string(size) + " bytes: " + std::strerror(errno));
        data = static_cast<const std::byte*>(address);
    }
    FileStamp stamp;
    stamp.size_bytes = size;
    stamp.modified_ns = static_cast<std::int64_t>(info.st_mtim.tv_sec) * 1'000'000'000 + info.st_mtim.tv_nsec;
    stamp.inode = static_cast<std::uint64_t>(info.st_ino);
    stamp.owner = info.st_uid;
    return std::shared_ptr<const MappedFile>(new MappedFile(path, data, stamp));
}

MappedFile::~MappedFile() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_bytes_);
}

void MappedFile::advise_sequential() const {
    if (data_ != nullptr) ::madvise(const_cast<std::byte*>(data_), size_bytes_, MADV_SEQUENTIAL);
}

void MappedFile::advise_huge_pages() const {
    if (data_ != nullptr) ::madvise(const_cast<std::byte*>(data_), size_bytes_, MADV_HUGEPAGE);
}

void MappedFile::drop(std::size_t offset_bytes, std::size_t size_bytes) const {
    if (offset_bytes <= size_bytes_ && size_bytes <= size_bytes_ - offset_bytes) give_back_pages(bytes().subspan(offset_bytes, size_bytes));
}

Result<std::string> read_text_file(const std::string& path, std::size_t max_bytes) {
    FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.get() < 0) return open_error(path);
    struct stat info {};
    if (::fstat(file.get(), &info) != 0) return open_error(path);
    if (S_ISDIR(info.st_mode)) return runtime_error(path + ": is a folder, expected a file");
    std::string text;
    char buffer[65536];
    for (;;) {
        ssize_t n = ::read(file.get(), buffer, sizeof buffer);
        if (n < 0) {
            if (errno == EINTR) continue;
            return runtime_error(path + ": cannot read: " + std::strerror(errno));
        }
        if (n == 0) return text;
        if (text.size() + static_cast<std::size_t>(n) > max_bytes)
            return resource_error(path + ": larger than the limit of " + std::to_string(max_bytes) + " bytes");
        text.append(buffer, static_cast<std::size_t>(n));
    }
}

bool file_exists(const std::string& path) {
    struct stat info {};
    return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

bool is_directory(const std::string& path) {
    struct stat info {};
    return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

Result<std::uint64_t> file_size_bytes(const std::string& path) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) return open_error(path);
    return static_cast<std::uint64_t>(info.st_size);
}

std::string join_path(const std::string& folder, const std::string& name) {
    if (folder.empty() || folder.back() == '/') return folder + name;
    return folder + "/" + name;
}

std::string base_name(const std::string& path) {
    std::string trimmed = path;
    while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.pop_back();
    auto slash = trimmed.rfind('/');
    return slash == std::string::npos ? trimmed : trimmed.substr(slash + 1);
}

std::string parent_path(const std::string& path) {
    std::string trimmed = path;
    while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.pop_back();
    auto slash = trimmed.rfind('/');
    if (slash == std::string::npos) return ".";
    return slash == 0 ? "/" : trimmed.substr(0, slash);
}

}  // namespace skiff
