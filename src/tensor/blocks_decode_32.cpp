// Blocks of 32 weights: byte i holds weight i in its low four bits and weight i + 16 in its high four.
#include <bit>

#include "tensor/blocks_decode.h"

namespace skiff::blocks {
namespace {

constexpr int block_size = 32;

template <int block_bytes, class Decode>
void each_block(const void* blocks, std::int64_t n_weights, float* target, Decode decode) {
    const auto* block = static_cast<const std::uint8_t*>(blocks);
    for (std::int64_t i = 0; i + block_size <= n_weights; i += block_size, block += block_bytes) decode(block, target + i);
}

// Fifth bits: bit i of the 32-bit word belongs to weight i.
struct FifthBits {
    std::uint32_t bits;
    explicit FifthBits(const std::uint8_t* bytes) { std::memcpy(&bits, bytes, sizeof bits); }
    int of(int i) const { return static_cast<int>(bits >> i & 1) << 4; }
};

// 2^(exponent - 128), half of what the E8M0 code says, because the E2M1 table is doubled.
float half_e8m0(std::uint8_t exponent) {
    std::uint32_t bits = exponent < 2 ? 0x00200000u << exponent : static_cast<std::uint32_t>(exponent - 1) << 23;
    return std::bit_cast<float>(bits);
}

void decode_levels(const std::int8_t* levels, float scale, const std::uint8_t* codes, float* out) {
    for (int i = 0; i < 16; ++i) {
        out[i] = scale * static_cast<float>(levels[codes[i] & 15]);
        out[i + 16] = scale * static_cast<float>(levels[codes[i] >> 4]);
    }
}

}  // namespace

void decode_q4_0(const void* blocks, std::int64_t n_weights, float* target) {
    each_block<18>(blocks, n_weights, target, [](const std::uint8_t* block, float* out) {
        const float scale = load_f16(block);
        for (int i = 0; i < 16; ++i) {
            out[i] = scale * static_cast<float>((block[2 + i] & 15) - 8);
            out[i + 16] = scale * static_cast<float>((block[2 + i] >> 4) - 8);
        }
    });
}

void decode_q4_1(const void* blocks, std::int64_t n_weights, float* target) {
    each_block<20>(blocks, n_weights, target, [](const std::uint8_t* block, float* out) {
        const float scale = load_f16(block), min = load_f16(block + 2);
        for (int i = 0; i < 16; ++i) {
            out[i] = scale * static_cast<float>(block[4 + i] & 15) + min;
            out[i + 16] = scale * static_cast<float>(block[4 + i] >> 4) + min;
        }
    });
}

void decode_q5_0(const void* blocks, std::int64_t n_weights, float* target) {
    each_block<22>(blocks, n_weights, target, [](const std::uint8_t* block, float* out) {
        const float scale = load_f16(block);
        const FifthBits fifth(block + 2);
        for (int i = 0; i < 16; ++i) {
            out[i] = scale * static_cast<float>(((block[6 + i] & 15) | fifth.of(i)) - 16);
            out[i + 16] = scale * static_cast<float>(((block[6 + i] >> 4) | fifth.of(i + 16)) - 16);
        }
    });
}

void decode_q5_1(const void* blocks, std::int64_t n_weights, float* target) {
    each_block<24>(blocks, n_weights, target, [](const std::uint8_t* block, float* out) {
        const float scale = load_f16(block), min = load_f16(block + 2);
        const FifthBits fifth(block + 4);
        for (int i = 0; i < 16; ++i) {
            out[i] = scale * static_cast<float>((block[8 + i] & 15) | fifth.of(i)) + min;
            out[i + 16] = scale * static_cast<float>((block[8 + i] >> 4) | fifth.of(i + 16)) + min;
        }
    });
}

void decode_q8_0(const void* blocks, std::int64_t n_weights, float* target) {
    each_block<34>(blocks, n_weights, target, [](const std::uint8_t* block, float* out) {
        const float scale = load_f16(block);
        for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(static_cast<std::int8_t>(block[2 + i]));
    });
}

void decode_iq4_nl(const void* blocks, std::int64_t n_weights, float* target) {
    each_block<18>(blocks, n_weights, target,
                   [](const std::uint8_t* block, float* out) { decode_levels(iq4_levels, load_f16(block), block + 2, out); });
}

void decode_mxfp4(const void* blocks, std::int64_t n_weights, float* target) {
    each_block<17>(blocks, n_weights, target,
                   [](const std::uint8_t* block, float* out) { decode_levels(e2m1_doubled, half_e8m0(block[0]), block + 1, out); });
}

}  // namespace skiff::blocks
