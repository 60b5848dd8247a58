#include "plan/pack_cache.h"

#include <fcntl.h>
#include <malloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/hash.h"
#include "plan/mask_choice.h"
#include "plan/pack_file_writer.h"
#include "plan/packing_fingerprint.h"

namespace skiff {
namespace {

constexpr std::string_view suffix = ".pack";

// The choice of a layout depends on these tables.
std::uint64_t hash_of_tables() {
    std::string text;
    for (const Layout* layout : layout_table()) text += std::string(layout->name) + " " + std::to_string(layout->version) + "\n";
    for (const LinearKernel& kernel : linear_kernels()) text += std::string(kernel.name) + " " + std::string(kernel.layout) + "\n";
    for (const MaskMeasurement& row : mask_measurements())
        text += std::string(isa_name(row.isa)) + " " + std::to_string(row.bits) + " " + std::to_string(row.rows) + " " + std::to_string(row.most_kept) + " " + std::to_string(row.speed) + "\n";
    return hash64(std::as_bytes(std::span(text)));
}

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? std::string() : std::string(value);
}

bool has_suffix(const std::string& name, std::string_view end) {
    return name.size() > end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}

// Removes the least recently used files until the rest fits, never `keep`.
void trim(const std::string& folder, std::uint64_t max_bytes, const std::string& keep) {
    std::uint64_t total = 0;
    for (const PackCacheEntry& entry : list_pack_cache(folder)) {
        total += entry.size_bytes;
        if (total > max_bytes && entry.path != keep) {
            ::unlink(entry.path.c_str());
            total -= entry.size_bytes;
        }
    }
}

}  // namespace

std::string default_pack_cache_folder() {
    if (const std::string folder = environment("SKIFF_CACHE_DIR"); !folder.empty()) return join_path(folder, "packed");
    if (const std::string folder = environment("XDG_CACHE_HOME"); !folder.empty()) return join_path(folder, "skiff/packed");
    if (const std::string folder = environment("HOME"); !folder.empty()) return join_path(folder, ".cache/skiff/packed");
    return {};
}

PackCacheOptions default_pack_cache() {
    PackCacheOptions options;
    options.folder = default_pack_cache_folder();
    const std::string limit = environment("SKIFF_CACHE_MAX_GB");
    char* end = nullptr;
    const double gigabytes = std::strtod(limit.c_str(), &end);
    if (!limit.empty() && *end == '\0' && gigabytes >= 0 && gigabytes < 1e6) options.max_bytes = static_cast<std::uint64_t>(gigabytes * 1e9);
    return options;
}

