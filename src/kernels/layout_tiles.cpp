// Codes of up to 8 bits, and the GGUF blocks that are nothing else, interleaved in tiles of 16 rows for the int8 kernels (tile_format.h).
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "kernels/layouts.h"
#include "kernels/tile_pack.h"
#include "tensor/blocks_to_codes.h"

namespace skiff {
namespace {

// Codes, or blocks that become codes: what they are; nothing for other weights.
const Scheme* scheme_of_codes(const Weight& weight) {
    if (const Blocks* blocks = weight.blocks()) return weight.n_columns() % block_format(blocks->type).block_size == 0 ? &scheme_of_blocks(blocks->type) : nullptr;
    return weight.codes() != nullptr ? &weight.codes()->scheme : nullptr;
}

}  // namespace

bool tile_groups_fit(const Scheme& scheme, std::int64_t n_columns) {
    if (scheme.kind == NumberKind::clusters || (scheme.codebook != nullptr && scheme.codebook->is_float8())) return false;
    const auto fits = [&](std::int64_t size, std::int64_t unit) { return size == 0 || size % unit == 0 || size >= n_columns; };
    return (scheme.group_size == 16 || fits(scheme.group_size, tile_block)) && fits(scheme.super_size, tile_block);
}

namespace {

// Stored bits of the tiles that hold such a weight, 0 for others.
int tile_bits(const Weight& weight) {
    if (weight.n_columns() == 0) return 0;
    const Scheme* scheme = scheme_of_codes(weight);
    if (scheme == nullptr || scheme->kind == NumberKind::floating || scheme->kind == NumberKind::vectors) return 0;
    if (scheme->kind == NumberKind::clusters) return scheme->bits <= 4 && scheme->group_size == 0 ? scheme->bits : 0;
    if (!tile_groups_fit(*scheme, weight.n_columns())) return 0;
    return scheme->bits == 7 ? 8 : scheme->bits;
}
template <int Bits>
bool accepts(const Weight& weight) {
    return tile_bits(weight) == Bits;
}

}  // namespace

void place_tile_numbers(const TensorView& view, std::int64_t row, TileNumber type, std::int64_t lane, std::uint8_t* section) {
    const std::int64_t n = view.row_elements(), source_bytes = dtype_info(view.dtype).bits / 8, size = tile_numbers_bytes(type) / tile_rows;
    const std::byte* source = view.data.data() + row * n * source_bytes;
    for (std::int64_t i = 0; i < n; ++i) {
        std::uint8_t* target = section + (i * tile_rows + lane) * size;
        if (type == TileNumber::f32) {
            float value;
            dtype_info(view.dtype).to_float(source + i * source_bytes, 1, &value);
            std::memcpy(target, &value, 4);
        } else {
            std::memcpy(target, source + i * source_bytes, static_cast<std::size_t>(size));
        }
    }
}

namespace {

// Codes of a table of scales: two groups to a byte become two rows to a byte, in tiles that were zero.
void place_table_codes(const TensorView& view, std::int64_t row, std::int64_t n_groups, std::int64_t lane, std::uint8_t* section) {
    const auto* source = reinterpret_cast<const std::uint8_t*>(view.data.data()) + row * view.row_elements();
    for (std::int64_t group = 0; group < n_groups; ++group) {
        std::uint8_t& target = section[group * 8 + lane % 8];
        target = static_cast<std::uint8_t>(target | (source[group / 2] >> group % 2 * 4 & 15) << lane / 8 * 4);
    }
}

// For every code of an expanded block, in order of (vector, row, column in vector): where its fields go.
struct FieldMap {
    std::array<std::array<TileField, 2>, expanded_block_bytes> fields;
    int n_planes;
    explicit FieldMap(int bits) {
        for (int i = 0; i < expanded_block_bytes; ++i) {
            TileField found[2] = {};
            n_planes = tile_fields(bits, i / 64, i % 64, found);
            fields[static_cast<std::size_t>(i)] = {found[0], found[1]};
        }
    }
};

const FieldMap& field_map(int bits) {
    static const FieldMap maps[] = {FieldMap(1), FieldMap(2), FieldMap(3), FieldMap(4), FieldMap(5), FieldMap(6), FieldMap(8)};
    return maps[bits == 8 ? 6 : bits - 1];
}

}  // namespace

// Four codes of a row lie in four bytes of a vector, and those of vectors that share these bytes are bit fields of them: so words of four bytes are put together, and no
// other row has bits in them.
void place_tile_codes(const std::uint8_t* codes, const TileFormat& format, std::int64_t lane, std::uint8_t* blocks) {
    struct Plane {
        int bits, from;  // of the code
    };
    const int first = format.bits == 3 ? 2 : format.bits == 5 || format.bits == 6 ? 4 : format.bits;
    const Plane planes[] = {{first, 0}, {format.bits - first, first}};
    for (std::int64_t block = 0; block < format.n_blocks; ++block, codes += tile_block, blocks += format.block_bytes) {
        std::uint32_t words[8];
        std::memcpy(words, codes, sizeof words);
        std::uint8_t* target = blocks + lane * 4;
        for (const Plane& plane : planes) {
            if (plane.bits == 0) break;
            const std::uint32_t mask = 0x01010101u * ((1u << plane.bits) - 1);
            for (int k = 0; k < plane.bits; ++k, target += tile_vector_bytes) {
                std::uint32_t fields = 0;
                for (int v = k, shift = 0; v < 8; v += plane.bits, shift += plane.bits) fields |= (words[v] >> plane.from & mask) << shift;
                std::memcpy(target, &fields, sizeof fields);
            }
        }
    }
}

namespace {

// Bytes of the levels that all rows share.
std::uint64_t one_table_bytes(const Scheme& scheme) {
    return scheme.one_table ? static_cast<std::uint64_t>(scheme.n_levels) * static_cast<std::uint64_t>(scheme.scale_bits()) / 8 : 0;
}

// Scales of clusters: 1, or the step of a row's levels, which are placed as they are and as bytes.
void place_levels(const Codes& source, std::int64_t row, const TileFormat& format, std::int64_t lane, std::uint8_t* tile) {
    float step = 1;
    if (format.row_levels) {
        const std::int64_t row_bytes = std::int64_t{format.n_levels} * format.exact_level_bytes;
        const std::byte* exact = source.scales.data.data() + row * row_bytes;
        std::memcpy(tile + format.exact_levels_at + lane * row_bytes, exact, static_cast<std::size_t>(row_bytes));
        float levels[16] = {}, largest = 0;
        dtype_info(source.scales.dtype).to_float(exact, format.n_levels, levels);
        for (float level : levels) largest = std::max(largest, std::fabs(level));
        step = largest / 127;
        for (int i = 0; i < 4 * row_level_vectors(format.bits); ++i) {
            const float level = levels[std::min(i, format.n_levels - 1)];
            tile[format.row_levels_at + i / 4 * tile_vector_bytes + lane * 4 + i % 4] = static_cast<std::uint8_t>(128 + static_cast<int>(step > 0 ? std::nearbyint(level / step) : 0));
        }
    }
    std::memcpy(tile + format.scales_at + lane * 4, &step, 4);
}

}  // namespace

void place_tile_scales(const Codes& source, std::int64_t row, const TileFormat& format, std::int64_t lane, std::uint8_t* tile) {
    if (format.scales == TileNumber::table) place_table_codes(source.scales, row, format.n_groups, lane, tile + format.scales_at);
    else place_tile_numbers(source.scales, row, format.scales, lane, tile + format.scales_at);
    if (format.relative_scales) place_tile_numbers(source.super_scales, row, format.supers, lane, tile + format.super_scales_at);
    if (format.relative_minimums) place_tile_numbers(source.super_minimums, row, format.supers, lane, tile + format.super_minimums_at);
    if (format.minimums != TileNumber::none) place_tile_numbers(source.minimums, row, format.minimums, lane, tile + format.corrections_at);
    if (format.zeros != TileNumber::none) place_tile_numbers(source.zeros, row, format.zeros, lane, tile + format.corrections_at);
}

namespace {

// codes: (n_blocks * 32) of one row, whose numbers are row `row` of the sections of `source`.
void place_row(const Codes& source, std::int64_t row, const std::uint8_t* codes, const TileFormat& format, std::int64_t lane, std::uint8_t* tile) {
    place_tile_codes(codes, format, lane, tile + format.codes_at);
    if (source.scheme.kind == NumberKind::clusters) return place_levels(source, row, format, lane, tile);
    place_tile_scales(source, row, format, lane, tile);
}

void begin_tiles(const Weight& weight, const RowMap&, PackedWeight& packed) {
    packed.scheme = *scheme_of_codes(weight);
    packed.dtype = packed.scheme.scale_dtype;
    const TileFormat format = tile_format(packed);
    const std::int64_t n_tiles = ceil_div(packed.n_rows, tile_rows);
    const auto tiles_bytes = static_cast<std::size_t>(n_tiles * format.tile_bytes);
    packed.buffer = AlignedBuffer(tiles_bytes + one_table_bytes(packed.scheme));
    packed.data = packed.buffer.data();
    if (packed.scheme.one_table) {
        std::memcpy(packed.buffer.data() + tiles_bytes, weight.codes()->scales.data.data(), static_cast<std::size_t>(one_table_bytes(packed.scheme)));
        packed.scales = packed.buffer.data() + tiles_bytes;
    }
    packed.read_bytes = static_cast<std::uint64_t>(n_tiles * format.tile_bytes);
}

void fill_tiles(const Weight& weight, const RowMap& rows, std::int64_t first, std::int64_t end, PackedWeight& packed) {
    const Blocks* blocks = weight.blocks();
    const TileFormat format = tile_format(packed);
    const std::int64_t row_bytes = blocks == nullptr ? 0 : packed.n_columns / block_format(blocks->type).block_size * block_format(blocks->type).block_bytes;
    CodeRow converted;  // blocks: one row at a time, so that no second copy of the weight is made
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(format.n_blocks * tile_block));
    for (std::int64_t row = first; row < end; ++row) {
        const std::int64_t from = rows.at(row), lane = row % tile_rows;
        std::uint8_t* tile = packed.buffer.as<std::uint8_t>() + row / tile_rows * format.tile_bytes;
        if (blocks != nullptr) {
            blocks_row_to_codes(blocks->type, blocks->data.data() + from * row_bytes, packed.n_columns, converted);
            place_row(converted.view(packed.scheme), 0, converted.codes.data(), format, lane, tile);
        } else {
            const Codes& source = *weight.codes();
            unpack_codes(source.packed.data.data() + from * packed_row_bytes(packed.scheme.bits, packed.n_columns), packed.scheme.bits, packed.n_columns, codes.data());
            place_row(source, from, codes.data(), format, lane, tile);
        }
    }
}

void pack_tiles(const Weight& weight, const RowMap& rows, PackedWeight& packed) {
    begin_tiles(weight, rows, packed);
    fill_tiles(weight, rows, 0, packed.n_rows, packed);
}

}  // namespace

