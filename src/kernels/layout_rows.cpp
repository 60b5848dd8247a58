// Layouts that read a weight as it is stored: plain numbers, canonical codes, GGUF blocks. Nothing is copied when the rows are contiguous.
#include <cstring>

#include "kernels/layouts.h"

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

bool accepts_codes(const Weight& weight) { return weight.codes() != nullptr; }

// scales and zeros keep their stored types; `dtype` holds the scales' type.
void pack_codes_rows(const Weight& weight, const RowMap& rows, PackedWeight& packed) {
    const Codes& codes = *weight.codes();
    packed.scheme = codes.scheme;
    packed.dtype = codes.scales.dtype;
    const std::int64_t code_bytes = codes.packed.row_elements() * 4, scale_bytes = codes.scales.row_elements() * dtype_info(codes.scales.dtype).bits / 8;
    const std::int64_t zero_bytes = codes.scheme.symmetric ? 0 : codes.zeros.row_elements();
    const std::int64_t row_bytes = code_bytes + scale_bytes + zero_bytes;
    if (!rows.contiguous()) packed.buffer = AlignedBuffer(static_cast<std::size_t>(row_bytes * packed.n_rows));
    packed.data = take_rows(codes.packed.data.data(), code_bytes, rows, packed.buffer, 0);
    packed.scales = take_rows(codes.scales.data.data(), scale_bytes, rows, packed.buffer, static_cast<std::size_t>(code_bytes * packed.n_rows));
    if (zero_bytes > 0)
        packed.zeros = take_rows(codes.zeros.data.data(), zero_bytes, rows, packed.buffer, static_cast<std::size_t>((code_bytes + scale_bytes) * packed.n_rows));
    packed.read_bytes = static_cast<std::uint64_t>(row_bytes * packed.n_rows);
    packed.owner = weight.owner;
}

void codes_row(const PackedWeight& packed, std::int64_t row, float* target) {
    const Scheme& scheme = packed.scheme;
    const std::int64_t n = packed.n_columns, n_groups = scheme.n_groups(n), code_bytes = (n * scheme.bits + 31) / 32 * 4;
    thread_local std::vector<std::uint8_t> codes;
    thread_local std::vector<float> scales;
    codes.resize(static_cast<std::size_t>(n));
    scales.resize(static_cast<std::size_t>(n_groups));
    unpack_codes(packed.data + row * code_bytes, scheme.bits, n, codes.data());
    const DTypeInfo& info = dtype_info(packed.dtype);
    info.to_float(packed.scales + row * n_groups * info.bits / 8, n_groups, scales.data());
    for (std::int64_t c = 0; c < n; ++c) {
        const std::int64_t group = scheme.group_of(c);
        const int zero = scheme.symmetric ? 1 << (scheme.bits - 1) : std::to_integer<int>(packed.zeros[row * n_groups + group]);
        target[c] = static_cast<float>(codes[static_cast<std::size_t>(c)] - zero) * scales[static_cast<std::size_t>(group)];
    }
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

void blocks_row(const PackedWeight& packed, std::int64_t row, float* target) {
    const BlockFormat& format = block_format(packed.block_type);
    format.decode(packed.data + row * (packed.n_columns / format.block_size) * format.block_bytes, packed.n_columns, target);
}

}  // namespace

const Layout plain_rows = {"plain_rows", 1, accepts_plain, pack_plain, plain_row};
const Layout codes_rows = {"codes_rows", 1, accepts_codes, pack_codes_rows, codes_row};
const Layout blocks_rows = {"blocks_rows", 1, accepts_blocks, pack_blocks, blocks_row};

}  // namespace skiff
