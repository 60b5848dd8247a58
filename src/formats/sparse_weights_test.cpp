// Sparse weights through a file: they come back bit for bit, and tensors that lie are refused with the module's name.
#include "formats/sparse_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "base/rng.h"
#include "tensor/prune_target.h"

namespace skiff {
namespace {

using Tensors = std::map<std::string, StoredTensor>;

TensorLookup lookup_of(const Tensors& tensors) {
    return [&tensors](const std::string& name) -> Result<std::optional<FoundTensor>> {
        const auto found = tensors.find(name);
        if (found == tensors.end()) return std::optional<FoundTensor>();
        FoundTensor tensor;
        tensor.view = {found->second.dtype, found->second.shape, found->second.bytes};
        tensor.owner = found->second.owner;
        return std::optional<FoundTensor>(tensor);
    };
}

Tensors tensors_of(const Weight& weight) {
    Tensors tensors;
    auto written = weight_tensors("m", weight);
    for (const StoredTensor& tensor : *written) tensors.emplace(tensor.name, tensor);
    return tensors;
}

Weight example(const char* target_text, const char* scheme, std::int64_t n_rows = 20, std::int64_t n_columns = 76) {
    Rng rng(7);
    std::vector<float> values(static_cast<std::size_t>(n_rows * n_columns)), scores;
    for (float& value : values) value = rng.normal();
    for (float value : values) scores.push_back(std::fabs(value));
    const PruneTarget target = parse_prune_target(target_text)->resolved(n_rows, n_columns);
    return *make_sparse(*encode_nearest(make_float_weight({n_rows, n_columns}, values), *parse_scheme(scheme), ScaleRule::min_max), target.pattern, choose_units(target, scores, n_rows, n_columns));
}

std::vector<float> all_rows(const Weight& weight) {
    std::vector<float> values(static_cast<std::size_t>(weight.n_rows() * weight.n_columns()));
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data() + row * weight.n_columns());
    return values;
}

// The same tensor with other bytes or another shape.
template <class T>
void replace(Tensors& tensors, const std::string& name, std::vector<T> values, Shape shape, DType dtype) {
    auto owner = std::make_shared<std::vector<T>>(std::move(values));
    tensors[name] = {name, dtype, std::move(shape), std::as_bytes(std::span<const T>(*owner)), owner};
}

std::string refusal(const Tensors& tensors, const char* scheme) {
    const std::optional<Scheme> parsed = scheme == nullptr ? std::nullopt : std::optional<Scheme>(*parse_scheme(scheme));
    const auto read = read_sparse_weight("m", lookup_of(tensors), parsed ? &*parsed : nullptr);
    return read.ok() ? "read" : read.error().to_string();
}

TEST(SparseWeights, ComeBackBitForBit) {
    for (const char* target : {"50%", "2:4", "4x1:50%", "block16x32:50%", "0%", "100%"})
        for (const char* name : {"bf16", "fp32", "w8g32", "w4g32r", "nf4", "ternary"}) {
            SCOPED_TRACE(std::string(target) + " " + name);
            const Weight weight = example(target, name);
            const Tensors tensors = tensors_of(weight);
            const Scheme scheme = *parse_scheme(name);
            const auto read = read_sparse_weight("m", lookup_of(tensors), scheme.is_coded() ? &scheme : nullptr);
            ASSERT_TRUE(read.ok()) << read.error().to_string();
            EXPECT_EQ(read->encoding_name(), weight.encoding_name());
            EXPECT_EQ(all_rows(*read), all_rows(weight));
            EXPECT_EQ(read->stored_bytes(), weight.stored_bytes());
            const auto declared = sparse_tensors("m", weight.sparse()->pattern, weight.sparse()->scheme, weight.shape, weight.sparse()->n_values());
            ASSERT_EQ(declared.size(), tensors.size());
            for (const auto& tensor : declared) EXPECT_EQ(tensor.shape, tensors.at(tensor.name).shape) << tensor.name;
        }
}

TEST(SparseWeights, TensorsThatLieAreRefused) {
    const Tensors good = tensors_of(example("2:4", "w8g32", 4, 8));
    ASSERT_EQ(refusal(good, "w8g32"), "read");
    const auto with = [&](auto change) {
        Tensors tensors = good;
        change(tensors);
        return refusal(tensors, "w8g32");
    };
    using Bytes = std::vector<std::uint8_t>;
    using Ints = std::vector<std::int64_t>;
    EXPECT_NE(with([](Tensors& t) { replace(t, "m.weight_bitmask", Bytes{0x33, 0x33, 0x33, 0x73}, {4, 1}, DType::u8); }).find("keeps 3 of the 4"), std::string::npos);
    EXPECT_NE(with([](Tensors& t) { replace(t, "m.weight_bitmask", Bytes{0x33, 0x33, 0x33, 0x13}, {4, 1}, DType::u8); }).find("weight_values is U8 [16], expected U8 [15]"), std::string::npos);
    EXPECT_NE(with([](Tensors& t) { replace(t, "m.weight_bitmask", Bytes{0x33, 0x33, 0x33}, {3, 1}, DType::u8); }).find("expected U8 [4, 1]"), std::string::npos);
    EXPECT_NE(with([](Tensors& t) { replace(t, "m.weight_values", Bytes(15), {15}, DType::u8); }).find("expected U8 [16]"), std::string::npos);
    EXPECT_NE(with([](Tensors& t) { replace(t, "m.weight_values", Bytes(16), {16}, DType::i8); }).find("expected U8"), std::string::npos);
    EXPECT_NE(with([](Tensors& t) { replace(t, "m.weight_pattern", Ints{0, 1, 2, 4}, {4}, DType::i64); }).find("is none"), std::string::npos);
    EXPECT_NE(with([](Tensors& t) { replace(t, "m.weight_pattern", Ints{1, -1, 2, 4}, {4}, DType::i64); }).find("is none"), std::string::npos);
    EXPECT_NE(with([](Tensors& t) { replace(t, "m.weight_pattern", Ints{1, 1, 2}, {3}, DType::i64); }).find("expected 4 integers"), std::string::npos);
    EXPECT_NE(with([](Tensors& t) { replace(t, "m.weight_shape", Ints{4, -8}, {2}, DType::i64); }).find("weight_shape holds -8"), std::string::npos);
    EXPECT_NE(with([](Tensors& t) { replace(t, "m.weight_shape", Ints{4, std::int64_t{1} << 60}, {2}, DType::i64); }).find("weight_shape holds"), std::string::npos);
    EXPECT_NE(with([](Tensors& t) { replace(t, "m.weight_shape", Ints{4, 7}, {2}, DType::i64); }).find("m"), std::string::npos);
    EXPECT_NE(with([](Tensors& t) { t.erase("m.weight_scale"); }).find("no tensor weight_scale"), std::string::npos);
    EXPECT_NE(with([](Tensors& t) { t.erase("m.weight_values"); }).find("no tensor weight_values"), std::string::npos);
    EXPECT_NE(with([](Tensors& t) { replace(t, "m.weight_scale", std::vector<std::uint16_t>(8), {4, 2}, DType::f16); }).find("expected F16 [4, 1]"), std::string::npos);
    EXPECT_NE(refusal(good, "w8g32a").find("no code for zero"), std::string::npos);
    EXPECT_NE(refusal(good, "w4g32").find("weight_values"), std::string::npos);
    EXPECT_NE(refusal(good, nullptr).find("cannot be stored sparse"), std::string::npos);  // u8 is no type of plain values
    // Units of blocks whose product does not fit.
    const Tensors wide = {};
    EXPECT_NE(refusal(wide, "w8").find("no tensor"), std::string::npos);
}

TEST(SparseWeights, TernaryCodesBehindTheLastLevelAreRefused) {
    Tensors tensors = tensors_of(example("50%", "ternary", 2, 8));
    ASSERT_EQ(refusal(tensors, "ternary"), "read");
    replace(tensors, "m.weight_values", std::vector<std::uint8_t>{255, 255}, {2}, DType::u8);
    EXPECT_NE(refusal(tensors, "ternary").find("holds the code 3"), std::string::npos);
}

TEST(Outliers, ComeBackAndLiesAreRefused) {
    const Weight weight = make_outliers({3, 10}, DType::bf16, {1, 2, -3}, {0, 9, 4}, {0, 2, 2, 3});
    Tensors tensors = tensors_of(weight);
    const auto read = read_outliers("m", lookup_of(tensors));
    ASSERT_TRUE(read.ok()) << read.error().to_string();
    EXPECT_EQ(all_rows(*read), all_rows(weight));
    replace(tensors, "m.outliers_columns", std::vector<std::int32_t>{0, 10, 4}, {3}, DType::i32);
    EXPECT_FALSE(read_outliers("m", lookup_of(tensors)).ok());
    tensors = tensors_of(weight);
    replace(tensors, "m.outliers_rows", std::vector<std::int64_t>{0, 2, 2, 4}, {4}, DType::i64);
    EXPECT_FALSE(read_outliers("m", lookup_of(tensors)).ok());
    tensors = tensors_of(weight);
    replace(tensors, "m.outliers_shape", std::vector<std::int64_t>{-1, 10}, {2}, DType::i64);
    EXPECT_FALSE(read_outliers("m", lookup_of(tensors)).ok());
}

}  // namespace
}  // namespace skiff
