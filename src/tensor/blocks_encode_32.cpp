// Encoders for the blocks of 32 weights.
#include <cmath>

#include "tensor/blocks_decode.h"
#include "tensor/blocks_encode.h"
#include "tensor/blocks_search.h"

namespace skiff::blocks {
namespace {

constexpr int block_size = 32;
constexpr float ones[block_size] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

template <int block_bytes, class Encode>
void each_block(const float* source, const float* importance, std::int64_t n_weights, void* blocks, Encode encode) {
    auto* block = static_cast<std::uint8_t*>(blocks);
    for (std::int64_t i = 0; i + block_size <= n_weights; i += block_size, block += block_bytes)
        encode(Group{source + i, importance == nullptr ? ones : importance + i, block_size}, block);
}

// The value a half-precision scale will have when it is read back.
float as_f16(float value) { return f16_to_float(float_to_f16(value)); }

void pack_low_high(const std::uint8_t* codes, std::uint8_t* bytes) {  // four bits each; a fifth bit is left to pack_fifth
    for (int i = 0; i < 16; ++i) bytes[i] = static_cast<std::uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

void pack_fifth(const std::uint8_t* codes, std::uint8_t* bytes) {
    std::uint32_t bits = 0;
    for (int i = 0; i < block_size; ++i) bits |= static_cast<std::uint32_t>(codes[i] >> 4) << i;
    std::memcpy(bytes, &bits, sizeof bits);
}

// Scale into `block`, codes offset to be unsigned.
void encode_symmetric(const Group& group, int low, int high, std::uint8_t* block, std::uint8_t* codes) {
    const float scale = as_f16(search_scale(group, low, high));
    store_f16(block, scale);
    std::int8_t signed_codes[block_size];
    round_to_scale(group, scale, low, high, signed_codes);
    for (int i = 0; i < block_size; ++i) codes[i] = static_cast<std::uint8_t>(signed_codes[i] - low);
}

// Scale and minimum into `block`.
void encode_affine(const Group& group, int top, std::uint8_t* block, std::uint8_t* codes) {
    const Affine found = search_affine(group, top, OffsetSign::any);
    const Affine affine{as_f16(found.scale), as_f16(found.offset)};
    store_f16(block, affine.scale);
    store_f16(block + 2, affine.offset);
    round_to_affine(group, affine, top, codes);
}

}  // namespace

void encode_q4_0(const float* source, const float* importance, std::int64_t n_weights, void* blocks) {
    each_block<18>(source, importance, n_weights, blocks, [](const Group& group, std::uint8_t* block) {
        std::uint8_t codes[block_size];
        encode_symmetric(group, -8, 7, block, codes);
        pack_low_high(codes, block + 2);
    });
}

void encode_q4_1(const float* source, const float* importance, std::int64_t n_weights, void* blocks) {
    each_block<20>(source, importance, n_weights, blocks, [](const Group& group, std::uint8_t* block) {
        std::uint8_t codes[block_size];
        encode_affine(group, 15, block, codes);
        pack_low_high(codes, block + 4);
    });
}

void encode_q5_0(const float* source, const float* importance, std::int64_t n_weights, void* blocks) {
    each_block<22>(source, importance, n_weights, blocks, [](const Group& group, std::uint8_t* block) {
        std::uint8_t codes[block_size];
        encode_symmetric(group, -16, 15, block, codes);
        pack_fifth(codes, block + 2);
        pack_low_high(codes, block + 6);
    });
}

void encode_q5_1(const float* source, const float* importance, std::int64_t n_weights, void* blocks) {
    each_block<24>(source, importance, n_weights, blocks, [](const Group& group, std::uint8_t* block) {
        std::uint8_t codes[block_size];
        encode_affine(group, 31, block, codes);
        pack_fifth(codes, block + 4);
        pack_low_high(codes, block + 8);
    });
}

void encode_q8_0(const float* source, const float* importance, std::int64_t n_weights, void* blocks) {
    each_block<34>(source, importance, n_weights, blocks, [](const Group& group, std::uint8_t* block) {
        float largest = 0;
        for (int i = 0; i < block_size; ++i) largest = std::max(largest, std::fabs(group.x[i]));
        const float scale = largest / 127.0f, inverse = scale == 0 ? 0.0f : 1.0f / scale;
        store_f16(block, scale);
        for (int i = 0; i < block_size; ++i) {  // ties away from zero, as ggml rounds
            const float code = std::round(group.x[i] * inverse);
            block[2 + i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(std::max(-127.0f, std::min(127.0f, code))));
        }
    });
}

void encode_iq4_nl(const float* source, const float* importance, std::int64_t n_weights, void* blocks) {
    each_block<18>(source, importance, n_weights, blocks, [](const Group& group, std::uint8_t* block) {
        const float scale = as_f16(search_level_scale(group));
        store_f16(block, scale);
        std::uint8_t codes[block_size];
        round_to_levels(group, scale, codes);
        pack_low_high(codes, block + 2);
    });
}

}  // namespace skiff::blocks
