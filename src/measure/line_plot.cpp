#include "measure/line_plot.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>

#include "measure/axis_ticks.h"
#include "text/unicode.h"

namespace skiff {
namespace {

constexpr double width = 760, height = 440;          // units of the drawing; a viewer scales them
constexpr double top_of_title = 30, row_of_legend = 20, right_margin = 24, bottom_margin = 58;
constexpr double character_width = 6.7;              // of the small text, at most, for the room that words need
constexpr std::size_t max_points = 2000, max_marked_points = 30;
constexpr double largest = 1e300;                    // what is greater would overflow in a difference

// Eight colours of like weight that stay apart for most colour-blind readers and show on white and on near-black (after Okabe and Ito).
constexpr const char* colours[] = {"#2f7ebc", "#e0792b", "#2a9d77", "#c9568f", "#8a6fd1", "#b8962e", "#4fa9c9", "#8c8c8c"};

constexpr std::string_view centred = " text-anchor=\"middle\"";
constexpr std::string_view style =
    "<style>"
    "text{font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',Helvetica,Arial,sans-serif;font-size:12px;fill:#57606a}"
    ".title{font-size:16px;font-weight:600;fill:#1f2328}.label{font-size:13px;fill:#1f2328}"
    ".paper{fill:#ffffff}.grid{stroke:#d8dee4;stroke-width:1}.axis{stroke:#8c959f;stroke-width:1}"
    "path{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}.pale{stroke-width:1;opacity:0.4}"
    "@media (prefers-color-scheme:dark){text{fill:#9da7b1}.title,.label{fill:#e6edf3}.paper{fill:#0d1117}.grid{stroke:#2b323b}.axis{stroke:#6e7681}}"
    "</style>\n";

std::string number(double value) {
    char buffer[400];
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed, 1).ptr;
    return std::string(buffer, end);
}

// Text that may stand in XML, whatever it was.
std::string escaped(std::string_view text) {
    std::string result;
    for (const char c : make_valid_utf8(text)) {
        switch (c) {
            case '&': result += "&amp;"; break;
            case '<': result += "&lt;"; break;
            case '>': result += "&gt;"; break;
            case '"': result += "&quot;"; break;
            case '\'': result += "&#39;"; break;
            default: result += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? ' ' : c;
        }
    }
    return result;
}

std::size_t n_characters(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

struct Point {
    double x = 0, y = 0;
};
using Points = std::vector<std::optional<Point>>;  // nothing: a gap

bool shows(double value, AxisScale scale) { return std::abs(value) < largest && (scale == AxisScale::linear || value > 1 / largest); }  // false for NaN

// The least and the greatest of each stretch, in their order, and the ends of the series.
Points thinned(const Points& points) {
    if (points.size() <= max_points) return points;
    Points result;
    const std::size_t n_stretches = max_points / 2 - 1;
    result.push_back(points.front());
    for (std::size_t i = 0; i < n_stretches; ++i) {
        const std::size_t begin = 1 + i * (points.size() - 2) / n_stretches, end = 1 + (i + 1) * (points.size() - 2) / n_stretches;
        std::size_t least = end, greatest = end;
        for (std::size_t j = begin; j < end; ++j) {
            if (!points[j]) continue;
            if (least == end || points[j]->y < points[least]->y) least = j;
            if (greatest == end || points[j]->y > points[greatest]->y) greatest = j;
        }
        if (least == end) {
            result.push_back(std::nullopt);
            continue;
        }
        result.push_back(points[std::min(least, greatest)]);
        if (least != greatest) result.push_back(points[std::max(least, greatest)]);
    }
    result.push_back(points.back());
    return result;
}

Points points_of(const LineSeries& series, const LinePlot& plot) {
    Points points(std::min(series.xs.size(), series.ys.size()));
    for (std::size_t i = 0; i < points.size(); ++i) {
        if (shows(series.xs[i], plot.x_scale) && shows(series.ys[i], plot.y_scale)) points[i] = Point{series.xs[i], series.ys[i]};
    }
    return thinned(points);
}

// The values along one side of the picture, and the places they have on it.
class PlotAxis {
public:
    PlotAxis(AxisScale scale, int n_ticks) : scale_(scale), n_ticks_(n_ticks) {}
    void include(double value) {
        low_ = any_ ? std::min(low_, value) : value;
        high_ = any_ ? std::max(high_, value) : value;
        any_ = true;
    }
    enum class Ends { as_data, with_room, at_ticks };
    // After the last include().
    void settle(Ends ends) {
        const bool logarithmic = scale_ == AxisScale::logarithmic;
        if (!any_) low_ = logarithmic ? 1 : 0, high_ = logarithmic ? 10 : 1;
        if (low_ == high_ || (high_ - low_) < 1e-12 * std::max(std::abs(low_), std::abs(high_))) {
            const double room = low_ == 0 ? 1 : std::abs(low_) * 0.1;
            low_ -= room, high_ += room;
        }
        if (ends == Ends::with_room && logarithmic) {
            const double room = std::pow(high_ / low_, 0.03);
            low_ /= room, high_ *= room;
        } else if (ends == Ends::with_room) {
            const double room = 0.03 * (high_ - low_);
            low_ -= room, high_ += room;
        } else if (ends == Ends::at_ticks && logarithmic) {
            const double room = std::pow(high_ / low_, 0.04);
            low_ /= room, high_ *= room;
        } else if (ends == Ends::at_ticks) {
            if (low_ > 0 && low_ < 0.25 * high_) low_ = 0;  // near enough to zero that the picture should say so
            const double step = tick_step(low_, high_, n_ticks_);
            low_ = std::floor(low_ / step + 1e-6) * step;
            high_ = std::ceil(high_ / step - 1e-6) * step;
        }
    }
    void place(double from, double to) { from_ = from, to_ = to; }
    double at(double value) const { return from_ + (to_ - from_) * (transformed(value) - transformed(low_)) / (transformed(high_) - transformed(low_)); }
    std::vector<AxisTick> ticks() const { return axis_ticks(low_, high_, scale_, n_ticks_); }

private:
    double transformed(double value) const { return scale_ == AxisScale::logarithmic ? std::log10(value) : value; }
    AxisScale scale_;
    int n_ticks_;
    bool any_ = false;
    double low_ = 0, high_ = 0, from_ = 0, to_ = 1;
};

struct DrawnSeries {
    Points points;
    std::string name, colour, dashes;  // dashes: an attribute or nothing
    LineStyle line = LineStyle::normal;
};

class Drawing {
public:
    explicit Drawing(const LinePlot& plot) : plot_(plot), x_(plot.x_scale, 8), y_(plot.y_scale, 6) {
        std::size_t n_named = 0;
        for (const LineSeries& series : plot.series) {
            DrawnSeries drawn{points_of(series, plot), series.name, colours[n_named % std::size(colours)], "", series.style};
            if (n_named >= std::size(colours)) drawn.dashes = " stroke-dasharray=\"2 4\"";
            if (n_named / std::size(colours) == 1) drawn.dashes = " stroke-dasharray=\"6 4\"";
            if (series.style == LineStyle::normal) ++n_named;
            for (const auto& point : drawn.points) {
                if (!point) continue;
                x_.include(point->x), y_.include(point->y);
                any_point_ = true;
            }
            series_.push_back(std::move(drawn));
        }
        x_.settle(plot.x_ends == AxisEnds::of_lines ? PlotAxis::Ends::as_data : PlotAxis::Ends::with_room), y_.settle(PlotAxis::Ends::at_ticks);
    }

    std::string svg() {
        legend();  // first, since the picture begins below it
        std::size_t longest = 1;
        for (const AxisTick& tick : y_.ticks()) longest = std::max(longest, n_characters(tick.label));
        left_ = 16 + static_cast<double>(longest) * character_width + (plot_.y_label.empty() ? 4 : 24);
        x_.place(left_, width - right_margin), y_.place(height - bottom_margin, top_);
        axes();
        for (const DrawnSeries& series : series_) line(series);
        if (!any_point_) text((left_ + width - right_margin) / 2, (top_ + height - bottom_margin) / 2, "no data", centred);
        const std::string size = "0 0 " + std::to_string(static_cast<int>(width)) + " " + std::to_string(static_cast<int>(height));
        std::string result = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"" + size + "\" width=\"" + std::to_string(static_cast<int>(width)) + "\" height=\"" +
                             std::to_string(static_cast<int>(height)) + "\" role=\"img\">\n<title>" + escaped(plot_.title) + "</title>\n";
        result += style;
        result += "<rect class=\"paper\" width=\"" + number(width) + "\" height=\"" + number(height) + "\"/>\n";
        return result + body_ + "</svg>\n";
    }

private:
    void text(double x, double y, std::string_view words, std::string_view attributes) {
        body_ += "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\"" + std::string(attributes) + ">" + escaped(words) + "</text>\n";
    }
    void segment(double x1, double y1, double x2, double y2, std::string_view attributes) {
        body_ += "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) + "\" y2=\"" + number(y2) + "\"" + std::string(attributes) + "/>\n";
    }

    // The title and, in rows below it, the names with their colours. Sets top_.
    void legend() {
        double x = 20, y = plot_.title.empty() ? 12 : top_of_title;
        if (!plot_.title.empty()) text(x, y, plot_.title, " class=\"title\"");
        bool any = false;
        for (const DrawnSeries& series : series_) {
            if (series.line == LineStyle::pale || series.name.empty()) continue;
            const double room = 26 + static_cast<double>(n_characters(series.name)) * character_width + 18;
            if (!any || (x > 20 && x + room > width - right_margin)) x = 20, y += row_of_legend;
            any = true;
            segment(x, y, x + 20, y, " stroke=\"" + series.colour + "\" stroke-width=\"3\"" + series.dashes);
            text(x + 26, y + 4, series.name, "");
            x += room;
        }
        top_ = std::min(y + 20, height / 2);
    }

    void axes() {
        const double right = width - right_margin, bottom = height - bottom_margin;
        for (const AxisTick& tick : y_.ticks()) {
            segment(left_, y_.at(tick.value), right, y_.at(tick.value), " class=\"grid\"");
            text(left_ - 8, y_.at(tick.value) + 4, tick.label, " text-anchor=\"end\"");
        }
        for (const AxisTick& tick : x_.ticks()) {
            const bool whole = plot_.x_ends == AxisEnds::whole_numbers;
            if (whole && std::abs(tick.value - std::nearbyint(tick.value)) > 1e-9) continue;
            segment(x_.at(tick.value), top_, x_.at(tick.value), bottom, " class=\"grid\"");
            text(x_.at(tick.value), bottom + 18, whole ? std::to_string(std::llround(tick.value)) : tick.label, centred);
        }
        segment(left_, bottom, right, bottom, " class=\"axis\"");
        segment(left_, top_, left_, bottom, " class=\"axis\"");
        if (!plot_.x_label.empty()) text((left_ + right) / 2, height - 16, plot_.x_label, " class=\"label\" text-anchor=\"middle\"");
        if (!plot_.y_label.empty()) {
            const std::string middle = number((top_ + bottom) / 2);
            text(22, (top_ + bottom) / 2, plot_.y_label, " class=\"label\" text-anchor=\"middle\" transform=\"rotate(-90 22 " + middle + ")\"");
        }
    }

    void line(const DrawnSeries& series) {
        const Points& points = series.points;
        const bool marked = points.size() <= max_marked_points && series.line == LineStyle::normal;
        std::string path, dots;
        for (std::size_t i = 0; i < points.size(); ++i) {
            if (!points[i]) continue;
            const std::string x = number(x_.at(points[i]->x)), y = number(y_.at(points[i]->y));
            const bool joins_last = i > 0 && points[i - 1], joins_next = i + 1 < points.size() && points[i + 1];
            if (joins_last || joins_next) path += (joins_last ? "L" : "M") + x + " " + y;
            if (marked || (!joins_last && !joins_next)) dots += "<circle cx=\"" + x + "\" cy=\"" + y + "\" r=\"3\" fill=\"" + series.colour + "\"/>\n";
        }
        const std::string pale = series.line == LineStyle::pale ? " class=\"pale\"" : "";
        if (!path.empty()) body_ += "<path" + pale + " stroke=\"" + series.colour + "\"" + series.dashes + " d=\"" + path + "\"/>\n";
        body_ += dots;
    }

    const LinePlot& plot_;
    PlotAxis x_, y_;
    std::vector<DrawnSeries> series_;
    bool any_point_ = false;
    double left_ = 60, top_ = 50;
    std::string body_;
};

}  // namespace

std::string line_plot_svg(const LinePlot& plot) { return Drawing(plot).svg(); }

}  // namespace skiff
