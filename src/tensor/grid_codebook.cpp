// Grids of codebooks. As in grid.cpp the search tries many scales at once and judges the best few exactly, here with scales of both signs;
// the nearest level is found by bisection, a table look-up per step, eight weights or eight scales at a time. The functions are compiled
// twice on x86-64, for its basic instructions and for AVX2, without fused multiply-adds: both give the same bits.
#include <algorithm>

#include "base/cpu_features.h"
#include "tensor/grid_parts.h"

namespace skiff {
namespace {

using namespace grids;

using Float8 = float __attribute__((vector_size(32)));
using Int8 = std::int32_t __attribute__((vector_size(32)));
constexpr int lanes = 8, max_depth = 4, max_levels = 1 << max_depth;
static_assert(lanes == group_padding);

#define SKIFF_INLINE inline __attribute__((always_inline))

// Levels in rising order, up to 2^depth of them, and tables for the bisection: at the step that decides bit b, the threshold for what the
// higher bits say so far.
struct Levels {
    Float8 thresholds[max_depth];  // [b][index >> (b + 1)]
    Float8 low, high;              // levels 0..7 and 8..15
    std::uint8_t code[max_levels]; // of each level
    int n = 0, depth = 1;
};

// Vectors are passed by reference: by value they would need a calling convention that plain x86-64 does not have.
SKIFF_INLINE void look_up(const Float8& table, const Int8& index, Float8& result) {  // index modulo 8
#if defined(__clang__)
    for (int lane = 0; lane < lanes; ++lane) result[lane] = table[index[lane] & 7];
#else
    result = __builtin_shuffle(table, index);
#endif
}

// Position of the level nearest to y, the lower one of two equally near.
template <int depth>
SKIFF_INLINE void nearest(const Levels& levels, const Float8& y, Int8& index) {
    index = Int8{};
#pragma GCC unroll 4
    for (int bit = depth - 1; bit >= 0; --bit) {
        Float8 threshold;
        look_up(levels.thresholds[bit], index >> (bit + 1), threshold);
        index += (y > threshold) & (1 << bit);
    }
}

template <int depth>
SKIFF_INLINE void nearest_level(const Levels& levels, const Float8& y, Float8& level) {
    Int8 index;
    nearest<depth>(levels, y, index);
    look_up(levels.low, index, level);
    if (depth < 4) return;
    Float8 high;
    look_up(levels.high, index, high);
    level = index > 7 ? high : level;
}

struct Candidate {
    float scale = 0;
    float score = -1;        // how much of the group's squares it explains, with the scale refitted by least squares
    float refit_scale = 0;
};

template <int depth>
SKIFF_INLINE void score_body(const Levels& levels, const Group& group, Candidate* eight) {
    Float8 scale, sum_xq = {}, sum_qq = {};
    for (int lane = 0; lane < lanes; ++lane) scale[lane] = eight[lane].scale;
    const Float8 inverse = 1.0f / scale;
    for (std::int64_t i = 0; i < group.n; ++i) {
        Float8 level;
        nearest_level<depth>(levels, inverse * group.x[i], level);
        const Float8 weighted = level * group.weight[i];
        sum_xq += weighted * group.x[i];
        sum_qq += weighted * level;
    }
    const Float8 refit = sum_xq / sum_qq;
    const Int8 usable = (sum_qq > 0.0f) & (refit * scale > 0.0f);  // a refit that turns the sign is no improvement of this candidate
    const Float8 score = usable ? refit * sum_xq : Float8{} - 1.0f, best_scale = usable ? refit : scale;
    for (int lane = 0; lane < lanes; ++lane) {
        eight[lane].score = score[lane];
        eight[lane].refit_scale = best_scale[lane];
    }
}

struct Judgement {
    float error = std::numeric_limits<float>::infinity();
    float refit_scale = 0;
};

// The weighted squared error of one scale, with the division that round() uses, and the scale that least squares would take next.
template <int depth>
SKIFF_INLINE Judgement judge_body(const Levels& levels, const Group& group, float scale) {
    Float8 error = {}, sum_xq = {}, sum_qq = {};
    for (std::int64_t i = 0; i < group.n; i += lanes) {
        Float8 x, weight, level;
        __builtin_memcpy(&x, group.x + i, sizeof x);
        __builtin_memcpy(&weight, group.weight + i, sizeof weight);
        nearest_level<depth>(levels, x / scale, level);
        const Float8 difference = x - level * scale, weighted = level * weight;
        error += weight * difference * difference;
        sum_xq += weighted * x;
        sum_qq += weighted * level;
    }
    Judgement judgement;
    float xq = 0, qq = 0;
    judgement.error = 0;
    for (int lane = 0; lane < lanes; ++lane) {
        judgement.error += error[lane];
        xq += sum_xq[lane];
        qq += sum_qq[lane];
    }
    if (qq > 0) judgement.refit_scale = xq / qq;
    return judgement;
}

template <int depth>
SKIFF_INLINE void round_body(const Levels& levels, std::span<const float> values, float scale, std::uint8_t* codes) {
    const auto n_values = static_cast<std::int64_t>(values.size());
    for (std::int64_t i = 0; i < n_values; i += lanes) {
        Float8 x = {};
        const std::int64_t n = n_values - i < lanes ? n_values - i : lanes;
        if (n == lanes) __builtin_memcpy(&x, values.data() + i, sizeof x);  // no call, as one of a size that varies is
        else __builtin_memcpy(&x, values.data() + i, static_cast<std::size_t>(n) * sizeof(float));
        Int8 index;
        nearest<depth>(levels, x / scale, index);
        for (std::int64_t lane = 0; lane < n; ++lane) codes[i + lane] = levels.code[index[lane]];
    }
}

// The three loops for one depth, on one instruction set.
struct Search {
    void (*score)(const Levels& levels, const Group& group, Candidate* eight);
    void (*judge)(const Levels& levels, const Group& group, float scale, Judgement& judgement);
    void (*round)(const Levels& levels, std::span<const float> values, float scale, std::uint8_t* codes);
};

#define SKIFF_SEARCH(name, target)                                                                                                       \
    template <int depth>                                                                                                                 \
    struct name {                                                                                                                        \
        target static void score(const Levels& levels, const Group& group, Candidate* eight) { score_body<depth>(levels, group, eight); } \
        target static void judge(const Levels& levels, const Group& group, float scale, Judgement& judgement) {                           \
            judgement = judge_body<depth>(levels, group, scale);                                                                         \
        }                                                                                                                                \
        target static void round(const Levels& levels, std::span<const float> values, float scale, std::uint8_t* codes) {                 \
            round_body<depth>(levels, values, scale, codes);                                                                             \
        }                                                                                                                                \
    };                                                                                                                                   \
    template <int depth>                                                                                                                 \
    constexpr Search name##_of = {name<depth>::score, name<depth>::judge, name<depth>::round};                                            \
    constexpr Search name##_table[max_depth + 1] = {{}, name##_of<1>, name##_of<2>, name##_of<3>, name##_of<4>};

SKIFF_SEARCH(plain_search, )
#if defined(__x86_64__)
SKIFF_SEARCH(avx2_search, __attribute__((target("avx2"))))
#endif

const Search& search_of(int depth) {
#if defined(__x86_64__)
    static const bool has_avx2 = isa_available(Isa::avx2);
    if (has_avx2) return avx2_search_table[depth];
#endif
    return plain_search_table[depth];
}

Levels sorted_levels(const Codebook& codebook) {
    std::vector<std::pair<float, std::uint8_t>> sorted;  // equal levels: the lowest code stands for all
    for (std::size_t code = 0; code < codebook.levels.size(); ++code) {
        const float level = codebook.levels[code];
        if (std::none_of(sorted.begin(), sorted.end(), [&](const auto& other) { return other.first == level; }))
            sorted.emplace_back(level, static_cast<std::uint8_t>(code));
    }
    std::sort(sorted.begin(), sorted.end());
    Levels levels;
    levels.n = static_cast<int>(sorted.size());
    while (1 << levels.depth < levels.n) ++levels.depth;
    float value[max_levels], threshold[max_levels];
    for (int i = 0; i < max_levels; ++i) {
        const auto& [level, code] = sorted[static_cast<std::size_t>(std::min(i, levels.n - 1))];
        value[i] = level;
        levels.code[i] = code;
        threshold[i] = i == 0 || i >= levels.n ? std::numeric_limits<float>::infinity() : (value[i - 1] + level) / 2;
    }
    for (int i = 0; i < 8; ++i) {
        levels.low[i] = value[i];
        levels.high[i] = value[i + 8];
    }
    for (int bit = 0; bit < max_depth; ++bit)
        for (int i = 0; i < 8; ++i) levels.thresholds[bit][i] = threshold[((i << (bit + 1)) + (1 << bit)) % max_levels];
    return levels;
}

class CodebookGrid final : public Grid {
public:
    CodebookGrid(const Scheme& scheme, ScaleRule rule);
    GroupParams fit(std::span<const float> group, std::span<const float> importance) const override;
    GroupUnder fit_under(float super_scale, const GroupParams& wanted, std::span<const float> group, std::span<const float> importance) const override;
    void round_group(std::span<const float> group, const GroupParams& params, std::uint8_t* codes) const override {
        if (params.scale == 0) std::fill_n(codes, group.size(), zero_code_);
        else search_.round(levels_, group, params.scale, codes);
    }
    std::int32_t round(float x, const GroupParams& params) const override {
        std::uint8_t code = 0;
        round_group({&x, 1}, params, &code);
        return code;
    }
    float value(std::int32_t code, const GroupParams& params) const override { return book_.levels[static_cast<std::size_t>(code)] * params.scale; }
    std::int32_t n_codes() const override { return static_cast<std::int32_t>(book_.levels.size()); }

private:
    static constexpr int max_candidates = 48;

