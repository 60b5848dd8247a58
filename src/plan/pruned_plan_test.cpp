// Plans of pruned models: the bits of the same model with its zeros written out, whatever the pattern; and a remark where they are written out.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "base/rng.h"
#include "model/arch/arch.h"
#include "model/pruned_on_load.h"
#include "plan/mask_choice.h"
#include "plan/session.h"

namespace skiff {
namespace {

ModelSpec small_spec() {
    return *build_spec(*Json::parse(
        R"({"model_type": "llama", "hidden_size": 96, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 131, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": false})"));
}

class WrittenOut final : public WeightSource {
public:
    explicit WrittenOut(std::shared_ptr<WeightSource> source) : source_(std::move(source)) {}
    bool contains(const std::string& key) const override { return source_->contains(key); }
    std::vector<std::string> keys() const override { return source_->keys(); }
    Result<Weight> load(const std::string& key) const override {
        SKIFF_TRY(auto weight, source_->load(key));
        return weight.sparse() != nullptr ? densified(weight) : weight;
    }

private:
    std::shared_ptr<WeightSource> source_;
};

std::shared_ptr<WeightSource> pruned(const ModelSpec& spec, const char* target, const char* scheme_name) {
    const Scheme scheme = *parse_scheme(scheme_name);
    return pruned_on_load(
        spec, random_weights(spec, DType::bf16, 5), *parse_prune_target(target), [spec, scheme](const std::string& key) { return scheme.is_coded() && spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; }, ScaleRule::min_max);
}

struct Outcome {
    std::vector<float> logits;
    std::vector<std::string> remarks, kernels;
};
Outcome run(const ModelSpec& spec, const WeightSource& weights, std::size_t n_tokens, Isa isa = best_isa()) {
    PlanOptions options;
    options.isa = isa;
    auto plan = lower(spec, weights, options);
    EXPECT_TRUE(plan.ok()) << plan.error().to_string();
    auto session = Session::create(*plan, {.n_threads = 2, .n_context = 64, .max_batch = 64});
    Rng rng(1);
    std::vector<std::int32_t> tokens;
    for (std::size_t i = 0; i < n_tokens; ++i) tokens.push_back(static_cast<std::int32_t>(rng.below(131)));
    EXPECT_TRUE((*session)->forward(0, tokens, BatchItem::Logits::all).ok());
    Outcome result{{(*session)->logits().begin(), (*session)->logits().end()}, (*plan)->remarks, {}};
    for (const auto& weight : (*plan)->weights) result.kernels.emplace_back(weight->layout->name);
    return result;
}

std::string pruned_key(const WeightSource& weights, const ModelSpec& spec) {
    for (const auto& [key, tensor] : spec.tensors) {
        const auto weight = weights.load(key);
        if (weight.ok() && weight->sparse() != nullptr) return key;
    }
    return {};
}

// Whether masks of the model's pruned weights were measured to pay, or not measured.
bool masks_wanted(const WeightSource& weights, const ModelSpec& spec) {
    const MaskMeasurement* row = measured_masks(*weights.load(pruned_key(weights, spec)), best_isa());
    return row == nullptr || masks_pay(*row);
}

TEST(PrunedPlan, TheBitsAreThoseOfTheZerosWrittenOut) {
    const ModelSpec spec = small_spec();
    for (const char* target : {"50%", "2:4", "4x1:50%", "block16x32:50%", "75%"})
        for (const char* scheme : {"w8g32", "w4g32r", "w8"}) {
            const auto sparse = pruned(spec, target, scheme);
            for (std::size_t n_tokens : {1, 3, 40}) {
                SCOPED_TRACE(std::string(target) + " " + scheme + " " + std::to_string(n_tokens));
                const Outcome kept = run(spec, *sparse, n_tokens), dense = run(spec, WrittenOut(sparse), n_tokens);
                ASSERT_EQ(kept.logits.size(), dense.logits.size());
                EXPECT_EQ(std::memcmp(kept.logits.data(), dense.logits.data(), kept.logits.size() * sizeof(float)), 0);
                if (best_isa() == Isa::generic) continue;
                const bool avx512 = isa_includes(best_isa(), Isa::avx512) && best_isa() <= Isa::amx;
                const std::string form = std::string(target) == "block16x32:50%" ? "_skip" : std::string(target) == "2:4" && avx512 ? "_2of4" : "_mask";
                if (form == "_mask" && !masks_wanted(*sparse, spec)) {
                    EXPECT_EQ(kept.remarks.size(), 1u);
                    continue;
                }
                EXPECT_TRUE(kept.remarks.empty()) << kept.remarks[0];
                EXPECT_TRUE(std::any_of(kept.kernels.begin(), kept.kernels.end(), [&](const std::string& layout) { return layout.ends_with(form); }));
            }
        }
}

// Every row of the table is what the plan does, and says.
TEST(PrunedPlan, MasksAreTakenWhereTheyWereMeasuredToPay) {
    const ModelSpec spec = small_spec();
    int n_dense = 0;
    for (const MaskMeasurement& row : mask_measurements()) {
        if (!isa_available(row.isa)) continue;
        const int dropped = row.most_kept < 1 ? static_cast<int>(105 - 100 * row.most_kept) : row.bits == 4 && row.rows == 1 ? 40 : 30;
        const std::string target = (row.rows == 1 ? std::string() : std::to_string(row.rows) + "x1:") + std::to_string(dropped) + "%";
        SCOPED_TRACE(target + " of " + std::to_string(row.bits) + " bits");
        const auto weights = pruned(spec, target.c_str(), row.bits == 4 ? "w4g32r" : "w8g32");
        EXPECT_EQ(measured_masks(*weights->load(pruned_key(*weights, spec)), row.isa), &row);
        const Outcome result = run(spec, *weights, 1, row.isa);
        EXPECT_EQ(std::any_of(result.kernels.begin(), result.kernels.end(), [](const std::string& layout) { return layout.ends_with("_mask"); }), masks_pay(row));
        ASSERT_EQ(result.remarks.size(), masks_pay(row) ? 0u : 1u);
        if (masks_pay(row)) continue;
        ++n_dense;
        char speed[16];
        std::snprintf(speed, sizeof speed, "%.2f", row.speed);
        EXPECT_NE(result.remarks[0].find(std::string("reached ") + speed + " of the dense speed"), std::string::npos) << result.remarks[0];
    }
    if (isa_available(Isa::avx2)) {
        EXPECT_GT(n_dense, 0);
    }
}

// What a lower instruction set reached says nothing about a higher one that was measured.
TEST(PrunedPlan, MasksAreJudgedByTheHighestInstructionSetMeasured) {
    const ModelSpec spec = small_spec();
    for (const char* target : {"50%", "35%", "75%", "4x1:50%", "16x1:30%", "16x1:50%"})
        for (const char* scheme : {"w8g32", "w4g32r"}) {
            const auto weights = pruned(spec, target, scheme);
            const Weight weight = *weights->load(pruned_key(*weights, spec));
            for (const Isa isa : {Isa::avx2, Isa::avx512, Isa::avx512vbmi, Isa::avx512bf16, Isa::amx}) {
                const MaskMeasurement* row = measured_masks(weight, isa);
                if (row == nullptr) continue;
                for (const MaskMeasurement& other : mask_measurements())
                    if (other.bits == row->bits && other.rows == row->rows && isa_includes(isa, other.isa)) {
                        EXPECT_LE(other.isa, row->isa) << target << ' ' << scheme;
                    }
            }
        }
}

TEST(PrunedPlan, WhereItDoesNotPayTheZerosAreWrittenOutAndSaid) {
    if (best_isa() == Isa::generic) GTEST_SKIP() << "the plain kernels read every weight as it is stored";
    const ModelSpec spec = small_spec();
    for (const auto& [target, scheme] : {std::pair{"5%", "w8g32"}, {"25%", "w4g32"}, {"50%", "bf16"}, {"50%", "w3g32"}}) {
        SCOPED_TRACE(std::string(target) + " " + scheme);
        const Outcome result = run(spec, *pruned(spec, target, scheme), 2);
        ASSERT_EQ(result.remarks.size(), 1u);
        EXPECT_NE(result.remarks[0].find("zeros written out"), std::string::npos);
        for (const std::string& layout : result.kernels) EXPECT_FALSE(layout.ends_with("_mask") || layout.ends_with("_skip") || layout == "sparse_rows") << layout;
    }
}

}  // namespace
}  // namespace skiff
