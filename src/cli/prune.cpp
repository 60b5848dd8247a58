// skiff prune: a smaller model by taking parts out of it.
#include "cli/make_child.h"
#include "cli/verbs.h"
#include "compress/structure/layer_choice.h"
#include "compress/structure/unit_importance.h"

namespace skiff {
namespace {

struct PruneOptions {
    ChildOptions common;
    std::string pattern, importance = "auto", compensation = "least-squares", spread = "uniform";
    std::int64_t multiple = 32;
    double damping = 0.01;

    void fields(FieldVisitor& visitor) {
        std::vector<std::string> importances = {"auto"};
        help_ = "How units are judged; auto: obs, and kl for layers.";
        for (const UnitImportance& row : unit_importances()) {
            importances.emplace_back(row.name);
            help_ += " " + std::string(row.name) + ": " + std::string(row.summary) + ".";
        }
        for (const LayerImportance& row : layer_importances()) {
            importances.emplace_back(row.name);
            help_ += " " + std::string(row.name) + " (layers): " + std::string(row.summary) + ".";
        }
        common.model_and_output(visitor);
        visitor.option("--pattern", pattern,
                       "What goes, of each layer: neurons:25%, heads:2, kv_groups:1 (with their query heads); layers:2 or layers:25%");
        visitor.choice("--importance", importance, importances, help_.c_str());
        visitor.choice("--compensation", compensation, {"least-squares", "none"}, "What stays of the operator that reads the units is solved anew, so that its output changes least; or stays as it is");
        visitor.choice("--spread", spread, {"uniform", "sensitivity"}, "Equally much of every layer, or less where its removal was measured to hurt; then layers differ, which few other programs load");
        visitor.option("--multiple", multiple, "Widths of feed-forwards stay a multiple of this, where they are one");
        visitor.option("--damping", damping, "Added to the diagonal of the second moments, times its mean");
        common.calibration_fields(visitor);
        common.run_fields(visitor);
    }
    std::string help_;
};

Status prune(PruneOptions& options, Terminal& terminal) {
    SKIFF_CHECK(options.common.check());
    if (options.pattern.empty()) return usage_error("say what goes with --pattern, such as neurons:25%");
    if (options.pattern.find(',') != std::string::npos) return usage_error("--pattern takes one kind of units; several are steps of a recipe, one after the other (skiff compress --recipe)");
    SKIFF_TRY(auto step, parse_structure_pattern(options.pattern));
    const bool layers = step.units == UnitKind::layers;
    step.importance = options.importance != "auto" ? options.importance : layers ? "kl" : "obs";
    if (layers) SKIFF_CHECK(find_layer_importance(step.importance));
    else SKIFF_CHECK(find_unit_importance(step.importance));
    step.compensation = options.compensation == "none" ? StructureStep::Compensation::none : StructureStep::Compensation::least_squares;
    step.spread = options.spread == "uniform" ? StructureStep::Spread::uniform : StructureStep::Spread::sensitivity;
    step.multiple_of = options.multiple;
    step.damping = options.damping;
    step.calibration = options.common.calibration_options();
    SKIFF_TRY(const auto parent, Checkpoint::open(options.common.model));
    Recipe recipe;
    recipe.steps.push_back(step);
    return make_child(options.common, parent, recipe, terminal);
}

}  // namespace

std::unique_ptr<Verb> prune_verb_row() {
    return make_verb<PruneOptions>("prune", "Make a model smaller and faster by taking neurons, heads or layers out of it",
                                   {"skiff prune models/pocket -o pocket-slim --pattern neurons:25%", "skiff prune MODEL -o OUT --pattern kv_groups:1",
                                    "skiff prune MODEL -o OUT --pattern layers:2 --calibration FILE"},
                                   prune);
}

}  // namespace skiff
