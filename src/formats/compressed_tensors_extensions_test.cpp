// What the public format has no words for, and MXFP4, which it has: written, read again, and refused where parts disagree.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/rng.h"
#include "formats/compressed_tensors.h"

namespace skiff {
namespace {

using Tensors = std::map<std::string, StoredTensor>;

TensorLookup lookup_of(const Tensors& tensors) {
    return [&tensors](const std::string& name) -> Result<std::optional<FoundTensor>> {
        const auto found = tensors.find(name);
        if (found == tensors.end()) return std::optional<FoundTensor>();
        return std::optional<FoundTensor>({{found->second.dtype, found->second.shape, found->second.bytes}, found->second.owner});
    };
}

struct Stored {
    Tensors tensors;
    Json config_json;
    QuantizationConfig config;
    Weight weight;
};

// A matrix (n_rows, n_columns) in this scheme, as a checkpoint would hold it under the name "m".
Stored store(const Weight& weight) {
    Stored stored;
    stored.weight = weight;
    auto tensors = weight_tensors("m", weight);
    EXPECT_TRUE(tensors.ok());
    for (auto& tensor : *tensors) stored.tensors[tensor.name] = tensor;
    auto written = quantization_config_for({{"m", {weight.codes()->scheme, weight.n_columns()}}}, {});
    EXPECT_TRUE(written.ok());
    stored.config_json = *written;
    auto config = QuantizationConfig::parse(*written);
    EXPECT_TRUE(config.ok()) << config.error().to_string();
    stored.config = std::move(*config);
    return stored;
}

Weight coded(const char* name, std::int64_t n_rows, std::int64_t n_columns) {
    Rng rng(3);
    std::vector<float> values(static_cast<std::size_t>(n_rows * n_columns));
    for (float& value : values) value = 0.02f * rng.normal();
    auto weight = encode_nearest(make_float_weight({n_rows, n_columns}, values), *parse_scheme(name), ScaleRule::search);
    EXPECT_TRUE(weight.ok());
    return *weight;
}

TensorView with_bytes(DType dtype, Shape shape, std::vector<std::byte>& bytes) {
    Rng rng(8);
    bytes.resize(static_cast<std::size_t>(*dtype_bytes(dtype, element_count(shape))));
    if (dtype_info(dtype).is_float) {
        std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
        for (float& value : values) value = rng.normal();
        dtype_info(dtype).from_float(values.data(), static_cast<std::int64_t>(values.size()), bytes.data());
    } else {
        for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng.below(256));
    }
    return {dtype, std::move(shape), bytes};
}

// Weights with minimums, as they come from GGUF.
Weight with_minimums(const char* name, DType super_dtype) {
    struct Sections {
        std::vector<std::byte> packed, scales, super_scales, minimums, super_minimums;
    };
    auto owner = std::make_shared<Sections>();
    Codes codes;
    codes.scheme = *parse_scheme(name);
    codes.scheme.super_dtype = super_dtype;
    const Scheme& scheme = codes.scheme;
    const std::int64_t n_groups = scheme.n_groups(256), n_supers = scheme.n_supers(256);
    codes.packed = with_bytes(DType::i32, {5, packed_row_bytes(scheme.bits, 256) / 4}, owner->packed);
    codes.scales = with_bytes(scheme.scale_dtype, {5, n_groups}, owner->scales);
    codes.minimums = with_bytes(scheme.minimum_dtype(), {5, n_groups}, owner->minimums);
    if (scheme.relative_scales()) {
        codes.super_scales = with_bytes(super_dtype, {5, n_supers}, owner->super_scales);
        codes.super_minimums = with_bytes(super_dtype, {5, n_supers}, owner->super_minimums);
    }
    return {{5, 256}, std::move(codes), std::move(owner)};
}

void expect_same_rows(const Weight& a, const Weight& b) {
    ASSERT_EQ(a.shape, b.shape);
    std::vector<float> x(static_cast<std::size_t>(a.n_columns())), y(x);
    for (std::int64_t row = 0; row < a.n_rows(); ++row) {
        a.row(row, x.data());
        b.row(row, y.data());
        EXPECT_EQ(x, y) << a.encoding_name() << " row " << row;
    }
}

TEST(CompressedTensorsExtensions, MinimumsReturn) {
    for (const char* name : {"w4g32m", "w4g32mrs256", "w2g16mr"})
        for (DType super_dtype : {DType::f16, DType::f32}) {
            const Stored stored = store(with_minimums(name, super_dtype));
            auto back = read_weight("m", lookup_of(stored.tensors), &stored.config);
            ASSERT_TRUE(back.ok()) << back.error().to_string();
            if (stored.weight.codes()->scheme.relative_scales()) { EXPECT_EQ(back->codes()->scheme, stored.weight.codes()->scheme) << name; }
            expect_same_rows(stored.weight, *back);
        }
}

TEST(CompressedTensorsExtensions, ClustersReturn) {
    for (const char* name : {"k4", "k3tensor", "k16g32", "k256tensor", "k100"}) {
        const Stored stored = store(coded(name, 5, 64));
        EXPECT_EQ(stored.tensors.count("m.weight_scale"), 0u);
        auto back = read_weight("m", lookup_of(stored.tensors), &stored.config);
        ASSERT_TRUE(back.ok()) << back.error().to_string();
        EXPECT_EQ(back->codes()->scheme, stored.weight.codes()->scheme) << name;
        expect_same_rows(stored.weight, *back);
    }
}

TEST(CompressedTensorsExtensions, VectorsReturn) {
    for (const char* name : {"v2k16", "v4k256", "v4k256g16t", "v8k16x2g32r", "v4k4096", "v8k256x2"})
        for (std::int64_t n_columns : {64, 67}) {
            const Stored stored = store(coded(name, 5, n_columns));
            EXPECT_EQ(stored.tensors.count("m.weight_books"), 1u);
            auto back = read_weight("m", lookup_of(stored.tensors), &stored.config);
            ASSERT_TRUE(back.ok()) << back.error().to_string();
            EXPECT_EQ(back->codes()->scheme, stored.weight.codes()->scheme) << name;
            expect_same_rows(stored.weight, *back);
        }
}

TEST(CompressedTensorsExtensions, BooksOfVectorsAreChecked) {
    const Stored stored = store(coded("v4k16x2", 5, 64));
    auto tensors = stored.tensors;
    std::vector<std::byte> books(2 * 16 * 4, static_cast<std::byte>(100));
    tensors.at("m.weight_books").bytes = books;
    auto refused = read_weight("m", lookup_of(tensors), &stored.config);
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().message.find("sum is from 200 to 200"), std::string::npos) << refused.error().message;
    tensors.erase("m.weight_books");
    refused = read_weight("m", lookup_of(tensors), &stored.config);
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().message.find("weight_books"), std::string::npos) << refused.error().message;
}

