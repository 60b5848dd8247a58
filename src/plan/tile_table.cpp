#include "plan/tile_table.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "base/atomic_file.h"
#include "base/json.h"
#include "base/mapped_file.h"

namespace skiff {
namespace {

constexpr std::int64_t file_version = 1;
constexpr std::size_t max_entries = 4096;
constexpr std::int64_t largest_tile = std::int64_t{1} << 20;

// Held while a file is read, changed and renamed: the second of two writers keeps what the first one found.
class WriterLock {
public:
    explicit WriterLock(const std::string& path) : fd_(::open((path + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
        while (fd_ >= 0 && ::flock(fd_, LOCK_EX) != 0) {
            if (errno == EINTR) continue;
            const int why = errno;
            ::close(fd_);
            fd_ = -1;
            errno = why;
        }
    }
    ~WriterLock() {
        if (fd_ >= 0) ::close(fd_);
    }
    WriterLock(const WriterLock&) = delete;
    WriterLock& operator=(const WriterLock&) = delete;
    bool held() const { return fd_ >= 0; }

private:
    int fd_;
};

bool sound(const LinearTiles& tiles) {
    const auto in_range = [](std::int64_t value) { return value >= 0 && value <= largest_tile; };
    return in_range(tiles.tokens) && in_range(tiles.rows) && in_range(tiles.columns) && tiles.columns % 32 == 0;
}

std::string folder_of_cache() {
    const auto environment = [](const char* name) {
        const char* value = std::getenv(name);
        return value == nullptr ? std::string() : std::string(value);
    };
    if (const std::string folder = environment("SKIFF_CACHE_DIR"); !folder.empty()) return folder;
    if (const std::string folder = environment("XDG_CACHE_HOME"); !folder.empty()) return join_path(folder, "skiff");
    if (const std::string folder = environment("HOME"); !folder.empty()) return join_path(folder, ".cache/skiff");
    return {};
}

}  // namespace

std::string tile_machine() {
    const CpuInfo cpu = read_cpu_info();
    const auto kib = [](std::size_t bytes) { return std::to_string(bytes >> 10) + " KiB"; };
    return cpu.model_name + ", caches " + kib(cpu.l1d_bytes) + ", " + kib(cpu.l2_bytes) + ", " + kib(cpu.l3_bytes);
}

std::string TileTable::default_path() {
    const std::string folder = folder_of_cache();
    return folder.empty() ? folder : join_path(folder, "tiles.json");
}

const TileEntry* TileTable::find(const TileKey& key) const {
    const auto found = entries_.find(key);
    return found == entries_.end() ? nullptr : &found->second;
}

std::string TileTable::text() const {
    std::string lines;
    for (const auto& [key, entry] : entries_) {
        const Json line = Json::object({{"kernel", key.kernel}, {"rows", key.rows}, {"columns", key.columns}, {"tokens", key.tokens}, {"threads", key.threads},
                                        {"tokens_at_once", entry.tiles.tokens}, {"rows_at_once", entry.tiles.rows}, {"columns_at_once", entry.tiles.columns},
                                        {"gain", std::round(entry.gain * 1000) / 1000}});
        lines += (lines.empty() ? "\n  " : ",\n  ") + line.dump();
    }
    return "{\n \"format\": \"skiff tiles\",\n \"version\": " + std::to_string(file_version) + ",\n \"program\": " + Json(SKIFF_VERSION).dump() +
           ",\n \"machine\": " + Json(tile_machine()).dump() + ",\n \"tiles\": [" + lines + "\n ]\n}\n";
}

TileTable TileTable::read(const std::string& path) {
    TileTable table;
    if (path.empty() || !file_exists(path)) return table;
    const auto refuse = [&](const std::string& why) {
        TileTable nothing;
        nothing.note_ = path + ": " + why + "; not used. `skiff bench MODEL --tune` measures again";
        return nothing;
    };
    JsonLimits limits;
    limits.max_bytes = std::size_t{4} << 20;
    auto parsed = read_json_file(path, limits);
    if (!parsed.ok()) return refuse(parsed.error().message);
    const Json& file = *parsed;
    if (file["format"].text() != "skiff tiles" || file["version"].int_or(0) != file_version) return refuse("no tiles of version " + std::to_string(file_version));
    if (file["program"].text() != SKIFF_VERSION) return refuse("measured with another version of the program");
    if (file["machine"].text() != tile_machine()) return refuse("measured on another machine");
    if (!file["tiles"].is_array()) return refuse("it lists no tiles");
    if (file["tiles"].size() > max_entries) return refuse("it lists more than " + std::to_string(max_entries) + " tiles");
    for (const Json& line : file["tiles"].items()) {
        const TileKey key = {line["kernel"].text(), line["rows"].int_or(-1), line["columns"].int_or(-1), line["tokens"].int_or(-1), static_cast<int>(line["threads"].int_or(-1))};
        const TileEntry entry = {{line["tokens_at_once"].int_or(-1), line["rows_at_once"].int_or(-1), line["columns_at_once"].int_or(-1)}, line["gain"].number_or(1)};
        if (key.kernel.empty() || key.rows < 1 || key.columns < 1 || key.tokens < 1 || key.threads < 1 || !sound(entry.tiles)) return refuse("an entry is none: " + line.dump().substr(0, 200));
        table.entries_[key] = entry;
    }
    return table;
}

Status TileTable::write(const std::string& path) const {
    SKIFF_CHECK(make_directories(parent_path(path)));
    const WriterLock lock(path);
    if (!lock.held()) return runtime_error(path + ".lock: cannot be locked: " + std::strerror(errno));
    if (entries_.size() > max_entries) return runtime_error(path + ": " + std::to_string(entries_.size()) + " tiles are more than the file may list");
    TileTable all = read(path);
    if (all.entries_.size() + entries_.size() > max_entries) all.entries_.clear();  // what is found last counts
    for (const auto& [key, entry] : entries_) all.entries_[key] = entry;
    return write_file_atomic(path, all.text());
}

}  // namespace skiff
