#include "eval/compression_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "eval/step_words.h"
#include "measure/line_plot.h"
#include "text/unicode.h"

namespace skiff {
namespace {

std::string decimals(double value, int n) {
    char buffer[64];
    std::snprintf(buffer, sizeof buffer, "%.*f", n, value);
    return buffer;
}

std::optional<Estimate> estimate_of(const Json& object, const std::string& key) {
    if (!object[key].is_number()) return std::nullopt;
    return Estimate{object[key].number_or(0), object[key + "_stderr"].number_or(0)};
}

std::string escaped(std::string_view text) {
    std::string result;
    for (const char c : make_valid_utf8(text)) {
        if (c == '&') result += "&amp;";
        else if (c == '<') result += "&lt;";
        else if (c == '>') result += "&gt;";
        else if (c == '"') result += "&quot;";
        else result += c;
    }
    return result;
}

// A cell of a Markdown table.
std::string cell(std::string_view text) {
    std::string result;
    for (const char c : make_valid_utf8(text)) result += c == '|' ? std::string("\\|") : c == '\n' ? std::string(" ") : std::string(1, c);
    return result;
}

using Rows = std::vector<std::vector<std::string>>;

std::string with_error(const std::optional<Estimate>& estimate, int n, double factor = 1) {
    if (!estimate) return "";
    return decimals(factor * estimate->value, n) + " ± " + decimals(factor * estimate->stderr_, n);
}

// Columns of figures that nobody filled.
void drop_empty_columns(Rows& rows) {
    for (std::size_t column = rows[0].size(); column-- > 3;) {
        const bool empty = std::all_of(rows.begin() + 1, rows.end(), [&](const auto& row) { return row[column].empty(); });
        if (!empty) continue;
        for (auto& row : rows) row.erase(row.begin() + static_cast<std::ptrdiff_t>(column));
    }
}

Rows table_of(const CompressionReport& report) {
    Rows rows = {{"model", "made by", "weights, MiB", "of the parent", "bits/weight", "perplexity", "mean KL", "p99 KL", "same top-1, %", "prefill t/s", "decode t/s", "of memory", "peak MiB"}};
    constexpr double mib = 1 << 20;
    for (const ReportedModel& model : report.models) {
        const double share = report.models[0].bytes > 0 ? static_cast<double>(model.bytes) / static_cast<double>(report.models[0].bytes) : 0;
        rows.push_back({model.name, model.made_by.empty() ? "original" : model.made_by, decimals(static_cast<double>(model.bytes) / mib, 2), decimals(100 * share, 1) + " %", decimals(model.bits_per_weight, 2),
                        with_error(model.perplexity, 3), with_error(model.mean_kl, 5), model.p99_kl ? decimals(*model.p99_kl, 4) : "", with_error(model.top1_agreement, 2, 100),
                        model.prefill_per_s ? decimals(*model.prefill_per_s, 1) : "", model.decode_per_s ? decimals(*model.decode_per_s, 1) : "",
                        model.share_of_bandwidth ? decimals(100 * *model.share_of_bandwidth, 0) + " %" : model.decode_per_s ? "in cache" : "",
                        model.peak_memory_bytes > 0 ? decimals(static_cast<double>(model.peak_memory_bytes) / mib, 1) : ""});
    }
    drop_empty_columns(rows);
    return rows;
}

// The kind of a tensor and the layer it stands in: "mlp.down_proj" and 3 of "model.layers.3.mlp.down_proj.weight".
std::pair<std::string, double> place_of(const std::string& key) {
    std::string kind;
    double layer = -1;
    for (std::size_t begin = 0; begin <= key.size();) {
        const std::size_t end = std::min(key.find('.', begin), key.size());
        const std::string part = key.substr(begin, end - begin);
        const bool is_number = !part.empty() && part.size() < 6 && part.find_first_not_of("0123456789") == std::string::npos;
        if (is_number && layer < 0) {
            layer = std::stod(part);
            kind.clear();
        } else if (part != "weight") {
            kind += (kind.empty() ? "" : ".") + part;
        }
        begin = end + 1;
    }
    return {kind, layer};
}

std::string notes_of(const CompressionReport& report) {
    std::string notes;
    for (const std::string& note : {report.text, report.machine, report.tool})
        if (!note.empty()) notes += (notes.empty() ? "" : " · ") + note;
    return notes;
}

// Points of models that were made alike, in the order of x.
template <class X, class Y>
LinePlot plot_of(const CompressionReport& report, std::string title, std::string x_label, std::string y_label, X x, Y y) {
    std::map<std::string, std::vector<std::pair<double, double>>> series;
    for (const ReportedModel& model : report.models) {
        const std::optional<double> at = x(model), value = y(model);
        if (at && value && *value > 0) series[model.series.empty() ? "original" : model.series].push_back({*at, *value});
    }
    LinePlot plot;
    plot.title = std::move(title);
    plot.x_label = std::move(x_label);
    plot.y_label = std::move(y_label);
    plot.y_scale = AxisScale::logarithmic;
    plot.x_ends = AxisEnds::of_points;
    for (auto& [name, points] : series) {
        std::sort(points.begin(), points.end());
        LineSeries line;
        line.name = name;
        for (const auto& [at, value] : points) {
            line.xs.push_back(at);
            line.ys.push_back(value);
        }
        plot.series.push_back(std::move(line));
    }
    return plot;
}

}  // namespace

ReportedModel reported_model(const std::string& name, const Json& inspect, const Json& eval, const Json& bench, const Json& manifest) {
    ReportedModel model;
    model.name = name;
    model.hash = eval["model"]["hash"].text();
    model.made_by = chain_words(manifest, StepDetail::all);
    model.series = chain_words(manifest, StepDetail::without_strength);
    model.bytes = static_cast<std::uint64_t>(std::max<std::int64_t>(0, inspect["weight_bytes"].int_or(0)));
    model.bits_per_weight = inspect["bits_per_weight"].number_or(0);
    model.perplexity = estimate_of(eval["perplexity"], "value");
    if (model.perplexity) model.perplexity->stderr_ = eval["perplexity"]["stderr"].number_or(0);
    model.mean_kl = estimate_of(eval["against"], "mean_kl");
    model.top1_agreement = estimate_of(eval["against"], "top1_agreement");
    if (eval["against"]["p99_kl"].is_number()) model.p99_kl = eval["against"]["p99_kl"].number_or(0);
    for (const Json& result : bench["results"].items()) {
        const bool decode = result["test"].text().starts_with("tg");
        (decode ? model.decode_per_s : model.prefill_per_s) = result["tokens_per_s"]["median"].number_or(0);
        if (decode && result["share_of_bandwidth"].is_number()) model.share_of_bandwidth = result["share_of_bandwidth"].number_or(0);
    }
    model.peak_memory_bytes = static_cast<std::uint64_t>(std::max<std::int64_t>(0, bench["peak_memory_bytes"].int_or(0)));
    for (const Json& tensor : manifest["tensors"].items())
        if (tensor["relative_squared_error"].number_or(0) > 0) model.tensors.push_back({tensor["key"].text(), tensor["scheme"].text(), tensor["relative_squared_error"].number_or(0)});
    for (const Json& entry : manifest["evidence"].items()) {
        if (entry["kind"].text() != "recipe") continue;
        model.steps.clear();  // the last of several counts
        for (const Json& step : entry["steps"].items()) {
            ReportedStep row{step["step"].text(), step["bytes"].number_or(0), step["seconds"].is_number() ? std::optional(step["seconds"].number_or(0)) : std::nullopt, {}, {}};
            row.perplexity = estimate_of(step, "perplexity");
            row.mean_kl = estimate_of(step, "mean_kl");
            model.steps.push_back(std::move(row));
        }
    }
    model.sensitivities = sensitivity_plots(manifest, name);
    return model;
}

std::vector<ReportPlot> report_plots(const CompressionReport& report) {
    using Value = std::optional<double>;
    const auto mib = [](const ReportedModel& model) { return Value(static_cast<double>(model.bytes) / (1 << 20)); };
    const auto kl = [](const ReportedModel& model) { return model.mean_kl ? Value(model.mean_kl->value) : Value(); };
    const auto decode = [](const ReportedModel& model) { return model.decode_per_s; };
    std::vector<ReportPlot> plots;
    auto add = [&](const char* file_name, const char* caption, const LinePlot& plot) {
        if (!plot.series.empty()) plots.push_back({file_name, caption, line_plot_svg(plot)});
    };
    add("kl_bytes.svg", "What a size costs: lower and further left is better.", plot_of(report, "Quality against size", "weights (MiB)", "mean KL from the parent (nats)", mib, kl));
    add("kl_speed.svg", "What a speed costs: lower and further right is better.", plot_of(report, "Quality against speed", "decode (tokens/s)", "mean KL from the parent (nats)", decode, kl));
    for (const ReportedModel& model : report.models)
        for (const SensitivityPlot& each : model.sensitivities)
            plots.push_back({"layers_" + std::to_string(&model - report.models.data()) + "_" + std::to_string(&each - model.sensitivities.data()) + ".svg", each.caption, line_plot_svg(each.plot)});
    for (const ReportedModel& model : report.models) {
        std::map<std::string, LineSeries> kinds;
        for (const ReportedModel::Tensor& tensor : model.tensors) {
            const auto [kind, layer] = place_of(tensor.key);
            if (layer < 0) continue;
            kinds[kind].xs.push_back(layer);
            kinds[kind].ys.push_back(tensor.relative_squared_error);
        }
        LinePlot plot;
        plot.title = "Squared error of the weights: " + model.name;
        plot.x_label = "layer";
        plot.y_label = "relative squared error";
        plot.y_scale = AxisScale::logarithmic;
        plot.x_ends = AxisEnds::whole_numbers;
        for (auto& [kind, line] : kinds) {
            line.name = kind;
            std::vector<std::size_t> order(line.xs.size());
            for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
            std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return line.xs[a] < line.xs[b]; });
            LineSeries sorted{line.name, {}, {}};
            for (std::size_t i : order) {
                sorted.xs.push_back(line.xs[i]);
                sorted.ys.push_back(line.ys[i]);
            }
            plot.series.push_back(std::move(sorted));
        }
        if (!plot.series.empty()) plots.push_back({"error_" + std::to_string(&model - report.models.data()) + ".svg", "Where " + model.name + " differs from its parent, layer by layer.", line_plot_svg(plot)});
    }
    return plots;
}

