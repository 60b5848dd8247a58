// Stands in front of the compiler's immintrin.h where a unit for AVX-512 or AMX is compiled for any x86-64 (CMakeLists.txt beside): SIMDe carries its
// intrinsics out with what the processor has, and the few that SIMDe 0.7 lacks are plain loops here. Multiply-adds are not fused in this form.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define SKIFF_KEEP(vector) static_cast<void>(vector)  // its vectors lie in memory
#define __mmask16 simde__mmask16
#define __mmask32 simde__mmask32
#define __mmask64 simde__mmask64
#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC
#undef _mm512_madd_epi16  // its alias there has the arguments of another
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)

namespace skiff_simde {

// The lanes of a vector as an array, and back.
template <class T, class Vector>
struct Lanes {
    T of[sizeof(Vector) / sizeof(T)];
    explicit Lanes(const Vector& vector) { std::memcpy(of, &vector, sizeof of); }
};
template <class Vector, class T, std::size_t N>
Vector vector_of(const T (&lanes)[N]) {
    static_assert(sizeof lanes == sizeof(Vector));
    Vector vector;
    std::memcpy(&vector, lanes, sizeof lanes);
    return vector;
}
// Each lane of a vector through a function to a lane of another type.
template <class To, class Target, class From, class Source, class F>
Target map(const Source& source, F f) {
    const Lanes<From, Source> lanes(source);
    To result[sizeof(Source) / sizeof(From)];
    for (std::size_t i = 0; i < sizeof(Source) / sizeof(From); ++i) result[i] = f(lanes.of[i]);
    return vector_of<Target>(result);
}
// Halves are added to halves, as the compiler's own sequence does.
template <class T, class F>
T reduce(const simde__m512& vector, F f) {
    Lanes<T, simde__m512> lanes(vector);
    for (std::size_t half = 8; half > 0; half /= 2)
        for (std::size_t i = 0; i < half; ++i) lanes.of[i] = f(lanes.of[i], lanes.of[i + half]);
    return lanes.of[0];
}

}  // namespace skiff_simde

inline simde__m512 _mm512_maskz_loadu_ps(simde__mmask16 mask, const void* source) {
    float lanes[16] = {};
    for (int i = 0; i < 16; ++i)
        if (mask >> i & 1) std::memcpy(lanes + i, static_cast<const float*>(source) + i, 4);
    return skiff_simde::vector_of<simde__m512>(lanes);
}
inline void _mm512_mask_storeu_ps(void* target, simde__mmask16 mask, simde__m512 x) {
    const skiff_simde::Lanes<float, simde__m512> lanes(x);
    for (int i = 0; i < 16; ++i)
        if (mask >> i & 1) std::memcpy(static_cast<float*>(target) + i, lanes.of + i, 4);
}

inline simde__m512 _mm512_cvtepi32_ps(simde__m512i x) {
    return skiff_simde::map<float, simde__m512, std::int32_t>(x, [](std::int32_t lane) { return static_cast<float>(lane); });
}
inline simde__m512i _mm512_cvtps_epi32(simde__m512 x) {
    return skiff_simde::map<std::int32_t, simde__m512i, float>(x, [](float lane) { return static_cast<std::int32_t>(std::nearbyint(lane)); });
}
inline simde__m512i _mm512_cvtepu8_epi32(simde__m128i x) {
    return skiff_simde::map<std::int32_t, simde__m512i, std::uint8_t>(x, [](std::uint8_t lane) { return static_cast<std::int32_t>(lane); });
}
inline simde__m512i _mm512_cvtepu8_epi16(simde__m256i x) {
    const skiff_simde::Lanes<std::uint8_t, simde__m256i> lanes(x);
    std::uint16_t wide[32];
    for (int i = 0; i < 32; ++i) wide[i] = lanes.of[i];
    return skiff_simde::vector_of<simde__m512i>(wide);
}
// The bytes of x, from the first on, to where the mask has bits; `otherwise` elsewhere.
inline simde__m512i _mm512_mask_expand_epi8(simde__m512i otherwise, std::uint64_t mask, simde__m512i x) {
    const skiff_simde::Lanes<std::uint8_t, simde__m512i> from(x);
    skiff_simde::Lanes<std::uint8_t, simde__m512i> lanes(otherwise);
    for (int i = 0, next = 0; i < 64; ++i)
        if (mask >> i & 1) lanes.of[i] = from.of[next++];
    return skiff_simde::vector_of<simde__m512i>(lanes.of);
}
inline simde__m512i _mm512_cvtepi8_epi32(simde__m128i x) {
    return skiff_simde::map<std::int32_t, simde__m512i, std::int8_t>(x, [](std::int8_t lane) { return static_cast<std::int32_t>(lane); });
}
inline simde__m128i _mm512_cvtepi32_epi8(simde__m512i x) {
    return skiff_simde::map<std::uint8_t, simde__m128i, std::uint32_t>(x, [](std::uint32_t lane) { return static_cast<std::uint8_t>(lane); });
}
inline simde__m256i _mm512_cvtepi32_epi16(simde__m512i x) {
    return skiff_simde::map<std::uint16_t, simde__m256i, std::uint32_t>(x, [](std::uint32_t lane) { return static_cast<std::uint16_t>(lane); });
}
inline simde__m512 _mm512_cvtph_ps(simde__m256i x) {
    return skiff_simde::map<float, simde__m512, _Float16>(x, [](_Float16 lane) { return static_cast<float>(lane); });
}
inline simde__m256i _mm512_cvtps_ph(simde__m512 x, int) {  // to nearest, as every unit asks for
    return skiff_simde::map<_Float16, simde__m256i, float>(x, [](float lane) { return static_cast<_Float16>(lane); });
}
inline simde__m512i _mm512_srai_epi32(simde__m512i x, unsigned n) {
    return skiff_simde::map<std::int32_t, simde__m512i, std::int32_t>(x, [n](std::int32_t lane) { return n > 31 ? lane >> 31 : lane >> n; });
}

