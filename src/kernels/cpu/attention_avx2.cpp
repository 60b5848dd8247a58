// Attention over a state of f32, f16 or bf16 in one pass. For each token and KV head: chunks of attention_chunk positions, each with its own
// maximum, sum and weighted values, merged in order of position; so the bits depend on the positions alone, not on batch or threads.
// Up to eight query heads of one KV head, of one token or of neighbours in one sequence, share what is read and converted.
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/ref/ref.h"

namespace skiff {
namespace {

constexpr std::int64_t max_head_dim = 512, max_heads_at_once = 8, tile = 32;  // positions converted at a time; 32 x 128 x 4 bytes fit half of L1

// Work space of some queries, on the stack.
struct Scratch {
    alignas(32) float q[max_heads_at_once * max_head_dim];    // scaled, padded with zeros to whole vectors
    alignas(32) float rows[tile * max_head_dim];              // keys or values of one tile as f32, padded likewise
    alignas(32) float scores[max_heads_at_once * attention_chunk];
    alignas(32) float part[max_heads_at_once * max_head_dim]; // weighted values of the chunk
    alignas(32) float sum[max_heads_at_once * max_head_dim];  // and of all chunks so far
};

// `n` rows of head_dim numbers, `row_bytes` apart, as floats `padded` apart. Returns where they are: f32 rows of whole vectors stay in place.
struct FloatRows {
    const float* data;
    std::int64_t stride;
};
FloatRows load_rows(DType dtype, const std::byte* source, std::int64_t row_bytes, std::int64_t n, std::int64_t head_dim, float* target) {
    const std::int64_t padded = (head_dim + 7) / 8 * 8, whole = head_dim / 8 * 8;
    if (dtype == DType::f32 && whole == head_dim) return {reinterpret_cast<const float*>(source), row_bytes / 4};
    for (std::int64_t row = 0; row < n; ++row, source += row_bytes, target += padded) {
        if (dtype == DType::f32) {
            const auto* values = reinterpret_cast<const float*>(source);
            for (std::int64_t i = 0; i < padded; i += 8) _mm256_store_ps(target + i, load_tail(values + i, head_dim - i < 8 ? head_dim - i : 8));
            continue;
        }
        const auto* values = reinterpret_cast<const std::uint16_t*>(source);
        if (dtype == DType::f16)
            for (std::int64_t i = 0; i < whole; i += 8) _mm256_store_ps(target + i, f16_to_f32(values + i));
        else
            for (std::int64_t i = 0; i < whole; i += 8) _mm256_store_ps(target + i, bf16_to_f32(values + i));
        if (whole == padded) continue;
        alignas(16) std::uint16_t last[8] = {};
        for (std::int64_t i = whole; i < head_dim; ++i) last[i - whole] = values[i];
        _mm256_store_ps(target + whole, dtype == DType::f16 ? f16_to_f32(last) : bf16_to_f32(last));
    }
    return {target - n * padded, padded};
}

// The sums of four vectors, lanes added in a fixed order whichever of the four a vector is.
inline __m128 sum_lanes4(__m256 a, __m256 b, __m256 c, __m256 d) {
    const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

// scores[k * attention_chunk + p] = q[k] . row p, for n rows and Q queries `padded` apart, four rows at a time.
template <int Q>
void score_rows(const float* q, FloatRows rows, std::int64_t n, std::int64_t padded, float* scores) {
    for (std::int64_t p = 0; p < n; p += 4) {
        const std::int64_t last = n - 1 - p;  // rows behind the last are the last once more
        const float* row[4] = {rows.data + p * rows.stride, rows.data + (p + (last < 1 ? last : 1)) * rows.stride,
                               rows.data + (p + (last < 2 ? last : 2)) * rows.stride, rows.data + (p + (last < 3 ? last : 3)) * rows.stride};
        __m256 dot[Q][4];
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) dot[k][0] = dot[k][1] = dot[k][2] = dot[k][3] = _mm256_setzero_ps();
        for (std::int64_t i = 0; i < padded; i += 8) {
            __m256 value[Q];
            SKIFF_UNROLL
            for (int k = 0; k < Q; ++k) value[k] = _mm256_load_ps(q + k * padded + i);
            SKIFF_UNROLL
            for (int r = 0; r < 4; ++r) {
                const __m256 key = _mm256_loadu_ps(row[r] + i);
                SKIFF_UNROLL
                for (int k = 0; k < Q; ++k) dot[k][r] = _mm256_fmadd_ps(value[k], key, dot[k][r]);
            }
        }
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) _mm_storeu_ps(scores + k * attention_chunk + p, sum_lanes4(dot[k][0], dot[k][1], dot[k][2], dot[k][3]));
    }
}

// part[k] += sum over n rows of weights[k * attention_chunk + p] * row p, for Q queries; their parts are `padded` apart.
template <int Q>
void add_weighted_rows(const float* weights, FloatRows rows, std::int64_t n, std::int64_t padded, float* part) {
    std::int64_t i = 0;
    for (; i + 32 <= padded; i += 32) {
        __m256 sum[Q][4];
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) {
            SKIFF_UNROLL
            for (int v = 0; v < 4; ++v) sum[k][v] = _mm256_load_ps(part + k * padded + i + v * 8);
        }
        for (std::int64_t p = 0; p < n; ++p) {
            __m256 weight[Q];
            SKIFF_UNROLL
            for (int k = 0; k < Q; ++k) weight[k] = _mm256_broadcast_ss(weights + k * attention_chunk + p);
            SKIFF_UNROLL
            for (int v = 0; v < 4; ++v) {
                const __m256 value = _mm256_loadu_ps(rows.data + p * rows.stride + i + v * 8);
                SKIFF_UNROLL
                for (int k = 0; k < Q; ++k) sum[k][v] = _mm256_fmadd_ps(weight[k], value, sum[k][v]);
            }
        }
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) {
            SKIFF_UNROLL
            for (int v = 0; v < 4; ++v) _mm256_store_ps(part + k * padded + i + v * 8, sum[k][v]);
        }
    }
    for (; i < padded; i += 8)
        for (int k = 0; k < Q; ++k) {
            __m256 sum = _mm256_load_ps(part + k * padded + i);
            for (std::int64_t p = 0; p < n; ++p)
                sum = _mm256_fmadd_ps(_mm256_broadcast_ss(weights + k * attention_chunk + p), _mm256_loadu_ps(rows.data + p * rows.stride + i), sum);
            _mm256_store_ps(part + k * padded + i, sum);
        }
}

