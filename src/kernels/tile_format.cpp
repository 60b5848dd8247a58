#include "kernels/tile_format.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <span>

#include "base/checked.h"
#include "kernels/vector_format.h"

namespace skiff {
namespace {

TileNumber tile_number(DType dtype) {
    switch (dtype) {
        case DType::f16: return TileNumber::f16;
        case DType::i8: return TileNumber::i8;
        case DType::u8: return TileNumber::u8;
        case DType::f8_e8m0: return TileNumber::e8m0;
        default: return TileNumber::f32;  // bf16 too: tiles hold it as f32
    }
}

// Levels as bytes above the lowest: the levels themselves where they are integers of at most 8 bits, else rounded to 254 steps.
void set_levels(std::span<const float> book, TileFormat& format) {
    float low = book[0], high = low;
    bool integers = true;
    for (float level : book) {
        low = std::min(low, level), high = std::max(high, level);
        integers = integers && level == std::nearbyint(level);
    }
    const float extreme = std::max(-low, high);
    const float steps = extreme == 0 ? 1.0f : integers && high - low <= 255 ? 1.0f : 127.0f / extreme;
    const auto lowest = static_cast<std::int32_t>(std::nearbyint(low * steps));
    format.level_scale = 1 / steps;
    format.offset = -lowest;
    format.largest_level = static_cast<std::int32_t>(std::nearbyint(high * steps)) - lowest;
    bool identity = true;
    for (std::size_t code = 0; code < book.size(); ++code) {
        format.levels[code] = static_cast<std::uint8_t>(static_cast<std::int32_t>(std::nearbyint(book[code] * steps)) - lowest);
        identity = identity && format.levels[code] == code;
    }
    format.has_levels = !identity;
}

// Learnt levels: scales are one step of a byte per row, where rows have their own, else 1.
void set_clusters(const PackedWeight& packed, TileFormat& format) {
    const Scheme& scheme = packed.scheme;
    format.scales = TileNumber::f32;
    format.n_levels = scheme.n_levels;
    if (scheme.one_table) {
        float levels[16] = {};
        if (packed.scales != nullptr) dtype_info(packed.dtype).to_float(packed.scales, scheme.n_levels, levels);
        set_levels({levels, static_cast<std::size_t>(scheme.n_levels)}, format);
        return;
    }
    format.row_levels = true;
    format.exact_level_bytes = dtype_info(packed.dtype).bits / 8;
    format.offset = 128;
    format.largest_level = 255;
}

}  // namespace

TileFormat tile_format(const PackedWeight& packed) {
    const Scheme& scheme = packed.scheme;
    // Every block of a bank is whole: it may stand anywhere in a row.
    const std::int64_t n_columns = packed.tiles == TileForm::hashed ? round_up(packed.n_columns, tile_block) : packed.n_columns;
    TileFormat format = {};
    format.bits = scheme.bits == 7 ? 8 : scheme.bits;
    format.n_blocks = ceil_div(n_columns, tile_block);
    format.block_bytes = expanded_block_bytes * format.bits / 8;
    format.n_groups = scheme.n_groups(n_columns);
    format.group_size = format.n_groups == 1 ? format.n_blocks * tile_block : scheme.group_size;
    const auto group_units = static_cast<std::uint64_t>(format.group_size * format.units_per_block() / tile_block);
    format.group_shift = std::has_single_bit(group_units) ? std::countr_zero(group_units) : -1;
    format.scales = scheme.scale_book != nullptr ? TileNumber::table : tile_number(packed.dtype);
    format.relative_scales = format.scales == TileNumber::i8 || format.scales == TileNumber::u8 || format.scales == TileNumber::table;
    format.level_scale = 1;
    if (scheme.minimums) {
        format.minimums = tile_number(scheme.minimum_dtype());
        format.relative_minimums = format.minimums == TileNumber::u8;
    } else if (!scheme.symmetric) {
        format.zeros = TileNumber::u8;
    }
    if (format.relative_scales || format.relative_minimums) {
        format.supers = tile_number(scheme.super_dtype);
        format.n_supers = scheme.super_size == 0 ? 1 : ceil_div(n_columns, scheme.super_size);
        format.super_size = format.n_supers == 1 ? format.n_blocks * tile_block : scheme.super_size;
    }
    if (scheme.kind == NumberKind::codebook) {
        set_levels(scheme.codebook->levels, format);
    } else if (scheme.kind == NumberKind::clusters) {
        set_clusters(packed, format);
    } else if (scheme.kind == NumberKind::vectors) {
        format.bits = 8;
        format.block_bytes = vector_format(scheme).block_bytes();
        format.offset = 128;
        format.largest_level = 255;
        format.tables = packed.books;
    } else {
        format.offset = 1 << (scheme.bits - 1);
        format.largest_level = (1 << scheme.bits) - 1;
    }
    if (scheme.scale_book != nullptr) {
        for (std::size_t code = 0; code < scheme.scale_book->levels.size(); ++code) format.scale_levels[code] = static_cast<std::int8_t>(scheme.scale_book->levels[code] * 128);
        format.level_scale /= 128;
    }
    const std::int64_t super_bytes = format.n_supers * tile_numbers_bytes(format.supers);
    const TileNumber corrections = scheme.minimums ? format.minimums : format.zeros;
    format.row_levels_at = round_up(format.row_levels ? tile_rows * format.n_levels * format.exact_level_bytes : 0, tile_vector_bytes);
    format.super_scales_at = format.row_levels_at + (format.row_levels ? row_level_vectors(format.bits) * tile_vector_bytes : 0);
    format.super_minimums_at = format.super_scales_at + (format.relative_scales ? super_bytes : 0);
    format.scales_at = format.super_minimums_at + (format.relative_minimums ? super_bytes : 0);
    format.corrections_at = format.scales_at + format.n_groups * tile_numbers_bytes(format.scales);
    format.codes_at = round_up(format.corrections_at + format.n_groups * tile_numbers_bytes(corrections), tile_vector_bytes);
    format.tile_bytes = format.codes_at + format.n_blocks * format.block_bytes;
    return format;
}

int tile_fields(int bits, int vector, std::int64_t byte_in_vector, TileField (&fields)[2]) {
    const auto plane = [&](int width, std::int64_t begin) {
        const int n_vectors = width == 8 ? 8 : width;  // of 64 bytes
        return TileField{begin + vector % n_vectors * tile_vector_bytes + byte_in_vector, vector / n_vectors * width, width};
    };
    switch (bits) {
        case 3: fields[0] = plane(2, 0), fields[1] = plane(1, 128); return 2;
        case 5: fields[0] = plane(4, 0), fields[1] = plane(1, 256); return 2;
        case 6: fields[0] = plane(4, 0), fields[1] = plane(2, 256); return 2;
        default: fields[0] = plane(bits, 0); return 1;
    }
}

}  // namespace skiff
