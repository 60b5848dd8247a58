// GGUF files of whole models: written and opened again they compute the same; their metadata and tensor names are those of released files.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>

#include "base/hash.h"
#include "compress/export_gguf.h"
#include "compress/export_hf.h"
#include "formats/gguf.h"
#include "model/arch/arch.h"
#include "model/checkpoint.h"
#include "plan/session.h"

namespace skiff {
namespace {

namespace fs = std::filesystem;
const std::string models_dir = std::string(SKIFF_TEST_DATA_DIR) + "/models";
const std::string shared_dir = SKIFF_SHARED_DIR;

// A folder of this test's own, empty at first.
std::string fresh_folder() {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    std::string name = std::string("skiff_") + info->test_suite_name() + "_" + info->name() + "_" + std::to_string(::getpid());
    for (char& letter : name)
        if (letter == '/') letter = '_';
    const fs::path folder = fs::temp_directory_path() / name;
    fs::remove_all(folder);
    fs::create_directories(folder);
    return folder.string();
}

// A released model's case whose config is changed to what GGUF can express: a copy with links to its weights.
std::string model_folder(const std::string& name, const std::string& work) {
    auto config = read_json_file(models_dir + "/" + name + "/config.json");
    EXPECT_TRUE(config.ok());
    if (name == "gemma2" || name == "gemma3") config->set("query_pre_attn_scalar", (*config)["head_dim"]);
    const std::string folder = work + "/" + name;
    fs::create_directories(folder);
    std::ofstream(folder + "/config.json") << config->dump(1);
    fs::create_symlink(models_dir + "/" + name + "/model.safetensors", folder + "/model.safetensors");
    return folder;
}

std::vector<std::int32_t> some_tokens(std::int64_t n_vocab) {
    std::vector<std::int32_t> tokens;
    for (std::int64_t i = 0; i < 24; ++i) tokens.push_back(static_cast<std::int32_t>((i * 37 + 5) % n_vocab));
    return tokens;
}

std::vector<float> logits_of(const Checkpoint& checkpoint) {
    PlanOptions options;
    options.kernels = KernelChoice::reference;
    options.isa = Isa::generic;
    auto plan = lower(checkpoint.spec, *checkpoint.weights, options);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().to_string());
    if (!plan.ok()) return {};
    auto session = Session::create(*plan, {.n_threads = 1, .n_context = 32});
    EXPECT_TRUE(session.ok());
    Status status = (*session)->forward(0, some_tokens(checkpoint.spec.n_vocab), BatchItem::Logits::all);
    EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().to_string());
    return {(*session)->logits().begin(), (*session)->logits().end()};
}

void expect_same(const std::vector<float>& found, const std::vector<float>& expected, float tolerance) {
    ASSERT_EQ(found.size(), expected.size());
    ASSERT_FALSE(expected.empty());
    float largest = 0, worst = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        largest = std::max(largest, std::abs(expected[i]));
        const float difference = std::abs(found[i] - expected[i]);
        worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
    }
    EXPECT_LE(worst, tolerance * largest);
}

Status convert(const Checkpoint& checkpoint, const std::string& path, const GgufExportOptions& options = {}) {
    SKIFF_TRY(const auto plan, plan_gguf_export(checkpoint, options));
    return write_gguf_export(checkpoint, plan, path, 2, nullptr);
}

class GgufModels : public ::testing::TestWithParam<std::string> {};

TEST_P(GgufModels, WrittenAndOpenedComputeTheSame) {
    const std::string work = fresh_folder(), path = work + "/model.gguf";
    auto source = Checkpoint::open(model_folder(GetParam(), work));
    ASSERT_TRUE(source.ok()) << source.error().to_string();
    Status status = convert(*source, path, {.type = "F32"});
    if (const std::string& name = source->spec.architecture; name == "opt" || name == "lfm2") {
        ASSERT_FALSE(status.ok());
        EXPECT_NE(status.error().to_string().find("no architecture for " + name), std::string::npos) << status.error().to_string();
        return;
    }
    ASSERT_TRUE(status.ok()) << status.error().to_string();
    auto opened = Checkpoint::open(path);
    ASSERT_TRUE(opened.ok()) << opened.error().to_string();
    expect_same(logits_of(*opened), logits_of(*source), 1e-5f);

    // And on to a folder again.
    auto plan = plan_hf_export(*opened, {});
    ASSERT_TRUE(plan.ok()) << plan.error().to_string();
    const std::string back = work + "/back";
    fs::create_directories(back);
    status = write_hf_export(*opened, *plan, back, nullptr);
    ASSERT_TRUE(status.ok()) << status.error().to_string();
    auto folder = Checkpoint::open(back);
    ASSERT_TRUE(folder.ok()) << folder.error().to_string();
    expect_same(logits_of(*folder), logits_of(*source), 1e-5f);
    fs::remove_all(work);
}