TEST(CompressedTensorsExtensions, Float8Returns) {
    for (const char* name : {"e4m3", "e4m3g32", "e5m2", "e5m2g64"})
        for (std::int64_t n_columns : {64, 67}) {
            const Stored stored = store(coded(name, 5, n_columns));
            EXPECT_EQ(stored.tensors.count("m.weight"), name == std::string("e4m3") ? 1u : 0u);
            auto back = read_weight("m", lookup_of(stored.tensors), &stored.config);
            ASSERT_TRUE(back.ok()) << back.error().to_string();
            EXPECT_EQ(back->codes()->scheme, stored.weight.codes()->scheme) << name;
            expect_same_rows(stored.weight, *back);
        }
}

// As the package stores FP8: numbers as they are, one scale for the tensor or one for each row.
TEST(CompressedTensorsExtensions, ReadsPublicFloat8) {
    const std::uint8_t numbers[8] = {0x38, 0xb8, 0x01, 0x7e, 0x40, 0x00, 0x80, 0x08};
    const std::uint16_t scale[1] = {0x3f00};  // 0.5 in BF16
    Tensors tensors;
    tensors["m.weight"] = {"m.weight", DType::f8_e4m3, {2, 4}, std::as_bytes(std::span(numbers)), nullptr};
    tensors["m.weight_scale"] = {"m.weight_scale", DType::bf16, {1}, std::as_bytes(std::span(scale)), nullptr};
    auto json = Json::parse(R"({"quant_method":"compressed-tensors","format":"float-quantized","config_groups":{"g":{"targets":["Linear"],
        "weights":{"num_bits":8,"type":"float","symmetric":true,"strategy":"tensor"}}}})");
    auto config = QuantizationConfig::parse(*json);
    ASSERT_TRUE(config.ok()) << config.error().to_string();
    auto weight = read_weight("m", lookup_of(tensors), &*config);
    ASSERT_TRUE(weight.ok()) << weight.error().to_string();
    EXPECT_EQ(weight->encoding_name(), "e4m3g0");
    float row[4];
    weight->row(0, row);
    EXPECT_EQ(row[0], 0.5f);
    EXPECT_EQ(row[1], -0.5f);
    EXPECT_EQ(row[2], 0.5f / 512);
    EXPECT_EQ(row[3], 224.0f);
    weight->row(1, row);
    EXPECT_EQ(row[0], 1.0f);
    EXPECT_EQ(row[1], 0.0f);
    EXPECT_EQ(row[2], 0.0f);
    EXPECT_EQ(row[3], 0.5f / 64);
}

