// Models whose parts contradict each other: each ends in an error that names the place, never in a crash, a hang or memory without bounds.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>

#include "base/json.h"
#include "base/mapped_file.h"
#include "base/progress.h"
#include "model/arch/arch.h"
#include "runtime/engine.h"

namespace skiff {
namespace {

const std::string models_dir = std::string(SKIFF_TEST_DATA_DIR) + "/models";

struct StoredTensor {
    std::string dtype;
    std::vector<std::int64_t> shape;
    std::string bytes;
};

std::int64_t dtype_bytes(const std::string& dtype) {
    if (dtype == "F64" || dtype == "I64") return 8;
    if (dtype == "F32" || dtype == "I32") return 4;
    return dtype == "F16" || dtype == "BF16" ? 2 : 1;
}

// A model folder in memory, to be damaged and written.
struct Model {
    Json config;
    std::map<std::string, StoredTensor> tensors;
    std::map<std::string, std::string> files;

    explicit Model(const std::string& name = "llama") {
        const std::string folder = models_dir + "/" + name;
        config = *Json::parse(*read_text_file(folder + "/config.json", 1 << 20));
        const std::string file = *read_text_file(folder + "/model.safetensors", 64 << 20);
        std::uint64_t size = 0;
        std::memcpy(&size, file.data(), 8);
        const Json header = *Json::parse(file.substr(8, size));
        for (const auto& [key, entry] : header.members()) {
            if (key == "__metadata__") continue;
            const auto begin = static_cast<std::size_t>(entry["data_offsets"].items()[0].int_or(0)),
                       end = static_cast<std::size_t>(entry["data_offsets"].items()[1].int_or(0));
            StoredTensor tensor{entry["dtype"].text(), {}, file.substr(8 + size + begin, end - begin)};
            for (const Json& n : entry["shape"].items()) tensor.shape.push_back(n.int_or(0));
            tensors[key] = tensor;
        }
    }

    // Zeros of any type and shape in place of a tensor.
    void replace(const std::string& key, const std::string& dtype, std::vector<std::int64_t> shape) {
        std::int64_t n = dtype_bytes(dtype);
        for (std::int64_t size : shape) n *= size;
        tensors[key] = {dtype, std::move(shape), std::string(static_cast<std::size_t>(n), '\0')};
    }

