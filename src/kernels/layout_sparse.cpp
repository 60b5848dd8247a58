// What pruning kept, for the int8 kernels: tiles without their empty blocks, and tiles with masks (sparse_tiles.h); and sparse weights read as stored.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "base/checked.h"
#include "kernels/layouts.h"
#include "kernels/sparse_tiles.h"
#include "kernels/tile_pack.h"

namespace skiff {
namespace {

// Of a dense tile's bytes: above, leaving out zeros does not pay (docs/performance.md).
constexpr double most_of_dense = 0.9;

bool is_tiled(const Sparse& sparse, std::int64_t n_columns) {
    return sparse.scheme.is_coded() && n_columns > 0 && n_columns <= (std::int64_t{1} << 20) && tile_groups_fit(sparse.scheme, n_columns);
}

double density(const Weight& weight) { return static_cast<double>(weight.sparse()->n_values()) / static_cast<double>(std::max<std::int64_t>(1, element_count(weight.shape))); }

template <int Bits>
bool accepts_skip(const Weight& weight) {
    const Sparse* sparse = weight.sparse();
    if (sparse == nullptr || !is_tiled(*sparse, weight.n_columns()) || (sparse->scheme.bits == 7 ? 8 : sparse->scheme.bits) != Bits) return false;
    if (sparse->scheme.n_supers(weight.n_columns()) > 1) return false;  // super scales of parts of a row would have to be left out too
    PackedWeight packed;
    packed.scheme = sparse->scheme, packed.dtype = sparse->scheme.scale_dtype, packed.n_columns = weight.n_columns();
    if (tile_format(packed).has_levels) return false;  // kernels for looked-up levels do not skip
    return sparse->pattern.unit_rows % tile_rows == 0 && sparse->pattern.unit_columns % tile_block == 0 && density(weight) <= most_of_dense;
}

template <int Bits>
bool accepts_mask(const Weight& weight) {
    const Sparse* sparse = weight.sparse();
    if (sparse == nullptr || !is_tiled(*sparse, weight.n_columns()) || sparse->scheme.kind != NumberKind::integer) return false;
    if ((sparse->scheme.bits == 7 ? 8 : sparse->scheme.bits) != Bits) return false;
    const double mask_bits = sparse->pattern.unit_rows % 4 == 0 ? 0.25 : 1;
    return density(weight) * Bits + mask_bits <= most_of_dense * Bits;
}

// The rows of one tile: codes with those for zero in between, and what is kept. // (16, n_blocks * 32) each
struct TileRows {
    std::int64_t n_padded;
    std::vector<std::uint8_t> codes, kept;
    std::array<std::int64_t, tile_rows> rows;  // of the weight, -1 behind the last

