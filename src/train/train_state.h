// What a killed run needs to go on: weights, the optimizer's moments and the step, in one file that is replaced in one piece.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train/optimizer.h"
#include "train/parameters.h"

namespace skiff::train {

inline constexpr const char* state_file_name = "state.safetensors";

struct StateTensors {
    std::vector<std::pair<std::string, at::Tensor>> tensors;  // name, what is saved and restored
};
StateTensors state_tensors(const std::vector<ParameterSet::Trained>& trained, const Optimizer& optimizer);

// `fingerprint` says what the run is; another run does not go on with this one's state. `name`: where each block has a state of its own.
Status save_state(const std::string& folder, const StateTensors& state, std::int64_t step, const std::string& fingerprint, const std::string& name = state_file_name);
// The step to go on after; nothing if there is no state. An error if it belongs to other options or does not fit. `state` may have some of what was saved, or nothing.
Result<std::optional<std::int64_t>> load_state(const std::string& folder, const StateTensors& state, const std::string& fingerprint, const std::string& name = state_file_name);

// The states in a folder, of the whole or of blocks.
std::vector<std::string> state_files(const std::string& folder);

}  // namespace skiff::train
