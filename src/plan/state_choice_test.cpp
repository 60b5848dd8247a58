// State schemes layer by layer: what is asked for, and that each layer keeps its own.
#include "plan/state_choice.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/rng.h"
#include "model/arch/arch.h"
#include "plan/session.h"

namespace skiff {
namespace {

constexpr const char* config_text =
    R"({"model_type": "llama", "hidden_size": 96, "intermediate_size": 172, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 131, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": false})";

std::shared_ptr<const Plan> small_plan() {
    const ModelSpec spec = *build_spec(*Json::parse(config_text));
    return *lower(spec, *random_weights(spec, DType::f32, 5), {});
}

struct Outcome {
    std::vector<float> logits;
    std::uint64_t bytes_per_token = 0;
};

Outcome run(const std::shared_ptr<const Plan>& plan, const std::string& state) {
    auto choice = parse_state_choice(state);
    EXPECT_TRUE(choice.ok()) << choice.error().message;
    auto session = Session::create(plan, {.n_threads = 2, .n_context = 512, .max_batch = 64, .state_scheme = choice->scheme, .state_rules = choice->rules});
    EXPECT_TRUE(session.ok()) << session.error().message;
    Rng rng(1);
    std::vector<std::int32_t> tokens;
    for (int i = 0; i < 290; ++i) tokens.push_back(static_cast<std::int32_t>(rng.below(131)));
    EXPECT_TRUE((*session)->forward(0, tokens, BatchItem::Logits::all).ok());
    // A copy of the state goes on as the original does.
    const StateSnapshot snapshot = (*session)->state().snapshot(0);
    EXPECT_TRUE((*session)->state().restore(0, snapshot).ok());
    return {{(*session)->logits().begin(), (*session)->logits().end()}, (*session)->state().bytes_per_token()};
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) { return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0; }

TEST(StateChoice, EveryLayerKeepsItsOwn) {
    const auto plan = small_plan();
    const Outcome exact = run(plan, "f32");
    for (const StateSchemeInfo& info : state_schemes()) {
        const std::string name(info.name);
        SCOPED_TRACE(name);
        const Outcome all = run(plan, name);
        EXPECT_TRUE(same_bits(all.logits, run(plan, "f32,0-2=" + name).logits));
        EXPECT_TRUE(same_bits(all.logits, run(plan, "f32,*=" + name).logits));
        EXPECT_TRUE(same_bits(all.logits, run(plan, name + ",*=f32,0=" + name + ",1-2=" + name).logits));  // the last one counts
        if (name == "f32") continue;
        const Outcome first = run(plan, "f32,0=" + name), others = run(plan, name + ",*block0*=f32");
        EXPECT_FALSE(same_bits(first.logits, exact.logits));
        EXPECT_FALSE(same_bits(first.logits, all.logits));
        EXPECT_FALSE(same_bits(others.logits, all.logits));
        EXPECT_FALSE(same_bits(others.logits, first.logits));
        EXPECT_EQ(first.bytes_per_token + others.bytes_per_token, exact.bytes_per_token + all.bytes_per_token);
    }
}

TEST(StateChoice, IsReadAndSaidBack) {
    for (const char* text : {"f32", "int8,0-1=bf16", "int4,0=int8,*block5*=f16"}) {
        auto choice = parse_state_choice(text);
        ASSERT_TRUE(choice.ok()) << choice.error().message;
        EXPECT_EQ(choice->name(), text);
    }
    EXPECT_EQ(parse_state_choice("0=int8")->name(), "f32,0=int8");
    for (const char* bad : {"", "int7", "int8,int4", "int8,", "int8,=f16", "int8,0=", "int8,0=w4"}) EXPECT_EQ(parse_state_choice(bad).error().code, ErrorCode::usage) << bad;
}

TEST(StateChoice, ALayerThatIsNotThereIsSaid) {
    const auto plan = small_plan();
    for (const char* bad : {"int8,3=f16", "int8,4-9=f16", "int8,*nothing*=f16"}) {
        const auto choice = parse_state_choice(bad);
        auto session = Session::create(plan, {.state_scheme = choice->scheme, .state_rules = choice->rules});
        ASSERT_FALSE(session.ok()) << bad;
        EXPECT_EQ(session.error().code, ErrorCode::usage);
        EXPECT_NE(session.error().message.find("layers 0 to 2"), std::string::npos) << session.error().message;
    }
}

}  // namespace
}  // namespace skiff
