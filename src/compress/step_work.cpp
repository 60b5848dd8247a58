#include "compress/step_work.h"

namespace skiff {
namespace {

Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const QuantizeStep& step) { return begin_quantize(parent, step); }
Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const PruneStep& step) { return begin_prune(parent, step); }

Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const RotateStep& step) { return begin_rotate(parent, step); }
Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const FactorizeStep& step) { return begin_factorize(parent, step); }
Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const StructureStep& step) { return step.units == UnitKind::layers ? begin_layers(parent, step) : step.units == UnitKind::hidden ? begin_hidden(parent, step) : begin_structure(parent, step); }

}  // namespace

Result<std::unique_ptr<StepWork>> make_step_work(const Checkpoint& parent, const RecipeStep& step) {
    return std::visit([&](const auto& fields) { return begin(parent, fields); }, step);
}

}  // namespace skiff
