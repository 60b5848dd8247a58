// For builds without yaml-cpp, as for other processors: recipes are refused.
#include "cli/recipe_file.h"

namespace skiff {

std::span<const StepVerb> step_verbs() { return {}; }

Result<std::vector<RecipeLine>> parse_recipe(const std::string&, const std::string& name) {
    return unsupported(name + ": this program was built without yaml-cpp, which recipes are read with; install libyaml-cpp-dev and build again, or run the steps by hand");
}

Result<std::vector<RecipeLine>> read_recipe(const std::string& path) { return parse_recipe({}, path); }

}  // namespace skiff