    explicit TileRows(std::int64_t n_columns) : n_padded(ceil_div(n_columns, tile_block) * tile_block), codes(static_cast<std::size_t>(tile_rows * n_padded)), kept(codes.size()) {}
    void read(const Weight& weight, const RowMap& map, std::int64_t tile) {
        const Sparse& sparse = *weight.sparse();
        std::fill(codes.begin(), codes.end(), static_cast<std::uint8_t>(*zero_code(sparse.scheme)));
        std::fill(kept.begin(), kept.end(), std::uint8_t{0});
        for (std::int64_t lane = 0; lane < tile_rows; ++lane) {
            const std::int64_t row = tile * tile_rows + lane;
            rows[static_cast<std::size_t>(lane)] = row < map.n_rows() ? map.at(row) : -1;
            if (row < map.n_rows()) sparse_row_codes(sparse, map.at(row), weight.n_columns(), codes.data() + lane * n_padded, kept.data() + lane * n_padded);
        }
    }
};

void set_fields(const Weight& weight, TileForm form, PackedWeight& packed) {
    packed.scheme = weight.sparse()->scheme;
    packed.dtype = packed.scheme.scale_dtype;
    packed.tiles = form;
}

void set_buffer(const std::vector<std::uint8_t>& bytes, PackedWeight& packed) {
    packed.buffer = AlignedBuffer(bytes.size() + tile_vector_bytes);
    std::memcpy(packed.buffer.data(), bytes.data(), bytes.size());
    packed.data = packed.buffer.data();
    packed.read_bytes = bytes.size();
}

// ---- blocks left out

// Groups of 32 columns where they are larger than a block.
Scheme scheme_of_blocks_left(Scheme scheme, std::int64_t n_columns) {
    if (scheme.n_groups(n_columns) > 1 && scheme.group_size > tile_block) scheme.group_size = tile_block;
    return scheme;
}

void pack_skip(const Weight& weight, const RowMap& map, PackedWeight& packed) {
    const Sparse& sparse = *weight.sparse();
    set_fields(weight, TileForm::skip, packed);
    const std::int64_t stored_group = packed.scheme.group_size;
    packed.scheme = scheme_of_blocks_left(packed.scheme, packed.n_columns);
    const TileFormat whole = tile_format(packed);
    const std::int64_t n_tiles = ceil_div(packed.n_rows, tile_rows), scale_bytes = dtype_info(sparse.scales.dtype).bits / 8, n_stored_groups = sparse.scales.row_elements();
    std::vector<SkipTile> directory(static_cast<std::size_t>(n_tiles));
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(round_up<std::int64_t>(n_tiles * static_cast<std::int64_t>(sizeof(SkipTile)), tile_vector_bytes)));
    TileRows rows(packed.n_columns);
    for (std::int64_t t = 0; t < n_tiles; ++t) {
        rows.read(weight, map, t);
        std::vector<std::uint16_t> places;
        for (std::int64_t block = 0; block < whole.n_blocks; ++block) {
            std::uint8_t any = 0;
            for (std::int64_t lane = 0; lane < tile_rows; ++lane)
                for (std::int64_t c = 0; c < tile_block; ++c) any |= rows.kept[static_cast<std::size_t>(lane * rows.n_padded + block * tile_block + c)];
            if (any != 0) places.push_back(static_cast<std::uint16_t>(block));
        }
        const auto n_kept = static_cast<std::int64_t>(places.size());
        const TileFormat format = format_of_blocks(whole, n_kept);
        const std::size_t begin = bytes.size(), head = round_up<std::size_t>(places.size() * 2, tile_vector_bytes);
        directory[static_cast<std::size_t>(t)] = {begin, places.size()};
        bytes.resize(begin + head + static_cast<std::size_t>(format.tile_bytes));
        if (n_kept == 0) continue;
        std::memcpy(bytes.data() + begin, places.data(), places.size() * 2);
        std::uint8_t* tile = bytes.data() + begin + head;
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(n_kept * tile_block));
        std::vector<std::byte> scales(static_cast<std::size_t>(format.n_groups * scale_bytes));
        for (std::int64_t lane = 0; lane < tile_rows; ++lane) {
            const std::int64_t row = rows.rows[static_cast<std::size_t>(lane)];
            for (std::int64_t i = 0; i < n_kept; ++i)
                std::memcpy(codes.data() + i * tile_block, rows.codes.data() + lane * rows.n_padded + places[static_cast<std::size_t>(i)] * tile_block, tile_block);
            place_tile_codes(codes.data(), format, lane, tile + format.codes_at);
            if (row < 0) continue;
            const std::byte* stored = sparse.scales.data.data() + row * n_stored_groups * scale_bytes;
            std::fill(scales.begin(), scales.end(), std::byte{0});
            for (std::int64_t group = 0; group < format.n_groups; ++group) {
                const std::int64_t units = format.units_per_block(), column = places[static_cast<std::size_t>(group / units)] * tile_block + group % units * (tile_block / units);
                const std::int64_t from = n_stored_groups == 1 ? 0 : column / stored_group;
                if (from < n_stored_groups) std::memcpy(scales.data() + group * scale_bytes, stored + from * scale_bytes, static_cast<std::size_t>(scale_bytes));
            }
            place_tile_numbers({sparse.scales.dtype, {1, format.n_groups}, scales}, 0, format.scales, lane, tile + format.scales_at);
            if (format.relative_scales) place_tile_numbers(sparse.super_scales, row, format.supers, lane, tile + format.super_scales_at);
        }
    }
    if (n_tiles > 0) std::memcpy(bytes.data(), directory.data(), directory.size() * sizeof(SkipTile));
    set_buffer(bytes, packed);
}

