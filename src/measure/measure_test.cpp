// Synthetic distributions whose likelihood and divergence are computed here in long double, straight from the definitions.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/rng.h"
#include "measure/divergence.h"
#include "measure/likelihood.h"
#include "measure/row_exp.h"
#include "measure/logits_file.h"
#include "measure/statistics.h"
#include "measure/text_windows.h"

namespace skiff {
namespace {

std::vector<float> random_rows(std::uint64_t seed, std::size_t n, float spread) {
    Rng rng(seed);
    std::vector<float> rows(n);
    for (float& value : rows) value = rng.normal() * spread + 3;
    return rows;
}

std::vector<long double> probabilities(std::span<const float> logits) {
    long double largest = -1e30L, sum = 0;
    for (float logit : logits) largest = std::max<long double>(largest, logit);
    std::vector<long double> p;
    for (float logit : logits) sum += p.emplace_back(std::exp(static_cast<long double>(logit) - largest));
    for (long double& value : p) value /= sum;
    return p;
}

TEST(Likelihood, EqualsTheDefinitionForAnyThreadCount) {
    constexpr std::size_t n_rows = 7, n_vocab = 1003;
    const auto rows = random_rows(1, n_rows * n_vocab, 4);
    const std::vector<std::int32_t> targets = {0, 1002, 5, 500, 77, 8, 9};
    for (int n_threads : {1, 3}) {
        ThreadPool pool(n_threads);
        std::vector<TokenScore> scores(n_rows);
        ASSERT_TRUE(score_rows(pool, rows, targets, scores).ok());
        for (std::size_t r = 0; r < n_rows; ++r) {
            const auto row = std::span(rows).subspan(r * n_vocab, n_vocab);
            const auto p = probabilities(row);
            EXPECT_NEAR(scores[r].log_likelihood, static_cast<double>(std::log(p[static_cast<std::size_t>(targets[r])])), 1e-6);
            EXPECT_EQ(scores[r].top, std::max_element(row.begin(), row.end()) - row.begin());
        }
    }
}

TEST(Likelihood, TheFirstOfEqualLogitsIsTheTop) {
    const std::vector<float> row = {1, 5, 2, 5, 5, 0, 0, 0, 5, 1};
    EXPECT_EQ(summarize_row(row).top, 1);
}

TEST(Likelihood, ALogitThatIsNoNumberIsAnErrorWithItsPlace) {
    ThreadPool pool(2);
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
        for (std::size_t place : {0u, 13u, 18u}) {
            auto rows = random_rows(2, 3 * 19, 1);
            rows[2 * 19 + place] = bad;
            const std::vector<std::int32_t> targets = {1, 2, 3};
            std::vector<TokenScore> scores(3);
            const Status status = score_rows(pool, rows, targets, scores);
            ASSERT_FALSE(status.ok());
            EXPECT_NE(status.error().to_string().find("row 2: the logit of token " + std::to_string(place)), std::string::npos) << status.error().to_string();
            const auto fine = random_rows(2, 3 * 19, 1);
            std::vector<TokenDivergence> result(3);
            const Status compared = compare_rows(pool, fine, rows, targets, result);
            ASSERT_FALSE(compared.ok());
            EXPECT_NE(compared.error().to_string().find("the child"), std::string::npos);
        }
    }
}

TEST(Divergence, EqualsTheDefinition) {
    constexpr std::size_t n_rows = 5, n_vocab = 777;
    const auto parent = random_rows(3, n_rows * n_vocab, 3);
    auto child = random_rows(4, n_rows * n_vocab, 0.3f);
    for (std::size_t i = 0; i < child.size(); ++i) child[i] += parent[i];
    const std::vector<std::int32_t> targets = {0, 776, 5, 500, 77};
    ThreadPool pool(2);
    std::vector<TokenDivergence> result(n_rows);
    ASSERT_TRUE(compare_rows(pool, parent, child, targets, result).ok());
    for (std::size_t r = 0; r < n_rows; ++r) {
        const auto p = probabilities(std::span(parent).subspan(r * n_vocab, n_vocab)), q = probabilities(std::span(child).subspan(r * n_vocab, n_vocab));
        long double kl = 0, change = 0;
        for (std::size_t i = 0; i < n_vocab; ++i) {
            kl += p[i] * std::log(p[i] / q[i]);
            change = std::max(change, std::abs(p[i] - q[i]));
        }
        EXPECT_NEAR(result[r].kl, static_cast<double>(kl), 1e-7 + 1e-5 * static_cast<double>(kl));
        EXPECT_NEAR(result[r].largest_change, static_cast<double>(change), 1e-6);
        const auto target = static_cast<std::size_t>(targets[r]);
        EXPECT_NEAR(result[r].parent_log_likelihood, static_cast<double>(std::log(p[target])), 1e-6);
        EXPECT_NEAR(result[r].child_log_likelihood, static_cast<double>(std::log(q[target])), 1e-6);
        EXPECT_EQ(result[r].child_top, std::max_element(q.begin(), q.end()) - q.begin());
    }
}

TEST(Divergence, OfEqualRowsIsZeroToTheLastBit) {
    const auto rows = random_rows(5, 3 * 1000, 5);
    const std::vector<std::int32_t> targets = {1, 2, 3};
    ThreadPool pool(1);
    std::vector<TokenDivergence> result(3);
    ASSERT_TRUE(compare_rows(pool, rows, rows, targets, result).ok());
    for (const TokenDivergence& row : result) {
        EXPECT_EQ(row.kl, 0.0);
        EXPECT_EQ(row.largest_change, 0.0f);
    }
}

// KL between (1 - e, e) and (1/2, 1/2) is log 2 - H(e): a closed form.
TEST(Divergence, OfTwoOutcomesHasAClosedForm) {
    ThreadPool pool(1);
    for (double e : {0.5, 0.1, 1e-3, 1e-6}) {
        const std::vector<float> parent = {static_cast<float>(std::log((1 - e) / e)), 0}, child = {7, 7};
        const std::vector<std::int32_t> targets = {0};
        std::vector<TokenDivergence> result(1);
        ASSERT_TRUE(compare_rows(pool, parent, child, targets, result).ok());
        EXPECT_NEAR(result[0].kl, std::log(2.0) + (1 - e) * std::log(1 - e) + e * std::log(e), 3e-7);
    }
}

TEST(Statistics, SmallSamples) {
    const std::vector<double> values = {1, 2, 3, 4};  // sd with n - 1: sqrt(5/3)
    EXPECT_DOUBLE_EQ(mean_of(values).value, 2.5);
    EXPECT_DOUBLE_EQ(mean_of(values).stderr_, std::sqrt(5.0 / 3 / 4));
    EXPECT_EQ(mean_of(std::vector<double>{7}).stderr_, 0);
    EXPECT_EQ(mean_of({}).value, 0);
    EXPECT_DOUBLE_EQ(share_of_hits(3, 4).value, 0.75);
    EXPECT_DOUBLE_EQ(share_of_hits(3, 4).stderr_, std::sqrt(0.75 * 0.25 / 3));
    EXPECT_DOUBLE_EQ(exp_of({2, 0.1}).stderr_, std::exp(2.0) * 0.1);
    EXPECT_DOUBLE_EQ(quantile({4, 1, 3, 2}, 0.5), 2.5);
    EXPECT_DOUBLE_EQ(quantile({4, 1, 3, 2}, 1), 4);
    EXPECT_DOUBLE_EQ(quantile({4, 1, 3, 2}, 0.99), 3.97);
}

TextWindows windows_of(std::int64_t n_tokens, std::int32_t begin_token, const TextWindows::Options& options) {
    TokenizedText text;
    for (std::int64_t i = 0; i < n_tokens; ++i) text.tokens.push_back(static_cast<std::int32_t>(100 + i));
    text.begin_token = begin_token;
    auto windows = TextWindows::create(std::move(text), options);
    EXPECT_TRUE(windows.ok());
    return std::move(*windows);
}

TEST(Statistics, IntervalsAreThoseOfStudent) {
    for (const auto& [n, expected] : {std::pair(2, 12.7062), {3, 4.30265}, {4, 3.18245}, {5, 2.77645}, {11, 2.22814}, {64, 1.99834}, {100000, 1.95999}}) EXPECT_NEAR(interval_95(n), expected, 4e-3) << n;
    EXPECT_NEAR(interval_95(64), 1.99834, 1e-5);
    EXPECT_EQ(interval_95(1), 0);
}

TEST(TextWindows, SideBySide) {
    const TextWindows windows = windows_of(26, 1, {Protocol::windows, 8, 0});
    EXPECT_EQ(windows.n_windows(), 3);
    EXPECT_EQ(windows.n_scored(), 21);
    EXPECT_EQ(windows.inputs(1), (std::vector<std::int32_t>{108, 109, 110, 111, 112, 113, 114}));
    EXPECT_EQ(windows.targets(1).front(), 109);
    EXPECT_EQ(windows.targets(1).back(), 115);
    EXPECT_EQ(windows.text_position(1, 0), 9);
}

TEST(TextWindows, SecondHalfBehindTheBeginToken) {
    const TextWindows windows = windows_of(26, 1, {Protocol::llamacpp, 8, 2});
    EXPECT_EQ(windows.n_windows(), 2);
    EXPECT_EQ(windows.inputs(1), (std::vector<std::int32_t>{1, 109, 110, 111, 112, 113, 114}));
    EXPECT_EQ(windows.first_scored(), 4);
    EXPECT_EQ(std::vector<std::int32_t>(windows.targets(1).begin(), windows.targets(1).end()), (std::vector<std::int32_t>{113, 114, 115}));
    EXPECT_EQ(windows_of(26, -1, {Protocol::llamacpp, 8, 0}).inputs(0)[0], 100);
}

TEST(TextWindows, RefusesWhatLeavesNothing) {
    EXPECT_FALSE(TextWindows::create({{1, 2, 3}, -1}, {Protocol::windows, 4, 0}).ok());
    EXPECT_FALSE(TextWindows::create({{1, 2, 3}, -1}, {Protocol::windows, 1, 0}).ok());
    EXPECT_FALSE(TextWindows::create({{1, 2, 3, 4}, -1}, {Protocol::llamacpp, 3, 0}).ok());
    EXPECT_FALSE(protocol_from_name("halves").ok());
}

class LogitsFileTest : public ::testing::Test {
protected:
    void SetUp() override {
        header_ = logits_header(windows_of(24, 1, {Protocol::windows, 8, 0}), 11);
        header_.model_name = "m";
        header_.text_sha256 = "t";
        rows_ = random_rows(9, 21 * 11, 2);
    }
    void TearDown() override { std::remove(path_.c_str()); }
    void write() {
        auto writer = LogitsWriter::create(path_, header_);
        ASSERT_TRUE(writer.ok()) << writer.error().to_string();
        ASSERT_TRUE(writer->add(std::span(rows_).first(5 * 11)).ok());
        ASSERT_TRUE(writer->add(std::span(rows_).subspan(5 * 11)).ok());
        ASSERT_TRUE(writer->finish().ok());
    }
    std::string path_ = ::testing::TempDir() + "skiff_logits_" + ::testing::UnitTest::GetInstance()->current_test_info()->name() + ".bin";
    LogitsHeader header_;
    std::vector<float> rows_;
};

TEST_F(LogitsFileTest, ComesBackRowByRow) {
    write();
    EXPECT_TRUE(is_logits_file(path_));
    EXPECT_EQ(*file_size_bytes(path_), header_.file_bytes());
    auto file = LogitsFile::open(path_);
    ASSERT_TRUE(file.ok()) << file.error().to_string();
    EXPECT_TRUE(file->check_matches(header_).ok());
    auto parent = file->rows();
    const std::vector<std::int32_t> inputs(7);
    for (std::int64_t window = 0; window < 3; ++window) {
        ASSERT_TRUE(parent->begin_window(window).ok());
        auto first = parent->chunk(inputs, 0);
        ASSERT_TRUE(first.ok());
        EXPECT_TRUE(first->empty());
        for (std::int64_t row = 0; row < 7; ++row) {
            auto logits = parent->chunk(std::span(inputs).first(1), 1);
            ASSERT_TRUE(logits.ok());
            EXPECT_TRUE(std::equal(logits->begin(), logits->end(), rows_.begin() + (window * 7 + row) * 11));
        }
    }
    EXPECT_FALSE(parent->chunk(inputs, 1).ok());
}

TEST_F(LogitsFileTest, RefusesWhatDoesNotMatch) {
    write();
    auto file = LogitsFile::open(path_);
    ASSERT_TRUE(file.ok());
    auto message = [&](auto change) {
        LogitsHeader other = header_;
        change(other);
        Status status = file->check_matches(other);
        return status.ok() ? std::string("accepted") : status.error().to_string();
    };
    EXPECT_NE(message([](LogitsHeader& h) { h.text_sha256 = "u"; }).find("another text"), std::string::npos);
    EXPECT_NE(message([](LogitsHeader& h) { h.tokens_hash = "u"; }).find("another tokenizer"), std::string::npos);
    EXPECT_NE(message([](LogitsHeader& h) { h.protocol = "llamacpp"; }).find("another protocol"), std::string::npos);
    EXPECT_NE(message([](LogitsHeader& h) { h.n_vocab = 12; }).find("another vocabulary"), std::string::npos);
    EXPECT_NE(message([](LogitsHeader& h) { h.window = 12; }).find("another window"), std::string::npos);
}

TEST_F(LogitsFileTest, RefusesBrokenFiles) {
    write();
    auto good = read_text_file(path_, 1 << 20);
    ASSERT_TRUE(good.ok());
    auto opens = [&](std::string bytes) {
        EXPECT_TRUE(write_file_atomic(path_, bytes).ok());
        auto file = LogitsFile::open(path_);
        return file.ok() ? std::string() : file.error().to_string();
    };
    EXPECT_EQ(opens(*good), "");
    EXPECT_NE(opens(good->substr(0, good->size() - 4)).find("not what its header says"), std::string::npos);
    EXPECT_NE(opens(good->substr(0, 10)).find("truncated"), std::string::npos);
    EXPECT_NE(opens("GGUF" + good->substr(4)).find("no file of logits"), std::string::npos);
    std::string newer = *good;
    newer[8] = 2;
    EXPECT_NE(opens(newer).find("version 2"), std::string::npos);
    std::string longer = *good;
    longer[14] = 127;
    EXPECT_NE(opens(longer).find("claims"), std::string::npos);
    std::string zero = *good;
    zero[zero.find('3', zero.find("n_windows"))] = '0';
    EXPECT_NE(opens(zero).find("n_windows"), std::string::npos);
}

TEST(RowExp, IsCloseToExpEverywhere) {
    std::vector<float> x, y(4001);
    for (int i = 0; i <= 4000; ++i) x.push_back(-100.0f * static_cast<float>(i) / 4000);
    const double sum = row_exp(x.data(), 4001, 0.0f, y.data());
    double expected_sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        const double expected = std::exp(static_cast<double>(x[i]));
        expected_sum += expected;
        if (x[i] < -87) EXPECT_EQ(y[i], 0.0f);
        else EXPECT_NEAR(y[i] / expected, 1.0, 3e-7) << x[i];
    }
    EXPECT_NEAR(sum / expected_sum, 1.0, 1e-7);
    EXPECT_EQ(y[0], 1.0f);
}

}  // namespace
}  // namespace skiff
