// Weights of every kind, and one call of a linear kernel, for the tests of layouts and linear kernels.
#pragma once

#include <string>

#include "kernels/kernels_testing.h"

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

// Every code equally likely, extremes included; scales of both signs.
inline Weight random_codes(std::int64_t n_rows, std::int64_t n_columns, const Scheme& scheme, std::uint64_t seed) {
    struct Owner {
        std::vector<std::byte> packed, scales, zeros;
    };
    auto owner = std::make_shared<Owner>();
    const std::int64_t row_bytes = packed_row_bytes(scheme.bits, n_columns), n_groups = scheme.n_groups(n_columns);
    const auto bytes = random_bytes(n_rows * n_columns, seed);
    owner->packed.resize(static_cast<std::size_t>(n_rows * row_bytes));
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(n_columns));
    for (std::int64_t row = 0; row < n_rows; ++row) {
        for (std::int64_t c = 0; c < n_columns; ++c)
            codes[static_cast<std::size_t>(c)] = static_cast<std::uint8_t>(std::to_integer<unsigned>(bytes[static_cast<std::size_t>(row * n_columns + c)]) & ((1u << scheme.bits) - 1));
        pack_codes(codes.data(), scheme.bits, n_columns, owner->packed.data() + row * row_bytes);
    }
    const auto scales = normal_values(n_rows * n_groups, seed + 1, 0.02f);
    owner->scales.resize(static_cast<std::size_t>(n_rows * n_groups * dtype_info(scheme.scale_dtype).bits / 8));
    dtype_info(scheme.scale_dtype).from_float(scales.data(), n_rows * n_groups, owner->scales.data());
    Codes result = {scheme, {DType::i32, {n_rows, row_bytes / 4}, owner->packed}, {scheme.scale_dtype, {n_rows, n_groups}, owner->scales}, {}};
    if (!scheme.symmetric) {
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

inline const Scheme all_schemes[] = {
    {NumberKind::integer, DType::bf16, 4, true, 32, DType::f16},   {NumberKind::integer, DType::bf16, 4, false, 32, DType::f16},
    {NumberKind::integer, DType::bf16, 4, true, 64, DType::f32},   {NumberKind::integer, DType::bf16, 4, false, 128, DType::bf16},
    {NumberKind::integer, DType::bf16, 4, true, 0, DType::f16},    {NumberKind::integer, DType::bf16, 8, true, 0, DType::f16},
    {NumberKind::integer, DType::bf16, 8, false, 0, DType::f32},   {NumberKind::integer, DType::bf16, 8, true, 32, DType::f16},
    {NumberKind::integer, DType::bf16, 8, false, 64, DType::bf16}, {NumberKind::integer, DType::bf16, 2, true, 32, DType::f16},
    {NumberKind::integer, DType::bf16, 3, false, 32, DType::f16},  {NumberKind::integer, DType::bf16, 5, true, 32, DType::f16},
    {NumberKind::integer, DType::bf16, 6, false, 64, DType::f16},  {NumberKind::integer, DType::bf16, 4, false, 48, DType::f16},
};

// One weight of every kind that is stored; some are accepted by several layouts.
inline std::vector<Weight> weights_of_all_kinds(std::int64_t n_rows, std::int64_t n_columns) {
    std::vector<Weight> weights;
    for (DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f8_e4m3, DType::f64}) weights.push_back(random_plain(n_rows, n_columns, dtype, 40));
    for (const Scheme& scheme : all_schemes) weights.push_back(random_codes(n_rows, n_columns, scheme, 50));
    for (BlockType type : {BlockType::q4_0, BlockType::q5_0, BlockType::q8_0, BlockType::q6_k})
        if (block_format(type).encode != nullptr) weights.push_back(random_blocks(n_rows, n_columns, type, 60));
    return weights;
}

// An activation in both forms.
struct Activations {
    std::int64_t n_tokens, n_columns, padded;
    std::vector<float> x, scales;
    std::vector<std::int8_t> codes;
    std::vector<std::int32_t> sums;

    Activations(std::int64_t tokens, std::int64_t columns, std::uint64_t seed)
        : n_tokens(tokens), n_columns(columns), padded((columns + 63) / 64 * 64), x(normal_values(tokens * columns, seed, 2)) {
        const auto size = static_cast<std::size_t>(tokens * padded);
        codes.resize(size), scales.resize(size / 32), sums.resize(size / 32);
        quantize_kernels()[0].fn({x.data(), codes.data(), scales.data(), sums.data(), columns, padded}, {0, tokens});
    }
    // Token `first` and those behind it.
    PreparedActivation from(std::int64_t first) const {
        return {x.data() + first * n_columns, codes.data() + first * padded, scales.data() + first * padded / 32, sums.data() + first * padded / 32, n_columns, padded};
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