void skip_row(const PackedWeight& packed, std::int64_t row, float* target) {
    SkipTile tile;
    std::memcpy(&tile, packed.data + row / tile_rows * static_cast<std::int64_t>(sizeof tile), sizeof tile);
    const auto n_kept = static_cast<std::int64_t>(tile.n_blocks);
    const TileFormat format = format_of_blocks(tile_format(packed), n_kept);
    const auto* begin = reinterpret_cast<const std::uint8_t*>(packed.data) + tile.at;
    std::vector<float> values(static_cast<std::size_t>(n_kept * tile_block));
    decode_tile_row(begin + round_up<std::size_t>(tile.n_blocks * 2, tile_vector_bytes), format, packed.scheme, row % tile_rows, n_kept * tile_block, values.data());
    std::fill_n(target, packed.n_columns, 0.0f);
    for (std::int64_t i = 0; i < n_kept; ++i) {
        std::uint16_t place;
        std::memcpy(&place, begin + i * 2, 2);
        const std::int64_t first = place * tile_block;
        for (std::int64_t c = 0; c < std::min(tile_block, packed.n_columns - first); ++c) target[first + c] = values[static_cast<std::size_t>(i * tile_block + c)] + 0.0f;  // never -0
    }
}

// ---- a bit for each weight

// Rows that can share a bit: those of the pattern's units, where the map keeps them together.
int mask_rows_of(const SparsePattern& pattern, const RowMap& map) {
    for (int rows : {16, 4})
        if (pattern.unit_rows % rows == 0 && map.begin % rows == 0 && (map.n_blocks == 1 || (map.block % rows == 0 && map.stride % rows == 0))) return rows;
    return 1;
}

void put_mask(std::uint64_t mask, int v, int mask_rows, std::uint8_t* masks) {
    if (mask_rows == 1) {
        std::memcpy(masks + v * 8, &mask, 8);
    } else if (mask_rows == 4) {
        std::uint16_t nibbles = 0;
        for (int i = 0; i < 4; ++i) nibbles = static_cast<std::uint16_t>(nibbles | (mask >> (16 * i) & 15) << (4 * i));
        std::memcpy(masks + v * 2, &nibbles, 2);
    } else {
        masks[v / 2] = static_cast<std::uint8_t>(masks[v / 2] | (mask & 15) << (v % 2 * 4));
    }
}

// Masks and codes of some blocks behind `bytes`.
void append_stretch(const TileRows& rows, std::int64_t first_block, std::int64_t n_blocks, int mask_rows, int bits, std::vector<std::uint8_t>& bytes) {
    const std::size_t masks_at = bytes.size();
    const std::int64_t block_masks = mask_block_bytes(mask_rows);
    bytes.resize(masks_at + static_cast<std::size_t>(n_blocks * block_masks));
    for (std::int64_t block = 0; block < n_blocks; ++block)
        for (int v = 0; v < 8; ++v) {
            const auto at = [&](std::int64_t lane, int i) { return static_cast<std::size_t>(lane * rows.n_padded + (first_block + block) * tile_block + v * 4 + i); };
            std::uint64_t mask = 0;
            for (std::int64_t lane = 0; lane < tile_rows; ++lane)
                for (int i = 0; i < 4; ++i)
                    if (rows.kept[at(lane, i)] != 0) {
                        const std::int64_t first = lane / mask_rows * mask_rows;
                        for (std::int64_t shared = first; shared < first + mask_rows; ++shared) mask |= std::uint64_t{1} << (shared * 4 + i);
                    }
            put_mask(mask, v, mask_rows, bytes.data() + masks_at + static_cast<std::size_t>(block * block_masks));
            int n = 0;
            for (int byte = 0; byte < 64; ++byte) {
                if ((mask >> byte & 1) == 0) continue;
                const std::uint8_t code = rows.codes[at(byte / 4, byte % 4)];
                if (bits == 8 || n % 2 == 0) bytes.push_back(code);
                else bytes.back() = static_cast<std::uint8_t>(bytes.back() | code << 4);
                ++n;
            }
        }
}

