// Options about the calibration text are refused where nothing looks at one, and not ignored.
#pragma once

#include <span>
#include <string>

#include "compress/recipe.h"

namespace skiff {

// Of a step that reads no text: an error for the first of the options that were given ("--calibration"), with what would read one.
Status refuse_text_options(const RecipeStep& step, std::span<const std::string> given);

}  // namespace skiff