std::vector<std::string> case_names() {
    std::vector<std::string> names;
    auto index = read_json_file(models_dir + "/index.json");
    if (index.ok())
        for (const Json& name : index->items()) names.push_back(name.text());
    return names;
}

INSTANTIATE_TEST_SUITE_P(, GgufModels, ::testing::ValuesIn(case_names()), [](const auto& parameter) { return parameter.param; });

TEST(GgufFiles, WhatGgufCannotSayIsRefused) {
    const std::string work = fresh_folder();
    auto source = Checkpoint::open(models_dir + "/gemma2");  // scores scaled by 1/sqrt(5), heads of 8
    ASSERT_TRUE(source.ok());
    Status status = convert(*source, work + "/x.gguf");
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().to_string().find("block0.attn.mix"), std::string::npos) << status.error().to_string();
    EXPECT_FALSE(fs::exists(work + "/x.gguf"));
    fs::remove_all(work);
}

// Codes that blocks can hold keep every value.
TEST(GgufFiles, CodesBecomeBlocksWithoutLoss) {
    auto source = Checkpoint::open(models_dir + "/llama_biases");  // 32 wide
    ASSERT_TRUE(source.ok());
    for (const auto& [scheme, type] : {std::pair{"w4g32", "Q4_0"}, {"w8", "Q8_0"}, {"w8g32", "Q8_0"}, {"w4g32a", "Q5_0"}}) {
        const std::string work = fresh_folder(), path = work + "/x.gguf";
        auto parsed = parse_scheme(scheme);
        if (!parsed.ok()) continue;
        Checkpoint child = *source;
        child.weights = quantized_on_load(
            source->spec, source->weights, [&](const std::string& key) { return key.find("_proj.weight") != std::string::npos ? &*parsed : nullptr; },
            ScaleRule::min_max);
        Status status =
            convert(child, path, {.type = std::string(scheme).back() == 'a' ? type : "auto", .head_type = "F32", .embedding_type = "F32"});
        ASSERT_TRUE(status.ok()) << status.error().to_string();
        auto opened = Checkpoint::open(path);
        ASSERT_TRUE(opened.ok()) << opened.error().to_string();
        int n_blocks = 0;
        for (const auto& [key, tensor] : source->spec.tensors) {
            auto before = child.weights->load(key), after = opened->weights->load(key);
            ASSERT_TRUE(before.ok() && after.ok()) << key;
            if (before->codes() == nullptr) continue;
            if (after->n_columns() % 32 == 0) {
                EXPECT_EQ(after->encoding_name(), type) << scheme << " " << key;
                ++n_blocks;
            }
            std::vector<float> a(static_cast<std::size_t>(before->n_columns())), b(a.size());
            for (std::int64_t row = 0; row < before->n_rows(); ++row) {
                before->row(row, a.data());
                after->row(row, b.data());
                if (after->n_columns() % 32 == 0 || std::string(scheme).back() != 'a') {
                    EXPECT_EQ(a, b) << scheme << " " << key << " row " << row;
                }
            }
        }
        EXPECT_EQ(n_blocks, 12) << scheme;
        fs::remove_all(work);
    }
}

TEST(GgufFiles, TheTinyStoriesFileEqualsItsFolder) {
    const std::string file = shared_dir + "/models/stories260K.gguf", folder = shared_dir + "/models/stories260K";
    if (!fs::exists(file) || !fs::exists(folder)) GTEST_SKIP() << "the shared models are not here";
    auto gguf = Checkpoint::open(file), hf = Checkpoint::open(folder);
    ASSERT_TRUE(gguf.ok()) << gguf.error().to_string();
    ASSERT_TRUE(hf.ok());
    expect_same(logits_of(*gguf), logits_of(*hf), 1e-5f);
    auto a = gguf->load_tokenizer(), b = hf->load_tokenizer();
    ASSERT_TRUE(a.ok() && b.ok());
    const std::string text = "Once upon a time, there was a girl. \n\"Hä?\"";
    EXPECT_EQ(*a->encode(text), *b->encode(text));
}

