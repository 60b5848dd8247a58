// Every architecture against Hugging Face transformers on tiny random models (tests/golden/README.md).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "formats/compressed_tensors.h"
#include "formats/safetensors.h"
#include "model/arch/arch.h"
#include "model/checkpoint.h"
#include "plan/session.h"

namespace skiff {
namespace {

const std::string models_dir = std::string(SKIFF_TEST_DATA_DIR) + "/models";

Json read_json(const std::string& path) {
    auto json = read_json_file(path);
    EXPECT_TRUE(json.ok()) << path;
    return json.ok() ? *json : Json();
}

std::vector<std::string> case_names() {
    std::vector<std::string> names;
    const Json list = read_json(models_dir + "/index.json");
    for (const Json& name : list.items()) names.push_back(name.text());
    return names;
}

struct Golden {
    std::vector<std::int32_t> ids;
    std::vector<float> logits;  // (n_tokens, n_vocab)
    float largest() const {
        float largest = 0;
        for (float value : logits) largest = std::max(largest, std::abs(value));
        return largest;
    }
};

Golden read_golden(const std::string& name, const std::string& suffix = "") {
    Golden golden;
    auto file = SafetensorsFile::open(models_dir + "/" + name + "/golden.safetensors");
    EXPECT_TRUE(file.ok());
    auto ids = file->view("input_ids" + suffix), logits = file->view("logits" + suffix);
    EXPECT_TRUE(ids.ok() && logits.ok());
    for (std::int64_t i = 0; i < ids->n_elements(); ++i) {
        std::int64_t id;
        std::memcpy(&id, ids->data.data() + i * 8, 8);
        golden.ids.push_back(static_cast<std::int32_t>(id));
    }
    EXPECT_TRUE(to_floats(*logits, golden.logits));
    return golden;
}

// The logits of all positions, the ids fed `chunk` at a time.
std::vector<float> run(const std::shared_ptr<const Plan>& plan, const std::vector<std::int32_t>& ids, std::size_t chunk) {
    auto session = Session::create(plan, {.n_threads = 2, .n_context = static_cast<std::int64_t>(ids.size())});
    EXPECT_TRUE(session.ok());
    std::vector<float> logits;
    for (std::size_t begin = 0; begin < ids.size(); begin += chunk) {
        auto part = std::span(ids).subspan(begin, std::min(chunk, ids.size() - begin));
        Status status = (*session)->forward(0, part, BatchItem::Logits::all);
        EXPECT_TRUE(status.ok()) << status.error().to_string();
        logits.insert(logits.end(), (*session)->logits().begin(), (*session)->logits().end());
    }
    return logits;
}

void expect_near(const std::vector<float>& found, const Golden& golden, float tolerance, const std::string& what) {
    ASSERT_EQ(found.size(), golden.logits.size()) << what;
    const float bound = tolerance * golden.largest();
    float worst = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        const float difference = std::abs(found[i] - golden.logits[i]);
        worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
    }
    EXPECT_LE(worst, bound) << what << ": relative difference " << worst / golden.largest();
}

class Models : public ::testing::TestWithParam<std::string> {};

void compare(const std::string& name, const Golden& golden) {
    auto checkpoint = Checkpoint::open(models_dir + "/" + name);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().to_string();
    struct Way {
        KernelChoice kernels;
        Isa isa;
        float tolerance;
    };
    for (const Way& way : {Way{KernelChoice::reference, Isa::generic, 1e-4f}, Way{KernelChoice::fastest, best_isa(), 1e-3f}}) {
        PlanOptions options;
        options.kernels = way.kernels;
        options.isa = way.isa;
        auto plan = lower(checkpoint->spec, *checkpoint->weights, options);
        ASSERT_TRUE(plan.ok()) << plan.error().to_string();
        const std::vector<float> whole = run(*plan, golden.ids, golden.ids.size());
        const std::string what = name + ", " + std::string(way.kernels == KernelChoice::reference ? "reference" : "fastest") + " kernels";
        expect_near(whole, golden, way.tolerance, what);
        for (std::size_t chunk : {std::size_t{1}, std::size_t{7}})  // the same bits however the text is cut
            EXPECT_TRUE(run(*plan, golden.ids, chunk) == whole) << what << ", chunks of " << chunk;
    }
}

TEST_P(Models, LogitsEqualThoseOfTransformers) { compare(GetParam(), read_golden(GetParam())); }

// Eight bits lose little, and a weight that was turned or cut wrongly would lose all.
TEST_P(Models, QuantizedOnLoadStaysClose) {
    const Golden golden = read_golden(GetParam());
    auto checkpoint = Checkpoint::open(models_dir + "/" + GetParam());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().to_string();
    const Scheme scheme = *parse_scheme("w8g32");
    const ModelSpec& spec = checkpoint->spec;
    auto weights = quantized_on_load(
        spec, checkpoint->weights,
        [&](const std::string& key) { return spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; }, ScaleRule::search);
    for (KernelChoice kernels : {KernelChoice::reference, KernelChoice::fastest}) {
        PlanOptions options;
        options.kernels = kernels;
        auto plan = lower(spec, *weights, options);
        ASSERT_TRUE(plan.ok()) << plan.error().to_string();
        expect_near(run(*plan, golden.ids, golden.ids.size()), golden, 0.1f, GetParam());
    }
}

// transformers chooses LongRoPE's factors by the length of the text, we by the length that a session may reach.
TEST(LongRope, ShortTextsTakeTheShortFactors) { compare("phi3_longrope", read_golden("phi3_longrope", "_short")); }

TEST(LearnedPositions, EndTheContext) {
    for (const char* name : {"gpt2", "opt"}) {
        auto checkpoint = Checkpoint::open(models_dir + "/" + name);
        ASSERT_TRUE(checkpoint.ok());
        auto plan = lower(checkpoint->spec, *checkpoint->weights, {});
        ASSERT_TRUE(plan.ok());
        auto session = Session::create(*plan, {.n_threads = 1, .n_context = 1000});
        ASSERT_TRUE(session.ok());
        EXPECT_EQ((*session)->state().capacity(), 40);
        EXPECT_TRUE((*session)->forward(0, std::vector<std::int32_t>(40, 5), BatchItem::Logits::last).ok());
        Status status = (*session)->forward(0, std::vector<std::int32_t>(1, 5), BatchItem::Logits::last);
        ASSERT_FALSE(status.ok());
        EXPECT_NE(status.error().to_string().find("40 tokens"), std::string::npos);
    }
}

TEST_P(Models, BothFormsOfTheConfigMeanTheSame) {
    auto modern = build_spec(read_json(models_dir + "/" + GetParam() + "/config.json"));
    auto classic = build_spec(read_json(models_dir + "/" + GetParam() + "/config_classic.json"));
    ASSERT_TRUE(modern.ok()) << modern.error().to_string();
    ASSERT_TRUE(classic.ok()) << classic.error().to_string();
    EXPECT_TRUE(*modern == *classic);
}

INSTANTIATE_TEST_SUITE_P(, Models, ::testing::ValuesIn(case_names()), [](const auto& parameter) { return parameter.param; });

TEST(Configs, EveryArchitectureHasAGolden) {
    std::set<std::string> covered;
    for (const std::string& name : case_names()) {
        auto spec = build_spec(read_json(models_dir + "/" + name + "/config.json"));
        if (spec.ok()) covered.insert(spec->architecture);
    }
    for (const Architecture& row : architecture_table()) EXPECT_TRUE(covered.count(std::string(row.name))) << row.name << " has no case in " << models_dir;
}

// What opening a folder reads from its config.json.
Status read_config(const Json& config) {
    auto spec = build_spec(config);
    if (!spec.ok()) return spec.take_error();
    if (config["quantization_config"].is_null()) return {};
    auto quantization = QuantizationConfig::parse(config["quantization_config"]);
    return quantization.ok() ? Status() : Status(quantization.take_error());
}

TEST(Configs, WhatChangesTheMathematicsIsRefusedByName) {
    const Json list = read_json(models_dir + "/bad_configs.json");
    for (const Json& item : list.items()) {
        Status status = read_config(item["config"]);
        ASSERT_FALSE(status.ok()) << item["name"].text() << " was accepted";
        EXPECT_NE(status.error().to_string().find(item["expected_mention"].text()), std::string::npos) << item["name"].text() << ": " << status.error().to_string();
    }
}

TEST(Configs, BookkeepingIsAccepted) {
    const Json list = read_json(models_dir + "/harmless_configs.json");
    for (const Json& item : list.items()) {
        Status status = read_config(item["config"]);
        EXPECT_TRUE(status.ok()) << item["name"].text() << ": " << (status.ok() ? "" : status.error().to_string());
    }
}

TEST(Configs, ArraysAndPerLayerConfigMeanTheSame) {
    Json config = read_json(models_dir + "/llama_pruned/config.json");
    auto overrides = build_spec(config);
    config.erase("per_layer_config");
    config.set("num_attention_heads", Json::array({4, 2, 3}));
    config.set("num_key_value_heads", Json::array({2, 1, 3}));
    config.set("intermediate_size", Json::array({39, 27, 12}));
    auto arrays = build_spec(config);
    ASSERT_TRUE(overrides.ok() && arrays.ok()) << (arrays.ok() ? "" : arrays.error().to_string());
    EXPECT_TRUE(*overrides == *arrays);
    config.set("intermediate_size", Json::array({39, 27}));
    EXPECT_FALSE(build_spec(config).ok());
}

TEST(Configs, TheTextPartOfAGemma3) {
    Json config = Json::object({{"model_type", "gemma3"}, {"vision_config", Json::object({{"hidden_size", 1152}})}});
    config.set("text_config", Json::object({{"hidden_size", 2560}, {"intermediate_size", 10240}, {"model_type", "gemma3_text"}, {"num_hidden_layers", 34},
                                            {"rope_scaling", Json::object({{"factor", 8.0}, {"rope_type", "linear"}})}, {"sliding_window", 1024}}));
    auto spec = build_spec(config);
    ASSERT_TRUE(spec.ok()) << spec.error().to_string();
    EXPECT_NEAR(static_cast<double>(spec->n_parameters()), 3.88e9, 0.01e9);  // Gemma 3 4B without its vision tower
}

// Configs of released models. Sizes are those of their model cards.
TEST(Configs, ReleasedModels) {
    const std::string folder = std::string(SKIFF_SHARED_DIR) + "/data/hf-configs";
    if (!std::filesystem::is_directory(folder)) GTEST_SKIP() << "the shared data are not here";
    const std::pair<std::string, double> parameters[] = {
        {"Qwen2ForCausalLM__896", 0.494e9}, {"Qwen2ForCausalLM__1536", 1.544e9}, {"Qwen2ForCausalLM__3584", 7.616e9}, {"typed_Qwen2.5-3B", 3.086e9}, {"LlamaForCausalLM__4096", 6.738e9},
        {"LlamaForCausalLM__5120", 13.016e9}, {"LlamaForCausalLM__3072", 3.213e9}, {"LlamaForCausalLM__576", 0.1345e9}, {"LLaMAForCausalLM__256", 17.1e6}, {"LlamaForCausalLM__192", 13.0e6},
        {"MistralForCausalLM__5120", 23.57e9}, {"OPTForCausalLM__2048", 1.316e9}, {"OPTForCausalLM__2560", 2.652e9}, {"OPTForCausalLM__4096", 6.658e9}, {"OPTForCausalLM__5120", 12.85e9},
        {"OPTForCausalLM__7168", 29.97e9}, {"Phi3ForCausalLM__3072", 3.821e9}, {"Qwen3ForCausalLM__2560", 4.022e9}, {"Qwen3ForCausalLM__4096", 8.191e9}, {"GPT2LMHeadModel__768", 0.12444e9},
    };
    for (const auto& [name, expected] : parameters) {
        auto spec = build_spec(read_json(folder + "/" + name + ".json"));
        ASSERT_TRUE(spec.ok()) << name << ": " << spec.error().to_string();
        EXPECT_NEAR(static_cast<double>(spec->n_parameters()), expected, 0.01 * expected) << name;
    }
}

}  // namespace
}  // namespace skiff
