// Training runs beside each other: the validation loss along the tokens, one curve for the runs that differ in their seed alone.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "measure/line_plot.h"

namespace skiff {

struct TrainingCurve {
    std::string name;
    std::size_t n_runs = 0;
    std::vector<double> tokens;                   // trained on, at each measurement; the same for all runs
    std::vector<double> mean, lowest, highest;    // validation loss over the runs, in nats a token; as long as `tokens`
};

// From the validation.csv (step,tokens,loss) of each folder that `skiff train`, distill, qat or recover wrote. Measurements that not all
// of the runs have are left out; an error where none is left.
Result<TrainingCurve> read_training_curve(const std::string& name, const std::vector<std::string>& folders);

// The means as lines, lowest and highest as pale ones.
LinePlot training_curves_plot(const std::string& title, const std::vector<TrainingCurve>& curves);

// A Markdown table: the last measurement of each curve, mean and range, and after how many tokens it was below the last one of the worst.
std::string training_curves_table(const std::vector<TrainingCurve>& curves);

}  // namespace skiff
