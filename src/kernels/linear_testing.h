// Weights of every kind, and one call of a linear kernel, for the tests of layouts and linear kernels.
#pragma once

#include <string>

#include "kernels/kernels_testing.h"
#include "tensor/codes_builder.h"
#include "tensor/prune_target.h"

namespace skiff::testing {

inline std::vector<std::byte> random_bytes(std::int64_t n, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<std::byte> bytes(static_cast<std::size_t>(n));
    for (auto& byte : bytes) byte = static_cast<std::byte>(rng.next());
    return bytes;
}

inline Weight random_plain(std::int64_t n_rows, std::int64_t n_columns, DType dtype, std::uint64_t seed) {
    const auto values = normal_values(n_rows * n_columns, seed);
    std::vector<std::byte> bytes(static_cast<std::size_t>(n_rows * n_columns * dtype_info(dtype).bits / 8));
    dtype_info(dtype).from_float(values.data(), n_rows * n_columns, bytes.data());
    return make_plain_weight({n_rows, n_columns}, dtype, std::move(bytes));
}

// Numbers of a type for scales and what goes with them: normal ones, bytes in a range that keeps the products moderate.
inline std::vector<std::byte> random_numbers(std::int64_t n, DType dtype, std::uint64_t seed, float deviation) {
    auto bytes = random_bytes(n, seed);
    if (dtype == DType::i8 || dtype == DType::u8) return bytes;
    if (dtype == DType::f8_e8m0) {
        for (auto& byte : bytes) byte = static_cast<std::byte>(118 + std::to_integer<int>(byte) % 4);
        return bytes;
    }
    const auto values = normal_values(n, seed, deviation);
    bytes.resize(static_cast<std::size_t>(n * dtype_info(dtype).bits / 8));
    dtype_info(dtype).from_float(values.data(), n, bytes.data());
    return bytes;
}

// Vectors: every code equally likely; of two books the sums of entries reach the ends of i8.
inline Weight random_vectors(std::int64_t n_rows, std::int64_t n_columns, const Scheme& scheme, std::uint64_t seed) {
    CodesBuilder builder(scheme, n_rows, n_columns);
    Rng rng(seed);
    std::vector<std::int8_t> books(static_cast<std::size_t>(scheme.n_books * scheme.n_levels * scheme.vector));
    for (auto& entry : books) entry = static_cast<std::int8_t>(scheme.n_books == 1 ? static_cast<int>(rng.below(255)) - 127 : static_cast<int>(rng.below(128)) - 64);
    builder.set_books(books);
    std::vector<std::uint16_t> codes(static_cast<std::size_t>(scheme.n_codes(n_columns)));
    RowParams params;
    params.groups.resize(static_cast<std::size_t>(scheme.n_groups(n_columns)));
    for (std::int64_t row = 0; row < n_rows; ++row) {
        for (auto& code : codes) code = static_cast<std::uint16_t>(rng.below(static_cast<std::uint64_t>(scheme.n_levels)));
        params.super_scales.assign(static_cast<std::size_t>(scheme.relative_scales() ? scheme.n_supers(n_columns) : 0), 0.0f);
        for (float& super_scale : params.super_scales) super_scale = 0.02f / 128 * rng.normal();
        for (GroupParams& group : params.groups) group = {0.02f * rng.normal(), 0, scheme.scale_book != nullptr ? static_cast<int>(rng.below(16)) : static_cast<int>(rng.below(255)) - 127};
        builder.set_row(row, codes, params);
    }
    return builder.finish();
}

// Every code equally likely, extremes included; scales of both signs.
inline Weight random_codes(std::int64_t n_rows, std::int64_t n_columns, const Scheme& scheme, std::uint64_t seed) {
    if (scheme.kind == NumberKind::vectors) return random_vectors(n_rows, n_columns, scheme, seed);
    struct Owner {
        std::vector<std::byte> packed, scales, zeros, minimums, super_scales, super_minimums;
    };
    auto owner = std::make_shared<Owner>();
    const std::int64_t row_bytes = packed_row_bytes(scheme.bits, n_columns), n_groups = scheme.n_groups(n_columns), n_supers = scheme.n_supers(n_columns);
    const auto bytes = random_bytes(n_rows * n_columns, seed);
    const unsigned n_codes = scheme.codebook != nullptr ? static_cast<unsigned>(scheme.codebook->levels.size()) : scheme.kind == NumberKind::clusters ? static_cast<unsigned>(scheme.n_levels) : 1u << scheme.bits;
    owner->packed.resize(static_cast<std::size_t>(n_rows * row_bytes));
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(n_columns));
    for (std::int64_t row = 0; row < n_rows; ++row) {
        for (std::int64_t c = 0; c < n_columns; ++c)
            codes[static_cast<std::size_t>(c)] = static_cast<std::uint8_t>(std::to_integer<unsigned>(bytes[static_cast<std::size_t>(row * n_columns + c)]) % n_codes);
        if (scheme.codebook != nullptr && scheme.codebook->is_float8())
            for (auto& code : codes) code = scheme.codebook->has(code) ? code : std::uint8_t{0x35};
        pack_codes(codes.data(), scheme.bits, n_columns, owner->packed.data() + row * row_bytes);
    }
    const std::int64_t n_scales = scheme.scale_book != nullptr ? code_row_bytes(scheme, n_columns).scales : n_groups;
    const bool clusters = scheme.kind == NumberKind::clusters;
    const Shape scales_shape = scheme.one_table ? Shape{1, scheme.n_levels} : Shape{n_rows, clusters ? n_groups * scheme.n_levels : n_scales};
    owner->scales = random_numbers(element_count(scales_shape), scheme.scale_dtype, seed + 1, 0.02f);
    Codes result = {scheme, {DType::i32, {n_rows, row_bytes / 4}, owner->packed}, {scheme.scale_dtype, scales_shape, owner->scales}};
    const float super_deviation = scheme.scale_book != nullptr ? 0.02f : 0.02f / 128;
    if (scheme.relative_scales()) {
        owner->super_scales = random_numbers(n_rows * n_supers, scheme.super_dtype, seed + 3, super_deviation);
        result.super_scales = {scheme.super_dtype, {n_rows, n_supers}, owner->super_scales};
    }
    if (scheme.minimums) {
        owner->minimums = random_numbers(n_rows * n_groups, scheme.minimum_dtype(), seed + 4, 0.2f);
        result.minimums = {scheme.minimum_dtype(), {n_rows, n_groups}, owner->minimums};
        if (scheme.relative_scales()) {
            owner->super_minimums = random_numbers(n_rows * n_supers, scheme.super_dtype, seed + 5, super_deviation * 4);
            result.super_minimums = {scheme.super_dtype, {n_rows, n_supers}, owner->super_minimums};
        }
    } else if (scheme.stores_zeros()) {
        owner->zeros = random_bytes(n_rows * n_groups, seed + 2);
        for (auto& zero : owner->zeros) zero &= static_cast<std::byte>((1u << scheme.bits) - 1);
        result.zeros = {DType::u8, {n_rows, n_groups}, owner->zeros};
    }
    return {{n_rows, n_columns}, result, owner};
}

