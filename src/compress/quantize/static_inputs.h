// Scales of 8-bit inputs that are fixed beforehand (W8A8, static): from what each operator is fed over the calibration text.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "compress/calibrate/activation_ranges.h"
#include "compress/calibrate/block_work.h"

namespace skiff {

// How the 8-bit codes of inputs get their scales. dynamic: each run of 32 of a token by itself, when it is there, and nothing is said of it. by_token: the file says to
// other programs that inputs are to be codes with a scale for each token; here it is as dynamic.
struct InputScaleRule {
    enum class Kind : std::uint8_t { dynamic, fixed, by_token } kind = Kind::dynamic;
    RangeRule range = RangeRule::min_max;
    double percentile = 99.99;
    bool operator==(const InputScaleRule&) const = default;
};

// As --activations names them: "dynamic", "dynamic-token", "static-minmax", "static-percentile", "static-mse". Nothing for another name.
const char* input_rule_name(const InputScaleRule& rule);
std::optional<InputScaleRule> input_rule(std::string_view name, double percentile);

// Codes -127 to 127: the scale with which the range's larger end is 127. An error where nothing was seen, or something that is not finite.
Result<float> input_scale_of(const RangeObserver& observer, const InputScaleRule& rule);

// By key of each weight of the block that reads a value, for those that `wanted` names. Weights that read one value share its scale.
Result<std::map<std::string, float>> measure_input_scales(const ModelSpec& spec, std::size_t block, BlockWork& work, const InputScaleRule& rule, const std::function<bool(const std::string& key)>& wanted);

}  // namespace skiff
