// Hashed weights in training: the bank is what is trained, the matrix is gathered from it before the forward pass, and each entry of the bank gets the sum of the
// gradients of all weights that it stands for, with their signs (Chen et al. 2015, equation 12).
#pragma once

#include <ATen/ATen.h>

#include "tensor/hashed.h"

namespace skiff::train {

class HashedBank {
public:
    // `columns`: the model declares the weight as (inputs, outputs).
    HashedBank(const BlockHash& hash, bool columns, at::Device device);

    const BlockHash& hash() const { return hash_; }
    // The whole matrix, as the model declares it. // bank: hash().bank_shape() f32
    at::Tensor matrix(const at::Tensor& bank) const;
    // What a gradient of the matrix means for the bank; sums in the order of the rows of blocks. // hash().bank_shape() f32
    at::Tensor gradient(const at::Tensor& of_matrix) const;

private:
    BlockHash hash_;
    bool columns_;
    at::Tensor blocks_, signs_;   // of each block of the matrix: which of the bank's, and 1 or -1 // (n_block_rows * n_block_columns) i64; the same, 1 f32
    at::Tensor users_, user_signs_;  // of each block of the bank: the blocks that it stands for, one row of blocks after the other // (shared, blocks of the bank) i64, f32
};

}  // namespace skiff::train
