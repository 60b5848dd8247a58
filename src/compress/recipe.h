// What is to be done to a model: a list of steps, which is data. The manifest of the result holds it, and a resumed run must agree with it.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/json.h"
#include "compress/calibrate/calibration_text.h"
#include "compress/method_options.h"
#include "model/scheme_choice.h"

namespace skiff {

// Rounds weights to schemes by a method of the table (method.h).
struct QuantizeStep {
    std::string method = "nearest";
    SchemeWish schemes;
    ScaleRule scale_rule = ScaleRule::search;
    // Only what other programs that read compressed-tensors can load: plain 16 bit tables, no short groups, scales in the type they compute with.
    enum class Loadable : std::uint8_t { here, elsewhere } loadable = Loadable::here;
    // What to do with weights that are quantized already: refuse, or dequantize and round them again, which loses twice.
    enum class Quantized : std::uint8_t { refuse, requantize } quantized = Quantized::refuse;
    CalibrationOptions calibration;  // for methods that look at the data
    MethodOptions method_options;
    std::vector<std::string> transforms;  // of blocks before their weights are rounded (quantize/block_transform.h), in this order
};

using RecipeStep = std::variant<QuantizeStep>;

struct Recipe {
    std::vector<RecipeStep> steps;
    std::uint64_t seed = 0;
};

Json step_json(const RecipeStep& step);  // {"kind": "quantize", "method": "nearest", ...}

}  // namespace skiff