void pack_mask(const Weight& weight, const RowMap& map, PackedWeight& packed) {
    const Sparse& sparse = *weight.sparse();
    set_fields(weight, TileForm::mask, packed);
    packed.mask_rows = mask_rows_of(sparse.pattern, map);
    const TileFormat format = tile_format(packed);
    const std::int64_t n_tiles = ceil_div(packed.n_rows, tile_rows), n_stretches = ceil_div(format.n_blocks, mask_stretch);
    std::vector<std::uint64_t> directory(static_cast<std::size_t>(n_tiles));
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(round_up<std::int64_t>(n_tiles * 8, tile_vector_bytes)));
    TileRows rows(packed.n_columns);
    for (std::int64_t t = 0; t < n_tiles; ++t) {
        rows.read(weight, map, t);
        bytes.resize(round_up<std::size_t>(bytes.size(), tile_vector_bytes));
        const std::size_t begin = bytes.size();
        directory[static_cast<std::size_t>(t)] = begin;
        bytes.resize(begin + static_cast<std::size_t>(format.codes_at + round_up(n_stretches * 4, tile_vector_bytes)));
        for (std::int64_t lane = 0; lane < tile_rows; ++lane) {
            const std::int64_t row = rows.rows[static_cast<std::size_t>(lane)];
            if (row < 0) continue;
            place_tile_numbers(sparse.scales, row, format.scales, lane, bytes.data() + begin + format.scales_at);
            if (format.relative_scales) place_tile_numbers(sparse.super_scales, row, format.supers, lane, bytes.data() + begin + format.super_scales_at);
        }
        for (std::int64_t stretch = 0; stretch < n_stretches; ++stretch) {
            const auto at = static_cast<std::uint32_t>(bytes.size() - begin);
            std::memcpy(bytes.data() + begin + format.codes_at + stretch * 4, &at, 4);
            const std::int64_t first = stretch * mask_stretch;
            append_stretch(rows, first, std::min(mask_stretch, format.n_blocks - first), packed.mask_rows, format.bits, bytes);
        }
    }
    if (n_tiles > 0) std::memcpy(bytes.data(), directory.data(), directory.size() * 8);
    bytes.resize(round_up<std::size_t>(bytes.size(), tile_vector_bytes));
    set_buffer(bytes, packed);
}

void mask_row(const PackedWeight& packed, std::int64_t row, float* target) {
    const TileFormat format = tile_format(packed);
    const auto* data = reinterpret_cast<const std::uint8_t*>(packed.data);
    std::uint64_t begin;
    std::memcpy(&begin, data + row / tile_rows * 8, 8);
    const std::uint8_t *tile = data + begin, *masks = nullptr, *codes = nullptr;
    const std::int64_t lane = row % tile_rows;
    for (std::int64_t block = 0; block < format.n_blocks; ++block) {
        if (block % mask_stretch == 0) {
            std::uint32_t at;
            std::memcpy(&at, tile + format.codes_at + block / mask_stretch * 4, 4);
            masks = tile + at;
            codes = masks + std::min(mask_stretch, format.n_blocks - block) * mask_block_bytes(packed.mask_rows);
        }
        for (int v = 0; v < 8; ++v) {
            const std::uint64_t mask = mask_of(masks, v, packed.mask_rows);
            for (int i = 0; i < 4; ++i) {
                const std::int64_t column = block * tile_block + v * 4 + i;
                if (column >= packed.n_columns) continue;
                const int bit = static_cast<int>(lane * 4 + i), index = std::popcount(mask & ((std::uint64_t{1} << bit) - 1));
                int code = format.offset;
                if ((mask >> bit & 1) != 0) code = format.bits == 8 ? codes[index] : codes[index / 2] >> (index % 2 * 4) & 15;
                float scale = tile_number_at(tile + format.scales_at, format.scales, column / format.group_size, lane);
                if (format.relative_scales) scale *= tile_number_at(tile + format.super_scales_at, format.supers, column / format.super_size, lane);
                target[column] = static_cast<float>(code - format.offset) * scale + 0.0f;  // never -0
            }
            codes += format.bits == 8 ? std::popcount(mask) : (std::popcount(mask) + 1) / 2;
        }
        masks += mask_block_bytes(packed.mask_rows);
    }
}

