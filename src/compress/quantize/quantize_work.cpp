// Quantization as a step: weights to the schemes of a wish, by a method of the table.
#include <algorithm>

#include "base/progress.h"
#include "compress/method.h"
#include "compress/quantize/block_transform.h"
#include "compress/step_work.h"

namespace skiff {
namespace {

class QuantizeWork final : public StepWork {
public:
    QuantizeWork(const Checkpoint& parent, const QuantizeStep& step, const WeightMethod& method, std::vector<const BlockTransform*> transforms)
        : parent_(parent), step_(step), method_(method), transforms_(std::move(transforms)) {}

    Result<TensorPlan> plan(ThreadPool& pool, const ProgressSink& progress) override {
        SKIFF_TRY(auto plan, plan_tensors(parent_, step_, pool, progress));
        for (const PlannedTensor& tensor : plan.tensors)
            if (tensor.scheme) schemes_[tensor.key] = *tensor.scheme;
        return plan;
    }
    StatisticsNeed needs() const override {
        StatisticsNeed need = method_.needs;
        for (const BlockTransform* transform : transforms_) need = std::max(need, transform->needs);
        return need;
    }
    CalibrationOptions calibration() const override { return step_.calibration; }
    Result<Json> config(const TensorPlan& plan) const override { return planned_config(parent_, plan, step_); }

    Status begin_block(std::size_t block, BlockWork& work, ThreadPool& pool) override {
        if (!work.is_decoder_block(block)) return {};
        const auto scheme_of = [this](const std::string& key) -> const Scheme* {
            const auto found = schemes_.find(key);
            return found == schemes_.end() ? nullptr : &found->second;
        };
        const auto search = method_.needs == StatisticsNeed::none ? BlockTransformInput::Search::plain : BlockTransformInput::Search::weighted;
        for (const BlockTransform* transform : transforms_)
            SKIFF_CHECK(transform->apply({parent_.spec, block, work.editable(pool), scheme_of, step_.scale_rule, step_.method_options, search}));
        return {};
    }

    Result<MadeTensor> make(const PlannedTensor& planned, const WeightSource& weights, const InputStatistics* inputs, ThreadPool& pool, std::vector<std::string>& remarks) override {
        std::vector<std::string> said;
        SKIFF_TRY(const auto result, make_planned(weights, planned, {step_, inputs, pool, &said}));
        // Tables are rounded without data by every method, as the guide says; the weights of operators should not be.
        if (planned.use == TensorUse::linear) remarks.insert(remarks.end(), said.begin(), said.end());
        MadeTensor made{{}, result, planned.scheme || !transforms_.empty()};  // a transform may have edited what keeps its type
        if (result.codes() == nullptr) {
            made.parts = {{planned.key, result.plain()->dtype, result.shape, result.plain()->data, result.owner}};
            return made;
        }
        SKIFF_TRY(made.parts, weight_tensors(module_of_key(planned.key), result));
        if (planned.turn_source()) made.effective = transposed(as_floats(result, pool));
        return made;
    }

    // A part of the largest tensor is timed.
    Result<double> seconds(const TensorPlan& plan, ThreadPool& pool) override {
        const PlannedTensor* largest = nullptr;
        std::uint64_t n_elements = 0;
        for (const PlannedTensor& tensor : plan.tensors) {
            if (!tensor.scheme || tensor.shape.size() != 2) continue;
            n_elements += tensor.n_elements;
            if (largest == nullptr || tensor.n_elements > largest->n_elements) largest = &tensor;
        }
        if (largest == nullptr) return 0.0;
        SKIFF_TRY(const double seconds_per_element, time_sample(*largest, pool));
        return seconds_per_element * static_cast<double>(n_elements);
    }

private:
    Result<double> time_sample(const PlannedTensor& planned, ThreadPool& pool) {
        constexpr std::int64_t sample_elements = 1 << 18;
        SKIFF_TRY(const auto weight, load_as_rows(*parent_.weights, planned));
        const std::int64_t n_columns = weight.n_columns(), n_rows = std::clamp<std::int64_t>(sample_elements / std::max<std::int64_t>(1, n_columns), 1, weight.n_rows());
        std::vector<float> values(static_cast<std::size_t>(n_rows * n_columns));
        for (std::int64_t row = 0; row < n_rows; ++row) weight.row(row, values.data() + row * n_columns);
        const auto sample = make_float_weight({n_rows, n_columns}, std::move(values));
        const double begin = monotonic_seconds();
        SKIFF_TRY(const auto result, method_.encode({sample, *planned.scheme, step_.scale_rule, pool}));
        (void)result;
        return (monotonic_seconds() - begin) / static_cast<double>(n_rows * n_columns);
    }

    const Checkpoint& parent_;
    const QuantizeStep& step_;
    const WeightMethod& method_;
    const std::vector<const BlockTransform*> transforms_;
    std::map<std::string, Scheme> schemes_;
};

}  // namespace

Result<std::unique_ptr<StepWork>> begin_quantize(const Checkpoint& parent, const QuantizeStep& step) {
    SKIFF_TRY(const WeightMethod* method, find_weight_method(step.method));
    std::vector<const BlockTransform*> transforms;
    for (const std::string& name : step.transforms) {
        SKIFF_TRY(const BlockTransform* transform, find_block_transform(name));
        transforms.push_back(transform);
    }
    return std::unique_ptr<StepWork>(new QuantizeWork(parent, step, *method, std::move(transforms)));
}

}  // namespace skiff
