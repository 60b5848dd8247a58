// Attention over a state of f32, f16 or bf16 in one pass. For each token and KV head: chunks of attention_chunk positions, each with its own
// maximum, sum and weighted values, merged in order of position; so the bits depend on the positions alone, not on batch or threads.
// Up to eight query heads of one KV head, of one token or of neighbours in one sequence, share what is read and converted.
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd_neon.h"
#include "kernels/ref/ref.h"

namespace skiff {
namespace {

constexpr std::int64_t max_head_dim = 512, max_heads_at_once = 8, tile = 32;  // positions converted at a time; 32 x 128 x 4 bytes fit half of L1

// Work space of some queries, on the stack.
struct Scratch {
    alignas(16) float q[max_heads_at_once * max_head_dim];    // scaled, padded with zeros to whole vectors
    alignas(16) float rows[tile * max_head_dim];              // keys or values of one tile as f32, padded likewise
    alignas(16) float scores[max_heads_at_once * attention_chunk];
    alignas(16) float part[max_heads_at_once * max_head_dim]; // weighted values of the chunk
    alignas(16) float sum[max_heads_at_once * max_head_dim];  // and of all chunks so far
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
            for (std::int64_t i = 0; i < padded; i += 8) store(target + i, load_tail(values + i, head_dim - i));
            continue;
        }
        const auto* values = reinterpret_cast<const std::uint16_t*>(source);
        if (dtype == DType::f16)
            for (std::int64_t i = 0; i < whole; i += 8) store(target + i, f16_to_f32(values + i));
        else
            for (std::int64_t i = 0; i < whole; i += 8) store(target + i, bf16_to_f32(values + i));
        if (whole == padded) continue;
        alignas(16) std::uint16_t last[8] = {};
        for (std::int64_t i = whole; i < head_dim; ++i) last[i - whole] = values[i];
        store(target + whole, dtype == DType::f16 ? f16_to_f32(last) : bf16_to_f32(last));
    }
    return {target - n * padded, padded};
}

// The sums of four vectors, lanes added in a fixed order whichever of the four a vector is.
inline float32x4_t sum_lanes4(F8 a, F8 b, F8 c, F8 d) {
    return vaddq_f32(vpaddq_f32(vpaddq_f32(a.low, b.low), vpaddq_f32(c.low, d.low)), vpaddq_f32(vpaddq_f32(a.high, b.high), vpaddq_f32(c.high, d.high)));
}

// scores[k * attention_chunk + p] = q[k] . row p, for n rows and Q queries `padded` apart, four rows at a time.
template <int Q>
void score_rows(const float* q, FloatRows rows, std::int64_t n, std::int64_t padded, float* scores) {
    for (std::int64_t p = 0; p < n; p += 4) {
        const std::int64_t last = n - 1 - p;  // rows behind the last are the last once more
        const float* row[4] = {rows.data + p * rows.stride, rows.data + (p + (last < 1 ? last : 1)) * rows.stride,
                               rows.data + (p + (last < 2 ? last : 2)) * rows.stride, rows.data + (p + (last < 3 ? last : 3)) * rows.stride};
        F8 dot[Q][4];
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) dot[k][0] = dot[k][1] = dot[k][2] = dot[k][3] = zeros();
        for (std::int64_t i = 0; i < padded; i += 8) {
            F8 value[Q];
            SKIFF_UNROLL
            for (int k = 0; k < Q; ++k) value[k] = load(q + k * padded + i);
            SKIFF_UNROLL
            for (int r = 0; r < 4; ++r) {
                const F8 key = load(row[r] + i);
                SKIFF_UNROLL
                for (int k = 0; k < Q; ++k) dot[k][r] = fma(value[k], key, dot[k][r]);
            }
        }
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) vst1q_f32(scores + k * attention_chunk + p, sum_lanes4(dot[k][0], dot[k][1], dot[k][2], dot[k][3]));
    }
}