namespace {

// What each step of a recipe cost and gained; the row of the model that it began with first. Empty: no recipe made the model.
Rows steps_table(const ReportedModel& model) {
    if (model.steps.empty()) return {};
    Rows rows = {{"step", "weights, MiB", "of the first", "seconds", "perplexity", "mean KL", "KL that it added"}};
    const double first = model.steps[0].bytes;
    double before = 0;  // mean KL behind the step before, where that is known
    bool known = true;
    for (std::size_t i = 0; i < model.steps.size(); ++i) {
        const ReportedStep& step = model.steps[i];
        const bool adds = i > 0 && known && step.mean_kl.has_value();
        rows.push_back({step.words, decimals(step.bytes / (1 << 20), 2), first > 0 ? decimals(100 * step.bytes / first, 1) + " %" : "", step.seconds ? decimals(*step.seconds, 1) : "", with_error(step.perplexity, 3), with_error(step.mean_kl, 5),
                        adds ? decimals(step.mean_kl->value - before, 5) : ""});
        known = i == 0 || step.mean_kl.has_value();
        if (step.mean_kl) before = step.mean_kl->value;
    }
    drop_empty_columns(rows);
    return rows;
}

std::string markdown_table(const Rows& rows, std::size_t n_left) {
    std::string table;
    for (std::size_t r = 0; r < rows.size(); ++r) {
        table += "|";
        for (const std::string& text : rows[r]) table += " " + cell(text) + " |";
        table += "\n";
        if (r > 0) continue;
        table += "|";
        for (std::size_t c = 0; c < rows[r].size(); ++c) table += c < n_left ? "---|" : "---:|";
        table += "\n";
    }
    return table;
}

// n_left: columns of words.
std::string html_table(const Rows& rows, std::size_t n_left) {
    std::string table = "<div class=\"wide\"><table>\n";
    for (std::size_t r = 0; r < rows.size(); ++r) {
        table += "<tr>";
        for (std::size_t c = 0; c < rows[r].size(); ++c) {
            const std::string element = r == 0 ? "th" : "td";
            table += "<" + element + (c < n_left ? c > 0 || n_left == 1 ? " class=\"words\">" : " class=\"name\">" : ">") + escaped(rows[r][c]) + "</" + element + ">";
        }
        table += "</tr>\n";
    }
    return table + "</table></div>\n";
}

const char* steps_title = "What each step cost and gained: ";

}  // namespace

