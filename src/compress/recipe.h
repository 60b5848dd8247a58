// What is to be done to a model: a list of steps, which is data. The manifest of the result holds it, and a resumed run must agree with it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/json.h"
#include "compress/calibrate/calibration_text.h"
#include "compress/lowrank/factorize_step.h"
#include "compress/method_options.h"
#include "compress/quantize/corrections.h"
#include "compress/quantize/rotation.h"
#include "compress/quantize/static_inputs.h"
#include "compress/share/share_step.h"
#include "compress/structure/structure_step.h"
#include "model/scheme_choice.h"
#include "tensor/prune_target.h"

namespace skiff {

// Schemes that are to be found by measurement: those with which all weights take so many bytes and the model loses least (search/mixed_precision.h).
struct SchemeTarget {
    std::uint64_t file_bytes = 0;  // of the weight files, headers included; 0: bits_per_weight counts
    double bits_per_weight = 0;    // of all tensors together, tables, norms and scales included
    std::vector<std::string> ladder;  // names of the schemes to choose from; empty: default_ladder()
    // What shares a scheme: operators that read one value (q|k|v, gate|up), which others keep in one matrix; or nothing.
    enum class Unit : std::uint8_t { shared_input, tensor } unit = Unit::shared_input;
    // What each unit costs: the divergence that each scheme brings; or that of one scheme, and for the others by the error of the unit's outputs.
    enum class Measure : std::uint8_t { automatic, every_scheme, one_scheme } measure = Measure::automatic;
    std::int64_t n_tokens = 8192;  // of the calibration text, for each measurement
    int n_refinements = 2;         // times that the costs are measured anew around the assignment
    bool operator==(const SchemeTarget&) const = default;
};
std::vector<std::string> default_ladder();         // smallest first
std::vector<std::string> default_public_ladder();  // of forms that other programs load

// Rounds weights to schemes by a method of the table (method.h).
inline constexpr const char* importance_by_gradients = "gradients";

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
    double outliers = 0;  // share of every row's weights, the largest, that stand beside the codes in 16 bits
    // Instead of what the inputs of the calibration text are like: a file of llama.cpp that says so; or importance_by_gradients, the loss's squared gradients by each weight; "": none
    std::string importance;
    RoundingCorrections corrections;
    InputScaleRule inputs;   // of weights of 8 bits
    std::vector<std::string> transforms;  // of blocks before their weights are rounded (quantize/block_transform.h), in this order
    std::optional<SchemeTarget> target;  // rules for what no rule says yet are found before the step begins
    Json found;                          // by whom and how: the table of what was measured; null before
};

// Whether AutoRound learns the matrices of a block together. Not where outliers stand aside: what is left of a weight is then learnt by itself.
bool learns_by_block(const QuantizeStep& step);

// Folds rotations into the weights (quantize/rotation.h).
struct RotateStep {
    RotationOptions options;
};

// Drops weights by a method of the table (prune/prune_method.h) and stores the rest sparse.
struct PruneStep {
    std::string method = "magnitude";
    PruneTarget target;
    // How much each layer loses: all the same; what lies below one magnitude; less where outliers are many (OWL), or where losing was measured to hurt.
    enum class Allocation : std::uint8_t { uniform, global, owl, sensitivity } allocation = Allocation::uniform;
    std::optional<Scheme> scheme;  // what stays is rounded to it, and tables as quantize does; nothing: all keep their types
    double damping = 0.01;
    CalibrationOptions calibration;
    RoundingCorrections corrections;  // scale and bias
};

const char* allocation_name(PruneStep::Allocation allocation);  // "owl"

using RecipeStep = std::variant<QuantizeStep, RotateStep, PruneStep, StructureStep, FactorizeStep, ShareStep>;

struct Recipe {
    std::vector<RecipeStep> steps;
    std::uint64_t seed = 0;
};

Json step_json(const RecipeStep& step);  // {"kind": "quantize", "method": "nearest", ...}

}  // namespace skiff
