// Hashed weights through a file: they come back bit for bit, and tensors that lie are refused with the module's name.
#include "formats/hashed_weights.h"

#include "formats/stored_tensors_testing.h"

namespace skiff {
namespace {

Weight example(const char* scheme, BlockHash hash = {100, 76, 3, 0xfedcba9876543210u}) {
    Rng rng(7);
    const Shape shape = hash.bank_shape();
    std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
    for (float& value : values) value = rng.normal();
    return *make_hashed(hash, *encode_nearest(make_float_weight(shape, values), *parse_scheme(scheme), ScaleRule::min_max));
}

StoredTensors tensors_of(const Weight& weight) {
    StoredTensors tensors;
    auto written = weight_tensors("m", weight);
    for (const StoredTensor& tensor : *written) tensors.emplace(tensor.name, tensor);
    return tensors;
}

std::unique_ptr<QuantizedReader> reader_for(const char* scheme) {
    const Scheme parsed = *parse_scheme(scheme);
    if (!parsed.is_coded()) return std::move(*make_quantized_reader(Json()));
    return std::move(*make_quantized_reader(*quantization_config_for({{"m.hash_bank", {parsed, 96, true, true}}}, {})));
}

std::vector<float> all_rows(const Weight& weight) {
    std::vector<float> values(static_cast<std::size_t>(weight.n_rows() * weight.n_columns()));
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data() + row * weight.n_columns());
    return values;
}

void put_map(StoredTensors& tensors, std::vector<std::int64_t> numbers) {
    const auto n = static_cast<std::int64_t>(numbers.size());
    tensors["m.hash_map"] = stored(DType::i64, {n}, std::move(numbers));
}

std::string refusal(const StoredTensors& tensors, const char* scheme) {
    const auto read = read_hashed_weight("m", lookup_in(tensors), *reader_for(scheme));
    return read.ok() ? "read" : read.error().to_string();
}

TEST(HashedWeights, ComeBackBitForBit) {
    for (const char* name : {"bf16", "fp16", "fp32", "w8g32", "w4g32", "w4g32r", "w8", "w6g16", "w4g64"}) {
        SCOPED_TRACE(name);
        const Weight weight = example(name);
        const StoredTensors tensors = tensors_of(weight);
        const auto read = read_hashed_weight("m", lookup_in(tensors), *reader_for(name));
        ASSERT_TRUE(read.ok()) << read.error().to_string();
        EXPECT_EQ(read->encoding_name(), weight.encoding_name());
        EXPECT_EQ(read->hashed()->hash, weight.hashed()->hash);
        EXPECT_EQ(all_rows(*read), all_rows(weight));
        EXPECT_EQ(read->stored_bytes(), weight.stored_bytes());
        const Scheme scheme = *parse_scheme(name);
        const auto declared = scheme.is_coded() ? hashed_tensors("m", weight.hashed()->hash, scheme) : hashed_tensors("m", weight.hashed()->hash, scheme.dtype);
        ASSERT_EQ(declared.size(), tensors.size());
        for (const auto& tensor : declared) EXPECT_EQ(tensor.shape, tensors.at(tensor.name).shape) << tensor.name;
    }
}

TEST(HashedWeights, FilesThatLieAreRefused) {
    const StoredTensors whole = tensors_of(example("bf16"));
    const auto with_map = [&](std::vector<std::int64_t> numbers) {
        StoredTensors tensors = whole;
        put_map(tensors, std::move(numbers));
        return refusal(tensors, "bf16");
    };
    EXPECT_EQ(with_map({100, 76, 3, 1}), "read");
    for (const float bad : {NAN, INFINITY}) {  // in the last block, which no weight may be
        StoredTensors tensors = whole;
        tensors["m.hash_bank"] = ending_in(whole.at("m.hash_bank"), bad);
        EXPECT_NE(refusal(tensors, "bf16").find("the bank holds "), std::string::npos) << refusal(tensors, "bf16");
    }
    EXPECT_NE(with_map({100, 76, 3}).find("module m: hash_map is I64 [3]"), std::string::npos) << with_map({100, 76, 3});
    EXPECT_NE(with_map({100, 76, 0, 1}).find("stands for 0 rows"), std::string::npos);
    EXPECT_NE(with_map({100, 76, 8, 1}).find("expected 1 to 7"), std::string::npos);
    EXPECT_NE(with_map({100, 76, -1, 1}).find("stands for -1 rows"), std::string::npos);
    EXPECT_NE(with_map({100, 76, 2, 1}).find("the bank has shape [48, 96], its hash implies [64, 96]"), std::string::npos) << with_map({100, 76, 2, 1});
    EXPECT_NE(with_map({100, 97, 3, 1}).find("its hash implies [48, 128]"), std::string::npos);
    EXPECT_NE(with_map({-100, 76, 3, 1}).find("cannot be hashed"), std::string::npos);
    EXPECT_NE(with_map({std::int64_t{1} << 62, 4, 1, 1}).find("cannot be hashed"), std::string::npos);
    EXPECT_NE(with_map({INT64_MAX, INT64_MAX, INT64_MAX, 1}).find("cannot be hashed"), std::string::npos);
    StoredTensors tensors = whole;
    tensors["m.hash_map"] = stored(DType::i32, {4}, std::vector<std::int32_t>{100, 76, 3, 1});
    EXPECT_NE(refusal(tensors, "bf16").find("hash_map is I32 [4]"), std::string::npos);
    tensors = whole;
    tensors.erase("m.hash_map");
    EXPECT_NE(refusal(tensors, "bf16").find("there is no tensor m.hash_map"), std::string::npos);
    tensors = whole;
    tensors.erase("m.hash_bank");
    EXPECT_NE(refusal(tensors, "bf16").find("there is no tensor m.hash_bank"), std::string::npos);
    tensors = whole;
    tensors["m.hash_bank"] = stored(DType::i32, {48, 96}, std::vector<std::int32_t>(48 * 96));
    EXPECT_NE(refusal(tensors, "bf16").find("expected F32, F16 or BF16"), std::string::npos);
    tensors["m.hash_bank"] = stored(DType::f32, {48 * 96}, std::vector<float>(48 * 96));
    EXPECT_NE(refusal(tensors, "bf16").find("its hash implies [48, 96]"), std::string::npos);
    EXPECT_NE(refusal(tensors_of(example("w8g32")), "bf16").find("module m"), std::string::npos);
    tensors = tensors_of(example("w8g32"));
    put_map(tensors, {100, 76, 2, 1});
    EXPECT_NE(refusal(tensors, "w8g32").find("its hash implies [64, 96]"), std::string::npos);
}

// Codes that may be but cannot be shared: a block and its negative would be other codes.
TEST(HashedWeights, ABankOfCodesWithZerosIsRefused) {
    const BlockHash hash = {64, 64, 2, 0};
    std::vector<float> values(static_cast<std::size_t>(element_count(hash.bank_shape())), 0.5f);
    StoredTensors tensors;
    const auto bank = weight_tensors("m.hash_bank", *encode_nearest(make_float_weight(hash.bank_shape(), values), *parse_scheme("w4g32a"), ScaleRule::min_max));
    ASSERT_TRUE(bank.ok());
    for (const StoredTensor& tensor : *bank) tensors.emplace(tensor.name, tensor);
    put_map(tensors, {64, 64, 2, 0});
    EXPECT_NE(refusal(tensors, "w4g32a").find("symmetric integers"), std::string::npos) << refusal(tensors, "w4g32a");
}

}  // namespace
}  // namespace skiff
