// A session's promises, on small random models: the same bits whatever the threads, chunks and batches; state that can be cut, copied and restored.
#include "plan/session.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/rng.h"
#include "model/arch/arch.h"

namespace skiff {
namespace {

constexpr const char* config_text =
    R"({"model_type": "llama", "hidden_size": 96, "intermediate_size": 172, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 131, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": false})";

ModelSpec small_spec() { return *build_spec(*Json::parse(config_text)); }

struct Case {
    const char* name;
    const char* scheme;  // null: bf16 as it is
    KernelChoice kernels;
    Isa isa;
};

std::shared_ptr<const Plan> make_plan(const Case& c, PlanOptions options = {}) {
    ModelSpec spec = small_spec();
    auto weights = random_weights(spec, DType::bf16, 5);
    Scheme scheme;
    if (c.scheme != nullptr) {
        scheme = *parse_scheme(c.scheme);
        weights = quantized_on_load(
            spec, weights, [spec, scheme](const std::string& key) { return spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; },
            ScaleRule::min_max);
    }
    options.kernels = c.kernels;
    options.isa = c.isa;
    auto plan = lower(spec, *weights, options);
    EXPECT_TRUE(plan.ok()) << plan.error().to_string();
    return *plan;
}

std::vector<std::int32_t> some_tokens(std::size_t n, std::uint64_t seed = 1) {
    Rng rng(seed);
    std::vector<std::int32_t> tokens;
    for (std::size_t i = 0; i < n; ++i) tokens.push_back(static_cast<std::int32_t>(rng.below(131)));
    return tokens;
}

