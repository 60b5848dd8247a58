// Every combination of sections a scheme can have, decoded as the formulas of weight.h say.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "tensor/weight.h"

namespace skiff {
namespace {

constexpr std::int64_t n_rows = 3, n_columns = 80;  // with groups of 32 the last is short

std::vector<std::byte> random_bytes(std::int64_t n, std::mt19937& random) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(n));
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
    return bytes;
}

// n numbers of `dtype`, small and finite, or any code where the type is an integer.
std::vector<std::byte> random_numbers(DType dtype, std::int64_t n, std::mt19937& random) {
    const DTypeInfo& info = dtype_info(dtype);
    if (!info.is_float) return random_bytes(n * info.bits / 8, random);
    std::vector<float> values(static_cast<std::size_t>(n));
    for (auto& value : values) value = static_cast<float>(static_cast<int>(random() % 200) - (dtype == DType::f8_e8m0 ? -1 : 100)) / 64;
    std::vector<std::byte> bytes(static_cast<std::size_t>(n * info.bits / 8));
    info.from_float(values.data(), n, bytes.data());
    return bytes;
}

float number_at(const TensorView& view, std::int64_t index) {
    const DTypeInfo& info = dtype_info(view.dtype);
    float value = 0;
    info.to_float(view.data.data() + index * info.bits / 8, 1, &value);
    return value;
}

// Of a table, two codes to a byte.
float table_scale(const Codes& codes, std::int64_t row, std::int64_t group) {
    const auto byte = std::to_integer<unsigned>(codes.scales.data[static_cast<std::size_t>(row * codes.scales.shape[1] + group / 2)]);
    return codes.scheme.scale_book->levels[group % 2 == 0 ? byte & 15 : byte >> 4];
}

struct Sections {
    std::vector<std::byte> packed, scales, zeros, super_scales, minimums, super_minimums;
};

Weight random_weight(const Scheme& scheme, std::mt19937& random) {
    const std::int64_t n_groups = scheme.n_groups(n_columns), n_supers = scheme.n_supers(n_columns);
    auto owner = std::make_shared<Sections>();
    owner->packed = random_bytes(n_rows * packed_row_bytes(scheme.bits, n_columns), random);
    const std::int64_t n_scales = scheme.scale_book != nullptr ? (n_groups + 1) / 2 : n_groups;
    owner->scales = random_numbers(scheme.scale_dtype, n_rows * n_scales, random);
    Codes codes;
    codes.scheme = scheme;
    codes.packed = {DType::i32, {n_rows, packed_row_bytes(scheme.bits, n_columns) / 4}, owner->packed};
    codes.scales = {scheme.scale_dtype, {n_rows, n_scales}, owner->scales};
    if (scheme.stores_zeros()) {
        owner->zeros = random_bytes(n_rows * n_groups, random);
        codes.zeros = {DType::u8, {n_rows, n_groups}, owner->zeros};
    }
    if (scheme.relative_scales()) {
        owner->super_scales = random_numbers(scheme.super_dtype, n_rows * n_supers, random);
        codes.super_scales = {scheme.super_dtype, {n_rows, n_supers}, owner->super_scales};
    }
    if (scheme.minimums) {
        owner->minimums = random_numbers(scheme.minimum_dtype(), n_rows * n_groups, random);
        codes.minimums = {scheme.minimum_dtype(), {n_rows, n_groups}, owner->minimums};
        if (scheme.relative_scales()) {
            owner->super_minimums = random_numbers(scheme.super_dtype, n_rows * n_supers, random);
            codes.super_minimums = {scheme.super_dtype, {n_rows, n_supers}, owner->super_minimums};
        }
    }
    return {{n_rows, n_columns}, std::move(codes), std::move(owner)};
}

