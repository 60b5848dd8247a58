// timeout: 900
// Perplexities that transformers computed (tests/data/models/perplexity.json), by both protocols, with both choices of kernels.
#include <gtest/gtest.h>

#include <cstdio>

#include "base/atomic_file.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "eval/evaluate.h"

namespace skiff {
namespace {

std::string shared(const std::string& path) { return join_path(SKIFF_SHARED_DIR, path); }
constexpr std::int64_t pocket_window = 512;  // its context
std::string pocket() { return join_path(SKIFF_SOURCE_DIR, "models/pocket"); }

Json golden_row(const std::string& model) {
    auto json = read_json_file(join_path(SKIFF_TEST_DATA_DIR, "models/perplexity.json"));
    EXPECT_TRUE(json.ok());
    for (const Json& row : (*json)["rows"].items())
        if (row["model"].text() == model) return row;
    ADD_FAILURE() << "no row for " << model;
    return {};
}

EvalOptions options_for(const std::string& model, const std::string& text, std::int64_t window) {
    EvalOptions options;
    options.model = model;
    options.text_path = text;
    options.window = window;
    options.engine.n_threads = 2;
    return options;
}

void expect_golden(const EvalOptions& options, const Json& row, const char* golden_protocol) {
    auto report = evaluate(options);
    ASSERT_TRUE(report.ok()) << report.error().to_string();
    const Json& expected = row["protocols"][golden_protocol];
    EXPECT_EQ(report->perplexity->tokens, expected["tokens"].int_or(0));
    EXPECT_EQ(report->perplexity->tokens_in_text, row["tokens_in_file_with_bos"].int_or(0));
    const double value = expected["perplexity"].number_or(0), error = expected["stderr"].number_or(0);
    EXPECT_NEAR(report->perplexity->perplexity.value, value, 1e-4 * value);
    EXPECT_NEAR(report->perplexity->perplexity.stderr_, error, 1e-3 * error);
    EXPECT_EQ(report->text_sha256, row["text_sha256"].text());
    std::printf("%s %s: %.6f (expected %.6f), %.0f tokens/s\n", options.model.c_str(), golden_protocol, report->perplexity->perplexity.value, value,
                report->tokens_per_s);
}

TEST(EvalPerplexity, Stories260K) {
    const std::string model = shared("models/stories260K"), text = shared("data/wikitext2/wiki.test.raw");
    if (!is_directory(model) || !file_exists(text)) GTEST_SKIP() << "the shared models and texts are not here";
    EvalOptions options = options_for(model, text, 512);
    options.max_windows = 100;
    const Json row = golden_row("stories260K");
    expect_golden(options, row, "windows");
    options.engine.kernels = KernelChoice::reference;
    expect_golden(options, row, "windows");
    options.protocol = Protocol::llamacpp;
    expect_golden(options, row, "second_half");
}

TEST(EvalPerplexity, Pocket) {
    const Json row = golden_row("pocket");
    expect_golden(options_for(pocket(), "", pocket_window), row, "windows");
    EvalOptions options = options_for(pocket(), "", pocket_window);
    options.protocol = Protocol::llamacpp;
    expect_golden(options, row, "second_half");
}

// The first window's loss alone, with plain float kernels: quick, and needs nothing but the repository.
TEST(EvalPerplexity, PocketsFirstWindow) {
    const Json row = golden_row("pocket");
    for (KernelChoice kernels : {KernelChoice::reference, KernelChoice::fastest}) {
        EvalOptions options = options_for(pocket(), "", pocket_window);
        options.max_windows = 1;
        options.engine.kernels = kernels;
        auto report = evaluate(options);
        ASSERT_TRUE(report.ok()) << report.error().to_string();
        EXPECT_NEAR(report->perplexity->mean_nll.value, row["first_window_mean_nll"].number_or(0), 1e-5);
    }
}

TEST(EvalPerplexity, AModelAgainstItselfIsAtNoDistance) {
    EvalOptions options = options_for(pocket(), "", 64);
    options.max_windows = 2;
    options.against = pocket();
    auto report = evaluate(options);
    ASSERT_TRUE(report.ok()) << report.error().to_string();
    ASSERT_TRUE(report->against.has_value());
    EXPECT_EQ(report->against->parent_logits, "beside");
    EXPECT_EQ(report->against->max_kl, 0);
    EXPECT_EQ(report->against->top1_agreement.value, 1);
    EXPECT_EQ(report->against->parent_hash, report->model.hash);
    EXPECT_EQ(report->against->parent_perplexity.value, report->perplexity->perplexity.value);
}

// A child (quantized while loading) beside its parent, with the parent before it, and against the parent's file: the same figures to the last bit.
TEST(EvalPerplexity, AParentsFileStandsForTheParent) {
    const std::string file = ::testing::TempDir() + "skiff_eval_parent.logits";
    EvalOptions options = options_for(pocket(), "", 64);
    options.max_windows = 3;
    options.against = pocket();
    options.engine.scheme = *parse_scheme("w4g32");
    auto beside = evaluate(options);
    ASSERT_TRUE(beside.ok()) << beside.error().to_string();
    EXPECT_GT(beside->against->mean_kl.value, 1e-4);
    EXPECT_LT(beside->against->mean_kl.value, 1);
    EXPECT_GE(beside->against->p99_kl, beside->against->median_kl);
    EXPECT_GT(beside->against->parent_perplexity.value, 1);

    options.save_logits = file;
    auto before = evaluate(options);
    ASSERT_TRUE(before.ok()) << before.error().to_string();
    options.save_logits.clear();
    options.against = file;
    options.window = options.max_windows = 0;  // the file says
    auto from_file = evaluate(options);
    ASSERT_TRUE(from_file.ok()) << from_file.error().to_string();
    for (const EvalReport* report : {&*before, &*from_file}) {
        EXPECT_EQ(report->against->parent_logits, "file");
        EXPECT_EQ(report->against->mean_kl.value, beside->against->mean_kl.value);
        EXPECT_EQ(report->against->largest_probability_change, beside->against->largest_probability_change);
        EXPECT_EQ(report->perplexity->perplexity.value, beside->perplexity->perplexity.value);
        EXPECT_EQ(report->against->parent_hash, beside->against->parent_hash);
    }

    options.max_windows = 2;
    auto refused = evaluate(options);
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().to_string().find("another number of windows"), std::string::npos) << refused.error().to_string();
    std::remove(file.c_str());
}

TEST(EvalPerplexity, AnEstimateSaysHowLargeTheFileIs) {
    EvalOptions options = options_for(pocket(), "", 64);
    options.max_windows = 3;
    options.save_logits = ::testing::TempDir() + "skiff_eval_size.logits";
    auto estimate = estimate_evaluation(options);
    ASSERT_TRUE(estimate.ok()) << estimate.error().to_string();
    ASSERT_TRUE(evaluate(options).ok());
    EXPECT_EQ(*file_size_bytes(options.save_logits) / 4096, estimate->logits_file_bytes / 4096);
    std::remove(options.save_logits.c_str());
}

TEST(EvalPerplexity, StableKeys) {
    EvalOptions options = options_for(pocket(), "", 32);
    options.max_windows = 1;
    options.against = pocket();
    auto report = evaluate(options);
    ASSERT_TRUE(report.ok());
    const Json json = report->to_json();
    for (const char* key : {"value", "stderr", "tokens", "protocol"}) EXPECT_TRUE(json["perplexity"].contains(key)) << key;
    for (const char* key : {"mean_kl", "p99_kl", "top1_agreement"}) EXPECT_TRUE(json["against"].contains(key)) << key;
    for (const char* key : {"path", "name", "hash"}) EXPECT_TRUE(json["model"].contains(key)) << key;
    for (const char* key : {"path", "sha256"}) EXPECT_TRUE(json["text"].contains(key)) << key;
}

// A weight that is NaN must end in an error with the place, never in a figure.
TEST(EvalPerplexity, ABrokenWeightIsAnErrorWithItsPlace) {
    const std::string folder = ::testing::TempDir() + "skiff_eval_broken";
    ASSERT_TRUE(make_directories(folder).ok());
    for (const char* name : {"config.json", "tokenizer.json"}) {
        auto text = read_text_file(join_path(pocket(), name), 1 << 20);
        ASSERT_TRUE(text.ok() && write_file_atomic(join_path(folder, name), *text).ok());
    }
    auto weights = read_text_file(join_path(pocket(), "model.safetensors"), 64 << 20);
    ASSERT_TRUE(weights.ok());
    (*weights)[weights->size() - 2] = '\xc0';  // bfloat16 NaN: 0x7fc0
    (*weights)[weights->size() - 1] = '\x7f';
    ASSERT_TRUE(write_file_atomic(join_path(folder, "model.safetensors"), *weights).ok());
    EvalOptions options = options_for(folder, join_path(pocket(), "heldout.txt"), 32);
    options.max_windows = 1;
    auto report = evaluate(options);
    ASSERT_FALSE(report.ok());
    EXPECT_NE(report.error().to_string().find("window 0"), std::string::npos) << report.error().to_string();
    EXPECT_NE(report.error().to_string().find("NaN"), std::string::npos) << report.error().to_string();
    ASSERT_TRUE(remove_all(folder).ok());
}

TEST(EvalPerplexity, SaysWhatIsMissing) {
    EvalOptions options = options_for(join_path(SKIFF_TEST_DATA_DIR, "models/llama"), "", 0);
    auto report = evaluate(options);
    ASSERT_FALSE(report.ok());
    options = options_for(pocket(), "", 100000);
    report = evaluate(options);
    ASSERT_FALSE(report.ok());
    EXPECT_NE(report.error().to_string().find("positions"), std::string::npos);
}

}  // namespace
}  // namespace skiff
