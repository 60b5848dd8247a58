// Methods on inputs that go together, as those of a language model do: who loses less of a linear operator's output, bits that do not depend on threads,
// and what becomes of bad input. GPTQ's codes are compared with those of its paper's own algorithm.
#include <gtest/gtest.h>

#include <cmath>

#include "base/json.h"
#include "base/rng.h"
#include "compress/algebra/algebra.h"
#include "compress/method.h"
#include "compress/quantize/refine.h"
#include "compress/survey.h"
#include "compress/small_models_testing.h"

namespace skiff {
namespace {

double output_error(const Weight& original, const Weight& result, const InputStatistics& inputs) {
    const auto loss = testing::output_loss(original, result, inputs);
    return loss.lost / loss.all;
}

// Inputs that are mixtures of a few common causes and noise, with columns of very different size.
InputStatistics correlated_inputs(std::int64_t n, std::int64_t n_tokens, std::uint64_t seed) {
    Rng rng(seed);
    const std::int64_t n_causes = std::max<std::int64_t>(1, n / 8);
    std::vector<float> mix(static_cast<std::size_t>(n_causes * n)), size(static_cast<std::size_t>(n)), x(static_cast<std::size_t>(n));
    for (float& m : mix) m = rng.normal();
    for (float& s : size) s = std::exp(rng.normal());
    InputStatistics inputs;
    inputs.n_tokens = n_tokens;
    const auto zeros = std::vector<float>(static_cast<std::size_t>(n));
    inputs.mean = inputs.mean_absolute = inputs.mean_square = inputs.largest = zeros;
    std::vector<double> gram(static_cast<std::size_t>(n * n));
    for (std::int64_t t = 0; t < n_tokens; ++t) {
        for (std::int64_t i = 0; i < n; ++i) x[static_cast<std::size_t>(i)] = rng.normal();
        for (std::int64_t c = 0; c < n_causes; ++c) {
            const float cause = rng.normal();
            for (std::int64_t i = 0; i < n; ++i) x[static_cast<std::size_t>(i)] += cause * mix[static_cast<std::size_t>(c * n + i)] / 3;
        }
        for (std::int64_t i = 0; i < n; ++i) x[static_cast<std::size_t>(i)] *= size[static_cast<std::size_t>(i)];
        for (std::size_t i = 0; i < x.size(); ++i) {
            inputs.mean[i] += x[i] / static_cast<float>(n_tokens);
            inputs.mean_absolute[i] += std::fabs(x[i]) / static_cast<float>(n_tokens);
            inputs.largest[i] = std::max(inputs.largest[i], std::fabs(x[i]));
            for (std::size_t j = 0; j < x.size(); ++j) gram[i * x.size() + j] += static_cast<double>(x[i]) * static_cast<double>(x[j]) / static_cast<double>(n_tokens);
        }
    }
    inputs.gram.assign(gram.begin(), gram.end());
    for (std::size_t i = 0; i < x.size(); ++i) inputs.mean_square[i] = inputs.gram[i * x.size() + i];
    return inputs;
}

Weight random_weight(std::int64_t n_rows, std::int64_t n_columns, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<float> values(static_cast<std::size_t>(n_rows * n_columns));
    for (float& value : values) value = 0.05f * rng.normal();
    return make_float_weight({n_rows, n_columns}, std::move(values));
}

bool same_bits(const Weight& a, const Weight& b) {
    const auto same = [](std::span<const std::byte> x, std::span<const std::byte> y) { return std::equal(x.begin(), x.end(), y.begin(), y.end()); };
    const Codes &p = *a.codes(), &q = *b.codes();
    return same(p.packed.data, q.packed.data) && same(p.scales.data, q.scales.data) && same(p.zeros.data, q.zeros.data) && same(p.super_scales.data, q.super_scales.data);
}

class Methods : public ::testing::Test {
protected:
    void SetUp() override {
        if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    }
    Result<Weight> run(std::string_view method, const Weight& weight, const Scheme& scheme, const InputStatistics* inputs, const MethodOptions& options = default_method_options) {
        remarks_.clear();
        return (*find_weight_method(method))->encode({weight, scheme, ScaleRule::search, pool_, inputs, options, &remarks_});
    }
    ThreadPool pool_{3};
    std::vector<std::string> remarks_;
};

TEST_F(Methods, LoseLessTheMoreTheyKnow) {
    const InputStatistics inputs = correlated_inputs(172, 900, 1);  // a short last group
    const Weight weight = random_weight(66, 172, 2);                // more than one tile of rows
    MethodOptions plain, quick;
    plain.refine_passes = 0;
    quick.n_iterations = 40;
    for (const SchemePreset& preset : scheme_presets()) {
        if (!preset.scheme.is_coded() || !codes_defined_on(preset.scheme).ok()) continue;
        SCOPED_TRACE(preset.name);
        auto error = [&](std::string_view method, const MethodOptions& options = default_method_options) {
            auto result = run(method, weight, preset.scheme, &inputs, options);
            EXPECT_TRUE(result.ok() && remarks_.empty());
            return output_error(weight, *result, inputs);
        };
        const double nearest = error("nearest"), weighted = error("weighted"), gptq = error("gptq", plain), refined = error("gptq"), autoround = error("autoround", quick);
        EXPECT_LT(weighted, nearest);
        EXPECT_LT(gptq, 0.9 * weighted);
        EXPECT_LT(refined, gptq);
        EXPECT_LT(autoround, weighted);
    }
}

TEST_F(Methods, VectorsLoseLessTheMoreTheyKnow) {
    const InputStatistics inputs = correlated_inputs(172, 900, 1);
    const Weight weight = random_weight(130, 172, 2);
    MethodOptions plain;
    plain.refine_passes = 0;
    int n_tried = 0;
    std::vector<Scheme> schemes;
    for (const SchemePreset& preset : scheme_presets())
        if (preset.scheme.kind == NumberKind::vectors) schemes.push_back(preset.scheme);
    for (const char* name : {"v4k16x2g32r", "v4k64g32", "v8k16g16ts64"}) schemes.push_back(*parse_scheme(name));
    for (const Scheme& scheme : schemes) {
        SCOPED_TRACE(scheme.name());
        ++n_tried;
        auto error = [&](std::string_view method, const MethodOptions& options = default_method_options) {
            auto result = run(method, weight, scheme, &inputs, options);
            EXPECT_TRUE(result.ok() && remarks_.empty());
            return output_error(weight, *result, inputs);
        };
        const double nearest = error("nearest"), kmeans = error("kmeans"), gptq = error("gptq", plain), refined = error("gptq");
        EXPECT_LT(kmeans, nearest);
        EXPECT_LT(gptq, 0.9 * kmeans);
        EXPECT_LT(refined, 0.95 * gptq);
    }
    EXPECT_GE(n_tried, 9);
    for (const char* method : {"weighted", "hqq", "autoround"}) EXPECT_FALSE((*find_weight_method(method))->defined_on(schemes[0]).ok()) << method;
}

TEST_F(Methods, VectorsDoNotDependOnThreadsAndTakeBadInput) {
    InputStatistics inputs = correlated_inputs(171, 300, 3);
    const Weight weight = random_weight(200, 171, 4);
    ThreadPool one(1);
    for (const WeightMethod& method : weight_methods())
        for (const char* name : {"v2k16", "v4k256g16t", "v8k16x2"}) {
            const Scheme scheme = *parse_scheme(name);
            if (!method.defined_on(scheme).ok()) continue;
            SCOPED_TRACE(std::string(method.name) + " " + name);
            auto a = method.encode({weight, scheme, ScaleRule::search, one, &inputs}), b = method.encode({weight, scheme, ScaleRule::search, pool_, &inputs});
            ASSERT_TRUE(a.ok() && b.ok());
            EXPECT_EQ(a->codes()->scheme, scheme);
            EXPECT_TRUE(same_bits(*a, *b));
            EXPECT_TRUE(std::equal(a->codes()->books.data.begin(), a->codes()->books.data.end(), b->codes()->books.data.begin()));
            std::vector<float> values(static_cast<std::size_t>(150 * 171), 0.5f);
            values[131 * 171 + 31] = NAN;
            auto refused = run(method.name, make_float_weight({150, 171}, values), scheme, &inputs);
            ASSERT_FALSE(refused.ok());
            EXPECT_NE(refused.error().message.find("row 131, column 31"), std::string::npos) << refused.error().message;
        }
    for (std::size_t i : {3, 40, 41, 95}) {  // dead channels
        inputs.mean_square[i] = 0;
        for (std::size_t j = 0; j < 171; ++j) inputs.gram[i * 171 + j] = inputs.gram[j * 171 + i] = 0;
    }
    auto result = run("gptq", weight, *parse_scheme("v4k256"), &inputs);
    ASSERT_TRUE(result.ok());
    EXPECT_LT(relative_squared_error(weight, *result, pool_), 0.3);
    InputStatistics three = correlated_inputs(171, 3, 16);
    auto few = run("gptq", weight, *parse_scheme("v4k256"), &three), nearest = run("nearest", weight, *parse_scheme("v4k256"), nullptr);
    ASSERT_TRUE(few.ok() && nearest.ok());
    EXPECT_TRUE(same_bits(*few, *nearest));
}

// What other groups' errors leave to a group of zeros is too little for a scale in F16 where others have 8 bits.
TEST_F(Methods, GroupsOfZerosStayZero) {
    const InputStatistics inputs = correlated_inputs(160, 600, 21);
    std::vector<float> values;
    ASSERT_TRUE(to_floats(*random_weight(70, 160, 22).plain(), values));
    for (std::size_t row = 0; row < 70; ++row)
        for (std::size_t column = 64; column < 96; ++column) values[row * 160 + column] = 0;
    const Weight weight = make_float_weight({70, 160}, values);
    for (const char* name : {"w8g32", "w6g32", "w8g32a", "w4g32", "e4m3", "n4g32"}) {
        const Scheme scheme = *parse_scheme(name);
        for (const auto order : {MethodOptions::Order::as_stored, MethodOptions::Order::by_groups, MethodOptions::Order::by_inputs}) {
            SCOPED_TRACE(name);
            MethodOptions options;
            options.order = order;
            for (std::string_view method : {"gptq", "autoround"}) {
                options.n_iterations = 20;
                auto result = run(method, weight, scheme, &inputs, options), weighted = run("weighted", weight, scheme, &inputs);
                ASSERT_TRUE(result.ok()) << result.error().to_string();
                EXPECT_EQ(result->codes()->scheme, scheme);
                EXPECT_LT(output_error(weight, *result, inputs), output_error(weight, *weighted, inputs) * 1.0001);
            }
        }
    }
}

// The survey saw other weights: the method says so, and the tensor has its scales in F32.
TEST_F(Methods, ScalesThatF16DoesNotHoldAreF32) {
    const InputStatistics inputs = correlated_inputs(96, 600, 23);
    std::vector<float> values;
    ASSERT_TRUE(to_floats(*random_weight(20, 96, 24).plain(), values));
    for (std::size_t column = 0; column < 96; ++column) values[5 * 96 + column] *= 1e-4f;
    const Weight weight = make_float_weight({20, 96}, values);
    MethodOptions options;
    options.n_iterations = 10;
    for (const WeightMethod& method : weight_methods())
        for (const char* name : {"w8", "w8g32", "w4g32", "k16", "bf16"}) {
            const Scheme scheme = *parse_scheme(name);
            if (!method.defined_on(scheme).ok()) continue;
            SCOPED_TRACE(std::string(method.name) + " " + name);
            std::vector<std::string> said;
            auto result = encode_by(method, {weight, scheme, ScaleRule::search, pool_, &inputs, options, &said});
            ASSERT_TRUE(result.ok()) << result.error().to_string();
            EXPECT_TRUE(said.empty());
            if (result->codes() == nullptr) continue;
            const bool wide = result->codes()->scheme.scale_dtype == DType::f32;
            EXPECT_EQ(wide, name[0] == 'w' || name[0] == 'k');
            std::vector<float> row(96);
            result->row(5, row.data());
            double error = 0, square = 0;
            for (std::size_t i = 0; i < 96; ++i) {
                error += std::pow(static_cast<double>(row[i] - values[5 * 96 + i]), 2);
                square += std::pow(static_cast<double>(values[5 * 96 + i]), 2);
            }
            EXPECT_LT(error, 0.05 * square);
        }
}

TEST_F(Methods, BitsDoNotDependOnThreads) {
    const InputStatistics inputs = correlated_inputs(160, 300, 3);
    const Weight weight = random_weight(200, 160, 4);
    ThreadPool one(1);
    MethodOptions options;
    options.n_iterations = 10;
    for (const WeightMethod& method : weight_methods())
        for (const char* name : {"w3g32r", "w4g32a", "n4g32r", "ternary"}) {
            const Scheme scheme = *parse_scheme(name);
            auto a = method.encode({weight, scheme, ScaleRule::search, one, &inputs, options}), b = method.encode({weight, scheme, ScaleRule::search, pool_, &inputs, options});
            ASSERT_TRUE(a.ok() && b.ok());
            EXPECT_EQ(a->codes()->scheme, scheme);
            EXPECT_TRUE(same_bits(*a, *b)) << method.name << " " << name;
        }
}

TEST_F(Methods, GptqIsThePapersAlgorithm) {
    const auto document = read_json_file(std::string(SKIFF_TEST_DATA_DIR) + "/compress/gptq.json");
    ASSERT_TRUE(document.ok());
    const Json& golden = *document;
    const std::int64_t n_rows = golden["rows"].int_or(0), n = golden["columns"].int_or(0), n_tokens = golden["tokens"].int_or(1);
    std::vector<float> values;
    for (const Json& w : golden["weights_1024"].items()) values.push_back(static_cast<float>(w.int_or(0)) / 1024);
    InputStatistics inputs;
    inputs.n_tokens = n_tokens;
    for (const Json& sum : golden["sums"].items()) inputs.gram.push_back(static_cast<float>(sum.number_or(0) / static_cast<double>(n_tokens)));
    for (std::int64_t i = 0; i < n; ++i) inputs.mean_square.push_back(inputs.gram[static_cast<std::size_t>(i * n + i)]);
    const Weight weight = make_float_weight({n_rows, n}, values);
    ASSERT_GT(golden["cases"].size(), 3u);
    for (const Json& test : golden["cases"].items()) {
        SCOPED_TRACE(test["name"].text());
        Scheme scheme = *parse_scheme("w4g32");
        scheme.bits = static_cast<int>(test["bits"].int_or(0));
        scheme.group_size = test["group"].int_or(0);
        MethodOptions options;
        options.refine_passes = 0;
        options.damping = golden["damping"].number_or(0);
        const std::string& order = test["order"].text();
        options.order = order == "by_groups" ? MethodOptions::Order::by_groups : order == "by_inputs" ? MethodOptions::Order::by_inputs : MethodOptions::Order::as_stored;
        auto result = (*find_weight_method("gptq"))->encode({weight, scheme, ScaleRule::min_max, pool_, &inputs, options});
        ASSERT_TRUE(result.ok());
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(n));
        const std::int64_t row_bytes = packed_row_bytes(scheme.bits, n);
        for (std::int64_t row = 0; row < n_rows; ++row) {
            unpack_codes(result->codes()->packed.data.data() + row * row_bytes, scheme.bits, n, codes.data());
            for (std::int64_t i = 0; i < n; ++i) EXPECT_EQ(codes[static_cast<std::size_t>(i)], test["codes"].items()[static_cast<std::size_t>(row * n + i)].int_or(-1)) << row << " " << i;
        }
    }
}

TEST_F(Methods, RefiningNeverLosesMore) {
    const std::int64_t n = 200, n_rows = 20;
    const InputStatistics inputs = correlated_inputs(n, 400, 5);
    const SecondMoments moments = second_moments(inputs, 0.01);
    for (const SchemePreset& preset : scheme_presets()) {
        if (!preset.scheme.is_coded() || !codes_defined_on(preset.scheme).ok()) continue;
        SCOPED_TRACE(preset.name);
        const auto grid = make_grid(preset.scheme, ScaleRule::search);
        RowTile tile;
        tile.n_rows = n_rows;
        tile.n_columns = n;
        tile.values.resize(static_cast<std::size_t>(n_rows * n));
        tile.choices.resize(static_cast<std::size_t>(n_rows));
        const Weight weight = random_weight(n_rows, n, 6);
        for (std::int64_t row = 0; row < n_rows; ++row) {
            weight.row(row, tile.row(row).data());
            RowChoice& choice = tile.choices[static_cast<std::size_t>(row)];
            fit_row(*grid, preset.scheme, tile.row(row), {}, choice.params);
            round_row(*grid, preset.scheme, tile.row(row), choice);
        }
        auto before = output_losses(*grid, preset.scheme, moments, tile);
        for (int pass = 0; pass < 3; ++pass) {
            refine({*grid, preset.scheme, moments, 1}, tile);
            const auto after = output_losses(*grid, preset.scheme, moments, tile);
            for (std::size_t row = 0; row < after.size(); ++row) EXPECT_LE(after[row], before[row] * (1 + 1e-5));
            before = after;
        }
    }
}

// ---- bad input

TEST_F(Methods, RefuseWhatIsNotFinite) {
    InputStatistics inputs = correlated_inputs(64, 200, 7);
    const Scheme scheme = *parse_scheme("w4g32");
    for (const WeightMethod& method : weight_methods())
        for (float bad : {std::nanf(""), INFINITY}) {
            std::vector<float> values(static_cast<std::size_t>(150 * 64), 0.5f);
            values[131 * 64 + 31] = values[149 * 64 + 3] = bad;
            auto result = run(method.name, make_float_weight({150, 64}, values), scheme, &inputs);
            ASSERT_FALSE(result.ok()) << method.name;
            EXPECT_NE(result.error().message.find("row 131, column 31"), std::string::npos) << result.error().message;
            if (method.needs == StatisticsNeed::none) continue;
            InputStatistics spoilt = inputs;
            spoilt.mean_square[5] = bad;
            auto refused = run(method.name, random_weight(4, 64, 8), scheme, &spoilt);
            ASSERT_FALSE(refused.ok()) << method.name;
            EXPECT_NE(refused.error().message.find("not finite on the calibration text"), std::string::npos);
        }
}

TEST_F(Methods, DeadChannelsAreRoundedAndHurtNobody) {
    InputStatistics inputs = correlated_inputs(96, 300, 9);
    for (std::size_t i : {3, 40, 41, 95}) {
        inputs.mean_square[i] = 0;
        for (std::size_t j = 0; j < 96; ++j) inputs.gram[i * 96 + j] = inputs.gram[j * 96 + i] = 0;
    }
    const Weight weight = random_weight(12, 96, 10);
    for (const WeightMethod& method : weight_methods())
        for (const char* name : {"w4g32", "n3g32r", "w4g32a"}) {
            auto result = run(method.name, weight, *parse_scheme(name), &inputs);
            ASSERT_TRUE(result.ok());
            EXPECT_TRUE(remarks_.empty());
            std::vector<float> w(96), q(96);
            double lost = 0, all = 0;
            for (std::int64_t row = 0; row < 12; ++row) {
                weight.row(row, w.data());
                result->row(row, q.data());
                for (std::size_t i : {3, 40, 41, 95}) {
                    lost += static_cast<double>((w[i] - q[i]) * (w[i] - q[i]));
                    all += static_cast<double>(w[i] * w[i]);
                }
            }
            EXPECT_LT(lost / all, 0.2) << method.name << " " << name;  // another text may use them
        }
}

TEST_F(Methods, SingularMomentsAreDamped) {
    // As many tokens as may be used, fewer than columns; two columns always equal.
    InputStatistics inputs = correlated_inputs(160, fewest_tokens, 11);
    for (std::size_t j = 0; j < 160; ++j) inputs.gram[1 * 160 + j] = inputs.gram[j];
    for (std::size_t j = 0; j < 160; ++j) inputs.gram[j * 160 + 1] = inputs.gram[j * 160];
    inputs.mean_square[1] = inputs.mean_square[0];
    const Weight weight = random_weight(9, 160, 12);
    auto result = run("gptq", weight, *parse_scheme("w4g32"), &inputs);
    ASSERT_TRUE(result.ok());
    EXPECT_TRUE(remarks_.empty());
    EXPECT_LT(relative_squared_error(weight, *result, pool_), 0.2);

    // Not a matrix of moments: needs more damping, which is said.
    for (float share : {0.03f, 0.3f}) {
        InputStatistics odd = correlated_inputs(96, 300, 13);
        double mean = 0;
        for (float square : odd.mean_square) mean += static_cast<double>(square) / 96;
        for (std::size_t j = 0; j < 96; ++j) odd.gram[7 * 96 + j] = odd.gram[j * 96 + 7] = 0;
        odd.gram[7 * 96 + 7] = -share * static_cast<float>(mean);
        ASSERT_TRUE(run("gptq", random_weight(9, 96, 14), *parse_scheme("w4g32"), &odd).ok());
        ASSERT_EQ(remarks_.size(), 1u);
        EXPECT_NE(remarks_[0].find(share < 0.1f ? "damping 0.1" : "damping 1.0"), std::string::npos) << remarks_[0];
        odd.gram[7 * 96 + 7] = -2 * static_cast<float>(mean);
        const Weight w = random_weight(9, 96, 14);
        auto searched = run("gptq", w, *parse_scheme("w4g32"), &odd), weighted = run("weighted", w, *parse_scheme("w4g32"), &odd);
        ASSERT_TRUE(searched.ok() && weighted.ok());
        EXPECT_TRUE(same_bits(*searched, *weighted));
    }
}

TEST_F(Methods, SayWhenThereIsTooLittleToCalibrateWith) {
    const Weight weight = random_weight(5, 64, 15);
    const Scheme scheme = *parse_scheme("w3g32r");
    auto nearest = run("nearest", weight, scheme, nullptr);
    InputStatistics three = correlated_inputs(64, 3, 16), silent = correlated_inputs(64, 100, 17);
    silent.mean_square.assign(64, 0.0f);
    silent.gram.assign(64 * 64, 0.0f);
    const std::pair<const InputStatistics*, const char*> cases[] = {{nullptr, "nothing was measured"}, {&three, "over 3 tokens"}, {&silent, "all zero"}};
    for (const WeightMethod& method : weight_methods()) {
        if (method.needs == StatisticsNeed::none) continue;
        for (const auto& [inputs, words] : cases) {
            auto result = run(method.name, weight, scheme, inputs);
            ASSERT_TRUE(result.ok()) << method.name;
            EXPECT_TRUE(same_bits(*result, *nearest)) << method.name << " " << words;
            ASSERT_FALSE(remarks_.empty());
            EXPECT_NE(remarks_[0].find(words), std::string::npos) << remarks_[0];
        }
    }
}

}  // namespace
}  // namespace skiff
