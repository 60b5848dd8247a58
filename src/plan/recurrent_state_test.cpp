// A model with causal convolutions: the same bits whatever the threads, chunks and batches, and a ring of rows that can be cut, copied and restored.
#include <gtest/gtest.h>

#include <cstring>

#include "base/rng.h"
#include "model/arch/arch.h"
#include "plan/session.h"

namespace skiff {
namespace {

constexpr const char* config_text =
    R"({"model_type": "lfm2", "hidden_size": 44, "intermediate_size": 60, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 131,
    "max_position_embeddings": 2048, "norm_eps": 1e-5, "layer_types": ["conv", "full_attention", "conv"], "conv_L_cache": 4, "block_auto_adjust_ff_dim": false, "tie_word_embeddings": true})";

std::shared_ptr<const Plan> make_plan() {
    static const auto plan = [] {
        const ModelSpec spec = *build_spec(*Json::parse(config_text));
        return *lower(spec, *random_weights(spec, DType::bf16, 5), {});
    }();
    return plan;
}

std::unique_ptr<Session> make_session(int n_threads, std::int64_t max_batch, std::int64_t n_sequences = 1) {
    return *Session::create(make_plan(), {.n_threads = n_threads, .n_sequences = n_sequences, .n_context = 1024, .max_batch = max_batch});
}

std::vector<std::int32_t> some_tokens(std::size_t n, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<std::int32_t> tokens;
    for (std::size_t i = 0; i < n; ++i) tokens.push_back(static_cast<std::int32_t>(rng.below(131)));
    return tokens;
}

std::vector<float> logits_of(Session& session, std::int64_t sequence, std::span<const std::int32_t> tokens) {
    EXPECT_TRUE(session.forward(sequence, tokens, BatchItem::Logits::all).ok());
    return {session.logits().begin(), session.logits().end()};
}

std::vector<float> tail(const std::vector<float>& logits, std::size_t n_rows) { return {logits.end() - static_cast<std::ptrdiff_t>(n_rows * 131), logits.end()}; }

TEST(RecurrentState, ThreadsAndChunksDoNotShow) {
    const auto tokens = some_tokens(200, 1);  // longer than the ring
    const auto expected = logits_of(*make_session(1, 256), 0, tokens);
    for (int n_threads : {1, 2, 3})
        for (std::int64_t chunk : {1, 3, 7, 64, 199}) EXPECT_EQ(expected, logits_of(*make_session(n_threads, chunk), 0, tokens)) << n_threads << " " << chunk;
}

TEST(RecurrentState, SequencesOfABatchDoNotMix) {
    const auto a = some_tokens(90, 2), b = some_tokens(5, 3);
    auto both = make_session(2, 16, 2);
    const BatchItem items[] = {{1, a, BatchItem::Logits::all}, {0, b, BatchItem::Logits::all}};
    ASSERT_TRUE(both->forward(items).ok());
    auto expected = logits_of(*make_session(1, 256), 0, a);
    const auto second = logits_of(*make_session(1, 256), 0, b);
    expected.insert(expected.end(), second.begin(), second.end());
    EXPECT_EQ(expected, std::vector<float>(both->logits().begin(), both->logits().end()));
    EXPECT_EQ(logits_of(*both, 1, b), tail([&] {
                  auto all = a;
                  all.insert(all.end(), b.begin(), b.end());
                  return logits_of(*make_session(1, 256), 0, all);
              }(), b.size()));
}

TEST(RecurrentState, ASequenceMayComeTwiceInABatch) {
    const auto a = some_tokens(12, 7), b = some_tokens(9, 8);
    auto both = make_session(2, 64, 2);
    const auto part = [](const std::vector<std::int32_t>& tokens, std::ptrdiff_t from, std::ptrdiff_t to) { return std::vector<std::int32_t>(tokens.begin() + from, tokens.begin() + to); };
    const auto none = BatchItem::Logits::none;
    const BatchItem items[] = {{0, part(a, 0, 1), none}, {1, part(b, 0, 2), none}, {0, part(a, 1, 3), none}, {1, part(b, 2, 9), none}, {0, part(a, 3, 11), none}};
    ASSERT_TRUE(both->forward(items).ok());
    EXPECT_EQ(logits_of(*both, 0, part(a, 11, 12)), tail(logits_of(*make_session(1, 256), 0, a), 1));
    EXPECT_EQ(logits_of(*both, 1, part(a, 0, 1)), tail([&] {
                  auto all = b;
                  all.push_back(a[0]);
                  return logits_of(*make_session(1, 256), 0, all);
              }(), 1));
}

TEST(RecurrentState, TokensThatWereGuessedAreTakenBack) {
    auto session = make_session(2, 32);
    const auto text = some_tokens(300, 4), guess = some_tokens(8, 5), more = some_tokens(6, 6);
    const auto before = logits_of(*session, 0, text);
    (void)logits_of(*session, 0, guess);
    ASSERT_TRUE(session->state().truncate(0, 302).ok());
    ASSERT_TRUE(session->state().truncate(0, 300).ok());
    auto all = text;
    all.insert(all.end(), more.begin(), more.end());
    const auto expected = logits_of(*make_session(1, 256), 0, all);
    EXPECT_EQ(logits_of(*session, 0, more), tail(expected, more.size()));
    // Rows of long ago are gone, which is said; the beginning is always there.
    EXPECT_EQ(session->state().truncate(0, 100).error().code, ErrorCode::unsupported);
    EXPECT_EQ(session->state().length(0), 306);
    ASSERT_TRUE(session->state().truncate(0, 0).ok());
    EXPECT_EQ(logits_of(*session, 0, text), before);
}

TEST(RecurrentState, ARunThatFailsLeavesTheSequenceAsItWas) {
    auto session = make_session(1, 16);
    const auto text = some_tokens(100, 7), more = some_tokens(40, 8);
    (void)logits_of(*session, 0, text);
    auto all = text;
    all.insert(all.end(), more.begin(), more.end());
    const auto expected = tail(logits_of(*make_session(1, 256), 0, all), more.size());
    int n_chunks = 0;  // the sink gives up after some chunks, whose rows are in the ring by then
    const BatchItem item{0, some_tokens(150, 9), BatchItem::Logits::all};
    EXPECT_FALSE(session->forward(std::span(&item, 1), [&](std::int64_t, std::span<const float>) -> Status { return ++n_chunks > 6 ? Status(runtime_error("enough")) : Status(); }).ok());
    EXPECT_EQ(session->state().length(0), 100);
    EXPECT_EQ(logits_of(*session, 0, more), expected);
}

TEST(RecurrentState, ForksAndSnapshotsHoldTheRows) {
    auto session = make_session(2, 64, 2);
    const auto text = some_tokens(120, 10), more = some_tokens(9, 11);
    (void)logits_of(*session, 0, text);
    const StateSnapshot snapshot = session->state().snapshot(0);
    session->state().fork(0, 1);
    const auto expected = logits_of(*session, 0, more);
    EXPECT_EQ(logits_of(*session, 1, more), expected);
    (void)logits_of(*session, 0, some_tokens(80, 12));
    ASSERT_TRUE(session->state().restore(0, snapshot).ok());
    EXPECT_EQ(logits_of(*session, 0, more), expected);
}

}  // namespace
}  // namespace skiff