std::vector<float> all_logits(std::shared_ptr<const Plan> plan, const std::vector<std::int32_t>& tokens, int n_threads, std::int64_t max_batch,
                              StateScheme state = StateScheme::f32) {
    auto session = Session::create(std::move(plan), {.n_threads = n_threads, .n_context = 1024, .max_batch = max_batch, .state_scheme = state});
    EXPECT_TRUE((*session)->forward(0, tokens, BatchItem::Logits::all).ok());
    return {(*session)->logits().begin(), (*session)->logits().end()};
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

class SessionBits : public ::testing::TestWithParam<Case> {};

TEST_P(SessionBits, DoNotDependOnThreadsOrChunks) {
    if (!isa_available(GetParam().isa)) GTEST_SKIP() << "this processor lacks " << isa_name(GetParam().isa);
    auto plan = make_plan(GetParam());
    auto tokens = some_tokens(GetParam().isa == Isa::generic ? 70 : 280);  // more than a chunk of attention where kernels are fast
    auto expected = all_logits(plan, tokens, 1, 512);
    for (std::int64_t chunk : {1, 7, 64, 512})
        for (int threads : {1, 2})
            EXPECT_TRUE(same_bits(expected, all_logits(plan, tokens, threads, chunk))) << "chunk " << chunk << ", threads " << threads;
    EXPECT_TRUE(same_bits(expected, all_logits(plan, tokens, 3, 64))) << "three threads";
}

TEST_P(SessionBits, DoNotDependOnTheBatch) {
    if (!isa_available(GetParam().isa)) GTEST_SKIP() << "this processor lacks " << isa_name(GetParam().isa);
    auto plan = make_plan(GetParam());
    for (std::int64_t batch = 1; batch <= 8; ++batch) {
        auto session = Session::create(plan, {.n_threads = 2, .n_sequences = batch, .n_context = 64});
        std::vector<std::vector<std::int32_t>> texts;
        std::vector<std::vector<float>> alone;
        for (std::int64_t s = 0; s < batch; ++s) {
            texts.push_back(some_tokens(static_cast<std::size_t>(5 + s), static_cast<std::uint64_t>(s)));
            alone.push_back(all_logits(plan, texts.back(), 1, 64));
        }
        // Prompts together, then the last tokens together, as a server would.
        std::vector<BatchItem> prompts, lasts;
        for (std::int64_t s = 0; s < batch; ++s) {
            const auto& text = texts[static_cast<std::size_t>(s)];
            prompts.push_back({s, {text.begin(), text.end() - 1}, BatchItem::Logits::none});
            lasts.push_back({s, {text.back()}, BatchItem::Logits::last});
        }
        ASSERT_TRUE((*session)->forward(prompts).ok());
        EXPECT_TRUE((*session)->logits().empty());
        ASSERT_TRUE((*session)->forward(lasts).ok());
        for (std::int64_t s = 0; s < batch; ++s) {
            auto& expected = alone[static_cast<std::size_t>(s)];
            EXPECT_TRUE(same_bits(std::span(expected).last(131), (*session)->logits_row(s))) << "sequence " << s << " of " << batch;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(
    Kernels, SessionBits,
    ::testing::Values(Case{"bf16_reference", nullptr, KernelChoice::reference, Isa::generic},
                    Case{"w4g32_reference", "w4g32", KernelChoice::reference, Isa::generic},
                    Case{"bf16_generic", nullptr, KernelChoice::fastest, Isa::generic}, Case{"bf16_avx2", nullptr, KernelChoice::fastest, Isa::avx2},
                    Case{"w8_avx2", "w8", KernelChoice::fastest, Isa::avx2}, Case{"w4g32_avx2", "w4g32", KernelChoice::fastest, Isa::avx2},
                    Case{"w4g32a_avx2", "w4g32a", KernelChoice::fastest, Isa::avx2}, Case{"w4g64_avx2", "w4g64", KernelChoice::fastest, Isa::avx2},
                    Case{"bf16_neon", nullptr, KernelChoice::fastest, Isa::neon}, Case{"w4g32_neon", "w4g32", KernelChoice::fastest, Isa::neon},
                    Case{"w4g32a_neon_dot", "w4g32a", KernelChoice::fastest, Isa::neon_dot}, Case{"w8_neon_i8mm", "w8", KernelChoice::fastest, Isa::neon_i8mm}),
    [](const auto& instance) { return std::string(instance.param.name); });

const Case plain = {"bf16", nullptr, KernelChoice::fastest, Isa::generic};

TEST(Session, TruncateForkSnapshotRestore) {
    auto plan = make_plan(plain);
    auto session = Session::create(plan, {.n_threads = 1, .n_sequences = 3, .n_context = 64});
    Session& s = **session;
    auto tokens = some_tokens(20);
    ASSERT_TRUE(s.forward(0, tokens, BatchItem::Logits::all).ok());
    std::vector<float> expected(s.logits_row(19).begin(), s.logits_row(19).end());
    auto last_again = [&](std::int64_t sequence) {
        EXPECT_TRUE(s.state().truncate(sequence, 19).ok());
        EXPECT_TRUE(s.forward(sequence, std::span(tokens).last(1), BatchItem::Logits::last).ok());
        return same_bits(expected, s.logits());
    };
    EXPECT_TRUE(last_again(0));
    s.state().fork(0, 2);
    StateSnapshot snapshot = s.state().snapshot(0);
    ASSERT_TRUE(s.state().truncate(0, 3).ok());
    ASSERT_TRUE(s.forward(0, some_tokens(30, 9), BatchItem::Logits::none).ok());
    EXPECT_TRUE(last_again(2));
    ASSERT_TRUE(s.state().restore(1, snapshot).ok());
    EXPECT_TRUE(last_again(1));
    EXPECT_FALSE(s.state().truncate(1, 21).ok());
    snapshot.bytes.pop_back();
    EXPECT_FALSE(s.state().restore(1, snapshot).ok());
}

TEST(Session, AFullContextOrAWrongTokenChangesNothing) {
    auto session = Session::create(make_plan(plain), {.n_threads = 1, .n_context = 8});
    Session& s = **session;
    ASSERT_TRUE(s.forward(0, some_tokens(6), BatchItem::Logits::last).ok());
    EXPECT_EQ(s.forward(0, some_tokens(3), BatchItem::Logits::last).error().code, ErrorCode::resource);
    const std::int32_t outside[] = {1, 131};
    EXPECT_EQ(s.forward(0, outside, BatchItem::Logits::last).error().code, ErrorCode::usage);
    EXPECT_EQ(s.state().length(0), 6);
}

TEST(Session, StretchesOfBlocksGiveTheWholeModel) {
    auto tokens = some_tokens(40);
    auto expected = all_logits(make_plan(plain), tokens, 1, 16);
    PlanOptions first, second;
    first.last_block = 1;    // embedding and block 0
    second.first_block = 2;  // blocks 1, 2 and the head
    auto head = Session::create(make_plan(plain, first), {.n_threads = 1, .n_context = 64, .max_batch = 16});
    auto tail = Session::create(make_plan(plain, second), {.n_threads = 2, .n_context = 64, .max_batch = 7});
    std::vector<float> hidden, logits;
    // A stretch that ends before the head gives all of its tokens.
    ASSERT_TRUE((*head)->forward(0, tokens, BatchItem::Logits::all).ok());
    hidden.assign((*head)->logits().begin(), (*head)->logits().end());
    ASSERT_EQ(hidden.size(), tokens.size() * 96);
    ASSERT_TRUE((*tail)->forward_hidden(0, hidden, logits).ok());
    EXPECT_TRUE(same_bits(expected, logits));
    // The same as items, where the logits of some tokens alone are wanted, or the largest of them.
    ASSERT_TRUE((*tail)->state().truncate(0, 0).ok());
    BatchItem item{0, tokens, BatchItem::Logits::last, hidden};
    ASSERT_TRUE((*tail)->forward(std::span(&item, 1)).ok());
    EXPECT_TRUE(same_bits({expected.end() - 131, expected.end()}, {(*tail)->logits().begin(), (*tail)->logits().end()}));
    ASSERT_TRUE((*tail)->state().truncate(0, 0).ok());
    ASSERT_TRUE((*tail)->forward_top(std::span(&item, 1), 1).ok());
    EXPECT_EQ((*(*tail)->top_row(0))[0].score, *std::max_element(expected.end() - 131, expected.end()));
    item.hidden = item.hidden.subspan(96);
    EXPECT_EQ((*tail)->forward(std::span(&item, 1)).error().code, ErrorCode::usage);
    EXPECT_EQ((*head)->forward(std::span(&item, 1)).error().code, ErrorCode::usage);
}

TEST(Session, TapsShowValuesInside) {
    PlanOptions options;
    options.taps = {"block1.ff.gated"};
    auto session = Session::create(make_plan(plain, options), {.n_threads = 1, .n_context = 64});
    ASSERT_TRUE((*session)->forward(0, some_tokens(5), BatchItem::Logits::last).ok());
    EXPECT_EQ((*session)->tap("block1.ff.gated").size(), 5u * 172);
    EXPECT_TRUE((*session)->tap("nothing").empty());
    options.taps = {"no.such.value"};
    ModelSpec spec = small_spec();
    EXPECT_EQ(lower(spec, *random_weights(spec, DType::f32, 1), options).error().code, ErrorCode::usage);
}

TEST(Session, MergingChangesStepsButNotResults) {
    PlanOptions on, off;
    on.fuse = off.fuse = FuseSet::none();
    off.merge = PlanOptions::Merge::off;
    auto merged = make_plan(plain, on), apart = make_plan(plain, off);
    EXPECT_LT(merged->programs[0].steps.size(), apart->programs[0].steps.size());
    auto tokens = some_tokens(12);
    EXPECT_TRUE(same_bits(all_logits(merged, tokens, 1, 64), all_logits(apart, tokens, 1, 64)));
}

TEST(Lower, AMissingOrMisshapenTensorIsNamed) {
    ModelSpec spec = small_spec();
    auto other = *Json::parse(config_text);
    other.set("intermediate_size", 100);
    ModelSpec narrow = *build_spec(other);
    auto plan = lower(spec, *random_weights(narrow, DType::bf16, 1), {});
    ASSERT_FALSE(plan.ok());
    EXPECT_NE(plan.error().to_string().find("has shape [100, 96], config.json implies [172, 96]"), std::string::npos) << plan.error().to_string();
}

}  // namespace
}  // namespace skiff
