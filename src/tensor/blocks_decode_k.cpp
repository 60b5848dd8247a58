// Super-blocks of 256 weights: sub-blocks of 16 or 32 with short integer scales, under one or two half-precision scales.
#include "tensor/blocks_decode.h"

namespace skiff::blocks {
namespace {

template <int block_bytes, class Decode>
void each_block(const void* blocks, std::int64_t n_weights, float* target, Decode decode) {
    const auto* block = static_cast<const std::uint8_t*>(blocks);
    for (std::int64_t i = 0; i + k_block_size <= n_weights; i += k_block_size, block += block_bytes) decode(block, target + i);
}

float trit(std::uint8_t packed, std::uint8_t power) { return static_cast<float>(trit_code(packed, power) - 1); }

}  // namespace

void decode_q2_k(const void* blocks, std::int64_t n_weights, float* target) {
    each_block<84>(blocks, n_weights, target, [](const std::uint8_t* block, float* out) {
        const std::uint8_t *scales = block, *codes = block + 16;
        const float scale = load_f16(block + 80), min = load_f16(block + 82);
        for (int sub = 0; sub < 16; ++sub) {
            const float sub_scale = scale * static_cast<float>(scales[sub] & 15), sub_min = min * static_cast<float>(scales[sub] >> 4);
            const std::uint8_t* bytes = codes + sub / 8 * 32 + sub % 2 * 16;
            const int shift = sub % 8 / 2 * 2;
            for (int i = 0; i < 16; ++i) out[sub * 16 + i] = sub_scale * static_cast<float>(bytes[i] >> shift & 3) - sub_min;
        }
    });
}

void decode_q3_k(const void* blocks, std::int64_t n_weights, float* target) {
    each_block<110>(blocks, n_weights, target, [](const std::uint8_t* block, float* out) {
        const std::uint8_t *high = block, *codes = block + 32, *scales = block + 96;
        const float scale = load_f16(block + 108);
        for (int sub = 0; sub < 16; ++sub) {
            const float sub_scale = scale * static_cast<float>(load_q3_scale(scales, sub));
            const std::uint8_t* bytes = codes + sub / 8 * 32 + sub % 2 * 16;
            const std::uint8_t* high_bytes = high + sub % 2 * 16;
            const int shift = sub % 8 / 2 * 2, high_bit = sub / 2;
            for (int i = 0; i < 16; ++i) {
                const int code = (bytes[i] >> shift & 3) | (high_bytes[i] >> high_bit & 1) << 2;
                out[sub * 16 + i] = sub_scale * static_cast<float>(code - 4);
            }
        }
    });
}

void decode_q4_k(const void* blocks, std::int64_t n_weights, float* target) {
    each_block<144>(blocks, n_weights, target, [](const std::uint8_t* block, float* out) {
        const float scale = load_f16(block), min = load_f16(block + 2);
        for (int sub = 0; sub < 8; ++sub) {
            const ScaleMin packed = load_scale_min(block + 4, sub);
            const float sub_scale = scale * static_cast<float>(packed.scale), sub_min = min * static_cast<float>(packed.min);
            const std::uint8_t* bytes = block + 16 + sub / 2 * 32;
            const int shift = sub % 2 * 4;
            for (int i = 0; i < 32; ++i) out[sub * 32 + i] = sub_scale * static_cast<float>(bytes[i] >> shift & 15) - sub_min;
        }
    });
}

void decode_q5_k(const void* blocks, std::int64_t n_weights, float* target) {
    each_block<176>(blocks, n_weights, target, [](const std::uint8_t* block, float* out) {
        const float scale = load_f16(block), min = load_f16(block + 2);
        const std::uint8_t* fifth = block + 16;
        for (int sub = 0; sub < 8; ++sub) {
            const ScaleMin packed = load_scale_min(block + 4, sub);
            const float sub_scale = scale * static_cast<float>(packed.scale), sub_min = min * static_cast<float>(packed.min);
            const std::uint8_t* bytes = block + 48 + sub / 2 * 32;
            const int shift = sub % 2 * 4;
            for (int i = 0; i < 32; ++i) {
                const int code = (bytes[i] >> shift & 15) | (fifth[i] >> sub & 1) << 4;
                out[sub * 32 + i] = sub_scale * static_cast<float>(code) - sub_min;
            }
        }
    });
}

void decode_q6_k(const void* blocks, std::int64_t n_weights, float* target) {
    each_block<210>(blocks, n_weights, target, [](const std::uint8_t* block, float* out) {
        const std::uint8_t *low = block, *high = block + 128, *scales = block + 192;
        const float scale = load_f16(block + 208);
        for (int sub = 0; sub < 16; ++sub) {  // 16 weights each; a half of the block is 128 weights in 64 low and 32 high bytes
            const int half = sub / 8, quarter = sub % 8 / 2, offset = sub % 2 * 16;
            const std::uint8_t* low_bytes = low + half * 64 + quarter % 2 * 32 + offset;
            const std::uint8_t* high_bytes = high + half * 32 + offset;
            const float sub_scale = scale * static_cast<float>(static_cast<std::int8_t>(scales[sub]));
            for (int i = 0; i < 16; ++i) {
                const int code = (low_bytes[i] >> (quarter / 2 * 4) & 15) | (high_bytes[i] >> (quarter * 2) & 3) << 4;
                out[sub * 16 + i] = sub_scale * static_cast<float>(code - 32);
            }
        }
    });
}

void decode_iq4_xs(const void* blocks, std::int64_t n_weights, float* target) {
    each_block<136>(blocks, n_weights, target, [](const std::uint8_t* block, float* out) {
        const float scale = load_f16(block);
        const int high = block[2] | block[3] << 8;  // two bits for each of eight sub-blocks
        for (int sub = 0; sub < 8; ++sub) {
            const int low = block[4 + sub / 2] >> (sub % 2 * 4) & 15;
            const float sub_scale = scale * static_cast<float>((low | (high >> (2 * sub) & 3) << 4) - 32);
            const std::uint8_t* bytes = block + 8 + sub * 16;
            for (int i = 0; i < 16; ++i) {
                out[sub * 32 + i] = sub_scale * static_cast<float>(iq4_levels[bytes[i] & 15]);
                out[sub * 32 + i + 16] = sub_scale * static_cast<float>(iq4_levels[bytes[i] >> 4]);
            }
        }
    });
}

void decode_tq1_0(const void* blocks, std::int64_t n_weights, float* target) {
    static constexpr std::uint8_t powers[5] = {1, 3, 9, 27, 81};
    each_block<54>(blocks, n_weights, target, [](const std::uint8_t* block, float* out) {
        const float scale = load_f16(block + 52);
        for (int digit = 0; digit < 5; ++digit) {
            for (int i = 0; i < 32; ++i) out[digit * 32 + i] = scale * trit(block[i], powers[digit]);
            for (int i = 0; i < 16; ++i) out[160 + digit * 16 + i] = scale * trit(block[32 + i], powers[digit]);
        }
        for (int digit = 0; digit < 4; ++digit) {
            for (int i = 0; i < 4; ++i) out[240 + digit * 4 + i] = scale * trit(block[48 + i], powers[digit]);
        }
    });
}

void decode_tq2_0(const void* blocks, std::int64_t n_weights, float* target) {
    each_block<66>(blocks, n_weights, target, [](const std::uint8_t* block, float* out) {
        const float scale = load_f16(block + 64);
        for (int i = 0; i < k_block_size; ++i) {
            const int code = block[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
            out[i] = scale * static_cast<float>(code - 1);
        }
    });
}

}  // namespace skiff::blocks
