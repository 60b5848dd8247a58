// How a weight is packed for the kernels that read it. One packing serves decode and prefill; a layout can give any row back as floats.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "tensor/weight.h"

namespace skiff {

// Which rows of a stored tensor make an operator's weight: n_blocks runs of `block` rows, `stride` rows apart, from `begin`.
// A fused q|k|v matrix, or heads that interleave q, k and v, are such maps; the whole tensor is one block.
struct RowMap {
    std::int64_t begin = 0, block = 0, stride = 0, n_blocks = 1;
    std::int64_t n_rows() const { return block * n_blocks; }
    std::int64_t at(std::int64_t i) const { return begin + i / block * stride + i % block; }
    bool contiguous() const { return n_blocks == 1 || stride == block; }
    static RowMap all(std::int64_t n_rows) { return {0, n_rows, n_rows, 1}; }
};

struct Layout;
class ThreadPool;

// What a tile layout does with weights that pruning dropped (sparse_tiles.h): nothing, blocks are left out, or a bit says what is there. hashed: the tiles are
// those of a bank (hash_tiles.h).
enum class TileForm : std::uint8_t { dense, skip, mask, hashed };

struct PackedWeight {
    const Layout* layout = nullptr;
    std::int64_t n_rows = 0, n_columns = 0;  // logical; padding is the layout's own business
    Scheme scheme;                           // of the codes, where the layout packs codes
    DType dtype = DType::f32;                // of plain layouts
    BlockType block_type = BlockType::q8_0;  // of the block layout
    const std::byte* data = nullptr;         // codes or values
    const std::byte* scales = nullptr;       // as the layout says
    const std::byte* zeros = nullptr;
    const std::byte* super_scales = nullptr;    // where the scheme's scales are relative
    const std::byte* minimums = nullptr;        // where the scheme has them
    const std::byte* super_minimums = nullptr;  // where these are relative
    const std::byte* books = nullptr;           // of vectors: what the layout makes of them
    const float* levels = nullptr;              // of the scheme's codebook
    TileForm tiles = TileForm::dense;
    int mask_rows = 1;                          // of TileForm::mask: rows that share a bit, 1, 4 or 16
    std::uint64_t read_bytes = 0;            // that one pass over all rows reads
    AlignedBuffer buffer;                    // owns all of these, or is empty when they lie in `owner`
    std::shared_ptr<const void> owner;
};

// Bytes of each part of a packed weight; 0 where the layout has no such part.
struct SectionBytes {
    std::uint64_t data = 0, scales = 0, zeros = 0, super_scales = 0, minimums = 0, super_minimums = 0, books = 0;
    std::uint64_t total() const { return data + scales + zeros + super_scales + minimums + super_minimums + books; }
};

struct Layout {
    std::string_view name;  // "w4_r8"
    std::int64_t row_unit;  // kernels work on multiples of this many rows (the last may be short)
    bool (*accepts)(const Weight& weight);
    void (*pack)(const Weight& weight, const RowMap& rows, PackedWeight& packed);  // layout, n_rows, n_columns are set by the caller
    void (*row)(const PackedWeight& packed, std::int64_t row, float* target);      // // (n_columns) f32
    // How many bytes the parts of a weight with these fields have (its pointers are not looked at), or nothing where the fields are none that
    // this layout packs. A weight that comes back from the cache of packed weights is believed only if this says so. Null: never cached.
    std::optional<SectionBytes> (*sections)(const PackedWeight& packed) = nullptr;
    int version = 1;  // one more whenever `pack` gives other bytes than before
    // `pack` in two parts, so that threads can share it: all but what single rows fill, then some of the rows, from a multiple of row_unit on. Null: only as a whole.
    void (*begin)(const Weight& weight, const RowMap& rows, PackedWeight& packed) = nullptr;
    void (*fill)(const Weight& weight, const RowMap& rows, std::int64_t first, std::int64_t end, PackedWeight& packed) = nullptr;
    // Where kernels follow offsets and counts that lie among the bytes: whether these stay inside. For bytes that come back from a file. Null: there are none.
    bool (*intact)(const PackedWeight& packed, const SectionBytes& sizes) = nullptr;
};

// All layouts, in order of preference for a weight they accept. `plain_rows` and `codes_rows` and `blocks_rows` (read as stored) come last.
std::span<const Layout* const> layout_table();
// With a pool its threads share the rows; the bytes are the same.
PackedWeight pack_weight(const Layout& layout, const Weight& weight, const RowMap& rows, ThreadPool* pool = nullptr);

}  // namespace skiff