float tile_number_at(const std::uint8_t* section, TileNumber type, std::int64_t index, std::int64_t lane) {
    const std::uint8_t* at = section + index * tile_numbers_bytes(type) + lane * tile_numbers_bytes(type) / tile_rows;
    float value = 0;
    switch (type) {
        case TileNumber::none: return 0;
        case TileNumber::f32: std::memcpy(&value, at, 4); return value;
        case TileNumber::f16: dtype_info(DType::f16).to_float(at, 1, &value); return value;
        case TileNumber::i8: return static_cast<float>(static_cast<std::int8_t>(*at));
        case TileNumber::u8: return static_cast<float>(*at);
        case TileNumber::e8m0: dtype_info(DType::f8_e8m0).to_float(at, 1, &value); return value;
        case TileNumber::table: return static_cast<float>(section[index * 8 + lane % 8] >> lane / 8 * 4 & 15);  // the code
    }
    return value;
}

namespace {

int code_at(const std::uint8_t* blocks, const TileFormat& format, std::int64_t lane, std::int64_t column) {
    const FieldMap& map = field_map(format.bits);
    const std::uint8_t* block = blocks + column / tile_block * format.block_bytes;
    const auto& fields = map.fields[static_cast<std::size_t>(column % tile_block / 4 * 64 + lane * 4 + column % 4)];
    int code = 0;
    for (int plane = map.n_planes - 1; plane >= 0; --plane) {
        const TileField& field = fields[static_cast<std::size_t>(plane)];
        code = code << field.bits | (block[field.byte] >> field.shift & ((1 << field.bits) - 1));
    }
    return code;
}

// Codes beyond the table, which no checked file has, mean its last level.
float level_of(const Codebook& book, int code) { return book.levels[std::min(static_cast<std::size_t>(code), book.levels.size() - 1)]; }

}  // namespace

