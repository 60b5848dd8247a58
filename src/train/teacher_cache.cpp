#include "train/teacher_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <vector>

#include "tensor/dtype.h"

namespace skiff::train {
namespace {

constexpr char magic[] = "SKIFFTCH";
constexpr std::uint32_t version = 1;
constexpr std::size_t header_bytes = 4096;

Error io_error(const std::string& path, const char* what) { return runtime_error(path + ": cannot " + what + ": " + std::strerror(errno)); }

Status read_exactly(int fd, const std::string& path, std::byte* target, std::size_t n, std::uint64_t offset) {
    while (n > 0) {
        const ssize_t got = ::pread(fd, target, n, static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return io_error(path, "read");
        if (got == 0) return corrupt(path + ": ends too early");
        target += got;
        offset += static_cast<std::uint64_t>(got);
        n -= static_cast<std::size_t>(got);
    }
    return {};
}
Status write_exactly(int fd, const std::string& path, const std::byte* source, std::size_t n, std::uint64_t offset) {
    while (n > 0) {
        const ssize_t put = ::pwrite(fd, source, n, static_cast<off_t>(offset));
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return io_error(path, "write");
        source += put;
        offset += static_cast<std::uint64_t>(put);
        n -= static_cast<std::size_t>(put);
    }
    return {};
}

std::vector<std::byte> header_of(const TeacherCacheKey& key) {
    const std::string json = key.to_json().dump();
    std::vector<std::byte> header(header_bytes);
    const auto length = static_cast<std::uint32_t>(json.size());
    std::memcpy(header.data(), magic, 8);
    std::memcpy(header.data() + 8, &version, 4);
    std::memcpy(header.data() + 12, &length, 4);
    std::memcpy(header.data() + 16, json.data(), json.size());
    return header;
}

Status check_header(const std::string& path, const std::vector<std::byte>& found, const TeacherCacheKey& key) {
    std::uint32_t found_version = 0, length = 0;
    std::memcpy(&found_version, found.data() + 8, 4);
    std::memcpy(&length, found.data() + 12, 4);
    if (std::memcmp(found.data(), magic, 8) != 0 || length > header_bytes - 16) return usage_error(path + ": exists and is no file of a teacher's word; give another --teacher-cache");
    if (found_version != version) return unsupported(path + ": has version " + std::to_string(found_version) + ", this program knows " + std::to_string(version));
    SKIFF_TRY(const auto json, Json::parse(std::string_view(reinterpret_cast<const char*>(found.data()) + 16, length)));
    std::string differences;
    const Json ours = key.to_json();
    for (const auto& [name, value] : ours.members())
        if (json[name].dump() != value.dump()) differences += (differences.empty() ? "" : ", ") + name + " is " + json[name].dump() + " there and " + value.dump() + " here";
    if (!differences.empty()) return usage_error(path + ": was made for another run: " + differences + "; give another --teacher-cache");
    return {};
}

}  // namespace

Json TeacherCacheKey::to_json() const {
    return Json::object({{"teacher", teacher_hash}, {"corpus", corpus_hash}, {"tokens", n_tokens}, {"seed", seed}, {"window", window}, {"vocabulary", n_vocab}, {"top", k}, {"temperature", temperature}});
}

TeacherCache::TeacherCache(int fd, std::string path, const TeacherCacheKey& key)
    : fd_(fd), path_(std::move(path)), window_(key.window), k_(key.k), id_bytes_(key.n_vocab <= 65536 ? 2 : 4),
      record_bytes_(static_cast<std::uint64_t>(key.window * (2 * (key.k + 1) + id_bytes_ * key.k))) {}
TeacherCache::TeacherCache(TeacherCache&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)), window_(other.window_), k_(other.k_), id_bytes_(other.id_bytes_), record_bytes_(other.record_bytes_),
      n_windows_(other.n_windows_) {}
TeacherCache::~TeacherCache() {
    if (fd_ >= 0) ::close(fd_);
}

Result<TeacherCache> TeacherCache::open(const std::string& path, const TeacherCacheKey& key) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return io_error(path, "open");
    TeacherCache cache(fd, path, key);
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) return usage_error(path + ": another run works with this file; wait for it, or give another --teacher-cache");
    struct stat status {};
    if (::fstat(fd, &status) != 0) return io_error(path, "look at");
    if (!S_ISREG(status.st_mode)) return usage_error(path + ": is no regular file");
    const auto size = static_cast<std::uint64_t>(status.st_size);
    if (size == 0) {
        SKIFF_CHECK(write_exactly(fd, path, header_of(key).data(), header_bytes, 0));
        return cache;
    }
    if (size < header_bytes) return usage_error(path + ": exists and is no file of a teacher's word; give another --teacher-cache");
    std::vector<std::byte> found(header_bytes);
    SKIFF_CHECK(read_exactly(fd, path, found.data(), header_bytes, 0));
    SKIFF_CHECK(check_header(path, found, key));
    cache.n_windows_ = (size - header_bytes) / cache.record_bytes_;  // a last one that a killed run left unfinished is written again
    return cache;
}

