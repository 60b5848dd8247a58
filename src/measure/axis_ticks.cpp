#include "measure/axis_ticks.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace skiff {
namespace {

std::string fixed_text(double value, int decimals) {
    char buffer[400];  // the longest double has 309 digits before the point
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, std::abs(value), std::chars_format::fixed, std::clamp(decimals, 0, 20)).ptr;
    std::string text(buffer, end);
    if (value < 0 && text.find_first_not_of("0.") != text.npos) text.insert(0, "\xE2\x88\x92");  // a minus sign as long as the plus
    return text;
}

int decimal_exponent(double magnitude) { return static_cast<int>(std::floor(std::log10(magnitude) + 1e-9)); }

// How the numbers of one axis are written: with a suffix from 10,000 on, with a power of ten below 0.001 and where no suffix is known.
struct NumberForm {
    double unit = 1;
    std::string suffix;
};
NumberForm form_for(double magnitude) {
    if (magnitude < 1e-3 || magnitude >= 1e15) {
        const int exponent = decimal_exponent(magnitude);
        return {std::pow(10.0, exponent), "e" + std::to_string(exponent)};
    }
    if (magnitude >= 1e12) return {1e12, "T"};
    if (magnitude >= 1e9) return {1e9, "G"};
    if (magnitude >= 1e6) return {1e6, "M"};
    if (magnitude >= 1e4) return {1e3, "k"};
    return {};
}

std::vector<AxisTick> linear_ticks(double low, double high, int n_wanted) {
    const double step = tick_step(low, high, n_wanted);
    const NumberForm form = form_for(std::max(std::abs(low), std::abs(high)));
    const int decimals = -decimal_exponent(step / form.unit);
    std::vector<AxisTick> ticks;
    const double first = std::ceil(low / step - 1e-6);
    for (int i = 0; i <= 4 * n_wanted; ++i) {
        const double value = (first + i) * step;
        if (value > high + step * 1e-6) break;
        ticks.push_back({value, first + i == 0 ? "0" : fixed_text(value / form.unit, decimals) + form.suffix});
    }
    return ticks;
}

std::vector<AxisTick> logarithmic_ticks(double low, double high, int n_wanted) {
    const double span = std::log10(high) - std::log10(low);
    if (span < 1) return linear_ticks(low, high, n_wanted);
    const bool with_multiples = span * 3 <= n_wanted * 1.5;
    const int stride = std::max(1, static_cast<int>(std::ceil(span / n_wanted)));
    std::vector<AxisTick> ticks;
    const int last = decimal_exponent(high);
    for (int exponent = decimal_exponent(low); exponent <= last; ++exponent) {
        if (exponent % stride != 0) continue;
        for (int multiple : {1, 2, 5}) {
            if (multiple > 1 && !with_multiples) break;
            const double value = multiple * std::pow(10.0, exponent);
            if (value < low * (1 - 1e-9) || value > high * (1 + 1e-9)) continue;
            const NumberForm form = form_for(value * (1 + 1e-9));
            ticks.push_back({value, fixed_text(value / form.unit, form.unit == 1 ? -exponent : 0) + form.suffix});
        }
    }
    return ticks;
}

}  // namespace

double tick_step(double low, double high, int n_wanted) {
    const double rough = (high - low) / std::max(1, n_wanted);
    const double power = std::pow(10.0, std::floor(std::log10(rough)));
    for (double multiple : {1.0, 2.0, 5.0}) {
        if (multiple * power >= rough * 0.75) return multiple * power;  // rather a third more than too few
    }
    return 10 * power;
}

std::vector<AxisTick> axis_ticks(double low, double high, AxisScale scale, int n_wanted) {
    return scale == AxisScale::logarithmic ? logarithmic_ticks(low, high, n_wanted) : linear_ticks(low, high, n_wanted);
}

}  // namespace skiff
