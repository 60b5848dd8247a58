// Layouts that read a weight as it is stored: plain numbers, canonical codes, GGUF blocks. Nothing is copied when the rows are contiguous.
#include <cstring>

#include "kernels/layouts.h"
#include "kernels/lut_format.h"

namespace skiff {
namespace {

// Rows begin..end of `source` (row_bytes each) that the map picks: a pointer into it, or a copy in the packed weight's buffer.
const std::byte* take_rows(const std::byte* source, std::int64_t row_bytes, const RowMap& rows, AlignedBuffer& buffer, std::size_t offset) {
    if (rows.contiguous()) return source + rows.begin * row_bytes;
    std::byte* target = buffer.data() + offset;
    for (std::int64_t r = 0; r < rows.n_rows(); ++r)
        std::memcpy(target + r * row_bytes, source + rows.at(r) * row_bytes, static_cast<std::size_t>(row_bytes));
    return target;
}

bool accepts_plain(const Weight& weight) { return weight.plain() != nullptr && dtype_info(weight.plain()->dtype).to_float != nullptr; }

void pack_plain(const Weight& weight, const RowMap& rows, PackedWeight& packed) {
    const TensorView& view = *weight.plain();
    packed.dtype = view.dtype;
    const std::int64_t row_bytes = packed.n_columns * dtype_info(view.dtype).bits / 8;
    if (!rows.contiguous()) packed.buffer = AlignedBuffer(static_cast<std::size_t>(row_bytes * packed.n_rows));
    packed.data = take_rows(view.data.data(), row_bytes, rows, packed.buffer, 0);
    packed.read_bytes = static_cast<std::uint64_t>(row_bytes * packed.n_rows);
    packed.owner = weight.owner;
}

void plain_row(const PackedWeight& packed, std::int64_t row, float* target) {
    const DTypeInfo& info = dtype_info(packed.dtype);
    info.to_float(packed.data + row * packed.n_columns * info.bits / 8, packed.n_columns, target);
}

std::optional<SectionBytes> plain_sections(const PackedWeight& packed) {
    const DTypeInfo& info = dtype_info(packed.dtype);
    if (info.to_float == nullptr || info.bits % 8 != 0) return std::nullopt;
    return SectionBytes{static_cast<std::uint64_t>(packed.n_rows * packed.n_columns * info.bits / 8)};
}

bool accepts_codes(const Weight& weight) { return weight.codes() != nullptr; }

// Every section keeps its stored type; `dtype` holds the scales' type.
void pack_codes_rows(const Weight& weight, const RowMap& rows, PackedWeight& packed) {
    const Codes& codes = *weight.codes();
    packed.scheme = codes.scheme;
    packed.dtype = codes.scales.dtype;
    if (codes.scheme.codebook != nullptr) packed.levels = codes.scheme.codebook->levels.data();
    const CodeRowBytes bytes = code_row_bytes(codes.scheme, packed.n_columns);
    const CodeSections from = sections_of(codes);
    if (!rows.contiguous()) packed.buffer = AlignedBuffer(static_cast<std::size_t>(bytes.total() * packed.n_rows));
    std::int64_t offset = 0;
    const auto take = [&](const std::byte* source, std::int64_t row_bytes) {
        const std::byte* taken = row_bytes == 0 ? nullptr : take_rows(source, row_bytes, rows, packed.buffer, static_cast<std::size_t>(offset * packed.n_rows));
        offset += row_bytes;
        return taken;
    };
    packed.data = take(from.packed, bytes.packed);
    packed.scales = codes.scheme.one_table ? from.scales : take(from.scales, bytes.scales);
    packed.zeros = take(from.zeros, bytes.zeros);
    packed.super_scales = take(from.super_scales, bytes.super_scales);
    packed.minimums = take(from.minimums, bytes.minimums);
    packed.super_minimums = take(from.super_minimums, bytes.super_minimums);
    packed.books = from.books;  // of all rows
    packed.read_bytes = static_cast<std::uint64_t>(bytes.total() * packed.n_rows);
    packed.owner = weight.owner;
}

void codes_row(const PackedWeight& packed, std::int64_t row, float* target) {
    const CodeSections sections = {packed.data, packed.scales, packed.zeros, packed.super_scales, packed.minimums, packed.super_minimums, packed.books};
    decode_codes_row(packed.scheme, sections, row, packed.n_columns, target);
}

std::optional<SectionBytes> codes_sections(const PackedWeight& packed) {
    if (!decodes(packed.scheme) || packed.dtype != packed.scheme.scale_dtype) return std::nullopt;
    const CodeRowBytes row = code_row_bytes(packed.scheme, packed.n_columns);
    const auto all_rows = [&](std::int64_t row_bytes) { return static_cast<std::uint64_t>(row_bytes * packed.n_rows); };
    const std::uint64_t one_table = packed.scheme.one_table ? static_cast<std::uint64_t>(packed.scheme.n_levels) * static_cast<std::uint64_t>(packed.scheme.scale_bits()) / 8 : 0;
    return SectionBytes{all_rows(row.packed),       all_rows(row.scales) + one_table,   all_rows(row.zeros),
                        all_rows(row.super_scales), all_rows(row.minimums), all_rows(row.super_minimums),
                        static_cast<std::uint64_t>(packed.scheme.n_books * packed.scheme.n_levels * packed.scheme.vector)};
}

bool accepts_luts(const Weight& weight) { return weight.codes() != nullptr && is_lut(weight.codes()->scheme, weight.n_columns()); }

std::optional<SectionBytes> lut_sections(const PackedWeight& packed) {
    if (!decodes(packed.scheme) || !is_lut(packed.scheme, packed.n_columns)) return std::nullopt;
    return codes_sections(packed);
}

bool accepts_blocks(const Weight& weight) { return weight.blocks() != nullptr; }

void pack_blocks(const Weight& weight, const RowMap& rows, PackedWeight& packed) {
    const Blocks& blocks = *weight.blocks();
    packed.block_type = blocks.type;
    const BlockFormat& format = block_format(blocks.type);
    const std::int64_t row_bytes = packed.n_columns / format.block_size * format.block_bytes;
    if (!rows.contiguous()) packed.buffer = AlignedBuffer(static_cast<std::size_t>(row_bytes * packed.n_rows));
    packed.data = take_rows(blocks.data.data(), row_bytes, rows, packed.buffer, 0);
    packed.read_bytes = static_cast<std::uint64_t>(row_bytes * packed.n_rows);
    packed.owner = weight.owner;
}

std::optional<SectionBytes> blocks_sections(const PackedWeight& packed) {
    const BlockFormat& format = block_format(packed.block_type);
    if (packed.n_columns % format.block_size != 0) return std::nullopt;
    return SectionBytes{static_cast<std::uint64_t>(packed.n_rows * (packed.n_columns / format.block_size) * format.block_bytes)};
}

void blocks_row(const PackedWeight& packed, std::int64_t row, float* target) {
    const BlockFormat& format = block_format(packed.block_type);
    format.decode(packed.data + row * (packed.n_columns / format.block_size) * format.block_bytes, packed.n_columns, target);
}

}  // namespace

const Layout plain_rows = {"plain_rows", 1, accepts_plain, pack_plain, plain_row, plain_sections};
const Layout lut_rows = {"lut_rows", 1, accepts_luts, pack_codes_rows, codes_row, lut_sections};
const Layout codes_rows = {"codes_rows", 1, accepts_codes, pack_codes_rows, codes_row, codes_sections};
const Layout blocks_rows = {"blocks_rows", 1, accepts_blocks, pack_blocks, blocks_row, blocks_sections};

}  // namespace skiff