// part[k] += sum over n rows of weights[k * attention_chunk + p] * row p, for Q queries; their parts are `padded` apart.
template <int Q>
void add_weighted_rows(const float* weights, FloatRows rows, std::int64_t n, std::int64_t padded, float* part) {
    std::int64_t i = 0;
    for (; i + 32 <= padded; i += 32) {
        F8 sum[Q][4];
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) {
            SKIFF_UNROLL
            for (int v = 0; v < 4; ++v) sum[k][v] = load(part + k * padded + i + v * 8);
        }
        for (std::int64_t p = 0; p < n; ++p) {
            F8 weight[Q];
            SKIFF_UNROLL
            for (int k = 0; k < Q; ++k) weight[k] = same(weights[k * attention_chunk + p]);
            SKIFF_UNROLL
            for (int v = 0; v < 4; ++v) {
                const F8 value = load(rows.data + p * rows.stride + i + v * 8);
                SKIFF_UNROLL
                for (int k = 0; k < Q; ++k) sum[k][v] = fma(weight[k], value, sum[k][v]);
            }
        }
        SKIFF_UNROLL
        for (int k = 0; k < Q; ++k) {
            SKIFF_UNROLL
            for (int v = 0; v < 4; ++v) store(part + k * padded + i + v * 8, sum[k][v]);
        }
    }
    for (; i < padded; i += 8)
        for (int k = 0; k < Q; ++k) {
            F8 sum = load(part + k * padded + i);
            for (std::int64_t p = 0; p < n; ++p)
                sum = fma(same(weights[k * attention_chunk + p]), load(rows.data + p * rows.stride + i), sum);
            store(part + k * padded + i, sum);
        }
}

// Turns scores into e^(score - highest) in place.
struct SoftmaxPart {
    float highest, total;
};
SoftmaxPart exponentiate(float* scores, std::int64_t n, float softcap) {
    F8 highest = same(-__builtin_inff());
    for (std::int64_t p = 0; p < n; p += 8) {
        F8 score = load(scores + p);
        if (softcap > 0) score = multiply(same(softcap), tanh_ps(divide(score, same(softcap))));
        if (n - p < 8) score = select(tail_mask(n - p), score, same(-__builtin_inff()));
        store(scores + p, score);
        highest = larger(highest, score);
    }
    const float top = max_lanes(highest);
    F8 total = zeros();
    for (std::int64_t p = 0; p < n; p += 8) {
        F8 weight = exp_ps(subtract(load(scores + p), same(top)));
        if (n - p < 8) weight = select(tail_mask(n - p), weight, zeros());
        store(scores + p, weight);
        total = add(total, weight);
    }
    return {top, sum_lanes(total)};
}

// sum = sum * keep + part * take; part = 0
void merge(float* sum, float* part, std::int64_t padded, float keep, float take) {
    const F8 kept = same(keep), taken = same(take);
    for (std::int64_t i = 0; i < padded; i += 8) {
        store(sum + i, fma(load(sum + i), kept, multiply(load(part + i), taken)));
        store(part + i, zeros());
    }
}

float exp_of(float x) { return vgetq_lane_f32(exp_ps(same(x)).low, 0); }

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
            store(scratch.q + k * padded + i, multiply(load_tail(queries.q[k] + i, least(d - i, 8)), same(args.scale)));
            store(scratch.part + k * padded + i, zeros());
            store(scratch.sum + k * padded + i, zeros());
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
        const F8 inverse = same(1.0f / total[k]);
        for (std::int64_t i = 0; i < d; i += 8) store_tail(queries.y[k] + i, least(d - i, 8), multiply(load(scratch.sum + k * padded + i), inverse));
    }
}

// Round to nearest even, NaN stays NaN (as float_to_bf16).
inline uint16x4_t to_bf16(float32x4_t x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x), upper = vshrq_n_u32(bits, 16), odd = vandq_u32(upper, vdupq_n_u32(1));
    const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
    return vmovn_u32(vbslq_u32(vceqq_f32(x, x), rounded, vorrq_u32(upper, vdupq_n_u32(0x40))));
}
inline uint16x8_t to_bf16(F8 x) { return vcombine_u16(to_bf16(x.low), to_bf16(x.high)); }
inline uint16x8_t to_f16(F8 x) { return vcombine_u16(vreinterpret_u16_f16(vcvt_f16_f32(x.low)), vreinterpret_u16_f16(vcvt_f16_f32(x.high))); }

}  // namespace

void attention_neon(const AttentionArgs& args, Range items) {
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

void state_write_neon(const StateWriteArgs& args, Range tokens) {
    if (args.state_dtype != DType::f16 && args.state_dtype != DType::bf16) return state_write_ref(args, tokens);
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
        const float* x = args.x + token * args.width;
        auto* row = reinterpret_cast<std::uint16_t*>(args.rows[token]) + args.positions[token] * args.width;
        for (std::int64_t i = 0; i < args.width; i += 8) {
            const std::int64_t n = args.width - i < 8 ? args.width - i : 8;
            const F8 value = load_tail(x + i, n);
            const uint16x8_t bits = args.state_dtype == DType::f16 ? to_f16(value) : to_bf16(value);
            if (n == 8) {
                vst1q_u16(row + i, bits);
                continue;
            }
            alignas(16) std::uint16_t last[8];
            vst1q_u16(last, bits);
            for (std::int64_t k = 0; k < n; ++k) row[i + k] = last[k];
        }
    }
}

}  // namespace skiff