Result<SoftTargets> TeacherCache::read(std::uint64_t first, std::int64_t n) const {
    std::vector<std::byte> bytes(static_cast<std::size_t>(record_bytes_) * static_cast<std::size_t>(n));
    SKIFF_CHECK(read_exactly(fd_, path_, bytes.data(), bytes.size(), header_bytes + first * record_bytes_));
    SoftTargets targets{{}, at::empty({n * window_, k_ + 1}, at::kFloat), at::empty({n * window_, k_}, at::kInt)};
    float* values = targets.log_probabilities.data_ptr<float>();
    std::int32_t* ids = targets.tokens.data_ptr<std::int32_t>();
    const std::byte* at = bytes.data();
    for (std::int64_t token = 0; token < n * window_; ++token, values += k_ + 1, ids += k_) {
        double sum = 0;
        for (std::int64_t j = 0; j <= k_; ++j, at += 2) {
            std::uint16_t bits;
            std::memcpy(&bits, at, 2);
            values[j] = f16_to_float(bits);
            sum += std::exp(static_cast<double>(values[j]));
        }
        if (!(sum > 0.9 && sum < 1.1)) return corrupt(path_ + ": the probabilities of token " + std::to_string(token) + " of window " + std::to_string(first) + " do not add up to one");
        const auto shift = static_cast<float>(std::log(sum));  // what rounding to 16 bits has moved
        for (std::int64_t j = 0; j <= k_; ++j) values[j] -= shift;
        for (std::int64_t j = 0; j < k_; ++j, at += id_bytes_) {
            std::uint32_t id = 0;
            std::memcpy(&id, at, static_cast<std::size_t>(id_bytes_));
            ids[j] = static_cast<std::int32_t>(id);
        }
    }
    return targets;
}

Status TeacherCache::append(const SoftTargets& targets) {
    const at::Tensor log_probabilities = targets.log_probabilities.to(at::kCPU).contiguous(), tokens = targets.tokens.to(at::kCPU).contiguous();
    const std::int64_t n_tokens = tokens.size(0);
    std::vector<std::byte> bytes(static_cast<std::size_t>(record_bytes_) * static_cast<std::size_t>(n_tokens / window_));
    std::byte* at = bytes.data();
    const float* values = log_probabilities.data_ptr<float>();
    const std::int32_t* ids = tokens.data_ptr<std::int32_t>();
    for (std::int64_t token = 0; token < n_tokens; ++token, values += k_ + 1, ids += k_) {
        for (std::int64_t j = 0; j <= k_; ++j, at += 2) {
            const std::uint16_t bits = float_to_f16(std::max(values[j], -65504.0f));
            std::memcpy(at, &bits, 2);
        }
        for (std::int64_t j = 0; j < k_; ++j, at += id_bytes_) {
            const auto id = static_cast<std::uint32_t>(ids[j]);
            std::memcpy(at, &id, static_cast<std::size_t>(id_bytes_));
        }
    }
    SKIFF_CHECK(write_exactly(fd_, path_, bytes.data(), bytes.size(), header_bytes + n_windows_ * record_bytes_));
    n_windows_ += static_cast<std::uint64_t>(n_tokens / window_);
    return {};
}

}  // namespace skiff::train
