#include "compress/step_work.h"

#include "model/shared_layers.h"

namespace skiff {
namespace {

using Gradients = const GradientSource*;

Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const QuantizeStep& step, Gradients gradients) { return begin_quantize(parent, step, gradients); }
Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const PruneStep& step, Gradients gradients) { return begin_prune(parent, step, gradients); }
Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const RotateStep& step, Gradients) { return begin_rotate(parent, step); }
Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const FactorizeStep& step, Gradients) { return begin_factorize(parent, step); }
Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const ShareStep& step, Gradients) { return begin_share(parent, step); }
Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const StructureStep& step, Gradients gradients) {
    if (parent.config.contains(shared_layers_key)) return unsupported(parent.name + ": layers share their weights; change the shape of the model before it shares, or of the copy that skiff convert --to hf writes");
    return step.units == UnitKind::layers ? begin_layers(parent, step) : step.units == UnitKind::hidden ? begin_hidden(parent, step) : begin_structure(parent, step, gradients);
}

}  // namespace

Result<std::unique_ptr<StepWork>> make_step_work(const Checkpoint& parent, const RecipeStep& step, const GradientSource* gradients) {
    return std::visit([&](const auto& fields) { return begin(parent, fields, gradients); }, step);
}

}  // namespace skiff
