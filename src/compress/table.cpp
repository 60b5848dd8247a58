#include "compress/method.h"

namespace skiff {
namespace {

constexpr WeightMethod methods[] = {
    {"nearest", "each weight to the nearest value of its group's grid; needs no data", nearest_defined_on, nearest_encode},
};

}  // namespace

std::span<const WeightMethod> weight_methods() { return methods; }

Result<const WeightMethod*> find_weight_method(std::string_view name) {
    std::string known;
    for (const WeightMethod& method : methods) {
        if (method.name == name) return &method;
        known += (known.empty() ? "" : ", ") + std::string(method.name);
    }
    return usage_error("no method is called \"" + std::string(name.substr(0, 64)) + "\"; there are: " + known);
}

}  // namespace skiff