TEST(CompressedTensorsExtensions, ScalesOfATableReturn) {
    for (const char* name : {"n4g16t", "n3g16t", "n2g16ts64", "w4g32t", "w3g16at"})
        for (std::int64_t n_columns : {256, 80}) {
            const Stored stored = store(coded(name, 5, n_columns));
            EXPECT_EQ(stored.tensors.at("m.weight_scale").dtype, DType::u8);
            EXPECT_EQ(stored.tensors.at("m.weight_super_scale").dtype, DType::bf16);
            auto back = read_weight("m", lookup_of(stored.tensors), &stored.config);
            ASSERT_TRUE(back.ok()) << back.error().to_string();
            EXPECT_EQ(back->codes()->scheme, stored.weight.codes()->scheme) << name;
            expect_same_rows(stored.weight, *back);
        }
}

TEST(CompressedTensorsExtensions, OtherProgramsAreToldByTheFormat) {
    for (const auto& [name, format] : {std::pair("w4g32", "pack-quantized"), std::pair("n4g32r", "skiff-quantized"), std::pair("w4g32r", "skiff-quantized"),
                                       std::pair("iq4nl", "skiff-quantized"), std::pair("mxfp4", "mxfp4-pack-quantized"), std::pair("w8", "pack-quantized"), std::pair("w2g32", "pack-quantized"),
                                       std::pair("w3g32", "skiff-quantized"), std::pair("w5g32a", "skiff-quantized"), std::pair("w6", "skiff-quantized"), std::pair("w7g64", "skiff-quantized")}) {
        const Scheme scheme = *parse_scheme(name);
        EXPECT_EQ(is_public_form(scheme), std::string(format) != "skiff-quantized");
        auto alone = quantization_config_for({{"a", {scheme, 64}}}, {});
        EXPECT_EQ((*alone)["format"].text(), format);
        EXPECT_EQ((*alone)["config_groups"]["group_0"]["format"].text(), format);
        auto together = quantization_config_for({{"a", {scheme, 64}}, {"b", {*parse_scheme("w8"), 64}}, {"c", {*parse_scheme("n3g32r"), 64}}}, {});
        EXPECT_EQ((*together)["format"].text(), "mixed-precision");
        auto config = QuantizationConfig::parse(*together);
        ASSERT_TRUE(config.ok());
        EXPECT_EQ((*config->scheme_of("a"))->name(), scheme.name());
        EXPECT_EQ((*(*QuantizationConfig::parse(*alone)).scheme_of("a"))->name(), scheme.name());
        EXPECT_EQ((*config->scheme_of("b"))->name(), "w8");
        EXPECT_EQ((*config->scheme_of("c"))->name(), "n3g32r");
    }
}

