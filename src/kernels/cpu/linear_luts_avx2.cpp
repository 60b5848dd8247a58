// Linear kernels in float over lut_rows (lut_format.h) with AVX2: eight codes at once. Up to 8 levels lie in one register, up to 16 in two (vpermps), more in the L1 cache
// (vgatherdps); FP8 becomes F16 by shifts.
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/fetch.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/lut_format.h"

namespace skiff {
namespace {

inline void write_output(const LinearArgs& args, std::int64_t row, std::int64_t token, float value) {
    if (args.bias != nullptr) value += args.bias[row];
    float* y = args.y + token * args.y_stride + row;
    *y = args.write == LinearArgs::Write::add ? *y + value : value;
}

// Eight codes of any width as 32-bit numbers: the first four out of the word at the front, the others out of the word that holds their first bit.
struct CodeWords {
    __m256i shifts, mask;
    std::int64_t second;  // byte of the second word
    explicit CodeWords(int bits) : mask(_mm256_set1_epi32((1 << bits) - 1)), second(bits / 2) {
        const int rest = bits % 2 * 4;
        shifts = _mm256_setr_epi32(0, bits, 2 * bits, 3 * bits, rest, rest + bits, rest + 2 * bits, rest + 3 * bits);
    }
    // Reads the four bytes at `second` too, whatever they are for.
    __m256i operator()(const std::byte* codes) const {
        std::int32_t low, high;
        __builtin_memcpy(&low, codes, 4);
        __builtin_memcpy(&high, codes + second, 4);
        return _mm256_and_si256(_mm256_srlv_epi32(_mm256_set_m128i(_mm_set1_epi32(high), _mm_set1_epi32(low)), shifts), mask);
    }
};

// Tables of up to 8, 16 or 256 floats.
template <int Levels>
struct TableFloats {
    alignas(32) float levels[Levels];

    void load(const PackedWeight& weight, const LutFormat& format, std::int64_t row, std::int64_t group) {
        const std::byte* table = lut_table(weight, format, row, group);
        for (int i = 0; i < Levels; i += 8) {
            const int n = format.n_levels - i;
            if (n <= 0) return;
            alignas(16) std::byte halves[16] = {};
            __builtin_memcpy(halves, table + i * 2, static_cast<std::size_t>(n < 8 ? n : 8) * 2);
            _mm256_store_ps(levels + i, f16_to_f32(halves));
        }
    }
    __m256 operator()(__m256i code) const {
        if constexpr (Levels > 16) return _mm256_i32gather_ps(levels, code, 4);
        const __m256 low = _mm256_permutevar8x32_ps(_mm256_load_ps(levels), code);
        if constexpr (Levels <= 8) return low;
        else return _mm256_blendv_ps(low, _mm256_permutevar8x32_ps(_mm256_load_ps(levels + 8), code), _mm256_castsi256_ps(_mm256_slli_epi32(code, 28)));
    }
};

// FP8 as F16: E5M2 is its upper half; E4M3 has an exponent of one bit less, so that the number is 2^8 times too small.
template <LutNumbers numbers>
struct Fp8Floats {
    __m256 scale;

    void load(const PackedWeight& weight, const LutFormat& format, std::int64_t row, std::int64_t group) {
        scale = _mm256_set1_ps(lut_scale(weight, format, row, group) * (numbers == LutNumbers::e4m3 ? 256.0f : 1.0f));
    }
    __m256 operator()(__m256i code) const {
        const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1)), top = _mm_slli_epi16(words, 8);
        __m128i half = top;
        if constexpr (numbers == LutNumbers::e4m3)
            half = _mm_or_si128(_mm_and_si128(_mm_slli_epi16(words, 7), _mm_set1_epi16(0x3f80)), _mm_and_si128(top, _mm_set1_epi16(static_cast<short>(0x8000))));
        return _mm256_mul_ps(_mm256_cvtph_ps(half), scale);
    }
};

