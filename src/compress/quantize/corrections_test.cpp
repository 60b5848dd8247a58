// RoundingCorrections lower what they are for: rows' scales and gains the error of the outputs, biases its mean.
#include "compress/quantize/corrections.h"

#include <gtest/gtest.h>

#include <cmath>

#include "compress/method.h"
#include "compress/prune/prune_method.h"
#include "compress/quantize/row_sizes.h"
#include "compress/small_models_testing.h"

namespace skiff {
namespace {

using skiff::testing::output_loss, skiff::testing::random_text;

const std::string models = std::string(SKIFF_TEST_DATA_DIR) + "/models/";

TEST(Corrections, AreParsed) {
    EXPECT_EQ(*parse_corrections({}), RoundingCorrections());
    EXPECT_EQ(*parse_corrections({"none"}), RoundingCorrections());
    EXPECT_EQ(*parse_corrections({"bias,scale"}), (RoundingCorrections{.scale = true, .bias = true}));
    EXPECT_EQ(*parse_corrections({"norm"}), (RoundingCorrections{.norm = true}));
    EXPECT_EQ(*parse_corrections({"bias", "norm"}), (RoundingCorrections{.norm = true, .bias = true}));
    for (const char* names : {"scale", "norm", "bias", "scale,norm,bias", "norm,bias"}) EXPECT_EQ(parse_corrections({names})->names(), names);
    EXPECT_EQ(RoundingCorrections().names(), "");
    for (const char* names : {"gain", "", "none,bias", "scale,", "scale,none"}) EXPECT_FALSE(parse_corrections({names}).ok()) << names;
    EXPECT_FALSE(parse_corrections({"none", "bias"}).ok());
}

// Statistics of a block of the model whose first columns are mostly positive.
class CorrectedBlock : public ::testing::TestWithParam<const char*> {
protected:
    void SetUp() override {
        if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
        model_ = *Checkpoint::open(models + GetParam());
        text_ = random_text(model_.spec.n_vocab);
        for (int i = 0; i < 3; ++i) text_.samples.insert(text_.samples.end(), text_.samples.begin(), text_.samples.begin() + 3);
        CalibrationWalk walk(model_.spec, text_, 2);
        ASSERT_TRUE(walk.embed(*model_.weights).ok());
        inputs_ = *walk.observe(1, *model_.weights, StatisticsNeed::gram);
    }
    Weight rows_of(const TensorRef& ref, const WeightSource& weights) const {
        const Weight stored = *weights.load(ref.key);
        return ref.transposed ? transposed(stored) : stored;
    }
    Checkpoint model_;
    CalibrationText text_;
    BlockInputs inputs_;
    ThreadPool pool_{2};
};

// E[y y'] and E[y^2] of each row of y = W x, y' = Q x. // pairs of doubles, (n_rows)
std::vector<std::pair<double, double>> row_sizes(const Weight& original, const Weight& codes, const InputStatistics& inputs) {
    const std::size_t n = inputs.mean.size();
    std::vector<float> w(n), q(n);
    std::vector<std::pair<double, double>> sizes;
    for (std::int64_t row = 0; row < original.n_rows(); ++row) {
        original.row(row, w.data());
        codes.row(row, q.data());
        double both = 0, own = 0;
        for (std::size_t i = 0; i < n; ++i)
            for (std::size_t j = 0; j < n; ++j) {
                const double moment = static_cast<double>(inputs.gram[i * n + j]) * static_cast<double>(w[i]);
                both += moment * static_cast<double>(q[j]);
                own += moment * static_cast<double>(w[j]);
            }
        sizes.emplace_back(both, own);
    }
    return sizes;
}

TEST_P(CorrectedBlock, RowsKeepTheirSize) {
    for (const SchemePreset& preset : scheme_presets()) {
        const Scheme& scheme = preset.scheme;
        if (!scheme.is_coded()) continue;
        SCOPED_TRACE(preset.name);
        const bool fixed = scheme.kind == NumberKind::clusters || scheme.scale_dtype == DType::f8_e8m0;
        double lost = 0, lost_then = 0;
        for (const auto& [key, inputs] : inputs_) {
            const Weight original = *model_.weights->load(key);
            if (original.n_columns() != static_cast<std::int64_t>(inputs->mean.size())) continue;
            const Weight codes = *encode_nearest(original, scheme, ScaleRule::search), kept = with_row_sizes_kept(original, codes, *inputs, pool_);
            EXPECT_EQ(kept.codes()->scheme, codes.codes()->scheme);
            EXPECT_TRUE(std::ranges::equal(kept.codes()->packed.data, codes.codes()->packed.data)) << "no bit of the codes changes";
            const auto before = row_sizes(original, codes, *inputs), after = row_sizes(original, kept, *inputs);
            for (std::size_t row = 0; row < before.size(); ++row) {
                const double off = std::fabs(before[row].first / before[row].second - 1), off_then = std::fabs(after[row].first / after[row].second - 1);
                EXPECT_LE(off_then, off * (1 + 1e-6) + 1e-6) << key << " " << row;
                lost += off, lost_then += off_then;
                // Where the factor is within its bounds, a scale's own rounding is all that is left.
                const bool in_bounds = !fixed && before[row].first / before[row].second > 0.51 && before[row].first / before[row].second < 1.9;
                if (in_bounds) {
                    EXPECT_LT(off_then, 0.005) << key << " " << row;
                }
            }
        }
        EXPECT_LE(lost_then, lost);
        if (fixed) {
            EXPECT_EQ(lost_then, lost);
        } else if (scheme.bits <= 4) {
            EXPECT_LT(lost_then, 0.2 * lost);
        }
    }
}

TEST_P(CorrectedBlock, RowsOfPrunedFloatsKeepTheirSize) {
    const PruneTarget target = *parse_prune_target("50%");
    for (const auto& [key, inputs] : inputs_) {
        const Weight original = *model_.weights->load(key);
        if (original.n_columns() != static_cast<std::int64_t>(inputs->mean.size())) continue;
        auto pruned = (*find_prune_method("magnitude"))->prune({original, target, pool_, nullptr, 0.01, nullptr, {}});
        ASSERT_TRUE(pruned.ok()) << pruned.error().to_string();
        const Weight rows = *make_sparse(pruned->weight, target.pattern, pruned->bitmask), kept = with_row_sizes_kept(original, rows, *inputs, pool_);
        ASSERT_TRUE(kept.sparse() != nullptr);
        EXPECT_TRUE(std::ranges::equal(kept.sparse()->bitmask.data, rows.sparse()->bitmask.data));
        for (const auto& [both, own] : row_sizes(original, densified(kept), *inputs)) EXPECT_NEAR(both / own, 1, 0.01) << key;
    }
}

// About their mean, as of inputs from which it was taken.
TEST_P(CorrectedBlock, SizesAboutTheMean) {
    float moved = 0;  // by the mean, the most of any weight
    for (const auto& [key, inputs] : inputs_) {
        const Weight original = *model_.weights->load(key);
        const auto n = inputs->mean.size();
        if (original.n_columns() != static_cast<std::int64_t>(n)) continue;
        InputStatistics centred = *inputs;
        for (std::size_t i = 0; i < n * n; ++i) centred.gram[i] -= inputs->mean[i / n] * inputs->mean[i % n];
        const Weight codes = *encode_nearest(original, *parse_scheme("w2g32"), ScaleRule::search);
        const auto expected = row_floats(with_row_sizes_kept(original, codes, centred, pool_)), kept = row_floats(with_row_sizes_kept(original, codes, *inputs, pool_, SizeAbout::mean));
        const auto about_zero = row_floats(with_row_sizes_kept(original, codes, *inputs, pool_));
        for (std::size_t i = 0; i < kept.size(); ++i) {
            EXPECT_NEAR(kept[i], expected[i], 2e-3f * std::fabs(expected[i])) << key;
            moved = std::max(moved, std::fabs(kept[i] - about_zero[i]) / std::max(1e-6f, std::fabs(about_zero[i])));
        }
    }
    EXPECT_GT(moved, 0.005f);
}

// More rows than are looked at together: each has the factor that it has alone.
TEST(RowSizes, OfManyRows) {
    if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    constexpr std::int64_t n = 2048, n_rows = 1100, tail = 60;
    Rng rng(3);
    std::vector<float> values(n_rows * n);
    for (float& value : values) value = rng.normal();
    InputStatistics inputs;
    inputs.n_tokens = 64;
    inputs.mean.assign(n, 0);
    inputs.gram.assign(n * n, 0);
    for (std::size_t i = 0; i < n; ++i) inputs.gram[i * n + i] = 1 + static_cast<float>(i % 7);
    ThreadPool pool(2);
    const auto kept = [&](std::vector<float> rows, std::int64_t n_kept) {
        const Weight original = make_float_weight({n_kept, n}, std::move(rows)), codes = *encode_nearest(original, *parse_scheme("w2g32"), ScaleRule::search);
        return row_floats(with_row_sizes_kept(original, codes, inputs, pool));
    };
    const auto all = kept(values, n_rows), last = kept({values.end() - tail * n, values.end()}, tail);
    for (std::size_t i = 0; i < last.size(); ++i) ASSERT_NEAR(last[i], all[all.size() - last.size() + i], 1e-3f * std::fabs(last[i])) << i;
}

// Rows that say nothing, and a factor that would be without bounds.
TEST(RowSizes, OfNothingAndOfTheOpposite) {
    constexpr std::int64_t n = 32;
    std::vector<float> values(3 * n), others(3 * n);
    for (std::size_t i = 0; i < n; ++i) {
        values[n + i] = static_cast<float>(i) - 16;             // a row of zeros, one that is well coded, and one whose codes are of another row
        others[n + i] = values[n + i];
        values[2 * n + i] = i < 16 ? 1.0f : 0.01f;
        others[2 * n + i] = i < 16 ? 0.01f : 1.0f;
    }
    InputStatistics inputs;
    inputs.n_tokens = 64;
    inputs.mean.assign(n, 0);
    inputs.mean_square.assign(n, 1);
    inputs.gram.assign(n * n, 0);
    for (std::size_t i = 0; i < n; ++i) inputs.gram[i * n + i] = 1;
    ThreadPool pool(1);
    const Weight original = make_float_weight({3, n}, values), codes = *encode_nearest(make_float_weight({3, n}, others), *parse_scheme("w4g32"), ScaleRule::min_max);
    const Weight kept = with_row_sizes_kept(original, codes, inputs, pool);
    std::vector<float> before(n), after(n);
    for (std::int64_t row = 0; row < 3; ++row) {
        codes.row(row, before.data());
        kept.row(row, after.data());
        for (std::size_t i = 0; i < n; ++i) {
            ASSERT_TRUE(std::isfinite(after[i]));
            const float factor = row == 2 ? 2.0f : 1.0f;  // no more than twice
            EXPECT_NEAR(after[i], factor * before[i], (row == 0 ? 0.0f : 0.02f) * std::fabs(before[i])) << row;
        }
    }
}

TEST_P(CorrectedBlock, GainsAndBiasesLowerTheErrorAndItsMean) {
    auto widened = with_new_biases(model_);
    ASSERT_TRUE(widened.ok()) << widened.error().to_string();
    const Checkpoint& model = *widened ? **widened : model_;
    const bool can_be_widened = model_.spec.architecture == "llama";
    EXPECT_EQ(widened->has_value(), can_be_widened);
    for (const RoundingCorrections& wanted : {RoundingCorrections{.bias = true}, RoundingCorrections{.norm = true}, RoundingCorrections{.norm = true, .bias = true}}) {
        BlockCorrections corrections(model.spec, wanted);
        corrections.begin_block(1);
        EditedWeights rounded(model.weights);
        std::map<std::string, Weight> originals, results;
        for (const Op& op : model.spec.blocks[1].ops) {
            const auto* linear = std::get_if<LinearOp>(&op.detail);
            if (linear == nullptr) continue;
            const TensorRef& ref = linear->terms[0].weight;
            originals[ref.key] = rows_of(ref, *model.weights);
            results[ref.key] = *encode_nearest(originals[ref.key], *parse_scheme("w2g32r"), ScaleRule::search);
            corrections.note(ref.key, originals[ref.key], results[ref.key], inputs_.at(ref.key).get());
        }
        ASSERT_TRUE(corrections.settle(rounded, pool_).ok());
        const auto value = [&](const TensorRef& ref) {
            const Weight* corrected = corrections.value(ref.key);
            const Weight weight = corrected != nullptr ? *corrected : *model.weights->load(ref.key);
            std::vector<float> values(static_cast<std::size_t>(element_count(weight.shape)));
            for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data() + row * weight.n_columns());
            return values;
        };
        const auto old_value = [&](const TensorRef& ref) {
            const Weight weight = *model.weights->load(ref.key);
            std::vector<float> values(static_cast<std::size_t>(element_count(weight.shape)));
            for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data() + row * weight.n_columns());
            return values;
        };
        std::map<ValueId, std::vector<double>> gains;
        double lost_before = 0, lost_after = 0;
        for (const InputCoupling& coupling : find_couplings(model.spec, 1)) {
            if (coupling.norm == nullptr) continue;
            const auto before = old_value(coupling.norm->weight), after = value(coupling.norm->weight);
            for (std::size_t i = 0; i < before.size(); ++i) gains[coupling.value].push_back((static_cast<double>(after[i]) + static_cast<double>(coupling.norm->weight_offset)) / (static_cast<double>(before[i]) + static_cast<double>(coupling.norm->weight_offset)));
            EXPECT_EQ(before != after, wanted.norm);
            for (const TensorRef& reader : coupling.readers) {
                const Weight& codes = results.at(reader.key);
                std::vector<float> moved(static_cast<std::size_t>(element_count(codes.shape)));
                for (std::int64_t row = 0; row < codes.n_rows(); ++row) {
                    codes.row(row, moved.data() + row * codes.n_columns());
                    for (std::int64_t i = 0; i < codes.n_columns(); ++i) moved[static_cast<std::size_t>(row * codes.n_columns() + i)] *= static_cast<float>(gains[coupling.value][static_cast<std::size_t>(i)]);
                }
                const InputStatistics inputs = corrections.judged_by(reader.key, *inputs_.at(reader.key));
                lost_before += output_loss(originals.at(reader.key), codes, inputs).lost;
                lost_after += output_loss(originals.at(reader.key), make_float_weight(codes.shape, moved), inputs).lost;
            }
        }
        if (wanted.norm) {
            EXPECT_LT(lost_after, lost_before * 0.999);
        }
        if (!wanted.bias) continue;
        int n_corrected = 0;
        for (const Op& op : model.spec.blocks[1].ops) {
            const auto* linear = std::get_if<LinearOp>(&op.detail);
            if (linear == nullptr || linear->bias.empty()) continue;
            ++n_corrected;
            const TensorRef& ref = linear->terms[0].weight;
            const auto before = old_value(linear->bias), after = value(linear->bias);
            const InputStatistics& inputs = *inputs_.at(ref.key);
            std::vector<float> w(inputs.mean.size()), q(w);
            const auto own = gains.find(op.in[0]);
            for (std::int64_t row = 0; row < originals.at(ref.key).n_rows(); ++row) {
                originals.at(ref.key).row(row, w.data());
                results.at(ref.key).row(row, q.data());
                double mean = 0, size = 1e-6;
                for (std::size_t i = 0; i < w.size(); ++i) {
                    const double term = (static_cast<double>(w[i]) - static_cast<double>(q[i]) * (own != gains.end() ? own->second[i] : 1)) * static_cast<double>(inputs.mean[i]);
                    mean += term;
                    size += std::fabs(term);
                }
                EXPECT_NEAR(static_cast<double>(after[static_cast<std::size_t>(row)]) - static_cast<double>(before[static_cast<std::size_t>(row)]), mean, 1e-3 * size) << ref.key << " " << row;
            }
        }
        EXPECT_GT(n_corrected, 0);
    }
}

INSTANTIATE_TEST_SUITE_P(Models, CorrectedBlock, ::testing::Values("llama", "qwen2", "gpt2"));

}  // namespace
}  // namespace skiff
