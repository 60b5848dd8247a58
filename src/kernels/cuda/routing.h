// Whom a token's router chooses, and where its numbers then are: the order of experts, and sets of them as bits. Host and device; the kernels' part is routing.cuh.
#pragma once

#include "kernels/cuda/hd.h"
#include "kernels/cuda/launch.h"

namespace skiff::cuda {

constexpr int expert_words = static_cast<int>(max_routed_experts) / 32;

// Larger for the larger logit, and of equal ones for the lower number. Zeros are equal, NaN is above all: an order for any numbers, so that all lanes agree on a largest.
SKIFF_HD std::uint64_t expert_order(float logit, int expert) {
    const std::uint32_t bits = float_bits(logit + 0.0f);
    const std::uint32_t key = (bits & 0x7fffffffu) > 0x7f800000u ? 0xffffffffu : bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
    return static_cast<std::uint64_t>(key) << 32 | (0xffffffffu - static_cast<std::uint32_t>(expert));
}
SKIFF_HD int expert_of(std::uint64_t order) { return static_cast<int>(0xffffffffu - static_cast<std::uint32_t>(order)); }
SKIFF_HD float logit_of(std::uint64_t order) {
    const auto key = static_cast<std::uint32_t>(order >> 32);
    return bits_float(key >> 31 != 0 ? key & 0x7fffffffu : ~key);
}

// ---- sets of experts // words: (expert_words)
SKIFF_HD bool has_expert(const std::uint32_t* words, int expert) { return (words[expert / 32] >> expert % 32 & 1u) != 0; }
// Members below `expert`: the place of a member among them.
SKIFF_HD int place_of_expert(const std::uint32_t* words, int expert) {
    int n = count_bits(words[expert / 32] & ((1u << expert % 32) - 1u));
    for (int i = 0; i < expert / 32; ++i) n += count_bits(words[i]);
    return n;
}

}  // namespace skiff::cuda
