// skiff prune: what matters least goes. Single weights and blocks, stored so that what stays is smaller and faster; or whole neurons, heads and layers, which
// leaves an ordinary smaller model.
#include "cli/make_child.h"
#include "cli/net_child.h"
#include "cli/train_options.h"
#include "cli/verbs.h"
#include "compress/prune/prune_method.h"
#include "compress/structure/layer_choice.h"
#include "compress/structure/unit_importance.h"

namespace skiff {
namespace {

// Options of one of the two kinds are empty until they are given, so that one which does not concern the pattern is refused and not ignored.
struct PruneOptions {
    ChildOptions common;
    std::string pattern = "50%", method, scope, allocation, scheme;
    std::string importance, compensation, spread, layers;
    std::int64_t multiple = 0;
    double damping = 0.01, zero_epsilon = StructureStep().zero_epsilon;
    std::vector<std::string> correct;
    bool sort = false;

    void fields(FieldVisitor& visitor) {
        method_help_ = "Which weights stay; default: magnitude.";
        for (const PruneMethod& row : prune_methods()) method_help_ += " " + std::string(row.name) + ": " + std::string(row.summary) + ".";
        importance_help_ = "How units are judged; default: obs, and kl for layers.";
        for (const UnitImportance& row : unit_importances()) importance_help_ += " " + std::string(row.name) + ": " + std::string(row.summary) + ".";
        for (const LayerImportance& row : layer_importances()) importance_help_ += " " + std::string(row.name) + " (layers): " + std::string(row.summary) + ".";
        common.model_and_output(visitor);
        visitor.option("--pattern", pattern,
                       "What goes. Of the weights: 50% (single ones), 2:4 (2 of every 4 inputs stay), block16x32:50% (blocks of outputs x inputs; these save the most time), 4x1:50%, 1xchannel:50% (outputs), channelx1:50% (inputs). "
                       "Of the structure, in each layer: neurons:25%, heads:2 (of each KV group), kv_groups:1 (with their query heads); or layers:2, layers:25%; or hidden:10% of the hidden state. Of a network of convolutions: filters:25%, channels:25%, taps:5 (positions of each kernel that stay)");
        visitor.option("--method", method, method_help_.c_str());
        visitor.option("--scope", scope, "Weights: row or layer: where they compete, in their row (the default), so that all rows keep as many, or in the whole matrix");
        visitor.option("--allocation", allocation,
                       "Weights: how much each layer loses: uniform (the default), all the same; global, by one threshold of the method's scores for the whole model; owl, less where many weights times the size of their inputs stand out; sensitivity, less where it was measured to hurt");
        visitor.option("--scheme", scheme, "Weights: also round what stays, as quantize does: w8g32, w4g32r ...; default: the type that it has");
        visitor.option("--importance", importance, importance_help_.c_str());
        visitor.option("--compensation", compensation, "Structure: least-squares (the default): what stays of the operator that reads the units is solved anew, so that its output changes least; none (with --importance leading the default): it stays as it is");
        visitor.option("--spread", spread, "Structure: uniform (the default), equally much of every layer; sensitivity: less where its removal was measured to hurt; then layers differ, which few other programs load");
        visitor.flag("--sort", sort, "Structure, with nothing removed (neurons:0%): the units of each layer change places, the most important first, and the model computes what it did; before elastic training");
        visitor.option("--multiple", multiple, "Structure: widths of feed-forwards and of the hidden state stay a multiple of this, where they are one; 0: of 32");
        visitor.option("--damping", damping, "Added to the diagonal of the inputs' second moments, as a share of its mean");
        visitor.option("--zero-epsilon", zero_epsilon, "Structure, --importance apoz: values up to this share of their layer's root mean square count as zero, for activations that never are (SiLU, GELU)");
        visitor.option("--correct", correct, "Weights: scale: the rows of each weight are multiplied so that its outputs keep their size over the calibration text; bias: the mean of what the outputs lose goes into the bias, where the format of the architecture has one; both with a comma; none. Left out: scale with sparsegpt, else none");
        visitor.option("--layers", layers, layers_help);
        common.calibration_fields(visitor);
        common.device_field(visitor);
        common.run_fields(visitor);
    }
    std::string method_help_, importance_help_;
};

// `value`, or the first of `choices` where nothing was given.
Result<std::string> choice_of(const char* flag, const std::string& value, std::initializer_list<const char*> choices) {
    if (value.empty()) return std::string(*choices.begin());
    std::string known;
    for (const char* choice : choices) {
        if (value == choice) return value;
        known += (known.empty() ? "" : ", ") + std::string(choice);
    }
    return usage_error(std::string(flag) + " " + value + ": expected one of " + known);
}

Status refuse(const PruneOptions& options, std::initializer_list<std::pair<const char*, bool>> given) {
    for (const auto& [flag, is_given] : given)
        if (is_given) {
            const std::string_view name = flag;
            const char* instead = name == "--method" ? "; give --importance, by which units are judged" : name == "--importance" ? "; give --method, by which weights are judged" : "";
            return usage_error(std::string(flag) + " does not concern the pattern " + options.pattern + instead);
        }
    return {};
}

Result<RecipeStep> structure_step_of(const PruneOptions& options) {
    SKIFF_CHECK(refuse(options, {{"--method", !options.method.empty()}, {"--scope", !options.scope.empty()}, {"--allocation", !options.allocation.empty()}, {"--scheme", !options.scheme.empty()}, {"--correct", !options.correct.empty()}}));
    SKIFF_TRY(auto step, parse_structure_pattern(options.pattern));
    const bool layers = step.units == UnitKind::layers, hidden = step.units == UnitKind::hidden;
    if (layers || hidden) SKIFF_CHECK(refuse(options, {{"--compensation", !options.compensation.empty()}, {"--spread", !options.spread.empty()}, {"--sort", options.sort}}));
    if (layers) SKIFF_CHECK(refuse(options, {{"--multiple", options.multiple != 0}, {"--damping", options.common.is_typed("--damping")}}));
    if (options.sort && (!options.compensation.empty() || !options.spread.empty())) return usage_error("--sort takes no unit away; leave --compensation and --spread out");
    if (hidden) SKIFF_CHECK(refuse(options, {{"--importance", !options.importance.empty()}}));
    step.importance = !options.importance.empty() ? options.importance : layers ? "kl" : hidden ? "directions" : "obs";
    if (layers) SKIFF_CHECK(find_layer_importance(step.importance));
    else if (!hidden) SKIFF_CHECK(find_unit_importance(step.importance));
    if (step.importance != "apoz" && options.common.is_typed("--zero-epsilon")) return usage_error("--zero-epsilon: " + step.importance + " counts no zeros; --importance apoz does");
    if (!(options.zero_epsilon >= 0 && options.zero_epsilon <= 10)) return usage_error("--zero-epsilon " + std::to_string(options.zero_epsilon) + ": expected 0 to 10");
    step.zero_epsilon = options.zero_epsilon;
    const bool as_it_is = options.sort || (options.compensation.empty() && step.importance == "leading");
    SKIFF_TRY(const auto compensation, choice_of("--compensation", as_it_is ? "none" : options.compensation, {"least-squares", "none"}));
    SKIFF_TRY(const auto spread, choice_of("--spread", options.spread, {"uniform", "sensitivity"}));
    step.compensation = compensation == "none" || layers || hidden ? StructureStep::Compensation::none : StructureStep::Compensation::least_squares;
    if (!layers && !hidden && compensation == "none" && step.importance != "obs" && options.common.is_typed("--damping")) return usage_error("--damping: nothing is solved for with --compensation none and --importance " + step.importance);
    step.spread = spread == "uniform" ? StructureStep::Spread::uniform : StructureStep::Spread::sensitivity;
    step.order = options.sort ? StructureStep::Order::by_importance : StructureStep::Order::kept;
    if (options.multiple > 0) step.multiple_of = options.multiple;
    step.damping = options.damping;
    step.calibration = options.common.calibration_options();
    return RecipeStep(step);
}

Result<RecipeStep> weight_step_of(const PruneOptions& options) {
    SKIFF_CHECK(refuse(options, {{"--importance", !options.importance.empty()}, {"--compensation", !options.compensation.empty()}, {"--spread", !options.spread.empty()}, {"--multiple", options.multiple != 0}, {"--sort", options.sort}, {"--zero-epsilon", options.common.is_typed("--zero-epsilon")}}));
    PruneStep step;
    if (!options.method.empty()) step.method = options.method;
    SKIFF_TRY(const PruneMethod* method, find_prune_method(step.method));
    if (options.common.is_typed("--damping") && method->needs != StatisticsNeed::gram) return usage_error("--damping: " + step.method + " inverts no second moments; sparsegpt does");
    auto target = parse_prune_target(options.pattern);
    if (!target.ok()) {
        const std::string first = target.error().message;
        return usage_error(first + "; of the structure: neurons:25%, heads:2 (of each KV group), kv_groups:1, layers:2, hidden:10%; of networks of convolutions alone: filters:25%, channels:25%, taps:5");
    }
    step.target = *target;
    SKIFF_TRY(const auto scope, choice_of("--scope", options.scope, {"row", "layer"}));
    SKIFF_TRY(const auto allocation, choice_of("--allocation", options.allocation, {"uniform", "global", "owl", "sensitivity"}));
    step.target.scope = scope == "layer" ? PruneTarget::Scope::layer : PruneTarget::Scope::row;
    for (const auto each : {PruneStep::Allocation::uniform, PruneStep::Allocation::global, PruneStep::Allocation::owl, PruneStep::Allocation::sensitivity})
        if (allocation == allocation_name(each)) step.allocation = each;
    if (step.allocation != PruneStep::Allocation::uniform && step.target.pattern.m > 0) return usage_error("--allocation " + allocation + ": N:M keeps the same share everywhere");
    SKIFF_TRY(step.corrections, parse_corrections(options.correct));
    if (options.correct.empty()) step.corrections.scale = method->needs == StatisticsNeed::gram;
    if (step.corrections.norm) return usage_error("--correct norm is for rounding: skiff quantize behind prune; here there are scale and bias");
    step.damping = options.damping;
    step.calibration = options.common.calibration_options();
    if (!options.scheme.empty()) {
        SKIFF_TRY(step.scheme, parse_scheme(options.scheme));
        SKIFF_CHECK(sparse_defined_on(*step.scheme));
    }
    return RecipeStep(step);
}

// Of the loss by the weights: training computes them.
Result<bool> asks_for_gradients(const RecipeStep& step) {
    if (const auto* weights = std::get_if<PruneStep>(&step)) {
        SKIFF_TRY(const PruneMethod* method, find_prune_method(weights->method));
        return method->gradients != PruneMethod::Gradients::none;
    }
    const auto& structure = std::get<StructureStep>(step);
    if (structure.units == UnitKind::layers || structure.units == UnitKind::hidden) return false;
    SKIFF_TRY(const UnitImportance* importance, find_unit_importance(structure.importance));
    return importance->gradients == UnitImportance::Gradients::yes;
}

Status prune(PruneOptions& options, Terminal& terminal) {
    SKIFF_CHECK(options.common.check());
    if (net::is_net(options.common.model)) {
        SKIFF_CHECK(only_for_nets(options.common.typed, {"--pattern", "--importance", "--multiple", "--layers", "--output", "--force", "--dry-run", "--threads"}));
        return prune_net(NetChildOptions(options.common, options.layers), options.pattern, options.importance, options.multiple, terminal);
    }
    if (!options.layers.empty()) return usage_error("--layers is for networks of convolutions");
    if (options.pattern.find(',') != std::string::npos) return usage_error("--pattern takes one kind of units; several are steps of a recipe, one after the other (skiff compress --recipe)");
    if (!(options.damping > 0 && options.damping <= 1)) return usage_error("--damping " + std::to_string(options.damping) + ": expected more than 0, at most 1");
    SKIFF_TRY(const auto step, is_structure_pattern(options.pattern) ? structure_step_of(options) : weight_step_of(options));
    SKIFF_TRY(const bool with_gradients, asks_for_gradients(step));
    if (with_gradients && !train::training_available()) return become_training_program().take_error().with_context("the gradients that --method snip and taylor and --importance taylor ask for are computed by training");
    SKIFF_TRY(const auto parent, Checkpoint::open(options.common.model));
    Recipe recipe;
    recipe.steps.push_back(step);
    return make_child(options.common, parent, recipe, terminal);
}

}  // namespace

std::unique_ptr<Verb> prune_verb_row() {
    return make_verb<PruneOptions>("prune", "Make a model smaller and faster by leaving out what matters least: weights, blocks, neurons, heads, layers",
                                   {"skiff prune models/pocket -o pocket-half --pattern 50% --scheme w8g32", "skiff prune MODEL -o OUT --method sparsegpt --pattern 2:4",
                                    "skiff prune MODEL -o OUT --method wanda --pattern block16x32:50% --scheme w4g32r", "skiff prune models/pocket -o pocket-slim --pattern neurons:25%",
                                    "skiff prune MODEL -o OUT --pattern layers:2 --calibration FILE"},
                                   prune);
}

}  // namespace skiff