// As the package lays MXFP4 out: the even column in the low four bits, exponents of 2 with a bias of 127.
TEST(CompressedTensorsExtensions, ReadsPublicMxfp4) {
    const std::uint8_t packed[16] = {0x21, 0x43, 0x65, 0x87, 0xa9, 0xcb, 0xed, 0x0f};
    const std::uint8_t scale[1] = {128};
    Tensors tensors;
    tensors["m.weight_packed"] = {"m.weight_packed", DType::u8, {1, 16}, std::as_bytes(std::span(packed)), nullptr};
    tensors["m.weight_scale"] = {"m.weight_scale", DType::u8, {1, 1}, std::as_bytes(std::span(scale)), nullptr};
    auto json = Json::parse(R"({"quant_method":"compressed-tensors","format":"mxfp4-pack-quantized","config_groups":{"g":{"targets":["Linear"],
        "weights":{"num_bits":4,"type":"float","symmetric":true,"strategy":"group","group_size":32}}}})");
    auto config = QuantizationConfig::parse(*json);
    ASSERT_TRUE(config.ok()) << config.error().to_string();
    auto weight = read_weight("m", lookup_of(tensors), &*config);
    ASSERT_TRUE(weight.ok()) << weight.error().to_string();
    EXPECT_EQ(weight->encoding_name(), "mxfp4");
    float row[32];
    weight->row(0, row);
    const float expected[16] = {0.5f, 1, 1.5f, 2, 3, 4, 6, 0, -0.5f, -1, -1.5f, -2, -3, -4, -6, 0};
    for (int i = 0; i < 16; ++i) EXPECT_EQ(row[i], 2 * expected[i]) << i;
}

