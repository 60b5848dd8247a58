// How tiles hold codes of vectors (the layout vectors_r16); all else of a tile is as tile_format.h says.
//
// An index gives levels of `parts` x 4 neighbouring columns of a row, as one or two 32-bit words of a table: all books together where their codes have at most 12
// bits, of vectors of two columns two at once; else there is a table for each book, and bytes of their words are added. So 2, 4 and 8 columns with one book or two
// are one kernel, and a table is at most 32 KiB: it stays in the L1 cache. Levels are unsigned, 128 above the entry (of the first table; the second adds without).
//
// A block of 16 rows x 32 columns holds, table after table, vectors of 64 indices of 8 bits, or 64 x 8 and behind them 32 bytes with the upper 4 bits of each (bytes
// 0-31 in the low halves, 32-63 in the high ones). Such a vector covers 4 steps of `parts` x 4 columns: the index of step i and row r is byte r / 4 * 16 + i * 4 + r % 4.
// Then bytes that planes of a table give for the 64 indices become the expanded block's vectors by unpacking within 128 bits alone.
//
// Tables (packed.books): for each table its 2^index_bits entries of `parts` words. Where indices have 8 bits, behind all of them the same as planes: of each table and
// word four of 256 bytes, one for each column.
#pragma once

#include "kernels/layout.h"

namespace skiff {

struct VectorFormat {
    int index_bits = 0, n_tables = 0, parts = 0;  // index_bits 0: no such tiles
    bool pairs = false;                           // an index of 8 bits is two codes of two columns each, whose bytes are 16 entries: shuffles look them up
    std::int64_t table_words() const { return (std::int64_t{1} << index_bits) * parts; }
    std::int64_t steps() const { return 8 / parts; }                                     // of a block
    std::int64_t index_bytes() const { return 64 * index_bits / 8; }                     // of four steps
    std::int64_t table_block_bytes() const { return steps() / 4 * index_bytes(); }       // of one table
    std::int64_t block_bytes() const { return n_tables * table_block_bytes(); }
    std::int64_t books_bytes() const { return n_tables * table_words() * 4 * (index_bits == 8 ? 2 : 1); }
};

VectorFormat vector_format(const Scheme& scheme);

}  // namespace skiff
