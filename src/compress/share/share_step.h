// Layers that are to use one set of weights, and what that set is; or weights whose blocks are to share those of a bank (tensor/hashed.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "compress/calibrate/calibration_text.h"

namespace skiff {

struct ShareStep {
    // Consecutive layers, each group [first, last]; layers in none keep their own. Empty: n_groups are found.
    std::vector<std::pair<std::int64_t, std::int64_t>> groups;
    std::int64_t n_groups = 0;
    enum class Choice : std::uint8_t {
        measured,  // groups that move the model's predictions least, each measured by itself
        similar,  // groups whose weights lie closest to what stands for them
        even,     // of equal size, as far as that goes
    } choice = Choice::measured;
    enum class Weights : std::uint8_t { average, first } weights = Weights::first;
    CalibrationOptions calibration;  // where groups are measured
    // Instead of layers: rows of blocks that share one of a bank; 0: layers.
    std::int64_t hash = 0;
    std::vector<std::string> hash_tensors;  // patterns (base/glob.h) of keys, with or without ".weight" behind; none: all linear weights of the decoder blocks
    std::uint64_t hash_seed = 0;
};

Json share_step_json(const ShareStep& step);

}  // namespace skiff
