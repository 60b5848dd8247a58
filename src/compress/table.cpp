#include "compress/method.h"

namespace skiff {
namespace {

constexpr WeightMethod methods[] = {
    {"nearest", "each weight to the nearest value of its group's grid; needs no data", nearest_defined_on, nearest_encode},
    {"weighted", "scales that lose least where the inputs of the calibration text are large", codes_defined_on, weighted_encode, StatisticsNeed::moments},
    {"hqq", "half-quadratic: scales that let few weights be far off rather than many a little; needs no data", codes_defined_on, hqq_encode},
    {"kmeans", "clusters and vectors: the levels that lose least where the inputs of the calibration text are large (clusters: exactly)", kmeans_defined_on, kmeans_encode, StatisticsNeed::moments},
    {"gptq", "each column makes up for the errors of those before it, then codes and scales are refined together", gptq_defined_on, gptq_encode, StatisticsNeed::gram},
    {"autoround", "learnt rounding: offsets and scales follow the sign of the gradient of the output's error; slow", autoround_defined_on, autoround_encode, StatisticsNeed::gram},
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
