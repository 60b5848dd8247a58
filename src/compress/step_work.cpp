#include "compress/step_work.h"

namespace skiff {
namespace {

using Gradients = const GradientSource*;

Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const QuantizeStep& step, Gradients) { return begin_quantize(parent, step); }
Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const PruneStep& step, Gradients gradients) { return begin_prune(parent, step, gradients); }
Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const RotateStep& step, Gradients) { return begin_rotate(parent, step); }
Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const FactorizeStep& step, Gradients) { return begin_factorize(parent, step); }
Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const StructureStep& step, Gradients gradients) {
    return step.units == UnitKind::layers ? begin_layers(parent, step) : step.units == UnitKind::hidden ? begin_hidden(parent, step) : begin_structure(parent, step, gradients);
}

}  // namespace

Result<std::unique_ptr<StepWork>> make_step_work(const Checkpoint& parent, const RecipeStep& step, const GradientSource* gradients) {
    return std::visit([&](const auto& fields) { return begin(parent, fields, gradients); }, step);
}

}  // namespace skiff
