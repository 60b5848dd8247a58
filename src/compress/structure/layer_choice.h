// Which layers go, one row for each way to judge them.
#pragma once

#include <set>
#include <span>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/progress.h"
#include "compress/calibrate/calibration_text.h"
#include "model/checkpoint.h"

namespace skiff {

struct LayerData {
    const Checkpoint& model;
    const CalibrationText& text;
    std::int64_t n_drop = 0;
    int n_threads = 1;
    const ProgressSink& progress;
};

struct LayerChoice {
    std::set<std::int64_t> dropped;  // numbered from 0
    Json found;                      // the figures that it rests on, for the manifest
    std::vector<std::string> remarks = {};
};

struct LayerImportance {
    std::string_view name, summary;
    Result<LayerChoice> (*choose)(const LayerData& data);
    enum class Reads : std::uint8_t { text, nothing } reads = Reads::text;  // nothing: `text` of the data is empty
};

// All layers in the order in which elastic training leaves them out, so that its sub-networks nest: each time the one that leaves the shortest longest run of
// neighbouring layers out; of such ones the farthest from those that are out already; of these the nearest to the middle, and of two the later. The first and
// the last layer go after all others, the last one at the very end. 6 layers: 3, 1, 4, 2, 0, 5.
std::vector<std::int64_t> elastic_layer_order(std::int64_t n_layers);

std::span<const LayerImportance> layer_importances();
Result<const LayerImportance*> find_layer_importance(std::string_view name);  // a usage error lists the names

}  // namespace skiff
