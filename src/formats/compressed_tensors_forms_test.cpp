// Forms of compressed-tensors that we read and do not write: NVFP4, FP8, columns reordered by activation, zeros in the padded packing.
#include "formats/stored_tensors_testing.h"

namespace skiff {
namespace {

std::unique_ptr<QuantizedReader> reader_for(const std::string& format, const std::string& weights) {
    auto reader = make_quantized_reader(json_of(R"({"quant_method":"compressed-tensors","format":")" + format + R"(","config_groups":{"g":{"targets":["Linear"],"weights":)" + weights + "}}}"));
    EXPECT_TRUE(reader.ok()) << reader.error().to_string();
    return reader.ok() ? std::move(*reader) : nullptr;
}

const char* nvfp4 = R"({"num_bits":4,"type":"float","strategy":"tensor_group","group_size":16,"symmetric":true})";
constexpr float e2m1[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -.5f, -1, -1.5f, -2, -3, -4, -6};

TEST(Nvfp4, ReadsCodesAndBothScales) {
    constexpr std::int64_t n_rows = 3, n_columns = 48;
    Rng rng(6);
    std::vector<std::uint8_t> packed(n_rows * n_columns / 2), scales(n_rows * n_columns / 16);
    for (auto& byte : packed) byte = static_cast<std::uint8_t>(rng.next());
    for (auto& scale : scales) scale = static_cast<std::uint8_t>(rng.next() % 0x7f);
    StoredTensors tensors;
    tensors["m.weight_packed"] = stored(DType::u8, {n_rows, n_columns / 2}, packed);
    tensors["m.weight_scale"] = stored(DType::f8_e4m3, {n_rows, n_columns / 16}, scales);
    tensors["m.weight_global_scale"] = stored(DType::f32, {1}, std::vector<float>{1234.5f});
    const auto reader = reader_for("nvfp4-pack-quantized", nvfp4);
    auto weight = reader->read("m", lookup_in(tensors));
    ASSERT_TRUE(weight.ok()) << weight.error().to_string();
    EXPECT_EQ((*weight)->encoding_name(), "e2m1g16");
    float row[n_columns];
    for (std::int64_t r = 0; r < n_rows; ++r) {
        (*weight)->row(r, row);
        for (std::int64_t c = 0; c < n_columns; ++c) {
            const int pair = packed[static_cast<std::size_t>((r * n_columns + c) / 2)], code = c % 2 == 0 ? pair & 15 : pair >> 4;
            ASSERT_EQ(row[c], e2m1[code] * (f8_e4m3_to_float(scales[static_cast<std::size_t>((r * n_columns + c) / 16)]) / 1234.5f)) << r << ", " << c;
        }
    }
    const auto refuse = [&](const char* name, std::optional<StoredTensor> replaced, const char* message) { expect_refused(*reader, tensors, name, std::move(replaced), message); };
    refuse("m.weight_global_scale", std::nullopt, "there is no tensor \"m.weight_global_scale\"");
    refuse("m.weight_global_scale", zeros_of(DType::f32, {2}), "one number");
    refuse("m.weight_global_scale", zeros_of(DType::f32, {1}), "weight_global_scale is 0");
    refuse("m.weight_scale", zeros_of(DType::u8, {3, 3}), "weight_scale is U8");
    refuse("m.weight_scale", zeros_of(DType::f8_e4m3, {3, 2}), "expected F8_E4M3 [3, 3]");
    refuse("m.weight_packed", zeros_of(DType::u8, {3, 23}), "not a multiple of the group size");
    refuse("m.weight_global_scale", stored(DType::f32, {1}, std::vector<float>{3e38f}), "which is not read here");
}

TEST(CompressedFp8, TakesBlocksFromTheConfig) {
    StoredTensors tensors;
    tensors["m.weight"] = stored(DType::f8_e4m3, {2, 4}, std::vector<std::uint8_t>(8, 0x38));  // ones
    tensors["m.weight_scale"] = stored(DType::f32, {2, 2}, std::vector<float>{1, 2, 3, 4});
    const std::string blocks = R"({"num_bits":8,"type":"float","strategy":"block","block_structure":[1,2]})";
    auto weight = reader_for("float-quantized", blocks)->read("m", lookup_in(tensors));
    ASSERT_TRUE(weight.ok()) << weight.error().to_string();
    float row[4];
    (*weight)->row(1, row);
    EXPECT_EQ(row[0], 3);
    EXPECT_EQ(row[3], 4);
    EXPECT_FALSE(reader_for("float-quantized", R"({"num_bits":8,"type":"float","strategy":"channel"})")->read("m", lookup_in(tensors)).ok());
    for (const char* wrong : {"[1]", "[0,2]", "7", "[1,-2]"})
        EXPECT_FALSE(make_quantized_reader(json_of(std::string(R"({"quant_method":"compressed-tensors","config_groups":{"g":{"targets":["Linear"],"weights":{"num_bits":8,"type":"float","block_structure":)") + wrong + "}}}}")).ok()) << wrong;
}

TEST(CompressedActOrder, PutsColumnsInOrderOfTheirGroups) {
    const Weight weight = random_codes("w4g32", 5, 96);
    auto written = weight_tensors("m", weight);
    ASSERT_TRUE(written.ok());
    StoredTensors tensors;
    for (const auto& tensor : *written) tensors[tensor.name] = tensor;
    const auto reader = reader_for("pack-quantized", R"({"num_bits":4,"type":"int","strategy":"group","group_size":32,"actorder":"group"})");
    std::vector<std::int32_t> g_idx(96);
    for (std::size_t i = 0; i < 96; ++i) g_idx[i] = static_cast<std::int32_t>(i % 3);
    tensors["m.weight_g_idx"] = stored(DType::i32, {96}, g_idx);
    auto read = reader->read("m", lookup_in(tensors));
    ASSERT_TRUE(read.ok()) << read.error().to_string();
    auto order = reader->input_order("m", lookup_in(tensors));
    ASSERT_TRUE(order.ok());
    ASSERT_EQ(order->size(), 96u);
    std::vector<std::uint8_t> before(96), after(96);
    for (std::int64_t row = 0; row < 5; ++row) {
        unpack_codes(weight.codes()->packed.data.data() + row * 48, 4, 96, before.data());
        unpack_codes((*read)->codes()->packed.data.data() + row * 48, 4, 96, after.data());
        for (std::size_t column = 0; column < 96; ++column) {
            const auto input = static_cast<std::size_t>((*order)[column]);
            EXPECT_EQ(after[column], before[input]);
            EXPECT_EQ(g_idx[input], static_cast<std::int32_t>(column / 32));
        }
    }
    tensors["m.weight_g_idx"] = stored(DType::i32, {96}, std::vector<std::int32_t>(96, -1));  // the package's word for none
    EXPECT_TRUE(reader->input_order("m", lookup_in(tensors))->empty());
    expect_same_codes(weight, **reader->read("m", lookup_in(tensors)));
}

// Before May 2026: as many whole zeros to a word as fit, down the rows. 128 rows of 3 bits take 13 words so, and 12 in the dense form.
TEST(CompressedPadded, ReadsZeros) {
    const Weight weight = random_codes("w3g32a", 128, 64);
    auto written = weight_tensors("m", weight);
    ASSERT_TRUE(written.ok());
    StoredTensors tensors;
    for (const auto& tensor : *written) tensors[tensor.name] = tensor;
    std::vector<std::uint32_t> words(13 * 2);
    for (std::size_t row = 0; row < 128; ++row)
        for (std::size_t group = 0; group < 2; ++group)
            words[row / 10 * 2 + group] |= std::to_integer<std::uint32_t>(weight.codes()->zeros.data[row * 2 + group]) << (row % 10 * 3);
    tensors["m.weight_zero_point"] = stored(DType::i32, {13, 2}, words);
    auto read = reader_for("pack-quantized", R"({"num_bits":3,"type":"int","strategy":"group","group_size":32,"symmetric":false})")->read("m", lookup_in(tensors));
    ASSERT_TRUE(read.ok()) << read.error().to_string();
    expect_same_codes(weight, **read);
}

// W8A8 with fixed scales, as it is written and read.
TEST(FixedInputs, ComeBackWithTheirScale) {
    for (const char* name : {"w8", "w8g32"}) {
        const Weight weight = random_codes(name, 5, 35);
        const Scheme& scheme = weight.codes()->scheme;
        ASSERT_TRUE(can_fix_inputs(scheme));
        auto config = quantization_config_for({{"m", {scheme, 35, true, false, QuantizedModule::Inputs::fixed}}, {"n", {scheme, 35}}}, {});
        ASSERT_TRUE(config.ok());
        EXPECT_EQ((*config)["format"].text(), "mixed-precision");
        StoredTensors tensors;
        const auto declared = fixed_input_declarations("m", scheme, weight.shape);
        const auto written = fixed_input_tensors("m", weight, 0.125f);
        ASSERT_EQ(declared.size(), written.size());
        for (std::size_t i = 0; i < written.size(); ++i) {
            EXPECT_EQ(declared[i].name, written[i].name);
            EXPECT_EQ(declared[i].dtype, written[i].dtype);
            EXPECT_EQ(declared[i].shape, written[i].shape);
            tensors[written[i].name] = written[i];
        }
        auto made = make_quantized_reader(*config);
        ASSERT_TRUE(made.ok()) << made.error().to_string();
        const auto& reader = **made;
        auto read = reader.read("m", lookup_in(tensors));
        ASSERT_TRUE(read.ok()) << read.error().to_string();
        expect_same_codes(**read, weight);
        EXPECT_EQ(*reader.fixed_input_scale("m", lookup_in(tensors)), 0.125f);
        EXPECT_EQ(*reader.fixed_input_scale("n", lookup_in(tensors)), std::nullopt);
        for (const auto& [scale, words] : {std::pair<std::vector<float>, const char*>{{0}, "input_scale is 0"}, {{1, 2}, "expected one number"}, {{NAN}, "input_scale is"}, {{1e-40f}, "input_scale is"}, {{1e36f}, "input_scale is"}}) {
            tensors["m.input_scale"] = stored(DType::f32, {static_cast<std::int64_t>(scale.size())}, scale);
            auto refused = reader.fixed_input_scale("m", lookup_in(tensors));
            ASSERT_FALSE(refused.ok());
            EXPECT_NE(refused.error().message.find(words), std::string::npos) << refused.error().message;
        }
        tensors.erase("m.input_scale");
        EXPECT_FALSE(reader.fixed_input_scale("m", lookup_in(tensors)).ok());
    }
    for (const char* name : {"w4g32", "w8a", "w8g32r", "n4g32r", "k16"}) {
        const auto scheme = parse_scheme(name);
        if (scheme.ok()) {
            EXPECT_FALSE(can_fix_inputs(*scheme)) << name;
        }
    }
}

// What is not symmetric integers of 8 bits for the whole tensor is not done, and said.
TEST(FixedInputs, OtherFormsAreSaid) {
    const std::string weights = R"("weights":{"num_bits":8,"strategy":"channel"})";
    for (const char* inputs : {R"({"num_bits":8,"dynamic":true,"strategy":"token"})", R"({"num_bits":8,"symmetric":false,"strategy":"tensor"})", R"({"num_bits":4})", R"({"num_bits":8,"type":"float"})"}) {
        auto config = QuantizationConfig::parse(json_of(R"({"quant_method":"compressed-tensors","format":"int-quantized","config_groups":{"g":{"targets":["Linear"],)" + weights + R"(,"input_activations":)" + inputs + "}}}"));
        ASSERT_TRUE(config.ok());
        EXPECT_FALSE(*config->has_fixed_inputs("m")) << inputs;
        EXPECT_EQ(config->notes().size(), 1u) << inputs;
    }
}

}  // namespace
}  // namespace skiff