// ---- outliers: u32 of each row, where it begins (and one more); columns u16; values f32

bool accepts_outliers(const Weight& weight) { return weight.outliers() != nullptr && weight.n_columns() <= 65536 && weight.outliers()->values.n_elements() <= (std::int64_t{1} << 31); }

void pack_outliers(const Weight& weight, const RowMap& map, PackedWeight& packed) {
    const Outliers& outliers = *weight.outliers();
    const auto begin_of = [&](std::int64_t row) {
        std::int64_t begin;
        std::memcpy(&begin, outliers.rows.data.data() + row * 8, 8);
        return begin;
    };
    std::int64_t n = 0;
    for (std::int64_t row = 0; row < packed.n_rows; ++row) n += begin_of(map.at(row) + 1) - begin_of(map.at(row));
    const std::int64_t columns_at = round_up<std::int64_t>((packed.n_rows + 1) * 4, tile_vector_bytes), values_at = columns_at + round_up<std::int64_t>(n * 2, tile_vector_bytes);
    packed.buffer = AlignedBuffer(static_cast<std::size_t>(values_at + n * 4));
    packed.data = packed.buffer.data();
    if (n > 0) packed.scales = packed.data + columns_at, packed.zeros = packed.data + values_at;
    packed.read_bytes = static_cast<std::uint64_t>((packed.n_rows + 1) * 4 + n * 6);
    auto* begins = packed.buffer.as<std::uint32_t>();
    auto* columns = reinterpret_cast<std::uint16_t*>(packed.buffer.data() + columns_at);
    auto* values = reinterpret_cast<float*>(packed.buffer.data() + values_at);
    const DTypeInfo& info = dtype_info(outliers.values.dtype);
    std::uint32_t at = 0;
    for (std::int64_t row = 0; row < packed.n_rows; ++row) {
        begins[row] = at;
        const std::int64_t end = begin_of(map.at(row) + 1);
        for (std::int64_t i = begin_of(map.at(row)); i < end; ++i, ++at) {
            std::int32_t column;
            std::memcpy(&column, outliers.columns.data.data() + i * 4, 4);
            columns[at] = static_cast<std::uint16_t>(column);
            info.to_float(outliers.values.data.data() + i * info.bits / 8, 1, values + at);
        }
    }
    begins[packed.n_rows] = at;
}

void outlier_row(const PackedWeight& packed, std::int64_t row, float* target) {
    const auto* begins = reinterpret_cast<const std::uint32_t*>(packed.data);
    std::fill_n(target, packed.n_columns, 0.0f);
    for (std::uint32_t i = begins[row]; i < begins[row + 1]; ++i) target[reinterpret_cast<const std::uint16_t*>(packed.scales)[i]] = reinterpret_cast<const float*>(packed.zeros)[i];
}

// ---- what comes back from a file

bool fits_tiles(const PackedWeight& packed, TileForm form, std::string_view suffix) {
    const Scheme& scheme = packed.scheme;
    const int bits = scheme.bits == 7 ? 8 : scheme.bits;
    return packed.tiles == form && scheme.is_coded() && decodes(scheme) && zero_code(scheme).has_value() && packed.dtype == scheme.scale_dtype && packed.n_columns <= (std::int64_t{1} << 20) &&
           tile_groups_fit(scheme, packed.n_columns) && packed.layout->name == "w" + std::to_string(bits) + "_r16" + std::string(suffix);
}

std::optional<SectionBytes> skip_sections(const PackedWeight& packed) {
    if (!fits_tiles(packed, TileForm::skip, "_skip") || packed.scheme.n_supers(packed.n_columns) > 1 || tile_format(packed).has_levels) return std::nullopt;
    return SectionBytes{packed.read_bytes};
}

