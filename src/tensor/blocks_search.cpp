#include "tensor/blocks_search.h"

#include <cmath>

#include "tensor/blocks_decode.h"

namespace skiff::blocks {
namespace {

constexpr int lanes = 8;  // independent sums, so that the loops vectorize without changing the order of additions
constexpr int max_refinements = 4;

double total(const float* sums) {
    double sum = 0;
    for (int lane = 0; lane < lanes; ++lane) sum += sums[lane];
    return sum;
}

// Reciprocal of a scale that may be zero or so small that it overflows.
float inverse_of(float scale) {
    const float inverse = 1.0f / scale;
    return std::isfinite(inverse) ? inverse : 0.0f;
}

float extreme(const Group& group) {
    float found = 0;
    for (int i = 0; i < group.n; ++i) {
        if (std::fabs(group.x[i]) > std::fabs(found)) found = group.x[i];
    }
    return found;
}

// Sums of a one-parameter fit x ~ s * v: the best s is xv/vv, and it lowers the squared error by xv^2/vv.
struct Fit {
    double xv = 0, vv = 0;
    double gain() const { return vv > 0 ? xv * xv / vv : 0; }
    float scale() const { return vv > 0 ? static_cast<float>(xv / vv) : 0.0f; }
};

Fit fit_integers(const Group& group, float inverse, float low, float high) {
    float xv[lanes] = {}, vv[lanes] = {};
    for (int i = 0; i < group.n; i += lanes) {
        for (int lane = 0; lane < lanes; ++lane) {
            const float x = group.x[i + lane], value = nearest(x * inverse, low, high), weighed = group.importance[i + lane] * value;
            xv[lane] += weighed * x;
            vv[lane] += weighed * value;
        }
    }
    return {total(xv), total(vv)};
}

// Index of the level of IQ4 nearest to x, the lower one at a tie. All midpoints are halves of integers, so that ceil(2x) decides.
struct LevelTable {
    static constexpr int lowest = -256, highest = 255;
    std::uint8_t index[highest - lowest + 1];
    constexpr LevelTable() : index{} {
        for (int twice = lowest; twice <= highest; ++twice) {
            std::uint8_t level = 0;
            while (level < 15 && twice > iq4_levels[level] + iq4_levels[level + 1]) ++level;
            index[twice - lowest] = level;
        }
    }
};
constexpr LevelTable level_table;

int nearest_level(float x) {
    const float twice = std::max(static_cast<float>(LevelTable::lowest), std::min(static_cast<float>(LevelTable::highest), 2 * x));
    const int truncated = static_cast<int>(twice);
    return level_table.index[truncated + (twice > static_cast<float>(truncated) ? 1 : 0) - LevelTable::lowest];
}

Fit fit_levels(const Group& group, float inverse) {
    float xv[lanes] = {}, vv[lanes] = {};
    for (int i = 0; i < group.n; i += lanes) {
        for (int lane = 0; lane < lanes; ++lane) {
            const float x = group.x[i + lane], value = static_cast<float>(iq4_levels[nearest_level(x * inverse)]);
            const float weighed = group.importance[i + lane] * value;
            xv[lane] += weighed * x;
            vv[lane] += weighed * value;
        }
    }
    return {total(xv), total(vv)};
}

// Puts the extreme number on each target in turn, keeps the best fit, then rounds again under the fitted scale while that helps.
template <class Evaluate>
float search_targets(float x_extreme, float first, float last, int n_steps, Evaluate evaluate) {
    Fit best;
    for (int side = -1; side <= 1; side += 2) {
        for (int step = 0; step < n_steps; ++step) {
            const float target = first + (last - first) * static_cast<float>(step) / static_cast<float>(n_steps - 1);
            const Fit fit = evaluate(static_cast<float>(side) * target * inverse_of(x_extreme));
            if (fit.gain() > best.gain()) best = fit;
        }
    }
    for (int i = 0; i < max_refinements; ++i) {
        const Fit fit = evaluate(inverse_of(best.scale()));
        if (!(fit.gain() > best.gain())) break;
        best = fit;
    }
    return best.scale();
}

struct AffineSums {
    double w = 0, x = 0, xx = 0;  // of the group alone
    double q = 0, qq = 0, xq = 0;
};

void fit_affine_codes(const Group& group, float inverse, float offset, float top, AffineSums& sums) {
    float q[lanes] = {}, qq[lanes] = {}, xq[lanes] = {};
    for (int i = 0; i < group.n; i += lanes) {
        for (int lane = 0; lane < lanes; ++lane) {
            const float x = group.x[i + lane], code = nearest((x - offset) * inverse, 0.0f, top), weighed = group.importance[i + lane] * code;
            q[lane] += weighed;
            qq[lane] += weighed * code;
            xq[lane] += weighed * x;
        }
    }
    sums.q = total(q);
    sums.qq = total(qq);
    sums.xq = total(xq);
}

// Least squares for scale and offset under fixed codes; returns the squared error.
double solve_affine(const AffineSums& sums, OffsetSign sign, Affine& affine) {
    const double determinant = sums.w * sums.qq - sums.q * sums.q;
    double scale = 0, offset = sums.w > 0 ? sums.x / sums.w : 0;
    if (determinant > 1e-12 * sums.w * sums.qq) {
        scale = (sums.w * sums.xq - sums.x * sums.q) / determinant;
        offset = (sums.qq * sums.x - sums.q * sums.xq) / determinant;
    }
    if (sign == OffsetSign::not_positive && offset > 0) {
        offset = 0;
        scale = sums.qq > 0 ? sums.xq / sums.qq : 0;
    }
    if (scale < 0) scale = 0;
    affine = {static_cast<float>(scale), static_cast<float>(offset)};
    return sums.xx + scale * scale * sums.qq + offset * offset * sums.w - 2 * scale * sums.xq - 2 * offset * sums.x +
           2 * scale * offset * sums.q;
}

}  // namespace

float search_scale(const Group& group, int low, int high) {
    const float x_extreme = extreme(group);
    if (x_extreme == 0 || !std::isfinite(x_extreme)) return 0;
    // Few codes gain from clipping the extremes, many do not; both ends of the range are reached by the two signs.
    const bool coarse = high < 24;
    const float magnitude = static_cast<float>(-low);
    return search_targets(x_extreme, magnitude * (coarse ? 0.72f : 0.92f), magnitude * (coarse ? 1.3f : 1.08f), coarse ? 20 : 14,
                          [&](float inverse) { return fit_integers(group, inverse, static_cast<float>(low), static_cast<float>(high)); });
}

double scale_error(const Group& group, float scale, int low, int high) {
    const float inverse = inverse_of(scale);
    float errors[lanes] = {};
    for (int i = 0; i < group.n; i += lanes) {
        for (int lane = 0; lane < lanes; ++lane) {
            const float x = group.x[i + lane];
            const float error = x - scale * nearest(x * inverse, static_cast<float>(low), static_cast<float>(high));
            errors[lane] += group.importance[i + lane] * error * error;
        }
    }
    return total(errors);
}

void round_to_scale(const Group& group, float scale, int low, int high, std::int8_t* codes) {
    const float inverse = inverse_of(scale);
    for (int i = 0; i < group.n; ++i)
        codes[i] = static_cast<std::int8_t>(nearest(group.x[i] * inverse, static_cast<float>(low), static_cast<float>(high)));
}

float search_level_scale(const Group& group) {
    const float x_extreme = extreme(group);
    if (x_extreme == 0 || !std::isfinite(x_extreme)) return 0;
    const float magnitude = static_cast<float>(-iq4_levels[0]);
    return search_targets(x_extreme, magnitude * 0.76f, magnitude * 1.32f, 16, [&](float inverse) { return fit_levels(group, inverse); });
}

void round_to_levels(const Group& group, float scale, std::uint8_t* codes) {
    const float inverse = inverse_of(scale);
    for (int i = 0; i < group.n; ++i) codes[i] = static_cast<std::uint8_t>(nearest_level(group.x[i] * inverse));
}

Affine search_affine(const Group& group, int top, OffsetSign sign) {
    AffineSums sums;
    float low = group.x[0], high = group.x[0];
    for (int i = 0; i < group.n; ++i) {
        const double x = group.x[i], w = group.importance[i];
        low = std::min(low, group.x[i]);
        high = std::max(high, group.x[i]);
        sums.w += w;
        sums.x += w * x;
        sums.xx += w * x * x;
    }
    if (sign == OffsetSign::not_positive) low = std::min(low, 0.0f);
    const float range = high - low;
    if (!std::isfinite(range) || range <= 0) return {0, std::isfinite(low) ? low : 0.0f};
    const bool coarse = top < 24;
    const float step = coarse ? 0.03f : 0.012f;
    Affine best{range / static_cast<float>(top), low}, affine;
    double best_error = affine_error(group, best, top);
    auto attempt = [&](Affine start) {
        fit_affine_codes(group, inverse_of(start.scale), start.offset, static_cast<float>(top), sums);
        const double error = solve_affine(sums, sign, affine);
        if (!(error < best_error)) return false;
        best_error = error;
        best = affine;
        return true;
    };
    for (int from = -1; from < 4; ++from) {  // clip a little at either end, or leave room
        for (int to = -1; to < 4; ++to) {
            const float offset = low + static_cast<float>(from) * step * range;
            attempt({(high - static_cast<float>(to) * step * range - offset) / static_cast<float>(top), offset});
        }
    }
    for (int i = 0; i < max_refinements; ++i) {
        if (!attempt(best)) break;
    }
    return best;
}

double affine_error(const Group& group, Affine affine, int top) {
    const float inverse = inverse_of(affine.scale);
    float errors[lanes] = {};
    for (int i = 0; i < group.n; i += lanes) {
        for (int lane = 0; lane < lanes; ++lane) {
            const float x = group.x[i + lane];
            const float error = x - (affine.scale * nearest((x - affine.offset) * inverse, 0.0f, static_cast<float>(top)) + affine.offset);
            errors[lane] += group.importance[i + lane] * error * error;
        }
    }
    return total(errors);
}

void round_to_affine(const Group& group, Affine affine, int top, std::uint8_t* codes) {
    const float inverse = inverse_of(affine.scale);
    for (int i = 0; i < group.n; ++i)
        codes[i] = static_cast<std::uint8_t>(nearest((group.x[i] - affine.offset) * inverse, 0.0f, static_cast<float>(top)));
}

}  // namespace skiff::blocks
