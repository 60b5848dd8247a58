// Integer and floating grids. The search tries many scales at once, eight to a vector, and judges the best few exactly. As in grid_codebook.cpp the loops are
// compiled twice on x86-64, for its basic instructions and for AVX2, without fused multiply-adds: both give the same bits.
#include <algorithm>

#include "base/cpu_features.h"
#include "tensor/grid_parts.h"

namespace skiff {
namespace {

using namespace grids;

using Float8 = float __attribute__((vector_size(32)));
using Float4 = float __attribute__((vector_size(16)));
using Double4 = double __attribute__((vector_size(32)));
constexpr int lanes = 8;
static_assert(lanes == group_padding);

#define SKIFF_INLINE inline __attribute__((always_inline))

// One way to quantize a group: level = clamp(round(x / scale), low, high), value = level * scale.
struct Candidate {
    float scale = 0;
    float low = 0, high = 0;
    float score = -1;
    float refit_scale = 0;
};

// Least squares of each candidate's scale given its levels: the sums behind scale = S(w x q) / S(w q q), whose error is S(w x x) - score.
SKIFF_INLINE void score_body(const Group& group, Candidate* eight) {
    Float8 inverse, low, high, sum_xq = {}, sum_qq = {};
    for (int lane = 0; lane < lanes; ++lane) {
        inverse[lane] = 1.0f / eight[lane].scale;
        low[lane] = eight[lane].low;
        high[lane] = eight[lane].high;
    }
    for (std::int64_t i = 0; i < group.n; ++i) {
        Float8 level = inverse * group.x[i];
        level = level < low ? low : level;
        level = level > high ? high : level;
        level = (level + rounding_magic) - rounding_magic;
        const Float8 weighted = level * group.weight[i];
        sum_xq += weighted * group.x[i];
        sum_qq += weighted * level;
    }
    for (int lane = 0; lane < lanes; ++lane) {
        const bool usable = sum_qq[lane] > 0 && sum_xq[lane] != 0;
        eight[lane].score = usable ? sum_xq[lane] / sum_qq[lane] * sum_xq[lane] : -1;
        eight[lane].refit_scale = usable ? sum_xq[lane] / sum_qq[lane] : eight[lane].scale;
    }
}

struct Judgement {
    double error = std::numeric_limits<double>::infinity();
    double refit_scale = 0;
};

// The exact weighted squared error of one candidate, with the division that round() uses, and the scale that least squares would take next.
SKIFF_INLINE void judge_body(const Group& group, const Candidate& candidate, Judgement& judgement) {
    const Float8 low = Float8{} + candidate.low, high = Float8{} + candidate.high;
    Double4 error = {}, sum_xq = {}, sum_qq = {};
    for (std::int64_t i = 0; i < group.n; i += lanes) {
        Float8 x8, weight8;
        __builtin_memcpy(&x8, group.x + i, sizeof x8);
        __builtin_memcpy(&weight8, group.weight + i, sizeof weight8);
        Float8 level8 = x8 / candidate.scale;
        level8 = level8 < low ? low : level8;
        level8 = level8 > high ? high : level8;
        level8 = (level8 + rounding_magic) - rounding_magic;
        const Float8 difference8 = x8 - level8 * candidate.scale, weighted8 = level8 * weight8;
        for (int half = 0; half < 2; ++half) {
            Float4 x, weight, level, difference, weighted;
            const auto take = [half](const Float8& from, Float4& to) { __builtin_memcpy(&to, reinterpret_cast<const char*>(&from) + half * sizeof to, sizeof to); };
            take(x8, x);
            take(weight8, weight);
            take(level8, level);
            take(difference8, difference);
            take(weighted8, weighted);
            const Double4 wide = __builtin_convertvector(difference, Double4);
            error += __builtin_convertvector(weight, Double4) * wide * wide;
            sum_xq += __builtin_convertvector(weighted, Double4) * __builtin_convertvector(x, Double4);
            sum_qq += __builtin_convertvector(weighted, Double4) * __builtin_convertvector(level, Double4);
        }
    }
    judgement.error = (error[0] + error[1]) + (error[2] + error[3]);
    const double qq = (sum_qq[0] + sum_qq[1]) + (sum_qq[2] + sum_qq[3]);
    judgement.refit_scale = qq > 0 ? ((sum_xq[0] + sum_xq[1]) + (sum_xq[2] + sum_xq[3])) / qq : 0;
}

// The two loops on one instruction set.
struct Loops {
    void (*score)(const Group& group, Candidate* eight);
    void (*judge)(const Group& group, const Candidate& candidate, Judgement& judgement);
};

#define SKIFF_LOOPS(name, target)                                                                             \
    target void name##_score(const Group& group, Candidate* eight) { score_body(group, eight); }              \
    target void name##_judge(const Group& group, const Candidate& candidate, Judgement& judgement) {          \
        judge_body(group, candidate, judgement);                                                              \
    }                                                                                                         \
    constexpr Loops name##_loops = {name##_score, name##_judge};

SKIFF_LOOPS(plain, )
#if defined(__x86_64__)
SKIFF_LOOPS(avx2, __attribute__((target("avx2"))))
#endif

const Loops& loops() {
#if defined(__x86_64__)
    static const bool has_avx2 = isa_available(Isa::avx2);
    if (has_avx2) return avx2_loops;
#endif
    return plain_loops;
}

Judgement judge(const Group& group, const Candidate& candidate) {
    Judgement judgement;
    loops().judge(group, candidate, judgement);
    return judgement;
}

class IntegerGrid final : public Grid {
public:
    IntegerGrid(const Scheme& scheme, ScaleRule rule) : scheme_(scheme), rule_(rule), last_(static_cast<float>((1 << scheme.bits) - 1)) {}