float tile_scale_at(const Scheme& scheme, const TileFormat& format, const std::uint8_t* tile, std::int64_t column, std::int64_t lane) {
    float scale = tile_number_at(tile + format.scales_at, format.scales, column / format.group_size, lane);
    if (format.scales == TileNumber::table) scale = scheme.scale_book->levels[static_cast<std::size_t>(scale)];
    if (format.relative_scales) scale *= tile_number_at(tile + format.super_scales_at, format.supers, column / format.super_size, lane);
    return scale;
}

void decode_tile_row(const std::uint8_t* tile, const TileFormat& format, const Scheme& scheme, std::int64_t lane, std::int64_t n_columns, float* target) {
    float scale = 1, minimum = 0;
    int zero = format.offset;
    std::int64_t group = -1;
    for (std::int64_t c = 0; c < n_columns; ++c) {
        if (c / format.group_size != group) {
            group = c / format.group_size;
            scale = tile_scale_at(scheme, format, tile, c, lane);
            minimum = tile_number_at(tile + format.corrections_at, format.minimums, group, lane);
            if (format.relative_minimums) minimum *= tile_number_at(tile + format.super_minimums_at, format.supers, c / format.super_size, lane);
            if (format.zeros != TileNumber::none) zero = static_cast<int>(tile_number_at(tile + format.corrections_at, format.zeros, group, lane));
        }
        const int code = code_at(tile + format.codes_at, format, lane, c);
        if (scheme.kind == NumberKind::codebook) target[c] = level_of(*scheme.codebook, code) * scale;
        else if (scheme.minimums) target[c] = static_cast<float>(code) * scale - minimum;
        else target[c] = static_cast<float>(code - zero) * scale;
    }
}

