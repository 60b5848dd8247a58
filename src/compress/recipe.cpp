#include "compress/recipe.h"

namespace skiff {

bool learns_by_block(const QuantizeStep& step) { return step.method == "autoround" && step.method_options.learning == MethodOptions::Learning::by_block && step.outliers == 0; }

namespace {

Json scheme_json(const std::optional<Scheme>& scheme) { return scheme ? Json(scheme->name()) : Json(); }

// What concerns the method; nothing where it has no choices.
Json method_options_json(const QuantizeStep& step) {
    const MethodOptions& options = step.method_options;
    Json json = Json::object();
    for (const std::string& transform : step.transforms) {
        if (transform == "smooth") json.set("smooth_alpha", options.smooth_alpha);
        else if (transform == "awq") json.set("clip", options.clip == MethodOptions::Clip::search ? "search" : "none");
    }
    if (step.method != "gptq" && step.method != "autoround") return json;
    json.set("damping", options.damping);
    if (step.method == "autoround") {
        json.set("iterations", options.n_iterations);
        json.set("learn_by", learns_by_block(step) ? "block" : "operator");
    }
    if (step.method == "gptq") json.set("column_order", options.order == MethodOptions::Order::by_groups ? "by-groups" : options.order == MethodOptions::Order::by_inputs ? "by-inputs" : "as-stored");
    if (step.method == "gptq") json.set("refine_passes", options.refine_passes);
    return json;
}

Json target_json(const SchemeTarget& target) {
    static constexpr const char* measures[] = {"automatic", "every scheme", "one scheme"};
    Json json = target.file_bytes > 0 ? Json::object({{"file_bytes", target.file_bytes}}) : Json::object({{"bits_per_weight", target.bits_per_weight}});
    Json::Array ladder;
    for (const std::string& name : target.ladder) ladder.emplace_back(name);
    json.set("ladder", std::move(ladder));
    json.set("unit", target.unit == SchemeTarget::Unit::tensor ? "tensor" : "shared input");
    json.set("measure", measures[static_cast<int>(target.measure)]);
    json.set("tokens", target.n_tokens);
    json.set("refinements", target.n_refinements);
    return json;
}

Json fields_of(const QuantizeStep& step) {
    Json transforms = Json::array();
    for (const std::string& transform : step.transforms) transforms.push_back(transform);
    Json json = Json::object({{"kind", "quantize"},
                              {"method", step.method},
                              {"outliers", step.outliers},
                              {"method_options", method_options_json(step)},
                              {"transforms", std::move(transforms)},
                              {"scheme", step.schemes.linear.name()},
                              {"head", scheme_json(step.schemes.head)},
                              {"embedding", scheme_json(step.schemes.embedding)},
                              {"scale_rule", step.scale_rule == ScaleRule::search ? "search" : "min-max"},
                              {"compat", step.loadable == QuantizeStep::Loadable::elsewhere},
                              {"requantize", step.quantized == QuantizeStep::Quantized::requantize}});
    if (step.corrections.any()) json.set("correct", step.corrections.names());
    if (step.inputs.kind != InputScaleRule::Kind::dynamic) json.set("activations", input_rule_name(step.inputs));
    if (step.inputs.kind == InputScaleRule::Kind::fixed && step.inputs.range == RangeRule::percentile) json.set("percentile", step.inputs.percentile);
    if (step.target) json.set("target", target_json(*step.target));
    if (!step.schemes.rules.empty()) {
        Json::Array rules;
        for (const SchemeRule& rule : step.schemes.rules) rules.push_back(Json::object({{"pattern", rule.pattern}, {"scheme", scheme_json(rule.scheme)}}));
        json.set("scheme_for", std::move(rules));
    }
    if (!step.found.is_null()) json.set("found", step.found);
    return json;
}

Json fields_of(const RotateStep& step) {
    const RotationOptions::What what = step.options.what;
    return Json::object({{"kind", "rotate"}, {"what", what == RotationOptions::What::all ? "all" : what == RotationOptions::What::heads ? "heads" : "residual"}, {"rotation_seed", step.options.seed}});
}

Json fields_of(const PruneStep& step) {
    Json json = Json::object({{"kind", "prune"},
                              {"method", step.method},
                              {"pattern", step.target.name()},
                              {"scope", step.target.scope == PruneTarget::Scope::layer ? "layer" : "row"},
                              {"allocation", allocation_name(step.allocation)},
                              {"scheme", scheme_json(step.scheme)}});
    if (step.method == "sparsegpt") json.set("damping", step.damping);
    if (step.corrections.any()) json.set("correct", step.corrections.names());
    return json;
}

Json fields_of(const StructureStep& step) { return structure_step_json(step); }
Json fields_of(const FactorizeStep& step) { return factorize_step_json(step); }
Json fields_of(const ShareStep& step) { return share_step_json(step); }

}  // namespace

// Of each number of bits the scheme that loses least per byte. A better preset of some size belongs here.
std::vector<std::string> default_ladder() { return {"n2g16t", "n3g16t", "n4g16t", "w5g32r", "w6g32r", "w8"}; }

std::vector<std::string> default_public_ladder() { return {"w4g128", "w4g32", "w8g32"}; }

const char* allocation_name(PruneStep::Allocation allocation) {
    static constexpr const char* names[] = {"uniform", "global", "owl", "sensitivity"};
    return names[static_cast<int>(allocation)];
}

Json step_json(const RecipeStep& step) {
    return std::visit([](const auto& fields) { return fields_of(fields); }, step);
}

}  // namespace skiff
