#include "eval/sensitivity_plots.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "eval/step_words.h"

namespace skiff {
namespace {

// The first number in a name: 3 of "layers.3", "block3.ff" and "layers.3: q_proj + k_proj + v_proj".
std::optional<double> layer_of(const std::string& name) {
    const std::size_t begin = name.find_first_of("0123456789");
    if (begin == std::string::npos) return std::nullopt;
    double layer = 0;
    for (std::size_t i = begin; i < name.size() && name[i] >= '0' && name[i] <= '9' && i < begin + 6; ++i) layer = 10 * layer + (name[i] - '0');
    return layer;
}

class Series {
public:
    void add(const std::string& name, double x, double y) {
        if (lines_.count(name) == 0) order_.push_back(name);
        lines_[name].push_back({x, y});
    }
    std::vector<LineSeries> take() {
        std::vector<LineSeries> all;
        for (const std::string& name : order_) {
            auto& points = lines_[name];
            std::stable_sort(points.begin(), points.end());
            LineSeries line{name, {}, {}};
            for (const auto& [x, y] : points) line.xs.push_back(x), line.ys.push_back(y);
            all.push_back(std::move(line));
        }
        return all;
    }

private:
    std::map<std::string, std::vector<std::pair<double, double>>> lines_;
    std::vector<std::string> order_;
};

// A figure of each layer: {"layers.0": 1, ...} or [1, ...].
void add_layers(const Json& figures, const std::string& name, Series& series) {
    for (const auto& [key, value] : figures.members())
        if (const auto layer = layer_of(key); layer && value.is_number()) series.add(name, *layer, value.number_or(0));
    for (std::size_t i = 0; i < figures.items().size(); ++i) series.add(name, static_cast<double>(i), figures.items()[i].number_or(0));
}

std::string percent(double share) { return std::to_string(static_cast<int>(std::lround(100 * share))) + " %"; }

// The scheme that most parts took: all others are beside the point of comparing parts.
std::string commonest_scheme(const Json& units) {
    std::map<std::string, int> counts;
    for (const Json& unit : units.items()) ++counts[unit["chosen"].text()];
    const auto most = std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    return most == counts.end() ? "" : most->first;
}

class Plots {
public:
    explicit Plots(std::string model) : model_(std::move(model)) {}

    void add_step(const Json& step) {
        const Json& found = step["found"];
        words_ = step_words(step, StepDetail::all);
        Series kl, shares, outliers, influence, neighbours;
        const Json::Array& levels = found["levels"].items();
        for (const auto& [block, row] : found["mean_kl"].members())
            for (std::size_t i = 0; i < row.items().size() && i < levels.size(); ++i)
                if (const auto layer = layer_of(block)) kl.add(percent(levels[i].number_or(0)) + " of it gone", *layer, row.items()[i].number_or(0));
        for (const auto& [axis, value] : found["sensitivities"].members())
            if (const auto layer = layer_of(axis)) kl.add("without its share of " + axis.substr(axis.find('.') + 1), *layer, value.number_or(0));
        add_layers(found["removed_alone"], "without the layer", kl);
        for (const Json& round : found["removed_one_by_one"].items()) kl.add("when it was dropped, with those before it", round["layer"].number_or(0), round["mean_kl"].number_or(0));
        for (const Json& group : found["measured"].items())
            kl.add("groups of " + std::to_string(group["last"].int_or(0) - group["first"].int_or(0) + 1) + " that share, by their first layer", group["first"].number_or(0), group["mean_kl"].number_or(0));
        const std::string scheme = commonest_scheme(found["units"]);
        for (const Json& unit : found["units"].items()) {
            const std::string name = unit["name"].text();
            const std::size_t colon = name.find(':');
            if (const auto layer = layer_of(name); layer && colon != std::string::npos && unit["kl"][scheme].is_number()) kl.add(name.substr(colon + 1) + " as " + scheme, *layer, unit["kl"][scheme].number_or(0));
        }
        add_layers(found["sparsities"], "share that goes", shares);
        add_layers(found["outlier_ratios"], "outliers among weight times input", outliers);
        add_layers(found["block_influence"], "1 - mean cosine of what enters and leaves it", influence);
        add_layers(found["neighbour_distances"], "to the next layer", neighbours);
        add(kl, AxisScale::logarithmic, "mean KL from the parent (nats)", "What each layer costs the model by itself");
        add(shares, AxisScale::linear, "share of the weights", "What each layer lost");
        add(outliers, AxisScale::linear, "share of all", "Where outliers are");
        add(influence, AxisScale::linear, "influence", "How much each layer turns the hidden state");
        add(neighbours, AxisScale::linear, "distance", "How far layers lie apart");
    }
    std::vector<SensitivityPlot> take() { return std::move(plots_); }

private:
    void add(Series& series, AxisScale scale, const char* y_label, const char* caption) {
        LinePlot plot;
        plot.series = series.take();
        if (plot.series.empty()) return;
        plot.title = std::string(caption) + ": " + model_;
        plot.x_ends = AxisEnds::whole_numbers;
        plot.x_label = "layer";
        plot.y_label = y_label;
        plot.y_scale = scale;
        plots_.push_back({std::move(plot), std::string(caption) + ", as measured before the step \"" + words_ + "\" of " + model_ + "."});
    }

    const std::string model_;
    std::string words_;
    std::vector<SensitivityPlot> plots_;
};

}  // namespace

std::vector<SensitivityPlot> sensitivity_plots(const Json& manifest, const std::string& model_name) {
    Plots plots(model_name);
    for (const Json& steps : {manifest["parent"]["steps"], manifest["steps"]})
        for (const Json& step : steps.items()) plots.add_step(step);
    return plots.take();
}

}  // namespace skiff
