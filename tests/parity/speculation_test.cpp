// A trained model, its student as the draft, prompts from a text: with and without speculation the same tokens.
// timeout: 600
#include <gtest/gtest.h>

#include "base/mapped_file.h"
#include "runtime/engine.h"

namespace skiff {
namespace {

const std::string models = std::string(SKIFF_SOURCE_DIR) + "/models/";

struct Case {
    const char* name;
    const char* scheme;
    SpeculationOptions speculation;
};

class PocketSpeculation : public ::testing::TestWithParam<Case> {};

std::unique_ptr<Engine> load(const Case& c, const SpeculationOptions& speculation) {
    EngineOptions options;
    options.n_threads = 1;  // the same bits as with more, and no waiting for them
    options.n_context = 400;
    if (c.scheme != nullptr) options.scheme = *parse_scheme(c.scheme);
    options.speculation = speculation;
    auto engine = Engine::load(models + "pocket", options);
    EXPECT_TRUE(engine.ok()) << engine.error().to_string();
    return std::move(*engine);
}

TEST_P(PocketSpeculation, GivesTheSameTokens) {
    const Case& c = GetParam();
    auto plain = load(c, {}), fast = load(c, c.speculation);
    const std::string text = *read_text_file(models + "pocket/heldout.txt", std::size_t{1} << 24);
    std::vector<GenerateOptions> all(2);
    all[0].sampling.temperature = 0;
    all[1].sampling.temperature = 0;
    all[1].sampling.repetition_penalty = 1.2;
    all[1].stop = {" the ", "."};
    if (c.speculation.source == SpeculationOptions::Source::ngram) {
        all.emplace_back();
        all[2].sampling.seed = 5;
    }
    std::int64_t accepted = 0;
    for (int i = 0; i < 8; ++i) {
        const auto prompt = *plain->tokenizer()->encode(text.substr(static_cast<std::size_t>(i) * 4001, 300 + 40 * static_cast<std::size_t>(i)));
        for (GenerateOptions& options : all) {
            options.max_tokens = 60 + i;
            const auto expected = plain->generate(prompt, options, nullptr), found = fast->generate(prompt, options, nullptr);
            ASSERT_TRUE(expected.ok() && found.ok()) << (found.ok() ? expected : found).error().to_string();
            EXPECT_EQ(expected->tokens, found->tokens) << i;
            EXPECT_EQ(expected->text, found->text);
            EXPECT_EQ(expected->finish, found->finish);
            accepted += found->speculation.accepted;
        }
    }
    EXPECT_GE(accepted, c.speculation.always > 0 ? 100 : 0);
}

using Source = SpeculationOptions::Source;
INSTANTIATE_TEST_SUITE_P(Parity, PocketSpeculation,
                         ::testing::Values(Case{"ngram_7", nullptr, {Source::ngram, "", 7}}, Case{"ngram_adaptive_w4", "w4g32", {Source::ngram, "", 0}},
                                         Case{"draft_4", nullptr, {Source::draft, models + "pocket-student", 4}},
                                         Case{"draft_2_w8", "w8", {Source::draft, models + "pocket-student", 2}},
                                         Case{"draft_adaptive", nullptr, {Source::draft, models + "pocket-student", 0}}),
                         [](const auto& instance) { return std::string(instance.param.name); });

}  // namespace
}  // namespace skiff
