// What the scale searches of the grids share: groups brought to a common size, and scales as they will be read back.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "tensor/scheme.h"

namespace skiff::grids {

inline constexpr float rounding_magic = 0x1.8p23f;   // x + magic - magic rounds |x| < 2^22 to the nearest integer, ties to even
inline constexpr float flushed_to_zero = 0x1p-100f;  // groups without a weight above this are all zero

// A scale as its type will give it back; those relative to a super scale are rounded later, by fit_under.
inline float round_to(DType dtype, float value) {
    if (dtype == DType::f8_e8m0) {
        const int exponent = std::ilogb(value) + (std::scalbn(value, -std::ilogb(value)) > 1.5f ? 1 : 0);
        return value > 0 ? std::scalbn(1.0f, exponent < -127 ? -127 : exponent > 126 ? 126 : exponent) : 0;  // 126: the public MXFP4 exponent is one more
    }
    const bool is_f16 = dtype == DType::f16, is_bf16 = dtype == DType::bf16;
    const float rounded = is_f16 ? f16_to_float(float_to_f16(value)) : is_bf16 ? bf16_to_float(float_to_bf16(value)) : value;
    if (std::isfinite(rounded)) return rounded;
    return std::copysign(is_f16 ? 65504.0f : is_bf16 ? 0x1.fep127f : std::numeric_limits<float>::max(), value);
}

inline constexpr int group_padding = 8;  // zeros, of no weight, follow a group's numbers up to a multiple of so many

// A group scaled by a power of two so that its largest magnitude is in [1, 2), and weights for the squared errors with maximum 1.
struct Group {
    const float* x;       // with the padding behind, as are the weights
    const float* weight;  // all ones without importance
    std::int64_t n;
    float minimum, maximum;  // of x and zero
    int exponent;            // original = x * 2^exponent
};

// The copies behind a Group.
class NormalGroup {
public:
    NormalGroup(std::span<const float> group, std::span<const float> importance);
    // Nothing to fit: all weights are (nearly) zero, or one is not finite.
    bool empty() const { return !(magnitude_ > flushed_to_zero) || std::isinf(magnitude_); }
    bool constant() const { return constant_; }  // all weights are equal
    float magnitude() const { return magnitude_; }
    double unit() const { return unit_; }  // squared errors here times this are those of the group as it was given
    const Group& group() const { return group_; }

private:
    static constexpr std::size_t on_stack = 256;
    float magnitude_ = 0;
    double unit_ = 1;
    bool constant_ = true;
    float stack_[2 * on_stack];
    std::vector<float> heap_;
    Group group_ = {};
};

inline NormalGroup::NormalGroup(std::span<const float> group, std::span<const float> importance) {
    float minimum = 0, maximum = 0;
    for (float x : group) {
        minimum = x < minimum ? x : minimum;
        maximum = x > maximum ? x : maximum;
        constant_ = constant_ && x == group[0];
    }
    magnitude_ = maximum > -minimum ? maximum : -minimum;
    if (empty()) return;
    const std::size_t padded = (group.size() + group_padding - 1) / group_padding * group_padding;
    if (padded > on_stack) heap_.resize(2 * padded);
    float* x = heap_.empty() ? stack_ : heap_.data();
    float* weight = x + padded;
    for (std::size_t i = group.size(); i < padded; ++i) x[i] = weight[i] = 0;
    const int exponent = std::ilogb(magnitude_);
    const float factor = std::ldexp(1.0f, -exponent);
    for (std::size_t i = 0; i < group.size(); ++i) x[i] = group[i] * factor;
    float heaviest = 0;
    for (float w : importance) heaviest = w > heaviest ? w : heaviest;
    const bool weighted = heaviest > 0 && std::isfinite(heaviest);
    unit_ = std::ldexp(weighted ? static_cast<double>(heaviest) : 1.0, 2 * exponent);
    for (std::size_t i = 0; i < group.size(); ++i) {
        const float share = weighted ? importance[i] / heaviest : 1.0f;
        weight[i] = share > 0 ? share : 0;
    }
    group_ = {x, weight, static_cast<std::int64_t>(group.size()), minimum * factor, maximum * factor, exponent};
}

// The scale under `super_scale` with the least error(scale) around the wanted scale: each code's rounding changes which weight takes which level, so that the nearest is not
// always the best. error(0) is that of a group of zeros.
template <class Error>
GroupUnder best_near(float super_scale, const GroupParams& wanted, Error error) {
    constexpr int reach = 2;
    GroupUnder best = {{0, wanted.zero, 0}, error(0.0f)};
    if (super_scale == 0) return best;
    const int nearest = static_cast<int>(std::nearbyint(std::fmin(std::fmax(wanted.scale / super_scale, -largest_scale_code), largest_scale_code)));
    for (int code = nearest - reach; code <= nearest + reach; ++code) {
        if (code == 0 || code < -largest_scale_code || code > largest_scale_code) continue;
        const float scale = super_scale * static_cast<float>(code);
        if (scale == 0) continue;
        const double own = error(scale);
        if (own < best.error) best = {{scale, wanted.zero, code}, own};
    }
    return best;
}

// The same among a table of scales: those of either sign within a third of the wanted one, and the nearest. No scale of a table is zero.
template <class Error>
GroupUnder best_of_table(const Codebook& book, float super_scale, const GroupParams& wanted, Error error) {
    constexpr float reach = 1.34f;
    if (super_scale == 0) return {{0, wanted.zero, 0}, error(0.0f)};
    const float size = std::fabs(wanted.scale / super_scale);
    float closest = std::numeric_limits<float>::infinity();
    for (float level : book.levels) closest = std::fmin(closest, std::fabs(std::fabs(level) - size));
    GroupUnder best = {{super_scale * book.levels[0], wanted.zero, 0}, std::numeric_limits<double>::infinity()};
    for (std::size_t code = 0; code < book.levels.size(); ++code) {
        const float level = std::fabs(book.levels[code]);
        if ((level > size * reach || level * reach < size) && std::fabs(level - size) > closest) continue;
        const float scale = super_scale * book.levels[code];
        const double own = error(scale);
        if (own < best.error) best = {{scale, wanted.zero, static_cast<std::int32_t>(code)}, own};
    }
    return best;
}

// For a group of zeros. A table has no scale zero: they become what is next to zero.
inline GroupUnder nothing_under(const Scheme& scheme, float super_scale, std::int32_t zero) {
    return {{scheme.scale_book != nullptr ? super_scale * scheme.scale_book->levels[0] : 0, zero, 0}, 0};
}

template <class Error>
GroupUnder best_under(const Scheme& scheme, float super_scale, const GroupParams& wanted, Error error) {
    return scheme.scale_book != nullptr ? best_of_table(*scheme.scale_book, super_scale, wanted, error) : best_near(super_scale, wanted, error);
}

std::unique_ptr<Grid> make_codebook_grid(const Scheme& scheme, ScaleRule rule);
std::unique_ptr<Grid> make_float8_grid(const Scheme& scheme, ScaleRule rule);

}  // namespace skiff::grids
