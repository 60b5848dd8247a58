#include "eval/compression_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

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

// A step in words: its kind and what it says of itself in text, such as "gptq n3g32r".
std::string words_of(const Json& step, bool with_strength) {
    std::string words = step["kind"].text();
    for (const char* key : {"method", "pattern", "rank", "scheme", "sparsity", "strength"}) {
        const bool is_strength = std::string_view(key) != "method";
        if (is_strength && !with_strength) continue;
        if (step[key].is_string() && !step[key].text().empty()) words += " " + step[key].text();
        else if (step[key].is_number()) words += " " + decimals(step[key].number_or(0), 3);
    }
    return words;
}

// Training from fresh weights is how the original came to be.
std::string chain_of(const Json& manifest, bool with_strength) {
    std::string chain;
    auto add = [&](const Json& steps) {
        for (const Json& step : steps.items())
            if (step["kind"].text() != "train") chain += (chain.empty() ? "" : ", ") + words_of(step, with_strength);
    };
    add(manifest["parent"]["steps"]);
    add(manifest["steps"]);
    return chain;
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
    for (std::size_t column = rows[0].size(); column-- > 3;) {  // columns that nobody filled
        const bool empty = std::all_of(rows.begin() + 1, rows.end(), [&](const auto& row) { return row[column].empty(); });
        if (!empty) continue;
        for (auto& row : rows) row.erase(row.begin() + static_cast<std::ptrdiff_t>(column));
    }
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
    model.made_by = chain_of(manifest, true);
    model.series = chain_of(manifest, false);
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

std::string report_markdown(const CompressionReport& report, const std::vector<ReportPlot>& plots) {
    std::string page = "# " + cell(report.title) + "\n\n";
    const Rows rows = table_of(report);
    for (std::size_t r = 0; r < rows.size(); ++r) {
        page += "|";
        for (const std::string& text : rows[r]) page += " " + cell(text) + " |";
        page += "\n";
        if (r > 0) continue;
        page += "|---|---|";
        for (std::size_t c = 2; c < rows[r].size(); ++c) page += "---:|";
        page += "\n";
    }
    page += "\n" + notes_of(report) + "\n";
    for (const ReportPlot& plot : plots) page += "\n![" + cell(plot.caption) + "](" + plot.file_name + ")\n\n" + cell(plot.caption) + "\n";
    return page;
}

std::string report_html(const CompressionReport& report, const std::vector<ReportPlot>& plots) {
    std::string page =
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" + escaped(report.title) +
        "</title>\n<style>\n:root{color-scheme:light dark}\nbody{font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;line-height:1.5}\n"
        "h1{font-size:1.5rem}.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}th,td{padding:.3rem .6rem;border-bottom:1px solid #8884;text-align:right;white-space:nowrap}\n"
        "th:first-child,td:first-child,th:nth-child(2),td:nth-child(2){text-align:left}td:nth-child(2){white-space:normal;min-width:12rem}figure{margin:2rem 0}figcaption,.note{color:#888;font-size:.85rem}svg{max-width:100%;height:auto}\n</style></head>\n<body>\n<h1>" +
        escaped(report.title) + "</h1>\n<div class=\"wide\"><table>\n";
    const Rows rows = table_of(report);
    for (std::size_t r = 0; r < rows.size(); ++r) {
        page += "<tr>";
        for (const std::string& text : rows[r]) page += (r == 0 ? "<th>" : "<td>") + escaped(text) + (r == 0 ? "</th>" : "</td>");
        page += "</tr>\n";
    }
    page += "</table></div>\n<p class=\"note\">" + escaped(notes_of(report)) + "</p>\n";
    for (const ReportPlot& plot : plots) page += "<figure>" + plot.svg.substr(plot.svg.find("<svg")) + "<figcaption>" + escaped(plot.caption) + "</figcaption></figure>\n";
    return page + "</body></html>\n";
}

}  // namespace skiff
