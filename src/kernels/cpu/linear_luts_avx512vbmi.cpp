// Linear kernels in float over lut_rows (lut_format.h) with AVX-512 and VBMI: 32 codes at once. Codes of any width become bytes by vpermb and vpmultishiftqb, 32 of a table's
// halves are looked up by vpermw, 64 by vpermi2w, 256 by four of those; FP8 becomes F16 by shifts, since their layouts differ only in width.
//
// Bound by instructions: some 17 a block of 32 weights with 16 levels and 26 with 256, where bf16 is bound by memory.
#include <immintrin.h>

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

constexpr std::int64_t block = 32;

// Codes of any width to bytes.
struct CodeBytes {
    __m256i gather, shifts, mask;
    __mmask32 stored;  // bytes of a block
    explicit CodeBytes(int bits) {
        alignas(32) std::uint8_t from[32], shift[32];
        for (int i = 0; i < 32; ++i) {
            from[i] = static_cast<std::uint8_t>(i % 8 < bits ? i / 8 * bits + i % 8 : 0);
            shift[i] = static_cast<std::uint8_t>(i % 8 * bits);
        }
        gather = _mm256_load_si256(reinterpret_cast<const __m256i*>(from)), shifts = _mm256_load_si256(reinterpret_cast<const __m256i*>(shift));
        mask = _mm256_set1_epi8(static_cast<char>((1 << bits) - 1));
        stored = bits == 8 ? 0xffffffffu : (1u << 4 * bits) - 1;
    }
    // 32 codes as 16-bit numbers; of a short block the bytes that are there.
    template <bool Narrow>
    __m512i operator()(const std::byte* codes, __mmask32 present) const {
        __m256i bytes = _mm256_maskz_loadu_epi8(present, codes);
        if constexpr (Narrow) bytes = _mm256_and_si256(_mm256_multishift_epi64_epi8(shifts, _mm256_permutexvar_epi8(gather, bytes)), mask);
        return _mm512_cvtepu8_epi16(bytes);
    }
};

// Tables of up to 32, 64 or 256 halves.
template <int Levels>
struct TableHalves {
    static constexpr int n_vectors = (Levels + 31) / 32;
    __m512i part[n_vectors];

    void load(const PackedWeight& weight, const LutFormat& format, std::int64_t row, std::int64_t group) {
        const std::byte* table = lut_table(weight, format, row, group);
        for (int i = 0; i < n_vectors; ++i) {
            const int n = format.n_levels - i * 32;
            part[i] = _mm512_maskz_loadu_epi16(n >= 32 ? 0xffffffffu : n <= 0 ? 0 : (1u << n) - 1, table + i * 64);
        }
    }
    __m512i operator()(__m512i code) const {
        if constexpr (n_vectors == 1) return _mm512_permutexvar_epi16(code, part[0]);
        if constexpr (n_vectors == 2) return _mm512_permutex2var_epi16(part[0], code, part[1]);
        if constexpr (n_vectors == 8) {
            const __mmask32 second = _mm512_test_epi16_mask(code, _mm512_set1_epi16(64)), upper = _mm512_test_epi16_mask(code, _mm512_set1_epi16(128));
            const auto pair = [&](int i) {
                return _mm512_mask_blend_epi16(second, _mm512_permutex2var_epi16(part[i], code, part[i + 1]), _mm512_permutex2var_epi16(part[i + 2], code, part[i + 3]));
            };
            return _mm512_mask_blend_epi16(upper, pair(0), pair(4));
        }
        return code;
    }
    static __m256 scaled(__m256 value, const TableHalves&) { return value; }
};

// FP8 as F16: E5M2 is its upper half; E4M3 has an exponent of one bit less, so that the number is 2^8 times too small.
template <LutNumbers numbers>
struct Fp8Halves {
    __m256 scale;

    void load(const PackedWeight& weight, const LutFormat& format, std::int64_t row, std::int64_t group) {
        scale = _mm256_set1_ps(lut_scale(weight, format, row, group) * (numbers == LutNumbers::e4m3 ? 256.0f : 1.0f));
    }
    __m512i operator()(__m512i code) const {
        const __m512i top = _mm512_slli_epi16(code, 8);
        if constexpr (numbers == LutNumbers::e5m2) return top;
        return _mm512_ternarylogic_epi32(_mm512_and_si512(_mm512_slli_epi16(code, 7), _mm512_set1_epi16(0x3f80)), top, _mm512_set1_epi16(static_cast<short>(0x8000)), 0xf8);
    }
    static __m256 scaled(__m256 value, const Fp8Halves& own) { return _mm256_mul_ps(value, own.scale); }
};

template <int Quarter>
inline __m256 quarter_of(__m512i halves) {
    return _mm256_cvtph_ps(_mm512_extracti32x4_epi32(halves, Quarter));
}

