// The parts of a model that get a scheme each.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "compress/recipe.h"
#include "model/spec.h"

namespace skiff {

struct SchemeUnit {
    std::string name;               // "block0: q_proj + k_proj + v_proj"
    std::vector<std::string> keys;  // of linear weights and tables
    std::size_t block = 0;          // of the spec, the first that reads one of them
};

// All linear weights, the embedding and the head, in the order in which the model reads them. Operators that read one value are one unit; experts of one
// kind and block too, since there are too many of them to ask each. A tensor that several blocks read belongs to the first.
std::vector<SchemeUnit> scheme_units(const ModelSpec& spec, SchemeTarget::Unit unit);

}  // namespace skiff