// ---- files that lie: each is a good file with one thing changed

struct Lie {
    const char* what;
    std::function<void(GgufLayout&)> tell;
    const char* mention;
};

TEST(GgufFiles, LiesAreErrors) {
    const std::string work = fresh_folder(), path = work + "/lie.gguf";
    auto source = Checkpoint::open(models_dir + "/llama_biases");
    ASSERT_TRUE(source.ok());
    auto plan = plan_gguf_export(*source, {.type = "F32"});
    ASSERT_TRUE(plan.ok()) << plan.error().to_string();
    const auto set = [](const char* key, GgufValue value) { return [key, value](GgufLayout& layout) { layout.metadata.set(key, value); }; };
    const Lie lies[] = {
        {"unknown architecture", set("general.architecture", std::string("mamba")), "mamba"},
        {"architecture without a GGUF", set("general.architecture", std::string("opt")), "opt"},
        {"no heads", set("llama.attention.head_count", std::uint32_t{0}), "head_count"},
        {"heads of another type", set("llama.attention.head_count", std::string("4")), "head_count"},
        {"many blocks", set("llama.block_count", std::uint32_t{1000000}), "num_hidden_layers"},
        {"a block more", set("llama.block_count", std::uint32_t{3}), "blk.2."},
        {"a block less", set("llama.block_count", std::uint32_t{1}), "blk.1."},
        {"too many per block", set("llama.feed_forward_length", GgufArray(std::vector<std::int32_t>(3, 39))), "intermediate_size"},
        {"negative width", set("llama.feed_forward_length", GgufArray(std::vector<std::int32_t>{39, -1})), "intermediate_size"},
        {"heads that do not divide", set("llama.attention.head_count_kv", std::uint32_t{3}), "num_key_value_heads"},
        {"zero rotation", set("llama.rope.dimension_count", std::uint32_t{0}), "rope.dimension_count"},
        {"more rotation than head", set("llama.rope.dimension_count", std::uint32_t{1u << 30}), "rope.dimension_count"},
        {"yarn", set("llama.rope.scaling.type", std::string("yarn")), "yarn"},
        {"bad eps", set("llama.attention.layer_norm_rms_epsilon", -1.0f), "rms_norm_eps"},
        {"a key that changes the result", set("llama.attention.scale", 0.5f), "llama.attention.scale"},
        {"a tensor that nobody reads",
         [](GgufLayout& layout) {
             layout.tensors.push_back({"blk.0.attn_sub_norm.weight", gguf_type_by_name("F32"), {32}});
         },
         "attn_sub_norm"},
        {"a tensor less", [](GgufLayout& layout) { layout.tensors.pop_back(); }, "output_norm.weight"},
    };
    for (const Lie& lie : lies) {
        GgufLayout layout = plan->layout;
        lie.tell(layout);
        auto writer = GgufWriter::create(path, layout);
        ASSERT_TRUE(writer.ok()) << lie.what << ": " << writer.error().to_string();
        for (const GgufTensorSpec& tensor : layout.tensors) {
            ASSERT_TRUE(writer->begin(tensor.name).ok());
            ASSERT_TRUE(writer->append_floats(std::vector<float>(static_cast<std::size_t>(element_count(tensor.shape)), 0.5f)).ok());
        }
        ASSERT_TRUE(writer->commit().ok());
        auto opened = Checkpoint::open(path);
        ASSERT_FALSE(opened.ok()) << lie.what;
        EXPECT_NE(opened.error().to_string().find(lie.mention), std::string::npos) << lie.what << ": " << opened.error().to_string();
    }
    fs::remove_all(work);
}

// ---- metadata and names of released files

// The goldens have every value as text; floats compare as floats.
bool equals_text(const GgufValue& value, const std::string& text) {
    return std::visit(
        [&](const auto& v) {
            using T = std::decay_t<decltype(v)>;
            if constexpr (std::is_same_v<T, std::string>) return v == text;
            else if constexpr (std::is_same_v<T, bool>) return text == (v ? "true" : "false");
            else if constexpr (std::is_same_v<T, float>) return v == std::strtof(text.c_str(), nullptr);
            else if constexpr (std::is_integral_v<T>) return std::to_string(v) == text;
            else return false;
        },
        value);
}