std::vector<PackCacheEntry> list_pack_cache(const std::string& folder) {
    std::vector<PackCacheEntry> entries;
    std::error_code error;
    for (std::filesystem::directory_iterator place(folder, error), end; !error && place != end; place.increment(error)) {
        struct stat info {};
        const std::string path = place->path().string();
        if (!has_suffix(path, suffix) || ::lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
        entries.push_back({path, static_cast<std::uint64_t>(info.st_size), static_cast<std::int64_t>(info.st_mtim.tv_sec) * 1'000'000'000 + info.st_mtim.tv_nsec});
    }
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.used_ns > b.used_ns || (a.used_ns == b.used_ns && a.path < b.path); });
    return entries;
}

Status clear_pack_cache(const std::string& folder) {
    for (const PackCacheEntry& entry : list_pack_cache(folder))
        if (::unlink(entry.path.c_str()) != 0 && file_exists(entry.path)) return runtime_error(entry.path + ": cannot remove");
    remove_dead_pack_files(folder);
    return {};
}

PackCache::PackCache(const PackCacheOptions& options, const Use& use) : options_(options), use_(use) {
    if (options_.folder.empty() || use_.source.empty()) return;
    outcome_ = Outcome::none;
    source_ = "skiff " SKIFF_VERSION " " + std::string(isa_name(use_.isa)) + (use_.kernels == KernelChoice::reference ? " reference" : "") + " tables " +
              hex64(hash_of_tables()) + " weights " + use_.source;
    path_ = join_path(options_.folder, hex64(hash64(std::as_bytes(std::span(source_)))) + std::string(suffix));
    read();
}

void PackCache::read() {
    auto refuse = [&](const std::string& why) {
        note_ = path_ + ": " + why + "; packed again";
        file_ = nullptr;
        records_.clear();
    };
    if (!file_exists(path_)) return;
    auto opened = MappedFile::open(path_);
    if (!opened.ok()) return refuse(opened.error().message);
    file_ = *opened;
    if (file_->stamp().owner != ::geteuid() && file_->stamp().owner != 0) return refuse("belongs to another user");
    auto index = parse_pack_file(file_->bytes());
    if (!index.ok()) return refuse(index.error().message);
    if (index->source != source_) return refuse("holds another model");
    file_->advise_huge_pages();
    ThreadPool pool(use_.n_threads);
    if (Status status = verify_blocks(file_->bytes(), *index, pool); !status.ok()) return refuse(status.error().message);
    for (PackRecord& record : index->records) {
        std::string key = record.key;
        records_.emplace(std::move(key), std::move(record));
    }
    ::utimensat(AT_FDCWD, path_.c_str(), nullptr, 0);  // used now
}

std::uint64_t PackCache::fingerprint(const PackedWeight& weight) {
    const std::string kind = std::string(weight.layout->name) + " " + weight.scheme.name() + " " + std::to_string(static_cast<int>(weight.scheme.scale_dtype)) + " " +
                             std::to_string(static_cast<int>(weight.dtype)) + " " + std::to_string(static_cast<int>(weight.block_type)) + " " + std::to_string(static_cast<int>(weight.tiles)) + " " + std::to_string(weight.mask_rows);
    if (auto found = fingerprints_.find(kind); found != fingerprints_.end()) return found->second;
    return fingerprints_[kind] = packing_fingerprint(weight);
}

bool PackCache::trusted(const PackRecord& record) {
    const PackedWeight& weight = record.weight;
    return record.layout_version == static_cast<std::uint32_t>(weight.layout->version) &&
           choose_linear_kernel(weight.layout->name, use_.isa, 1, use_.kernels) != nullptr && record.fingerprint == fingerprint(weight);
}

std::shared_ptr<PackedWeight> PackCache::find(const std::string& key, std::int64_t n_rows, std::int64_t n_columns) {
    const auto found = records_.find(key);
    if (found == records_.end() || found->second.form == PackRecord::Form::as_stored) return nullptr;
    const PackRecord& record = found->second;
    if (record.weight.n_rows != n_rows || record.weight.n_columns != n_columns || !trusted(record)) return nullptr;
    auto weight = std::make_shared<PackedWeight>();
    copy_packed_fields(record.weight, *weight);
    for (std::size_t i = 0; i < n_pack_sections; ++i)
        if (record.sizes.*pack_sections[i].size > 0) (*weight).*pack_sections[i].pointer = file_->bytes().data() + record.offsets[i];
    weight->owner = file_;
    if (weight->layout->intact != nullptr && !weight->layout->intact(*weight, record.sizes)) return nullptr;
    entries_.push_back({key, PackRecord::Form::packed, weight});
    return weight;
}

void PackCache::add(const std::string& key, const std::shared_ptr<PackedWeight>& weight, PackRecord::Form form) {
    if (outcome_ == Outcome::off) return;
    if (weight->layout->sections == nullptr) form = PackRecord::Form::as_stored;
    const auto known = records_.find(key);
    complete_ = complete_ && known != records_.end() && known->second.form == PackRecord::Form::as_stored && form == PackRecord::Form::as_stored;
    entries_.push_back({key, form, weight});
}

void PackCache::finish() {
    if (outcome_ == Outcome::off) return;
    if (complete_ && file_ != nullptr) {
        outcome_ = Outcome::hit;
        return;
    }
    const Status status = write();
    if (!status.ok()) note_ = "packed weights could not be kept: " + status.error().message;
}

Status PackCache::write() {
    PackIndex index;
    index.source = source_;
    std::uint64_t total = 0;
    for (const Entry& entry : entries_) {
        PackRecord& record = index.records.emplace_back();
        record.key = entry.key;
        record.form = entry.form;
        if (entry.form == PackRecord::Form::as_stored) continue;
        const PackedWeight& weight = *entry.weight;
        record.layout_version = static_cast<std::uint32_t>(weight.layout->version);
        record.fingerprint = fingerprint(weight);
        copy_packed_fields(weight, record.weight);
        for (const PackSection& section : pack_sections) record.weight.*section.pointer = weight.*section.pointer;
        const auto sizes = weight.layout->sections(weight);
        if (!sizes) return runtime_error("layout " + std::string(weight.layout->name) + " does not know its own weight " + entry.key);
        record.sizes = *sizes;
        total += sizes->total();
    }
    if (total < options_.min_bytes) return {};
    if (total > options_.max_bytes) return resource_error("they are larger than the cache may be");
    SKIFF_CHECK(make_directories(options_.folder));
    remove_dead_pack_files(options_.folder);
    place_sections(index);
    ThreadPool pool(use_.n_threads);
    SKIFF_TRY(file_, write_pack_file(path_, index, pool));
    outcome_ = Outcome::written;
    trim(options_.folder, options_.max_bytes, path_);

    // The pages are in memory already, as the file's; the copies may go.
    file_->advise_huge_pages();
    for (std::size_t r = 0; r < index.records.size(); ++r) {
        const PackRecord& record = index.records[r];
        if (record.form == PackRecord::Form::as_stored) continue;
        PackedWeight& weight = *entries_[r].weight;
        for (std::size_t i = 0; i < n_pack_sections; ++i)
            if (record.sizes.*pack_sections[i].size > 0) weight.*pack_sections[i].pointer = file_->bytes().data() + record.offsets[i];
        weight.owner = file_;
        weight.buffer = AlignedBuffer();
    }
    ::malloc_trim(0);
    return {};
}

}  // namespace skiff
