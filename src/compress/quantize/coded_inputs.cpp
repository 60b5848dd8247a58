#include "compress/quantize/coded_inputs.h"

#include "compress/calibrate/walk.h"

namespace skiff {

std::set<std::string> operator_weights(const ModelSpec& spec) {
    std::set<std::string> keys;
    for (std::size_t block = 1; block + 1 < spec.blocks.size(); ++block)
        for (const auto& [key, id] : linear_inputs(spec.blocks[block])) keys.insert(key);
    return keys;
}

bool can_code_inputs(const PlannedTensor& planned) {
    return !planned.sparse && !planned.hash && planned.use == TensorUse::linear && planned.scheme && can_fix_inputs(*planned.scheme) && !planned.turn_source() &&
           planned.key.ends_with(".weight");  // not the factors of a weight, which are read by other names
}

void plan_coded_inputs(PlannedTensor& planned, InputScaleRule::Kind kind, TensorPlan& plan) {
    const std::string module = module_of_key(planned.key);
    const bool fixed = kind == InputScaleRule::Kind::fixed;
    planned.declarations = fixed ? fixed_input_declarations(module, *planned.scheme, planned.shape) : token_input_declarations(module, *planned.scheme, planned.shape);
    std::uint64_t bytes = 0;
    for (const TensorDeclaration& part : planned.declarations) bytes += static_cast<std::uint64_t>(element_count(part.shape) * dtype_info(part.dtype).bits / 8);
    plan.bytes_after += bytes - planned.bytes_after;
    planned.bytes_after = bytes;
    planned.form = planned.scheme->name() + (fixed ? " x i8 fixed" : " x i8 by token");
    planned.inputs = fixed ? QuantizedModule::Inputs::fixed : QuantizedModule::Inputs::by_token;
}

Error no_coded_inputs(InputScaleRule::Kind kind, const TensorPlan& plan) {
    const char* what = kind == InputScaleRule::Kind::fixed ? "static-...: fixed scales" : "dynamic-token: inputs as codes";
    for (const PlannedTensor& planned : plan.tensors) {
        if (planned.use != TensorUse::linear || !planned.scheme || !can_fix_inputs(*planned.scheme)) continue;
        if (planned.turn_source())
            return usage_error(std::string("--activations ") + what + " are for weights stored as rows, and this model stores them as (inputs, outputs), of which the file cannot say it; leave --activations out");
        if (!planned.key.ends_with(".weight")) return usage_error(std::string("--activations ") + what + " are for whole weights, and those of this model are factored (" + planned.key + "); leave --activations out");
    }
    return usage_error(std::string("--activations ") + what + " are for symmetric integers of 8 bits, such as --scheme w8, and no weight of an operator becomes that");
}

std::string pruned_words(const PlannedTensor& planned) { return planned.parent_is_plain ? "has its zeros left out" : "is pruned (" + planned.from + ")"; }

Error coded_inputs_of_pruned(const PlannedTensor& planned) { return unsupported(pruned_words(planned) + ": inputs as codes are for dense codes; leave --activations out"); }

std::vector<StoredTensor> coded_input_tensors(const PlannedTensor& planned, const Weight& codes, float input_scale) {
    const std::string module = module_of_key(planned.key);
    return planned.inputs == QuantizedModule::Inputs::fixed ? fixed_input_tensors(module, codes, input_scale) : token_input_tensors(module, codes);
}

}  // namespace skiff
