// Models whose tensors have different schemes: by patterns, and by measurement for a size.
// timeout: 600
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "compress/algebra/algebra.h"
#include "compress/pipeline.h"
#include "compress/search/scheme_units.h"
#include "plan/session.h"

namespace skiff {
namespace {

const std::string pocket = std::string(SKIFF_SOURCE_DIR) + "/models/pocket";

std::vector<std::string> model_folders() {
    std::vector<std::string> folders;
    for (const auto& entry : std::filesystem::directory_iterator(std::string(SKIFF_TEST_DATA_DIR) + "/models"))
        if (entry.is_directory() && std::filesystem::exists(entry.path() / "config.json")) folders.push_back(entry.path().string());
    std::sort(folders.begin(), folders.end());
    return folders;
}

std::vector<float> logits_of(const Checkpoint& model, const PlanOptions& options) {
    auto plan = lower(model.spec, *model.weights, options);
    EXPECT_TRUE(plan.ok()) << plan.error().to_string();
    auto session = Session::create(*plan, {.n_threads = 2, .n_context = 64, .max_batch = 16});
    std::vector<std::int32_t> tokens;
    for (std::int32_t i = 0; i < 23; ++i) tokens.push_back((i * 37 + 5) % static_cast<std::int32_t>(model.spec.n_vocab));
    EXPECT_TRUE((*session)->forward(0, tokens, BatchItem::Logits::all).ok());
    return {(*session)->logits().begin(), (*session)->logits().end()};
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) { return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0; }

class MixedPrecision : public ::testing::Test {
protected:
    void SetUp() override {
        folder_ = (std::filesystem::temp_directory_path() / ("skiff_mixed_" + std::to_string(::getpid()))).string();
        ASSERT_TRUE(make_directories(folder_).ok());
    }
    void TearDown() override { (void)remove_all(folder_); }
    std::string path(const std::string& name) const { return join_path(folder_, name); }

