// Models beside their parent as a page: tables and plots, in Markdown and in one HTML file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "eval/sensitivity_plots.h"
#include "measure/statistics.h"

namespace skiff {

// A step of the recipe that made a model, and what the model was behind it; the first one is the model that it began with.
struct ReportedStep {
    std::string words;
    double bytes = 0;
    std::optional<double> seconds;
    std::optional<Estimate> perplexity, mean_kl;  // where an eval followed
};

// One model and what was measured of it. What was not measured is absent.
struct ReportedModel {
    std::string name, hash;
    std::string made_by;   // its steps in words: "quantize gptq n3g32r"; "": an original
    std::string series;    // models that were made in the same way but for the strength share a line of the plots
    std::uint64_t bytes = 0;
    double bits_per_weight = 0;
    std::optional<Estimate> perplexity, mean_kl, top1_agreement;
    std::optional<double> p99_kl, prefill_per_s, decode_per_s, share_of_bandwidth;
    std::uint64_t peak_memory_bytes = 0;
    struct Tensor {
        std::string key, scheme;
        double relative_squared_error;
    };
    std::vector<Tensor> tensors;  // of its manifest: those that changed
    std::vector<ReportedStep> steps;              // where a recipe made it
    std::vector<SensitivityPlot> sensitivities;   // what was measured of its layers before its steps
};

struct CompressionReport {
    std::string title;
    std::vector<ReportedModel> models;  // the parent first
    std::string text, machine, tool;    // what was read, where, by what; "": not measured
};

// From the documents of `skiff inspect --json`, `eval --json` and `bench --json` and skiff.json; null: not there.
ReportedModel reported_model(const std::string& name, const Json& inspect, const Json& eval, const Json& bench, const Json& manifest);

struct ReportPlot {
    std::string file_name, caption, svg;
};
// Quality against bytes and against speed, and the error of each tensor along the layers; only those that there is something to show of.
std::vector<ReportPlot> report_plots(const CompressionReport& report);
std::string report_markdown(const CompressionReport& report, const std::vector<ReportPlot>& plots);
std::string report_html(const CompressionReport& report, const std::vector<ReportPlot>& plots);  // the plots inside

}  // namespace skiff