std::optional<SectionBytes> mask_sections(const PackedWeight& packed) {
    const bool shared = packed.mask_rows == 1 || packed.mask_rows == 4 || packed.mask_rows == 16;
    if (!fits_tiles(packed, TileForm::mask, "_mask") || packed.scheme.kind != NumberKind::integer || !shared) return std::nullopt;
    return SectionBytes{packed.read_bytes};
}

bool inside(std::uint64_t at, std::uint64_t n, std::uint64_t size) { return at <= size && n <= size - at; }

bool skip_intact(const PackedWeight& packed, const SectionBytes& sizes) {
    const TileFormat whole = tile_format(packed);
    const auto n_tiles = static_cast<std::uint64_t>(ceil_div(packed.n_rows, tile_rows));
    if (!inside(0, n_tiles * sizeof(SkipTile), sizes.data)) return false;
    for (std::uint64_t t = 0; t < n_tiles; ++t) {
        SkipTile tile;
        std::memcpy(&tile, packed.data + t * sizeof tile, sizeof tile);
        if (tile.n_blocks > static_cast<std::uint64_t>(whole.n_blocks)) return false;
        const TileFormat format = format_of_blocks(whole, static_cast<std::int64_t>(tile.n_blocks));
        const std::uint64_t head = round_up<std::uint64_t>(tile.n_blocks * 2, tile_vector_bytes);
        if (tile.at % tile_vector_bytes != 0 || !inside(tile.at, head + (tile.n_blocks > 0 ? static_cast<std::uint64_t>(format.tile_bytes) : 0), sizes.data)) return false;
        for (std::uint64_t i = 0; i < tile.n_blocks; ++i) {
            std::uint16_t place;
            std::memcpy(&place, packed.data + tile.at + i * 2, 2);
            if (place >= whole.n_blocks) return false;
        }
    }
    return true;
}

bool mask_intact(const PackedWeight& packed, const SectionBytes& sizes) {
    const TileFormat format = tile_format(packed);
    const auto n_tiles = static_cast<std::uint64_t>(ceil_div(packed.n_rows, tile_rows));
    const std::int64_t n_stretches = ceil_div(format.n_blocks, mask_stretch);
    if (!inside(0, n_tiles * 8, sizes.data)) return false;
    const auto* data = reinterpret_cast<const std::uint8_t*>(packed.data);
    for (std::uint64_t t = 0; t < n_tiles; ++t) {
        std::uint64_t begin;
        std::memcpy(&begin, data + t * 8, 8);
        if (begin % tile_vector_bytes != 0 || !inside(begin, static_cast<std::uint64_t>(format.codes_at + n_stretches * 4), sizes.data)) return false;
        for (std::int64_t stretch = 0; stretch < n_stretches; ++stretch) {
            std::uint32_t at;
            std::memcpy(&at, data + begin + static_cast<std::uint64_t>(format.codes_at + stretch * 4), 4);
            const std::int64_t n_blocks = std::min(mask_stretch, format.n_blocks - stretch * mask_stretch);
            const auto mask_bytes = static_cast<std::uint64_t>(n_blocks * mask_block_bytes(packed.mask_rows));
            if (!inside(begin, at, sizes.data) || !inside(begin + at, mask_bytes, sizes.data)) return false;
            std::uint64_t code_bytes = 0;
            for (std::int64_t block = 0; block < n_blocks; ++block)
                for (int v = 0; v < 8; ++v) {
                    const auto n = static_cast<std::uint64_t>(std::popcount(mask_of(data + begin + at + block * mask_block_bytes(packed.mask_rows), v, packed.mask_rows)));
                    code_bytes += format.bits == 8 ? n : (n + 1) / 2;
                }
            if (!inside(begin + at + mask_bytes, code_bytes, sizes.data)) return false;
        }
    }
    return true;
}

