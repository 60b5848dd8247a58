// Where packed weights lie while a model runs. Why so: docs/adr/0015-pack-cache.md.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/layout.h"

namespace skiff {

// mapped: in the file that they came from, which processes share and memory that is short gets back. huge: copied into pages of 2 MiB, which the processor finds
// faster; automatic: that, where the weights are worth it and there is memory for twice as many.
enum class WeightPages : std::uint8_t { automatic, mapped, huge };

struct LoadedWeight {
    std::shared_ptr<PackedWeight> weight;
    bool mapped = false;  // its sections are part of a mapped file
};

// Moves weights, section by section, into one stretch of memory of huge pages, and gives back what they had: at no time are many of them in memory twice. To be
// called when no kernel runs. Returns the bytes that were moved; 0 where the choice leaves them. Error: `huge` was asked for and cannot be.
Result<std::uint64_t> place_weights(WeightPages choice, const std::vector<LoadedWeight>& weights, ThreadPool& pool);

}  // namespace skiff
