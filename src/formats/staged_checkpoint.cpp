#include "formats/staged_checkpoint.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/atomic_file.h"
#include "base/mapped_file.h"

namespace skiff {
namespace {

constexpr const char* part_end = ".part";
constexpr DType part_types[] = {DType::f32, DType::bf16, DType::f16};

}  // namespace

struct StagedCheckpoint::File {
    int fd = -1;
    std::string path, name;
    std::uint64_t data_begin = 0;
    bool dirty = false;
    std::vector<TensorDeclaration> declared;  // in the order in which they were given
    std::map<std::size_t, DType> retyped;     // by place in `declared`: what has a file of its own
    bool anew = false;                        // laid out with the types of `retyped`

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
        if (has(head)) return {};
        if (retyped.empty()) return not_as_left();
        // The run was killed after it had laid this file out anew.
        SKIFF_TRY(const auto other, safetensors_head(path, declared_anew()));
        if (!has(other)) return not_as_left();
        anew = true;
        return {};
    }
    Error not_as_left() const { return corrupt(path + ": is not as the unfinished run left it; add --restart to begin anew"); }
    bool has(const SafetensorsHead& head) const {
        struct stat info {};
        std::vector<std::byte> found(head.bytes.size());
        return ::fstat(fd, &info) == 0 && static_cast<std::uint64_t>(info.st_size) == head.file_size_bytes() &&
               ::pread(fd, found.data(), found.size(), 0) == static_cast<ssize_t>(found.size()) && found == head.bytes;
    }
    std::vector<TensorDeclaration> declared_anew() const {
        auto declarations = declared;
        for (const auto& [at, dtype] : retyped) declarations[at].dtype = dtype;
        return declarations;
    }
};

Result<StagedCheckpoint> StagedCheckpoint::open(const std::string& folder, const std::vector<ShardDeclaration>& shards, Start start) {
    StagedCheckpoint staged(folder);
    for (const auto& shard : shards) {
        auto file = std::make_shared<File>();
        file->name = shard.file_name;
        file->path = join_path(folder, shard.file_name);
        SKIFF_TRY(auto head, safetensors_head(file->path, shard.tensors));
        file->declared = shard.tensors;
        if (start == Start::resume) file->retyped = staged.parts_of(*file, shard.tensors.size());
        SKIFF_CHECK(start == Start::fresh ? file->begin(head) : file->reopen(head));
        if (file->anew) {
            SKIFF_TRY(head, safetensors_head(file->path, file->declared_anew()));
        }
        file->data_begin = head.bytes.size();
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

std::string StagedCheckpoint::part_path(const File& file, std::size_t at, DType dtype) const {
    return join_path(folder_, file.name + "." + std::to_string(at) + "." + std::string(dtype_info(dtype).name) + part_end);
}

std::map<std::size_t, DType> StagedCheckpoint::parts_of(const File& file, std::size_t n_declared) const {
    std::map<std::size_t, DType> parts;
    for (std::size_t at = 0; at < n_declared; ++at)
        for (const DType dtype : part_types)
            if (file_exists(part_path(file, at, dtype))) parts[at] = dtype;
    return parts;
}

Status StagedCheckpoint::write_as(std::string_view name, DType dtype, std::span<const std::byte> bytes) {
    const auto place = places_.find(name);
    if (place == places_.end()) return usage_error("tensor \"" + std::string(name) + "\" was not declared");
    File& file = *files_[place->second.file];
    const auto declared = std::find_if(file.declared.begin(), file.declared.end(), [&](const TensorDeclaration& each) { return each.name == name; });
    const auto at = static_cast<std::size_t>(declared - file.declared.begin());
    if (declared->dtype == dtype && file.retyped.count(at) == 0) return write(name, bytes);
    if (std::find(std::begin(part_types), std::end(part_types), dtype) == std::end(part_types) || file.anew)
        return usage_error("tensor \"" + std::string(name) + "\" was declared as " + std::string(dtype_info(declared->dtype).name) + " and cannot become " + std::string(dtype_info(dtype).name));
    const std::size_t expected = static_cast<std::size_t>(element_count(declared->shape) * dtype_info(dtype).bits / 8);
    if (bytes.size() != expected) return usage_error("tensor \"" + std::string(name) + "\" has " + std::to_string(expected) + " bytes as " + std::string(dtype_info(dtype).name) + "; " + std::to_string(bytes.size()) + " were given");
    SKIFF_CHECK(write_file_atomic(part_path(file, at, dtype), std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size())));
    file.retyped[at] = dtype;
    return {};
}

// The same tensors in a new file beside the old one, which takes its place when it is complete.
Status StagedCheckpoint::lay_out_anew(std::size_t index) {
    File& file = *files_[index];
    SKIFF_TRY(const auto head, safetensors_head(file.path, file.declared_anew()));
    SKIFF_TRY(const auto before, MappedFile::open(file.path));
    SKIFF_TRY(auto target, AtomicFile::create(file.path));
    SKIFF_CHECK(target.write(head.bytes));
    for (const TensorEntry& entry : head.entries) {  // in the order of their bytes, without gaps
        const auto declared = std::find_if(file.declared.begin(), file.declared.end(), [&](const TensorDeclaration& each) { return each.name == entry.name; });
        const auto part = file.retyped.find(static_cast<std::size_t>(declared - file.declared.begin()));
        if (part == file.retyped.end()) {
            const TensorEntry& old = places_.at(entry.name).entry;
            SKIFF_CHECK(target.write(before->bytes().subspan(file.data_begin + old.begin, old.end - old.begin)));
        } else {
            SKIFF_TRY(const auto bytes, MappedFile::open(part_path(file, part->first, part->second)));
            if (bytes->bytes().size() != entry.end - entry.begin) return file.not_as_left();
            SKIFF_CHECK(target.write(bytes->bytes()));
        }
    }
    SKIFF_CHECK(target.commit());
    for (const TensorEntry& entry : head.entries) places_.at(entry.name).entry = entry;
    file.data_begin = head.bytes.size();
    file.anew = true;
    return {};
}

Status StagedCheckpoint::remove_parts(const std::string& folder) {
    DIR* entries = ::opendir(folder.c_str());
    if (entries == nullptr) return {};
    std::vector<std::string> names;
    while (const dirent* entry = ::readdir(entries))
        if (std::string_view(entry->d_name).ends_with(part_end)) names.emplace_back(entry->d_name);
    ::closedir(entries);
    for (const std::string& name : names) SKIFF_CHECK(remove_all(join_path(folder, name)));
    return {};
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
    for (std::size_t i = 0; i < files_.size(); ++i)
        if (!files_[i]->retyped.empty() && !files_[i]->anew) SKIFF_CHECK(lay_out_anew(i));
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
