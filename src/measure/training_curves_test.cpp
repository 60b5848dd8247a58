// Curves of made-up runs: what is averaged, what is left out, what is refused.
#include "measure/training_curves.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/atomic_file.h"
#include "base/mapped_file.h"

namespace skiff {
namespace {

std::string run_with(const std::string& name, const std::string& csv) {
    const std::string folder = join_path(::testing::TempDir(), "curves_" + name);
    std::filesystem::create_directories(folder);
    EXPECT_TRUE(write_file_atomic(join_path(folder, "validation.csv"), csv).ok());
    return folder;
}

TEST(TrainingCurves, MeanAndRangeOfWhatAllRunsMeasured) {
    const auto a = run_with("a", "step,tokens,loss\n10,1000,5\n20,2000,4\n25,2500,3.5\n"), b = run_with("b", "step,tokens,loss\r\n10,1000,5.5\r\n20,2000,4.25\r\n");
    const auto curve = read_training_curve("both", {a, b});
    ASSERT_TRUE(curve.ok()) << curve.error().message;
    EXPECT_EQ(curve->tokens, (std::vector<double>{1000, 2000}));
    EXPECT_EQ(curve->mean, (std::vector<double>{5.25, 4.125}));
    EXPECT_EQ(curve->lowest, (std::vector<double>{5, 4}));
    EXPECT_EQ(curve->highest, (std::vector<double>{5.5, 4.25}));
    const auto alone = read_training_curve("one", {a});
    ASSERT_TRUE(alone.ok());
    EXPECT_EQ(alone->mean.back(), 3.5);

    const LinePlot plot = training_curves_plot("Title", {*curve, *alone});
    ASSERT_EQ(plot.series.size(), 4u);  // a range of two lines, its mean, and the single run
    EXPECT_EQ(plot.series[0].style, LineStyle::pale);
    EXPECT_EQ(plot.series[2].name, "both (2 runs)");
    EXPECT_EQ(plot.series[2].xs, (std::vector<double>{1, 2}));
    EXPECT_EQ(plot.series[3].name, "one");
    // The single run was below 4.125 after 2000 tokens, 500 before its end.
    EXPECT_NE(training_curves_table({*curve, *alone}).find("| one | 1 | 2500 | 3.500 | 3.500, 3.500 | 2000 |"), std::string::npos) << training_curves_table({*curve, *alone});
}

// A loss that is no number is below nothing.
TEST(TrainingCurves, ALossThatIsNoNumberReachesNothing) {
    const auto curve = read_training_curve("x", {run_with("nan", "step,tokens,loss\n1,10,nan\n2,20,4\n")});
    ASSERT_TRUE(curve.ok()) << curve.error().message;
    EXPECT_NE(training_curves_table({*curve}).find("| 4.000 | 4.000, 4.000 | 20 |"), std::string::npos) << training_curves_table({*curve});
}

TEST(TrainingCurves, WhatCannotBeReadIsRefused) {
    const auto good = run_with("good", "step,tokens,loss\n10,1000,5\n");
    const std::pair<std::string, const char*> cases[] = {
        {run_with("header", "a,b\n1,2\n"), "expected \"step,tokens,loss\""}, {run_with("empty", ""), "no measurement"},     {run_with("none", "step,tokens,loss\n"), "no measurement"},
        {run_with("short", "step,tokens,loss\n10,1000\n"), "line 2"},       {run_with("words", "step,tokens,loss\n10,x,5\n"), "line 2"}, {run_with("more", "step,tokens,loss\n10,1000,5,6\n"), "line 2"},
        {run_with("other", "step,tokens,loss\n10,999,5\n"), "same number of tokens"}, {good + "_not_there", "no such file"},
    };
    for (const auto& [folder, message] : cases) {
        const auto curve = read_training_curve("name", {good, folder});
        ASSERT_FALSE(curve.ok()) << folder;
        EXPECT_NE(curve.error().message.find(message), std::string::npos) << curve.error().message;
    }
    EXPECT_FALSE(read_training_curve("nothing", {}).ok());
}

}  // namespace
}  // namespace skiff
