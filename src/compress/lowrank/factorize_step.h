// Weights as products of two thin matrices, or with one added to what quantization left of them.
#pragma once

#include <cstdint>
#include <string>

#include "base/json.h"
#include "base/result.h"
#include "compress/calibrate/calibration_text.h"

namespace skiff {

struct FactorizeStep {
    std::string method = "svd-llm";  // a row of factor.h, "correction", or "sparse-low-rank:PATTERN"
    // How the rank of each weight is found. Only what is smaller than the weight as it was becomes factors.
    enum class Rule : std::uint8_t {
        rank,    // amount: the rank itself
        share,   // amount: of the full rank, 0 to 1
        remove,  // amount: of each weight's numbers, what goes
        energy,  // amount: of the squared singular values, what stays
        budget,  // amount: of the numbers of all these weights together, what goes; ranks where they lose least
    } rule = Rule::remove;
    double amount = 0.25;
    std::int64_t multiple_of = 16;  // of ranks
    std::string original;           // method "correction": the model that the parent was quantized from
    CalibrationOptions calibration;
};

const char* rank_rule_name(FactorizeStep::Rule rule);  // "energy"
Json factorize_step_json(const FactorizeStep& step);

}  // namespace skiff
