// Quantization as a step: weights to the schemes of a wish, by a method of the table.
#include <algorithm>

#include "base/progress.h"
#include "compress/method.h"
#include "compress/step_work.h"

namespace skiff {
namespace {

class QuantizeWork final : public StepWork {
public:
    QuantizeWork(const Checkpoint& parent, const QuantizeStep& step, const WeightMethod& method) : parent_(parent), step_(step), method_(method) {}

    Result<TensorPlan> plan(ThreadPool& pool, const ProgressSink& progress) override { return plan_tensors(parent_, step_, pool, progress); }
    StatisticsNeed needs() const override { return method_.needs; }
    CalibrationOptions calibration() const override { return step_.calibration; }
    Result<Json> config(const TensorPlan& plan) const override { return planned_config(parent_, plan, step_); }

    Result<MadeTensor> make(const PlannedTensor& planned, const WeightSource& weights, const InputStatistics* inputs, ThreadPool& pool, std::vector<std::string>&) override {
        SKIFF_TRY(const auto result, make_planned(weights, planned, step_, inputs, pool));
        MadeTensor made{{}, result, planned.scheme.has_value()};
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
};

}  // namespace

Result<std::unique_ptr<StepWork>> begin_quantize(const Checkpoint& parent, const QuantizeStep& step) {
    SKIFF_TRY(const WeightMethod* method, find_weight_method(step.method));
    return std::unique_ptr<StepWork>(new QuantizeWork(parent, step, *method));
}

}  // namespace skiff
