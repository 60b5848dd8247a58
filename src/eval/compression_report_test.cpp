// A page of made-up measurements: what is in the tables, what the plots show, what hostile names become.
#include "eval/compression_report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "eval/step_words.h"

namespace skiff {
namespace {

Json eval_of(double perplexity, double kl) {
    Json json = Json::object({{"model", Json::object({{"hash", "abc"}})}, {"perplexity", Json::object({{"value", perplexity}, {"stderr", 0.5}})}});
    if (kl > 0) json.set("against", Json::object({{"mean_kl", kl}, {"mean_kl_stderr", 0.0001}, {"p99_kl", 0.25}, {"top1_agreement", 0.9}, {"top1_agreement_stderr", 0.01}}));
    return json;
}

Json bench_of(double decode) {
    return *Json::parse(R"({"results": [{"test": "pp512", "tokens_per_s": {"median": 1000}}, {"test": "tg64", "tokens_per_s": {"median": )" + std::to_string(decode) + R"(}, "share_of_bandwidth": 0.75}], "peak_memory_bytes": 3145728})");
}

Json manifest_of(const char* scheme, double error) {
    return Json::object({{"parent", Json::object({{"steps", Json::array({Json::object({{"kind", "prune"}, {"method", "wanda"}, {"pattern", "2:4"}})})}})},
                         {"steps", Json::array({Json::object({{"kind", "quantize"}, {"method", "gptq"}, {"scheme", scheme}})})},
                         {"tensors", Json::array({Json::object({{"key", "model.layers.1.mlp.down_proj.weight"}, {"scheme", scheme}, {"relative_squared_error", error}}),
                                                  Json::object({{"key", "model.layers.0.mlp.down_proj.weight"}, {"scheme", scheme}, {"relative_squared_error", 2 * error}}),
                                                  Json::object({{"key", "model.norm.weight"}, {"scheme", "BF16"}, {"relative_squared_error", 0}})})}});
}

CompressionReport report_of(const std::string& name) {
    CompressionReport report;
    report.title = "Title";
    report.text = "text.txt";
    report.models.push_back(reported_model("parent", Json::object({{"weight_bytes", 4 << 20}, {"bits_per_weight", 16.0}}), eval_of(40, 0), bench_of(100), Json()));
    report.models.push_back(reported_model(name, Json::object({{"weight_bytes", 1 << 20}, {"bits_per_weight", 4.0}}), eval_of(41, 0.02), bench_of(200), manifest_of("n3g32r", 0.01)));
    return report;
}

TEST(CompressionReport, TableHoldsWhatWasMeasured) {
    const auto report = report_of("child");
    EXPECT_EQ(report.models[1].made_by, "prune wanda 2:4, quantize gptq n3g32r");
    EXPECT_EQ(report.models[1].series, "prune wanda, quantize gptq");
    EXPECT_EQ(report.models[1].tensors.size(), 2u);
    const auto plots = report_plots(report);
    ASSERT_EQ(plots.size(), 3u);  // size, speed, the child's layers
    const std::string page = report_markdown(report, plots);
    for (const char* words : {"| child | prune wanda 2:4, quantize gptq n3g32r | 1.00 | 25.0 % | 4.00 | 41.000 ± 0.500 | 0.02000 ± 0.00010 | 0.2500 | 90.00 ± 1.00 | 1000.0 | 200.0 | 75 % | 3.0 |",
                              "| parent | original | 4.00 | 100.0 % |", "![", "kl_bytes.svg", "text.txt"})
        EXPECT_NE(page.find(words), std::string::npos) << words << "\n" << page;
    const std::string html = report_html(report, plots);
    EXPECT_NE(html.find("<td>41.000 ± 0.500</td>"), std::string::npos);
    EXPECT_EQ(html.find("<?xml"), std::string::npos);
}

// Steps as each kind writes them: what differs in more than strength has a line of its own in the plots.
TEST(StepWords, TellKindsApartAndLeaveStrengthOut) {
    const std::vector<std::tuple<const char*, const char*, const char*>> steps = {
        {R"({"kind": "structure", "units": "neurons", "removed": "25%", "importance": "obs", "compensation": "least-squares", "spread": "uniform"})", "prune neurons 25% (obs)", "prune neurons (obs)"},
        {R"({"kind": "structure", "units": "kv_groups", "removed": "1", "importance": "obs", "compensation": "none", "spread": "sensitivity"})", "prune kv_groups 1 (obs, uncompensated, by sensitivity)", "prune kv_groups (obs, uncompensated, by sensitivity)"},
        {R"({"kind": "structure", "units": "layers", "removed": "1", "importance": "kl", "compensation": "none"})", "prune layers 1 (kl)", "prune layers (kl)"},
        {R"({"kind": "structure", "units": "hidden", "removed": "10%", "importance": ""})", "prune hidden 10%", "prune hidden"},
        {R"({"kind": "structure", "units": "neurons", "removed": "0%", "importance": "l2", "order": "by importance"})", "sort neurons (l2)", "sort neurons (l2)"},
        {R"({"kind": "prune", "method": "wanda", "pattern": "50%", "scope": "row", "allocation": "uniform", "scheme": null})", "prune wanda 50%", "prune wanda"},
        {R"({"kind": "prune", "method": "wanda", "pattern": "50%", "scope": "row", "allocation": "owl", "scheme": "w8g32"})", "prune wanda 50% owl w8g32", "prune wanda owl"},
        {R"({"kind": "prune", "method": "magnitude", "pattern": "block16x32:25%", "scope": "layer", "allocation": "uniform"})", "prune magnitude block16x32:25% in whole layers", "prune magnitude block16x32 in whole layers"},
        {R"({"kind": "prune", "pattern": "filters:25%", "importance": "l2"})", "prune filters:25% (l2)", "prune filters (l2)"},
        {R"({"kind": "factorize", "method": "svd-llm", "rule": "remove", "amount": 0.25})", "factorize svd-llm remove 25 %", "factorize svd-llm remove"},
        {R"({"kind": "factorize", "method": "sparse-low-rank:50%", "rule": "rank", "amount": 16})", "factorize sparse-low-rank:50% rank 16", "factorize sparse-low-rank rank"},
        {R"({"kind": "share", "groups": 3, "choose": "measured", "weights": "first"})", "share 3 groups (measured)", "share groups (measured)"},
        {R"({"kind": "share", "layers": [[0, 1], [2, 3]], "weights": "average"})", "share layers 0-1 2-3 averaged", "share layers averaged"},
        {R"({"kind": "share", "hash": 4})", "share blocks by hash 1:4", "share blocks by hash"},
        {R"({"kind": "quantize", "method": "gptq", "scheme": "w4g32", "transforms": ["awq"], "outliers": 0.005})", "quantize gptq w4g32 + awq + outliers 0.5 %", "quantize gptq + awq + outliers"},
        {R"({"kind": "quantize", "method": "gptq", "scheme": "w4g32", "target": {"bits_per_weight": 3.5}})", "quantize gptq to 3.5 bits mixed", "quantize gptq mixed"},
        {R"({"kind": "rotate", "what": "residual"})", "rotate residual", "rotate residual"},
        {R"({"kind": "qat", "steps": 100, "quantization": {"scheme": "w2g32"}})", "qat w2g32 100 steps", "qat"},
        {R"({"kind": "qat", "steps": 100, "quantization": {"scheme": "w4g32", "activations": "float"}})", "qat w4g32 100 steps", "qat"},
        {R"({"kind": "qat", "steps": 100, "quantization": {"scheme": "w8", "activations": "static-mse"}})", "qat w8 static-mse 100 steps", "qat static-mse"},
    };
    for (const auto& [json, all, alike] : steps) {
        const auto step = Json::parse(json);
        ASSERT_TRUE(step.ok()) << json;
        EXPECT_EQ(step_words(*step, StepDetail::all), all);
        EXPECT_EQ(step_words(*step, StepDetail::without_strength), alike);
    }
    // Training from fresh weights is no step, training of what was pruned is.
    const auto chain = Json::parse(R"({"parent": {"steps": [{"kind": "train", "steps": 9}, {"kind": "prune", "method": "magnitude", "pattern": "50%", "allocation": "uniform"}]}, "steps": [{"kind": "train", "steps": 200}]})");
    EXPECT_EQ(chain_words(*chain, StepDetail::all), "prune magnitude 50%, trained further 200 steps");
}

TEST(CompressionReport, ShowsWhatEachStepCostAndGained) {
    auto report = report_of("child");
    const Json manifest = *Json::parse(R"({"evidence": [{"kind": "eval"}, {"kind": "recipe", "steps": [{"step": "pocket", "bytes": 4194304, "perplexity": 40, "perplexity_stderr": 1},
        {"step": "prune a|b", "bytes": 3145728, "seconds": 2.5, "perplexity": 42, "perplexity_stderr": 1, "mean_kl": 0.01, "mean_kl_stderr": 0.001},
        {"step": "quantize", "bytes": 1048576, "seconds": 7.5, "perplexity": 43, "perplexity_stderr": 1, "mean_kl": 0.025, "mean_kl_stderr": 0.001}]}]})");
    report.models[1] = reported_model("child", Json(), Json(), Json(), manifest);
    const std::string page = report_markdown(report, {}), html = report_html(report, {});
    for (const char* words : {"## What each step cost and gained: child", "| pocket | 4.00 | 100.0 % |  | 40.000 ± 1.000 |  |  |", "| prune a\\|b | 3.00 | 75.0 % | 2.5 | 42.000 ± 1.000 | 0.01000 ± 0.00100 | 0.01000 |",
                              "| quantize | 1.00 | 25.0 % | 7.5 | 43.000 ± 1.000 | 0.02500 ± 0.00100 | 0.01500 |"})
        EXPECT_NE(page.find(words), std::string::npos) << words << "\n" << page;
    EXPECT_NE(html.find("<h2>What each step cost and gained: child</h2>"), std::string::npos);
    EXPECT_NE(html.find("<td>0.01500</td>"), std::string::npos);
}

