// Whether masks of pruned weights are faster than the same weights with their zeros written out. Fewer bytes do not decide it: expanding masks is arithmetic, and with
// few bits a weight that is the limit. So what was measured does.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/cpu_features.h"
#include "tensor/weight.h"

namespace skiff {

struct MaskMeasurement {
    Isa isa;           // and those above it, up to the next row's
    int bits;
    int rows;          // that share a bit: 1, 4 or 16
    double most_kept;  // of the weights: the row is for such shares, down to that of the row before
    double speed;      // of the dense tiles; one token, two threads, weights beyond the cache (docs/performance.md)
};
std::span<const MaskMeasurement> mask_measurements();

// The row for a weight that lies in tiles with masks, null for others and where nothing was measured: then the bytes decide.
const MaskMeasurement* measured_masks(const Weight& weight, Isa isa);
inline bool masks_pay(const MaskMeasurement& row) { return row.speed >= 1.05; }

}  // namespace skiff
