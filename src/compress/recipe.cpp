#include "compress/recipe.h"

namespace skiff {
namespace {

Json scheme_json(const std::optional<Scheme>& scheme) { return scheme ? Json(scheme->name()) : Json(); }

// What concerns the method; nothing where it has no choices.
Json method_options_json(const QuantizeStep& step) {
    const MethodOptions& options = step.method_options;
    Json json = Json::object();
    for (const std::string& transform : step.transforms)
        if (transform == "smooth") json.set("smooth_alpha", options.smooth_alpha);
    if (step.method != "gptq" && step.method != "autoround") return json;
    json.set("damping", options.damping);
    if (step.method == "autoround") json.set("iterations", options.n_iterations);
    if (step.method == "gptq") json.set("column_order", options.order == MethodOptions::Order::by_inputs ? "by-inputs" : "as-stored");
    if (step.method == "gptq") json.set("refine_passes", options.refine_passes);
    return json;
}

Json fields_of(const QuantizeStep& step) {
    Json transforms = Json::array();
    for (const std::string& transform : step.transforms) transforms.push_back(transform);
    return Json::object({{"kind", "quantize"},
                         {"method", step.method},
                         {"method_options", method_options_json(step)},
                         {"transforms", std::move(transforms)},
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
