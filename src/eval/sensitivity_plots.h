// What was measured of each layer before a model was made smaller, drawn: it stands in the manifest, under "found" of the steps (docs/formats/manifest.md).
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "measure/line_plot.h"

namespace skiff {

struct SensitivityPlot {
    LinePlot plot;
    std::string caption;
};
// Of all steps from the original on; a plot for each kind of figure of each step.
std::vector<SensitivityPlot> sensitivity_plots(const Json& manifest, const std::string& model_name);

}  // namespace skiff
