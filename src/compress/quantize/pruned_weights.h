// What pruning left of a weight, while it is rounded: which units are kept stays as it is, and codes stand for the kept values alone. Methods that move
// weights let zeros be (RowTile::zeros); with GPTQ this is the joint step of SparseGPT (Frantar, Alistarh 2023, section 3.5) for a mask that is given.
#pragma once

#include <optional>

#include "base/thread_pool.h"
#include "tensor/weight.h"

namespace skiff {

// How the zeros of a matrix of plain numbers are stored where its codes take markedly fewer bytes without them: 2:4, blocks of 16 x 32 or single weights.
// Nothing: they are written out as codes. // rows: (outputs, inputs)
std::optional<SparsePattern> pattern_of_zeros(const Weight& rows, const Scheme& scheme);

// The bitmask of a sparse weight, or of the units of a plain one that hold more than zeros. // as Sparse has it
std::vector<std::byte> kept_units(const Weight& rows, const SparsePattern& pattern);
std::int64_t n_kept_values(const std::vector<std::byte>& bitmask, const SparsePattern& pattern);

// `now`, the weight that a sparse one has become by scaling rows and columns, with the units that are kept; itself where it is sparse already.
Result<Weight> with_kept_units(const Weight& now, const SparsePattern& pattern, const std::vector<std::byte>& bitmask, ThreadPool& pool);

}  // namespace skiff
