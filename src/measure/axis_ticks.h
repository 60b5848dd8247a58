// Where the ticks of a plot's axis stand, and what they are called.
#pragma once

#include <string>
#include <vector>

#include "measure/line_plot.h"

namespace skiff {

struct AxisTick {
    double value = 0;
    std::string label;
};

// About n_wanted ticks, a third more at most, at round values within [low, high]: 1, 2 or 5 times a power of ten apart; on a logarithmic axis powers
// of ten, with their multiples 2 and 5 where there is room, and as on a linear axis where the range holds less than one power of ten.
// Precondition: low < high, both finite, positive on a logarithmic axis.
std::vector<AxisTick> axis_ticks(double low, double high, AxisScale scale, int n_wanted);

// The distance of ticks on a linear axis.
double tick_step(double low, double high, int n_wanted);

}  // namespace skiff
