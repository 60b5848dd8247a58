// For what is done to plain weights while they are loaded: weights that are not plain are refused, and not passed over.
#pragma once

#include <memory>
#include <string>

#include "model/spec.h"
#include "model/weight_source.h"

namespace skiff {

// The weights of `source`. Loading one of a linear operator that is quantized or pruned is an error that names `option`.
std::shared_ptr<WeightSource> plain_linear_only(const ModelSpec& spec, std::shared_ptr<WeightSource> source, std::string option);

}  // namespace skiff
