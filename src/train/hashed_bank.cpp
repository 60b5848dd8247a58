#include "train/hashed_bank.h"

namespace skiff::train {
namespace {

constexpr std::int64_t rows = BlockHash::block_rows, columns = BlockHash::block_columns;

// (n_block_rows * 16, n_block_columns * 32) and back. // (n_block_rows * n_block_columns, 16 * 32)
at::Tensor as_blocks(const at::Tensor& matrix) {
    const std::int64_t n_rows = matrix.size(0) / rows, n_columns = matrix.size(1) / columns;
    return matrix.reshape({n_rows, rows, n_columns, columns}).permute({0, 2, 1, 3}).reshape({n_rows * n_columns, rows * columns});
}
at::Tensor as_matrix(const at::Tensor& blocks, std::int64_t n_block_columns) {
    const std::int64_t n_block_rows = blocks.size(0) / n_block_columns;
    return blocks.reshape({n_block_rows, n_block_columns, rows, columns}).permute({0, 2, 1, 3}).reshape({n_block_rows * rows, n_block_columns * columns});
}

}  // namespace

HashedBank::HashedBank(const BlockHash& hash, bool columns_first, at::Device device) : hash_(hash), columns_(columns_first) {
    const std::int64_t n_block_rows = hash.n_block_rows(), n_block_columns = hash.n_block_columns(), n_bank_rows = hash.n_bank_rows() / rows, n_bank_blocks = n_bank_rows * n_block_columns;
    blocks_ = at::empty({n_block_rows * n_block_columns}, at::kLong);
    signs_ = at::empty({n_block_rows * n_block_columns, 1}, at::kFloat);
    users_ = at::empty({hash.shared, n_bank_blocks}, at::kLong);
    user_signs_ = at::ones({hash.shared, n_bank_blocks, 1}, at::kFloat);
    for (std::int64_t row = 0; row < n_bank_rows * hash.shared; ++row) {  // rows of blocks behind the last have no gradient
        const std::int64_t bank_row = row / hash.shared, turn = row % hash.shared;
        const auto of_row = bank_blocks(hash, row);
        for (std::int64_t column = 0; column < n_block_columns; ++column) {
            const BankBlock& block = of_row[static_cast<std::size_t>(column)];
            const std::int64_t here = row * n_block_columns + column, there = bank_row * n_block_columns + block.column;
            const float sign = block.negative ? -1.0f : 1.0f;
            if (row < n_block_rows) {
                blocks_.data_ptr<std::int64_t>()[here] = there;
                signs_.data_ptr<float>()[here] = sign;
            }
            users_.data_ptr<std::int64_t>()[turn * n_bank_blocks + there] = here;
            user_signs_.data_ptr<float>()[turn * n_bank_blocks + there] = sign;
        }
    }
    for (at::Tensor* tensor : {&blocks_, &signs_, &users_, &user_signs_}) *tensor = tensor->to(device);
}

at::Tensor HashedBank::matrix(const at::Tensor& bank) const {
    const at::Tensor blocks = as_blocks(bank).index_select(0, blocks_) * signs_;
    const at::Tensor whole = as_matrix(blocks, hash_.n_block_columns()).narrow(0, 0, hash_.n_rows).narrow(1, 0, hash_.n_columns);
    return (columns_ ? whole.t() : whole).contiguous();
}

at::Tensor HashedBank::gradient(const at::Tensor& of_matrix) const {
    const at::Tensor given = columns_ ? of_matrix.t() : of_matrix;
    at::Tensor whole = at::zeros({hash_.n_bank_rows() * hash_.shared, hash_.n_bank_columns()}, given.options().dtype(at::kFloat));
    whole.narrow(0, 0, hash_.n_rows).narrow(1, 0, hash_.n_columns).copy_(given);
    const at::Tensor blocks = as_blocks(whole);
    at::Tensor sum = blocks.index_select(0, users_[0]) * user_signs_[0];
    for (std::int64_t turn = 1; turn < hash_.shared; ++turn) sum += blocks.index_select(0, users_[turn]) * user_signs_[turn];
    return as_matrix(sum, hash_.n_block_columns()).contiguous();
}

}  // namespace skiff::train