// sum (T) += 32 columns of one row times T tokens; of a short block `n` columns.
template <class Numbers, int T>
inline void add_block(const Numbers& numbers, __m512i code, const float* x, std::int64_t x_stride, std::int64_t n, __m256 (&sum)[T]) {
    const __m512i halves = numbers(code);
    const __m256 w[4] = {Numbers::scaled(quarter_of<0>(halves), numbers), Numbers::scaled(quarter_of<1>(halves), numbers), Numbers::scaled(quarter_of<2>(halves), numbers),
                         Numbers::scaled(quarter_of<3>(halves), numbers)};
    SKIFF_UNROLL
    for (int q = 0; q < 4; ++q) {
        if (n < block && n <= q * 8) return;
        SKIFF_UNROLL
        for (int t = 0; t < T; ++t) {
            const float* at = x + t * x_stride + q * 8;
            sum[t] = _mm256_fmadd_ps(w[q], n >= block ? _mm256_loadu_ps(at) : load_tail(at, n - q * 8 < 8 ? n - q * 8 : 8), sum[t]);
        }
    }
}

template <class Numbers, bool Narrow, int R, int T>
void rows_times_tokens(const LinearArgs& args, const LutFormat& format, const CodeBytes& code_bytes, std::int64_t row, std::int64_t token) {
    const PackedWeight& weight = *args.weight;
    const std::int64_t n_columns = weight.n_columns, block_bytes = 4 * format.bits;
    const float* x = args.x.f32 + token * n_columns;
    const std::byte* codes = weight.data + row * format.row_bytes;
    __m256 sum[R][T];
    SKIFF_UNROLL
    for (int r = 0; r < R; ++r) {
        SKIFF_UNROLL
        for (int t = 0; t < T; ++t) sum[r][t] = _mm256_setzero_ps();
    }
    Numbers numbers[R];
    std::int64_t column = 0;
    for (std::int64_t group = 0; group < format.n_groups; ++group) {
        SKIFF_UNROLL
        for (int r = 0; r < R; ++r) numbers[r].load(weight, format, row + r, group);
        const std::int64_t end = n_columns < (group + 1) * format.group_size ? n_columns : (group + 1) * format.group_size;
        for (; column + block <= end; column += block, codes += block_bytes) {
            SKIFF_UNROLL
            for (int r = 0; r < R; ++r) {
                const std::byte* at = codes + r * format.row_bytes;
                fetch_lines<true>(at + R * format.row_bytes, 1);
                fetch_lines<false>(at + 1024, 1);
                add_block<Numbers, T>(numbers[r], code_bytes.operator()<Narrow>(at, code_bytes.stored), x + column, n_columns, block, sum[r]);
            }
        }
        if (column < end) {  // only of the last group
            const auto bytes = static_cast<int>(((end - column) * format.bits + 7) / 8);
            SKIFF_UNROLL
            for (int r = 0; r < R; ++r)
                add_block<Numbers, T>(numbers[r], code_bytes.operator()<Narrow>(codes + r * format.row_bytes, bytes >= 32 ? 0xffffffffu : (1u << bytes) - 1), x + column, n_columns, end - column, sum[r]);
            column = end;
        }
    }
    SKIFF_UNROLL
    for (int r = 0; r < R; ++r) {
        SKIFF_UNROLL
        for (int t = 0; t < T; ++t) write_output(args, row + r, token + t, sum_lanes(sum[r][t]));
    }
}

template <class Numbers, bool Narrow, int T>
void all_rows(const LinearArgs& args, const LutFormat& format, Range rows, std::int64_t token) {
    constexpr int at_once = T <= 2 ? 4 : 2;
    const CodeBytes code_bytes(format.bits);
    std::int64_t row = rows.begin;
    for (; row + at_once <= rows.end; row += at_once) rows_times_tokens<Numbers, Narrow, at_once, T>(args, format, code_bytes, row, token);
    for (; row < rows.end; ++row) rows_times_tokens<Numbers, Narrow, 1, T>(args, format, code_bytes, row, token);
}

template <class Numbers, bool Narrow>
void by_tokens(const LinearArgs& args, const LutFormat& format, Range rows) {
    for (std::int64_t token = 0; token < args.n_tokens; token += lut_direct_tokens) switch (args.n_tokens - token) {
            case 1: all_rows<Numbers, Narrow, 1>(args, format, rows, token); break;
            case 2: all_rows<Numbers, Narrow, 2>(args, format, rows, token); break;
            case 3: all_rows<Numbers, Narrow, 3>(args, format, rows, token); break;
            default: all_rows<Numbers, Narrow, 4>(args, format, rows, token);
        }
}

}  // namespace

void linear_luts_avx512vbmi(const LinearArgs& args, Range rows) {
#if !defined(SKIFF_EMULATED_AMX)  // which may run where there is no AVX2
    if (args.n_tokens > lut_direct_tokens) return linear_rows_avx2(args, rows);
#endif
    const LutFormat format = lut_format(*args.weight);
    if (format.numbers == LutNumbers::e4m3) return by_tokens<Fp8Halves<LutNumbers::e4m3>, false>(args, format, rows);
    if (format.numbers == LutNumbers::e5m2) return by_tokens<Fp8Halves<LutNumbers::e5m2>, false>(args, format, rows);
    if (format.n_levels <= 32) return by_tokens<TableHalves<32>, true>(args, format, rows);
    if (format.n_levels <= 64) return by_tokens<TableHalves<64>, true>(args, format, rows);
    if (format.bits < 8) return by_tokens<TableHalves<256>, true>(args, format, rows);
    return by_tokens<TableHalves<256>, false>(args, format, rows);
}

}  // namespace skiff
