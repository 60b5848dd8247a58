#include "plan/packing_fingerprint.h"

#include <algorithm>
#include <optional>

#include "base/hash.h"
#include "base/rng.h"
#include "kernels/layouts.h"
#include "plan/pack_file.h"
#include "tensor/prune_target.h"

namespace skiff {
namespace {

constexpr std::int64_t n_rows = 20;  // no multiple of a tile

// For schemes that nothing rounds to.
Weight random_codes(const Scheme& scheme, std::int64_t n_columns, Rng& rng) {
    const CodeRowBytes row = code_row_bytes(scheme, n_columns);
    std::vector<std::byte> bytes(static_cast<std::size_t>(n_rows * row.total()));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng.next() >> 56);
    const std::uint64_t n_levels = scheme.codebook != nullptr ? scheme.codebook->levels.size() : std::uint64_t{1} << scheme.bits;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(n_columns));
    for (std::int64_t r = 0; r < n_rows; ++r) {
        for (auto& code : codes) code = static_cast<std::uint8_t>(rng.below(n_levels));
        pack_codes(codes.data(), scheme.bits, n_columns, bytes.data() + r * row.packed);
    }
    Weight owner = make_plain_weight({static_cast<std::int64_t>(bytes.size())}, DType::u8, std::move(bytes));
    std::span<const std::byte> rest = owner.plain()->data;
    const auto take = [&](std::int64_t row_bytes, DType dtype) {
        TensorView view{dtype, {n_rows, row_bytes * 8 / dtype_info(dtype).bits}, rest.first(static_cast<std::size_t>(n_rows * row_bytes))};
        rest = rest.subspan(view.data.size());
        return view;
    };
    Codes all{scheme, take(row.packed, DType::i32), take(row.scales, scheme.scale_dtype), take(row.zeros, DType::u8)};
    all.super_scales = take(row.super_scales, scheme.super_dtype);
    all.minimums = take(row.minimums, scheme.minimum_dtype());
    all.super_minimums = take(row.super_minimums, scheme.super_dtype);
    return {{n_rows, n_columns}, all, owner.owner};
}

// What a pattern leaves of a weight. Scores are random, so that some blocks go and some stay.
std::optional<Weight> pruned(const Weight& dense, const PackedWeight& like, Rng& rng) {
    const char* target = like.tiles == TileForm::skip ? "block16x32:75%" : like.layout->name.ends_with("_2of4") ? "2:4" : like.mask_rows == 16 ? "16x1:50%" : like.mask_rows == 4 ? "4x1:50%" : "50%";
    const PruneTarget resolved = parse_prune_target(target)->resolved(n_rows, dense.n_columns());
    std::vector<float> scores(static_cast<std::size_t>(n_rows * dense.n_columns()));
    for (float& score : scores) score = static_cast<float>(rng.uniform());
    auto sparse = make_sparse(dense, resolved.pattern, choose_units(resolved, scores, n_rows, dense.n_columns()));
    if (!sparse.ok() || !like.layout->accepts(*sparse)) return std::nullopt;
    return std::move(*sparse);
}

std::optional<Weight> sample_outliers(const PackedWeight& like, Rng& rng) {
    std::vector<float> values;
    std::vector<std::int32_t> columns;
    std::vector<std::int64_t> rows = {0};
    for (std::int64_t row = 0; row < n_rows; ++row) {
        values.push_back(rng.normal());
        columns.push_back(static_cast<std::int32_t>(row * 3));
        rows.push_back(row + 1);
    }
    Weight weight = make_outliers({n_rows, 96}, DType::f16, values, std::move(columns), std::move(rows));
    if (!like.layout->accepts(weight)) return std::nullopt;
    return weight;
}