struct Released {
    const char* golden;  // file of the shared data
    const char* config;  // a JSON object, or the name of a file of the shared data
};
const Released released[] = {
    {"Meta-Llama-3-8B-Instruct",
     R"({"model_type":"llama","hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,"vocab_size":128256,"max_position_embeddings":8192,"rms_norm_eps":1e-05,"rope_theta":500000.0})"},
    {"Mistral-7B-Instruct-v0.2",
     R"({"model_type":"mistral","hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,"vocab_size":32000,"max_position_embeddings":32768,"rms_norm_eps":1e-05,"rope_theta":10000.0,"sliding_window":null})"},
    {"Mixtral-8x7B-Instruct-v0.1",
     R"({"model_type":"mixtral","hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,"vocab_size":32000,"max_position_embeddings":32768,"rms_norm_eps":1e-05,"rope_theta":1000000.0,"num_local_experts":8,"num_experts_per_tok":2,"sliding_window":null})"},
    {"Qwen2.5-0.5B-Instruct",
     R"({"model_type":"qwen2","hidden_size":896,"intermediate_size":4864,"num_hidden_layers":24,"num_attention_heads":14,"num_key_value_heads":2,"vocab_size":151936,"max_position_embeddings":32768,"rms_norm_eps":1e-06,"rope_theta":1000000.0,"tie_word_embeddings":true})"},
    {"gemma-2-2b-it",
     R"({"model_type":"gemma2","hidden_size":2304,"intermediate_size":9216,"num_hidden_layers":26,"num_attention_heads":8,"num_key_value_heads":4,"head_dim":256,"vocab_size":256000,"max_position_embeddings":8192,"rms_norm_eps":1e-06,"query_pre_attn_scalar":256,"sliding_window":4096})"},
    {"Phi-3-mini-128k-instruct", "hf-configs/Phi3ForCausalLM__3072.json"},
};

TEST(GgufFiles, MetadataAndNamesOfReleasedModels) {
    if (!fs::exists(shared_dir + "/data/gguf-goldens")) GTEST_SKIP() << "the shared data are not here";
    const std::string work = fresh_folder();
    for (const Released& model : released) {
        const std::string config = work + "/" + model.golden + ".json";
        if (model.config[0] == '{') std::ofstream(config) << model.config;
        else fs::copy_file(shared_dir + "/data/" + model.config, config);
        auto golden = read_json_file(shared_dir + "/data/gguf-goldens/" + model.golden + ".json");
        auto checkpoint = Checkpoint::open("random:" + config);
        ASSERT_TRUE(golden.ok() && checkpoint.ok()) << model.golden << (checkpoint.ok() ? "" : checkpoint.error().to_string());
        auto plan = plan_gguf_export(*checkpoint, {.type = "F16"});
        ASSERT_TRUE(plan.ok()) << plan.error().to_string();
        std::set<std::string> expected, found;
        for (const auto& [key, value] : golden->members()) {
            const bool is_metadata = key.compare(0, 8, "general.") == 0 || (!key.ends_with(".weight") && !key.ends_with(".bias"));
            if (key.compare(0, 10, "tokenizer.") == 0) continue;
            if (!is_metadata) expected.insert(key);
            if (!is_metadata) continue;
            const GgufValue* ours = plan->layout.metadata.find(key);
            if (ours == nullptr) ADD_FAILURE() << model.golden << " lacks " << key;
            else EXPECT_TRUE(equals_text(*ours, value.text())) << model.golden << ": " << key << " is not " << value.text();
        }
        for (std::size_t i = 0; i < plan->tensors.size(); ++i) {
            const std::string& name = plan->layout.tensors[i].name;
            found.insert(name);
            // Tensors that come from the config have known bytes: LongRoPE's factors.
            if (!plan->tensors[i].keys.empty()) continue;
            EXPECT_EQ(sha256_hex(std::as_bytes(std::span(plan->tensors[i].values))), (*golden)[name].text()) << model.golden << ": " << name;
        }
        EXPECT_EQ(found, expected) << model.golden;
    }
    fs::remove_all(work);
}

}  // namespace
}  // namespace skiff
