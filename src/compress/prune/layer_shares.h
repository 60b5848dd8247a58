// What share of each matrix goes, where blocks lose what the data say: found before the work, from the model as it is.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "compress/calibrate/calibration_text.h"
#include "compress/prune/prune_method.h"
#include "compress/recipe.h"
#include "model/checkpoint.h"

namespace skiff {

struct PrunedMatrix {
    std::string key;
    std::int64_t n_rows = 0, n_columns = 0;  // outputs, inputs
    bool stored_as_columns = false;
};

struct LayerShares {
    std::vector<double> sparsities;  // of each matrix
    Json found;                      // for the manifest: what was measured, and the share of each block
    std::vector<std::string> remarks = {};
};

struct ShareQuestion {
    const Checkpoint& parent;
    const PruneStep& step;
    const std::vector<PrunedMatrix>& matrices;
    const CalibrationText& text;  // empty where nothing is measured
    StatisticsNeed needs;  // of try_pruning
    // The matrix as its method would leave it at a share, in the checkpoint's shape.
    std::function<Result<Weight>(const PrunedMatrix& matrix, double share, const InputStatistics* inputs)> try_pruning;
    // The mean scores of its units. // (n_unit_rows, n_unit_columns)
    std::function<Result<std::vector<float>>(const PrunedMatrix& matrix, const InputStatistics* inputs)> unit_scores;
    ThreadPool& pool;
};

// What each block loses, for people: "blocks lose 52, 51, 67 %".
std::string lost_by_blocks(const ModelSpec& spec, const std::vector<PrunedMatrix>& matrices, const std::vector<double>& sparsities);

// Blocks whose weights times the size of their inputs have many outliers lose less (allocate.h: owl_sparsities). A walk through the model.
Result<LayerShares> shares_by_outliers(const ShareQuestion& question);
// Of all units the least by the method's score go (allocate.h: global_sparsities). `text` is not read where the method needs no inputs.
Result<LayerShares> shares_by_score(const ShareQuestion& question);
// Each block is pruned alone, at five shares around the one that is asked for, and the KL of the model's predictions measured; then blocks lose what makes the
// least sum.
Result<LayerShares> shares_by_sensitivity(const ShareQuestion& question);

}  // namespace skiff