    GroupParams fit(std::span<const float> group, std::span<const float> importance) const override;
    GroupUnder fit_under(float super_scale, const GroupParams& wanted, std::span<const float> group, std::span<const float> importance) const override;
    void round_group(std::span<const float> group, const GroupParams& params, std::uint8_t* codes) const override;
    std::int32_t round(float x, const GroupParams& params) const override {
        if (params.scale == 0) return params.zero;
        const float zero = static_cast<float>(params.zero);
        float level = x / params.scale;
        level = level < -zero ? -zero : level;
        level = level > last_ - zero ? last_ - zero : level;
        return static_cast<std::int32_t>(((level + rounding_magic) - rounding_magic) + zero);
    }
    float value(std::int32_t code, const GroupParams& params) const override { return static_cast<float>(code - params.zero) * params.scale; }
    std::int32_t n_codes() const override { return 1 << scheme_.bits; }

private:
    static constexpr int max_candidates = 64;

    float middle() const { return static_cast<float>(1 << (scheme_.bits - 1)); }
    float stored(const Group& group, double scale) const {  // as it will be read back, in the group's units
        return std::ldexp(round_to(scheme_.scale_dtype, static_cast<float>(std::ldexp(scale, group.exponent))), -group.exponent);
    }
    Candidate with_zero(float scale, float zero) const { return {scale, -zero, last_ - zero}; }
    Candidate min_max(const Group& group) const;
    int propose(const Group& group, Candidate* candidates) const;
    Candidate search(const Group& group) const;
    void improve(const Group& group, Candidate start, Candidate& best, double& best_error) const;

