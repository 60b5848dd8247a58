// What fusion makes of a program. That the bits stay is asked of every architecture in tests/parity/fused_plan_test.cpp, and here with groups of heads
// that fit the kernels' tiles, so that threads really share them.
#include "plan/fuse.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "base/rng.h"
#include "model/arch/arch.h"
#include "plan/session.h"
#include "plan/steps.h"

namespace skiff {
namespace {

ModelSpec spec_of(const char* text) { return *build_spec(*Json::parse(text)); }

constexpr const char* llama =
    R"({"model_type": "llama", "hidden_size": 96, "intermediate_size": 300, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 16, "vocab_size": 131, "max_position_embeddings": 2048, "tie_word_embeddings": false})";
constexpr const char* one_kv_head =
    R"({"model_type": "qwen3", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 131, "max_position_embeddings": 2048, "tie_word_embeddings": false})";

std::shared_ptr<const Plan> make_plan(const ModelSpec& spec, FuseSet fuse, const char* scheme_text = "w4g32") {
    const Scheme scheme = *parse_scheme(scheme_text);
    auto weights = quantized_on_load(
        spec, random_weights(spec, DType::bf16, 5),
        [&](const std::string& key) { return spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; }, ScaleRule::min_max);
    PlanOptions options;
    options.fuse = fuse;
    options.n_threads = 2;
    auto plan = lower(spec, *weights, options);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().to_string());
    return *plan;
}

std::vector<float> logits(const std::shared_ptr<const Plan>& plan, int n_threads, std::int64_t chunk) {
    Rng rng(1);
    std::vector<std::int32_t> tokens;
    for (int i = 0; i < 300; ++i) tokens.push_back(static_cast<std::int32_t>(rng.below(131)));
    auto session = Session::create(plan, {.n_threads = n_threads, .n_context = 300, .max_batch = chunk});
    EXPECT_TRUE((*session)->forward(0, tokens, BatchItem::Logits::all).ok());
    return {(*session)->logits().begin(), (*session)->logits().end()};
}

bool same_bits(std::span<const float> a, std::span<const float> b) { return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0; }

TEST(Fuse, KeepsTheBits) {
    for (const char* config : {llama, one_kv_head}) {
        const ModelSpec spec = spec_of(config);
        const auto expected = logits(make_plan(spec, FuseSet::none()), 1, 512);
        auto fused = make_plan(spec, FuseSet::all());
        for (std::int64_t chunk : {1, 2, 7, 8, 64, 512})
            for (int threads : {1, 2, 3}) EXPECT_TRUE(same_bits(expected, logits(fused, threads, chunk))) << spec.architecture << ", chunk " << chunk << ", threads " << threads;
    }
}

// Barriers of one token: embedding, head, and of a layer four, or five where a group of heads is too large for a thread.
TEST(Fuse, LeavesFourOrFiveBarriersALayer) {
    EXPECT_EQ(make_plan(spec_of(llama), FuseSet::all())->programs[0].steps.size(), 2u + 3 * 4);
    EXPECT_EQ(make_plan(spec_of(one_kv_head), FuseSet::all())->programs[0].steps.size(), 2u + 2 * 5);
    auto plain = make_plan(spec_of(llama), FuseSet::none());
    EXPECT_EQ(plain->programs[0].steps.size(), plain->programs[0].plain_steps.size());
    EXPECT_GT(plain->programs[0].steps.size(), 3u * 15);
}

TEST(Fuse, EveryPassIsWorthABarrierSomewhere) {
    for (std::size_t pass = 0; pass < fuse_passes().size(); ++pass) {
        std::size_t saved = 0;
        for (const char* config : {llama, one_kv_head}) {
            const ModelSpec spec = spec_of(config);
            const auto all = make_plan(spec, FuseSet::all()), without = make_plan(spec, FuseSet::all().without(pass));
            for (std::size_t p = 0; p < all->programs.size(); ++p) saved += without->programs[p].steps.size() - all->programs[p].steps.size();
        }
        EXPECT_GT(saved, 0u) << fuse_passes()[pass].name;
    }
}

// The largest logits alone are those of the whole row, with the fusion and without, for every number of rows and threads.
TEST(Fuse, TheLargestLogitsAreThoseOfTheRow) {
    constexpr const char* capped =
        R"({"model_type": "gemma2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 2999,
        "max_position_embeddings": 512, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 50.0, "query_pre_attn_scalar": 16, "sliding_window": 64, "hidden_activation": "gelu_pytorch_tanh"})";
    for (const char* config : {llama, capped}) {
        const ModelSpec spec = spec_of(config);
        Rng rng(2);
        std::vector<std::int32_t> tokens;
        for (int i = 0; i < 80; ++i) tokens.push_back(static_cast<std::int32_t>(rng.below(131)));
        for (FuseSet set : {FuseSet::all(), FuseSet::none(), *FuseSet::parse("head_top"), *FuseSet::parse("head")}) {
            const auto plan = make_plan(spec, set);
            EXPECT_EQ(plan->programs[0].top_in_slabs, set.has(6));
            EXPECT_EQ(plan->programs[3].top_in_slabs, set.has(6));
            for (int threads : {1, 2, 3}) {
                auto session = Session::create(plan, {.n_threads = threads, .n_context = 200, .max_batch = 64});
                for (std::size_t n : {1u, 3u, 8u, 9u, 80u})
                    for (auto wanted : {BatchItem::Logits::last, BatchItem::Logits::all})
                        for (std::int64_t limit : {1, 5, 40, 5000}) {
                            const BatchItem item{0, {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n)}, wanted};
                            ASSERT_TRUE((*session)->state().truncate(0, 0).ok());
                            ASSERT_TRUE((*session)->forward(std::span(&item, 1)).ok());
                            const std::vector<float> rows((*session)->logits().begin(), (*session)->logits().end());
                            ASSERT_TRUE((*session)->state().truncate(0, 0).ok());
                            ASSERT_TRUE((*session)->forward_top(std::span(&item, 1), limit).ok());
                            EXPECT_TRUE((*session)->logits().empty());
                            const auto width = static_cast<std::size_t>(plan->output_width);
                            for (std::size_t row = 0; row < rows.size() / width; ++row) {
                                std::vector<ScoredToken> expected;
                                for (std::size_t i = 0; i < width; ++i) expected.push_back({static_cast<std::int32_t>(i), rows[row * width + i]});
                                std::sort(expected.begin(), expected.end(), comes_before);
                                expected.resize(std::min(width, static_cast<std::size_t>(limit)));
                                const auto found = (*session)->top_row(static_cast<std::int64_t>(row));
                                ASSERT_TRUE(found.ok());
                                ASSERT_EQ(found->size(), expected.size());
                                for (std::size_t i = 0; i < expected.size(); ++i)
                                    ASSERT_TRUE((*found)[i].token == expected[i].token && std::memcmp(&(*found)[i].score, &expected[i].score, 4) == 0) << "row " << row << ", place " << i;
                            }
                        }
            }
        }
    }
}