// Turns scores into e^(score - highest) in place.
struct SoftmaxPart {
    float highest, total;
};
SoftmaxPart exponentiate(float* scores, std::int64_t n, float softcap) {
    __m256 highest = _mm256_set1_ps(-__builtin_inff());
    for (std::int64_t p = 0; p < n; p += 8) {
        __m256 score = _mm256_load_ps(scores + p);
        if (softcap > 0) score = _mm256_mul_ps(_mm256_set1_ps(softcap), tanh_ps(_mm256_div_ps(score, _mm256_set1_ps(softcap))));
        if (n - p < 8) score = _mm256_blendv_ps(_mm256_set1_ps(-__builtin_inff()), score, _mm256_castsi256_ps(tail_mask(n - p)));
        _mm256_store_ps(scores + p, score);
        highest = _mm256_max_ps(highest, score);
    }
    const float top = max_lanes(highest);
    __m256 total = _mm256_setzero_ps();
    for (std::int64_t p = 0; p < n; p += 8) {
        __m256 weight = exp_ps(_mm256_sub_ps(_mm256_load_ps(scores + p), _mm256_set1_ps(top)));
        if (n - p < 8) weight = _mm256_and_ps(weight, _mm256_castsi256_ps(tail_mask(n - p)));
        _mm256_store_ps(scores + p, weight);
        total = _mm256_add_ps(total, weight);
    }
    return {top, sum_lanes(total)};
}

// sum = sum * keep + part * take; part = 0
void merge(float* sum, float* part, std::int64_t padded, float keep, float take) {
    const __m256 kept = _mm256_set1_ps(keep), taken = _mm256_set1_ps(take);
    for (std::int64_t i = 0; i < padded; i += 8) {
        _mm256_store_ps(sum + i, _mm256_fmadd_ps(_mm256_load_ps(sum + i), kept, _mm256_mul_ps(_mm256_load_ps(part + i), taken)));
        _mm256_store_ps(part + i, _mm256_setzero_ps());
    }
}

