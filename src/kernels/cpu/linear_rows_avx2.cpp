// Linear kernels in float for weights that are read as stored (plain_rows), or decoded row by row (any other layout).
//
// An output is the sum of eight lanes; lane j takes columns j, j+8, j+16 ... in order, one fused multiply-add each, and the lanes are added by a
// fixed tree. Every path keeps that order, so an output has the same bits for any number of tokens, rows or threads.
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/fetch.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/layouts.h"

namespace skiff {
namespace {

using Byte = std::byte;

constexpr std::int64_t max_direct_tokens = 16;    // up to here weights are converted in registers, above once per slab
constexpr std::int64_t direct_rows_at_once = 24;  // stay in the L2 while four tokens after the other meet them
constexpr std::int64_t slab_rows = 24;         // 24 x 512 x 4 bytes of weights and 64 x 512 x 4 of activations stay in L2
constexpr std::int64_t decoded_rows = 6;       // whole rows are decoded, so fewer of them
constexpr std::int64_t slab_columns = 512;
constexpr std::int64_t tokens_at_once = 64;
constexpr int tile_of_rows = 3, tile_of_tokens = 4;  // 12 sums, 3 weights and 1 activation in 16 registers

enum class Number { f32, f16, bf16 };

template <Number type>
inline __m256 load_numbers(const Byte* row, std::int64_t column) {
    if constexpr (type == Number::f32) return _mm256_loadu_ps(reinterpret_cast<const float*>(row) + column);
    if constexpr (type == Number::f16) return f16_to_f32(row + column * 2);
    return bf16_to_f32(row + column * 2);
}

// n < 8 numbers, zeros behind them; reads no further.
template <Number type>
inline __m256 load_numbers_tail(const Byte* row, std::int64_t column, std::int64_t n) {
    if constexpr (type == Number::f32) return load_tail(reinterpret_cast<const float*>(row) + column, n);
    alignas(16) Byte last[16] = {};
    for (std::int64_t i = 0; i < n * 2; ++i) last[i] = row[column * 2 + i];
    return load_numbers<type>(last, 0);
}

inline void write_output(const LinearArgs& args, std::int64_t row, std::int64_t token, float value) {
    if (args.bias != nullptr) value += args.bias[row];
    float* y = args.y + token * args.y_stride + row;
    *y = args.write == LinearArgs::Write::add ? *y + value : value;
}

// ---- few tokens: R rows times T tokens, weights straight from memory or, for tokens after the first four, from the L2. Meanwhile the next R rows are fetched into
// the L2 cache: several short streams at a time are more than the processor's own prefetching follows (1.5 to 1.9 times as fast with it).

template <Number type, int R, int T>
void direct_rows(const LinearArgs& args, const Byte* weights, std::int64_t row_bytes, std::int64_t row, std::int64_t token) {
    const std::int64_t n = args.x.n_columns;
    constexpr std::int64_t number_bytes = type == Number::f32 ? 4 : 2;
    const float* x = args.x.f32 + token * n;
    __m256 sum[R][T];
    SKIFF_UNROLL
    for (int r = 0; r < R; ++r) {
        SKIFF_UNROLL
        for (int t = 0; t < T; ++t) sum[r][t] = _mm256_setzero_ps();
    }
    std::int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        if (i * number_bytes % 64 == 0)
            for (int r = 0; r < R; ++r) fetch_lines<true>(weights + (R + r) * row_bytes + i * number_bytes, 1);
        __m256 a[T];
        SKIFF_UNROLL
        for (int t = 0; t < T; ++t) a[t] = _mm256_loadu_ps(x + t * n + i);
        SKIFF_UNROLL
        for (int r = 0; r < R; ++r) {
            const __m256 w = load_numbers<type>(weights + r * row_bytes, i);
            SKIFF_UNROLL
            for (int t = 0; t < T; ++t) sum[r][t] = _mm256_fmadd_ps(w, a[t], sum[r][t]);
        }
    }
    if (i < n)
        for (int r = 0; r < R; ++r) {
            const __m256 w = load_numbers_tail<type>(weights + r * row_bytes, i, n - i);
            for (int t = 0; t < T; ++t) sum[r][t] = _mm256_fmadd_ps(w, load_tail(x + t * n + i, n - i), sum[r][t]);
        }
    SKIFF_UNROLL
    for (int r = 0; r < R; ++r) {
        SKIFF_UNROLL
        for (int t = 0; t < T; ++t) write_output(args, row + r, token + t, sum_lanes(sum[r][t]));
    }
}

template <Number type, int T>
void direct(const LinearArgs& args, Range rows, std::int64_t token) {
    constexpr int n_rows = T == 1 ? 4 : T <= 3 ? 3 : 2;
    const std::int64_t row_bytes = args.weight->n_columns * (type == Number::f32 ? 4 : 2);
    std::int64_t row = rows.begin;
    for (; row + n_rows <= rows.end; row += n_rows) direct_rows<type, n_rows, T>(args, args.weight->data + row * row_bytes, row_bytes, row, token);
    for (; row < rows.end; ++row) direct_rows<type, 1, T>(args, args.weight->data + row * row_bytes, row_bytes, row, token);
}

template <Number type>
void direct_tokens(const LinearArgs& args, Range rows, std::int64_t token, std::int64_t n_tokens) {
    switch (n_tokens) {
        case 1: return direct<type, 1>(args, rows, token);
        case 2: return direct<type, 2>(args, rows, token);
        case 3: return direct<type, 3>(args, rows, token);
        default: return direct<type, 4>(args, rows, token);
    }
}

// ---- many tokens

// Part of the columns of some rows as floats, and of the tokens that meet them.
struct Panel {
    const float* weights;
    const float* x;
    std::int64_t weight_stride, x_stride;
    std::int64_t n_columns;
};

// sums (R rows, T tokens, 8 lanes) f32, rows tokens_at_once * 8 apart, += panel
template <int R, int T>
void multiply_panel(const Panel& panel, float* sums) {
    constexpr std::int64_t row_lanes = tokens_at_once * 8;
    __m256 sum[R][T];
    SKIFF_UNROLL
    for (int r = 0; r < R; ++r) {
        SKIFF_UNROLL
        for (int t = 0; t < T; ++t) sum[r][t] = _mm256_load_ps(sums + r * row_lanes + t * 8);
    }
    const float* w = panel.weights;
    const float* x = panel.x;
    std::int64_t i = 0;
    for (; i + 8 <= panel.n_columns; i += 8) {
        __m256 wide[R];
        SKIFF_UNROLL
        for (int r = 0; r < R; ++r) wide[r] = _mm256_loadu_ps(w + r * panel.weight_stride + i);
        SKIFF_UNROLL
        for (int t = 0; t < T; ++t) {
            const __m256 a = _mm256_loadu_ps(x + t * panel.x_stride + i);
            SKIFF_UNROLL
            for (int r = 0; r < R; ++r) sum[r][t] = _mm256_fmadd_ps(wide[r], a, sum[r][t]);
        }
    }
    if (const std::int64_t rest = panel.n_columns - i; rest > 0)
        for (int t = 0; t < T; ++t) {
            const __m256 a = load_tail(x + t * panel.x_stride + i, rest);
            for (int r = 0; r < R; ++r) sum[r][t] = _mm256_fmadd_ps(load_tail(w + r * panel.weight_stride + i, rest), a, sum[r][t]);
        }
    SKIFF_UNROLL
    for (int r = 0; r < R; ++r) {
        SKIFF_UNROLL
        for (int t = 0; t < T; ++t) _mm256_store_ps(sums + r * row_lanes + t * 8, sum[r][t]);
    }
}

using PanelFn = void (*)(const Panel& panel, float* sums);
constexpr PanelFn panel_kernels[tile_of_rows][tile_of_tokens] = {
    {multiply_panel<1, 1>, multiply_panel<1, 2>, multiply_panel<1, 3>, multiply_panel<1, 4>},
    {multiply_panel<2, 1>, multiply_panel<2, 2>, multiply_panel<2, 3>, multiply_panel<2, 4>},
    {multiply_panel<3, 1>, multiply_panel<3, 2>, multiply_panel<3, 3>, multiply_panel<3, 4>},
};

void multiply_slab(const Panel& slab, std::int64_t n_rows, std::int64_t n_tokens, float* sums) {
    for (std::int64_t t = 0; t < n_tokens; t += tile_of_tokens) {
        const std::int64_t columns = n_tokens - t < tile_of_tokens ? n_tokens - t : tile_of_tokens;
        for (std::int64_t r = 0; r < n_rows; r += tile_of_rows) {
            const std::int64_t height = n_rows - r < tile_of_rows ? n_rows - r : tile_of_rows;
            const Panel panel = {slab.weights + r * slab.weight_stride, slab.x + t * slab.x_stride, slab.weight_stride, slab.x_stride, slab.n_columns};
            panel_kernels[height - 1][columns - 1](panel, sums + (r * tokens_at_once + t) * 8);
        }
    }
}

template <Number type>
void convert_rows(const Byte* source, std::int64_t row_bytes, std::int64_t n_rows, std::int64_t first_column, std::int64_t n_columns, float* target) {
    for (std::int64_t r = 0; r < n_rows; ++r, source += row_bytes, target += slab_columns) {
        std::int64_t i = 0;
        for (; i + 8 <= n_columns; i += 8) _mm256_store_ps(target + i, load_numbers<type>(source, first_column + i));
        if (i < n_columns) _mm256_store_ps(target + i, load_numbers_tail<type>(source, first_column + i, n_columns - i));
    }
}

// Where the floats of a slab of rows come from.
struct Source {
    enum class Kind { f32, f16, bf16, decoded } kind;
    const Byte* data;        // of the slab's first row
    std::int64_t row_bytes;
};

void slab_of_tokens(const LinearArgs& args, const Source& source, std::int64_t row, std::int64_t n_rows, std::int64_t token, std::int64_t n_tokens) {
    alignas(64) float sums[slab_rows * tokens_at_once * 8];
    alignas(64) float converted[slab_rows * slab_columns];
    const std::int64_t n = args.x.n_columns;
    for (std::int64_t r = 0; r < n_rows; ++r)
        for (std::int64_t t = 0; t < n_tokens; ++t) _mm256_store_ps(sums + (r * tokens_at_once + t) * 8, _mm256_setzero_ps());
    for (std::int64_t column = 0; column < n; column += slab_columns) {
        Panel slab = {converted, args.x.f32 + token * n + column, slab_columns, n, n - column < slab_columns ? n - column : slab_columns};
        if (source.kind == Source::Kind::f16) convert_rows<Number::f16>(source.data, source.row_bytes, n_rows, column, slab.n_columns, converted);
        else if (source.kind == Source::Kind::bf16) convert_rows<Number::bf16>(source.data, source.row_bytes, n_rows, column, slab.n_columns, converted);
        else slab.weights = reinterpret_cast<const float*>(source.data) + column, slab.weight_stride = source.row_bytes / 4;
        multiply_slab(slab, n_rows, n_tokens, sums);
    }
    for (std::int64_t t = 0; t < n_tokens; ++t)
        for (std::int64_t r = 0; r < n_rows; ++r) write_output(args, row + r, token + t, sum_lanes(_mm256_load_ps(sums + (r * tokens_at_once + t) * 8)));
}

Source::Kind kind_of(const PackedWeight& weight) {
    if (weight.layout != &plain_rows) return Source::Kind::decoded;
    switch (weight.dtype) {
        case DType::f32: return Source::Kind::f32;
        case DType::f16: return Source::Kind::f16;
        case DType::bf16: return Source::Kind::bf16;
        default: return Source::Kind::decoded;
    }
}

}  // namespace

