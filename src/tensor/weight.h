// A weight as a checkpoint holds it: plain numbers, codes with scales (a Scheme), blocks of a GGUF format, only what pruning kept, or blocks that a hash
// finds in a bank. All can give a row of floats.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "tensor/block_format.h"
#include "tensor/hashed.h"
#include "tensor/scheme.h"
#include "tensor/sparse.h"
#include "tensor/tensor.h"

namespace skiff {

// Canonical codes: per row a stream of `bits`-wide unsigned codes, first column in the lowest bits, padded to whole 32-bit words
// (the pack-quantized form of compressed-tensors, dense since 2026-05). Symmetric codes are offset by 2^(bits-1).
struct Codes {
    Scheme scheme;
    TensorView packed;   // (n_rows, ceil(n_codes*bits/32)) i32; of vectors: the codes of a vector side by side
    TensorView scales;          // (n_rows, n_groups) of the scheme's scale_dtype: f16, bf16 or f32; i8 or u8 (relative); f8_e8m0; of a table: (n_rows, ceil(n_groups / 2)) u8, the first in the low bits;
                                // of clusters: the levels, (n_rows, n_groups * n_levels), or (1, n_levels) for all rows
    TensorView zeros = {};      // asymmetric without minimums: (n_rows, n_groups) u8, one zero per byte
    TensorView super_scales = {};    // relative scales: (n_rows, n_supers) f16, bf16 or f32
    TensorView minimums = {};        // scheme.minimums: (n_rows, n_groups) f16, bf16 or f32; u8 where scales are relative
    TensorView super_minimums = {};  // relative minimums: (n_rows, n_supers) f16 or f32
    TensorView books = {};           // vectors: (n_books * n_levels, vector) i8, for all rows; the sum of an entry of each fits i8
};

// The sections of coded rows, each with its rows one after another without gaps: their first bytes. Null where the scheme has none.
struct CodeSections {
    const std::byte* packed = nullptr;
    const std::byte* scales = nullptr;
    const std::byte* zeros = nullptr;
    const std::byte* super_scales = nullptr;
    const std::byte* minimums = nullptr;
    const std::byte* super_minimums = nullptr;
    const std::byte* books = nullptr;
};
CodeSections sections_of(const Codes& codes);

// Bytes of one row in each section.
struct CodeRowBytes {
    std::int64_t packed = 0, scales = 0, zeros = 0, super_scales = 0, minimums = 0, super_minimums = 0;
    std::int64_t total() const { return packed + scales + zeros + super_scales + minimums + super_minimums; }
};
CodeRowBytes code_row_bytes(const Scheme& scheme, std::int64_t n_columns);

// Scale and minimum (0 without minimums) of each group of a row. // (n_groups) f32 each
void code_row_params(const Scheme& scheme, const CodeSections& sections, std::int64_t row, std::int64_t n_columns, float* scales, float* minimums);
// Whether the next function knows such a scheme: for schemes that come from a file.
bool decodes(const Scheme& scheme);
// One row as floats. // target: (n_columns) f32
void decode_codes_row(const Scheme& scheme, const CodeSections& sections, std::int64_t row, std::int64_t n_columns, float* target);

struct Blocks {
    BlockType type = BlockType::q8_0;
    std::span<const std::byte> data;  // (n_rows, n_columns / block_size) blocks
};

struct Weight {
    Shape shape;                                    // logical; codes and blocks are two-dimensional (n_rows, n_columns)
    std::variant<TensorView, Codes, Blocks, Sparse, Outliers, Hashed> store;  // TensorView: plain numbers of this very shape
    std::shared_ptr<const void> owner;              // keeps the bytes alive (a mapped file, a buffer)
    // The numbers, blocks, or codes with their scales are a mapping of a file: their pages may be dropped once they were copied.
    bool file_backed = false;

    std::int64_t n_rows() const { return shape.empty() ? 1 : shape[0]; }
    std::int64_t n_columns() const { return shape.empty() || shape[0] == 0 ? 0 : element_count(shape) / shape[0]; }
    const TensorView* plain() const { return std::get_if<TensorView>(&store); }
    const Codes* codes() const { return std::get_if<Codes>(&store); }
    const Blocks* blocks() const { return std::get_if<Blocks>(&store); }
    const Sparse* sparse() const { return std::get_if<Sparse>(&store); }
    const Outliers* outliers() const { return std::get_if<Outliers>(&store); }
    const Hashed* hashed() const { return std::get_if<Hashed>(&store); }

    // Row `row` as floats; target has n_columns elements. // (n_columns) f32
    void row(std::int64_t row, float* target) const;
    std::uint64_t stored_bytes() const;   // codes with all that goes with them, or the plain bytes
    std::string encoding_name() const;    // "BF16", "w4g32", "Q4_K", "w8g32 of 2:4", "BF16 hashed 1:4"
};

// Reads one row's codes (n_columns of them) out of the packed words. // codes: (n_columns) u8
void unpack_codes(const std::byte* packed_row, int bits, std::int64_t n_columns, std::uint8_t* codes);
void pack_codes(const std::uint8_t* codes, int bits, std::int64_t n_columns, std::byte* packed_row);
std::int64_t packed_row_bytes(int bits, std::int64_t n_columns);  // whole 32-bit words
// The same for codes of up to 16 bits. // codes: (n_codes) u16
void unpack_wide_codes(const std::byte* packed_row, int bits, std::int64_t n_codes, std::uint16_t* codes);
void pack_wide_codes(const std::uint16_t* codes, int bits, std::int64_t n_codes, std::byte* packed_row);

// A weight that owns its numbers.
Weight make_float_weight(Shape shape, std::vector<float> values);
Weight make_plain_weight(Shape shape, DType dtype, std::vector<std::byte> bytes);

// The columns of a plain matrix as rows, in the same type.
Weight transposed(const Weight& plain_matrix);

// Gives back the memory of a mapped weight's pages; they are read from the file again when needed. For whoever walks through a whole model.
void release_pages(const Weight& weight);

// Quantizes row by row to an integer or floating scheme by rounding to nearest on the scheme's grid.
// Refuses NaN and infinities with the row and column. `importance` (n_columns) may be empty. The bits of the result do not depend on the
// pool. Where f16 scales would lose too much (scale_is_storable) the result's scheme and scales say f32.
Result<Weight> encode_nearest(const Weight& source, const Scheme& scheme, ScaleRule rule, std::span<const float> importance = {},
                              ThreadPool* pool = nullptr);

}  // namespace skiff