std::string report_markdown(const CompressionReport& report, const std::vector<ReportPlot>& plots) {
    std::string page = "# " + cell(report.title) + "\n\n" + markdown_table(table_of(report), 2);
    page += "\n" + notes_of(report) + "\n";
    for (const ReportedModel& model : report.models)
        if (const Rows rows = steps_table(model); !rows.empty()) page += "\n## " + std::string(steps_title) + cell(model.name) + "\n\n" + markdown_table(rows, 1);
    for (const ReportPlot& plot : plots) page += "\n![" + cell(plot.caption) + "](" + plot.file_name + ")\n\n" + cell(plot.caption) + "\n";
    return page;
}

std::string report_html(const CompressionReport& report, const std::vector<ReportPlot>& plots) {
    std::string page =
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" + escaped(report.title) +
        "</title>\n<style>\n:root{color-scheme:light dark}\nbody{font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;max-width:80rem;margin:2rem auto;padding:0 1rem;line-height:1.5}\n"
        "h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.8rem;font-variant-numeric:tabular-nums}th,td{padding:.3rem .45rem;border-bottom:1px solid #8884;text-align:right;vertical-align:top}th{vertical-align:bottom}td{white-space:nowrap}\n"
        ".name,.words{text-align:left}td.words{white-space:normal;min-width:10rem}figure{margin:2rem 0}figcaption,.note{color:#767676;font-size:.85rem}svg{max-width:100%;height:auto}\n</style></head>\n<body>\n<h1>" +
        escaped(report.title) + "</h1>\n" + html_table(table_of(report), 2);
    page += "<p class=\"note\">" + escaped(notes_of(report)) + "</p>\n";
    for (const ReportedModel& model : report.models)
        if (const Rows rows = steps_table(model); !rows.empty()) page += "<h2>" + escaped(steps_title + model.name) + "</h2>\n" + html_table(rows, 1);
    for (const ReportPlot& plot : plots) page += "<figure>" + plot.svg.substr(plot.svg.find("<svg")) + "<figcaption>" + escaped(plot.caption) + "</figcaption></figure>\n";
    return page + "</body></html>\n";
}

}  // namespace skiff
