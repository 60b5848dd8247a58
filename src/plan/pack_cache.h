// Keeps packed weights in a file, so that the next start maps them instead of packing again. Why so: docs/adr/0015-pack-cache.md.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/cpu_features.h"
#include "kernels/kernels.h"
#include "plan/pack_file.h"

namespace skiff {

struct PackCacheOptions {
    std::string folder;                                   // empty: no cache
    std::uint64_t max_bytes = std::uint64_t{32} << 30;    // of all files together; the least recently used go first
    std::uint64_t min_bytes = std::uint64_t{32} << 20;    // a model with fewer packed bytes is packed at every start
};

// The user's: the default folder, and $SKIFF_CACHE_MAX_GB where that is a number.
PackCacheOptions default_pack_cache();

// $SKIFF_CACHE_DIR/packed, else $XDG_CACHE_HOME/skiff/packed, else ~/.cache/skiff/packed; nothing where none of them is set.
std::string default_pack_cache_folder();

// What lies in a cache folder.
struct PackCacheEntry {
    std::string path;
    std::uint64_t size_bytes = 0;
    std::int64_t used_ns = 0;  // last use, by the file's time
};
std::vector<PackCacheEntry> list_pack_cache(const std::string& folder);  // most recently used first
Status clear_pack_cache(const std::string& folder);

// One model's packed weights, while a plan is made. Whatever goes wrong with the cache, weights are packed as if there were none.
class PackCache {
public:
    struct Use {
        std::string source;  // WeightSource::identity(); empty: no cache
        Isa isa = Isa::generic;
        KernelChoice kernels = KernelChoice::fastest;
        int n_threads = 1;
    };
    PackCache() = default;
    PackCache(const PackCacheOptions& options, const Use& use);

    // The weight that an earlier run packed under this key, in the mapped file.
    std::shared_ptr<PackedWeight> find(const std::string& key, std::int64_t n_rows, std::int64_t n_columns);
    // A weight that was packed just now, or (as_stored) whose bytes the kernels read in the model's own file.
    void add(const std::string& key, const std::shared_ptr<PackedWeight>& weight, PackRecord::Form form);
    // Writes what is new and moves the weights into the mapping of the new file, so that the first run's memory is as the second's. To be called
    // when no kernel runs.
    void finish();

    enum class Outcome : std::uint8_t { off, none, hit, written };
    Outcome outcome() const { return outcome_; }
    const std::string& note() const { return note_; }  // why a file was not used or not written; empty: nothing to say

private:
    struct Entry {
        std::string key;
        PackRecord::Form form;
        std::shared_ptr<PackedWeight> weight;
    };
    void read();
    Status write();
    bool trusted(const PackRecord& record);
    std::uint64_t fingerprint(const PackedWeight& weight);

    PackCacheOptions options_;
    Use use_;
    std::string source_, path_;
    std::shared_ptr<const MappedFile> file_;
    std::map<std::string, PackRecord> records_;  // of the file
    std::map<std::string, std::uint64_t> fingerprints_;
    std::vector<Entry> entries_;  // in the order of their first use
    bool complete_ = true;        // everything came from the file
    Outcome outcome_ = Outcome::off;
    std::string note_;
};

}  // namespace skiff
