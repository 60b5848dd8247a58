// GGUF's block formats: a fixed number of consecutive weights of a row stored together in a fixed number of bytes.
// Layouts of each block, to the bit: docs/formats/gguf.md.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "tensor/dtype.h"

namespace skiff {

enum class BlockType : std::uint8_t {
    q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, mxfp4, tq1_0, tq2_0,
};

struct BlockFormat {
    BlockType type;
    std::string_view name;        // "Q4_K"
    std::uint32_t gguf_id;        // ggml's type number
    int block_size;               // weights per block
    int block_bytes;
    void (*decode)(const void* blocks, std::int64_t n_weights, float* target);  // n_weights is a multiple of block_size
    // Quantizes with scale search; importance (n_weights) may be null. Null where writing is not offered.
    void (*encode)(const float* source, const float* importance, std::int64_t n_weights, void* blocks);
};

std::span<const BlockFormat> block_format_table();
const BlockFormat& block_format(BlockType type);
const BlockFormat* block_format_by_gguf_id(std::uint32_t id);
const BlockFormat* block_format_by_name(std::string_view name);

}  // namespace skiff