// n_columns is rounded up to whole blocks. The scales in random blocks may be anything, so the blocks are made from decoded values near 1.
inline Weight random_blocks(std::int64_t n_rows, std::int64_t n_columns, BlockType type, std::uint64_t seed) {
    const BlockFormat& format = block_format(type);
    n_columns = (n_columns + format.block_size - 1) / format.block_size * format.block_size;
    const std::int64_t row_bytes = n_columns / format.block_size * format.block_bytes;
    auto owner = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(n_rows * row_bytes));
    const auto values = normal_values(n_rows * n_columns, seed);
    for (std::int64_t row = 0; row < n_rows; ++row) format.encode(values.data() + row * n_columns, nullptr, n_columns, owner->data() + row * row_bytes);
    return {{n_rows, n_columns}, Blocks{type, *owner}, owner};
}

// What a target keeps of random codes, at random.
inline Weight random_sparse(std::int64_t n_rows, std::int64_t n_columns, const char* target, const Scheme& scheme, std::uint64_t seed) {
    const Weight dense = scheme.is_coded() ? random_codes(n_rows, n_columns, scheme, seed) : random_plain(n_rows, n_columns, scheme.dtype, seed);
    const PruneTarget resolved = parse_prune_target(target)->resolved(n_rows, n_columns);
    return *make_sparse(dense, resolved.pattern, choose_units(resolved, normal_values(n_rows * n_columns, seed + 7), n_rows, n_columns));
}

// About one weight in thirty.
inline Weight random_outliers(std::int64_t n_rows, std::int64_t n_columns, DType dtype, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<float> values;
    std::vector<std::int32_t> columns;
    std::vector<std::int64_t> rows = {0};
    for (std::int64_t row = 0; row < n_rows; ++row) {
        for (std::int64_t column = 0; column < n_columns; ++column)
            if (rng.below(30) == 0) values.push_back(rng.normal()), columns.push_back(static_cast<std::int32_t>(column));
        rows.push_back(static_cast<std::int64_t>(values.size()));
    }
    return make_outliers({n_rows, n_columns}, dtype, values, std::move(columns), std::move(rows));
}

