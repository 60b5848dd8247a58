#include "compress/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/hash.h"
#include "base/mapped_file.h"

namespace skiff {
namespace {

constexpr std::size_t max_journal_bytes = std::size_t{256} << 20;
constexpr std::size_t hash_digits = 16;

std::string hash_of(std::string_view text) { return hex64(hash64(std::as_bytes(std::span(text)))); }

Error io_error(const std::string& path, const char* action) {
    const int code = errno;
    const std::string text = path + ": " + action + ": " + std::strerror(code);
    return code == ENOSPC || code == EDQUOT || code == EFBIG ? resource_error(text + "; free some disk space and run the same command again") : runtime_error(text);
}

}  // namespace

std::string journal_line(const Json& entry) {
    const std::string text = entry.dump();
    return hash_of(text) + " " + text + "\n";
}

std::optional<Json> parse_journal_line(std::string_view line) {
    if (line.size() < hash_digits + 2 || line[hash_digits] != ' ') return std::nullopt;
    const std::string_view text = line.substr(hash_digits + 1);
    if (hash_of(text) != line.substr(0, hash_digits)) return std::nullopt;
    auto entry = Json::parse(text);
    if (!entry.ok()) return std::nullopt;
    return std::move(*entry);
}

Result<Journal> Journal::open(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) return io_error(path, "cannot open the journal");
    Journal journal(fd, path);
    SKIFF_CHECK(journal.read());
    return journal;
}

Journal::Journal(Journal&& other) noexcept : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)), entries_(std::move(other.entries_)) {}

Journal::~Journal() {
    if (fd_ >= 0) ::close(fd_);
}

Status Journal::read() {
    SKIFF_TRY(const auto text, read_text_file(path_, max_journal_bytes));
    std::size_t good_bytes = 0;
    while (good_bytes < text.size()) {
        const std::size_t end = text.find('\n', good_bytes);
        if (end == std::string::npos) break;
        auto entry = parse_journal_line(std::string_view(text).substr(good_bytes, end - good_bytes));
        if (!entry) break;
        entries_.push_back(std::move(*entry));
        good_bytes = end + 1;
    }
    if (good_bytes < text.size() && ::ftruncate(fd_, static_cast<off_t>(good_bytes)) != 0) return io_error(path_, "cannot cut off a torn line");
    return {};
}

Status Journal::append(const Json& entry) {
    const std::string line = journal_line(entry);
    for (std::size_t done = 0; done < line.size();) {
        const ssize_t n = ::write(fd_, line.data() + done, line.size() - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return io_error(path_, "cannot write the journal");
        done += static_cast<std::size_t>(n);
    }
    if (::fdatasync(fd_) != 0) return io_error(path_, "cannot sync the journal");
    entries_.push_back(entry);
    return {};
}

Status Journal::clear() {
    if (::ftruncate(fd_, 0) != 0) return io_error(path_, "cannot clear the journal");
    entries_.clear();
    return {};
}

}  // namespace skiff
