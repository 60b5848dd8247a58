// First-order Taylor importance of units (Molchanov et al. 2019): how the loss answers to each of them.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "compress/calibrate/gradients.h"
#include "compress/structure/cut_axes.h"

namespace skiff {

class UnitTaylorScores {
public:
    explicit UnitTaylorScores(const std::vector<CutAxis>& axes) : axes_(axes) {}

    std::set<std::string> keys() const;  // whose gradients it asks for
    // Of each unit, the square of the sum of weight times gradient over the columns that read it. That sum is the derivative of the loss by a factor on the unit's
    // values, at 1: the gate of section 3.3 of the paper, and to first order minus what the loss changes by when the unit goes.
    Status add_sample(const SampleGradients& gradients, const WeightSource& weights);
    // Sums over the samples so far. // (n_units)
    const std::vector<double>& of(const std::string& axis) const { return scores_.at(axis); }

private:
    const std::vector<CutAxis>& axes_;
    std::map<std::string, std::vector<double>> scores_;
};

}  // namespace skiff