// Patterns and the schemes they are tried with: blocks that tiles skip with every number of bits and kind of scale, masks of one, four and sixteen rows.
struct SparseCase {
    const char *target, *scheme;
};
inline constexpr SparseCase sparse_cases[] = {
    {"block16x32:50%", "w1g32"}, {"block16x32:50%", "w2g16"},   {"block16x32:50%", "w3g32r"}, {"block16x32:50%", "w4g32r"},     {"block16x32:50%", "w4"},   {"block16x64:50%", "w4g128"}, {"block32x32:75%", "w5g32r"}, {"block16x32:50%", "w6g16"},
    {"block16x32:25%", "w8g32"}, {"block16x32:100%", "w8"},     {"block16x32:50%", "w7g32"},  {"block16x32:50%", "ternaryg64"}, {"block16x32:50%", "nf4"},  {"50%", "w8g32"},             {"50%", "w4g32r"},            {"50%", "w7g32"},
    {"60%", "w4g16"},            {"2:4", "w8"},                 {"4:8", "w4g32"}, {"2:4", "w4g32r"}, {"2:4", "w8g16"}, {"1:2", "w7g32"},             {"4x1:50%", "w8g32"},             {"4x1:50%", "w4g64"},       {"16x1:50%", "w8g16"},        {"block16x4:50%", "w4g32"},   {"100%", "w8g32"},
    {"50%", "w8g32rs256"},       {"10%", "w4g32"},              {"50%", "bf16"},              {"block16x32:50%", "fp32"},       {"50%", "w5g32"},
};

// A bank of random codes or numbers.
inline Weight random_hashed(std::int64_t n_rows, std::int64_t n_columns, std::int64_t shared, const Scheme& scheme, std::uint64_t seed) {
    BlockHash hash = {n_rows, n_columns, 1, seed};
    hash.shared = std::min(shared, hash.n_block_rows());
    const Shape shape = hash.bank_shape();
    return *make_hashed(hash, scheme.is_coded() ? random_codes(shape[0], shape[1], scheme, seed + 1) : random_plain(shape[0], shape[1], scheme.dtype, seed + 1));
}

// Every number of bits, groups of half a block, of blocks, of several and of rows, scales of every kind.
struct HashedCase {
    std::int64_t shared;
    const char* scheme;
};
inline constexpr HashedCase hashed_cases[] = {{1, "w8g32"}, {2, "w8g32"}, {4, "w8g16"}, {3, "w8"}, {2, "w8g32rs256"}, {2, "w7g32"}, {4, "w4g32"}, {2, "w4g32r"}, {3, "w4g16"}, {2, "w4g128"}, {4, "w1g32"},
                                              {2, "w2g32"}, {3, "w3g64"}, {2, "w5g32r"}, {2, "w6g16"}, {2, "bf16"}, {3, "fp16"}, {4, "fp32"}};

inline const Scheme all_schemes[] = {
    {NumberKind::integer, DType::bf16, 4, true, 32, DType::f16},   {NumberKind::integer, DType::bf16, 4, false, 32, DType::f16},
    {NumberKind::integer, DType::bf16, 4, true, 64, DType::f32},   {NumberKind::integer, DType::bf16, 4, false, 128, DType::bf16},
    {NumberKind::integer, DType::bf16, 4, true, 0, DType::f16},    {NumberKind::integer, DType::bf16, 8, true, 0, DType::f16},
    {NumberKind::integer, DType::bf16, 8, false, 0, DType::f32},   {NumberKind::integer, DType::bf16, 8, true, 32, DType::f16},
    {NumberKind::integer, DType::bf16, 8, false, 64, DType::bf16}, {NumberKind::integer, DType::bf16, 2, true, 32, DType::f16},
    {NumberKind::integer, DType::bf16, 3, false, 32, DType::f16},  {NumberKind::integer, DType::bf16, 5, true, 32, DType::f16},
    {NumberKind::integer, DType::bf16, 6, false, 64, DType::f16},  {NumberKind::integer, DType::bf16, 4, false, 48, DType::f16},
};

