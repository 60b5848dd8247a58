// RoundingCorrections lower what they are for: rows' scales and gains the error of the outputs, biases its mean.
#include "compress/quantize/corrections.h"

#include <gtest/gtest.h>

#include <cmath>

#include "compress/method.h"
#include "compress/small_models_testing.h"

namespace skiff {
namespace {

using skiff::testing::output_loss, skiff::testing::random_text;

const std::string models = std::string(SKIFF_TEST_DATA_DIR) + "/models/";

TEST(Corrections, AreParsed) {
    EXPECT_EQ(*parse_corrections({}), RoundingCorrections());
    EXPECT_EQ(*parse_corrections({"bias,norm"}), (RoundingCorrections{true, true}));
    EXPECT_EQ(*parse_corrections({"norm"}), (RoundingCorrections{false, true}));
    EXPECT_FALSE(parse_corrections({"gain"}).ok());
    EXPECT_FALSE(parse_corrections({""}).ok());
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

TEST_P(CorrectedBlock, RowsLoseNoMore) {
    for (const SchemePreset& preset : scheme_presets()) {
        if (!preset.scheme.is_coded()) continue;
        SCOPED_TRACE(preset.name);
        bool lower = false;
        for (const auto& [key, inputs] : inputs_) {
            const Weight original = *model_.weights->load(key);
            if (original.n_columns() != static_cast<std::int64_t>(inputs->mean.size())) continue;
            const Weight codes = *encode_nearest(original, preset.scheme, ScaleRule::min_max), corrected = with_corrected_rows(original, codes, *inputs, pool_);
            EXPECT_EQ(corrected.codes()->scheme, codes.codes()->scheme);
            const double before = output_loss(original, codes, *inputs).lost, after = output_loss(original, corrected, *inputs).lost;
            EXPECT_LE(after, before * (1 + 1e-6)) << key;
            lower = lower || after < 0.999 * before;
        }
        const bool fixed = preset.scheme.kind == NumberKind::clusters || preset.scheme.scale_dtype == DType::f8_e8m0 || preset.scheme.bits >= 8;
        EXPECT_TRUE(lower || fixed);
    }
}

TEST_P(CorrectedBlock, GainsAndBiasesLowerTheErrorAndItsMean) {
    auto widened = with_new_biases(model_);
    ASSERT_TRUE(widened.ok()) << widened.error().to_string();
    const Checkpoint& model = *widened ? **widened : model_;
    const bool can_be_widened = model_.spec.architecture == "llama";
    EXPECT_EQ(widened->has_value(), can_be_widened);
    for (const RoundingCorrections& wanted : {RoundingCorrections{true, false}, RoundingCorrections{false, true}, RoundingCorrections{true, true}}) {
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
