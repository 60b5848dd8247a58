// Which layers go, one row for each way to judge them.
#pragma once

#include <set>
#include <span>
#include <string_view>

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
};

struct LayerImportance {
    std::string_view name, summary;
    Result<LayerChoice> (*choose)(const LayerData& data);
};

std::span<const LayerImportance> layer_importances();
Result<const LayerImportance*> find_layer_importance(std::string_view name);  // a usage error lists the names

}  // namespace skiff
