// Codes of vectors in tiles of 16 rows (vector_format.h).
#include "kernels/vector_format.h"

#include <cstring>

#include "base/checked.h"
#include "kernels/layouts.h"
#include "kernels/tile_pack.h"

namespace skiff {

VectorFormat vector_format(const Scheme& scheme) {
    VectorFormat format;
    if (scheme.kind != NumberKind::vectors) return format;
    const int bits = scheme.bits * scheme.n_books * (scheme.vector == 2 ? 2 : 1);
    const bool together = bits <= 12;
    if (!together && (scheme.vector == 2 || scheme.bits > 12)) return format;
    format.n_tables = together ? 1 : scheme.n_books;
    format.index_bits = (together ? bits : scheme.bits) <= 8 ? 8 : 12;
    format.parts = scheme.vector == 8 ? 2 : 1;
    format.pairs = scheme.vector == 2 && bits == 8;
    return format;
}

namespace {

bool accepts(const Weight& weight) {
    const Codes* codes = weight.codes();
    return codes != nullptr && codes->scheme.kind == NumberKind::vectors && weight.n_columns() > 0 && vector_format(codes->scheme).index_bits > 0 && tile_groups_fit(codes->scheme, weight.n_columns());
}

// The entries that index `index` of table `table` stands for, column by column. // values: (parts * 4)
void entries_of(const Scheme& scheme, const VectorFormat& format, const std::int8_t* books, int table, std::int64_t index, std::int8_t* values) {
    const std::int64_t mask = scheme.n_levels - 1;
    const int books_in_index = format.n_tables == 1 ? scheme.n_books : 1, columns = format.parts * 4;
    for (int column = 0; column < columns; column += scheme.vector)
        for (int i = 0; i < scheme.vector; ++i) {
            int sum = 0;
            for (int book = 0; book < books_in_index; ++book) {
                const std::int64_t code = index >> (column / scheme.vector * books_in_index + book) * scheme.bits & mask;
                sum += books[((table + book) * scheme.n_levels + code) * scheme.vector + i];
            }
            values[column + i] = static_cast<std::int8_t>(sum);
        }
}

void make_tables(const Scheme& scheme, const VectorFormat& format, const std::int8_t* books, std::byte* target) {
    std::byte* planes = target + format.n_tables * format.table_words() * 4;
    const std::int64_t n = std::int64_t{1} << format.index_bits;
    std::int8_t values[8];
    for (int table = 0; table < format.n_tables; ++table)
        for (std::int64_t index = 0; index < n; ++index) {
            entries_of(scheme, format, books, table, index, values);
            for (int column = 0; column < format.parts * 4; ++column) {
                const auto level = static_cast<std::byte>(static_cast<std::uint8_t>(values[column] + (table == 0 ? 128 : 0)));
                target[(table * n + index) * format.parts * 4 + column] = level;
                if (format.index_bits == 8) planes[((table * format.parts * 4) + column) * n + index] = level;
            }
        }
}

void place_index(const VectorFormat& format, int table, std::int64_t step, std::int64_t lane, std::int64_t index, std::uint8_t* blocks) {
    const std::int64_t steps = format.steps(), in_block = step % steps;
    std::uint8_t* at = blocks + step / steps * format.block_bytes() + table * format.table_block_bytes() + in_block / 4 * format.index_bytes();
    const std::int64_t byte = lane / 4 * 16 + in_block % 4 * 4 + lane % 4;
    at[byte] = static_cast<std::uint8_t>(index);
    if (format.index_bits > 8) at[64 + byte % 32] = static_cast<std::uint8_t>(at[64 + byte % 32] | index >> 8 << byte / 32 * 4);
}

std::int64_t index_at(const VectorFormat& format, int table, std::int64_t step, std::int64_t lane, const std::uint8_t* blocks) {
    const std::int64_t steps = format.steps(), in_block = step % steps;
    const std::uint8_t* at = blocks + step / steps * format.block_bytes() + table * format.table_block_bytes() + in_block / 4 * format.index_bytes();
    const std::int64_t byte = lane / 4 * 16 + in_block % 4 * 4 + lane % 4;
    return format.index_bits > 8 ? at[byte] | (at[64 + byte % 32] >> byte / 32 * 4 & 15) << 8 : at[byte];
}

// One row's codes. // codes: (n_codes), zeros behind them to whole blocks
void place_codes(const Scheme& scheme, const VectorFormat& format, std::int64_t n_steps, const std::uint16_t* codes, std::int64_t lane, std::uint8_t* blocks) {
    const std::int64_t vectors_per_step = format.parts * 4 / scheme.vector, codes_per_step = vectors_per_step * scheme.n_books;
    for (std::int64_t step = 0; step < n_steps; ++step, codes += codes_per_step)
        for (int table = 0; table < format.n_tables; ++table) {
            std::int64_t index = 0;
            if (format.n_tables > 1) index = codes[table];
            else
                for (std::int64_t i = 0; i < codes_per_step; ++i) index |= std::int64_t{codes[i]} << i * scheme.bits;
            place_index(format, table, step, lane, index, blocks);
        }
}

void pack(const Weight& weight, const RowMap& rows, PackedWeight& packed) {
    const Codes& codes = *weight.codes();
    packed.scheme = codes.scheme;
    packed.dtype = codes.scales.dtype;
    const VectorFormat vectors = vector_format(packed.scheme);
    const TileFormat format = tile_format(packed);
    const std::int64_t tiles_bytes = ceil_div(packed.n_rows, tile_rows) * format.tile_bytes, n_codes = packed.scheme.n_codes(packed.n_columns);
    packed.buffer = AlignedBuffer(static_cast<std::size_t>(tiles_bytes + vectors.books_bytes()));
    packed.data = packed.buffer.data();
    packed.books = packed.buffer.data() + tiles_bytes;
    make_tables(packed.scheme, vectors, reinterpret_cast<const std::int8_t*>(codes.books.data.data()), packed.buffer.data() + tiles_bytes);
    packed.read_bytes = static_cast<std::uint64_t>(tiles_bytes);
    const std::int64_t n_steps = format.n_blocks * vectors.steps();
    std::vector<std::uint16_t> row_codes(static_cast<std::size_t>(packed.scheme.n_codes(format.n_blocks * tile_block)));
    for (std::int64_t row = 0; row < packed.n_rows; ++row) {
        const std::int64_t from = rows.at(row), lane = row % tile_rows;
        std::uint8_t* tile = packed.buffer.as<std::uint8_t>() + row / tile_rows * format.tile_bytes;
        unpack_wide_codes(codes.packed.data.data() + from * packed_row_bytes(packed.scheme.bits, n_codes), packed.scheme.bits, n_codes, row_codes.data());
        place_codes(packed.scheme, vectors, n_steps, row_codes.data(), lane, tile + format.codes_at);
        place_tile_scales(codes, from, format, lane, tile);
    }
}

void row(const PackedWeight& packed, std::int64_t row, float* target) {
    const VectorFormat vectors = vector_format(packed.scheme);
    const TileFormat format = tile_format(packed);
    const auto* tile = reinterpret_cast<const std::uint8_t*>(packed.data) + row / tile_rows * format.tile_bytes;
    const auto* tables = reinterpret_cast<const std::uint8_t*>(packed.books);
    const std::int64_t lane = row % tile_rows, columns = vectors.parts * 4, entries = std::int64_t{1} << vectors.index_bits;
    for (std::int64_t c = 0; c < packed.n_columns; ++c) {
        int level = 0;
        for (int table = 0; table < vectors.n_tables; ++table) level += tables[(table * entries + index_at(vectors, table, c / columns, lane, tile + format.codes_at)) * columns + c % columns];
        target[c] = static_cast<float>(static_cast<int>(static_cast<std::uint8_t>(level)) - 128) * tile_scale_at(packed.scheme, format, tile, c, lane);
    }
}

std::optional<SectionBytes> sections(const PackedWeight& packed) {
    const Scheme& scheme = packed.scheme;
    if (scheme.kind != NumberKind::vectors || !decodes(scheme) || packed.dtype != scheme.scale_dtype || vector_format(scheme).index_bits == 0 || !tile_groups_fit(scheme, packed.n_columns)) return std::nullopt;
    PackedWeight fields;
    fields.scheme = scheme, fields.dtype = packed.dtype, fields.n_columns = packed.n_columns;
    SectionBytes bytes{static_cast<std::uint64_t>(ceil_div(packed.n_rows, tile_rows) * tile_format(fields).tile_bytes)};
    bytes.books = static_cast<std::uint64_t>(vector_format(scheme).books_bytes());
    return bytes;
}

}  // namespace

const Layout vectors_r16 = {"vectors_r16", tile_rows, accepts, pack, row, sections};

}  // namespace skiff
