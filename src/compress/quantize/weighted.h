// Weights of squared errors from what was measured of the inputs: for every method that searches for scales.
#pragma once

#include "compress/quantize/coded_rows.h"

namespace skiff {

// The statistics fit the weight and are finite; an error names what is wrong. `input.inputs` is there.
Status check_statistics(const MethodInput& input);

// E[x^2] of each column, and a thousandth of the mean of all: what the calibration text did not use may yet be used. // (n_columns)
std::vector<float> column_importance(const InputStatistics& inputs);

// importance = columns * sqrt(mean(row^2) + row^2), as llama.cpp's quantizers have it: the weights that are large are kept better, because an
// importance per column knows nothing of how inputs go together. // (n_columns) each
void weigh_by_magnitude(std::span<const float> row, std::span<const float> columns, std::span<float> importance);

}  // namespace skiff
