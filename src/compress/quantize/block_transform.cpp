#include "compress/quantize/block_transform.h"

namespace skiff {
namespace {

constexpr BlockTransform transforms[] = {
    {"awq", "activation-aware scales: columns whose inputs are large get finer steps, as much as lowers the output's error", StatisticsNeed::gram, awq_apply},
    {"smooth", "SmoothQuant: the spread of the inputs' columns is moved into the weights, for activations of 8 bits", StatisticsNeed::moments, smooth_apply},
};

}  // namespace

std::span<const BlockTransform> block_transforms() { return transforms; }

Result<const BlockTransform*> find_block_transform(std::string_view name) {
    std::string known;
    for (const BlockTransform& transform : transforms) {
        if (transform.name == name) return &transform;
        known += (known.empty() ? "" : ", ") + std::string(transform.name);
    }
    return usage_error("no transform is called \"" + std::string(name.substr(0, 64)) + "\"; there are: " + known);
}

}  // namespace skiff
