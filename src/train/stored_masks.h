// Weights that pruning left, on their way into training and out of it: what the file's bitmask keeps is the mask of training, and what training leaves is
// written with a bitmask again (docs/formats/sparse.md).
#pragma once

#include <ATen/ATen.h>

#include "tensor/weight.h"

namespace skiff::train {

// How the weights under a mask are written.
struct MaskForm {
    enum class Kind : std::uint8_t {
        written_out,  // zeros and all
        sparse,       // as they came: with a bitmask
        if_smaller,   // with a bitmask where that takes fewer bytes
    } kind = Kind::written_out;
    SparsePattern pattern = {};  // of the bitmask; single weights where the mask does not follow it
};

// What a sparse weight keeps: 1 there, 0 elsewhere. // (n_rows, n_columns) f32
at::Tensor kept_in(const Weight& weight);

// A weight without what the mask is 0 at, stored as `form` says. Error: `sparse`, but the weight's scheme cannot be (sparse_defined_on).
// dense: plain numbers or codes; mask: (n_rows, n_columns) f32 on the CPU
Result<Weight> with_mask(const Weight& dense, const at::Tensor& mask, const MaskForm& form);

}  // namespace skiff::train
