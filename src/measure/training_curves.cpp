#include "measure/training_curves.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <map>
#include <string_view>

#include "base/mapped_file.h"

namespace skiff {
namespace {

constexpr std::string_view header = "step,tokens,loss";

bool read_number(std::string_view& rest, double& value) {
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (error != std::errc()) return false;
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    return true;
}

// Loss by tokens. A run that was interrupted may have measured twice at the same place: the last one counts.
Result<std::map<double, double>> read_validation(const std::string& path) {
    SKIFF_TRY(const auto file, MappedFile::open(path));
    std::string_view text(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size());
    std::map<double, double> losses;
    for (std::size_t line_number = 1; !text.empty(); ++line_number) {
        const std::size_t length = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, length);
        text.remove_prefix(std::min(length + 1, text.size()));
        if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
        if (line_number == 1) {
            if (line != header) return corrupt(path + ": begins with \"" + std::string(line.substr(0, 40)) + "\"; expected \"" + std::string(header) + "\", as skiff train writes it");
            continue;
        }
        if (line.empty()) continue;
        double values[3];
        bool whole = true;
        for (int i = 0; i < 3 && whole; ++i) {
            whole = read_number(line, values[i]) && (i == 2 ? line.empty() : !line.empty() && line.front() == ',');
            if (whole && i < 2) line.remove_prefix(1);
        }
        if (!whole || !std::isfinite(values[1])) return corrupt(path + ", line " + std::to_string(line_number) + ": expected a step, tokens and a loss with commas between");
        losses[values[1]] = values[2];
    }
    if (losses.empty()) return corrupt(path + ": holds no measurement; train with --valid and --eval-every");
    return losses;
}

std::string decimals(double value, int n) {
    char buffer[64];
    std::snprintf(buffer, sizeof buffer, "%.*f", n, value);
    return buffer;
}

std::string legend_of(const TrainingCurve& curve) { return curve.name + (curve.n_runs == 1 ? "" : " (" + std::to_string(curve.n_runs) + " runs)"); }

}  // namespace

Result<TrainingCurve> read_training_curve(const std::string& name, const std::vector<std::string>& folders) {
    if (folders.empty()) return usage_error(name + ": names no run");
    std::map<double, std::vector<double>> losses;
    for (const std::string& folder : folders) {
        const std::string path = join_path(folder, "validation.csv");
        if (!file_exists(path)) return not_found(path + ": no such file; skiff train writes it where --valid is given");
        SKIFF_TRY(const auto of_run, read_validation(path));
        for (const auto& [tokens, loss] : of_run) losses[tokens].push_back(loss);
    }
    TrainingCurve curve;
    curve.name = name;
    curve.n_runs = folders.size();
    for (const auto& [tokens, values] : losses) {
        if (values.size() != folders.size()) continue;
        double sum = 0;
        for (const double value : values) sum += value;
        curve.tokens.push_back(tokens);
        curve.mean.push_back(sum / static_cast<double>(values.size()));
        curve.lowest.push_back(*std::min_element(values.begin(), values.end()));
        curve.highest.push_back(*std::max_element(values.begin(), values.end()));
    }
    if (curve.tokens.empty()) return usage_error(name + ": its runs were not measured after the same number of tokens; give runs with the same --batch, --context and --eval-every");
    return curve;
}

LinePlot training_curves_plot(const std::string& title, const std::vector<TrainingCurve>& curves) {
    LinePlot plot;
    plot.title = title;
    plot.x_label = "tokens trained on (thousands)";
    plot.y_label = "validation loss (nats a token)";
    for (const TrainingCurve& curve : curves) {
        std::vector<double> thousands;
        for (const double tokens : curve.tokens) thousands.push_back(tokens / 1000);
        if (curve.n_runs > 1) {
            plot.series.push_back({"", thousands, curve.lowest, LineStyle::pale});
            plot.series.push_back({"", thousands, curve.highest, LineStyle::pale});
        }
        plot.series.push_back({legend_of(curve), thousands, curve.mean});
    }
    return plot;
}

std::string training_curves_table(const std::vector<TrainingCurve>& curves) {
    double worst = 0;
    for (const TrainingCurve& curve : curves) worst = std::max(worst, curve.mean.back());
    std::string table = "| | runs | tokens | loss at the end | lowest, highest | tokens to " + decimals(worst, 3) + " |\n|---|---:|---:|---:|---:|---:|\n";
    for (const TrainingCurve& curve : curves) {
        std::size_t reached = 0;
        while (!(curve.mean[reached] <= worst) && reached + 1 < curve.mean.size()) ++reached;
        std::string name;
        for (const char c : curve.name) name += c == '|' ? std::string("\\|") : std::string(1, c);
        table += "| " + name + " | " + std::to_string(curve.n_runs) + " | " + decimals(curve.tokens.back(), 0) + " | " + decimals(curve.mean.back(), 3) + " | " + decimals(curve.lowest.back(), 3) + ", " +
                 decimals(curve.highest.back(), 3) + " | " + decimals(curve.tokens[reached], 0) + " |\n";
    }
    return table;
}

}  // namespace skiff
