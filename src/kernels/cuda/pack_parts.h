// What packing for the GPU makes of one source: the form it gets, its codes and its parameters row by row.
#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/lane.h"
#include "kernels/cuda/pack.h"

namespace skiff::cuda {

enum class RowScales : std::uint8_t { no, yes };

struct GpuSource {
    std::shared_ptr<const Weight> owned;  // where the weight had to be rewritten (blocks as codes, sparse ones with their zeros)
    const Weight* weight = nullptr;
    RowMap rows;
    GpuWeight shape;                      // without rows, units and addresses
    RowScales row_scales = RowScales::no;
    std::vector<std::uint32_t> table;     // shared levels
    bool two_of_four = false;             // `weight` is a sparse one written out, of which at most two of every four columns are kept
};

GpuSource gpu_source(const RowSource& source);
bool merges(const GpuSource& a, const GpuSource& b);
// The byte of a code in padding: one that means zero where there is one. Scales of padding are zero anyway.
std::uint8_t zero_code_of(const GpuWeight& shape);
// Codes of a stored row as the form wants them. // codes: (n_columns) u8
void row_codes(const GpuSource& source, std::int64_t row, std::uint8_t* codes);
// Scales, offsets, levels of a stored row, which is row `i` of a tile. The view's addresses are those of the blob, to be written.
void pack_row_params(const GpuSource& source, std::int64_t row, const GpuWeight& view, std::int64_t tile, int i);

}  // namespace skiff::cuda
