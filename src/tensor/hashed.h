// Hashed weights (HashedNets, Chen et al. 2015), in blocks that a kernel can gather: a matrix is made of blocks of 16 rows x 32 columns, and each of them
// is a block of a smaller matrix, the bank, with a sign. A hash says which: docs/formats/hashed.md.
//
// `shared` rows of blocks take theirs from one row of the bank's blocks, each in an order of its own and with signs of its own. So every block of the bank
// is used equally often, and what one row of the bank holds is read once for `shared` rows of blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "tensor/scheme.h"
#include "tensor/tensor.h"

namespace skiff {

struct Weight;

struct BlockHash {
    static constexpr std::int64_t block_rows = 16, block_columns = 32, most_shared = 256;

    std::int64_t n_rows = 0, n_columns = 0;  // of the matrix; the blocks at its ends reach beyond it
    std::int64_t shared = 1;                 // rows of blocks that one row of the bank's stands for
    std::uint64_t seed = 0;

    bool operator==(const BlockHash&) const = default;
    std::int64_t n_block_rows() const { return (n_rows + block_rows - 1) / block_rows; }
    std::int64_t n_block_columns() const { return (n_columns + block_columns - 1) / block_columns; }
    std::int64_t n_bank_rows() const { return (n_block_rows() + shared - 1) / shared * block_rows; }
    std::int64_t n_bank_columns() const { return n_block_columns() * block_columns; }
    Shape bank_shape() const { return {n_bank_rows(), n_bank_columns()}; }
};

// Which block of its row of the bank a block is, and whether negated.
struct BankBlock {
    std::int32_t column = 0;
    bool negative = false;
    bool operator==(const BankBlock&) const = default;
};

// Sizes and `shared` (1 to the rows of blocks, 256 at most) are sensible: for what comes from a file.
Status check_block_hash(const BlockHash& hash);
// The blocks of one row of blocks, from the left. // (n_block_columns)
std::vector<BankBlock> bank_blocks(const BlockHash& hash, std::int64_t block_row);

struct Hashed {
    BlockHash hash;
    std::shared_ptr<const Weight> bank;  // hash.bank_shape(): plain floats, or codes for which hash_defined_on()
    std::shared_ptr<const std::vector<BankBlock>> blocks;  // of all rows of blocks // (n_block_rows * n_block_columns)

    std::span<const BankBlock> row_of_blocks(std::int64_t block_row) const {
        const auto n = static_cast<std::size_t>(hash.n_block_columns());
        return std::span(*blocks).subspan(static_cast<std::size_t>(block_row) * n, n);
    }
};

// An error that says why a bank cannot be codes of a scheme: a block and its negative must be the same codes, and no scale may reach over a part of a block.
Status hash_defined_on(const Scheme& scheme);

// Checks that the bank is what the hash wants. The result is (n_rows, n_columns).
Result<Weight> make_hashed(const BlockHash& hash, Weight bank);

// One row as floats. // target: (n_columns) f32
void decode_hashed_row(const Hashed& hashed, std::int64_t row, float* target);

// The same numbers with every block written out: plain as the bank, or codes with a scale for 32 columns (16 where the bank's groups are such).
Weight written_out(const Weight& hashed);

}  // namespace skiff
