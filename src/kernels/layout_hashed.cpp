// Hashed weights for the int8 kernels: tiles of the bank, and where their blocks belong (hash_tiles.h).
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
void set_turns(const Sections& sections, std::int64_t tile, std::uint32_t bank, std::span<const BankBlock> blocks) {
    std::memcpy(sections.data + tile * 4, &bank, sizeof bank);
    std::uint8_t* turns = sections.data + sections.parts.turns_at + tile * sections.parts.turn_bytes;
    for (std::size_t place = 0; place < blocks.size(); ++place) {
        const auto from = static_cast<std::size_t>(blocks[place].column);
        const auto number = static_cast<std::uint16_t>(place);
        std::memcpy(turns + from * 2, &number, sizeof number);
        turns[blocks.size() * 2 + from] = blocks[place].negative ? 1 : 0;
    }
}

// Rows that do not keep blocks together: every block is written out, and stands where it is.
void pack_written_out(const Weight& weight, const RowMap& map, PackedWeight& packed) {
    const Weight dense = written_out(weight);
    const std::int64_t n_tiles = ceil_div(packed.n_rows, tile_rows);
    const Sections sections = begin(*dense.codes(), n_tiles, packed);
    std::vector<BankBlock> same(static_cast<std::size_t>(sections.format.n_blocks));
    for (std::size_t i = 0; i < same.size(); ++i) same[i].column = static_cast<std::int32_t>(i);
    for (std::int64_t tile = 0; tile < n_tiles; ++tile) set_turns(sections, tile, static_cast<std::uint32_t>(tile), same);
    fill_bank(*dense.codes(), packed.n_columns, sections.format, n_tiles, sections.data + sections.parts.bank_at, [&](std::int64_t tile, std::int64_t lane) {
        const std::int64_t row = tile * tile_rows + lane;
        return row < packed.n_rows ? map.at(row) : -1;
    });
}

void pack(const Weight& weight, const RowMap& map, PackedWeight& packed) {
    if (!keeps_blocks(map)) return pack_written_out(weight, map, packed);
    const Hashed& hashed = *weight.hashed();
    const std::int64_t n_tiles = ceil_div(packed.n_rows, tile_rows);
    const auto block_row = [&](std::int64_t tile) { return map.at(tile * tile_rows) / tile_rows; };
    std::map<std::int64_t, std::uint32_t> places;  // of the bank's rows of blocks that are used
    std::vector<std::int64_t> used;
    for (std::int64_t tile = 0; tile < n_tiles; ++tile)
        if (const std::int64_t bank_row = block_row(tile) / hashed.hash.shared; places.emplace(bank_row, used.size()).second) used.push_back(bank_row);
    const Sections sections = begin(*hashed.bank->codes(), static_cast<std::int64_t>(used.size()), packed);
    for (std::int64_t tile = 0; tile < n_tiles; ++tile) set_turns(sections, tile, places.at(block_row(tile) / hashed.hash.shared), hashed.row_of_blocks(block_row(tile)));
    fill_bank(*hashed.bank->codes(), hashed.hash.n_bank_columns(), sections.format, static_cast<std::int64_t>(used.size()), sections.data + sections.parts.bank_at,
              [&](std::int64_t tile, std::int64_t lane) { return used[static_cast<std::size_t>(tile)] * tile_rows + lane; });
}

void hashed_row(const PackedWeight& packed, std::int64_t row, float* target) {
    const TileFormat format = tile_format(packed);
    const HashTiles parts = hash_tiles(packed.n_rows, format.n_blocks);
    const auto* data = reinterpret_cast<const std::uint8_t*>(packed.data);
    const std::int64_t tile = row / tile_rows;
    std::uint32_t bank;
    std::memcpy(&bank, data + tile * 4, sizeof bank);
    std::vector<float> values(static_cast<std::size_t>(format.n_blocks * tile_block));
    decode_tile_row(data + parts.bank_at + bank * format.tile_bytes, format, packed.scheme, row % tile_rows, format.n_blocks * tile_block, values.data());
    const std::uint8_t* turns = data + parts.turns_at + tile * parts.turn_bytes;
    for (std::int64_t block = 0; block < format.n_blocks; ++block) {
        std::uint16_t place;
        std::memcpy(&place, turns + block * 2, sizeof place);
        const bool negative = turns[format.n_blocks * 2 + block] != 0;
        const std::int64_t first = place * tile_block;
        const float* from = values.data() + block * tile_block;
        for (std::int64_t c = 0; c < std::min(tile_block, packed.n_columns - first); ++c) target[first + c] = negative ? -from[c] : from[c];
    }
}

}  // namespace

const Layout w1_r16_hash = {"w1_r16_hash", tile_rows, accepts<1>, pack, hashed_row};
const Layout w2_r16_hash = {"w2_r16_hash", tile_rows, accepts<2>, pack, hashed_row};
const Layout w3_r16_hash = {"w3_r16_hash", tile_rows, accepts<3>, pack, hashed_row};
const Layout w4_r16_hash = {"w4_r16_hash", tile_rows, accepts<4>, pack, hashed_row};
const Layout w5_r16_hash = {"w5_r16_hash", tile_rows, accepts<5>, pack, hashed_row};
const Layout w6_r16_hash = {"w6_r16_hash", tile_rows, accepts<6>, pack, hashed_row};
const Layout w8_r16_hash = {"w8_r16_hash", tile_rows, accepts<8>, pack, hashed_row};

}  // namespace skiff