    std::string write() const {
        const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
        const std::string folder = ::testing::TempDir() + "skiff_hostile_" + test->name();
        ::mkdir(folder.c_str(), 0700);
        std::ofstream(folder + "/config.json") << config.dump(1);
        for (const auto& [name, text] : files) std::ofstream(folder + "/" + name) << text;
        std::string data;
        Json header = Json::object();
        for (const auto& [key, tensor] : tensors) {
            Json shape = Json::array();
            for (std::int64_t n : tensor.shape) shape.push_back(n);
            header.set(key, Json::object({{"dtype", tensor.dtype},
                                          {"shape", shape},
                                          {"data_offsets", Json::array({data.size(), data.size() + tensor.bytes.size()})}}));
            data += tensor.bytes;
        }
        std::string text = header.dump();
        text.resize((text.size() + 7) / 8 * 8, ' ');
        const std::uint64_t size = text.size();
        std::ofstream file(folder + "/model.safetensors", std::ios::binary);
        file.write(reinterpret_cast<const char*>(&size), 8);
        file << text << data;
        return folder;
    }
};

EngineOptions two_threads() {
    EngineOptions options;
    options.n_threads = 2;
    return options;
}

// Opening or lowering must fail, and the message must mention all of `mentions`.
void expect_refused(const Model& model, std::initializer_list<const char*> mentions) {
    auto engine = Engine::load(model.write(), two_threads());
    ASSERT_FALSE(engine.ok()) << "accepted";
    const std::string text = engine.error().to_string();
    for (const char* mention : mentions) EXPECT_NE(text.find(mention), std::string::npos) << text;
}

constexpr const char* q_proj = "model.layers.0.self_attn.q_proj.weight";

TEST(HostileTensors, AnUntouchedModelRuns) { ASSERT_TRUE(Engine::load(Model().write(), two_threads()).ok()); }

TEST(HostileTensors, ShapesThatTheConfigDoesNotImply) {
    for (const char* key : {q_proj, "model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.down_proj.weight"}) {
        for (const std::vector<std::int64_t>& shape :
             std::vector<std::vector<std::int64_t>>{{20, 24}, {24 * 20}, {1, 24, 20}, {24, 0}, {0, 20}, {0}, {}, {1, 1}, {97, 21}, {1000, 20}}) {
            Model model;
            model.replace(key, "F32", shape);
            expect_refused(model, {key, "shape"});
        }
    }
    for (const std::vector<std::int64_t>& shape : std::vector<std::vector<std::int64_t>>{{19}, {21}, {20, 1}, {1, 20}, {0}, {}}) {
        Model model;
        model.replace("model.norm.weight", "F32", shape);
        expect_refused(model, {"model.norm.weight", "shape"});
    }
}

TEST(HostileTensors, TypesThatAreNoWeights) {
    for (const char* dtype : {"I64", "I32", "BOOL", "U8", "I8", "F64"}) {
        for (const char* key : {q_proj, "model.embed_tokens.weight", "lm_head.weight"}) {
            Model model;
            model.replace(key, dtype, model.tensors[key].shape);
            auto engine = Engine::load(model.write(), two_threads());
            if (engine.ok()) {  // a type that can be read as numbers must then also run
                EXPECT_STREQ(dtype, "F64") << key;
                continue;
            }
            EXPECT_NE(engine.error().to_string().find(key), std::string::npos) << engine.error().to_string();
        }
        Model model;
        model.replace("model.norm.weight", dtype, {20});
        auto engine = Engine::load(model.write(), two_threads());
        if (engine.ok()) {
            EXPECT_STREQ(dtype, "F64");
        } else {
            EXPECT_NE(engine.error().to_string().find("model.norm.weight"), std::string::npos) << engine.error().to_string();
        }
    }
}

TEST(HostileTensors, MissingOnes) {
    for (const auto& [key, tensor] : Model().tensors) {
        Model model;
        model.tensors.erase(key);
        expect_refused(model, {key.c_str()});
    }
}

TEST(HostileTensors, TransposedOnesOfGpt2) {
    Model model("gpt2");
    for (const auto& [key, tensor] : Model("gpt2").tensors) {
        if (key.find("c_attn.weight") == std::string::npos) continue;
        model.replace(key, "F32", {tensor.shape[1], tensor.shape[0]});
        expect_refused(model, {key.c_str(), "shape"});
        model.replace(key, "F32", {tensor.shape[0]});
        expect_refused(model, {key.c_str(), "shape"});
        model.replace(key, "BOOL", tensor.shape);
        expect_refused(model, {key.c_str(), "type"});
        return;
    }
    FAIL() << "the model has no c_attn";
}

Json pack_quantized(std::int64_t bits, std::int64_t group_size) {
    return Json::object({{"quant_method", "compressed-tensors"},
                         {"format", "pack-quantized"},
                         {"quantization_status", "compressed"},
                         {"ignore", Json::array({"lm_head"})},
                         {"config_groups", Json::object({{"group_0", Json::object({{"targets", Json::array({"Linear"})},
                                                                                   {"weights", Json::object({{"num_bits", bits},
                                                                                                             {"type", "int"},
                                                                                                             {"symmetric", true},
                                                                                                             {"strategy", "group"},
                                                                                                             {"group_size", group_size}})}})}})}});
}

// q_proj (24, 20) in 4 bits, groups of 20: one scale a row.
Model quantized_model(std::vector<std::int64_t> packed, std::vector<std::int64_t> scales, std::vector<std::int64_t> weight_shape) {
    Model model;
    model.config.set("quantization_config", pack_quantized(4, 20));
    model.tensors.erase(q_proj);
    const std::string module = "model.layers.0.self_attn.q_proj";
    model.replace(module + ".weight_packed", "I32", std::move(packed));
    model.replace(module + ".weight_scale", "F32", std::move(scales));
    std::string bytes;
    for (std::int64_t n : weight_shape) bytes.append(reinterpret_cast<const char*>(&n), 8);
    const auto rank = static_cast<std::int64_t>(weight_shape.size());
    model.tensors[module + ".weight_shape"] = {"I64", {rank}, bytes};
    return model;
}

TEST(HostileTensors, QuantizedWeightsWhoseShapesLie) {
    ASSERT_TRUE(Engine::load(quantized_model({24, 3}, {24, 1}, {24, 20}).write(), two_threads()).ok());
    constexpr std::int64_t huge = std::int64_t{1} << 62, most = std::numeric_limits<std::int64_t>::max();
    for (const std::vector<std::int64_t>& shape : std::vector<std::vector<std::int64_t>>{
             {24, 24}, {20, 24}, {24, 0}, {0, 20}, {-24, -20}, {24, huge}, {huge, huge}, {most, 2}, {24}, {}, {24, 20, 1}, {24, 16}, {23, 20}})
        expect_refused(quantized_model({24, 3}, {24, 1}, shape), {"q_proj"});
    expect_refused(quantized_model({24, 2}, {24, 1}, {24, 20}), {"q_proj"});
    expect_refused(quantized_model({72}, {24, 1}, {24, 20}), {"q_proj"});
    expect_refused(quantized_model({24, 3}, {24, 2}, {24, 20}), {"q_proj"});
    expect_refused(quantized_model({24, 3}, {23, 1}, {24, 20}), {"q_proj"});
    expect_refused(quantized_model({24, 3}, {1}, {24, 20}), {"q_proj"});
}

TEST(HostileTensors, LowRankTermsThatDoNotFit) {
    const std::string base = "model.layers.0.self_attn.q_proj";
    for (const auto& [up, down] : std::vector<std::pair<std::vector<std::int64_t>, std::vector<std::int64_t>>>{
             {{24, 3}, {4, 20}}, {{24, 0}, {0, 20}}, {{24}, {20}}, {{24, 3}, {3, 21}}, {{23, 3}, {3, 20}}}) {
        Model model;
        model.replace(base + ".low_rank_up", "F32", up);
        model.replace(base + ".low_rank_down", "F32", down);
        expect_refused(model, {"low_rank"});
    }
    Model model;
    model.replace(base + ".input_scale", "F32", {1});
    expect_refused(model, {"input_scale"});
}

TEST(HostileTensors, NanWeightsEndInAnErrorNotInText) {
    Model model;
    auto& norm = model.tensors["model.norm.weight"].bytes;
    const float nan = std::nanf("");
    std::memcpy(norm.data(), &nan, 4);
    auto engine = Engine::load(model.write(), two_threads());
    ASSERT_TRUE(engine.ok());
    const std::int32_t tokens[] = {3, 4};
    ASSERT_TRUE((*engine)->session().forward(0, tokens, BatchItem::Logits::last).ok());
    auto token = Sampler({}).sample((*engine)->session().logits());
    ASSERT_FALSE(token.ok());
    EXPECT_NE(token.error().to_string().find("NaN"), std::string::npos);
}

// ---- tokenizers and contexts

std::string characters_tokenizer() { return *read_text_file(std::string(SKIFF_TEST_DATA_DIR) + "/tokenizers/gpt2.tokenizer.json", 64 << 20); }

TEST(HostileTokenizer, IdsThatTheModelLacksAreAnError) {
    Model model;  // 97 tokens; the tokenizer has more
    model.files["tokenizer.json"] = characters_tokenizer();
    auto engine = Engine::load(model.write(), two_threads());
    ASSERT_TRUE(engine.ok()) << engine.error().to_string();
    auto tokens = (*engine)->tokenizer()->encode("the of and in that with");
    ASSERT_TRUE(tokens.ok());
    tokens->push_back(static_cast<std::int32_t>((*engine)->tokenizer()->n_vocab()) - 1);
    auto result = (*engine)->generate(*tokens, {}, nullptr);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::corrupt);
    EXPECT_NE(result.error().to_string().find("belongs to another model"), std::string::npos) << result.error().to_string();
    for (std::int32_t token : {-1, 97, std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min()}) {
        const std::int32_t one[] = {token};
        EXPECT_FALSE((*engine)->session().forward(0, one, BatchItem::Logits::last).ok()) << token;
    }
}

TEST(HostileTokenizer, TokensThatOnlyTheModelHasDecodeToNothing) {
    Model model("llama");
    model.config.set("vocab_size", 4096);  // more than the tokenizer: the rest is padding
    for (const char* key : {"model.embed_tokens.weight", "lm_head.weight"}) model.replace(key, "F32", {4096, 20});
    model.files["tokenizer.json"] = characters_tokenizer();
    auto engine = Engine::load(model.write(), two_threads());
    ASSERT_TRUE(engine.ok()) << engine.error().to_string();
    GenerateOptions options;
    options.sampling = {.temperature = 100, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 5};
    options.max_tokens = 40;
    auto result = (*engine)->generate({3}, options, nullptr);
    ASSERT_TRUE(result.ok()) << result.error().to_string();
    EXPECT_EQ(result->tokens.size(), 40u);
}

TEST(HostileContext, EmptyPromptsAndFullContexts) {
    Model model;
    model.files["tokenizer.json"] = characters_tokenizer();
    EngineOptions options = two_threads();
    options.n_context = 4;
    auto engine = Engine::load(model.write(), options);
    ASSERT_TRUE(engine.ok()) << engine.error().to_string();
    EXPECT_EQ((*engine)->generate({}, {}, nullptr).error().code, ErrorCode::usage);
    auto full = (*engine)->generate({1, 2, 3, 4, 5}, {}, nullptr);
    ASSERT_FALSE(full.ok());
    EXPECT_EQ(full.error().code, ErrorCode::resource);
    GenerateOptions greedy;
    greedy.sampling.temperature = 0;
    greedy.end_of_text = GenerateOptions::EndOfText::ignore;
    auto cut = (*engine)->generate({1, 2, 3}, greedy, nullptr);  // after the failure: nothing is left behind
    ASSERT_TRUE(cut.ok()) << cut.error().to_string();
    EXPECT_EQ(cut->finish, GenerateResult::Finish::context_full);
    EXPECT_EQ(cut->tokens.size(), 2u);
    for (std::int64_t context : {std::int64_t{-1}, std::numeric_limits<std::int64_t>::max()}) {
        options.n_context = context;
        auto odd = Engine::load(model.write(), options);
        if (odd.ok()) continue;  // the default, or memory that is only reserved
        EXPECT_NE(odd.error().to_string().find("context"), std::string::npos) << odd.error().to_string();
    }
}

TEST(HostileContext, LearnedPositionsEndTheContext) {
    Model model("gpt2");
    EngineOptions options = two_threads();
    options.n_context = 1 << 20;
    auto engine = Engine::load(model.write(), options);
    ASSERT_TRUE(engine.ok()) << engine.error().to_string();
    const std::int64_t most = (*engine)->session().state().capacity();
    EXPECT_EQ(most, (*engine)->checkpoint().spec.max_positions);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(most), 1);
    ASSERT_TRUE((*engine)->session().forward(0, tokens, BatchItem::Logits::last).ok());
    const std::int32_t one[] = {1};
    Status status = (*engine)->session().forward(0, one, BatchItem::Logits::last);
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().to_string().find("learned positions"), std::string::npos);
    EXPECT_EQ((*engine)->session().state().length(0), most);
}

