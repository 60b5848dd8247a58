#include "compress/step_work.h"

namespace skiff {
namespace {

Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const QuantizeStep& step) { return begin_quantize(parent, step); }
Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const PruneStep& step) { return begin_prune(parent, step); }

Result<std::unique_ptr<StepWork>> begin(const Checkpoint& parent, const RotateStep& step) { return begin_rotate(parent, step); }

}  // namespace

Result<std::unique_ptr<StepWork>> make_step_work(const Checkpoint& parent, const RecipeStep& step) {
    return std::visit([&](const auto& fields) { return begin(parent, fields); }, step);
}

}  // namespace skiff
