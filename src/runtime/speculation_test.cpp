// Speculation changes nothing but the speed: the same tokens where the choice is certain, the same distribution where it is drawn.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "model/arch/arch.h"
#include "runtime/draft_proposer.h"
#include "runtime/token_stream.h"

namespace skiff {
namespace {

std::shared_ptr<const Plan> random_plan(int n_vocab, std::uint64_t seed, const char* scheme_name = nullptr, const char* sizes =
                                            R"("hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,)") {
    const std::string config = std::string(R"({"model_type": "llama",)") + sizes + R"("num_key_value_heads": 2, "head_dim": 16, "vocab_size": )" +
                               std::to_string(n_vocab) + R"(, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "tie_word_embeddings": false})";
    ModelSpec spec = *build_spec(*Json::parse(config));
    auto weights = random_weights(spec, DType::bf16, seed);
    Scheme scheme;
    if (scheme_name != nullptr) {
        scheme = *parse_scheme(scheme_name);
        weights = quantized_on_load(
            spec, weights, [spec, scheme](const std::string& key) { return spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; },
            ScaleRule::min_max);
    }
    auto plan = lower(spec, *weights, PlanOptions{});
    EXPECT_TRUE(plan.ok()) << plan.error().to_string();
    return *plan;
}

std::unique_ptr<Session> make_session(std::shared_ptr<const Plan> plan, std::int64_t n_context = 256) {
    return std::move(*Session::create(std::move(plan), {.n_threads = 1, .n_context = n_context}));
}

std::vector<std::int32_t> generate(TokenStream& stream, const std::vector<std::int32_t>& prompt, const SamplingOptions& sampling, std::int64_t n) {
    EXPECT_TRUE(stream.begin(prompt, sampling, n).ok());
    std::vector<std::int32_t> tokens;
    while (static_cast<std::int64_t>(tokens.size()) < n && !stream.full()) {
        auto token = stream.next();
        EXPECT_TRUE(token.ok()) << token.error().to_string();
        tokens.push_back(*token);
    }
    EXPECT_TRUE(stream.end().ok());
    return tokens;
}

std::vector<std::int32_t> repeating_prompt(int n_vocab, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<std::int32_t> prompt;
    for (std::size_t i = 0, n = 6 + rng.below(10); i < n; ++i) prompt.push_back(static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(n_vocab))));
    const auto half = prompt;
    prompt.insert(prompt.end(), half.begin(), half.end());
    return prompt;
}

enum class From : std::uint8_t { ngram, draft, same };  // same: the model is its own draft, so that everything is accepted

struct Kit {
    std::unique_ptr<Session> session, draft;
    std::unique_ptr<TokenStream> stream;
};

Kit make_kit(std::shared_ptr<const Plan> plan, From from, int always, std::int64_t n_context = 256) {
    Kit kit;
    kit.session = make_session(plan, n_context);
    std::unique_ptr<Proposer> proposer = std::make_unique<NgramProposer>();
    if (from != From::ngram) {
        kit.draft = make_session(from == From::same ? plan : random_plan(static_cast<int>(plan->spec.n_vocab), 77), n_context);
        proposer = std::make_unique<DraftProposer>(*kit.draft, plan->spec.n_vocab);
    }
    kit.stream = std::make_unique<TokenStream>(*kit.session, 0, std::move(proposer), always);
    return kit;
}

struct IdentityCase {
    const char* name;
    const char* scheme;
    From from;
    int always;
};

class SpeculationIdentity : public ::testing::TestWithParam<IdentityCase> {};

// Greedy and, with n-grams, drawn too: a guess that is certain is accepted when the sampler would have chosen it.
TEST_P(SpeculationIdentity, TokensAreThoseWithoutIt) {
    const IdentityCase& c = GetParam();
    auto plan = random_plan(131, 5, c.scheme);
    auto plain_session = make_session(plan);
    TokenStream plain(*plain_session, 0);
    Kit kit = make_kit(plan, c.from, c.always);
    std::vector<SamplingOptions> samplings = {{.temperature = 0}, {.temperature = 0, .repetition_penalty = 1.3, .presence_penalty = 0.1, .frequency_penalty = 0.05}};
    if (c.from == From::ngram) {
        samplings.push_back({.temperature = 0.3, .seed = 4});
        samplings.push_back({.temperature = 1, .top_k = 0, .top_p = 0.9, .min_p = 0, .repetition_penalty = 1.1, .penalty_window = -1, .seed = 5});
    }
    std::int64_t accepted = 0, proposed = 0;
    for (const SamplingOptions& sampling : samplings) {
        for (std::uint64_t seed = 0; seed < 12; ++seed) {
            const auto prompt = repeating_prompt(131, seed);
            EXPECT_EQ(generate(plain, prompt, sampling, 40), generate(*kit.stream, prompt, sampling, 40)) << "temperature " << sampling.temperature << ", prompt " << seed;
            accepted += kit.stream->stats().accepted;
            proposed += kit.stream->stats().proposed;
        }
    }
    if (c.always > 0) {
        EXPECT_GT(proposed, 100);
        EXPECT_GT(accepted, c.from == From::draft ? -1 : 50);
    }
    EXPECT_LE(accepted, proposed);
}

