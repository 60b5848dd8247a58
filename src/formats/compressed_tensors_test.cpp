// Against the compressed-tensors package: tests/golden/compressed_tensors_pack.py packed these tensors and decoded them again.
#include "formats/compressed_tensors.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"

namespace skiff {
namespace {

std::string golden(const char* name) { return std::string(SKIFF_TEST_DATA_DIR) + "/compressed_tensors/" + name; }

Json json(const std::string& text) {
    auto value = Json::parse(text);
    EXPECT_TRUE(value.ok()) << value.error().to_string();
    return value.ok() ? *value : Json();
}

struct Golden {
    CheckpointFiles files;
    QuantizationConfig config;
};

Result<Golden> read_golden() {
    SKIFF_TRY(auto files, CheckpointFiles::open(golden("tensors.safetensors")));
    SKIFF_TRY(const auto text, read_json_file(golden("quantization_config.json")));
    SKIFF_TRY(auto config, QuantizationConfig::parse(text));
    return Golden{std::move(files), std::move(config)};
}

struct Case {
    const char* module;
    const char* scheme;
};
constexpr Case cases[] = {{"w8", "w8"},           {"w8a", "w8a"},     {"w4g32", "w4g32"}, {"w4g32a", "w4g32a"}, {"w4g128", "w4g128"}, {"w4g128a", "w4g128a"},
                          {"w3g32", "w3g32"},     {"w5a", "w5a"},     {"w2g16", "w2g16"}, {"w4tensor", "w4"},   {"int8", "w8"},       {"int8a", "w8a"}};

TEST(CompressedTensors, DecodesAsThePackageToTheBit) {
    auto data = read_golden();
    ASSERT_TRUE(data.ok()) << data.error().to_string();
    for (const auto& [module, scheme] : cases) {
        auto weight = read_weight(module, lookup_in(data->files), &data->config);
        ASSERT_TRUE(weight.ok()) << weight.error().to_string();
        EXPECT_EQ(weight->encoding_name(), scheme);
        auto expected = data->files.tensor(std::string("expected.") + module);
        ASSERT_TRUE(expected.ok());
        ASSERT_EQ(weight->shape, expected->view.shape);
        std::vector<float> row(static_cast<std::size_t>(weight->n_columns()));
        const DTypeInfo& info = dtype_info(expected->view.dtype);  // the package multiplies in the type of the scales
        std::vector<std::byte> rounded(row.size() * static_cast<std::size_t>(info.bits) / 8);
        for (std::int64_t i = 0; i < weight->n_rows(); ++i) {
            weight->row(i, row.data());
            info.from_float(row.data(), weight->n_columns(), rounded.data());
            EXPECT_EQ(std::memcmp(rounded.data(), expected->view.data.data() + static_cast<std::size_t>(i) * rounded.size(), rounded.size()), 0) << module << " row " << i;
        }
    }
}

TEST(CompressedTensors, WritesThePackagesBytes) {
    auto data = read_golden();
    ASSERT_TRUE(data.ok());
    for (const auto& [module, scheme] : cases) {
        const std::string name = module;
        if (name.starts_with("int8") || name == "w4tensor") continue;  // read, but written in another form
        auto weight = read_weight(name, lookup_in(data->files), &data->config);
        ASSERT_TRUE(weight.ok());
        auto tensors = weight_tensors(name, *weight);
        ASSERT_TRUE(tensors.ok());
        EXPECT_EQ(tensors->size(), weight->codes()->scheme.symmetric ? 3u : 4u);
        for (const auto& tensor : *tensors) {
            auto theirs = data->files.tensor(tensor.name);
            ASSERT_TRUE(theirs.ok()) << tensor.name;
            EXPECT_EQ(tensor.dtype, theirs->view.dtype) << tensor.name;
            EXPECT_EQ(tensor.shape, theirs->view.shape) << tensor.name;
            EXPECT_TRUE(std::equal(tensor.bytes.begin(), tensor.bytes.end(), theirs->view.data.begin(), theirs->view.data.end())) << tensor.name;
        }
    }
}

TEST(CompressedTensors, SixteenBitWeightsAreAsTheyAre) {
    auto data = read_golden();
    ASSERT_TRUE(data.ok());
    for (const auto& [module, dtype] : {std::pair("plain", DType::bf16), std::pair("half", DType::f16)}) {
        auto weight = read_weight(module, lookup_in(data->files), &data->config);
        ASSERT_TRUE(weight.ok()) << weight.error().to_string();
        ASSERT_NE(weight->plain(), nullptr);
        EXPECT_EQ(weight->plain()->dtype, dtype);
        auto tensors = weight_tensors(module, *weight);
        ASSERT_TRUE(tensors.ok());
        ASSERT_EQ(tensors->size(), 1u);
        EXPECT_EQ((*tensors)[0].name, std::string(module) + ".weight");
    }
}

// What encode_nearest makes, stored and read again: the same rows, for presets and for group sizes that leave a rest.
TEST(CompressedTensors, OurWeightsReturn) {
    Rng rng(5);
    std::vector<float> values(19 * 172);
    for (float& value : values) value = 0.02f * rng.normal();
    const Weight source = make_float_weight({19, 172}, values);
    for (const char* name : {"w8", "w8a", "w8g32", "w4g32", "w4g32a", "w4g128a", "w3g43a", "w6", "w1g16a", "bf16", "w4g32r", "n4g32r", "n3g16rs64", "n2g40", "nf4", "iq4nl", "mxfp4",
                             "ternary", "binaryg32r", "w5g32ar"}) {
        const Scheme scheme = *parse_scheme(name);
        auto encoded = encode_nearest(source, scheme, ScaleRule::search);
        ASSERT_TRUE(encoded.ok());
        auto tensors = weight_tensors("m", *encoded);
        ASSERT_TRUE(tensors.ok());
        const TensorLookup lookup = [&](const std::string& wanted) -> Result<std::optional<FoundTensor>> {
            for (const auto& tensor : *tensors)
                if (tensor.name == wanted) return std::optional<FoundTensor>({{tensor.dtype, tensor.shape, tensor.bytes}, tensor.owner});
            return std::optional<FoundTensor>();
        };
        std::optional<QuantizationConfig> config;
        if (scheme.is_coded()) {
            auto written = quantization_config_for({{"m", {scheme, 172}}}, {"lm_head"});
            ASSERT_TRUE(written.ok());
            EXPECT_EQ(written->contains("skiff_short_last_group"), scheme.group_size != 0 && 172 % scheme.group_size != 0);
            auto parsed = QuantizationConfig::parse(json(written->dump()));
            ASSERT_TRUE(parsed.ok()) << parsed.error().to_string();
            config = std::move(*parsed);
        }
        auto back = read_weight("m", lookup, config ? &*config : nullptr);
        ASSERT_TRUE(back.ok()) << name << ": " << back.error().to_string();
        EXPECT_EQ(back->encoding_name(), encoded->encoding_name());
        if (scheme.is_coded()) { EXPECT_EQ(back->codes()->scheme, encoded->codes()->scheme); }
        std::vector<float> a(172), b(172);
        for (std::int64_t row = 0; row < 19; ++row) {
            encoded->row(row, a.data());
            back->row(row, b.data());
            EXPECT_EQ(a, b) << name;
        }
    }
}

TEST(QuantizationConfig, NamesWinOverPatternsOverClasses) {
    auto config = QuantizationConfig::parse(json(R"({"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{
        "a":{"targets":["Linear"],"weights":{"num_bits":4,"type":"int","strategy":"group","group_size":32,"symmetric":true}},
        "b":{"targets":["re:.*down_proj"],"weights":{"num_bits":8,"type":"int","strategy":"channel","symmetric":false}},
        "c":{"targets":["layers.0.down_proj"],"weights":{"num_bits":3,"group_size":-1}},
        "d":{"targets":["Embedding"],"weights":null,"input_activations":{"num_bits":8}}},
        "ignore":["lm_head","re:.*router","Conv1d"],"kv_cache_scheme":{"num_bits":8}})"));
    ASSERT_TRUE(config.ok()) << config.error().to_string();
    const auto name_of = [&](const char* module, const char* module_class = "Linear") {
        auto scheme = config->scheme_of(module, module_class);
        return !scheme.ok() ? scheme.error().message : *scheme ? (*scheme)->name() : std::string("none");
    };
    EXPECT_EQ(name_of("layers.1.q_proj"), "w4g32");
    EXPECT_EQ(name_of("layers.1.down_proj"), "w8a");
    EXPECT_EQ(name_of("layers.1.down_proj_extra"), "w8a");  // a pattern is anchored at the front only
    EXPECT_EQ(name_of("layers.0.down_proj"), "w3");
    EXPECT_EQ(name_of("lm_head"), "none");
    EXPECT_EQ(name_of("layers.1.router"), "none");
    EXPECT_EQ(name_of("embed_tokens", "Embedding"), "none");
    EXPECT_EQ(name_of("norm", "LayerNorm"), "none");
    EXPECT_EQ(config->notes().size(), 2u);
}

TEST(QuantizationConfig, OneSchemeCoversTheClassOthersAreNamed) {
    auto written = quantization_config_for({{"l.0.q", {*parse_scheme("w4g32"), 64}},
                                            {"l.1.q", {*parse_scheme("w4g32"), 64}},
                                            {"l.0.down", {*parse_scheme("w8"), 64}},
                                            {"embed", {*parse_scheme("w8"), 64, false}}},
                                           {"lm_head"});
    ASSERT_TRUE(written.ok());
    auto config = QuantizationConfig::parse(*written);
    ASSERT_TRUE(config.ok());
    EXPECT_EQ((*config->scheme_of("l.1.q"))->name(), "w4g32");
    EXPECT_EQ((*config->scheme_of("l.0.down"))->name(), "w8");
    EXPECT_EQ((*config->scheme_of("embed", "Embedding"))->name(), "w8");
    EXPECT_FALSE(config->scheme_of("lm_head")->has_value());
    EXPECT_FALSE(config->short_last_group());
    EXPECT_FALSE(quantization_config_for({{"x", {*parse_scheme("bf16"), 64}}}, {}).ok());
}

TEST(QuantizationConfig, RefusesWhatItCannotRead) {
    const auto group = [](const std::string& weights) {
        return R"({"quant_method":"compressed-tensors","config_groups":{"g":{"targets":["Linear"],"weights":)" + weights + "}}}";
    };
    const std::pair<std::string, const char*> bad[] = {
        {"[]", "must be an object"},
        {R"({"quant_method":"gptq"})", "quant_method is \"gptq\""},
        {R"({"quant_method":"compressed-tensors"})", "config_groups: must be an object"},
        {R"({"quant_method":"compressed-tensors","config_groups":{"W4A16":["Linear"]}})", "not preset names"},
        {R"({"quant_method":"compressed-tensors","config_groups":{},"ignore":[1]})", "ignore: must be a list of strings"},
        {R"({"quant_method":"compressed-tensors","config_groups":{},"ignore":["re:("]})", "pattern \"re:(\""},
        {R"({"quant_method":"compressed-tensors","config_groups":{},"sparsity_config":{"format":"dense"}})", "sparsity_config"},
        {group("7"), "weights must be an object"},
        {group(R"({"num_bits":"4"})"), "num_bits"},
        {group(R"({"num_bits":4,"strategy":"group"})"), "group_size 0 is not possible"},
        {group(R"({"num_bits":4,"strategy":"channel","group_size":32})"), "needs the strategy \"group\""},
        {group(R"({"num_bits":4,"group_size":-2})"), "is not possible"},
        {group(R"({"num_bits":4,"symmetric":1})"), "symmetric must be"},
    };
    for (const auto& [text, message] : bad) {
        auto config = QuantizationConfig::parse(json(text));
        ASSERT_FALSE(config.ok()) << text;
        EXPECT_NE(config.error().message.find(message), std::string::npos) << config.error().message;
    }
    const char* unsupported[] = {R"({"num_bits":6,"type":"float"})", R"({"num_bits":16})", R"({"num_bits":8,"strategy":"block"})"};
    for (const char* weights : unsupported) {  // fails only for the modules it concerns
        auto config = QuantizationConfig::parse(json(group(weights)));
        ASSERT_TRUE(config.ok()) << config.error().message;
        EXPECT_EQ(config->scheme_of("x").error().code, ErrorCode::unsupported);
        EXPECT_TRUE(config->scheme_of("x", "Embedding").ok());
    }
    auto slow = QuantizationConfig::parse(json(R"({"quant_method":"compressed-tensors","config_groups":{},"ignore":["re:(a+)+$"]})"));
    ASSERT_TRUE(slow.ok());
    EXPECT_FALSE(slow->scheme_of(std::string(64, 'a') + "b").ok());
}

TEST(CompressedTensors, RefusesTensorsThatDisagree) {
    auto data = read_golden();
    ASSERT_TRUE(data.ok());
    const TensorLookup good = lookup_in(data->files);
    const auto with = [&](const std::string& name, std::optional<FoundTensor> replaced) -> TensorLookup {
        return [&good, name, replaced](const std::string& wanted) -> Result<std::optional<FoundTensor>> {
            if (wanted == name) return replaced;
            return good(wanted);
        };
    };
    const auto expect = [&](const std::string& module, const TensorLookup& lookup, const char* message) {
        auto weight = read_weight(module, lookup, &data->config);
        ASSERT_FALSE(weight.ok()) << message;
        EXPECT_NE(weight.error().message.find(message), std::string::npos) << weight.error().message;
    };
    static const std::vector<std::byte> zeros(65536);
    const auto tensor = [&](DType dtype, const Shape& shape) {
        return FoundTensor{{dtype, shape, std::span(zeros).first(static_cast<std::size_t>(*dtype_bytes(dtype, element_count(shape))))}, nullptr};
    };
    static const std::int64_t huge[2] = {37, std::int64_t{1} << 39}, negative[2] = {37, -96}, shifted[2] = {37, 95};
    const auto shape_tensor = [&](const std::int64_t (&shape)[2]) { return FoundTensor{{DType::i64, {2}, std::as_bytes(std::span(shape))}, nullptr}; };
    expect("absent", good, "there is no tensor \"absent.weight\"");
    expect("w4g32a", with("w4g32a.weight_scale", std::nullopt), "there is no tensor \"w4g32a.weight_scale\"");
    expect("w4g32a", with("w4g32a.weight_shape", std::nullopt), "there is no tensor \"w4g32a.weight_shape\"");
    expect("w4g32a", with("w4g32a.weight_zero_point", std::nullopt), "there is no weight_zero_point");
    expect("w4g32a", with("w4g32a.weight_shape", shape_tensor(huge)), "weight_packed is I32 [37, 12]");
    expect("w4g32a", with("w4g32a.weight_shape", shape_tensor(negative)), "weight_shape holds -96");
    expect("w4g32a", with("w4g32a.weight_shape", shape_tensor(shifted)), "not a multiple of the group size");
    expect("w4g32a", with("w4g32a.weight_shape", tensor(DType::i64, {2})), "rows as weight_shape says");
    expect("w4g32a", with("w4g32a.weight_shape", tensor(DType::f32, {2})), "expected two integers");
    expect("w4g32a", with("w4g32a.weight_scale", tensor(DType::f16, {37, 2})), "weight_scale is F16 [37, 2]");
    expect("w4g32a", with("w4g32a.weight_scale", tensor(DType::i8, {37, 3})), "expected F16, BF16 or F32");
    expect("w4g32a", with("w4g32a.weight_scale", tensor(DType::f16, {1})), "weight_scale is F16 [1]");
    expect("w4g32a", with("w4g32a.weight_zero_point", tensor(DType::i32, {37, 3})), "weight_zero_point is I32 [37, 3]");
    expect("w4g32a", with("w4g32a.weight_packed", tensor(DType::u8, {37, 48})), "weight_packed of type U8");
    expect("w4g32a", with("w4g32a.weight_packed", tensor(DType::i32, {444})), "a matrix");
    expect("w4g32a", with("w4g32a.weight_g_idx", tensor(DType::i32, {96})), "has 96 inputs, not 32");
    expect("w4g32a", with("w4g32a.weight_g_idx", tensor(DType::i64, {96})), "weight_g_idx is I64");
    expect("w4g32a", with("w4g32a.weight_g_idx", tensor(DType::i32, {48, 2})), "weight_g_idx is I32 [48, 2]");
    expect("w4g32a", with("w4g32a.weight_g_idx", tensor(DType::i32, {32})), "weight_g_idx is I32 [32], expected I32 [96]");
    auto no_config = read_weight("w8", good, nullptr);
    ASSERT_FALSE(no_config.ok());
    EXPECT_NE(no_config.error().message.find("has no quantization_config"), std::string::npos);
}

// 3-bit codes as written before May 2026: ten to a word.
TEST(CompressedTensors, ReadsTheOldPaddedPacking) {
    auto config = QuantizationConfig::parse(json(
        R"({"quant_method":"compressed-tensors","config_groups":{"g":{"targets":["Linear"],"weights":{"num_bits":3,"strategy":"channel"}}}})"));
    ASSERT_TRUE(config.ok());
    std::int32_t words[10] = {};
    for (int column = 0; column < 96; ++column) words[column / 10] |= (column * 5 % 8) << (column % 10 * 3);
    const float scale = 0.5f;
    const std::int64_t shape[2] = {1, 96};
    const TensorLookup lookup = [&](const std::string& name) -> Result<std::optional<FoundTensor>> {
        if (name == "m.weight_packed") return std::optional<FoundTensor>({{DType::i32, {1, 10}, std::as_bytes(std::span(words))}, nullptr});
        if (name == "m.weight_scale") return std::optional<FoundTensor>({{DType::f32, {1, 1}, std::as_bytes(std::span(&scale, 1))}, nullptr});
        if (name == "m.weight_shape") return std::optional<FoundTensor>({{DType::i64, {2}, std::as_bytes(std::span(shape))}, nullptr});
        return std::optional<FoundTensor>();
    };
    auto weight = read_weight("m", lookup, &*config);
    ASSERT_TRUE(weight.ok()) << weight.error().to_string();
    float row[96];
    weight->row(0, row);
    for (int column = 0; column < 96; ++column) EXPECT_EQ(row[column], static_cast<float>(column * 5 % 8 - 4) * 0.5f);
}

}  // namespace
}  // namespace skiff
