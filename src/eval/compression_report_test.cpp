// A page of made-up measurements: what is in the tables, what the plots show, what hostile names become.
#include "eval/compression_report.h"

#include <gtest/gtest.h>

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
