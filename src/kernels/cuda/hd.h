// What lane arithmetic is made of, the same on the device and (for tests and packing) on the CPU.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "tensor/dtype.h"

#if defined(__CUDACC__)
#define SKIFF_HD __host__ __device__ __forceinline__
#else
#define SKIFF_HD inline
#endif

namespace skiff::cuda {

SKIFF_HD std::uint32_t float_bits(float x) {
#if defined(__CUDA_ARCH__)
    return __float_as_uint(x);
#else
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
#endif
}
SKIFF_HD float bits_float(std::uint32_t bits) {
#if defined(__CUDA_ARCH__)
    return __uint_as_float(bits);
#else
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
#endif
}

SKIFF_HD float bf16_float(std::uint32_t low_half) { return bits_float(low_half << 16); }

// Round to nearest even; NaN stays NaN.
SKIFF_HD std::uint32_t float_bf16(float x) {
    const std::uint32_t bits = float_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

// A float as the sum of two bf16: 16 significant bits. The first in the low half. Infinities have no second part.
SKIFF_HD std::uint32_t split_bf16(float x) {
    const std::uint32_t high = float_bf16(x);
    const bool finite = (high & 0x7f80u) != 0x7f80u;
    const std::uint32_t low = finite ? float_bf16(x - bf16_float(high)) : 0u;
    return high | low << 16;
}

SKIFF_HD float f16_float(std::uint32_t half) {
#if defined(__CUDA_ARCH__)
    float x;
    asm("{.reg .f16 h; mov.b16 h, %1; cvt.f32.f16 %0, h;}" : "=f"(x) : "h"(static_cast<unsigned short>(half)));
    return x;
#else
    const std::uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, mantissa = half & 1023u;
    if (exponent == 31) return bits_float(sign | 0x7f800000u | mantissa << 13);
    if (exponent != 0) return bits_float(sign | (exponent + 112) << 23 | mantissa << 13);
    const float x = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return sign != 0 ? -x : x;
#endif
}

// Round to nearest even; beyond the largest: infinity.
SKIFF_HD std::uint32_t float_f16(float x) {
#if defined(__CUDA_ARCH__)
    unsigned short half;
    asm("{.reg .f16 h; cvt.rn.f16.f32 h, %1; mov.b16 %0, h;}" : "=h"(half) : "f"(x));
    return half;
#else
    return float_to_f16(x);
#endif
}

// Two floats as bf16, the first in the low half.
SKIFF_HD std::uint32_t pack_bf16x2(float first, float second) {
#if defined(__CUDA_ARCH__)
    std::uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
#else
    return float_bf16(first) | float_bf16(second) << 16;
#endif
}

// The nearest FP8 number (E4M3), ties to even; at most 448 in magnitude.
SKIFF_HD std::uint32_t float_e4m3(float x) {
    const std::uint32_t bits = float_bits(x), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return sign | 0x7fu;
    if (magnitude >= 0x43e00000u) return sign | 0x7eu;                                // 448 and more
    if (magnitude < 0x3c800000u) {                                                    // below 2^-6: steps of 2^-9
        const float steps = bits_float(magnitude) * 512.0f + 8388608.0f;              // the sum rounds to an integer
        return sign | (float_bits(steps) & 0xffu);
    }
    return sign | ((magnitude + 0x7ffffu + (magnitude >> 20 & 1u) - 0x3c000000u) >> 20);  // three bits of mantissa, exponent 127 becomes 7
}

// Bytes of {b, a} chosen by the low three bits of each nibble of `selector`, whose fourth bits must be zero.
SKIFF_HD std::uint32_t permute_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
#if defined(__CUDA_ARCH__)
    std::uint32_t result;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(selector));
    return result;
#else
    const std::uint64_t both = static_cast<std::uint64_t>(b) << 32 | a;
    std::uint32_t result = 0;
    for (int i = 0; i < 4; ++i) result |= static_cast<std::uint32_t>(both >> (selector >> 4 * i & 7u) * 8 & 255u) << 8 * i;
    return result;
#endif
}

// (x & mask) | bits in one instruction; left alone, the compiler takes two, since only one of the constants may be in the instruction.
SKIFF_HD std::uint32_t and_or(std::uint32_t x, std::uint32_t mask, std::uint32_t bits) {
#if defined(__CUDA_ARCH__)
    std::uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(x), "r"(mask), "r"(bits));
    return result;
#else
    return (x & mask) | bits;
#endif
}

// (x & mask) ^ bits in one instruction.
SKIFF_HD std::uint32_t and_xor(std::uint32_t x, std::uint32_t mask, std::uint32_t bits) {
#if defined(__CUDA_ARCH__)
    std::uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(result) : "r"(x), "r"(mask), "r"(bits));
    return result;
#else
    return (x & mask) ^ bits;
#endif
}

SKIFF_HD int count_bits(std::uint32_t x) {
#if defined(__CUDA_ARCH__)
    return __popc(x);
#else
    return std::popcount(x);
#endif
}

// Two bf16 at a time: a * b + c, rounded once. Subnormal numbers count (PTX: fma.bf16x2 supports them).
SKIFF_HD std::uint32_t fma_bf16x2(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
#if defined(__CUDA_ARCH__)
    std::uint32_t result;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
#else
    std::uint32_t result = 0;
    for (int half = 0; half < 2; ++half) {
        const float x = bf16_float(a >> 16 * half & 0xffffu), y = bf16_float(b >> 16 * half & 0xffffu), z = bf16_float(c >> 16 * half & 0xffffu);
        result |= float_bf16(std::fmaf(x, y, z)) << 16 * half;  // a product of bf16 is exact in a float; the sums here are, too
    }
    return result;
#endif
}

constexpr std::uint32_t one_bf16x2 = 0x3f803f80u, minus_zero_bf16x2 = 0x80008000u;

}  // namespace skiff::cuda