TEST(HostileContext, AFailedSinkLeavesTheStateAsItWas) {
    EngineOptions options = two_threads();
    options.max_batch = 4;
    auto engine = Engine::load(Model().write(), options);
    ASSERT_TRUE(engine.ok());
    Session& session = (*engine)->session();
    BatchItem item{0, std::vector<std::int32_t>(10, 5), BatchItem::Logits::all};
    int n_chunks = 0;
    Status status = session.forward(std::span(&item, 1), [&](std::int64_t, std::span<const float>) -> Status {
        if (++n_chunks == 2) return runtime_error("disk full");
        return {};
    });
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(session.state().length(0), 0);
}

// ---- configs

std::size_t peak_bytes() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

// Every key of every architecture's config with every odd value: an error or a consistent spec, soon, in little memory.
TEST(HostileConfig, OddValuesUnderEveryKey) {
    const Json odd[] = {Json(),
                        Json(true),
                        Json(0),
                        Json(-1),
                        Json(1),
                        Json(3),
                        Json(1023),
                        Json(1 << 20),
                        Json(std::int64_t{1} << 31),
                        Json((std::int64_t{1} << 31) + 1),
                        Json(std::numeric_limits<std::int64_t>::max()),
                        Json(std::numeric_limits<std::uint64_t>::max()),
                        Json(1e300),
                        Json(-1e-300),
                        Json(1e-300),
                        Json("silu"),
                        Json(std::string(100000, 'x')),
                        Json::array(),
                        Json::array({1, 2}),
                        Json::array({0, -1}),
                        Json(Json::Array(5000, Json(7))),
                        Json::object(),
                        Json::object({{"type", "longrope"}, {"short_factor", Json::array({1.0})}, {"long_factor", 2}}),
                        Json::object({{"0", Json::object({{"intermediate_size", std::int64_t{1} << 31}})}})};
    const char* extra[] = {"head_dim",
                           "per_layer_config",
                           "layer_types",
                           "rope_scaling",
                           "rope_parameters",
                           "sliding_window",
                           "rotary_pct",
                           "partial_rotary_factor",
                           "max_position_embeddings",
                           "original_max_position_embeddings",
                           "num_local_experts",
                           "num_experts_per_tok",
                           "word_embed_proj_dim",
                           "n_inner",
                           "n_positions",
                           "sliding_window_pattern",
                           "text_config",
                           "query_pre_attn_scalar",
                           "max_window_layers"};
    for (const char* name : {"llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3_longrope", "gpt2", "gpt_neox", "opt"}) {
        const Json config = Model(name).config;
        std::vector<std::string> keys(std::begin(extra), std::end(extra));
        for (const auto& [key, value] : config.members()) keys.push_back(key);
        for (const std::string& key : keys) {
            for (const Json& value : odd) {
                Json changed = config;
                changed.set(key, value);
                const double begin = monotonic_seconds();
                auto spec = build_spec(changed);
                const std::string what = std::string(name) + ": " + key + " = " + value.dump().substr(0, 60);
                EXPECT_LT(monotonic_seconds() - begin, 20) << what;
                if (!spec.ok()) {
                    EXPECT_FALSE(spec.error().message.empty()) << what;
                    EXPECT_LT(spec.error().to_string().size(), 2000u) << what;
                    continue;
                }
                EXPECT_GT(spec->n_parameters(), 0) << what;
                EXPECT_GT(spec->multiply_adds_per_token(), 0) << what;
            }
        }
    }
    EXPECT_LT(peak_bytes(), std::size_t{512} << 20);
}

TEST(HostileConfig, TheLargestSizesTogetherDoNotOverflow) {
    Json config = Model("llama").config;
    for (const auto& [key, value] : {std::pair{"hidden_size", 1 << 20},
                                     {"num_hidden_layers", 1024},
                                     {"num_attention_heads", 1 << 16},
                                     {"num_key_value_heads", 1 << 16},
                                     {"intermediate_size", 1 << 24},
                                     {"vocab_size", 1 << 24},
                                     {"head_dim", 4096}})
        config.set(key, value);
    const double begin = monotonic_seconds();
    auto spec = build_spec(config);
    if (!spec.ok()) return;  // a limit on the product is as good
    EXPECT_GT(spec->n_parameters(), std::int64_t{1} << 58);
    EXPECT_GT(spec->multiply_adds_per_token(), std::int64_t{1} << 58);
    EXPECT_GT(spec->state_elements_per_token(), 0);
    EXPECT_LT(monotonic_seconds() - begin, 20);
}

}  // namespace
}  // namespace skiff