TEST(CompressedTensorsExtensions, RefusesTensorsThatDisagree) {
    static const std::vector<std::byte> zeros(65536);
    static const std::vector<std::byte> ones(65536, std::byte{0xff});
    const auto expect = [](const char* name, const char* tensor, std::optional<StoredTensor> replaced, const char* message) {
        Stored stored = store(std::string_view(name).find('m') == 5 ? with_minimums(name, DType::f32) : coded(name, 5, 256));
        if (replaced) stored.tensors[tensor] = *replaced;
        else stored.tensors.erase(tensor);
        auto weight = read_weight("m", lookup_of(stored.tensors), &stored.config);
        ASSERT_FALSE(weight.ok()) << name << " " << message;
        EXPECT_NE(weight.error().message.find(message), std::string::npos) << weight.error().message;
    };
    const auto tensor = [](const char* name, DType dtype, const Shape& shape, const std::vector<std::byte>& bytes) {
        return StoredTensor{name, dtype, shape, std::span(bytes).first(static_cast<std::size_t>(*dtype_bytes(dtype, element_count(shape)))), nullptr};
    };
    const char *scale = "m.weight_scale", *super_scale = "m.weight_super_scale", *minimum = "m.weight_minimum", *super_minimum = "m.weight_super_minimum",
               *packed = "m.weight_packed";
    expect("n4g32r", super_scale, std::nullopt, "needs the tensor weight_super_scale");
    expect("n4g32r", super_scale, tensor(super_scale, DType::f32, {5, 2}, zeros), "weight_super_scale is F32 [5, 2], expected F32 [5, 1]");
    expect("n4g32r", super_scale, tensor(super_scale, DType::bf16, {5, 1}, zeros), "expected F32 [5, 1]");
    expect("n4g32r", super_scale, tensor(super_scale, DType::f32, {5, 1}, ones), "weight_super_scale holds NaN");
    expect("n4g32r", scale, tensor(scale, DType::f16, {5, 8}, zeros), "expected I8 or U8");
    expect("n4g32r", scale, tensor(scale, DType::i8, {5, 7}, zeros), "weight_scale is I8 [5, 7], expected I8 [5, 8]");
    expect("n4g32r", packed, tensor(packed, DType::i32, {5, 31}, zeros), "weight_packed is I32 [5, 31]");
    expect("n4g32r", packed, tensor(packed, DType::u8, {5, 128}, zeros), "weight_packed of type U8");
    const char *levels = "m.weight_levels", *plain = "m.weight";
    expect("k4", levels, std::nullopt, "there is no tensor \"m.weight_levels\"");
    expect("k4", levels, tensor(levels, DType::f16, {5, 5}, zeros), "weight_levels is F16 [5, 5], expected F16 [5, 4]");
    expect("k4", levels, tensor(levels, DType::i8, {5, 4}, zeros), "expected F16, BF16 or F32");
    expect("k4", levels, tensor(levels, DType::f16, {5, 4}, ones), "weight_levels holds NaN");
    expect("k4tensor", levels, tensor(levels, DType::f16, {5, 4}, zeros), "expected F16 [1, 4]");
    expect("k3", packed, tensor(packed, DType::i32, {5, 16}, ones), "row 0 holds the code 3, but there are 3 levels");
    expect("e4m3", plain, tensor(plain, DType::f8_e4m3, {5, 256}, ones), "weight holds NaN at row 0, column 0");
    expect("e5m2", packed, tensor(packed, DType::i32, {5, 64}, ones), "weight holds NaN at row 0, column 0");
    expect("w8", packed, tensor(packed, DType::f8_e4m3, {5, 256}, zeros), "quantization_config says w8");
    expect("n4g16t", scale, tensor(scale, DType::i8, {5, 16}, zeros), "weight_scale is I8 [5, 16], expected U8 [5, 8]");
    expect("n4g16t", scale, tensor(scale, DType::u8, {5, 16}, zeros), "expected U8 [5, 8]");
    expect("n4g16t", super_scale, std::nullopt, "needs the tensor weight_super_scale");
    expect("n4g16t", super_scale, tensor(super_scale, DType::bf16, {5, 1}, ones), "weight_super_scale holds NaN");
    expect("n4g32", scale, tensor(scale, DType::i8, {5, 8}, zeros), "expected F16, BF16 or F32");
    for (const char* of_groups : {"w4g32", "w8g32", "w4g32a", "n4g32", "e4m3g32", "v4k256g32"}) expect(of_groups, scale, tensor(scale, DType::f16, {5, 8}, ones), "weight_scale holds NaN at row 0, column 0 of [5, 8]");
    expect("w8", scale, tensor(scale, DType::bf16, {5, 1}, ones), "weight_scale holds NaN");
    expect("w8", scale, tensor(scale, DType::f32, {5, 1}, ones), "weight_scale holds NaN");
    expect("w4g32m", minimum, tensor(minimum, DType::f16, {5, 8}, ones), "weight_minimum holds NaN");
    expect("ternary", packed, tensor(packed, DType::i32, {5, 16}, ones), "row 0 holds the code 3, but the codebook ternary has 3 levels");
    expect("w4g32m", minimum, std::nullopt, "needs the tensor weight_minimum");
    expect("w4g32m", minimum, tensor(minimum, DType::f32, {5, 8}, zeros), "weight_minimum is F32 [5, 8], expected F16 [5, 8]");
    expect("w4g32mr", minimum, tensor(minimum, DType::i8, {5, 8}, zeros), "expected U8 [5, 8]");
    expect("w4g32mr", super_minimum, std::nullopt, "needs the tensor weight_super_minimum");
    expect("w4g32mr", super_minimum, tensor(super_minimum, DType::f16, {5, 1}, zeros), "expected F32 [5, 1]");
    expect("w4g32mr", super_minimum, tensor(super_minimum, DType::f32, {5, 1}, ones), "weight_super_minimum holds NaN");
    expect("mxfp4", scale, tensor(scale, DType::u8, {5, 8}, ones), "weight_scale holds NaN");
    expect("mxfp4", scale, tensor(scale, DType::u8, {5, 8}, zeros), "smaller than what is read here");
    expect("mxfp4", scale, tensor(scale, DType::u8, {5, 9}, zeros), "expected U8 [5, 8]");
    expect("mxfp4", packed, tensor(packed, DType::i32, {5, 32}, zeros), "m.weight_shape");
}