namespace {

void tile_row(const PackedWeight& packed, std::int64_t row, float* target) {
    const TileFormat format = tile_format(packed);
    const auto* tile = reinterpret_cast<const std::uint8_t*>(packed.data) + row / tile_rows * format.tile_bytes;
    if (packed.scheme.kind == NumberKind::clusters) {
        const std::int64_t lane = row % tile_rows;
        const std::byte* exact = format.row_levels ? reinterpret_cast<const std::byte*>(tile) + format.exact_levels_at + lane * format.n_levels * format.exact_level_bytes : packed.scales;
        float levels[16] = {};
        dtype_info(packed.dtype).to_float(exact, packed.scheme.n_levels, levels);
        for (std::int64_t c = 0; c < packed.n_columns; ++c) target[c] = levels[std::min(code_at(tile + format.codes_at, format, lane, c), packed.scheme.n_levels - 1)];
        return;
    }
    decode_tile_row(tile, format, packed.scheme, row % tile_rows, packed.n_columns, target);
}

std::optional<SectionBytes> tile_sections(const PackedWeight& packed) {
    const Scheme& scheme = packed.scheme;
    const int bits = scheme.bits == 7 ? 8 : scheme.bits;
    const bool clusters = scheme.kind == NumberKind::clusters;
    if (packed.tiles != TileForm::dense || scheme.kind == NumberKind::vectors || !decodes(scheme) || packed.dtype != scheme.scale_dtype || (clusters ? scheme.bits > 4 || scheme.group_size != 0 : !tile_groups_fit(scheme, packed.n_columns))) return std::nullopt;
    if (packed.layout->name != "w" + std::to_string(bits) + "_r16") return std::nullopt;
    PackedWeight fields;  // tile_format() would look at levels, which are not there yet
    fields.scheme = scheme, fields.dtype = packed.dtype, fields.n_columns = packed.n_columns;
    SectionBytes bytes{static_cast<std::uint64_t>(ceil_div(packed.n_rows, tile_rows) * tile_format(fields).tile_bytes)};
    bytes.scales = one_table_bytes(scheme);
    return bytes;
}

}  // namespace

const Layout w1_r16 = {"w1_r16", tile_rows, accepts<1>, pack_tiles, tile_row, tile_sections, 1, begin_tiles, fill_tiles};
const Layout w2_r16 = {"w2_r16", tile_rows, accepts<2>, pack_tiles, tile_row, tile_sections, 1, begin_tiles, fill_tiles};
const Layout w3_r16 = {"w3_r16", tile_rows, accepts<3>, pack_tiles, tile_row, tile_sections, 1, begin_tiles, fill_tiles};
const Layout w4_r16 = {"w4_r16", tile_rows, accepts<4>, pack_tiles, tile_row, tile_sections, 1, begin_tiles, fill_tiles};
const Layout w5_r16 = {"w5_r16", tile_rows, accepts<5>, pack_tiles, tile_row, tile_sections, 1, begin_tiles, fill_tiles};
const Layout w6_r16 = {"w6_r16", tile_rows, accepts<6>, pack_tiles, tile_row, tile_sections, 1, begin_tiles, fill_tiles};
const Layout w8_r16 = {"w8_r16", tile_rows, accepts<8>, pack_tiles, tile_row, tile_sections, 1, begin_tiles, fill_tiles};

}  // namespace skiff
