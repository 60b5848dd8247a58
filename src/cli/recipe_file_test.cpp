// What recipes may say, and what is said of those that are wrong.
#include "cli/recipe_file.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "cli/verb.h"

namespace skiff {
namespace {

TEST(RecipeFile, EveryStepIsAVerb) {
    const auto verbs = verb_table();
    for (const StepVerb& row : step_verbs())
        EXPECT_TRUE(std::any_of(verbs.begin(), verbs.end(), [&](const auto& verb) { return verb->name == row.verb; })) << row.verb;
}

TEST(RecipeFile, OptionsBecomeArguments) {
    auto lines = parse_recipe(R"(# a comment
steps:
  - quantize: {scheme: n3g32r, method: gptq, threads: 2, compat: false, allow-requantize: true}
  - eval:
      against: $parent
      max-windows: 64
  - convert: {to: gguf, output: child.gguf}
)", "r.yaml");
    ASSERT_TRUE(lines.ok()) << lines.error().to_string();
    ASSERT_EQ(lines->size(), 3u);
    EXPECT_EQ((*lines)[0].verb, "quantize");
    EXPECT_EQ((*lines)[0].arguments, (std::vector<std::string>{"--scheme=n3g32r", "--method=gptq", "--threads=2", "--allow-requantize"}));
    EXPECT_EQ((*lines)[1].role, StepRole::looks);
    EXPECT_EQ((*lines)[1].line, 4);
    EXPECT_EQ((*lines)[1].arguments, (std::vector<std::string>{"--against=$parent", "--max-windows=64"}));
    EXPECT_EQ((*lines)[2].role, StepRole::exports);
}

TEST(RecipeFile, MistakesAreNamedWithTheirLine) {
    struct Case {
        const char *yaml, *words;
    };
    const Case cases[] = {
        {"", "a recipe is a mapping"},
        {"- quantize", "a recipe is a mapping"},
        {"step:\n  - quantize", "line 1: unknown key \"step\""},
        {"steps: []", "at least one verb"},
        {"steps: quantize", "at least one verb"},
        {"steps:\n  - shrink: {by: 2}", "line 2: \"shrink\" is no step; there are: quantize"},
        {"steps:\n  - quantize: {schema: w4g32}", "line 2: quantize has no option \"schema\"; it has: "},
        {"steps:\n  - quantize: {scheme: [w8, w4g32]}", "scheme: expected one value"},
        {"steps:\n  - quantize: {method: guess}", "\"guess\" is not among nearest, "},
        {"steps:\n  - quantize: {threads: many}", "expected a whole number, found \"many\""},
        {"steps:\n  - quantize: {compat: perhaps}", "expected true or false"},
        {"steps:\n  - quantize: {output: here}", "is for the command line of compress"},
        {"steps:\n  - quantize: [w4g32]", "must be a mapping"},
        {"steps:\n  - {quantize: , eval: }", "a step is a verb"},
        {"steps:\n  - eval: {max-windows: 2}", "no step makes a model"},
        {"steps:\n  - quantize\n  - convert: {to: gguf}", "line 3: convert needs \"output\""},
        {"steps:\n  - convert: {to: hf, force: true, output: x}", "no step makes a model"},
        {"steps: [quantize", "not YAML"},
        {"steps:\n  - quantize: {scheme: *nowhere}", "not YAML"},
    };
    for (const Case& each : cases) {
        auto lines = parse_recipe(each.yaml, "r.yaml");
        ASSERT_FALSE(lines.ok()) << each.yaml;
        EXPECT_EQ(lines.error().code, ErrorCode::usage);
        EXPECT_NE(lines.error().message.find(each.words), std::string::npos) << each.yaml << " -> " << lines.error().message;
    }
    EXPECT_FALSE(parse_recipe(std::string(100000, '['), "deep.yaml").ok());
}

}  // namespace
}  // namespace skiff