// The number of outliers follows from what one pass reads.
std::optional<SectionBytes> outlier_sections(const PackedWeight& packed) {
    const auto begins = static_cast<std::uint64_t>(packed.n_rows + 1) * 4;
    if (packed.scheme.is_coded() || packed.n_columns > 65536 || packed.read_bytes < begins || (packed.read_bytes - begins) % 6 != 0) return std::nullopt;
    const std::uint64_t n = (packed.read_bytes - begins) / 6;
    if (n > (std::uint64_t{1} << 31)) return std::nullopt;
    return SectionBytes{begins, n * 2, n * 4};
}

bool outliers_intact(const PackedWeight& packed, const SectionBytes& sizes) {
    const auto* begins = reinterpret_cast<const std::uint32_t*>(packed.data);
    for (std::int64_t row = 0; row < packed.n_rows; ++row)
        if (begins[row] > begins[row + 1]) return false;
    if (begins[0] != 0 || begins[packed.n_rows] != sizes.scales / 2) return false;
    const auto* columns = reinterpret_cast<const std::uint16_t*>(packed.scales);
    return std::all_of(columns, columns + sizes.scales / 2, [&](std::uint16_t column) { return column < packed.n_columns; });
}

// ---- as stored

struct StoredRows {
    Weight weight;
    RowMap map;
};

bool accepts_rows(const Weight& weight) { return weight.sparse() != nullptr || weight.outliers() != nullptr || weight.hashed() != nullptr; }

void pack_rows(const Weight& weight, const RowMap& map, PackedWeight& packed) {
    const auto stored = std::make_shared<StoredRows>(StoredRows{weight, map});
    packed.data = reinterpret_cast<const std::byte*>(stored.get());
    packed.read_bytes = weight.stored_bytes() * static_cast<std::uint64_t>(map.n_rows()) / static_cast<std::uint64_t>(std::max<std::int64_t>(1, weight.n_rows()));
    packed.owner = stored;
}

void stored_row(const PackedWeight& packed, std::int64_t row, float* target) {
    const auto& stored = *reinterpret_cast<const StoredRows*>(packed.data);
    stored.weight.row(stored.map.at(row), target);
}

}  // namespace

const Layout w1_r16_skip = {"w1_r16_skip", tile_rows, accepts_skip<1>, pack_skip, skip_row, skip_sections, 1, nullptr, nullptr, skip_intact};
const Layout w2_r16_skip = {"w2_r16_skip", tile_rows, accepts_skip<2>, pack_skip, skip_row, skip_sections, 1, nullptr, nullptr, skip_intact};
const Layout w3_r16_skip = {"w3_r16_skip", tile_rows, accepts_skip<3>, pack_skip, skip_row, skip_sections, 1, nullptr, nullptr, skip_intact};
const Layout w4_r16_skip = {"w4_r16_skip", tile_rows, accepts_skip<4>, pack_skip, skip_row, skip_sections, 1, nullptr, nullptr, skip_intact};
const Layout w5_r16_skip = {"w5_r16_skip", tile_rows, accepts_skip<5>, pack_skip, skip_row, skip_sections, 1, nullptr, nullptr, skip_intact};
const Layout w6_r16_skip = {"w6_r16_skip", tile_rows, accepts_skip<6>, pack_skip, skip_row, skip_sections, 1, nullptr, nullptr, skip_intact};
const Layout w8_r16_skip = {"w8_r16_skip", tile_rows, accepts_skip<8>, pack_skip, skip_row, skip_sections, 1, nullptr, nullptr, skip_intact};
const Layout w4_r16_mask = {"w4_r16_mask", tile_rows, accepts_mask<4>, pack_mask, mask_row, mask_sections, 1, nullptr, nullptr, mask_intact};
const Layout w8_r16_mask = {"w8_r16_mask", tile_rows, accepts_mask<8>, pack_mask, mask_row, mask_sections, 1, nullptr, nullptr, mask_intact};
const Layout outlier_rows = {"outlier_rows", tile_rows, accepts_outliers, pack_outliers, outlier_row, outlier_sections, 1, nullptr, nullptr, outliers_intact};
const Layout sparse_rows = {"sparse_rows", 1, accepts_rows, pack_rows, stored_row};

}  // namespace skiff
