#include "train/row_kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "tensor/dtype.h"

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#define SKIFF_WIDE __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define SKIFF_WIDE
#endif
#define SKIFF_INLINE __attribute__((always_inline)) inline

namespace skiff::train {
namespace {

SKIFF_INLINE float number(float x) { return x; }
SKIFF_INLINE float number(Bf16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }
SKIFF_INLINE void set_number(float& target, float value) { target = value; }
SKIFF_INLINE void set_number(Bf16& target, float value) { target.bits = float_to_bf16(value); }

// Eight lanes: a register with AVX2, two with SSE2. GCC's and clang's vector types, so that no loop depends on an auto-vectorizer's mood.
constexpr std::int64_t n_lanes = 8;
using Lanes = float __attribute__((vector_size(32)));
using Words = std::int32_t __attribute__((vector_size(32)));
using Halves = std::uint16_t __attribute__((vector_size(16)));

SKIFF_INLINE Lanes all_lanes(float x) { return Lanes{x, x, x, x, x, x, x, x}; }
SKIFF_INLINE Lanes load(const float* x) {
    Lanes lanes;
    std::memcpy(&lanes, x, sizeof lanes);
    return lanes;
}
SKIFF_INLINE Lanes load(const Bf16* x) {
    Halves halves;
    std::memcpy(&halves, x, sizeof halves);
    return std::bit_cast<Lanes>(__builtin_convertvector(halves, Words) << 16);
}
SKIFF_INLINE void store(float* target, Lanes lanes) { std::memcpy(target, &lanes, sizeof lanes); }
SKIFF_INLINE void store(Bf16* target, Lanes lanes) {
    const Words bits = std::bit_cast<Words>(lanes);
    // Round to nearest even. NaN keeps its upper bits, one of which is set here so that it stays NaN.
    const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, nan = (bits >> 16) | 0x40;
    const Halves halves = __builtin_convertvector((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded, Halves);
    std::memcpy(target, &halves, sizeof halves);
}
SKIFF_INLINE Lanes larger(Lanes a, Lanes b) { return a < b ? b : a; }  // a NaN in a stays
SKIFF_INLINE float sum_of(Lanes x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }
SKIFF_INLINE float largest_of(Lanes x) {
    float highest = x[0];
    for (int lane = 1; lane < n_lanes; ++lane) highest = x[lane] > highest ? x[lane] : highest;
    return highest;
}

// The last lanes of a row, of which fewer than eight are left.
template <class T>
struct Tail {
    T values[n_lanes];
    SKIFF_INLINE Tail(const T* x, std::int64_t n, T fill) {
        for (std::int64_t i = 0; i < n_lanes; ++i) values[i] = i < n ? x[i] : fill;
    }
};
SKIFF_INLINE float number_as(float x, const float*) { return x; }
SKIFF_INLINE Bf16 number_as(float x, const Bf16*) { return {static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16)}; }
template <class T>
SKIFF_INLINE Lanes load_some(const T* x, std::int64_t n, float fill) {
    if (n >= n_lanes) return load(x);
    return load(Tail<T>(x, n, number_as(fill, x)).values);
}
template <class T>
SKIFF_INLINE void store_some(T* target, Lanes lanes, std::int64_t n) {
    if (n >= n_lanes) return store(target, lanes);
    T values[n_lanes];
    store(values, lanes);
    for (std::int64_t i = 0; i < n; ++i) target[i] = values[i];
}

// exp(x) = 2^n exp(r), |r| <= ln(2)/2, Taylor polynomial of degree 7; saturates beyond +-87.
SKIFF_INLINE Lanes exp_of(Lanes x) {
    constexpr float log2_e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f, magic = 12582912.0f;
    const Lanes low = x < -87.0f ? all_lanes(-87.0f) : x;
    const Lanes clamped = low > 87.0f ? all_lanes(87.0f) : low;
    const Lanes shifted = clamped * log2_e + magic;
    const Lanes n = shifted - magic;
    const Lanes r = (clamped - n * ln2_high) - n * ln2_low;
    Lanes p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const Words exponent = std::bit_cast<Words>(shifted) - std::bit_cast<std::int32_t>(magic);
    return p * std::bit_cast<Lanes>((exponent + 127) << 23);
}
SKIFF_INLINE Lanes sigmoid_of(Lanes x) { return 1.0f / (1.0f + exp_of(-x)); }
SKIFF_INLINE Lanes tanh_of(Lanes x) { return 1.0f - 2.0f / (1.0f + exp_of(2.0f * x)); }

struct Silu {
    static SKIFF_INLINE Lanes value(Lanes x) { return x * sigmoid_of(x); }
    static SKIFF_INLINE Lanes slope(Lanes x) {
        const Lanes s = sigmoid_of(x);
        return s * (1.0f + x * (1.0f - s));
    }
};
struct Relu {
    static SKIFF_INLINE Lanes value(Lanes x) { return x > 0.0f ? x : all_lanes(0); }
    static SKIFF_INLINE Lanes slope(Lanes x) { return x > 0.0f ? all_lanes(1) : all_lanes(0); }
};
struct GeluTanh {
    static constexpr float a = 0.79788456080286536f, b = 0.044715f;
    static SKIFF_INLINE Lanes value(Lanes x) { return 0.5f * x * (1.0f + tanh_of(a * (x + b * x * x * x))); }
    static SKIFF_INLINE Lanes slope(Lanes x) {
        const Lanes t = tanh_of(a * (x + b * x * x * x));
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * a * (1.0f + 3.0f * b * x * x);
    }
};

// Sum of term(i, n): eight terms at i, of which n count (the others must be zero).
template <class Term>
SKIFF_INLINE float row_sum(std::int64_t n, Term term) {
    Lanes sum = all_lanes(0);
    for (std::int64_t i = 0; i < n; i += n_lanes) sum += term(i, n - i);
    return sum_of(sum);
}

template <class X, class Y>
SKIFF_INLINE void norm_forward_rows(const NormRows& norm, const X* x, Y* y, float* statistics, std::int64_t n_rows) {
    const std::int64_t width = norm.width;
    for (std::int64_t row = 0; row < n_rows; ++row, x += width, y += width) {
        float mean = 0;
        if (norm.centered) mean = row_sum(width, [&](std::int64_t i, std::int64_t n) __attribute__((always_inline)) { return load_some(x + i, n, 0); }) / static_cast<float>(width);
        const float square = row_sum(width, [&](std::int64_t i, std::int64_t n) __attribute__((always_inline)) {
            const Lanes d = load_some(x + i, n, mean) - mean;
            return d * d;
        }) / static_cast<float>(width);
        const float inverse = 1.0f / std::sqrt(square + norm.eps);
        statistics[2 * row] = mean;
        statistics[2 * row + 1] = inverse;
        for (std::int64_t i = 0; i < width; i += n_lanes) {
            const std::int64_t n = width - i;
            Lanes value = (load_some(x + i, n, 0) - mean) * inverse;
            if (norm.weight != nullptr) value *= load_some(norm.weight + i, n, 0);
            if (norm.bias != nullptr) value += load_some(norm.bias + i, n, 0);
            store_some(y + i, value, n);
        }
    }
}

// With h = (x - mean) * r and g = dy * weight: dx = r * (g - mean(g) - h * mean(g * h)); RMS has no mean(g).
template <class X, class Y>
SKIFF_INLINE void norm_backward_rows(const NormRows& norm, const X* x, const Y* dy, const float* statistics, X* dx, float* weight_gradient,
                                     float* bias_gradient, std::int64_t n_rows) {
    const std::int64_t width = norm.width;
    auto weighted = [&](std::int64_t i, std::int64_t n) __attribute__((always_inline)) {
        Lanes g = load_some(dy + i, n, 0);
        if (norm.weight != nullptr) g *= load_some(norm.weight + i, n, 0);
        return g;
    };
    for (std::int64_t row = 0; row < n_rows; ++row, x += width, dy += width, dx += width) {
        const float mean = statistics[2 * row], inverse = statistics[2 * row + 1];
        const float along = row_sum(width, [&](std::int64_t i, std::int64_t n) __attribute__((always_inline)) { return weighted(i, n) * (load_some(x + i, n, 0) - mean); });
        const float average = norm.centered ? row_sum(width, weighted) / static_cast<float>(width) : 0.0f;
        const float slope = along * inverse * inverse / static_cast<float>(width);
        for (std::int64_t i = 0; i < width; i += n_lanes) {
            const std::int64_t n = width - i;
            const Lanes g = load_some(dy + i, n, 0), centered = load_some(x + i, n, 0) - mean;
            if (weight_gradient != nullptr) store_some(weight_gradient + i, load_some(weight_gradient + i, n, 0) + g * centered * inverse, n);
            if (bias_gradient != nullptr) store_some(bias_gradient + i, load_some(bias_gradient + i, n, 0) + g, n);
            store_some(dx + i, inverse * (weighted(i, n) - average - centered * slope), n);
        }
    }
}

template <class Act, class T>
SKIFF_INLINE void gated_forward_rows(const GatedRows& rows, const T* gate, const T* up, T* y, std::int64_t n_rows) {
    for (std::int64_t row = 0; row < n_rows; ++row, gate += rows.gate_stride, up += rows.up_stride, y += rows.width)
        for (std::int64_t i = 0; i < rows.width; i += n_lanes) {
            const std::int64_t n = rows.width - i;
            store_some(y + i, Act::value(load_some(gate + i, n, 0)) * load_some(up + i, n, 0), n);
        }
}
template <class Act, class T>
SKIFF_INLINE void gated_backward_rows(const GatedRows& rows, const T* gate, const T* up, const T* dy, T* d_gate, T* d_up, std::int64_t n_rows) {
    for (std::int64_t row = 0; row < n_rows; ++row) {
        for (std::int64_t i = 0; i < rows.width; i += n_lanes) {
            const std::int64_t n = rows.width - i;
            const Lanes g = load_some(gate + i, n, 0), u = load_some(up + i, n, 0), d = load_some(dy + i, n, 0);
            store_some(d_gate + i, d * u * Act::slope(g), n);
            store_some(d_up + i, d * Act::value(g), n);
        }
        gate += rows.gate_stride;
        d_gate += rows.gate_stride;
        up += rows.up_stride;
        d_up += rows.up_stride;
        dy += rows.width;
    }
}

template <class T>
SKIFF_INLINE void turn_one(const RotaryTable& table, std::int64_t position, Turn turn, float scale, const T* x, T* y, std::int64_t head_dim) {
    const std::int64_t half = table.cosine != nullptr ? table.half : 0;
    if (half > 0) {
        const float* cosine = table.cosine + position * half;
        const float* sine = table.sine + position * half;
        const float sign = turn == Turn::forward ? scale : -scale;
        if (table.interleaved) {
            for (std::int64_t i = 0; i < half; ++i) {
                const float a = number(x[2 * i]), b = number(x[2 * i + 1]);
                set_number(y[2 * i], a * cosine[i] * scale - b * sine[i] * sign);
                set_number(y[2 * i + 1], b * cosine[i] * scale + a * sine[i] * sign);
            }
        } else {
            for (std::int64_t i = 0; i < half; i += n_lanes) {
                const std::int64_t n = half - i;
                const Lanes a = load_some(x + i, n, 0), b = load_some(x + i + half, n, 0);
                const Lanes c = load_some(cosine + i, n, 0) * scale, s = load_some(sine + i, n, 0) * sign;
                store_some(y + i, a * c - b * s, n);
                store_some(y + i + half, b * c + a * s, n);
            }
        }
    }
    for (std::int64_t i = 2 * half; i < head_dim; i += n_lanes) store_some(y + i, load_some(x + i, head_dim - i, 0) * scale, head_dim - i);
}

// The keys that a query sees: [begin, end) within the row.
struct Seen {
    std::int64_t begin, end;
};
inline Seen seen_keys(const ScoreRow& row) {
    const std::int64_t end = std::clamp<std::int64_t>(row.position + 1 - row.first_key, 0, row.n_keys);
    const std::int64_t begin = row.window > 0 ? std::max<std::int64_t>(0, row.position - row.window + 1 - row.first_key) : 0;
    return {std::min(begin, end), end};
}
template <class T>
SKIFF_INLINE void clear_unseen(const ScoreRow& row, Seen seen, T* x) {
    for (std::int64_t i = 0; i < seen.begin; ++i) x[i] = T{};
    for (std::int64_t i = seen.end; i < row.n_keys; ++i) x[i] = T{};
}

// The largest number of a row, and sum exp(x - largest).
struct Normalizer {
    float highest, sum;
};
template <class T>
SKIFF_INLINE Normalizer normalizer_of(const T* x, std::int64_t n_all) {
    Lanes high = all_lanes(-INFINITY);
    for (std::int64_t i = 0; i < n_all; i += n_lanes) high = larger(high, load_some(x + i, n_all - i, -INFINITY));
    const float highest = largest_of(high);
    const float sum = row_sum(n_all, [&](std::int64_t i, std::int64_t n) __attribute__((always_inline)) {
        const Lanes e = exp_of(load_some(x + i, n, -INFINITY) - highest);
        if (n >= n_lanes) return e;
        Lanes counted = all_lanes(0);
        for (std::int64_t lane = 0; lane < n; ++lane) counted[lane] = e[lane];
        return counted;
    });
    return {highest, sum};
}

template <class T>
SKIFF_INLINE float softmax_one(const ScoreRow& row, T* scores) {
    const Seen seen = seen_keys(row);
    clear_unseen(row, seen, scores);
    T* x = scores + seen.begin;
    const std::int64_t n_all = seen.end - seen.begin;
    if (row.softcap > 0)
        for (std::int64_t i = 0; i < n_all; i += n_lanes)
            store_some(x + i, row.softcap * tanh_of(load_some(x + i, n_all - i, 0) / row.softcap), n_all - i);
    const auto [highest, sum] = normalizer_of(x, n_all);
    const float inverse = 1.0f / sum;
    for (std::int64_t i = 0; i < n_all; i += n_lanes)
        store_some(x + i, exp_of(load_some(x + i, n_all - i, 0) - highest) * inverse, n_all - i);
    return highest + std::log(sum);
}

template <class T>
SKIFF_INLINE void softmax_one_backward(const ScoreRow& row, float log_sum, float delta, T* scores, T* d_scores) {
    const Seen seen = seen_keys(row);
    clear_unseen(row, seen, scores);
    clear_unseen(row, seen, d_scores);
    T* x = scores + seen.begin;
    T* d = d_scores + seen.begin;
    const std::int64_t n_all = seen.end - seen.begin;
    for (std::int64_t i = 0; i < n_all; i += n_lanes) {
        const std::int64_t n = n_all - i;
        Lanes score = load_some(x + i, n, 0), slope = all_lanes(1);
        if (row.softcap > 0) {
            const Lanes t = tanh_of(score / row.softcap);
            score = row.softcap * t;
            slope = 1.0f - t * t;
        }
        const Lanes p = exp_of(score - log_sum);
        store_some(d + i, p * (load_some(d + i, n, 0) - delta) * slope, n);
        store_some(x + i, p, n);
    }
}

template <class T>
SKIFF_INLINE double cross_entropy_one(T* logits, std::int64_t n_all, std::int64_t target, float scale) {
    if (target < 0) {
        for (std::int64_t i = 0; i < n_all; ++i) logits[i] = T{};
        return 0;
    }
    const auto [highest, sum] = normalizer_of(logits, n_all);
    const float at_target = number(logits[target]);
    const float factor = scale / sum;
    for (std::int64_t i = 0; i < n_all; i += n_lanes)
        store_some(logits + i, exp_of(load_some(logits + i, n_all - i, 0) - highest) * factor, n_all - i);
    set_number(logits[target], (std::exp(at_target - highest) / sum - 1.0f) * scale);
    return static_cast<double>(highest) + std::log(static_cast<double>(sum)) - static_cast<double>(at_target);
}

}  // namespace

// The public names, one clone per instruction set. GCC clones functions, not templates, hence one function per pair of types.
#define SKIFF_NORM(X, Y)                                                                                                                        \
    SKIFF_WIDE static void norm_forward_clone(const NormRows& norm, const X* x, Y* y, float* statistics, std::int64_t n) {                      \
        norm_forward_rows(norm, x, y, statistics, n);                                                                                           \
    }                                                                                                                                           \
    SKIFF_WIDE static void norm_backward_clone(const NormRows& norm, const X* x, const Y* dy, const float* statistics, X* dx, float* dw,        \
                                               float* db, std::int64_t n) {                                                                     \
        norm_backward_rows(norm, x, dy, statistics, dx, dw, db, n);                                                                             \
    }                                                                                                                                           \
    template <>                                                                                                                                 \
    void norm_forward<X, Y>(const NormRows& norm, const X* x, Y* y, float* statistics, std::int64_t n) {                                        \
        norm_forward_clone(norm, x, y, statistics, n);                                                                                          \
    }                                                                                                                                           \
    template <>                                                                                                                                 \
    void norm_backward<X, Y>(const NormRows& norm, const X* x, const Y* dy, const float* statistics, X* dx, float* dw, float* db,               \
                             std::int64_t n) {                                                                                                  \
        norm_backward_clone(norm, x, dy, statistics, dx, dw, db, n);                                                                            \
    }
SKIFF_NORM(float, float)
SKIFF_NORM(float, Bf16)
SKIFF_NORM(Bf16, Bf16)

#define SKIFF_ROWS(T)                                                                                                                           \
    SKIFF_WIDE static void gated_forward_clone(const GatedRows& rows, const T* gate, const T* up, T* y, std::int64_t n) {                       \
        if (rows.kind == GateKind::silu) gated_forward_rows<Silu>(rows, gate, up, y, n);                                                        \
        else if (rows.kind == GateKind::relu) gated_forward_rows<Relu>(rows, gate, up, y, n);                                                   \
        else gated_forward_rows<GeluTanh>(rows, gate, up, y, n);                                                                                \
    }                                                                                                                                           \
    SKIFF_WIDE static void gated_backward_clone(const GatedRows& rows, const T* gate, const T* up, const T* dy, T* dg, T* du, std::int64_t n) { \
        if (rows.kind == GateKind::silu) gated_backward_rows<Silu>(rows, gate, up, dy, dg, du, n);                                              \
        else if (rows.kind == GateKind::relu) gated_backward_rows<Relu>(rows, gate, up, dy, dg, du, n);                                         \
        else gated_backward_rows<GeluTanh>(rows, gate, up, dy, dg, du, n);                                                                      \
    }                                                                                                                                           \
    SKIFF_WIDE static void turn_clone(const RotaryTable& table, std::int64_t position, Turn turn, float scale, const T* x, T* y,                \
                                      std::int64_t head_dim) {                                                                                  \
        turn_one(table, position, turn, scale, x, y, head_dim);                                                                                 \
    }                                                                                                                                           \
    SKIFF_WIDE static float softmax_clone(const ScoreRow& row, T* scores) { return softmax_one(row, scores); }                                  \
    SKIFF_WIDE static void softmax_backward_clone(const ScoreRow& row, float log_sum, float delta, T* scores, T* d_scores) {                    \
        softmax_one_backward(row, log_sum, delta, scores, d_scores);                                                                            \
    }                                                                                                                                           \
    SKIFF_WIDE static float inner_clone(const T* a, const T* b, std::int64_t n) {                                                               \
        return row_sum(n, [&](std::int64_t i, std::int64_t left) __attribute__((always_inline)) { return load_some(a + i, left, 0) * load_some(b + i, left, 0); });                                                             \
    }                                                                                                                                           \
    SKIFF_WIDE static double cross_entropy_clone(T* logits, std::int64_t n, std::int64_t target, float scale) {                                 \
        return cross_entropy_one(logits, n, target, scale);                                                                                     \
    }                                                                                                                                           \
    template <>                                                                                                                                 \
    void gated_forward<T>(const GatedRows& rows, const T* gate, const T* up, T* y, std::int64_t n) {                                            \
        gated_forward_clone(rows, gate, up, y, n);                                                                                              \
    }                                                                                                                                           \
    template <>                                                                                                                                 \
    void gated_backward<T>(const GatedRows& rows, const T* gate, const T* up, const T* dy, T* d_gate, T* d_up, std::int64_t n) {                \
        gated_backward_clone(rows, gate, up, dy, d_gate, d_up, n);                                                                              \
    }                                                                                                                                           \
    template <>                                                                                                                                 \
    void turn_head<T>(const RotaryTable& table, std::int64_t position, Turn turn, float scale, const T* x, T* y, std::int64_t head_dim) {       \
        turn_clone(table, position, turn, scale, x, y, head_dim);                                                                               \
    }                                                                                                                                           \
    template <>                                                                                                                                 \
    float softmax_row<T>(const ScoreRow& row, T* scores) {                                                                                      \
        return softmax_clone(row, scores);                                                                                                      \
    }                                                                                                                                           \
    template <>                                                                                                                                 \
    void softmax_row_backward<T>(const ScoreRow& row, float log_sum, float delta, T* scores, T* d_scores) {                                     \
        softmax_backward_clone(row, log_sum, delta, scores, d_scores);                                                                          \
    }                                                                                                                                           \
    template <>                                                                                                                                 \
    float inner_product<T>(const T* a, const T* b, std::int64_t n) {                                                                            \
        return inner_clone(a, b, n);                                                                                                            \
    }                                                                                                                                           \
    template <>                                                                                                                                 \
    double cross_entropy_row<T>(T* logits, std::int64_t n, std::int64_t target, float scale) {                                                  \
        return cross_entropy_clone(logits, n, target, scale);                                                                                   \
    }
SKIFF_ROWS(float)
SKIFF_ROWS(Bf16)

// Decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).
SKIFF_WIDE void adamw_update(const AdamStep& step, float* weight, const float* gradient, float* first, float* second, std::int64_t n) {
    const float keep = 1.0f - step.learning_rate * step.weight_decay, rate = step.learning_rate / step.correction1;
    const float inverse_root = 1.0f / std::sqrt(step.correction2);
    for (std::int64_t i = 0; i < n; ++i) {
        const float g = gradient[i] * step.gradient_scale;
        const float m = step.beta1 * first[i] + (1.0f - step.beta1) * g;
        const float v = step.beta2 * second[i] + (1.0f - step.beta2) * g * g;
        first[i] = m;
        second[i] = v;
        weight[i] = weight[i] * keep - rate * m / (std::sqrt(v) * inverse_root + step.eps);
    }
}

SKIFF_WIDE double square_sum(const float* x, std::int64_t n) {
    double sum = 0;
    for (std::int64_t begin = 0; begin < n; begin += 4096) {
        const float* part = x + begin;
        sum += static_cast<double>(row_sum(std::min<std::int64_t>(4096, n - begin), [&](std::int64_t i, std::int64_t left) __attribute__((always_inline)) {
            const Lanes g = load_some(part + i, left, 0);
            return g * g;
        }));
    }
    return sum;
}

}  // namespace skiff::train
