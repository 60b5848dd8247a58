#include "formats/staged_checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace skiff {

struct StagedCheckpoint::File {
    int fd = -1;
    std::string path, name;
    std::uint64_t data_begin = 0;
    bool dirty = false;

    File() = default;
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    ~File() {
        if (fd >= 0) ::close(fd);
    }
    Error error(const char* action) const {
        const int code = errno;
        const std::string text = path + ": " + action + ": " + std::strerror(code);
        if (code == ENOSPC || code == EDQUOT || code == EFBIG) return resource_error(text + "; free some disk space and run the same command again");
        return runtime_error(text);
    }
    Status write_at(std::uint64_t offset_bytes, std::span<const std::byte> bytes) {
        for (std::size_t done = 0; done < bytes.size();) {
            const ssize_t n = ::pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset_bytes + done));
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) return error("cannot write");
            done += static_cast<std::size_t>(n);
        }
        dirty = true;
        return {};
    }
    // So that a full disk shows now and not after hours.
    Status take_space(std::uint64_t size_bytes) {
        if (::fallocate(fd, 0, 0, static_cast<off_t>(size_bytes)) == 0) return {};
        if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR) return error("cannot take disk space");
        if (::ftruncate(fd, static_cast<off_t>(size_bytes)) != 0) return error("cannot take disk space");
        return {};
    }
    Status begin(const SafetensorsHead& head) {
        fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (fd < 0) return error("cannot create");
        SKIFF_CHECK(take_space(head.file_size_bytes()));
        return write_at(0, head.bytes);
    }
    Status reopen(const SafetensorsHead& head) {
        fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
        if (fd < 0) return error("cannot open the file of an unfinished run");
        struct stat info {};
        if (::fstat(fd, &info) != 0) return error("cannot read the size");
        std::vector<std::byte> found(head.bytes.size());
        const bool same = static_cast<std::uint64_t>(info.st_size) == head.file_size_bytes() &&
                          ::pread(fd, found.data(), found.size(), 0) == static_cast<ssize_t>(found.size()) && found == head.bytes;
        if (!same) return corrupt(path + ": is not as the unfinished run left it; add --restart to begin anew");
        return {};
    }
};

Result<StagedCheckpoint> StagedCheckpoint::open(const std::string& folder, const std::vector<ShardDeclaration>& shards, Start start) {
    StagedCheckpoint staged(folder);
    for (const auto& shard : shards) {
        auto file = std::make_shared<File>();
        file->name = shard.file_name;
        file->path = join_path(folder, shard.file_name);
        SKIFF_TRY(const auto head, safetensors_head(file->path, shard.tensors));
        file->data_begin = head.bytes.size();
        SKIFF_CHECK(start == Start::fresh ? file->begin(head) : file->reopen(head));
        for (const auto& entry : head.entries)
            if (!staged.places_.emplace(entry.name, Place{staged.files_.size(), entry}).second)
                return usage_error(folder + ": tensor \"" + entry.name + "\" is declared twice");
        staged.files_.push_back(std::move(file));
    }
    return staged;
}

Status StagedCheckpoint::write(std::string_view name, std::span<const std::byte> bytes) {
    auto place = places_.find(name);
    if (place == places_.end()) return usage_error("tensor \"" + std::string(name) + "\" was not declared");
    const TensorEntry& entry = place->second.entry;
    if (bytes.size() != entry.end - entry.begin)
        return usage_error("tensor \"" + entry.name + "\" has " + std::to_string(entry.end - entry.begin) + " bytes; " + std::to_string(bytes.size()) + " were given");
    File& file = *files_[place->second.file];
    return file.write_at(file.data_begin + entry.begin, bytes);
}

Status StagedCheckpoint::sync() {
    for (const auto& file : files_) {
        if (!file->dirty) continue;
        if (::fdatasync(file->fd) != 0) return file->error("cannot sync");
        file->dirty = false;
    }
    return {};
}

Status StagedCheckpoint::finish() {
    for (const auto& file : files_) file->dirty = true;  // sizes and headers too
    SKIFF_CHECK(sync());
    if (files_.size() < 2) return {};
    std::map<std::string, std::string, std::less<>> file_of;
    std::uint64_t total_bytes = 0;
    for (const auto& [name, place] : places_) {
        file_of.emplace(name, files_[place.file]->name);
        total_bytes += place.entry.end - place.entry.begin;
    }
    return write_shard_index(folder_, file_of, total_bytes);
}

}  // namespace skiff