INSTANTIATE_TEST_SUITE_P(Speculation, SpeculationIdentity,
                         ::testing::Values(IdentityCase{"ngram_7", nullptr, From::ngram, 7}, IdentityCase{"ngram_1", nullptr, From::ngram, 1},
                                         IdentityCase{"ngram_3_w4", "w4g32", From::ngram, 3}, IdentityCase{"ngram_adaptive", nullptr, From::ngram, 0},
                                         IdentityCase{"draft_4", nullptr, From::draft, 4}, IdentityCase{"same_7", nullptr, From::same, 7},
                                         IdentityCase{"same_5_w8", "w8", From::same, 5}, IdentityCase{"draft_adaptive", nullptr, From::draft, 0},
                                         IdentityCase{"same_adaptive", nullptr, From::same, 0}),
                         [](const auto& instance) { return std::string(instance.param.name); });

TEST(Speculation, AModelThatIsItsOwnDraftHasEveryGuessAccepted) {
    Kit kit = make_kit(random_plan(131, 5), From::same, 7);
    const SamplingOptions samplings[] = {{.temperature = 0}, {.temperature = 1, .seed = 3}, {.temperature = 1, .repetition_penalty = 1.5, .frequency_penalty = 0.2, .seed = 3}};
    for (const SamplingOptions& sampling : samplings) {
        generate(*kit.stream, repeating_prompt(131, 1), sampling, 41);
        EXPECT_EQ(kit.stream->stats().accepted, kit.stream->stats().proposed);
        EXPECT_EQ(kit.stream->stats().passes, 5);  // 1 token of the prompt's pass, then 8 a pass
    }
}

TEST(Speculation, StopsWhereTheContextEnds) {
    auto plan = random_plan(131, 5);
    auto plain_session = make_session(plan, 50);
    TokenStream plain(*plain_session, 0);
    for (From from : {From::ngram, From::same}) {
        Kit kit = make_kit(plan, from, 7, 50);
        const auto prompt = repeating_prompt(131, 2);
        const auto expected = generate(plain, prompt, {.temperature = 0}, 200);
        EXPECT_EQ(expected.size(), 50 - prompt.size() + 1);
        EXPECT_EQ(expected, generate(*kit.stream, prompt, {.temperature = 0}, 200));
    }
}

TEST(Speculation, AConversationGoesOnFromItsState) {
    auto plan = random_plan(131, 5);
    for (From from : {From::ngram, From::draft, From::same}) {
        Kit kit = make_kit(plan, from, 5);
        auto plain_session = make_session(plan);
        TokenStream plain(*plain_session, 0);
        std::vector<std::int32_t> text = repeating_prompt(131, 3);
        for (int turn = 0; turn < 4; ++turn) {
            // The stream is left in the middle of what was guessed.
            ASSERT_TRUE(kit.stream->begin(text, {.temperature = 0}).ok());
            std::vector<std::int32_t> answer;
            for (int i = 0; i < 10 + turn; ++i) answer.push_back(*kit.stream->next());
            ASSERT_TRUE(kit.stream->end().ok());
            EXPECT_EQ(answer, generate(plain, text, {.temperature = 0}, 10 + turn));
            EXPECT_LT(kit.session->state().length(0), static_cast<std::int64_t>(text.size() + answer.size()) + 1);
            text.insert(text.end(), answer.begin(), answer.end() - turn);
            text.push_back(turn);
        }
    }
}

// ---- The distribution of drawn tokens ----

double chi_square(const std::map<std::vector<std::int32_t>, double>& expected, const std::map<std::vector<std::int32_t>, int>& seen, int n, int& freedom) {
    double sum = 0, rest_expected = 0, rest_seen = 0;
    freedom = -1;
    for (const auto& [key, chance] : expected) {
        const double mean = chance * n;
        const auto found = seen.find(key);
        const double count = found == seen.end() ? 0 : found->second;
        if (mean < 5) {
            rest_expected += mean, rest_seen += count;
            continue;
        }
        sum += (count - mean) * (count - mean) / mean;
        ++freedom;
    }
    if (rest_expected >= 5) sum += (rest_seen - rest_expected) * (rest_seen - rest_expected) / rest_expected, ++freedom;
    return sum;
}

