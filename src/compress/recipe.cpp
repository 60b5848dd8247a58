#include "compress/recipe.h"

namespace skiff {
namespace {

Json scheme_json(const std::optional<Scheme>& scheme) { return scheme ? Json(scheme->name()) : Json(); }

Json fields_of(const QuantizeStep& step) {
    return Json::object({{"kind", "quantize"},
                         {"method", step.method},
                         {"scheme", step.schemes.linear.name()},
                         {"head", scheme_json(step.schemes.head)},
                         {"embedding", scheme_json(step.schemes.embedding)},
                         {"scale_rule", step.scale_rule == ScaleRule::search ? "search" : "min-max"},
                         {"compat", step.loadable == QuantizeStep::Loadable::elsewhere},
                         {"requantize", step.quantized == QuantizeStep::Quantized::requantize}});
}

}  // namespace

Json step_json(const RecipeStep& step) {
    return std::visit([](const auto& fields) { return fields_of(fields); }, step);
}

}  // namespace skiff