TEST(CompressedTensorsExtensions, RefusesConfigsThatMeanNothing) {
    const auto group = [](const std::string& weights) {
        return Json::parse(R"({"quant_method":"compressed-tensors","format":"skiff-quantized","config_groups":{"g":{"targets":["Linear"],"weights":)" + weights + "}}}");
    };
    const std::pair<const char*, const char*> bad[] = {
        {R"({"num_bits":3,"type":"codebook","group_size":32,"skiff_codebook":"n4"})", "the codebook n4 has 4"},
        {R"({"num_bits":4,"type":"codebook","group_size":32,"symmetric":false,"skiff_codebook":"n4"})", "symmetric must be true"},
        {R"({"num_bits":4,"type":"int","group_size":32,"skiff_super_size":48})", "must be whole groups"},
        {R"({"num_bits":4,"type":"int","group_size":32,"skiff_super_size":-32})", "must be whole groups"},
        {R"({"num_bits":4,"type":"int","skiff_super_size":0})", "must be whole groups"},
        {R"({"num_bits":4,"type":"int","group_size":32,"skiff_super_size":"32"})", "skiff_super_size"},
        {R"({"num_bits":4,"type":"int","group_size":32,"symmetric":true,"skiff_minimums":true})", "needs integers"},
        {R"({"num_bits":2,"type":"clusters"})", "skiff_levels must be 2 to 256, not 0"},
        {R"({"num_bits":8,"type":"vectors","skiff_levels":256})", "small positive numbers"},
        {R"({"num_bits":8,"type":"vectors","skiff_levels":256,"skiff_vector":3})", "not 3, 256 and 1"},
        {R"({"num_bits":4,"type":"vectors","skiff_levels":256,"skiff_vector":4})", "2, 4 or 8 columns"},
        {R"({"num_bits":8,"type":"vectors","skiff_levels":256,"skiff_vector":4,"symmetric":false})", "no zeros"},
        {R"({"num_bits":2,"type":"clusters","skiff_levels":257})", "not 257"},
        {R"({"num_bits":2,"type":"clusters","skiff_levels":5})", "not what 5 levels need"},
        {R"({"num_bits":2,"type":"clusters","skiff_levels":4,"symmetric":false})", "symmetric must be true"},
        {R"({"num_bits":4,"type":"int","group_size":16,"skiff_scale_codebook":"t"})", "needs skiff_super_size"},
        {R"({"num_bits":4,"type":"int","group_size":16,"symmetric":false,"skiff_super_size":0,"skiff_minimums":true,"skiff_scale_codebook":"t"})", "no minimums"},
    };
    for (const auto& [text, message] : bad) {
        auto config = QuantizationConfig::parse(*group(text));
        ASSERT_FALSE(config.ok()) << text;
        EXPECT_NE(config.error().message.find(message), std::string::npos) << config.error().message;
    }
    for (const char* text : {R"({"num_bits":4,"type":"codebook","group_size":32,"skiff_codebook":"n9"})", R"({"num_bits":4,"type":"codebook","group_size":32})",
                             R"({"num_bits":4,"type":"int","group_size":16,"skiff_super_size":0,"skiff_scale_codebook":"u"})"}) {
        auto config = QuantizationConfig::parse(*group(text));  // fails for the modules it concerns
        ASSERT_TRUE(config.ok());
        EXPECT_EQ(config->scheme_of("x").error().code, ErrorCode::unsupported);
    }
    // Our fields mean nothing in a public format.
    auto public_format = Json::parse(R"({"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"g":{"targets":["Linear"],
        "weights":{"num_bits":4,"type":"codebook","group_size":32,"skiff_codebook":"n4"}}}})");
    EXPECT_FALSE(QuantizationConfig::parse(*public_format)->scheme_of("x").ok());
}

}  // namespace
}  // namespace skiff