template <class Numbers, int R, int T>
void rows_times_tokens(const LinearArgs& args, const LutFormat& format, const CodeWords& code_words, std::int64_t row, std::int64_t token) {
    const PackedWeight& weight = *args.weight;
    const std::int64_t n_columns = weight.n_columns;
    const float* x = args.x.f32 + token * n_columns;
    const std::byte* codes = weight.data + row * format.row_bytes;
    __m256 sum[R][T];
    SKIFF_UNROLL
    for (int r = 0; r < R; ++r) {
        SKIFF_UNROLL
        for (int t = 0; t < T; ++t) sum[r][t] = _mm256_setzero_ps();
    }
    Numbers numbers[R] = {};
    std::int64_t column = 0;
    for (std::int64_t group = 0; group < format.n_groups; ++group) {
        for (int r = 0; r < R; ++r) numbers[r].load(weight, format, row + r, group);
        const std::int64_t end = n_columns < (group + 1) * format.group_size ? n_columns : (group + 1) * format.group_size;
        for (; column + 8 <= end && column / 8 * format.bits + code_words.second + 4 <= format.row_bytes; column += 8, codes += format.bits) {
            if (column % 64 == 0)  // a line of 8-bit codes
                for (int r = 0; r < R; ++r) fetch_lines<true>(codes + (R + r) * format.row_bytes, 1);
            __m256 a[T];
            SKIFF_UNROLL
            for (int t = 0; t < T; ++t) a[t] = _mm256_loadu_ps(x + t * n_columns + column);
            SKIFF_UNROLL
            for (int r = 0; r < R; ++r) {
                const __m256 w = numbers[r](code_words(codes + r * format.row_bytes));
                SKIFF_UNROLL
                for (int t = 0; t < T; ++t) sum[r][t] = _mm256_fmadd_ps(w, a[t], sum[r][t]);
            }
        }
        for (; column < end; column += 8, codes += format.bits) {  // the last columns of a row: no byte behind its own is read
            const std::int64_t n = end - column < 8 ? end - column : 8, bytes = (n * format.bits + 7) / 8;
            for (int r = 0; r < R; ++r) {
                std::byte own[16] = {};
                __builtin_memcpy(own, codes + r * format.row_bytes, static_cast<std::size_t>(bytes));
                const __m256 w = numbers[r](code_words(own));
                for (int t = 0; t < T; ++t) sum[r][t] = _mm256_fmadd_ps(w, load_tail(x + t * n_columns + column, n), sum[r][t]);
            }
        }
    }
    SKIFF_UNROLL
    for (int r = 0; r < R; ++r) {
        SKIFF_UNROLL
        for (int t = 0; t < T; ++t) write_output(args, row + r, token + t, sum_lanes(sum[r][t]));
    }
}

template <class Numbers, int T>
void all_rows(const LinearArgs& args, const LutFormat& format, Range rows) {
    constexpr int at_once = T == 1 ? 4 : 2;
    const CodeWords code_words(format.bits);
    std::int64_t row = rows.begin;
    for (; row + at_once <= rows.end; row += at_once) rows_times_tokens<Numbers, at_once, T>(args, format, code_words, row, 0);
    for (; row < rows.end; ++row) rows_times_tokens<Numbers, 1, T>(args, format, code_words, row, 0);
}

template <class Numbers>
void by_tokens(const LinearArgs& args, const LutFormat& format, Range rows) {
    switch (args.n_tokens) {
        case 1: return all_rows<Numbers, 1>(args, format, rows);
        case 2: return all_rows<Numbers, 2>(args, format, rows);
        case 3: return all_rows<Numbers, 3>(args, format, rows);
        default: return all_rows<Numbers, 4>(args, format, rows);
    }
}

}  // namespace

void linear_luts_avx2(const LinearArgs& args, Range rows) {
    if (args.n_tokens > lut_direct_tokens) return linear_rows_avx2(args, rows);
    const LutFormat format = lut_format(*args.weight);
    if (format.numbers == LutNumbers::e4m3) return by_tokens<Fp8Floats<LutNumbers::e4m3>>(args, format, rows);
    if (format.numbers == LutNumbers::e5m2) return by_tokens<Fp8Floats<LutNumbers::e5m2>>(args, format, rows);
    if (format.n_levels <= 8) return by_tokens<TableFloats<8>>(args, format, rows);
    if (format.n_levels <= 16) return by_tokens<TableFloats<16>>(args, format, rows);
    return by_tokens<TableFloats<256>>(args, format, rows);
}

}  // namespace skiff
