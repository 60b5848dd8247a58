// Encoders for the super-blocks of 256 weights: search each sub-block, then round the scales themselves and rescue what that costs.
#include <cmath>
#include <limits>

#include "tensor/blocks_decode.h"
#include "tensor/blocks_encode.h"
#include "tensor/blocks_search.h"

namespace skiff::blocks {
namespace {

struct Ones {
    float values[k_block_size];
    constexpr Ones() : values{} {
        for (float& value : values) value = 1;
    }
};
constexpr Ones ones;

template <int block_bytes, class Encode>
void each_block(const float* source, const float* importance, std::int64_t n_weights, void* blocks, Encode encode) {
    auto* block = static_cast<std::uint8_t*>(blocks);
    for (std::int64_t i = 0; i + k_block_size <= n_weights; i += k_block_size, block += block_bytes)
        encode(source + i, importance == nullptr ? ones.values : importance + i, block);
}

float as_f16(float value) { return f16_to_float(float_to_f16(value)); }
float ratio(float numerator, float denominator) { return denominator == 0 ? 0.0f : numerator / denominator; }

// Eight sub-blocks of 32 with 6-bit scales and minima: what Q4_K and Q5_K share.
struct ScaledMinima {
    float scale = 0, min = 0;  // as half precision will hold them
    ScaleMin sub[8] = {};
    double error = std::numeric_limits<double>::infinity();
    Affine affine(int j) const { return {scale * static_cast<float>(sub[j].scale), -(min * static_cast<float>(sub[j].min))}; }
};

// The scale and minimum next to the wished ones that give the least error for this sub-block.
double choose_neighbours(const Group& group, int top, ScaledMinima& result, int j, Affine wish) {
    const int scale_code = static_cast<int>(nearest(ratio(wish.scale, result.scale), 0, 63));
    const int min_code = static_cast<int>(nearest(ratio(-wish.offset, result.min), 0, 63));
    double best_error = std::numeric_limits<double>::infinity();
    ScaleMin best{scale_code, min_code};
    for (int scale = std::max(0, scale_code - 1); scale <= std::min(63, scale_code + 1); ++scale) {
        for (int min = std::max(0, min_code - 1); min <= std::min(63, min_code + 1); ++min) {
            result.sub[j] = {scale, min};
            const double error = affine_error(group, result.affine(j), top);
            if (error < best_error) {
                best_error = error;
                best = {scale, min};
            }
        }
    }
    result.sub[j] = best;
    return best_error;
}

ScaledMinima search_scaled_minima(const float* x, const float* importance, int top) {
    Affine wishes[8];
    float largest_scale = 0, largest_min = 0;
    for (int j = 0; j < 8; ++j) {
        wishes[j] = search_affine({x + j * 32, importance + j * 32, 32}, top, OffsetSign::not_positive);
        wishes[j].offset = std::min(wishes[j].offset, 0.0f);
        largest_scale = std::max(largest_scale, wishes[j].scale);
        largest_min = std::max(largest_min, -wishes[j].offset);
    }
    ScaledMinima best;
    for (int shrink = 0; shrink < 3; ++shrink) {  // the largest scale at code 63, 62 or 61: rounding falls differently
        ScaledMinima attempt;
        attempt.scale = as_f16(largest_scale / static_cast<float>(63 - shrink));
        attempt.min = as_f16(largest_min / static_cast<float>(63 - shrink));
        attempt.error = 0;
        for (int j = 0; j < 8; ++j) attempt.error += choose_neighbours({x + j * 32, importance + j * 32, 32}, top, attempt, j, wishes[j]);
        if (shrink == 0 || attempt.error < best.error) best = attempt;
    }
    return best;
}

void store_scaled_minima(const ScaledMinima& found, std::uint8_t* block) {
    store_f16(block, found.scale);
    store_f16(block + 2, found.min);
    std::uint8_t* packed = block + 4;
    for (int j = 0; j < 4; ++j) {  // the inverse of load_scale_min
        const ScaleMin &low = found.sub[j], &high = found.sub[j + 4];
        packed[j] = static_cast<std::uint8_t>(low.scale | (high.scale >> 4) << 6);
        packed[j + 4] = static_cast<std::uint8_t>(low.min | (high.min >> 4) << 6);
        packed[j + 8] = static_cast<std::uint8_t>((high.scale & 15) | (high.min & 15) << 4);
    }
}

void pack_four_bits(const std::uint8_t* codes, std::uint8_t* bytes) {  // 64 weights to 32 bytes, first 32 in the low bits
    for (int chunk = 0; chunk < 4; ++chunk) {
        for (int i = 0; i < 32; ++i)
            bytes[chunk * 32 + i] = static_cast<std::uint8_t>((codes[chunk * 64 + i] & 15) | (codes[chunk * 64 + 32 + i] & 15) << 4);
    }
}

// Sixteen sub-blocks of 16 with 8-bit scales under one half-precision scale.
struct Scales6 {
    float scale = 0;
    std::int8_t sub[16] = {};
    double error = std::numeric_limits<double>::infinity();
};

Scales6 round_scales(const float* x, const float* importance, const float* wishes, float scale) {
    Scales6 result;
    result.scale = as_f16(scale);
    result.error = 0;
    for (int j = 0; j < 16; ++j) {
        const Group group{x + j * 16, importance + j * 16, 16};
        const int wish = static_cast<int>(nearest(ratio(wishes[j], result.scale), -128, 127));
        double best_error = std::numeric_limits<double>::infinity();
        for (int code = std::max(-128, wish - 1); code <= std::min(127, wish + 1); ++code) {
            const double error = scale_error(group, result.scale * static_cast<float>(code), -32, 31);
            if (error < best_error) {
                best_error = error;
                result.sub[j] = static_cast<std::int8_t>(code);
            }
        }
        result.error += best_error;
    }
    return result;
}

Scales6 search_scales6(const float* x, const float* importance) {
    float wishes[16], largest = 0;
    for (int j = 0; j < 16; ++j) {
        wishes[j] = search_scale({x + j * 16, importance + j * 16, 16}, -32, 31);
        if (std::fabs(wishes[j]) > std::fabs(largest)) largest = wishes[j];
    }
    Scales6 best;
    for (float top : {-128.0f, 127.0f, 120.0f}) {
        const Scales6 attempt = round_scales(x, importance, wishes, largest / top);
        if (top == -128.0f || attempt.error < best.error) best = attempt;
    }
    return best;
}

}  // namespace

void encode_q4_k(const float* source, const float* importance, std::int64_t n_weights, void* blocks) {
    each_block<144>(source, importance, n_weights, blocks, [](const float* x, const float* weights, std::uint8_t* block) {
        const ScaledMinima found = search_scaled_minima(x, weights, 15);
        store_scaled_minima(found, block);
        std::uint8_t codes[k_block_size];
        for (int j = 0; j < 8; ++j) round_to_affine({x + j * 32, weights + j * 32, 32}, found.affine(j), 15, codes + j * 32);
        pack_four_bits(codes, block + 16);
    });
}

void encode_q5_k(const float* source, const float* importance, std::int64_t n_weights, void* blocks) {
    each_block<176>(source, importance, n_weights, blocks, [](const float* x, const float* weights, std::uint8_t* block) {
        const ScaledMinima found = search_scaled_minima(x, weights, 31);
        store_scaled_minima(found, block);
        std::uint8_t codes[k_block_size];
        for (int j = 0; j < 8; ++j) round_to_affine({x + j * 32, weights + j * 32, 32}, found.affine(j), 31, codes + j * 32);
        for (int i = 0; i < 32; ++i) {
            int bits = 0;
            for (int j = 0; j < 8; ++j) bits |= (codes[j * 32 + i] >> 4) << j;
            block[16 + i] = static_cast<std::uint8_t>(bits);
        }
        pack_four_bits(codes, block + 48);
    });
}

void encode_q6_k(const float* source, const float* importance, std::int64_t n_weights, void* blocks) {
    each_block<210>(source, importance, n_weights, blocks, [](const float* x, const float* weights, std::uint8_t* block) {
        const Scales6 found = search_scales6(x, weights);
        std::memset(block, 0, 192);
        std::memcpy(block + 192, found.sub, 16);
        store_f16(block + 208, found.scale);
        for (int j = 0; j < 16; ++j) {
            const int half = j / 8, quarter = j % 8 / 2, offset = j % 2 * 16;
            std::uint8_t* low = block + half * 64 + quarter % 2 * 32 + offset;
            std::uint8_t* high = block + 128 + half * 32 + offset;
            std::int8_t codes[16];
            round_to_scale({x + j * 16, weights + j * 16, 16}, found.scale * static_cast<float>(found.sub[j]), -32, 31, codes);
            for (int i = 0; i < 16; ++i) {
                const int code = codes[i] + 32;
                low[i] = static_cast<std::uint8_t>(low[i] | (code & 15) << (quarter / 2 * 4));
                high[i] = static_cast<std::uint8_t>(high[i] | (code >> 4) << (quarter * 2));
            }
        }
    });
}

}  // namespace skiff::blocks
