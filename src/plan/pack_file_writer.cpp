#include "plan/pack_file_writer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/checked.h"
#include "base/hash.h"
#include "base/progress.h"
#include "base/span_reader.h"

namespace skiff {
namespace {

constexpr std::string_view temporary_mark = ".pack.tmp";
constexpr std::uint64_t spared_disk_bytes = std::uint64_t{1} << 30;  // a cache must not fill the disk

struct Piece {
    std::uint64_t offset, size;
    const std::byte* source;
};

// The file under its temporary name. A lock on it says that its writer lives; it goes with the process.
class TemporaryFile {
public:
    explicit TemporaryFile(const std::string& path) {
        static std::atomic<unsigned> counter{0};
        path_ = path + ".tmp" + std::to_string(::getpid()) + "." + std::to_string(counter.fetch_add(1));
        fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd_ >= 0) ::flock(fd_, LOCK_EX | LOCK_NB);
    }
    ~TemporaryFile() {
        if (fd_ < 0) return;
        if (!kept_) ::unlink(path_.c_str());
        ::close(fd_);
    }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    int fd() const { return fd_; }
    const std::string& path() const { return path_; }
    bool rename(const std::string& target) { return kept_ = ::rename(path_.c_str(), target.c_str()) == 0; }

private:
    std::string path_;
    int fd_ = -1;
    bool kept_ = false;
};

Error system_error(const std::string& path, const char* action, int reason) {
    const std::string text = path + ": " + action + ": " + std::strerror(reason);
    return reason == ENOSPC || reason == EDQUOT || reason == EFBIG ? resource_error(text) : runtime_error(text);
}

int write_all(int fd, std::uint64_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n < 0 ? errno : EIO;
        bytes = bytes.subspan(static_cast<std::size_t>(n));
        offset += static_cast<std::uint64_t>(n);
    }
    return 0;
}

std::vector<Piece> pieces_of(const PackIndex& index) {
    std::vector<Piece> pieces;
    for (const PackRecord& record : index.records)
        for (std::size_t i = 0; i < n_pack_sections; ++i)
            if (const std::uint64_t size = record.sizes.*pack_sections[i].size; size > 0)
                pieces.push_back({record.offsets[i], size, record.weight.*pack_sections[i].pointer});
    return pieces;  // in order of their offsets, as place_sections made them
}

void fill_block(std::span<const Piece> pieces, std::uint64_t begin, std::span<std::byte> block) {
    std::fill(block.begin(), block.end(), std::byte{0});
    const std::uint64_t end = begin + block.size();
    auto piece = std::partition_point(pieces.begin(), pieces.end(), [&](const Piece& p) { return p.offset + p.size <= begin; });
    for (; piece != pieces.end() && piece->offset < end; ++piece) {
        const std::uint64_t from = std::max(begin, piece->offset), to = std::min(end, piece->offset + piece->size);
        std::memcpy(block.data() + (from - begin), piece->source + (from - piece->offset), static_cast<std::size_t>(to - from));
    }
}

}  // namespace

Result<std::shared_ptr<const MappedFile>> write_pack_file(const std::string& path, PackIndex& index, ThreadPool& pool) {
    const std::string folder = parent_path(path);
    SKIFF_TRY(auto free_bytes, free_disk_bytes(folder));
    if (free_bytes < index.data_bytes + spared_disk_bytes)
        return resource_error(folder + ": " + std::to_string(free_bytes >> 20) + " MiB are free, " + std::to_string((index.data_bytes + spared_disk_bytes) >> 20) + " are needed");
    TemporaryFile file(path);
    if (file.fd() < 0) return system_error(file.path(), "cannot create", errno);
    const int no_room = ::posix_fallocate(file.fd(), 0, static_cast<off_t>(index.data_bytes));
    if (no_room == ENOSPC || no_room == EFBIG) return system_error(file.path(), "cannot write", no_room);

    const std::vector<Piece> pieces = pieces_of(index);
    const std::vector<std::byte> head = pack_file_head();
    index.block_hashes.assign(static_cast<std::size_t>(ceil_div(index.data_bytes, pack_block_bytes)), 0);
    std::atomic<std::size_t> next{0};
    std::atomic<int> failure{0};
    pool.run([&](int) {
        AlignedBuffer buffer(pack_block_bytes);
        for (std::size_t block = next.fetch_add(1); block < index.block_hashes.size() && failure.load() == 0; block = next.fetch_add(1)) {
            const std::uint64_t begin = block * pack_block_bytes;
            const std::span<std::byte> bytes(buffer.data(), static_cast<std::size_t>(std::min(pack_block_bytes, index.data_bytes - begin)));
            fill_block(pieces, begin, bytes);
            if (block == 0) std::copy(head.begin(), head.end(), bytes.begin());
            index.block_hashes[block] = hash64(bytes, block);
            int reason = interrupt_requested() ? EINTR : write_all(file.fd(), begin, bytes);
            if (reason != 0) failure.store(reason);
        }
    });
    int reason = failure.load();
    if (reason == 0) reason = write_all(file.fd(), index.data_bytes, pack_index_bytes(index));
    if (reason != 0) return system_error(file.path(), "cannot write", reason);
    SKIFF_TRY(auto mapped, MappedFile::open(file.path()));
    if (!file.rename(path)) return system_error(path, "cannot rename into place", errno);
    return mapped;
}

void remove_dead_pack_files(const std::string& folder) {
    std::error_code error;
    for (std::filesystem::directory_iterator place(folder, error), end; !error && place != end; place.increment(error)) {
        const std::string path = place->path().string();
        if (base_name(path).find(temporary_mark) == std::string::npos) continue;
        const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0) continue;
        if (::flock(fd, LOCK_EX | LOCK_NB) == 0) ::unlink(path.c_str());
        ::close(fd);
    }
}

}  // namespace skiff