void linear_rows_avx2(const LinearArgs& args, Range rows) {
    const PackedWeight& weight = *args.weight;
    const Source::Kind kind = kind_of(weight);
    if (args.n_tokens <= max_direct_tokens && kind != Source::Kind::decoded) {
        for (std::int64_t row = rows.begin; row < rows.end; row += direct_rows_at_once) {
            const Range block = {row, rows.end - row < direct_rows_at_once ? rows.end : row + direct_rows_at_once};
            for (std::int64_t token = 0; token < args.n_tokens; token += tile_of_tokens) {
                const std::int64_t n_tokens = args.n_tokens - token < tile_of_tokens ? args.n_tokens - token : tile_of_tokens;
                if (kind == Source::Kind::f32) direct_tokens<Number::f32>(args, block, token, n_tokens);
                else if (kind == Source::Kind::f16) direct_tokens<Number::f16>(args, block, token, n_tokens);
                else direct_tokens<Number::bf16>(args, block, token, n_tokens);
            }
        }
        return;
    }
    const bool decoded = kind == Source::Kind::decoded;
    const std::int64_t row_bytes = weight.n_columns * (kind == Source::Kind::f16 || kind == Source::Kind::bf16 ? 2 : 4);
    const std::int64_t step = decoded ? decoded_rows : slab_rows;
    float* scratch = decoded ? thread_scratch(decoded_rows * weight.n_columns) : nullptr;
    for (std::int64_t row = rows.begin; row < rows.end; row += step) {
        const std::int64_t n_rows = rows.end - row < step ? rows.end - row : step;
        for (std::int64_t r = 0; decoded && r < n_rows; ++r) weight.layout->row(weight, row + r, scratch + r * weight.n_columns);
        const Source source = {kind, decoded ? reinterpret_cast<const Byte*>(scratch) : weight.data + row * row_bytes, row_bytes};
        for (std::int64_t token = 0; token < args.n_tokens; token += tokens_at_once)
            slab_of_tokens(args, source, row, n_rows, token, args.n_tokens - token < tokens_at_once ? args.n_tokens - token : tokens_at_once);
    }
}

}  // namespace skiff
