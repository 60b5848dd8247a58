// The grid of 8-bit floats: E4M3 and E5M2 with a scale. Their steps follow the size of a number, so the scale matters little as long as the largest weight fits.
#include <bit>

#include "tensor/grid_parts.h"

namespace skiff {
namespace {

using namespace grids;

class Float8Grid final : public Grid {
public:
    Float8Grid(const Scheme& scheme, ScaleRule rule)
        : scheme_(scheme), book_(*scheme.codebook), rule_(rule), mantissa_bits_(book_.name == "e4m3" ? 3 : 2), bias_(book_.name == "e4m3" ? 7 : 15), last_code_(book_.name == "e4m3" ? 0x7e : 0x7b) {}

    GroupParams fit(std::span<const float> values, std::span<const float> importance) const override {
        const NormalGroup normal(values, importance);
        if (normal.empty()) return {0, 0, 0};
        const float smallest = std::ldexp(std::fmax(-normal.group().minimum, normal.group().maximum) / largest(), normal.group().exponent);
        GroupParams best = {round_to(scheme_.scale_dtype, smallest), 0, 0};
        if (rule_ == ScaleRule::min_max) return best;
        if (normal.constant()) return {round_to(scheme_.scale_dtype, normal.magnitude()), 0, 0};
        double least = error(normal, best.scale);
        for (int step = 1; step < 2 * n_steps; ++step) {  // up to the next power of two but one, where all begins anew
            const float scale = round_to(scheme_.scale_dtype, smallest * std::exp2(static_cast<float>(step) / n_steps));
            const double own = error(normal, scale);
            if (own < least) least = own, best.scale = scale;
        }
        return best;
    }
    GroupUnder fit_under(float super_scale, const GroupParams& wanted, std::span<const float> values, std::span<const float> importance) const override {
        const NormalGroup normal(values, importance);
        if (normal.empty()) return nothing_under(scheme_, super_scale, 0);
        return best_under(scheme_, super_scale, wanted, [&](float scale) { return error(normal, scale) * normal.unit(); });
    }
    void round_group(std::span<const float> group, const GroupParams& params, std::uint8_t* codes) const override {
        for (std::size_t i = 0; i < group.size(); ++i) codes[i] = params.scale == 0 ? std::uint8_t{0} : code_of(group[i] / params.scale);
    }
    std::int32_t round(float x, const GroupParams& params) const override { return params.scale == 0 ? 0 : code_of(x / params.scale); }
    float value(std::int32_t code, const GroupParams& params) const override { return book_.levels[static_cast<std::size_t>(code)] * params.scale; }
    std::int32_t n_codes() const override { return 256; }

private:
    static constexpr int n_steps = 8;

    float largest() const { return book_.levels[static_cast<std::size_t>(last_code_)]; }

    // Nearest, ties to the even code; beyond the largest number that one.
    std::uint8_t code_of(float y) const {
        const float size = std::fmin(std::fabs(y), largest());
        const int shift = 23 - mantissa_bits_;
        std::uint32_t code;
        if (size < std::ldexp(1.0f, 1 - bias_)) {  // multiples of the smallest step; one beyond them is the first normal number
            code = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(size, bias_ - 1 + mantissa_bits_)));
        } else {
            std::uint32_t bits = std::bit_cast<std::uint32_t>(size);
            bits += (1u << (shift - 1)) - 1 + (bits >> shift & 1);
            code = (bits >> shift) - (static_cast<std::uint32_t>(127 - bias_) << mantissa_bits_);
        }
        return static_cast<std::uint8_t>(code | (std::signbit(y) ? 0x80u : 0u));
    }

    double error(const NormalGroup& normal, float scale) const {
        if (scale == 0) return std::numeric_limits<double>::infinity();
        const Group& group = normal.group();
        const float own = std::ldexp(scale, -group.exponent);
        double sum = 0;
        for (std::int64_t i = 0; i < group.n; ++i) {
            const double difference = static_cast<double>(group.x[i]) - static_cast<double>(book_.levels[code_of(group.x[i] / own)]) * static_cast<double>(own);
            sum += static_cast<double>(group.weight[i]) * difference * difference;
        }
        return sum;
    }

    const Scheme scheme_;
    const Codebook& book_;
    const ScaleRule rule_;
    const int mantissa_bits_, bias_, last_code_;
};

}  // namespace

std::unique_ptr<Grid> grids::make_float8_grid(const Scheme& scheme, ScaleRule rule) { return std::make_unique<Float8Grid>(scheme, rule); }

}  // namespace skiff