inline simde__m512i _mm512_i32gather_epi32(simde__m512i indices, const void* base, int scale) {
    return skiff_simde::map<std::int32_t, simde__m512i, std::int32_t>(indices, [=](std::int32_t index) {
        std::int32_t found;
        std::memcpy(&found, static_cast<const char*>(base) + static_cast<std::int64_t>(index) * scale, sizeof found);
        return found;
    });
}

inline float _mm512_reduce_add_ps(simde__m512 x) {
    return skiff_simde::reduce<float>(x, [](float a, float b) { return a + b; });
}
inline float _mm512_reduce_max_ps(simde__m512 x) {
    return skiff_simde::reduce<float>(x, [](float a, float b) { return a > b ? a : b; });
}
inline std::int32_t _mm512_reduce_add_epi32(simde__m512i x) {
    const skiff_simde::Lanes<std::uint32_t, simde__m512i> lanes(x);
    std::uint32_t sum = 0;
    for (std::uint32_t lane : lanes.of) sum += lane;
    return static_cast<std::int32_t>(sum);
}

inline simde__m256i _mm256_maskz_loadu_epi8(simde__mmask32 mask, const void* source) {
    std::uint8_t lanes[32] = {};
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1) std::memcpy(lanes + i, static_cast<const std::uint8_t*>(source) + i, 1);
    return skiff_simde::vector_of<simde__m256i>(lanes);
}
inline simde__m512i _mm512_maskz_loadu_epi16(simde__mmask32 mask, const void* source) {
    std::uint16_t lanes[32] = {};
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1) std::memcpy(lanes + i, static_cast<const std::uint16_t*>(source) + i, 2);
    return skiff_simde::vector_of<simde__m512i>(lanes);
}

// To bf16, to nearest even; NaN stays NaN.
inline simde__m256bh _mm512_cvtneps_pbh(simde__m512 x) {
    return skiff_simde::map<std::uint16_t, simde__m256bh, std::uint32_t>(x, [](std::uint32_t bits) {
        const bool nan = (bits & 0x7fffffff) > 0x7f800000;
        return static_cast<std::uint16_t>(nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    });
}
// sum + the products of pairs of bf16; not SIMDe's own, whose vectors are taken apart in another order.
inline simde__m512 skiff_dpbf16(simde__m512 sum, simde__m512bh a, simde__m512bh b) {
    const skiff_simde::Lanes<std::uint16_t, simde__m512bh> x(a), y(b);
    skiff_simde::Lanes<float, simde__m512> lanes(sum);
    const auto number = [](std::uint16_t bits) {
        const std::uint32_t whole = static_cast<std::uint32_t>(bits) << 16;
        float value;
        std::memcpy(&value, &whole, sizeof value);
        return value;
    };
    for (int i = 0; i < 16; ++i) lanes.of[i] += number(x.of[2 * i]) * number(y.of[2 * i]) + number(x.of[2 * i + 1]) * number(y.of[2 * i + 1]);
    return skiff_simde::vector_of<simde__m512>(lanes.of);
}
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps(sum, a, b) skiff_dpbf16(sum, a, b)