    float first() const { return levels_.low[0]; }
    float last() const { return levels_.n > 8 ? levels_.high[levels_.n - 9] : levels_.low[levels_.n - 1]; }
    float stored(const Group& group, float scale) const {  // as it will be read back, in the group's units
        return std::ldexp(round_to(scheme_.scale_dtype, std::ldexp(scale, group.exponent)), -group.exponent);
    }
    bool positive_only() const { return scheme_.scale_dtype == DType::f8_e8m0 || (scheme_.scale_dtype == DType::u8 && scheme_.scale_book == nullptr); }
    float unclipped(const Group& group, float sign) const;
    float min_max(const Group& group) const;
    int propose(const Group& group, Candidate* candidates) const;
    float search(const Group& group) const;
    void improve(const Group& group, float start, float& best, float& best_error) const;
    float constant_scale(float value) const;

    const Scheme scheme_;
    const Codebook& book_;
    const ScaleRule rule_;
    const Levels levels_;
    const Search& search_;
    bool mirrored_ = true;         // each level's negative is a level: the scale's sign does not matter
    std::uint8_t zero_code_ = 0;   // the smallest level's, for groups of scale 0
    float outer_ratio_ = 1.2f;     // of the outermost level to the next one, within reason
    float per_magnitude_ = 1;      // the best scale for very many Gaussian weights of mean magnitude 1
};

CodebookGrid::CodebookGrid(const Scheme& scheme, ScaleRule rule)
    : scheme_(scheme), book_(*scheme.codebook), rule_(rule), levels_(sorted_levels(book_)), search_(search_of(levels_.depth)) {
    for (std::size_t code = 0; code < book_.levels.size(); ++code) {
        mirrored_ = mirrored_ && std::find(book_.levels.begin(), book_.levels.end(), -book_.levels[code]) != book_.levels.end();
        if (std::fabs(book_.levels[code]) < std::fabs(book_.levels[zero_code_])) zero_code_ = static_cast<std::uint8_t>(code);
    }
    if (levels_.n > 2) {
        const float before_last = levels_.n > 9 ? levels_.high[levels_.n - 10] : levels_.low[levels_.n - 2];
        outer_ratio_ = std::clamp(std::max(last() / before_last, first() / levels_.low[1]), 1.2f, 1.5f);
    }
    // A Gaussian as a group of evenly spaced numbers weighted by its density.
    constexpr int n_points = 129;
    float x[n_points + group_padding] = {}, density[n_points + group_padding] = {};
    for (int i = 0; i < n_points; ++i) {
        x[i] = static_cast<float>(i - n_points / 2) / 16.0f;
        density[i] = std::exp(-x[i] * x[i] / 2);
    }
    const Group gaussian = {x, density, n_points, x[0], x[n_points - 1], 0};
    const float reach = std::max(-first(), last());
    float least = std::numeric_limits<float>::infinity();
    for (int step = 0; step < 64; ++step) {
        const float scale = 4.0f * std::pow(0.95f, static_cast<float>(step)) / reach;
        Judgement judgement;
        search_.judge(levels_, gaussian, scale, judgement);
        if (judgement.error >= least) continue;
        least = judgement.error;
        per_magnitude_ = scale / 0.79788456f;  // the mean magnitude of a Gaussian
    }
}

// The smallest scale of this sign at which no weight lies beyond the outermost levels.
float CodebookGrid::unclipped(const Group& group, float sign) const {
    const float low = sign > 0 ? group.minimum : -group.maximum, high = sign > 0 ? group.maximum : -group.minimum;
    const float magnitude = std::max(first() < 0 ? low / first() : 0, last() > 0 ? high / last() : 0);
    return sign * (magnitude > 0 ? magnitude : std::max(-low, high) / std::max(-first(), last()));
}

float CodebookGrid::min_max(const Group& group) const {
    if (scheme_.scale_dtype == DType::f8_e8m0) {
        // The exponent of the largest weight meets that of the largest level, as in the OCP microscaling standard, section 6.3.
        return std::scalbn(1.0f, std::ilogb(std::max(-group.minimum, group.maximum)) - std::ilogb(last()));
    }
    const float plus = unclipped(group, 1), minus = unclipped(group, -1);
    return mirrored_ || positive_only() || plus <= -minus ? plus : minus;
}

// Scales from one at which the largest weight takes the level before the last down to one that suits the bulk of the weights, whatever the outliers. Returns a multiple of `lanes`.
int CodebookGrid::propose(const Group& group, Candidate* candidates) const {
    if (scheme_.scale_dtype == DType::f8_e8m0) {
        const float middle = min_max(group);
        for (int i = 0; i < lanes; ++i) candidates[i].scale = std::scalbn(middle, 2 - i);
        return lanes;
    }
    float sum = 0;
    for (std::int64_t i = 0; i < group.n; ++i) sum += std::fabs(group.x[i]);
    const float bulk = 0.6f * per_magnitude_ * sum / static_cast<float>(group.n);
    const int per_sign = (levels_.depth >= 4 ? 24 : levels_.depth == 3 ? 16 : 8) + (mirrored_ && levels_.depth >= 4 ? 8 : 0);
    int n = 0;
    for (float sign : {1.0f, -1.0f}) {
        if (sign < 0 && (mirrored_ || positive_only())) break;
        const float highest = outer_ratio_ * std::fabs(unclipped(group, sign)), lowest = std::min(bulk, 0.6f * highest);
        const float ratio = std::pow(lowest / highest, 1.0f / static_cast<float>(per_sign - 1));
        float scale = sign * highest;
        for (int i = 0; i < per_sign; ++i, scale *= ratio) candidates[n++].scale = scale;
    }
    return n;
}

// Alternates least squares for the scale and nearest levels, from one start, and keeps what is better than `best`.
void CodebookGrid::improve(const Group& group, float start, float& best, float& best_error) const {
    float scale = start, previous = std::numeric_limits<float>::infinity();
    for (int round = 0; round < 4; ++round) {
        scale = stored(group, scale);
        if (scale == 0) return;
        Judgement judgement;
        search_.judge(levels_, group, scale, judgement);
        if (judgement.error < best_error) {
            best_error = judgement.error;
            best = scale;
        }
        if (!(judgement.error < previous) || judgement.refit_scale == 0 || (positive_only() && judgement.refit_scale < 0)) return;
        previous = judgement.error;
        scale = judgement.refit_scale;
    }
}

float CodebookGrid::search(const Group& group) const {
    Candidate candidates[max_candidates];
    const int n = propose(group, candidates);
    for (int i = 0; i < n; i += lanes) search_.score(levels_, group, candidates + i);
    float best = stored(group, min_max(group)), best_error = std::numeric_limits<float>::infinity();
    const float unsearched = best;
    constexpr int n_finalists = 3;
    const bool powers_of_two = scheme_.scale_dtype == DType::f8_e8m0;  // judged as they are: refitting would only round back
    std::partial_sort(candidates, candidates + n_finalists, candidates + n, [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
    for (int i = 0; i < (powers_of_two ? n : n_finalists); ++i) improve(group, powers_of_two ? candidates[i].scale : candidates[i].refit_scale, best, best_error);
    improve(group, unsearched, best, best_error);
    return best;
}

// A group of equal weights: the level and storable scale whose product comes closest.
float CodebookGrid::constant_scale(float value) const {
    float best = 0, best_error = std::numeric_limits<float>::infinity();
    for (float level : book_.levels) {
        if (level == 0) continue;
        const float scale = round_to(scheme_.scale_dtype, value / level), error = std::fabs(scale * level - value);
        if (!(error < best_error) || (positive_only() && scale < 0)) continue;
        best = scale;
        best_error = error;
    }
    return best;
}

GroupParams CodebookGrid::fit(std::span<const float> values, std::span<const float> importance) const {
    const NormalGroup normal(values, importance);
    if (normal.empty()) return {0, 0, 0};
    if (normal.constant() && rule_ == ScaleRule::search) return {constant_scale(values[0]), 0, 0};
    const Group& group = normal.group();
    const float scale = rule_ == ScaleRule::search ? search(group) : stored(group, min_max(group));
    return {std::ldexp(scale, group.exponent), 0, 0};
}

GroupUnder CodebookGrid::fit_under(float super_scale, const GroupParams& wanted, std::span<const float> values, std::span<const float> importance) const {
    const NormalGroup normal(values, importance);
    if (normal.empty()) return nothing_under(scheme_, super_scale, 0);
    return best_under(scheme_, super_scale, wanted, [&](float scale) {
        Judgement judgement;
        if (scale != 0) search_.judge(levels_, normal.group(), std::ldexp(scale, -normal.group().exponent), judgement);
        return static_cast<double>(judgement.error) * normal.unit();
    });
}

}  // namespace

std::unique_ptr<Grid> grids::make_codebook_grid(const Scheme& scheme, ScaleRule rule) { return std::make_unique<CodebookGrid>(scheme, rule); }

}  // namespace skiff