    Result<CompressReport> run(const Checkpoint& parent, const QuantizeStep& step, const std::string& name, const std::string& measurements = "", int n_threads = 2) const {
        CompressOptions options;
        options.output = path(name);
        options.n_threads = n_threads;
        options.measurements = measurements;
        return run_recipe(parent, {{step}, 0}, options);
    }
    static QuantizeStep by_rules(const std::string& scheme, const std::vector<std::string>& rules) {
        QuantizeStep step;
        step.schemes = default_wish(*parse_scheme(scheme));
        for (const std::string& rule : rules) step.schemes.rules.push_back(*parse_scheme_rule(rule));
        return step;
    }
    std::string folder_;
};

std::uint64_t weight_file_bytes(const std::string& folder) { return std::filesystem::file_size(folder + "/model.safetensors"); }

TEST_F(MixedPrecision, PatternsNameSchemesAndTheLastThatMatchesCounts) {
    auto parent = Checkpoint::open(pocket);
    ASSERT_TRUE(parent.ok());
    const QuantizeStep step = by_rules("w4g32", {"*.q_proj=n2g32r", "*.v_proj*=w8", "*.layers.0.*=n3g32r", "*.layers.0.mlp.up_proj.weight=keep", "*embed*=w5g32r"});
    auto report = run(*parent, step, "a");
    ASSERT_TRUE(report.ok()) << report.error().to_string();
    auto child = Checkpoint::open(path("a"));
    ASSERT_TRUE(child.ok()) << child.error().to_string();
    for (const auto& [key, expected] : {std::pair("model.layers.0.self_attn.q_proj.weight", "n3g32r"), {"model.layers.0.self_attn.v_proj.weight", "n3g32r"}, {"model.layers.0.mlp.up_proj.weight", "BF16"},
                                        {"model.layers.1.self_attn.q_proj.weight", "n2g32r"}, {"model.layers.1.self_attn.v_proj.weight", "w8"}, {"model.layers.1.self_attn.k_proj.weight", "w4g32"},
                                        {"model.embed_tokens.weight", "w5g32r"}, {"model.norm.weight", "BF16"}}) {
        EXPECT_EQ(child->weights->load(key)->encoding_name(), expected) << key;
        for (const ManifestTensor& tensor : report->manifest.tensors)
            if (tensor.key == key) { EXPECT_EQ(tensor.scheme, expected) << key; }
    }
    const Json& rules = child->manifest["steps"].items()[0]["scheme_for"];
    ASSERT_EQ(rules.size(), 5u);
    EXPECT_EQ(rules.items()[0].dump(), R"({"pattern": "*.q_proj", "scheme": "n2g32r"})");
    EXPECT_TRUE(rules.items()[3]["scheme"].is_null());
    EXPECT_EQ(rule_for(step.schemes, "model.norm.weight", TensorUse::other), nullptr);  // norms are not meant
}

TEST_F(MixedPrecision, AFloatingModelMayHaveCodesAndTheOtherWayRound) {
    auto parent = Checkpoint::open(pocket);
    ASSERT_TRUE(parent.ok());
    ASSERT_TRUE(run(*parent, by_rules("fp16", {"*.down_proj=w8"}), "a").ok());
    ASSERT_TRUE(run(*parent, by_rules("w8", {"*.down_proj=fp16"}), "b").ok());
    auto floats = Checkpoint::open(path("a")), codes = Checkpoint::open(path("b"));
    ASSERT_TRUE(floats.ok() && codes.ok());
    EXPECT_EQ(floats->weights->load("model.layers.2.mlp.down_proj.weight")->encoding_name(), "w8");
    EXPECT_EQ(floats->weights->load("model.layers.2.mlp.up_proj.weight")->encoding_name(), "F16");
    EXPECT_EQ(floats->config["torch_dtype"].text(), "float16");
    EXPECT_EQ(codes->weights->load("model.layers.2.mlp.down_proj.weight")->encoding_name(), "F16");
    EXPECT_EQ(codes->weights->load("model.layers.2.mlp.up_proj.weight")->encoding_name(), "w8");
}

TEST_F(MixedPrecision, ARuleThatNamesNothingIsRefused) {
    auto parent = Checkpoint::open(pocket);
    ASSERT_TRUE(parent.ok());
    for (const std::vector<std::string>& rules : std::vector<std::vector<std::string>>{{"*.up_projection=w8"}, {"model.norm.weight=w8"}, {"*.q_proj=w8", "*=w4g32"}}) {
        auto report = run(*parent, by_rules("w4g32", rules), "a");
        ASSERT_FALSE(report.ok());
        EXPECT_EQ(report.error().code, ErrorCode::usage);
        EXPECT_NE(report.error().message.find(rules[0].substr(0, rules[0].find('='))), std::string::npos) << report.error().message;
    }
    for (const char* bad : {"w8", "=w8", "*.q_proj=", "*.q_proj=w9"}) EXPECT_EQ(parse_scheme_rule(bad).error().code, ErrorCode::usage) << bad;
}

// Operators that share an input become one step of several segments, whatever their schemes.
class MixedSegments : public MixedPrecision, public ::testing::WithParamInterface<std::string> {};

TEST_P(MixedSegments, RunMergedAndFusedAsTheyRunApart) {
    auto parent = Checkpoint::open("random:" + GetParam() + "/config.json");
    ASSERT_TRUE(parent.ok()) << parent.error().to_string();
    // Each tensor of a unit another scheme.
    const char* schemes[] = {"n2g16r", "w4g32", "n3g32r", "w8", "keep", "w5g32r", "w4g32a"};
    QuantizeStep step = by_rules("w6g32r", {});
    std::size_t n = 0;
    for (const SchemeUnit& unit : scheme_units(parent->spec, SchemeTarget::Unit::shared_input))
        for (const std::string& key : unit.keys) step.schemes.rules.push_back(*parse_scheme_rule(key + "=" + schemes[n++ % std::size(schemes)]));
    auto report = run(*parent, step, "a");
    ASSERT_TRUE(report.ok()) << report.error().to_string();
    auto child = Checkpoint::open(path("a"));
    ASSERT_TRUE(child.ok()) << child.error().to_string();
    PlanOptions apart;
    apart.merge = PlanOptions::Merge::off;
    apart.fuse = FuseSet::none();
    EXPECT_TRUE(same_bits(logits_of(*child, {}), logits_of(*child, apart)));
}

std::string name_of(const ::testing::TestParamInfo<std::string>& named) { return std::filesystem::path(named.param).filename().string(); }
INSTANTIATE_TEST_SUITE_P(AllModels, MixedSegments, ::testing::ValuesIn(model_folders()), name_of);

QuantizeStep for_bytes(std::uint64_t bytes) {
    QuantizeStep step;
    step.target = SchemeTarget{};
    step.target->file_bytes = bytes;
    step.target->ladder = {"n2g32r", "w4g32", "w8"};
    step.target->n_tokens = 128;
    step.target->n_refinements = 1;
    step.schemes = default_wish(*parse_scheme("w8"));
    step.calibration = {pocket + "/calib.txt", 4, 128};
    return step;
}

// Every architecture: tied tables, experts, matrices stored as columns.
class MixedSearch : public MixedPrecision, public ::testing::WithParamInterface<std::string> {};

TEST_P(MixedSearch, KeepsTheSize) {
    auto parent = Checkpoint::open("random:" + GetParam() + "/config.json");
    ASSERT_TRUE(parent.ok()) << parent.error().to_string();
    QuantizeStep step = for_bytes(0);
    step.target->bits_per_weight = 8;
    step.calibration = {"", 4, 64};
    auto report = run(*parent, step, "a");
    ASSERT_TRUE(report.ok()) << report.error().to_string();
    const Json manifest = manifest_json(report->manifest);
    const double bits = manifest["totals"]["bits_per_weight"].number_or(0);
    EXPECT_LE(bits, 8.0);
    EXPECT_GE(bits, 5.0);
    const Json& found = report->manifest.steps[0]["found"];
    std::set<std::string> keys;
    for (const Json& unit : found["units"].items()) {
        EXPECT_EQ(unit["kl"].size(), 3u);
        for (const Json& key : unit["tensors"].items()) EXPECT_TRUE(keys.insert(key.text()).second);
    }
    EXPECT_TRUE(Checkpoint::open(path("a")).ok());
}
INSTANTIATE_TEST_SUITE_P(AllModels, MixedSearch, ::testing::ValuesIn(model_folders()), name_of);

TEST_F(MixedPrecision, ATargetIsKeptAndARunThatWasCutGoesOn) {
    if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    auto parent = Checkpoint::open(pocket);
    ASSERT_TRUE(parent.ok());
    const std::uint64_t target = 6'500'000;
    auto report = run(*parent, for_bytes(target), "a", path("measured"));
    ASSERT_TRUE(report.ok()) << report.error().to_string();
    EXPECT_LE(weight_file_bytes(path("a")), target);
    EXPECT_GE(weight_file_bytes(path("a")), target - 250'000);  // less than the smallest step of a unit
    const std::string manifest = *read_text_file(path("a/skiff.json"), 1 << 24);
    const Json& found = report->manifest.steps[0]["found"];
    EXPECT_EQ(found["measure"].text(), "every scheme");
    for (const Json& unit : found["units"].items()) EXPECT_GT(unit["kl"]["n2g32r"].number_or(0), unit["kl"]["w8"].number_or(0)) << unit["name"].text();

    // With half of the measurements, and with other threads: the same bytes.
    const std::string lines = *read_text_file(path("measured"), 1 << 24);
    std::ofstream(path("half")) << lines.substr(0, lines.size() / 2);
    ASSERT_TRUE(run(*parent, for_bytes(target), "b", path("half"), 1).ok());
    EXPECT_EQ(*read_text_file(path("b/skiff.json"), 1 << 24), manifest);
    EXPECT_EQ(*read_text_file(path("half"), 1 << 24), lines);

    // Of the same measurements another size; of another calibration none.
    auto smaller = run(*parent, for_bytes(5'000'000), "c", path("measured"));
    ASSERT_TRUE(smaller.ok()) << smaller.error().to_string();
    EXPECT_LE(weight_file_bytes(path("c")), 5'000'000u);
    QuantizeStep other = for_bytes(target);
    other.calibration.n_samples = 2;
    auto refused = run(*parent, other, "d", path("measured"));
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().message.find("holds measurements of something else"), std::string::npos) << refused.error().message;
    auto too_small = run(*parent, for_bytes(1'000'000), "d", path("measured"));
    ASSERT_FALSE(too_small.ok());
    EXPECT_NE(too_small.error().message.find("n2g32r throughout"), std::string::npos) << too_small.error().message;
    // What is kept beside the output is gone with it.
    ASSERT_TRUE(run(*parent, for_bytes(target), "e").ok());
    EXPECT_FALSE(file_exists(path("e.measurements")));
}

TEST_F(MixedPrecision, OneSchemeMeasuredAndTheOthersByTheirErrorsComeClose) {
    auto parent = Checkpoint::open(pocket);
    ASSERT_TRUE(parent.ok());
    QuantizeStep step = for_bytes(6'500'000);
    step.target->n_refinements = 0;
    auto every = run(*parent, step, "a", path("every"));
    step.target->measure = SchemeTarget::Measure::one_scheme;
    auto one = run(*parent, step, "b", path("one"));
    ASSERT_TRUE(every.ok() && one.ok());
    const Json &all = every->manifest.steps[0]["found"], &scaled = one->manifest.steps[0]["found"];
    EXPECT_EQ(scaled["measure"].text(), "one scheme");
    double ratio = 0;
    for (std::size_t i = 0; i < all["units"].size(); ++i) {
        const double measured = all["units"].items()[i]["kl"]["n2g32r"].number_or(0), estimated = scaled["units"].items()[i]["kl"]["n2g32r"].number_or(0);
        ratio += std::abs(std::log(estimated / measured)) / static_cast<double>(all["units"].size());
    }
    EXPECT_LT(ratio, std::log(2.0)) << "on average within a factor of two";
    const auto lines = [](const std::string& text) { return std::count(text.begin(), text.end(), '\n'); };
    EXPECT_GT(lines(*read_text_file(path("one"), 1 << 24)), 25);
}

TEST_F(MixedPrecision, WhatARuleNamesIsNotSearchedFor) {
    auto parent = Checkpoint::open(pocket);
    ASSERT_TRUE(parent.ok());
    QuantizeStep step = for_bytes(7'500'000);
    step.schemes.rules = {*parse_scheme_rule("*embed_tokens=w6g32r"), *parse_scheme_rule("*.layers.[0-9].nothing=keep")};
    EXPECT_FALSE(run(*parent, step, "a").ok());
    step.schemes.rules.pop_back();
    step.target->unit = SchemeTarget::Unit::tensor;
    step.target->ladder = {"n2g32r", "w8"};
    step.target->n_refinements = 0;
    auto report = run(*parent, step, "a");
    ASSERT_TRUE(report.ok()) << report.error().to_string();
    EXPECT_EQ(report->manifest.steps[0]["found"]["units"].size(), 42u);  // seven matrices of six layers
    EXPECT_EQ(Checkpoint::open(path("a"))->weights->load("model.embed_tokens.weight")->encoding_name(), "w6g32r");
}

}  // namespace
}  // namespace skiff
