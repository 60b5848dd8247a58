// Tensors of a checkpoint in memory, for tests of readers: to look up, to replace, to lie about.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>

#include "base/rng.h"
#include "formats/quantized_reader.h"

namespace skiff {

using StoredTensors = std::map<std::string, StoredTensor>;

inline TensorLookup lookup_in(const StoredTensors& tensors) {
    return [&tensors](const std::string& name) -> Result<std::optional<FoundTensor>> {
        const auto found = tensors.find(name);
        if (found == tensors.end()) return std::optional<FoundTensor>();
        return std::optional<FoundTensor>({{found->second.dtype, found->second.shape, found->second.bytes}, found->second.owner});
    };
}

template <class T>
StoredTensor stored(DType dtype, Shape shape, std::vector<T> values) {
    auto owner = std::make_shared<std::vector<T>>(std::move(values));
    return {"", dtype, std::move(shape), std::as_bytes(std::span<const T>(*owner)), owner};
}

// All zero, of any type and shape.
inline StoredTensor zeros_of(DType dtype, Shape shape) {
    const auto n = static_cast<std::size_t>(dtype_bytes(dtype, element_count(shape)).value_or(0));
    return stored(dtype, std::move(shape), std::vector<std::uint8_t>(n));
}

// The same tensor, whose last number is this one.
inline StoredTensor ending_in(const StoredTensor& tensor, float value) {
    auto owner = std::make_shared<std::vector<std::byte>>(tensor.bytes.begin(), tensor.bytes.end());
    const DTypeInfo& info = dtype_info(tensor.dtype);
    info.from_float(&value, 1, owner->data() + owner->size() - static_cast<std::size_t>(info.bits / 8));
    return {tensor.name, tensor.dtype, tensor.shape, *owner, owner};
}

inline Json json_of(const std::string& text) {
    auto value = Json::parse(text);
    EXPECT_TRUE(value.ok()) << text;
    return value.ok() ? *value : Json();
}

// Random codes, zeros and scales of an integer scheme.
inline Weight random_codes(const std::string& name, std::int64_t n_rows, std::int64_t n_columns, std::uint64_t seed = 5) {
    Scheme scheme = *parse_scheme(name);
    Rng rng(seed);
    struct Bytes {
        std::vector<std::byte> packed, scales, zeros;
    };
    auto bytes = std::make_shared<Bytes>();
    const std::int64_t row_bytes = packed_row_bytes(scheme.bits, n_columns), n_groups = scheme.n_groups(n_columns);
    bytes->packed.resize(static_cast<std::size_t>(n_rows * row_bytes));
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(n_columns));
    for (std::int64_t row = 0; row < n_rows; ++row) {
        for (auto& code : codes) code = static_cast<std::uint8_t>(rng.next() & ((1u << scheme.bits) - 1));
        pack_codes(codes.data(), scheme.bits, n_columns, bytes->packed.data() + row * row_bytes);
    }
    std::vector<float> scales(static_cast<std::size_t>(n_rows * n_groups));
    for (float& scale : scales) scale = 0.01f + 0.02f * rng.uniform();
    bytes->scales.resize(scales.size() * static_cast<std::size_t>(dtype_info(scheme.scale_dtype).bits / 8));
    dtype_info(scheme.scale_dtype).from_float(scales.data(), static_cast<std::int64_t>(scales.size()), bytes->scales.data());
    if (scheme.stores_zeros()) bytes->zeros.resize(scales.size());
    for (std::byte& zero : bytes->zeros) zero = static_cast<std::byte>(rng.next() & ((1u << scheme.bits) - 1));
    Codes result;
    result.scheme = scheme;
    result.packed = {DType::i32, {n_rows, row_bytes / 4}, bytes->packed};
    result.scales = {scheme.scale_dtype, {n_rows, n_groups}, bytes->scales};
    if (scheme.stores_zeros()) result.zeros = {DType::u8, {n_rows, n_groups}, bytes->zeros};
    return {{n_rows, n_columns}, result, bytes};
}

inline void expect_same_codes(const Weight& a, const Weight& b) {
    ASSERT_NE(a.codes(), nullptr);
    ASSERT_NE(b.codes(), nullptr);
    EXPECT_EQ(a.shape, b.shape);
    EXPECT_EQ(a.codes()->scheme, b.codes()->scheme) << a.encoding_name() << " " << b.encoding_name();
    const auto same = [](const TensorView& x, const TensorView& y) { return x.data.size() == y.data.size() && (x.data.empty() || std::memcmp(x.data.data(), y.data.data(), x.data.size()) == 0); };
    EXPECT_TRUE(same(a.codes()->packed, b.codes()->packed)) << "codes";
    EXPECT_TRUE(same(a.codes()->scales, b.codes()->scales)) << "scales";
    EXPECT_TRUE(same(a.codes()->zeros, b.codes()->zeros)) << "zeros";
}

// Reads module "m" with one tensor replaced (or removed: nothing) and expects this message.
inline void expect_refused(const QuantizedReader& reader, StoredTensors tensors, const std::string& name, std::optional<StoredTensor> replaced, const std::string& message) {
    tensors.erase(name);
    if (replaced) tensors[name] = *replaced;
    auto weight = reader.read("m", lookup_in(tensors));
    ASSERT_FALSE(weight.ok()) << name << ": " << message;
    EXPECT_NE(weight.error().to_string().find(message), std::string::npos) << weight.error().to_string();
    EXPECT_NE(weight.error().to_string().find("m"), std::string::npos);
}

}  // namespace skiff