    Scheme scheme_;
    ScaleRule rule_;
    float last_;  // largest code
};

Candidate IntegerGrid::min_max(const Group& group) const {
    if (scheme_.symmetric) {
        const float extreme = std::max(-group.minimum, group.maximum);
        return with_zero(extreme / std::max(1.0f, middle() - 1), middle());
    }
    const float scale = (group.maximum - group.minimum) / last_;
    return with_zero(scale, std::clamp(std::nearbyint(-group.minimum / scale), 0.0f, last_));
}

// Scales around the one at which the extreme weight takes the extreme code; beyond it the extremes are clipped. Returns a multiple of `lanes`.
int IntegerGrid::propose(const Group& group, Candidate* candidates) const {
    // Few bits gain most from clipping; with 8 bits only the neighbourhood matters.
    const float first = scheme_.bits >= 7 ? 0.96f : 0.8f, last = scheme_.bits >= 7 ? 1.12f : scheme_.bits >= 4 ? 1.4f : 2.0f;
    int n = 0;
    if (scheme_.symmetric) {
        const float extreme = group.maximum >= -group.minimum ? group.maximum : group.minimum;
        constexpr int n_steps = 24;
        for (int step = 0; step < n_steps; ++step) {
            const float stretch = first + (last - first) * static_cast<float>(step) / (n_steps - 1);
            candidates[n++] = with_zero(-extreme / (middle() * stretch), middle());  // the extreme takes code 0, level -2^(b-1)
            candidates[n++] = with_zero(extreme / (std::max(1.0f, middle() - 1) * stretch), middle());
        }
        return n;
    }
    constexpr int n_steps = 16;
    for (int step = 0; step < n_steps; ++step) {
        const float stretch = first + (last - first) * static_cast<float>(step) / (n_steps - 1);
        const float scale = (group.maximum - group.minimum) / (last_ * stretch);
        // Clipped by the same share at both ends; the neighbouring zeros clip one end more.
        const float zero = std::nearbyint(last_ * -group.minimum / (group.maximum - group.minimum));
        for (float shift : {-1.0f, 0.0f, 1.0f, 2.0f}) {
            const float shifted = stretch <= 1 ? std::nearbyint(-group.minimum / scale) + shift : zero + shift;
            candidates[n++] = with_zero(scale, std::clamp(shifted, 0.0f, last_));
        }
    }
    return n;
}

// Alternates least squares for the scale and nearest levels, from one start, and keeps what is better than `best`.
void IntegerGrid::improve(const Group& group, Candidate start, Candidate& best, double& best_error) const {
    double scale = start.scale, previous = std::numeric_limits<double>::infinity();
    for (int round = 0; round < 4; ++round) {
        start.scale = stored(group, scale);
        if (start.scale == 0 || (!scheme_.symmetric && start.scale < 0)) return;
        const Judgement judgement = judge(group, start);
        if (judgement.error < best_error) {
            best_error = judgement.error;
            best = start;
        }
        if (!(judgement.error < previous) || judgement.refit_scale == 0) return;
        previous = judgement.error;
        scale = judgement.refit_scale;
    }
}

Candidate IntegerGrid::search(const Group& group) const {
    Candidate candidates[max_candidates];
    const int n = propose(group, candidates);
    for (int i = 0; i < n; i += lanes) loops().score(group, candidates + i);

    Candidate best = min_max(group);
    best.scale = stored(group, best.scale);
    double best_error = best.scale == 0 ? std::numeric_limits<double>::infinity() : judge(group, best).error;
    const Candidate unsearched = best;
    constexpr int n_finalists = 3;
    std::partial_sort(candidates, candidates + n_finalists, candidates + n, [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
    for (int i = 0; i < n_finalists; ++i) {
        candidates[i].scale = candidates[i].refit_scale;
        improve(group, candidates[i], best, best_error);
    }
    improve(group, unsearched, best, best_error);
    return best;
}

// A group of equal weights: the smallest multiple of a storable scale that hits it, else the closest.
float constant_scale(float magnitude, int max_level, DType dtype) {
    float best = round_to(dtype, magnitude), best_error = std::fabs(best - magnitude);
    for (int level = 2; level <= max_level && best_error > 0; ++level) {
        const float scale = round_to(dtype, magnitude / static_cast<float>(level));
        const float error = std::fabs(scale * static_cast<float>(level) - magnitude);
        if (error < best_error) {
            best = scale;
            best_error = error;
        }
    }
    return best;
}

GroupParams IntegerGrid::fit(std::span<const float> values, std::span<const float> importance) const {
    const auto params = [](float scale, float zero) { return GroupParams{scale, static_cast<std::int32_t>(zero)}; };
    const NormalGroup normal(values, importance);
    if (normal.empty()) return params(0, scheme_.symmetric ? middle() : 0);
    if (normal.constant() && rule_ == ScaleRule::search) {
        if (scheme_.symmetric) {  // levels below zero reach one further
            const float scale = constant_scale(normal.magnitude(), 1 << (scheme_.bits - 1), scheme_.scale_dtype);
            const float level = std::nearbyint(normal.magnitude() / scale);
            const bool negate = level >= middle() && values[0] > 0;
            return params(negate ? -scale : scale, middle());
        }
        return params(constant_scale(normal.magnitude(), static_cast<int>(last_), scheme_.scale_dtype), values[0] < 0 ? last_ : 0);
    }
    const Group& group = normal.group();
    Candidate chosen = min_max(group);
    if (rule_ == ScaleRule::search) {
        chosen = search(group);
    } else {
        chosen.scale = stored(group, chosen.scale);
    }
    return params(std::ldexp(chosen.scale, group.exponent), -chosen.low);
}

GroupUnder IntegerGrid::fit_under(float super_scale, const GroupParams& wanted, std::span<const float> values, std::span<const float> importance) const {
    const NormalGroup normal(values, importance);
    if (normal.empty()) return nothing_under(scheme_, super_scale, wanted.zero);
    return best_under(scheme_, super_scale, wanted, [&](float scale) {
        if (scale == 0) return std::numeric_limits<double>::infinity();
        return judge(normal.group(), with_zero(std::ldexp(scale, -normal.group().exponent), static_cast<float>(wanted.zero))).error * normal.unit();
    });
}

void IntegerGrid::round_group(std::span<const float> group, const GroupParams& params, std::uint8_t* codes) const {
    // round() in a loop the compiler can vectorise; weight_test.cpp compares the two.
    if (params.scale == 0) {
        std::fill_n(codes, group.size(), static_cast<std::uint8_t>(params.zero));
        return;
    }
    const float zero = static_cast<float>(params.zero), low = -zero, high = last_ - zero;
    for (std::size_t i = 0; i < group.size(); ++i) {
        float level = group[i] / params.scale;
        level = level < low ? low : level;
        level = level > high ? high : level;
        codes[i] = static_cast<std::uint8_t>(static_cast<std::int32_t>(((level + rounding_magic) - rounding_magic) + zero));
    }
}

// Plain rounding to a narrower float; the code is the bit pattern.
class FloatGrid final : public Grid {
public:
    explicit FloatGrid(DType dtype) : info_(dtype_info(dtype)) {}
    GroupParams fit(std::span<const float>, std::span<const float>) const override { return {}; }
    GroupUnder fit_under(float, const GroupParams& wanted, std::span<const float>, std::span<const float>) const override { return {wanted, 0}; }
    void round_group(std::span<const float>, const GroupParams&, std::uint8_t*) const override {}  // its codes are wider than a byte
    std::int32_t round(float x, const GroupParams&) const override {
        std::int32_t code = 0;
        info_.from_float(&x, 1, &code);
        return code;
    }
    float value(std::int32_t code, const GroupParams&) const override {
        float result = 0;
        info_.to_float(&code, 1, &result);
        return result;
    }
    std::int32_t n_codes() const override { return info_.bits >= 31 ? std::numeric_limits<std::int32_t>::max() : 1 << info_.bits; }

private:
    const DTypeInfo& info_;
};

}  // namespace

std::unique_ptr<Grid> make_grid(const Scheme& scheme, ScaleRule rule) {
    if (scheme.kind == NumberKind::floating) return std::make_unique<FloatGrid>(scheme.dtype);
    if (scheme.kind == NumberKind::clusters || scheme.kind == NumberKind::vectors) return nullptr;
    if (scheme.kind == NumberKind::codebook && scheme.codebook->is_float8()) return make_float8_grid(scheme, rule);
    if (scheme.kind == NumberKind::codebook) return make_codebook_grid(scheme, rule);
    return std::make_unique<IntegerGrid>(scheme, rule);
}

bool scale_is_storable(float scale, DType dtype, int bits) {
    if (dtype != DType::f16 || scale == 0) return std::isfinite(scale);
    const float magnitude = std::fabs(scale);
    // Below f16's normal range the scale is a multiple of 2^-24, so off by at most 2^-25; the largest level is 2^(bits-1) of them.
    return magnitude < 65504.0f && magnitude >= std::ldexp(1.0f, bits - 23);
}

}  // namespace skiff
