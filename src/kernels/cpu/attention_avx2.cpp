// Attention over a state of f32, f16 or bf16 in one pass. For each token and KV head: chunks of attention_chunk positions, each with its own
// maximum, sum and weighted values, merged in order of position; so the bits depend on the positions alone, not on batch or threads.
// The query heads of one KV head share what is read and converted.
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/ref/ref.h"

namespace skiff {
namespace {

constexpr std::int64_t max_head_dim = 512, max_heads_at_once = 8, tile = 32;  // positions converted at a time; 32 x 128 x 4 bytes fit half of L1

// Work space of one item, on the stack.
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

// scores[p] = q . row p for n rows, eight rows at a time.
void score_rows(const float* q, FloatRows rows, std::int64_t n, std::int64_t padded, float* scores) {
    std::int64_t p = 0;
    for (; p + 8 <= n; p += 8) {
        const float* row = rows.data + p * rows.stride;
        __m256 dot[8];
        SKIFF_UNROLL
        for (int k = 0; k < 8; ++k) dot[k] = _mm256_setzero_ps();
        for (std::int64_t i = 0; i < padded; i += 8) {
            const __m256 value = _mm256_load_ps(q + i);
            SKIFF_UNROLL
            for (int k = 0; k < 8; ++k) dot[k] = _mm256_fmadd_ps(value, _mm256_loadu_ps(row + k * rows.stride + i), dot[k]);
        }
        SKIFF_UNROLL
        for (int k = 0; k < 8; ++k) scores[p + k] = sum_lanes(dot[k]);
    }
    for (; p < n; ++p) {
        __m256 dot = _mm256_setzero_ps();
        for (std::int64_t i = 0; i < padded; i += 8) dot = _mm256_fmadd_ps(_mm256_load_ps(q + i), _mm256_loadu_ps(rows.data + p * rows.stride + i), dot);
        scores[p] = sum_lanes(dot);
    }
}

// part += sum over n rows of weights[p] * row p
void add_weighted_rows(const float* weights, FloatRows rows, std::int64_t n, std::int64_t padded, float* part) {
    std::int64_t i = 0;
    for (; i + 32 <= padded; i += 32) {
        __m256 sum[4];
        SKIFF_UNROLL
        for (int k = 0; k < 4; ++k) sum[k] = _mm256_load_ps(part + i + k * 8);
        for (std::int64_t p = 0; p < n; ++p) {
            const __m256 weight = _mm256_broadcast_ss(weights + p);
            SKIFF_UNROLL
            for (int k = 0; k < 4; ++k) sum[k] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(rows.data + p * rows.stride + i + k * 8), sum[k]);
        }
        SKIFF_UNROLL
        for (int k = 0; k < 4; ++k) _mm256_store_ps(part + i + k * 8, sum[k]);
    }
    for (; i < padded; i += 8) {
        __m256 sum = _mm256_load_ps(part + i);
        for (std::int64_t p = 0; p < n; ++p) sum = _mm256_fmadd_ps(_mm256_broadcast_ss(weights + p), _mm256_loadu_ps(rows.data + p * rows.stride + i), sum);
        _mm256_store_ps(part + i, sum);
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

// One token, one KV head, `n_heads` (at most max_heads_at_once) of its query heads from `head` on.
void attend(const AttentionArgs& args, std::int64_t token, std::int64_t kv_head, std::int64_t head, std::int64_t n_heads, Scratch& scratch) {
    const std::int64_t d = args.head_dim, padded = (d + 7) / 8 * 8, head_bytes = d * (args.state_dtype == DType::f32 ? 4 : 2);
    const std::int64_t row_bytes = head_bytes * args.n_kv_heads, last = args.positions[token];
    const std::int64_t first = args.window > 0 && last - args.window + 1 > 0 ? last - args.window + 1 : 0;
    const std::byte* keys = args.keys[token] + kv_head * head_bytes;
    const std::byte* values = args.values[token] + kv_head * head_bytes;
    const __m256 scale = _mm256_set1_ps(args.scale);
    for (std::int64_t h = 0; h < n_heads; ++h)
        for (std::int64_t i = 0; i < padded; i += 8) {
            const __m256 q = load_tail(args.q + (token * args.n_heads + head + h) * d + i, d - i < 8 ? d - i : 8);
            _mm256_store_ps(scratch.q + h * padded + i, _mm256_mul_ps(q, scale));
            _mm256_store_ps(scratch.part + h * padded + i, _mm256_setzero_ps());
            _mm256_store_ps(scratch.sum + h * padded + i, _mm256_setzero_ps());
        }
    float highest[max_heads_at_once], total[max_heads_at_once];
    for (std::int64_t h = 0; h < n_heads; ++h) highest[h] = -__builtin_inff(), total[h] = 0;

    for (std::int64_t begin = first; begin <= last; begin = (begin / attention_chunk + 1) * attention_chunk) {
        const std::int64_t chunk_end = (begin / attention_chunk + 1) * attention_chunk, n = (chunk_end < last + 1 ? chunk_end : last + 1) - begin;
        for (std::int64_t p = 0; p < n; p += tile) {
            const std::int64_t count = n - p < tile ? n - p : tile;
            const FloatRows rows = load_rows(args.state_dtype, keys + (begin + p) * row_bytes, row_bytes, count, d, scratch.rows);
            for (std::int64_t h = 0; h < n_heads; ++h) score_rows(scratch.q + h * padded, rows, count, padded, scratch.scores + h * attention_chunk + p);
        }
        SoftmaxPart parts[max_heads_at_once];
        for (std::int64_t h = 0; h < n_heads; ++h) parts[h] = exponentiate(scratch.scores + h * attention_chunk, n, args.softcap);
        for (std::int64_t p = 0; p < n; p += tile) {
            const std::int64_t count = n - p < tile ? n - p : tile;
            const FloatRows rows = load_rows(args.state_dtype, values + (begin + p) * row_bytes, row_bytes, count, d, scratch.rows);
            for (std::int64_t h = 0; h < n_heads; ++h)
                add_weighted_rows(scratch.scores + h * attention_chunk + p, rows, count, padded, scratch.part + h * padded);
        }
        for (std::int64_t h = 0; h < n_heads; ++h) {
            const float top = parts[h].highest > highest[h] ? parts[h].highest : highest[h];
            const float keep = exp_of(highest[h] - top), take = exp_of(parts[h].highest - top);
            merge(scratch.sum + h * padded, scratch.part + h * padded, padded, keep, take);
            total[h] = total[h] * keep + parts[h].total * take;
            highest[h] = top;
        }
    }
    for (std::int64_t h = 0; h < n_heads; ++h) {
        const __m256 inverse = _mm256_set1_ps(1.0f / total[h]);
        float* y = args.y + (token * args.n_heads + head + h) * d;
        for (std::int64_t i = 0; i < d; i += 8) store_tail(y + i, d - i < 8 ? d - i : 8, _mm256_mul_ps(_mm256_load_ps(scratch.sum + h * padded + i), inverse));
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
    const std::int64_t group = args.n_heads / args.n_kv_heads;
    for (std::int64_t item = items.begin; item < items.end; ++item) {
        const std::int64_t token = item / args.n_kv_heads, kv_head = item % args.n_kv_heads;
        for (std::int64_t h = 0; h < group; h += max_heads_at_once)
            attend(args, token, kv_head, kv_head * group + h, group - h < max_heads_at_once ? group - h : max_heads_at_once, scratch);
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