TEST(Fuse, SetsAreReadFromText) {
    EXPECT_TRUE(FuseSet::parse("on")->has(0) && !FuseSet::parse("off")->has(0));
    for (std::size_t pass = 0; pass < fuse_passes().size(); ++pass) {
        auto set = FuseSet::parse(std::string(fuse_passes()[pass].name));
        ASSERT_TRUE(set.ok());
        for (std::size_t other = 0; other < fuse_passes().size(); ++other) EXPECT_EQ(set->has(other), other == pass);
    }
    EXPECT_TRUE(FuseSet::parse("head,residual")->has(0));
    for (const char* wrong : {"", "head,", "nonesuch", "head residual"}) EXPECT_EQ(FuseSet::parse(wrong).error().code, ErrorCode::usage) << wrong;
}

// h = h + W norm(h): the norm must not run beside the addition, since a thread that is ahead would change what another still reads.
TEST(Fuse, StepsThatOverwriteWhatOthersReadStayApart) {
    const ModelSpec spec = spec_of(llama);
    ValueTable values(spec);
    auto width = [&](int value) { return values.needs()[static_cast<std::size_t>(value)].floats; };
    const int h = spec.blocks[1].in, normed = values.add_temporary(width(h), 0, StepTokens::all), y = values.add_temporary(width(h), 0, StepTokens::all),
              sum = values.add_temporary(width(h), 0, StepTokens::all), other = values.add_temporary(width(h), 0, StepTokens::all);
    auto weight = std::make_shared<PackedWeight>();
    weight->layout = layout_table().back();
    weight->n_rows = weight->n_columns = width(h);
    for (int target : {sum, other}) {
        std::vector<std::unique_ptr<Step>> steps;
        auto norm = std::make_unique<NormStep>();
        norm->group_width = width(h);
        norm->in = h;
        norm->out = normed;
        auto linear = std::make_unique<LinearStep>();
        LinearSegment segment;
        segment.weight = weight;
        segment.in = normed;
        segment.out = y;
        linear->segments = {segment};
        auto add = std::make_unique<ElementStep>();
        add->kind = "add";
        add->a = target == sum ? h : other;
        add->b = y;
        add->out = sum;
        add->n_columns = width(h);
        steps.push_back(std::move(norm));
        steps.push_back(std::move(linear));
        steps.push_back(std::move(add));
        std::set<int> kept;
        fuse(steps, {values, kept, 1, 2, FuseSet::all()});
        EXPECT_EQ(steps.size(), target == sum ? 2u : 1u);
    }
}

}  // namespace
}  // namespace skiff
