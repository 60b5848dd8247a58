// Hashed weights for the kernels: tiles of the bank, or its rows of plain numbers, and where their blocks belong (hash_tiles.h).
#include <algorithm>
#include <cstring>
#include <map>

#include "base/checked.h"
#include "kernels/hash_tiles.h"
#include "kernels/layouts.h"
#include "kernels/tile_pack.h"

namespace skiff {
namespace {

static_assert(BlockHash::block_rows == tile_rows && BlockHash::block_columns == tile_block);

template <int Bits>
bool accepts(const Weight& weight) {
    const Hashed* hashed = weight.hashed();
    if (hashed == nullptr || hashed->bank->codes() == nullptr || weight.n_columns() > std::int64_t{1} << 20) return false;
    const Scheme& scheme = hashed->bank->codes()->scheme;
    return (scheme.bits == 7 ? 8 : scheme.bits) == Bits && tile_groups_fit(scheme, hashed->hash.n_bank_columns());
}

// Whether each tile of the operator is a row of blocks of the weight, or the first rows of one.
bool keeps_blocks(const RowMap& map) {
    for (std::int64_t row = 0; row < map.n_rows(); ++row) {
        const std::int64_t first = map.at(row / tile_rows * tile_rows);
        if (first % tile_rows != 0 || map.at(row) != first + row % tile_rows) return false;
    }
    return true;
}

// Which row of the bank's blocks each tile of the operator is made of, in order of their first use.
struct Arrangement {
    std::vector<std::int64_t> used;
    std::vector<std::uint32_t> bank_of;  // tile -> place in `used`
};
std::int64_t block_row_of(const RowMap& map, std::int64_t tile) { return map.at(tile * tile_rows) / tile_rows; }
Arrangement arrange(const BlockHash& hash, const RowMap& map) {
    Arrangement arrangement;
    std::map<std::int64_t, std::uint32_t> places;
    for (std::int64_t tile = 0; tile < ceil_div(map.n_rows(), tile_rows); ++tile) {
        const std::int64_t bank_row = block_row_of(map, tile) / hash.shared;
        const auto [found, is_new] = places.emplace(bank_row, static_cast<std::uint32_t>(arrangement.used.size()));
        if (is_new) arrangement.used.push_back(bank_row);
        arrangement.bank_of.push_back(found->second);
    }
    return arrangement;
}

// Rows of codes in tiles. `row_of(tile, lane)` is the row that stands there, or -1.
template <class RowOf>
void fill_bank(const Codes& codes, std::int64_t n_columns, const TileFormat& format, std::int64_t n_tiles, std::uint8_t* bank, RowOf row_of) {
    std::vector<std::uint8_t> row_codes(static_cast<std::size_t>(format.n_blocks * tile_block));
    const std::int64_t row_bytes = packed_row_bytes(codes.scheme.bits, n_columns);
    for (std::int64_t tile = 0; tile < n_tiles; ++tile)
        for (std::int64_t lane = 0; lane < tile_rows; ++lane) {
            const std::int64_t row = row_of(tile, lane);
            if (row < 0) continue;
            std::uint8_t* target = bank + tile * format.tile_bytes;
            unpack_codes(codes.packed.data.data() + row * row_bytes, codes.scheme.bits, n_columns, row_codes.data());
            place_tile_codes(row_codes.data(), format, lane, target + format.codes_at);
            place_tile_scales(codes, row, format, lane, target);
        }
}

struct Sections {
    TileFormat format;
    HashTiles parts;
    std::uint8_t* data;
};

Sections begin(const Codes& codes, std::int64_t n_bank_tiles, PackedWeight& packed) {
    packed.scheme = codes.scheme;
    packed.dtype = packed.scheme.scale_dtype;
    packed.tiles = TileForm::hashed;
    const TileFormat format = tile_format(packed);
    const HashTiles parts = hash_tiles(packed.n_rows, format.n_blocks);
    packed.read_bytes = static_cast<std::uint64_t>(parts.bank_at + n_bank_tiles * format.tile_bytes);
    packed.buffer = AlignedBuffer(packed.read_bytes + tile_vector_bytes);
    packed.data = packed.buffer.data();
    return {format, parts, packed.buffer.as<std::uint8_t>()};
}

// Where the blocks of a tile of the bank belong in tile `tile` of the operator.
void set_turns(std::uint8_t* data, const HashTiles& parts, std::int64_t tile, std::uint32_t bank, std::span<const BankBlock> blocks) {
    std::memcpy(data + tile * 4, &bank, sizeof bank);
    std::uint8_t* turns = data + parts.turns_at + tile * parts.turn_bytes;
    for (std::size_t place = 0; place < blocks.size(); ++place) {
        const auto from = static_cast<std::size_t>(blocks[place].column);
        const auto number = static_cast<std::uint16_t>(place);
        std::memcpy(turns + from * 2, &number, sizeof number);
        turns[blocks.size() * 2 + from] = blocks[place].negative ? 1 : 0;
    }
}

void set_arranged(std::uint8_t* data, const HashTiles& parts, const Arrangement& arrangement, const Hashed& hashed, const RowMap& map) {
    for (std::size_t tile = 0; tile < arrangement.bank_of.size(); ++tile)
        set_turns(data, parts, static_cast<std::int64_t>(tile), arrangement.bank_of[tile], hashed.row_of_blocks(block_row_of(map, static_cast<std::int64_t>(tile))));
}

// Every tile has one of its own, whose blocks are where they are.
void set_in_place(std::uint8_t* data, const HashTiles& parts, std::int64_t n_tiles) {
    std::vector<BankBlock> same(static_cast<std::size_t>(parts.n_blocks));
    for (std::size_t i = 0; i < same.size(); ++i) same[i].column = static_cast<std::int32_t>(i);
    for (std::int64_t tile = 0; tile < n_tiles; ++tile) set_turns(data, parts, tile, static_cast<std::uint32_t>(tile), same);
}

// Rows that do not keep blocks together: every block is written out, and stands where it is.
void pack_written_out(const Weight& weight, const RowMap& map, PackedWeight& packed) {
    const Weight dense = written_out(weight);
    const std::int64_t n_tiles = ceil_div(packed.n_rows, tile_rows);
    const Sections sections = begin(*dense.codes(), n_tiles, packed);
    set_in_place(sections.data, sections.parts, n_tiles);
    fill_bank(*dense.codes(), packed.n_columns, sections.format, n_tiles, sections.data + sections.parts.bank_at, [&](std::int64_t tile, std::int64_t lane) {
        const std::int64_t row = tile * tile_rows + lane;
        return row < packed.n_rows ? map.at(row) : -1;
    });
}

void pack(const Weight& weight, const RowMap& map, PackedWeight& packed) {
    if (!keeps_blocks(map)) return pack_written_out(weight, map, packed);
    const Hashed& hashed = *weight.hashed();
    const Arrangement arrangement = arrange(hashed.hash, map);
    const auto n_bank_tiles = static_cast<std::int64_t>(arrangement.used.size());
    const Sections sections = begin(*hashed.bank->codes(), n_bank_tiles, packed);
    set_arranged(sections.data, sections.parts, arrangement, hashed, map);
    fill_bank(*hashed.bank->codes(), hashed.hash.n_bank_columns(), sections.format, n_bank_tiles, sections.data + sections.parts.bank_at,
              [&](std::int64_t tile, std::int64_t lane) { return arrangement.used[static_cast<std::size_t>(tile)] * tile_rows + lane; });
}

// A row of the bank's tile, `values`, as a row of the weight.
void turned_row(const PackedWeight& packed, const HashTiles& parts, std::int64_t tile, const float* values, float* target) {
    const auto* turns = reinterpret_cast<const std::uint8_t*>(packed.data) + parts.turns_at + tile * parts.turn_bytes;
    for (std::int64_t block = 0; block < parts.n_blocks; ++block) {
        std::uint16_t place;
        std::memcpy(&place, turns + block * 2, sizeof place);
        const bool negative = turns[parts.n_blocks * 2 + block] != 0;
        const std::int64_t first = place * tile_block;
        const float* from = values + block * tile_block;
        for (std::int64_t c = 0; c < std::min(tile_block, packed.n_columns - first); ++c) target[first + c] = negative ? -from[c] : from[c];
    }
}
std::uint32_t bank_of_tile(const PackedWeight& packed, std::int64_t tile) {
    std::uint32_t bank;
    std::memcpy(&bank, packed.data + tile * 4, sizeof bank);
    return bank;
}

void hashed_row(const PackedWeight& packed, std::int64_t row, float* target) {
    const TileFormat format = tile_format(packed);
    const HashTiles parts = hash_tiles(packed.n_rows, format.n_blocks);
    const std::int64_t tile = row / tile_rows;
    std::vector<float> values(static_cast<std::size_t>(format.n_blocks * tile_block));
    decode_tile_row(reinterpret_cast<const std::uint8_t*>(packed.data) + parts.bank_at + bank_of_tile(packed, tile) * format.tile_bytes, format, packed.scheme, row % tile_rows, format.n_blocks * tile_block, values.data());
    turned_row(packed, parts, tile, values.data(), target);
}

// ---- plain numbers

bool accepts_plain(const Weight& weight) { return weight.hashed() != nullptr && weight.hashed()->bank->plain() != nullptr && weight.n_columns() <= std::int64_t{1} << 20; }

void pack_plain(const Weight& weight, const RowMap& map, PackedWeight& packed) {
    const Hashed& hashed = *weight.hashed();
    const TensorView& bank = *hashed.bank->plain();
    packed.dtype = bank.dtype;
    const std::int64_t n_tiles = ceil_div(packed.n_rows, tile_rows), row_bytes = hashed.hash.n_bank_columns() * dtype_info(bank.dtype).bits / 8;
    const HashTiles parts = hash_tiles(packed.n_rows, hashed.hash.n_block_columns());
    const bool whole = keeps_blocks(map);
    const Arrangement arrangement = whole ? arrange(hashed.hash, map) : Arrangement();
    const std::int64_t n_bank_tiles = whole ? static_cast<std::int64_t>(arrangement.used.size()) : n_tiles;
    packed.read_bytes = static_cast<std::uint64_t>(parts.bank_at + n_bank_tiles * tile_rows * row_bytes);
    packed.buffer = AlignedBuffer(packed.read_bytes + tile_vector_bytes);
    packed.data = packed.buffer.data();
    auto* data = packed.buffer.as<std::uint8_t>();
    if (whole) {
        set_arranged(data, parts, arrangement, hashed, map);
        for (std::int64_t tile = 0; tile < n_bank_tiles; ++tile)
            std::memcpy(data + parts.bank_at + tile * tile_rows * row_bytes, bank.data.data() + arrangement.used[static_cast<std::size_t>(tile)] * tile_rows * row_bytes, static_cast<std::size_t>(tile_rows * row_bytes));
        return;
    }
    const Weight dense = written_out(weight);
    const std::int64_t dense_row_bytes = packed.n_columns * dtype_info(bank.dtype).bits / 8;
    set_in_place(data, parts, n_tiles);
    for (std::int64_t row = 0; row < packed.n_rows; ++row) std::memcpy(data + parts.bank_at + row * row_bytes, dense.plain()->data.data() + map.at(row) * dense_row_bytes, static_cast<std::size_t>(dense_row_bytes));
}

void plain_row(const PackedWeight& packed, std::int64_t row, float* target) {
    const HashTiles parts = hash_tiles(packed.n_rows, ceil_div(packed.n_columns, tile_block));
    const std::int64_t tile = row / tile_rows, n = parts.n_blocks * tile_block, row_bytes = n * dtype_info(packed.dtype).bits / 8;
    std::vector<float> values(static_cast<std::size_t>(n));
    dtype_info(packed.dtype).to_float(packed.data + parts.bank_at + (bank_of_tile(packed, tile) * tile_rows + row % tile_rows) * row_bytes, n, values.data());
    turned_row(packed, parts, tile, values.data(), target);
}

// ---- for the cache of packed weights

// The number of tiles of the bank follows from what one pass reads; nothing where that is none.
std::optional<std::uint64_t> n_bank_tiles(const PackedWeight& packed, std::int64_t n_blocks, std::uint64_t tile_bytes) {
    const auto bank_at = static_cast<std::uint64_t>(hash_tiles(packed.n_rows, n_blocks).bank_at);
    if (packed.n_columns > std::int64_t{1} << 20 || packed.read_bytes < bank_at || (packed.read_bytes - bank_at) % tile_bytes != 0) return std::nullopt;
    return (packed.read_bytes - bank_at) / tile_bytes;
}

std::optional<SectionBytes> hashed_sections(const PackedWeight& packed) {
    const Scheme& scheme = packed.scheme;
    const int bits = scheme.bits == 7 ? 8 : scheme.bits;
    if (packed.tiles != TileForm::hashed || !scheme.is_coded() || !decodes(scheme) || !hash_defined_on(scheme).ok() || packed.dtype != scheme.scale_dtype || packed.n_columns > std::int64_t{1} << 20) return std::nullopt;
    if (packed.layout->name != "w" + std::to_string(bits) + "_r16_hash" || !tile_groups_fit(scheme, round_up(packed.n_columns, tile_block))) return std::nullopt;
    const TileFormat format = tile_format(packed);
    if (!n_bank_tiles(packed, format.n_blocks, static_cast<std::uint64_t>(format.tile_bytes))) return std::nullopt;
    return SectionBytes{packed.read_bytes};
}

std::uint64_t plain_tile_bytes(const PackedWeight& packed) { return static_cast<std::uint64_t>(tile_rows * round_up(packed.n_columns, tile_block) * dtype_info(packed.dtype).bits / 8); }

std::optional<SectionBytes> plain_sections(const PackedWeight& packed) {
    const bool floats = packed.dtype == DType::f32 || packed.dtype == DType::f16 || packed.dtype == DType::bf16;
    if (packed.tiles != TileForm::dense || packed.scheme.is_coded() || !floats || !n_bank_tiles(packed, ceil_div(packed.n_columns, tile_block), plain_tile_bytes(packed))) return std::nullopt;
    return SectionBytes{packed.read_bytes};
}

// Every tile takes its blocks from one that is there, and each of these stands within the row.
bool turns_intact(const PackedWeight& packed, std::uint64_t tile_bytes) {
    const std::int64_t n_blocks = ceil_div(packed.n_columns, tile_block);
    const HashTiles parts = hash_tiles(packed.n_rows, n_blocks);
    const auto n_tiles = n_bank_tiles(packed, n_blocks, tile_bytes);
    for (std::int64_t tile = 0; tile < ceil_div(packed.n_rows, tile_rows); ++tile) {
        if (!n_tiles || bank_of_tile(packed, tile) >= *n_tiles) return false;
        const std::byte* turns = packed.data + parts.turns_at + tile * parts.turn_bytes;
        for (std::int64_t block = 0; block < n_blocks; ++block) {
            std::uint16_t place;
            std::memcpy(&place, turns + block * 2, sizeof place);
            if (place >= n_blocks) return false;
        }
    }
    return true;
}
bool hashed_intact(const PackedWeight& packed, const SectionBytes& sizes) { return packed.read_bytes == sizes.data && turns_intact(packed, static_cast<std::uint64_t>(tile_format(packed).tile_bytes)); }
bool plain_intact(const PackedWeight& packed, const SectionBytes& sizes) { return packed.read_bytes == sizes.data && turns_intact(packed, plain_tile_bytes(packed)); }

}  // namespace

const Layout w1_r16_hash = {"w1_r16_hash", tile_rows, accepts<1>, pack, hashed_row, hashed_sections, 1, nullptr, nullptr, hashed_intact};
const Layout w2_r16_hash = {"w2_r16_hash", tile_rows, accepts<2>, pack, hashed_row, hashed_sections, 1, nullptr, nullptr, hashed_intact};
const Layout w3_r16_hash = {"w3_r16_hash", tile_rows, accepts<3>, pack, hashed_row, hashed_sections, 1, nullptr, nullptr, hashed_intact};
const Layout w4_r16_hash = {"w4_r16_hash", tile_rows, accepts<4>, pack, hashed_row, hashed_sections, 1, nullptr, nullptr, hashed_intact};
const Layout w5_r16_hash = {"w5_r16_hash", tile_rows, accepts<5>, pack, hashed_row, hashed_sections, 1, nullptr, nullptr, hashed_intact};
const Layout w6_r16_hash = {"w6_r16_hash", tile_rows, accepts<6>, pack, hashed_row, hashed_sections, 1, nullptr, nullptr, hashed_intact};
const Layout w8_r16_hash = {"w8_r16_hash", tile_rows, accepts<8>, pack, hashed_row, hashed_sections, 1, nullptr, nullptr, hashed_intact};
const Layout bank_rows = {"bank_rows", tile_rows, accepts_plain, pack_plain, plain_row, plain_sections, 1, nullptr, nullptr, plain_intact};

}  // namespace skiff
