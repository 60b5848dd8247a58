// Line plots as SVG: what a browser, GitHub and a slide can show. No library draws them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace skiff {

enum class AxisScale : std::uint8_t { linear, logarithmic };
// pale: thin and faint, in the colour of the next series and without a place in the legend; for the raw numbers behind a mean.
enum class LineStyle : std::uint8_t { normal, pale };

struct LineSeries {
    std::string name;            // in the legend
    std::vector<double> xs, ys;  // as many of the shorter one as there are
    LineStyle style = LineStyle::normal;
};

// What x is. of_lines: lines go from edge to edge. of_points: there is room at both sides, so that no point lies on an edge. whole_numbers: the same, and only whole numbers are written.
enum class AxisEnds : std::uint8_t { of_lines, of_points, whole_numbers };

struct LinePlot {
    std::string title, x_label, y_label;  // a unit belongs into the label: "time (s)"
    std::vector<LineSeries> series;
    AxisScale x_scale = AxisScale::linear, y_scale = AxisScale::linear;
    AxisEnds x_ends = AxisEnds::of_lines;
};

// A whole SVG file. Points that are not finite, or not positive on a logarithmic axis, leave a gap. A series of more than 2000 points is thinned out to
// the least and the greatest of each stretch, so that spikes stay. Colours follow the reader's light or dark theme.
std::string line_plot_svg(const LinePlot& plot);

}  // namespace skiff