// Every figure of layers that a step keeps in its manifest is drawn.
TEST(CompressionReport, DrawsTheSensitivityOfLayers) {
    const std::vector<std::tuple<const char*, std::size_t, const char*>> steps = {
        {R"({"kind": "prune", "method": "wanda", "found": {"sparsities": {"layers.0": 0.4, "layers.1": 0.6}, "outlier_ratios": {"layers.0": 0.02, "layers.1": 0.01}}})", 2, "share that goes"},
        {R"({"kind": "prune", "method": "wanda", "found": {"levels": [0.4, 0.5], "mean_kl": {"layers.0": [0.01, 0.02], "layers.1": [0.03, 0.05]}, "sparsities": {"layers.0": 0.5}}})", 2, "50 % of it gone"},
        {R"({"kind": "structure", "units": "neurons", "found": {"sensitivities": {"block0.ff": 0.1, "block1.ff": 0.2}}})", 1, "without its share of ff"},
        {R"({"kind": "structure", "units": "layers", "found": {"block_influence": [0.3, 0.1, 0.2]}})", 1, "1 - mean cosine"},
        {R"({"kind": "structure", "units": "layers", "found": {"removed_alone": [0.3, 0.1], "removed_one_by_one": [{"layer": 1, "mean_kl": 0.1}]}})", 1, "without the layer"},
        {R"({"kind": "share", "found": {"measured": [{"first": 0, "last": 1, "mean_kl": 0.2}]}})", 1, "groups of 2 that share"},
        {R"({"kind": "quantize", "found": {"units": [{"name": "layers.0: q_proj", "chosen": "w4", "kl": {"w4": 0.1}}, {"name": "layers.1: q_proj", "chosen": "w4", "kl": {"w4": 0.2}}]}})", 1, "q_proj as w4"},
        {R"({"kind": "quantize", "method": "nearest"})", 0, ""},
    };
    for (const auto& [json, n_plots, words] : steps) {
        const Json manifest = Json::object({{"steps", Json::array({*Json::parse(json)})}});
        CompressionReport report;
        report.models.push_back(reported_model("child", Json(), Json(), Json(), manifest));
        const auto plots = report_plots(report);
        EXPECT_EQ(plots.size(), n_plots) << json;
        const bool said = std::any_of(plots.begin(), plots.end(), [&](const ReportPlot& plot) { return plot.svg.find(words) != std::string::npos; });
        EXPECT_TRUE(said || n_plots == 0) << words;
        for (const ReportPlot& plot : plots) EXPECT_NE(plot.caption.find("child"), std::string::npos);
    }
}

TEST(CompressionReport, ColumnsThatNobodyMeasuredAreLeftOut) {
    CompressionReport report;
    report.models.push_back(reported_model("parent", Json::object({{"weight_bytes", 100}}), Json(), Json(), Json()));
    const std::string page = report_markdown(report, report_plots(report));
    EXPECT_EQ(page.find("perplexity"), std::string::npos);
    EXPECT_EQ(page.find("decode"), std::string::npos);
}

TEST(CompressionReport, NamesCannotBreakThePage) {
    const auto report = report_of("a|b<script>\n\"&");
    const auto plots = report_plots(report);
    EXPECT_EQ(report_html(report, plots).find("<script>"), std::string::npos);
    EXPECT_NE(report_markdown(report, plots).find("a\\|b"), std::string::npos);
    for (const ReportPlot& plot : plots) EXPECT_EQ(plot.svg.find("<script>"), std::string::npos);
}

}  // namespace
}  // namespace skiff