float exp_of(float x) { return _mm256_cvtss_f32(exp_ps(_mm256_set1_ps(x))); }

// Query heads that attend to the same keys and values from position `first` on: heads of one KV head, of one or more tokens.
struct Queries {
    const std::byte *keys, *values;  // position 0, this KV head
    std::int64_t row_bytes, first, n;
    std::int64_t last[max_heads_at_once];
    const float* q[max_heads_at_once];
    float* y[max_heads_at_once];
};

inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

void score_chunk(const AttentionArgs& args, const Queries& queries, std::int64_t begin, std::int64_t n, Scratch& scratch) {
    const std::int64_t padded = (args.head_dim + 7) / 8 * 8;
    for (std::int64_t p = 0; p < n; p += tile) {
        const std::int64_t count = least(n - p, tile);
        const FloatRows rows = load_rows(args.state_dtype, queries.keys + (begin + p) * queries.row_bytes, queries.row_bytes, count, args.head_dim, scratch.rows);
        std::int64_t k = 0;
        for (; k + 2 <= queries.n; k += 2) score_rows<2>(scratch.q + k * padded, rows, count, padded, scratch.scores + k * attention_chunk + p);
        if (k < queries.n) score_rows<1>(scratch.q + k * padded, rows, count, padded, scratch.scores + k * attention_chunk + p);
    }
}

// `n` positions of the chunk exist; query k sees the first seen[k] of them.
void weigh_chunk(const AttentionArgs& args, const Queries& queries, std::int64_t begin, std::int64_t n, const std::int64_t* seen, Scratch& scratch) {
    const std::int64_t padded = (args.head_dim + 7) / 8 * 8;
    for (std::int64_t p = 0; p < n; p += tile) {
        const std::int64_t count = least(n - p, tile);
        const FloatRows rows = load_rows(args.state_dtype, queries.values + (begin + p) * queries.row_bytes, queries.row_bytes, count, args.head_dim, scratch.rows);
        const auto rows_from = [&](std::int64_t row) { return FloatRows{rows.data + row * rows.stride, rows.stride}; };
        for (std::int64_t k = 0; k < queries.n; k += 2) {
            const bool pair = k + 1 < queries.n;
            const std::int64_t own = least(count, seen[k] - p), next = pair ? least(count, seen[k + 1] - p) : own;
            const std::int64_t shared = pair ? (least(own, next) > 0 ? least(own, next) : 0) : 0;
            const float* weights = scratch.scores + k * attention_chunk + p;
            float* part = scratch.part + k * padded;
            if (shared > 0) add_weighted_rows<2>(weights, rows, shared, padded, part);
            if (own > shared) add_weighted_rows<1>(weights + shared, rows_from(shared), own - shared, padded, part);
            if (pair && next > shared) add_weighted_rows<1>(weights + attention_chunk + shared, rows_from(shared), next - shared, padded, part + padded);
        }
    }
}

void attend(const AttentionArgs& args, const Queries& queries, Scratch& scratch) {
    const std::int64_t d = args.head_dim, padded = (d + 7) / 8 * 8;
    float highest[max_heads_at_once], total[max_heads_at_once];
    std::int64_t last = 0;
    for (std::int64_t k = 0; k < queries.n; ++k) {
        for (std::int64_t i = 0; i < padded; i += 8) {
            _mm256_store_ps(scratch.q + k * padded + i, _mm256_mul_ps(load_tail(queries.q[k] + i, least(d - i, 8)), _mm256_set1_ps(args.scale)));
            _mm256_store_ps(scratch.part + k * padded + i, _mm256_setzero_ps());
            _mm256_store_ps(scratch.sum + k * padded + i, _mm256_setzero_ps());
        }
        highest[k] = -__builtin_inff(), total[k] = 0;
        last = queries.last[k] > last ? queries.last[k] : last;
    }
    for (std::int64_t begin = queries.first; begin <= last; begin = (begin / attention_chunk + 1) * attention_chunk) {
        const std::int64_t n = least((begin / attention_chunk + 1) * attention_chunk, last + 1) - begin;
        std::int64_t seen[max_heads_at_once];
        SoftmaxPart parts[max_heads_at_once];
        score_chunk(args, queries, begin, n, scratch);
        for (std::int64_t k = 0; k < queries.n; ++k) {
            seen[k] = least(n, queries.last[k] + 1 - begin);
            if (seen[k] > 0) parts[k] = exponentiate(scratch.scores + k * attention_chunk, seen[k], args.softcap);
        }
        weigh_chunk(args, queries, begin, n, seen, scratch);
        for (std::int64_t k = 0; k < queries.n; ++k) {
            if (seen[k] <= 0) continue;
            const float top = parts[k].highest > highest[k] ? parts[k].highest : highest[k];
            const float keep = exp_of(highest[k] - top), take = exp_of(parts[k].highest - top);
            merge(scratch.sum + k * padded, scratch.part + k * padded, padded, keep, take);
            total[k] = total[k] * keep + parts[k].total * take;
            highest[k] = top;
        }
    }
    for (std::int64_t k = 0; k < queries.n; ++k) {
        const __m256 inverse = _mm256_set1_ps(1.0f / total[k]);
        for (std::int64_t i = 0; i < d; i += 8) store_tail(queries.y[k] + i, least(d - i, 8), _mm256_mul_ps(_mm256_load_ps(scratch.sum + k * padded + i), inverse));
    }
}

