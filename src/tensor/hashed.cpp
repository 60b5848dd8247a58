#include "tensor/hashed.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "tensor/weight.h"

namespace skiff {
namespace {

constexpr std::int64_t block_rows = BlockHash::block_rows, block_columns = BlockHash::block_columns;
constexpr std::uint64_t golden = 0x9e3779b97f4a7c15u;

// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
constexpr std::uint64_t mix(std::uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

void negate_bits(DType dtype, std::byte* values, std::int64_t n) {
    const std::int64_t size = dtype_info(dtype).bits / 8;
    for (std::int64_t i = 0; i < n; ++i) values[i * size + size - 1] ^= std::byte{0x80};  // little-endian floats
}

Weight plain_written_out(const Hashed& hashed) {
    const BlockHash& hash = hashed.hash;
    const TensorView& bank = *hashed.bank->plain();
    const std::int64_t size = dtype_info(bank.dtype).bits / 8, bank_row_bytes = hash.n_bank_columns() * size;
    std::vector<std::byte> bytes(static_cast<std::size_t>(hash.n_rows * hash.n_columns * size));
    for (std::int64_t row = 0; row < hash.n_rows; ++row) {
        const std::byte* from = bank.data.data() + (row / block_rows / hash.shared * block_rows + row % block_rows) * bank_row_bytes;
        std::byte* to = bytes.data() + row * hash.n_columns * size;
        std::int64_t column = 0;
        for (const BankBlock& block : hashed.row_of_blocks(row / block_rows)) {
            const std::int64_t n = std::min(block_columns, hash.n_columns - column);
            std::memcpy(to + column * size, from + block.column * block_columns * size, static_cast<std::size_t>(n * size));
            if (block.negative) negate_bits(bank.dtype, to + column * size, n);
            column += n;
        }
    }
    return make_plain_weight({hash.n_rows, hash.n_columns}, bank.dtype, std::move(bytes));
}

// Scales of their own for the groups of each block, so that the sign goes into them.
Weight codes_written_out(const Hashed& hashed) {
    struct Owner {
        std::vector<std::byte> packed;
        std::vector<float> scales;
    };
    const BlockHash& hash = hashed.hash;
    const Codes& bank = *hashed.bank->codes();
    Scheme scheme = bank.scheme;
    scheme.group_size = scheme.group_size == 16 ? 16 : block_columns;
    scheme.scale_dtype = DType::f32;
    scheme.super_size = 0;
    const std::int64_t n_bank_columns = hash.n_bank_columns(), n_groups = scheme.n_groups(hash.n_columns), per_block = block_columns / scheme.group_size;
    const std::int64_t bank_row_bytes = packed_row_bytes(scheme.bits, n_bank_columns), row_bytes = packed_row_bytes(scheme.bits, hash.n_columns), n_stored_groups = bank.scheme.n_groups(n_bank_columns);
    auto owner = std::make_shared<Owner>();
    owner->packed.resize(static_cast<std::size_t>(hash.n_rows * row_bytes));
    owner->scales.resize(static_cast<std::size_t>(hash.n_rows * n_groups));
    std::vector<std::uint8_t> stored(static_cast<std::size_t>(n_bank_columns)), codes(stored.size());
    std::vector<float> stored_scales(static_cast<std::size_t>(n_stored_groups)), minimums(stored_scales.size());
    for (std::int64_t row = 0; row < hash.n_rows; ++row) {
        const std::int64_t from = row / block_rows / hash.shared * block_rows + row % block_rows;
        unpack_codes(bank.packed.data.data() + from * bank_row_bytes, scheme.bits, n_bank_columns, stored.data());
        code_row_params(bank.scheme, sections_of(bank), from, n_bank_columns, stored_scales.data(), minimums.data());
        std::int64_t block_column = 0;
        for (const BankBlock& block : hashed.row_of_blocks(row / block_rows)) {
            std::memcpy(codes.data() + block_column * block_columns, stored.data() + block.column * block_columns, static_cast<std::size_t>(block_columns));
            for (std::int64_t unit = 0; unit < per_block; ++unit) {
                const std::int64_t group = block_column * per_block + unit, first = block.column * block_columns + unit * scheme.group_size;
                if (group >= n_groups) continue;  // behind the last column
                const float scale = stored_scales[static_cast<std::size_t>(n_stored_groups == 1 ? 0 : first / bank.scheme.group_size)];
                owner->scales[static_cast<std::size_t>(row * n_groups + group)] = block.negative ? -scale : scale;
            }
            ++block_column;
        }
        pack_codes(codes.data(), scheme.bits, hash.n_columns, owner->packed.data() + row * row_bytes);
    }
    Codes result = {scheme, {DType::i32, {hash.n_rows, row_bytes / 4}, owner->packed}, {DType::f32, {hash.n_rows, n_groups}, std::as_bytes(std::span<const float>(owner->scales))}};
    return {{hash.n_rows, hash.n_columns}, result, owner};
}

}  // namespace

Status check_block_hash(const BlockHash& hash) {
    constexpr std::int64_t most = std::int64_t{1} << 30;
    if (hash.n_rows < 1 || hash.n_columns < 1 || hash.n_rows > most || hash.n_columns > most || hash.n_rows * hash.n_columns > std::int64_t{1} << 40)
        return corrupt("a matrix of " + std::to_string(hash.n_rows) + " x " + std::to_string(hash.n_columns) + " cannot be hashed");
    if (const std::int64_t highest = std::min(BlockHash::most_shared, hash.n_block_rows()); hash.shared < 1 || hash.shared > highest)  // so that a file bounds what its blocks take in memory
        return corrupt("each row of the bank stands for " + std::to_string(hash.shared) + " rows of blocks; expected 1 to " + std::to_string(highest) + " for a matrix of " + std::to_string(hash.n_rows) + " rows");
    return {};
}

std::vector<BankBlock> bank_blocks(const BlockHash& hash, std::int64_t block_row) {
    const auto n = static_cast<std::size_t>(hash.n_block_columns());
    const std::uint64_t stream = mix(hash.seed + (static_cast<std::uint64_t>(block_row) + 1) * golden);
    const auto number = [&](std::size_t i) { return mix(stream + (static_cast<std::uint64_t>(i) + 1) * golden); };
    std::vector<BankBlock> blocks(n);
    for (std::size_t j = 0; j < n; ++j) blocks[j] = {static_cast<std::int32_t>(j), (number(n + j) >> 63) != 0};
    for (std::size_t j = n; j-- > 1;) std::swap(blocks[j].column, blocks[number(j) % (j + 1)].column);  // Fisher and Yates
    return blocks;
}

Status hash_defined_on(const Scheme& scheme) {
    const bool whole = scheme.group_size == 0 || scheme.group_size == 16 || scheme.group_size % block_columns == 0;
    if (scheme.kind == NumberKind::integer && scheme.symmetric && scheme.scale_book == nullptr && whole && (scheme.super_size == 0 || scheme.super_size % block_columns == 0)) return {};
    return unsupported(scheme.name() + ": blocks that are shared are rounded to symmetric integers in groups of 16, of a multiple of 32, or of whole rows, such as w8g32 and w4g32");
}

Result<Weight> make_hashed(const BlockHash& hash, Weight bank) {
    SKIFF_CHECK(check_block_hash(hash));
    if (bank.shape != hash.bank_shape()) return corrupt("the bank has shape " + shape_text(bank.shape) + ", its hash implies " + shape_text(hash.bank_shape()));
    if (const TensorView* plain = bank.plain()) {
        if (plain->dtype != DType::f32 && plain->dtype != DType::f16 && plain->dtype != DType::bf16) return corrupt("the bank has type " + bank.encoding_name() + "; expected F32, F16 or BF16");
    } else if (bank.codes() != nullptr) {
        SKIFF_CHECK(hash_defined_on(bank.codes()->scheme));
    } else {
        return corrupt("the bank is " + bank.encoding_name() + "; expected plain numbers or codes");
    }
    auto blocks = std::make_shared<std::vector<BankBlock>>();
    blocks->reserve(static_cast<std::size_t>(hash.n_block_rows() * hash.n_block_columns()));
    for (std::int64_t row = 0; row < hash.n_block_rows(); ++row) {
        const auto of_row = bank_blocks(hash, row);
        blocks->insert(blocks->end(), of_row.begin(), of_row.end());
    }
    return Weight{{hash.n_rows, hash.n_columns}, Hashed{hash, std::make_shared<const Weight>(std::move(bank)), std::move(blocks)}, nullptr};
}

void decode_hashed_row(const Hashed& hashed, std::int64_t row, float* target) {
    const BlockHash& hash = hashed.hash;
    std::vector<float> bank(static_cast<std::size_t>(hash.n_bank_columns()));
    hashed.bank->row(row / block_rows / hash.shared * block_rows + row % block_rows, bank.data());
    std::int64_t column = 0;
    for (const BankBlock& block : hashed.row_of_blocks(row / block_rows)) {
        const float* from = bank.data() + block.column * block_columns;
        const std::int64_t n = std::min(block_columns, hash.n_columns - column);
        if (block.negative)
            for (std::int64_t i = 0; i < n; ++i) target[column + i] = -from[i];
        else std::copy_n(from, n, target + column);
        column += n;
    }
}

Weight written_out(const Weight& hashed) { return hashed.hashed()->bank->plain() != nullptr ? plain_written_out(*hashed.hashed()) : codes_written_out(*hashed.hashed()); }

}  // namespace skiff