// Wilson and Hilferty's approximation of the quantile that a true distribution exceeds once in 10,000 times.
double chi_square_limit(int freedom) {
    const double n = freedom, t = 1 - 2 / (9 * n) + 3.72 * std::sqrt(2 / (9 * n));
    return n * t * t * t;
}

struct LawCase {
    const char* name;
    From from;
    SamplingOptions sampling;
};

class SpeculationLaw : public ::testing::TestWithParam<LawCase> {};

// Four tokens drawn with guesses of three: the joint distribution is the product of the model's own.
TEST_P(SpeculationLaw, IsTheModels) {
    constexpr int n_vocab = 5, n_texts = 20000, length = 4;
    auto plan = random_plan(n_vocab, 9);
    const std::vector<std::int32_t> prompt = {0, 1, 2, 3, 4, 0, 1, 2};
    // What should come, by walking the tree of all continuations.
    auto exact = make_session(plan);
    std::map<std::vector<std::int32_t>, double> expected;
    auto walk = [&](auto&& self, const std::vector<std::int32_t>& text, double chance) -> void {
        if (static_cast<int>(text.size()) == length) {
            expected[text] = chance;
            return;
        }
        std::vector<std::int32_t> all = prompt;
        all.insert(all.end(), text.begin(), text.end());
        ASSERT_TRUE(exact->state().truncate(0, 0).ok());
        ASSERT_TRUE(exact->forward(0, all, BatchItem::Logits::last).ok());
        Sampler sampler(GetParam().sampling);
        for (std::int32_t token : all) sampler.observe(token);
        const auto chances = *sampler.distribution(exact->logits_row(0));
        const std::vector<TokenChance> copy(chances.begin(), chances.end());
        for (const TokenChance& next : copy) {
            auto longer = text;
            longer.push_back(next.token);
            self(self, longer, chance * next.chance);
        }
    };
    walk(walk, {}, 1);

    Kit kit = make_kit(plan, GetParam().from, 3);
    std::map<std::vector<std::int32_t>, int> seen;
    std::int64_t proposed = 0, accepted = 0;
    for (int i = 0; i < n_texts; ++i) {
        SamplingOptions sampling = GetParam().sampling;
        sampling.seed = static_cast<std::uint64_t>(i);
        const auto text = generate(*kit.stream, prompt, sampling, length);
        ASSERT_TRUE(expected.count(text)) << "a token that has no chance";
        ++seen[text];
        proposed += kit.stream->stats().proposed;
        accepted += kit.stream->stats().accepted;
    }
    EXPECT_GT(accepted, proposed / 20);      // both branches were taken often
    EXPECT_LT(accepted, proposed * 19 / 20);
    int freedom = 0;
    const double sum = chi_square(expected, seen, n_texts, freedom);
    EXPECT_GT(freedom, 20);
    EXPECT_LT(sum, chi_square_limit(freedom)) << "degrees of freedom " << freedom;
}

INSTANTIATE_TEST_SUITE_P(
    Speculation, SpeculationLaw,
    ::testing::Values(LawCase{"ngram", From::ngram, {.temperature = 0.7, .top_k = 0, .top_p = 1, .min_p = 0}},
                    LawCase{"draft", From::draft, {.temperature = 0.7, .top_k = 0, .top_p = 1, .min_p = 0}},
                    LawCase{"draft_truncated", From::draft, {.temperature = 0.9, .top_k = 4, .top_p = 0.95, .min_p = 0.01}},
                    LawCase{"draft_penalized", From::draft, {.temperature = 0.8, .top_k = 0, .top_p = 1, .min_p = 0, .repetition_penalty = 1.5, .frequency_penalty = 0.1}}),
    [](const auto& instance) { return std::string(instance.param.name); });

TEST(Sampler, VerifyFollowsTheTargetWhateverTheDraft) {
    const float logits[] = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
    const std::vector<TokenChance> drafts[] = {{{0, 0.1}, {1, 0.1}, {2, 0.1}, {3, 0.7}}, {{0, 0.9}, {2, 0.1}}, {{3, 1.0}}, {{0, 0.5}, {1, 0.3}, {2, 0.15}, {3, 0.05}}};
    for (const auto& draft : drafts) {
        Sampler sampler({.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 8});
        Rng rng(12);
        std::map<std::vector<std::int32_t>, int> seen;
        for (int i = 0; i < 40000; ++i) {
            double target = rng.uniform();
            std::size_t drawn = 0;
            while (drawn + 1 < draft.size() && (target -= draft[drawn].chance) >= 0) ++drawn;
            ++seen[{*sampler.verify(logits, draft[drawn].token, draft)}];
        }
        int freedom = 0;
        EXPECT_LT(chi_square({{{0}, 0.5}, {{1}, 0.3}, {{2}, 0.15}, {{3}, 0.05}}, seen, 40000, freedom), chi_square_limit(3));
    }
}

}  // namespace
}  // namespace skiff
