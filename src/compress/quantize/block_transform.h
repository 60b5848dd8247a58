// What is done to the float weights of a decoder block before they are rounded, so that they round better while the block computes the same: one row each
// in block_transform.cpp.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "compress/method.h"
#include "compress/quantize/couplings.h"

namespace skiff {

struct BlockTransformInput {
    const ModelSpec& spec;
    std::size_t block = 0;
    ScaledBlock target;                                              // its weights and statistics, which are edited
    std::function<const Scheme*(const std::string& key)> scheme_of;  // what a weight becomes; null: it stays plain
    ScaleRule scale_rule = ScaleRule::search;
    const MethodOptions& options = default_method_options;
    // How scales will be chosen afterwards: by the weights alone, or weighed by the inputs.
    enum class Search : std::uint8_t { plain, weighted } search = Search::plain;
};

struct BlockTransform {
    std::string_view name, summary;
    StatisticsNeed needs;
    Status (*apply)(const BlockTransformInput& input);
};
std::span<const BlockTransform> block_transforms();
Result<const BlockTransform*> find_block_transform(std::string_view name);  // a usage error lists the names

// ---- the transforms, one file each
Status awq_apply(const BlockTransformInput& input);
Status clip_weights(const BlockTransformInput& input);  // awq's second step; a clipped weight is another weight, so that the block computes a little else
Status smooth_apply(const BlockTransformInput& input);

}  // namespace skiff
