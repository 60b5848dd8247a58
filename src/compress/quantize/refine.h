// Coordinate descent on what a linear operator's output loses, over codes already chosen: each code, and each group's scale, takes its best value while
// all others hold. Works on whatever method chose them, and never makes the loss larger.
#pragma once

#include "compress/quantize/coded_rows.h"
#include "compress/quantize/second_moments.h"

namespace skiff {

struct Refinement {
    const Grid& grid;
    const Scheme& scheme;
    const SecondMoments& moments;
    std::int64_t n_passes = 4;
};
void refine(const Refinement& refinement, RowTile& tile);

// tr((W - Q) H (W - Q)^T) of each row. // (n_rows)
std::vector<double> output_losses(const Grid& grid, const Scheme& scheme, const SecondMoments& moments, RowTile& tile);

}  // namespace skiff