// Round to nearest even, NaN stays NaN (as float_to_bf16).
inline __m128i to_bf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i chosen = _mm256_blendv_epi8(rounded, _mm256_or_si256(upper, _mm256_set1_epi32(0x40)), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
}

}  // namespace

void attention_avx2(const AttentionArgs& args, Range items) {
    if (args.head_dim > max_head_dim) return attention_ref(args, items);
    Scratch scratch;
    const std::int64_t group = args.n_heads / args.n_kv_heads, d = args.head_dim, head_bytes = d * (args.state_dtype == DType::f32 ? 4 : 2);
    const std::int64_t token_limit = (items.end + args.n_kv_heads - 1) / args.n_kv_heads;
    for (std::int64_t kv_head = 0; kv_head < args.n_kv_heads; ++kv_head) {
        Queries queries = {};
        queries.row_bytes = head_bytes * args.n_kv_heads;
        for (std::int64_t token = items.begin / args.n_kv_heads; token < token_limit; ++token) {
            const std::int64_t item = token * args.n_kv_heads + kv_head, last = args.positions[token];
            if (item < items.begin || item >= items.end) continue;
            const std::int64_t first = args.window > 0 && last - args.window + 1 > 0 ? last - args.window + 1 : 0;
            const std::byte *keys = args.keys[token] + kv_head * head_bytes, *values = args.values[token] + kv_head * head_bytes;
            for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
                if (queries.n == max_heads_at_once || (queries.n > 0 && (queries.keys != keys || queries.values != values || queries.first != first))) {
                    attend(args, queries, scratch);
                    queries.n = 0;
                }
                queries.keys = keys, queries.values = values, queries.first = first;
                queries.last[queries.n] = last;
                queries.q[queries.n] = args.q + (token * args.n_heads + head) * d;
                queries.y[queries.n++] = args.y + (token * args.n_heads + head) * d;
            }
        }
        if (queries.n > 0) attend(args, queries, scratch);
    }
}

void state_write_avx2(const StateWriteArgs& args, Range tokens) {
    if (args.state_dtype != DType::f16 && args.state_dtype != DType::bf16) return state_write_ref(args, tokens);
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
        const float* x = args.x + token * args.width;
        auto* row = reinterpret_cast<std::uint16_t*>(args.rows[token]) + args.positions[token] * args.width;
        for (std::int64_t i = 0; i < args.width; i += 8) {
            const std::int64_t n = args.width - i < 8 ? args.width - i : 8;
            const __m256 value = load_tail(x + i, n);
            const __m128i bits = args.state_dtype == DType::f16 ? _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT) : to_bf16(value);
            if (n == 8) {
                _mm_storeu_si128(reinterpret_cast<__m128i*>(row + i), bits);
                continue;
            }
            alignas(16) std::uint16_t last[8];
            _mm_store_si128(reinterpret_cast<__m128i*>(last), bits);
            for (std::int64_t k = 0; k < n; ++k) row[i + k] = last[k];
        }
    }
}

}  // namespace skiff