std::optional<Weight> sample_hashed(const PackedWeight& like, Rng& rng) {
    const std::int64_t n_columns = like.scheme.is_coded() ? std::max(like.scheme.group_size, like.scheme.super_size) * 2 + 96 : 96;
    if (n_columns > (1 << 18)) return std::nullopt;  // a sample must be small
    const BlockHash hash = {n_rows, n_columns, 2, 1};
    std::vector<float> values(static_cast<std::size_t>(element_count(hash.bank_shape())));
    for (float& value : values) value = rng.normal();
    Scheme scheme = like.scheme;
    if (!scheme.is_coded()) scheme.kind = NumberKind::floating, scheme.dtype = like.dtype;
    auto bank = encode_nearest(make_float_weight(hash.bank_shape(), std::move(values)), scheme, ScaleRule::min_max);
    if (!bank.ok()) return std::nullopt;
    auto weight = make_hashed(hash, std::move(*bank));
    if (!weight.ok() || !like.layout->accepts(*weight)) return std::nullopt;
    return std::move(*weight);
}

std::optional<Weight> sample(const PackedWeight& like) {
    Rng rng(1);
    if (like.tiles == TileForm::hashed || like.layout == &bank_rows) return sample_hashed(like, rng);
    if (like.layout == &outlier_rows) return sample_outliers(like, rng);
    if (like.scheme.is_coded()) {
        if (std::max(like.scheme.group_size, like.scheme.super_size) > (1 << 16)) return std::nullopt;  // a sample must be small
        const std::int64_t n_columns = std::max(like.scheme.group_size, like.scheme.super_size) * 2 + 96;
        std::vector<float> values(static_cast<std::size_t>(n_rows * n_columns));
        for (float& value : values) value = rng.normal();
        auto rounded = encode_nearest(make_float_weight({n_rows, n_columns}, std::move(values)), like.scheme, ScaleRule::min_max);
        // Levels and books that are learnt are none of random_codes().
        if (!rounded.ok() && (like.scheme.kind == NumberKind::vectors || like.scheme.kind == NumberKind::clusters)) return std::nullopt;
        Weight coded = rounded.ok() ? std::move(*rounded) : random_codes(like.scheme, n_columns, rng);
        if (like.tiles != TileForm::dense) return pruned(coded, like, rng);
        if (like.layout->accepts(coded)) return coded;
        return std::nullopt;
    }
    const BlockFormat& format = block_format(like.block_type);
    std::vector<std::byte> bytes(static_cast<std::size_t>(n_rows * 2 * format.block_bytes));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng.next() >> 56);
    Weight plain = make_plain_weight({static_cast<std::int64_t>(bytes.size())}, DType::u8, std::move(bytes));
    Weight blocks{{n_rows, 2 * format.block_size}, Blocks{like.block_type, plain.plain()->data}, plain.owner};
    if (like.layout->accepts(blocks)) return blocks;
    const DTypeInfo& info = dtype_info(like.dtype);
    if (info.from_float == nullptr || info.bits % 8 != 0) return std::nullopt;
    constexpr std::int64_t n_columns = 96;
    std::vector<float> values(n_rows * n_columns);
    for (float& value : values) value = rng.normal();
    std::vector<std::byte> numbers(values.size() * static_cast<std::size_t>(info.bits) / 8);
    info.from_float(values.data(), static_cast<std::int64_t>(values.size()), numbers.data());
    Weight weight = make_plain_weight({n_rows, n_columns}, like.dtype, std::move(numbers));
    if (like.layout->accepts(weight)) return weight;
    return std::nullopt;
}

}  // namespace

std::uint64_t packing_fingerprint(const PackedWeight& like) {
    const auto weight = sample(like);
    if (!weight || like.layout->sections == nullptr) return 0;
    const PackedWeight packed = pack_weight(*like.layout, *weight, RowMap::all(n_rows));
    const auto sizes = like.layout->sections(packed);
    if (!sizes) return 0;
    std::uint64_t hash = 0;
    for (const PackSection& section : pack_sections)
        if (const std::uint64_t size = (*sizes).*section.size; size > 0) hash = hash64({packed.*section.pointer, static_cast<std::size_t>(size)}, hash);
    return hash;
}

}  // namespace skiff
