#include "measure/line_plot.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "measure/axis_ticks.h"

namespace skiff {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();

// What is wrong with a text as XML, "" for nothing: elements nest, attributes are quoted and there once, & begins a known entity.
std::string xml_fault(std::string_view xml) {
    std::vector<std::string> open;
    bool any = false;
    for (std::size_t i = 0; i < xml.size();) {
        if (xml[i] == '&') {
            const std::size_t end = xml.find(';', i);
            const std::string_view entity = end == xml.npos ? "" : xml.substr(i, end - i);
            if (entity != "&amp" && entity != "&lt" && entity != "&gt" && entity != "&quot" && entity != "&#39") return "entity at " + std::string(xml.substr(i, 10));
        }
        if (static_cast<unsigned char>(xml[i]) < 0x20 && xml[i] != '\n') return "control character";
        if (xml[i] == '>') return "a > outside a tag";
        if (xml[i] != '<') {
            if (open.empty() && xml[i] != '\n') return "text outside the root";
            ++i;
            continue;
        }
        const std::size_t end = xml.find('>', i);
        if (end == xml.npos) return "unfinished tag";
        std::string_view tag = xml.substr(i + 1, end - i - 1);
        i = end + 1;
        if (tag.starts_with('/')) {
            if (open.empty() || open.back() != tag.substr(1)) return "closes " + std::string(tag);
            open.pop_back();
            continue;
        }
        if (open.empty() && any) return "a second root";
        any = true;
        const bool empty = tag.ends_with('/');
        if (empty) tag.remove_suffix(1);
        const std::size_t name_end = std::min(tag.find(' '), tag.size());
        const std::string name(tag.substr(0, name_end));
        if (name.empty() || name.find_first_not_of("abcdefghijklmnopqrstuvwxyz") != name.npos) return "element " + name;
        for (tag.remove_prefix(name_end); !tag.empty();) {
            const std::size_t equals = tag.find("=\"");
            const std::size_t close = equals == tag.npos ? tag.npos : tag.find('"', equals + 2);
            if (tag[0] != ' ' || close == tag.npos || tag.substr(1, equals - 1).find_first_of(" \"<") != tag.npos) return "attributes of " + name;
            if (tag.substr(equals, close - equals).find('<') != tag.npos) return "< in an attribute";
            tag.remove_prefix(close + 1);
        }
        if (!empty) open.push_back(name);
    }
    return open.empty() && any ? "" : "not closed";
}

std::size_t count(std::string_view text, std::string_view words) {
    std::size_t n = 0;
    for (std::size_t at = text.find(words); at != text.npos; at = text.find(words, at + words.size())) ++n;
    return n;
}

std::string drawn(const LinePlot& plot) {
    const std::string svg = line_plot_svg(plot);
    EXPECT_EQ(xml_fault(svg), "") << svg;
    EXPECT_EQ(count(svg, "nan"), 0u) << svg;
    EXPECT_EQ(count(svg, "inf"), 0u) << svg;
    return svg;
}

std::vector<std::string> labels(double low, double high, AxisScale scale, int n_wanted = 6) {
    std::vector<std::string> result;
    for (const AxisTick& tick : axis_ticks(low, high, scale, n_wanted)) result.push_back(tick.label);
    return result;
}
using Labels = std::vector<std::string>;

TEST(AxisTicks, StandAtRoundNumbers) {
    EXPECT_EQ(labels(0, 10, AxisScale::linear), (Labels{"0", "2", "4", "6", "8", "10"}));
    EXPECT_EQ(labels(-1, 1, AxisScale::linear, 4), (Labels{"\xE2\x88\x92" "1.0", "\xE2\x88\x92" "0.5", "0", "0.5", "1.0"}));
    EXPECT_EQ(labels(0.13, 0.47, AxisScale::linear), (Labels{"0.15", "0.20", "0.25", "0.30", "0.35", "0.40", "0.45"}));
    EXPECT_EQ(labels(0, 20480000, AxisScale::linear), (Labels{"0", "5M", "10M", "15M", "20M"}));
    EXPECT_EQ(labels(0, 4e-4, AxisScale::linear, 4), (Labels{"0", "1e-4", "2e-4", "3e-4", "4e-4"}));
    EXPECT_EQ(labels(0, 25000, AxisScale::linear, 5), (Labels{"0", "5k", "10k", "15k", "20k", "25k"}));
    EXPECT_EQ(labels(1, 1000, AxisScale::logarithmic, 8), (Labels{"1", "2", "5", "10", "20", "50", "100", "200", "500", "1000"}));
    EXPECT_EQ(labels(1e-5, 1e3, AxisScale::logarithmic, 5), (Labels{"1e-4", "0.01", "1", "100"}));
    EXPECT_EQ(labels(3e4, 4e9, AxisScale::logarithmic), (Labels{"100k", "1M", "10M", "100M", "1G"}));
    EXPECT_EQ(labels(3.2, 9.1, AxisScale::logarithmic), (Labels{"4", "5", "6", "7", "8", "9"}));
}

TEST(AxisTicks, LieWithinAnyRange) {
    for (AxisScale scale : {AxisScale::linear, AxisScale::logarithmic}) {
        for (double low : {1e-290, 1e-9, 0.37, 1.0, 99.9, 1e6, 1e280}) {
            for (double factor : {1.0001, 1.5, 3.0, 10.0, 1234.5, 1e12}) {
                const auto ticks = axis_ticks(low, low * factor, scale, 6);
                EXPECT_GE(ticks.size(), 2u) << low << " " << factor;
                EXPECT_LE(ticks.size(), 12u) << low << " " << factor;
                for (std::size_t i = 0; i < ticks.size(); ++i) {
                    EXPECT_GE(ticks[i].value, low - low * factor * 1e-6);  // the width of a hair on the picture
                    EXPECT_LE(ticks[i].value, low * factor * (1 + 1e-6));
                    EXPECT_TRUE(i == 0 || ticks[i].label != ticks[i - 1].label) << low << " " << factor;
                }
            }
        }
    }
}

// Worked out by hand: the picture goes from x = left to 736 and from y = top to 382 in the units of the drawing; the axes end at the first and last value.
TEST(LinePlot, PutsPointsWhereTheirNumbersAre) {
    const std::string svg = drawn({.title = "t", .series = {{"a", {0, 5, 10}, {0, 2, 4}}}});
    // left = 16 + 3 characters of "0.5" * 6.7 + 4 = 40.1; top = 30 + 20 + 20 = 70.
    EXPECT_NE(svg.find("d=\"M40.1 382.0L388.1 226.0L736.0 70.0\""), std::string::npos) << svg;
    EXPECT_EQ(count(svg, "<circle"), 3u);
    const std::string logarithmic = drawn({.title = "t", .series = {{"a", {1, 10, 100}, {1, 1, 1}}}, .x_scale = AxisScale::logarithmic});
    EXPECT_NE(logarithmic.find("d=\"M46.8 226.0L391.4 226.0L736.0 226.0\""), std::string::npos) << logarithmic;  // "1.00" is a character longer
}

// Layers are counted: no tick between two of them; and no point lies on the edge.
TEST(LinePlot, WholeNumbersHaveRoomAtBothEnds) {
    const auto circles = [](const std::string& svg) {
        std::vector<double> xs;
        for (std::size_t at = svg.find("cx=\""); at != svg.npos; at = svg.find("cx=\"", at + 1)) xs.push_back(std::stod(svg.substr(at + 4)));
        return xs;
    };
    const LineSeries layers{"a", {0, 1, 2}, {1, 2, 3}};
    const std::string lines = drawn({.title = "t", .series = {layers}}), counted = drawn({.title = "t", .series = {layers}, .x_ends = AxisEnds::whole_numbers}), points = drawn({.title = "t", .series = {layers}, .x_ends = AxisEnds::of_points});
    ASSERT_EQ(circles(counted).size(), 3u);
    EXPECT_GT(circles(counted).front(), circles(lines).front() + 10);
    EXPECT_LT(circles(counted).back(), circles(lines).back() - 10);
    EXPECT_EQ(circles(points), circles(counted));
    EXPECT_NE(lines.find(">0.2<"), std::string::npos);
    for (const char* label : {">0.2<", ">0.5<"}) EXPECT_EQ(counted.find(label), std::string::npos);
    for (const char* label : {">0<", ">1<", ">2<"}) EXPECT_NE(counted.find(label), std::string::npos) << label;
}

TEST(LinePlot, NamesAreEscaped) {
    const std::string name = "a<b> & \"c\" 'd' \x01\x1B \xFF \xE4\xB8\xAD </svg>";
    const std::string svg = drawn({.title = name, .x_label = name, .y_label = name, .series = {{name, {1, 2}, {3, 4}}}});
    EXPECT_EQ(count(svg, "a&lt;b&gt; &amp; &quot;c&quot; &#39;d&#39;"), 5u);  // the title twice, two labels, a name
    EXPECT_EQ(count(svg, "\xE4\xB8\xAD"), 5u);
    EXPECT_EQ(count(svg, "</svg>"), 1u);
}

TEST(LinePlot, PointsThatCannotBeShownLeaveAGap) {
    const std::string svg = drawn({.series = {{"a", {0, 1, 2, 3, 4, 5, 6, 7}, {1, 2, nan, 3, 4, infinity, 5, -infinity}}}});
    EXPECT_EQ(count(svg, "<path"), 1u);
    EXPECT_EQ(count(svg.substr(svg.find("<path")), "M"), 2u);  // two stretches of two points, and a point by itself
    EXPECT_EQ(count(svg, "<circle"), 5u);
    const std::string no_x = drawn({.series = {{"a", {0, nan, 2}, {1, 2, 3}}}});
    EXPECT_EQ(count(no_x, "<circle"), 2u);
    EXPECT_EQ(count(no_x, "<path"), 0u);
    const std::string logarithmic = drawn({.series = {{"a", {0, 1, 2, 3}, {1, 0, -2, 3}}}, .y_scale = AxisScale::logarithmic});
    EXPECT_EQ(count(logarithmic, "<circle"), 2u);
    drawn({.series = {{"a", {0, 1}, {1e308, -1e308}}}});
    drawn({.series = {{"a", {0, 1}, {5e299, -5e299}}}});
    drawn({.series = {{"a", {1e-320, 1}, {1e-320, 1e299}}}, .x_scale = AxisScale::logarithmic, .y_scale = AxisScale::logarithmic});
}

TEST(LinePlot, OnePointOrNone) {
    for (AxisScale scale : {AxisScale::linear, AxisScale::logarithmic}) {
        const std::string one = drawn({.title = "one", .series = {{"a", {3}, {7.5}}}, .x_scale = scale, .y_scale = scale});
        EXPECT_EQ(count(one, "<circle"), 1u);
        EXPECT_EQ(count(one, "<path"), 0u);
        EXPECT_EQ(count(one, "no data"), 0u);
        for (const std::vector<LineSeries>& series : {std::vector<LineSeries>{}, {{"a", {}, {}}}, {{"a", {1, 2}, {}}}, {{"a", {nan}, {1}}}}) {
            const std::string none = drawn({.title = "none", .series = series, .x_scale = scale, .y_scale = scale});
            EXPECT_EQ(count(none, "no data"), 1u);
            EXPECT_EQ(count(none, "<circle") + count(none, "<path"), 0u);
        }
    }
    drawn({.series = {{"level", {1, 2, 3}, {5, 5, 5}}}});
    drawn({.series = {{"zero", {0, 0}, {0, 0}}}});
    EXPECT_EQ(count(drawn({.series = {{"shorter", {1, 2, 3}, {5, 6}}}}), "<circle"), 2u);
}

TEST(LinePlot, LongSeriesAreThinnedOutAndKeepTheirSpikes) {
    LineSeries series{"a", {}, {}};
    for (int i = 0; i < 100000; ++i) series.xs.push_back(i), series.ys.push_back(i == 70123 ? 100 : i == 31234 ? -100 : std::sin(i * 0.01));
    const std::string svg = drawn({.series = {series}});
    const std::string path = svg.substr(svg.find("<path"));
    EXPECT_LE(count(path, "L") + count(path, "M"), 2000u);
    EXPECT_GE(count(path, "L"), 1000u);
    EXPECT_NE(path.find(" 52.0L"), std::string::npos);   // 100 at the top: 12 + 20 + 20, without a title
    EXPECT_NE(path.find(" 382.0L"), std::string::npos);  // -100 at the bottom
    std::fill(series.ys.begin() + 20000, series.ys.begin() + 50000, nan);
    EXPECT_EQ(count(drawn({.series = {series}}).substr(svg.find("<path")), "M"), 2u);
}

TEST(LinePlot, ManySeriesHaveColoursDashesAndNames) {
    LinePlot plot{.title = "many"};
    plot.series.push_back({"raw", {0, 1}, {1, 2}, LineStyle::pale});
    for (int i = 0; i < 20; ++i) plot.series.push_back({"series " + std::to_string(i), {0, 1}, {i * 1.0, i * 2.0}});
    const std::string svg = drawn(plot);
    EXPECT_EQ(count(svg, ">raw<"), 0u);
    EXPECT_EQ(count(svg, ">series "), 20u);
    EXPECT_EQ(count(svg, "<path"), 21u);
    EXPECT_EQ(count(svg, "class=\"pale\" stroke=\"#2f7ebc\""), 1u);  // the colour of the series behind it
    EXPECT_EQ(count(svg, "stroke-dasharray=\"6 4\""), 16u);          // the second eight, in the legend and as lines
}

}  // namespace
}  // namespace skiff
