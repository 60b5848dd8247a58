// A recipe: a YAML file that lists verbs with their options, in the order in which they are to be done to a model.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace skiff {

// What a verb does when it stands in a recipe.
enum class StepRole : std::uint8_t {
    makes,    // a new model out of the one before: the runner gives -o
    exports,  // another file of the model: the recipe gives the output. `convert` to plain numbers without one makes the model of the next step
    looks,    // measures the model and leaves it as it is
};

struct RecipeLine {
    std::string verb;
    StepRole role = StepRole::makes;
    int line = 0;                         // of the file, from 1
    std::vector<std::string> arguments;   // "--scheme", "w4g32": what stands behind MODEL on a command line
};

// Every verb, option, type and choice is checked before anything runs; errors name the file and the line.
//     steps:
//       - quantize: {scheme: n3g32r, method: gptq, calibration: calib.txt}
//       - eval: {against: $parent, max-windows: 64}
// $parent stands for the model that the recipe began with.
Result<std::vector<RecipeLine>> read_recipe(const std::string& path);
Result<std::vector<RecipeLine>> parse_recipe(const std::string& yaml, const std::string& name);

struct StepVerb {
    std::string_view verb;
    StepRole role;
};
std::span<const StepVerb> step_verbs();

}  // namespace skiff
