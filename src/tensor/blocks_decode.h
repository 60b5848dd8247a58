// Block decoders, one per GGUF block type. Layouts to the bit: docs/formats/gguf.md.
// Each reads n_weights / block_size consecutive blocks and writes n_weights floats; the blocks need no alignment.
#pragma once

#include <cstdint>
#include <cstring>

#include "tensor/dtype.h"

namespace skiff::blocks {

inline constexpr int k_block_size = 256;  // weights of a "K" super-block

// The 16 levels of IQ4_NL and IQ4_XS, finer around zero.
inline constexpr std::int8_t iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// E2M1 numbers times two; the scale of MXFP4 is halved in return.
inline constexpr std::int8_t e2m1_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// A half-precision scale inside a block.
inline float load_f16(const std::uint8_t* bytes) {
    std::uint16_t bits;
    std::memcpy(&bits, bytes, sizeof bits);
    return f16_to_float(bits);
}
inline void store_f16(std::uint8_t* bytes, float value) {
    std::uint16_t bits = float_to_f16(value);
    std::memcpy(bytes, &bits, sizeof bits);
}

// 6-bit scale and minimum of sub-block j (0..7) out of the 12 bytes that Q4_K and Q5_K share.
struct ScaleMin {
    int scale, min;
};
inline ScaleMin load_scale_min(const std::uint8_t* packed, int j) {
    if (j < 4) return {packed[j] & 63, packed[j + 4] & 63};
    return {(packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4), (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4)};
}

// 6-bit signed scale j (0..15) of Q3_K: low four bits in bytes 0..7, high two bits in bytes 8..11, biased by 32.
inline int load_q3_scale(const std::uint8_t* packed, int j) {
    const int low = packed[j % 8] >> (j / 8 * 4) & 15, high = packed[8 + j % 4] >> (j / 4 * 2) & 3;
    return (low | high << 4) - 32;
}

// A ternary digit of TQ1_0, 0 to 2: five base-3 digits in a byte, as the fraction byte/256; multiplying by 3^digit brings a digit to the top.
inline std::uint8_t trit_code(std::uint8_t packed, std::uint8_t power) {
    const auto shifted = static_cast<std::uint8_t>(packed * power);
    return static_cast<std::uint8_t>(shifted * 3 >> 8);
}

void decode_q4_0(const void* blocks, std::int64_t n_weights, float* target);
void decode_q4_1(const void* blocks, std::int64_t n_weights, float* target);
void decode_q5_0(const void* blocks, std::int64_t n_weights, float* target);
void decode_q5_1(const void* blocks, std::int64_t n_weights, float* target);
void decode_q8_0(const void* blocks, std::int64_t n_weights, float* target);
void decode_iq4_nl(const void* blocks, std::int64_t n_weights, float* target);
void decode_mxfp4(const void* blocks, std::int64_t n_weights, float* target);
void decode_q2_k(const void* blocks, std::int64_t n_weights, float* target);
void decode_q3_k(const void* blocks, std::int64_t n_weights, float* target);
void decode_q4_k(const void* blocks, std::int64_t n_weights, float* target);
void decode_q5_k(const void* blocks, std::int64_t n_weights, float* target);
void decode_q6_k(const void* blocks, std::int64_t n_weights, float* target);
void decode_iq4_xs(const void* blocks, std::int64_t n_weights, float* target);
void decode_tq1_0(const void* blocks, std::int64_t n_weights, float* target);
void decode_tq2_0(const void* blocks, std::int64_t n_weights, float* target);

}  // namespace skiff::blocks