// More, by name: every number of bits, relative scales, codebooks whose levels need each kind of sum, the forms of GGUF's K-quants.
inline constexpr const char* more_schemes[] = {"w1g32",  "w2g64a", "w3g32",    "w4g32r",   "w7g32",       "w4g32mrs256", "w2g16mrs256", "w3g16rs256", "w6g16rs256", "w5g32mrs256",
                                               "w4g32m", "w4g16",  "w4g16a", "w2g16", "n4g32r", "n3g32r",   "n2g16r",   "b2g16r", "iq4nlg32",    "nf4g64",      "e2m1g32",     "ternaryg64", "binaryg128", "iq4nlg32rs256",
                                               "n4g16t", "n3g16t", "n2g16t",   "w4g32t",  "w6g16at",     "n4g32ts256", "nf4g16ts64",
                                               "e4m3g0", "e5m2g0", "e4m3g32",  "e5m2g128", "k2",         "k3",          "k4g64",       "k7",         "k16tensor",  "k16g32",
                                               "k21",    "k64tensor", "k100",   "k256tensor", "k200g32",  "k16g48",
                                               "v2k16", "v2k64g16t", "v2k256", "v4k16", "v4k256", "v4k256g32", "v4k256g16t", "v4k4096g32r", "v4k64x2", "v4k256x2g64", "v8k256", "v8k4096", "v8k16x2g32t", "v8k256x2", "v8k4096x2g16r"};

// One weight of every kind that is stored; some are accepted by several layouts.
inline std::vector<Weight> weights_of_all_kinds(std::int64_t n_rows, std::int64_t n_columns) {
    std::vector<Weight> weights;
    for (DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f8_e4m3, DType::f64}) weights.push_back(random_plain(n_rows, n_columns, dtype, 40));
    for (const Scheme& scheme : all_schemes) weights.push_back(random_codes(n_rows, n_columns, scheme, 50));
    for (const char* name : more_schemes) weights.push_back(random_codes(n_rows, n_columns, *parse_scheme(name), 55));
    Scheme mxfp4 = *parse_scheme("e2m1g32");
    mxfp4.scale_dtype = DType::f8_e8m0;
    weights.push_back(random_codes(n_rows, n_columns, mxfp4, 56));
    for (BlockType type : {BlockType::q4_0, BlockType::q5_0, BlockType::q8_0, BlockType::q6_k})
        if (block_format(type).encode != nullptr) weights.push_back(random_blocks(n_rows, n_columns, type, 60));
    for (const SparseCase& each : sparse_cases) weights.push_back(random_sparse(n_rows, n_columns, each.target, *parse_scheme(each.scheme), 65));
    for (DType dtype : {DType::f16, DType::f32}) weights.push_back(random_outliers(n_rows, n_columns, dtype, 66));
    for (const HashedCase& each : hashed_cases) weights.push_back(random_hashed(n_rows, n_columns, each.shared, *parse_scheme(each.scheme), 67));
    return weights;
}

// An activation in both forms.
struct Activations {
    std::int64_t n_tokens, n_columns, padded;
    std::vector<float> x, scales;
    std::vector<std::int8_t> codes;
    std::vector<std::int16_t> sums;

    Activations(std::int64_t tokens, std::int64_t columns, std::uint64_t seed) : Activations(normal_values(tokens * columns, seed, 2), columns) {}
    Activations(std::vector<float> values, std::int64_t columns)
        : n_tokens(std::ssize(values) / columns), n_columns(columns), padded(padded_for_codes(columns)), x(std::move(values)) {
        const auto size = static_cast<std::size_t>(n_tokens * padded);
        codes.resize(size), scales.resize(size / 32), sums.resize(size / 8);
        quantize_kernels()[0].fn({x.data(), codes.data(), scales.data(), sums.data(), columns, padded}, {0, n_tokens});
    }
    // Token `first` and those behind it.
    PreparedActivation from(std::int64_t first) const {
        return {x.data() + first * n_columns, codes.data() + first * padded, scales.data() + first * padded / 32, sums.data() + first * padded / 8, n_columns, padded};
    }
    // What the int8 form stands for.
    std::vector<float> dequantized() const {
        std::vector<float> values;
        for (std::int64_t t = 0; t < n_tokens; ++t)
            for (std::int64_t c = 0; c < n_columns; ++c) {
                const auto at = static_cast<std::size_t>(t * padded + c);
                values.push_back(scales[at / 32] * static_cast<float>(codes[at]));
            }
        return values;
    }
};

inline std::vector<float> multiply(LinearFn kernel, const PackedWeight& weight, const PreparedActivation& x, std::int64_t n_tokens) {
    std::vector<float> y(static_cast<std::size_t>(n_tokens * weight.n_rows), NAN);
    kernel({&weight, x, nullptr, y.data(), weight.n_rows, n_tokens, LinearArgs::Write::replace}, {0, weight.n_rows});
    return y;
}

}  // namespace skiff::testing