std::vector<Scheme> all_kinds() {
    std::vector<Scheme> schemes;
    for (const char* name : {"w4g32", "w3g32a", "w5g16m", "w8", "w4g32r", "w6g16rs32", "w2g16mrs32", "n4g32r", "n3g16", "nf4g64", "ternaryg32", "binaryg32r", "mxfp4", "n4g16t", "w5g16ats32"}) {
        auto scheme = parse_scheme(name);
        if (name == std::string("mxfp4")) {
            scheme = Scheme{NumberKind::codebook, DType::bf16, 4, true, 32, DType::f8_e8m0};
            scheme->codebook = find_codebook("e2m1");
        }
        EXPECT_TRUE(scheme.ok()) << name;
        EXPECT_EQ(scheme->name(), name);
        schemes.push_back(*scheme);
        if (scheme->relative_scales()) {
            schemes.push_back(*scheme);
            schemes.back().super_dtype = DType::f16;
            if (scheme->scale_book == nullptr) schemes.push_back(*scheme);
            schemes.back().scale_dtype = DType::u8;
        } else if (scheme->scale_dtype == DType::f16) {
            schemes.push_back(*scheme);
            schemes.back().scale_dtype = DType::f32;
            schemes.push_back(*scheme);
            schemes.back().scale_dtype = DType::bf16;
        }
    }
    return schemes;
}

TEST(CodeRows, DecodeAsTheFormulasSay) {
    std::mt19937 random(7);
    for (const Scheme& scheme : all_kinds()) {
        const Weight weight = random_weight(scheme, random);
        const Codes& codes = *weight.codes();
        const std::int64_t n_groups = scheme.n_groups(n_columns), n_supers = scheme.n_supers(n_columns);
        std::vector<float> row(n_columns), scales(static_cast<std::size_t>(n_groups)), minimums(scales);
        std::vector<std::uint8_t> code(n_columns);
        for (std::int64_t r = 0; r < n_rows; ++r) {
            weight.row(r, row.data());
            code_row_params(scheme, sections_of(codes), r, n_columns, scales.data(), minimums.data());
            unpack_codes(codes.packed.data.data() + r * packed_row_bytes(scheme.bits, n_columns), scheme.bits, n_columns, code.data());
            for (std::int64_t c = 0; c < n_columns; ++c) {
                const std::int64_t group = scheme.group_of(c), at = r * n_groups + group, super = r * n_supers + scheme.super_of(c);
                float scale = scheme.scale_book != nullptr ? table_scale(codes, r, group) : number_at(codes.scales, at), minimum = scheme.minimums ? number_at(codes.minimums, at) : 0;
                if (scheme.relative_scales()) {
                    scale = number_at(codes.super_scales, super) * scale;
                    if (scheme.minimums) minimum = number_at(codes.super_minimums, super) * minimum;
                }
                const int q = code[static_cast<std::size_t>(c)];
                float expected;
                if (scheme.kind == NumberKind::codebook) {
                    const auto& levels = scheme.codebook->levels;
                    expected = levels[std::min<std::size_t>(static_cast<std::size_t>(q), levels.size() - 1)] * scale;
                } else if (scheme.minimums) {
                    expected = static_cast<float>(q) * scale - minimum;
                } else {
                    expected = static_cast<float>(q - (scheme.symmetric ? 1 << (scheme.bits - 1) : static_cast<int>(number_at(codes.zeros, at)))) * scale;
                }
                ASSERT_EQ(row[static_cast<std::size_t>(c)], expected) << scheme.name() << " row " << r << " column " << c;
                ASSERT_EQ(scales[static_cast<std::size_t>(group)], scale);
                ASSERT_EQ(minimums[static_cast<std::size_t>(group)], minimum);
            }
        }
    }
}

TEST(CodeRows, BytesAreThoseOfTheSections) {
    std::mt19937 random(8);
    for (const Scheme& scheme : all_kinds()) {
        const Weight weight = random_weight(scheme, random);
        EXPECT_EQ(weight.stored_bytes(), static_cast<std::uint64_t>(n_rows * code_row_bytes(scheme, n_columns).total())) << scheme.name();
        const double stored_bits = 8.0 * static_cast<double>(code_row_bytes(scheme, n_columns).total());
        if (!scheme.stores_zeros()) { EXPECT_NEAR(scheme.bits_per_weight(n_columns) * n_columns, stored_bits, 1e-9) << scheme.name(); }  // zeros: a byte here, `bits` in a file
        EXPECT_EQ(weight.encoding_name(), scheme.name());
    }
}

TEST(CodeRows, SchemeNamesThatMeanNothingAreRefused) {
    for (const char* name : {"n4", "n4g", "n4g32x", "n4g32rs", "n4g32rs48", "w4r", "w4g32am", "w4g32ra", "w9g32r", "n4g32a", "n4g32m", "n4g032", "n5g32r", "w4g32rr"})
        EXPECT_FALSE(parse_scheme(name).ok()) << name;
}

}  // namespace
}  // namespace skiff
