// Rotation as a step: every tensor keeps its type and shape; a head that shared the embedding's tensor gets its own.
#include "base/checked.h"
#include "compress/step_work.h"
#include "compress/weight_state.h"

namespace skiff {
namespace {

class RotateWork final : public StepWork {
public:
    RotateWork(const Checkpoint& parent, Rotation rotation) : parent_(parent), rotation_(std::move(rotation)), uses_(tensor_uses(parent.spec)) {}

    Result<TensorPlan> plan(ThreadPool&, const ProgressSink&) override {
        TensorPlan plan;
        plan.remarks = rotation_.remarks();
        for (const auto& [key, declared] : parent_.spec.tensors) {
            if (!parent_.weights->contains(key) && declared.need == TensorDecl::Need::optional) continue;
            SKIFF_TRY(const auto weight, parent_.weights->load(key));
            if (weight.plain() == nullptr) return unsupported(state_of(weight) + "; rotate the model that it was made from").with_context("tensor " + key);
            PlannedTensor planned;
            planned.key = key;
            planned.use = uses_.at(key);
            planned.from = weight.encoding_name();
            planned.shape = weight.shape;
            planned.bytes_before = planned.bytes_after = weight.stored_bytes();
            planned.n_elements = static_cast<std::uint64_t>(element_count(weight.shape));
            planned.declarations = {{key, weight.plain()->dtype, weight.shape}};
            if (!rotation_.new_head().empty() && key == rotation_.table()) {
                planned.declarations.push_back({rotation_.new_head(), weight.plain()->dtype, weight.shape});
                planned.bytes_after *= 2;
            }
            plan.bytes_before += planned.bytes_before;
            plan.bytes_after += planned.bytes_after;
            plan.n_elements += planned.n_elements;
            plan.largest_working_set_bytes = std::max<std::uint64_t>(plan.largest_working_set_bytes, planned.n_elements * 12 + planned.bytes_after);  // two of f32 and one being turned
            plan.tensors.push_back(std::move(planned));
        }
        return plan;
    }

    Result<MadeTensor> make(const PlannedTensor& planned, const WeightSource& weights, const InputStatistics*, ThreadPool& pool, std::vector<std::string>&) override {
        MadeTensor made;
        if (rotation_.of(planned.key) == nullptr) {
            SKIFF_TRY(made.effective, weights.load(planned.key));
        } else {
            SKIFF_TRY(made.effective, in_type_of(planned, planned.key, weights, pool));
        }
        made.parts.push_back(part(planned.key, made.effective));
        if (planned.declarations.size() == 1) return made;
        SKIFF_TRY(const auto head, in_type_of(planned, rotation_.new_head(), weights, pool));
        made.parts.push_back(part(rotation_.new_head(), head));
        return made;
    }

    Result<Json> config(const TensorPlan&) const override { return rotation_.config(parent_.config); }
    Result<double> seconds(const TensorPlan& plan, ThreadPool&) override { return static_cast<double>(plan.n_elements) * 1e-8; }

private:
    Result<Weight> in_type_of(const PlannedTensor& planned, const std::string& key, const WeightSource& weights, ThreadPool& pool) const {
        SKIFF_TRY(auto rotated, rotation_.make(key, weights, pool));
        Scheme scheme;
        scheme.dtype = planned.declarations[0].dtype;
        return encode_nearest(rotated, scheme, ScaleRule::min_max, {}, &pool);
    }
    static StoredTensor part(const std::string& key, const Weight& weight) { return {key, weight.plain()->dtype, weight.shape, weight.plain()->data, weight.owner}; }

    const Checkpoint& parent_;
    const Rotation rotation_;
    const std::map<std::string, TensorUse> uses_;
};

}  // namespace

Result<std::unique_ptr<StepWork>> begin_rotate(const Checkpoint& parent, const RotateStep& step) {
    SKIFF_TRY(auto rotation, Rotation::plan(parent, step.options));
    return std::unique_ptr<StepWork>(new RotateWork(parent, std::move(rotation)));
}

}  // namespace skiff
