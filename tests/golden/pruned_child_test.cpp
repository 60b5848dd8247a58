// A quarter of every layer gone, as `skiff prune` cuts it, against the logits that transformers computed with that very child (tests/golden/pruned_child.py).
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/atomic_file.h"
#include "compress/pipeline.h"
#include "plan/session.h"

namespace skiff {
namespace {

Json cases() {
    auto read = read_json_file(std::string(SKIFF_TEST_DATA_DIR) + "/compress/pruned_child.json");
    EXPECT_TRUE(read.ok()) << read.error().to_string();
    return read.ok() ? *read : Json::array();
}

class PrunedChild : public ::testing::TestWithParam<std::size_t> {
protected:
    void SetUp() override { folder_ = (std::filesystem::temp_directory_path() / ("skiff_pruned_child_" + std::to_string(::getpid()))).string(); }
    void TearDown() override { (void)remove_all(folder_); }

    // By what the weights alone say, so that the child is the same everywhere.
    Result<Checkpoint> cut(const std::string& parent, const Json& patterns) {
        std::string last = parent;
        for (std::size_t i = 0; i < patterns.size(); ++i) {
            SKIFF_TRY(const auto model, Checkpoint::open(last));
            SKIFF_TRY(auto step, parse_structure_pattern(patterns.items()[i].text()));
            step.importance = "l2";
            step.compensation = StructureStep::Compensation::none;
            step.multiple_of = 1;
            CompressOptions options;
            options.output = join_path(folder_, std::to_string(i));
            SKIFF_CHECK(make_directories(folder_));
            SKIFF_TRY(const auto report, run_recipe(model, {{step}, 0}, options));
            remarks_ = report.remarks;
            last = options.output;
        }
        return Checkpoint::open(last);
    }
    std::string folder_;
    std::vector<std::string> remarks_;  // of the last step
};

TEST_P(PrunedChild, LogitsAreThoseOfTransformers) {
    const Json all = cases();
    ASSERT_LT(GetParam(), all.size());
    const Json& expected = all.items()[GetParam()];
    const auto child = cut(std::string(SKIFF_SOURCE_DIR) + "/" + expected["parent"].text(), expected["patterns"]);
    ASSERT_TRUE(child.ok()) << child.error().to_string();
    // Uniform: plain numbers in the config that any program reads, and no layer of its own.
    for (const auto& [key, value] : expected["config"].members()) EXPECT_EQ(child->config[key].int_or(0), value.int_or(-1)) << key;
    EXPECT_FALSE(child->config.contains("per_layer_config"));
    const bool refused = child->spec.d_model % child->config["num_attention_heads"].int_or(1) != 0;
    EXPECT_EQ(std::any_of(remarks_.begin(), remarks_.end(), [](const std::string& text) { return text.find("transformers refuses a llama") != std::string::npos; }), refused);

    std::vector<std::int32_t> ids;
    for (const Json& id : expected["ids"].items()) ids.push_back(static_cast<std::int32_t>(id.int_or(0)));
    const auto stride = static_cast<std::size_t>(expected["stride"].int_or(1)), n_vocab = static_cast<std::size_t>(child->spec.n_vocab);
    ASSERT_EQ(expected["logits"].size(), ids.size());
    for (const KernelChoice kernels : {KernelChoice::reference, KernelChoice::fastest}) {
        PlanOptions plan_options;
        plan_options.kernels = kernels;
        auto plan = lower(child->spec, *child->weights, plan_options);
        ASSERT_TRUE(plan.ok()) << plan.error().to_string();
        SessionOptions session_options;
        session_options.n_context = session_options.max_batch = static_cast<std::int64_t>(ids.size());
        auto session = Session::create(std::move(*plan), session_options);
        ASSERT_TRUE(session.ok());
        ASSERT_TRUE((*session)->forward(0, ids, BatchItem::Logits::all).ok());
        double worst = 0;
        for (std::size_t position = 0; position < ids.size(); ++position) {
            const Json::Array& row = expected["logits"].items()[position].items();
            ASSERT_EQ(row.size(), (n_vocab + stride - 1) / stride);
            for (std::size_t i = 0; i < row.size(); ++i) worst = std::max(worst, std::fabs(row[i].number_or(NAN) - static_cast<double>((*session)->logits()[position * n_vocab + i * stride])));
        }
        EXPECT_LT(worst, 1e-4 * expected["largest"].number_or(0));
    }
}

INSTANTIATE_TEST_SUITE_P(Cases, PrunedChild, ::testing::Range(std::size_t{0}, cases().size()), [](const auto& row) { return std::to_string(row.param); });

}  // namespace
}  // namespace skiff
