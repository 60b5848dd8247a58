#include "tensor/blocks_to_codes.h"

#include <cstring>

namespace skiff {
namespace {

constexpr std::int64_t block_weights = 32, scale_bytes = 2;

struct Convertible {
    BlockType type;
    int bits;
    void (*codes)(const std::uint8_t* block, std::uint8_t* codes);  // block behind its scale; 32 codes, zero at 2^(bits-1)
};

void q4_0_codes(const std::uint8_t* block, std::uint8_t* codes) {
    for (int i = 0; i < 16; ++i) codes[i] = block[i] & 15, codes[i + 16] = block[i] >> 4;
}

void q5_0_codes(const std::uint8_t* block, std::uint8_t* codes) {
    std::uint32_t fifth;
    std::memcpy(&fifth, block, sizeof fifth);
    q4_0_codes(block + sizeof fifth, codes);
    for (int i = 0; i < 32; ++i) codes[i] = static_cast<std::uint8_t>(codes[i] | (fifth >> i & 1) << 4);
}

void q8_0_codes(const std::uint8_t* block, std::uint8_t* codes) {
    for (int i = 0; i < 32; ++i) codes[i] = static_cast<std::uint8_t>(block[i] + 128);  // modulo 256
}

constexpr Convertible convertible[] = {{BlockType::q4_0, 4, q4_0_codes}, {BlockType::q5_0, 5, q5_0_codes}, {BlockType::q8_0, 8, q8_0_codes}};

struct OwnedCodes {
    std::vector<std::byte> packed, scales;
};

const Convertible* find(BlockType type) {
    for (const auto& candidate : convertible)
        if (candidate.type == type) return &candidate;
    return nullptr;
}

}  // namespace

int bits_of_blocks(BlockType type) {
    const Convertible* kind = find(type);
    return kind == nullptr ? 0 : kind->bits;
}

std::optional<Weight> codes_of_blocks(const Weight& weight) {
    const Blocks* blocks = weight.blocks();
    if (blocks == nullptr) return std::nullopt;
    const Convertible* kind = find(blocks->type);
    const std::int64_t n_rows = weight.n_rows(), n_columns = weight.n_columns(), n_groups = n_columns / block_weights;
    if (kind == nullptr || n_columns % block_weights != 0) return std::nullopt;

    const std::int64_t row_bytes = packed_row_bytes(kind->bits, n_columns), block_bytes = block_format(kind->type).block_bytes;
    auto owner = std::make_shared<OwnedCodes>();
    owner->packed.resize(static_cast<std::size_t>(n_rows * row_bytes));
    owner->scales.resize(static_cast<std::size_t>(n_rows * n_groups * scale_bytes));
    std::vector<std::uint8_t> row(static_cast<std::size_t>(n_columns));
    const auto* block = reinterpret_cast<const std::uint8_t*>(blocks->data.data());
    for (std::int64_t r = 0; r < n_rows; ++r) {
        for (std::int64_t g = 0; g < n_groups; ++g, block += block_bytes) {
            std::memcpy(owner->scales.data() + (r * n_groups + g) * scale_bytes, block, scale_bytes);
            kind->codes(block + scale_bytes, row.data() + g * block_weights);
        }
        pack_codes(row.data(), kind->bits, n_columns, owner->packed.data() + r * row_bytes);
    }
    Scheme scheme;
    scheme.kind = NumberKind::integer;
    scheme.bits = kind->bits;
    scheme.group_size = block_weights;
    scheme.scale_dtype = DType::f16;
    Codes codes = {scheme, {DType::i32, {n_rows, row_bytes / 4}, owner->packed}, {DType::f16, {n_rows, n_groups}, owner->scales}, {}};
    return Weight{weight.shape, std::move(codes), std::move(owner)};
}

}  // namespace skiff
