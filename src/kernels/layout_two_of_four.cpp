// Packing of weights of which two of every four inputs are kept (two_of_four.h).
#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "kernels/layouts.h"
#include "kernels/tile_pack.h"
#include "kernels/two_of_four.h"

namespace skiff {
namespace {

constexpr int n_vectors = 4, columns_of_vector = 8;

int tile_bits(const Scheme& scheme) { return scheme.bits == 7 ? 8 : scheme.bits; }

template <int Bits>
bool accepts(const Weight& weight) {
    const Sparse* sparse = weight.sparse();
    if (sparse == nullptr || sparse->scheme.kind != NumberKind::integer || tile_bits(sparse->scheme) != Bits) return false;
    if (weight.n_columns() <= 0 || weight.n_columns() > (std::int64_t{1} << 20) || !tile_groups_fit(sparse->scheme, weight.n_columns())) return false;
    const SparsePattern& pattern = sparse->pattern;
    return pattern.unit_rows == 1 && pattern.unit_columns == 1 && ((pattern.n == 2 && pattern.m == 4) || (pattern.n == 1 && pattern.m == 2));
}

// Which two of four columns a row's tile holds: the kept ones, then those in front.
void choose_two(const std::uint8_t* kept, int (&columns)[2]) {
    int n = 0;
    for (const bool wanted : {true, false})
        for (int c = 0; c < 4 && n < 2; ++c)
            if ((kept[c] != 0) == wanted) columns[n++] = c;
    if (columns[0] > columns[1]) std::swap(columns[0], columns[1]);
}

void begin(const Weight& weight, const RowMap&, PackedWeight& packed) {
    packed.scheme = weight.sparse()->scheme;
    packed.dtype = packed.scheme.scale_dtype;
    packed.tiles = TileForm::mask;
    packed.read_bytes = static_cast<std::uint64_t>(ceil_div(packed.n_rows, tile_rows) * two_of_four_format(packed).tile_bytes);
    packed.buffer = AlignedBuffer(static_cast<std::size_t>(packed.read_bytes));
    packed.data = packed.buffer.data();
}

void fill(const Weight& weight, const RowMap& map, std::int64_t first, std::int64_t end, PackedWeight& packed) {
    const Sparse& sparse = *weight.sparse();
    const TileFormat format = two_of_four_format(packed);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(format.n_blocks * tile_block)), kept(codes.size());
    for (std::int64_t row = first; row < end; ++row) {
        const std::int64_t lane = row % tile_rows, from = map.at(row);
        std::uint8_t* tile = packed.buffer.as<std::uint8_t>() + row / tile_rows * format.tile_bytes;
        std::fill(codes.begin(), codes.end(), static_cast<std::uint8_t>(format.offset));
        std::fill(kept.begin(), kept.end(), std::uint8_t{0});
        sparse_row_codes(sparse, from, weight.n_columns(), codes.data(), kept.data());
        for (std::int64_t block = 0; block < format.n_blocks; ++block) {
            std::uint8_t *positions = tile + format.codes_at + block * format.block_bytes + lane * 4, *vectors = positions + tile_vector_bytes;
            for (int g = 0; g < n_vectors; ++g)
                for (int half = 0; half < 2; ++half) {
                    const std::int64_t column = block * tile_block + g * columns_of_vector + half * 4;
                    int columns[2] = {};
                    choose_two(kept.data() + column, columns);
                    for (int i = 0; i < 2; ++i) {
                        const int byte = half * 2 + i, code = codes[static_cast<std::size_t>(column + columns[i])];
                        std::uint8_t& vector = format.bits == 8 ? vectors[g * tile_vector_bytes + byte] : vectors[g % 2 * tile_vector_bytes + byte];
                        positions[byte] = static_cast<std::uint8_t>(positions[byte] | columns[i] << (2 * g));
                        vector = static_cast<std::uint8_t>(vector | (format.bits == 8 ? code : code << (g / 2 * 4)));
                    }
                }
        }
        place_tile_numbers(sparse.scales, from, format.scales, lane, tile + format.scales_at);
        if (format.relative_scales) place_tile_numbers(sparse.super_scales, from, format.supers, lane, tile + format.super_scales_at);
    }
}

void pack(const Weight& weight, const RowMap& map, PackedWeight& packed) {
    begin(weight, map, packed);
    fill(weight, map, 0, packed.n_rows, packed);
}

void row(const PackedWeight& packed, std::int64_t row, float* target) {
    const TileFormat format = two_of_four_format(packed);
    const auto* tile = reinterpret_cast<const std::uint8_t*>(packed.data) + row / tile_rows * format.tile_bytes;
    const std::int64_t lane = row % tile_rows;
    for (std::int64_t c = 0; c < packed.n_columns; ++c) {
        const std::uint8_t *positions = tile + format.codes_at + c / tile_block * format.block_bytes + lane * 4, *vectors = positions + tile_vector_bytes;
        const std::int64_t g = c % tile_block / columns_of_vector;
        int code = format.offset;
        for (std::int64_t byte = c % columns_of_vector / 4 * 2, i = 0; i < 2; ++i, ++byte)
            if ((positions[byte] >> (2 * g) & 3) == c % 4) code = format.bits == 8 ? vectors[g * tile_vector_bytes + byte] : vectors[g % 2 * tile_vector_bytes + byte] >> (g / 2 * 4) & 15;
        target[c] = static_cast<float>(code - format.offset) * tile_scale_at(packed.scheme, format, tile, c, lane) + 0.0f;  // never -0
    }
}

std::optional<SectionBytes> sections(const PackedWeight& packed) {
    const Scheme& scheme = packed.scheme;
    if (packed.tiles != TileForm::mask || scheme.kind != NumberKind::integer || !scheme.symmetric || scheme.minimums || !decodes(scheme) || packed.dtype != scheme.scale_dtype) return std::nullopt;
    if (packed.n_columns <= 0 || packed.n_columns > (std::int64_t{1} << 20) || !tile_groups_fit(scheme, packed.n_columns)) return std::nullopt;
    if (packed.layout->name != "w" + std::to_string(tile_bits(scheme)) + "_r16_2of4") return std::nullopt;
    return SectionBytes{static_cast<std::uint64_t>(ceil_div(packed.n_rows, tile_rows) * two_of_four_format(packed).tile_bytes)};
}

}  // namespace

const Layout w4_r16_2of4 = {"w4_r16_2of4", tile_rows, accepts<4>, pack, row, sections, 1, begin, fill};
const Layout w8_r16_2of4 = {"w8_r16_2of4", tile_rows, accepts<8>, pack, row, sections, 1, begin, fill};

}  // namespace skiff
