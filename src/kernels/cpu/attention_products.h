// The operands of products between queries and panels of the state, and what else attention_lanes_*.h and the bodies share.
#pragma once

#include <cstddef>
#include <cstdint>

namespace skiff {
namespace {

constexpr std::int64_t max_code_head = 512;  // codes of keys and values, queries and weights: 255 * 16256 * 512 fits 32 bits

inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
inline std::int64_t padded(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }

// f32 numbers x times panels of f32, f16 or bf16.
struct FloatProduct {
    const std::byte* panels;
    std::int64_t panel_bytes, n_panels, first_step, n_steps;
    const float* x;  // (queries, x_stride): numbers along the panels, or pairs of bf16 in their place (put_operands)
    std::int64_t x_stride;
    float* out;      // (queries, out_stride): 16 numbers of each panel
    std::int64_t out_stride;
    std::int64_t ahead;  // from these panels to what is read after them, as large: fetched line by line meanwhile
};

// Codes of 14 bits times panels of int8 or int4.
struct CodeProduct {
    const std::byte* panels;
    std::int64_t panel_bytes, n_panels, first_step, n_steps;
    const std::byte* codes;  // (queries, code_stride bytes): put_codes
    std::int64_t code_stride, code_length;
    const float* factors;    // (queries) what a code of x is worth
    const std::int32_t* sums;  // (queries, sum_stride): of codes; keys of 4 bit: of each group of 32
    std::int64_t sum_stride;
    const std::uint16_t* lane_scales;  // f16, of the panels' lanes; keys of 4 bit: (groups, 256); null: none
    float* out;
    std::int64_t out_stride;
    std::int64_t ahead;
};

// Panels are short streams, up to four at a time, which the processor's own prefetching learns too late: it left half of the memory's speed unused. So while the keys of a
// chunk are read its values are asked for, and with the values the next chunk's keys.
inline void fetch_ahead(const std::byte* p, std::int64_t ahead) { __builtin_prefetch(p + ahead, 0, 2); }

}  // namespace
}  // namespace skiff
