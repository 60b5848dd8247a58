// Pruning as a step: linear weights keep what a method chooses and are stored sparse, in their own type or rounded to a scheme.
#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "base/checked.h"
#include "compress/algebra/algebra.h"
#include "compress/prune/allocate.h"
#include "compress/prune/layer_shares.h"
#include "compress/prune/prune_method.h"
#include "compress/quantize/coded_rows.h"
#include "compress/quantize/corrected_tensors.h"
#include "compress/step_work.h"
#include "compress/survey.h"
#include "compress/weight_state.h"
#include "formats/sparse_weights.h"

namespace skiff {
namespace {

// What is kept may be so small that its scale asks for f32, where the survey of the whole weight did not: such scales are rounded to the type that the file has.
Weight with_scale_type(const Weight& weight, DType dtype) {
    struct Owner {
        std::vector<std::byte> scales;
        std::shared_ptr<const void> codes;
    };
    Codes codes = *weight.codes();
    std::vector<float> values;
    to_floats(codes.scales, values);
    auto owner = std::make_shared<Owner>();
    owner->codes = weight.owner;
    owner->scales.resize(values.size() * static_cast<std::size_t>(dtype_info(dtype).bits) / 8);
    dtype_info(dtype).from_float(values.data(), static_cast<std::int64_t>(values.size()), owner->scales.data());
    codes.scheme.scale_dtype = dtype;
    codes.scales = {dtype, codes.scales.shape, owner->scales};
    return {weight.shape, std::move(codes), std::move(owner)};
}

class PruneWork final : public StepWork {
public:
    PruneWork(const Checkpoint& parent, const PruneStep& step, const PruneMethod& method, const GradientSource* gradients)
        : parent_(parent), step_(step), method_(method), gradients_(gradients), uses_(tensor_uses(parent.spec)), columns_(keys_stored_as_columns(parent.spec)), corrections_(parent.spec, step.corrections) {
        if (step.scheme) rounding_.schemes = default_wish(*step.scheme);
    }

    Result<TensorPlan> plan(ThreadPool& pool, const ProgressSink& progress) override {
        if (step_.scheme) {
            SKIFF_CHECK(sparse_defined_on(*step_.scheme));
            SKIFF_TRY(plan_, plan_tensors(parent_, rounding_, pool, progress));
        } else {
            SKIFF_CHECK(plan_as_they_are(pool, progress));
        }
        std::vector<PlannedTensor*> pruned;
        for (PlannedTensor& planned : plan_.tensors)
            if (is_pruned(planned)) pruned.push_back(&planned);
        if (pruned.empty()) return usage_error(std::string("nothing would change: the model has no linear weights of plain numbers; prune the model before it is quantized") + or_write_out);
        for (const PlannedTensor* planned : pruned) matrices_.push_back({planned->key, planned->shape[0], planned->shape[1], planned->stored_as_columns});
        if (method_.gradients != PruneMethod::Gradients::none || is_measured()) {
            SKIFF_TRY(text_, load_calibration(parent_, step_.calibration));
        }
        SKIFF_TRY(const auto sparsities, shares(pruned, pool));
        if (step_.allocation != PruneStep::Allocation::uniform) plan_.remarks.push_back(lost_by_blocks(parent_.spec, matrices_, sparsities));
        for (std::size_t i = 0; i < pruned.size(); ++i) {
            Status status = make_sparse_plan(*pruned[i], sparsities[i]);
            if (!status.ok()) return status.take_error().with_context("tensor " + pruned[i]->key);
        }
        plan_.bytes_after = plan_.largest_working_set_bytes = 0;
        for (const PlannedTensor& planned : plan_.tensors) {
            plan_.bytes_after += planned.bytes_after;
            plan_.largest_working_set_bytes = std::max(plan_.largest_working_set_bytes, planned.bytes_before + planned.bytes_after + planned.n_elements * 8);  // scores, and values as floats
        }
        if (step_.corrections.any()) corrected_ = plan_corrections(corrections_, plan_);
        if (plan_.bytes_after > plan_.bytes_before)
            plan_.remarks.push_back("the result takes more bytes than the model does: to say which weights stay costs more than " + step_.target.name() + " saves");
        if (method_.gradients != PruneMethod::Gradients::none) {
            for (const PrunedMatrix& matrix : matrices_) plan_.largest_working_set_bytes += static_cast<std::uint64_t>(matrix.n_rows * matrix.n_columns) * sizeof(float);
            plan_.largest_working_set_bytes += gradient_memory_bytes(parent_.spec, *text_);
        }
        return plan_;
    }
    Json found() const override { return found_; }
    const CalibrationText* text() const override { return text_ ? &*text_ : nullptr; }
    StatisticsNeed needs() const override { return std::max(method_.needs, step_.corrections.needs()); }
    Status begin_block(std::size_t block, BlockWork&, ThreadPool&) override {
        corrections_.begin_block(block);
        return {};
    }
    CalibrationOptions calibration() const override { return step_.calibration; }

    Result<MadeTensor> make(const PlannedTensor& planned, const WeightSource& weights, const InputStatistics* inputs, ThreadPool& pool, std::vector<std::string>& remarks) override {
        if (corrected_.count(planned.key) != 0) return make_corrected(corrections_, planned, weights, pool);
        const auto found = targets_.find(planned.key);
        if (found == targets_.end()) return make_others(planned, weights, pool, remarks);
        SKIFF_TRY(auto source, weights.load(planned.key));
        if (planned.stored_as_columns) source = transposed(source);
        std::vector<std::string> said;
        SKIFF_TRY(const auto sensitivity, sensitivity_of(planned.key, planned.stored_as_columns));
        SKIFF_TRY(auto pruned, method_.prune({source, found->second, pool, inputs, step_.damping, &said, sensitivity}));
        for (const std::string& text : said) remarks.push_back(planned.key + ": " + text);
        const SparsePattern& pattern = found->second.pattern;
        const DType dtype = types_.at(planned.key);
        if (pruned.weight.plain()->dtype != dtype) {
            SKIFF_TRY(pruned.weight, encode_nearest(pruned.weight, {NumberKind::floating, dtype, dtype_info(dtype).bits}, ScaleRule::min_max, {}, &pool));
        }
        SKIFF_TRY(auto kept, make_sparse(pruned.weight, pattern, pruned.bitmask));
        if (planned.becomes_codes()) {
            SKIFF_TRY(auto codes, encode_nearest(densified(kept), *planned.scheme, ScaleRule::search, {}, &pool));
            if (codes.codes()->scheme.scale_dtype != planned.scheme->scale_dtype) codes = with_scale_type(codes, planned.scheme->scale_dtype);
            SKIFF_TRY(kept, make_sparse(codes, pattern, std::move(pruned.bitmask)));
        }
        kept = corrections_.with_sizes_kept(planned.key, source, std::move(kept), inputs, pool);
        if (step_.corrections.any()) corrections_.note(planned.key, source, kept, inputs);
        MadeTensor made{{}, as_floats(kept, pool), true};
        SKIFF_TRY(made.parts, weight_tensors(module_of_key(planned.key), kept));
        if (planned.stored_as_columns) made.effective = transposed(made.effective);
        return made;
    }

    Result<Json> config(const TensorPlan& plan) const override {
        if (step_.scheme) return planned_config(parent_, plan, rounding_);
        // So that other programs refuse the file by its format instead of missing weights.
        Json config = parent_.config;
        SKIFF_TRY(auto quantization, quantization_config_for({}, {}));
        quantization.set("format", "skiff-quantized");
        config.set("quantization_config", std::move(quantization));
        return config;
    }

    Result<double> seconds(const TensorPlan& plan, ThreadPool& pool) override {
        // Choosing costs about as much as rounding to nearest, some ten nanoseconds for each weight and thread; SparseGPT's sweep is counted by its multiply-adds.
        double seconds = 0;
        for (const auto& [key, target] : targets_)
            for (const PlannedTensor& tensor : plan.tensors) {
                if (tensor.key != key) continue;
                const auto n = static_cast<double>(tensor.n_elements), columns = static_cast<double>(tensor.shape[1]);
                seconds += n * 40e-9 / pool.n_threads();
                if (method_.needs == StatisticsNeed::gram) seconds += (n * columns + columns * columns * columns) * 0.1e-9 / pool.n_threads();
            }
        if (method_.gradients != PruneMethod::Gradients::none) seconds += gradient_seconds(parent_.spec, *text_);
        return seconds;
    }

private:
    // Whether shares are found on the calibration text.
    bool is_measured() const {
        const bool by_inputs = step_.allocation == PruneStep::Allocation::global && method_.needs != StatisticsNeed::none;
        return by_inputs || step_.allocation == PruneStep::Allocation::owl || step_.allocation == PruneStep::Allocation::sensitivity;
    }

    // What goes of each matrix.
    Result<std::vector<double>> shares(const std::vector<PlannedTensor*>& pruned, ThreadPool& pool) {
        if (step_.allocation == PruneStep::Allocation::uniform) return std::vector<double>(pruned.size(), step_.target.sparsity);
        if (step_.target.pattern.m > 0) return usage_error(std::string("the allocation ") + allocation_name(step_.allocation) + ": N:M keeps the same share everywhere");
        const bool global = step_.allocation == PruneStep::Allocation::global;
        if (!global || method_.needs != StatisticsNeed::none) SKIFF_CHECK(algebra_available());
        const auto unit_scores = [&](const PrunedMatrix& matrix, const InputStatistics* inputs) -> Result<std::vector<float>> {
            SKIFF_TRY(auto source, parent_.weights->load(matrix.key));
            if (matrix.stored_as_columns) source = transposed(source);
            SKIFF_TRY(const auto sensitivity, sensitivity_of(matrix.key, matrix.stored_as_columns));
            const PruneTarget target = step_.target.resolved(matrix.n_rows, matrix.n_columns);
            SKIFF_TRY(const auto scores, method_.scores({source, target, pool, inputs, step_.damping, nullptr, sensitivity}));
            return unit_means(target.pattern, scores, matrix.n_rows, matrix.n_columns, &pool);
        };
        const auto try_pruning = [&](const PrunedMatrix& matrix, double share, const InputStatistics* inputs) -> Result<Weight> {
            SKIFF_TRY(auto source, parent_.weights->load(matrix.key));
            if (matrix.stored_as_columns) source = transposed(source);
            SKIFF_TRY(const auto sensitivity, sensitivity_of(matrix.key, matrix.stored_as_columns));
            const PruneTarget target = step_.target.with_sparsity(share).resolved(matrix.n_rows, matrix.n_columns);
            SKIFF_CHECK(method_.defined_on(target));
            SKIFF_TRY(auto tried, method_.prune({source, target, pool, inputs, step_.damping, nullptr, sensitivity}));
            SKIFF_TRY(const auto kept, make_sparse(tried.weight, target.pattern, std::move(tried.bitmask)));
            const Weight dense = as_floats(kept, pool);
            return matrix.stored_as_columns ? transposed(dense) : dense;
        };
        const CalibrationText none;
        const ShareQuestion question{parent_, step_, matrices_, text_ ? *text_ : none, method_.needs, try_pruning, unit_scores, pool};
        SKIFF_TRY(auto found, global ? shares_by_score(question) : step_.allocation == PruneStep::Allocation::owl ? shares_by_outliers(question) : shares_by_sensitivity(question));
        if (global && step_.target.pattern.unit_values() == 1) return found.sparsities;  // no share of a row is far from whole weights
        found_ = std::move(found.found);
        plan_.remarks.insert(plan_.remarks.end(), found.remarks.begin(), found.remarks.end());
        std::vector<LayerUnits> layers;
        for (const PrunedMatrix& matrix : matrices_) {
            const PruneTarget target = step_.target.resolved(matrix.n_rows, matrix.n_columns);
            const std::int64_t rows = target.pattern.n_unit_rows(matrix.n_rows), columns = target.pattern.n_unit_columns(matrix.n_columns), values = target.pattern.unit_values();
            layers.push_back(target.scope == PruneTarget::Scope::layer ? LayerUnits{rows * columns, values} : LayerUnits{columns, rows * values});
        }
        return whole_units(found.sparsities, layers, step_.target.sparsity);
    }

    // What the gradients say of a matrix, in (outputs, inputs); empty where the method does not ask. All matrices are measured at the first question.
    Result<std::span<const float>> sensitivity_of(const std::string& key, bool stored_as_columns) {
        if (method_.gradients == PruneMethod::Gradients::none) return std::span<const float>();
        if (sensitivities_.empty()) SKIFF_CHECK(measure_sensitivities());
        std::vector<float>& sums = sensitivities_.at(key);
        if (stored_as_columns && turned_.insert(key).second) {
            SKIFF_TRY(const auto stored, parent_.weights->load(key));
            const Weight turned = transposed(make_float_weight(stored.shape, std::move(sums)));
            to_floats(*turned.plain(), sums);
        }
        return std::span<const float>(sums);
    }

    Status measure_sensitivities() {
        SKIFF_CHECK(check_gradients(gradients_, "the method " + std::string(method_.name)));
        std::set<std::string> keys;
        for (const PrunedMatrix& matrix : matrices_) keys.insert(matrix.key);
        const bool squares = method_.gradients == PruneMethod::Gradients::squares;
        return gradients_->for_each_sample(parent_.spec, *parent_.weights, *text_, keys, [&](const SampleGradients& gradients) -> Status {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
            for (const auto& [key, gradient] : gradients) {
                SKIFF_TRY(const auto weight, parent_.weights->load(key));
                std::vector<float>& sums = sensitivities_[key];
                sums.resize(gradient.size());
                std::vector<float> row(static_cast<std::size_t>(weight.n_columns()));
                for (std::int64_t r = 0; r < weight.n_rows(); ++r) {
                    weight.row(r, row.data());
                    const std::size_t begin = static_cast<std::size_t>(r) * row.size();
                    for (std::size_t c = 0; c < row.size(); ++c) {
                        const float product = row[c] * gradient[begin + c];
                        sums[begin + c] += squares ? product * product : std::fabs(product);
                    }
                }
            }
            return {};
        });
    }

    bool is_pruned(const PlannedTensor& planned) const {
        return planned.use == TensorUse::linear && planned.parent_is_plain && planned.shape.size() == 2 && planned.key.ends_with(".weight") && (!step_.scheme || planned.becomes_codes());
    }

    // Every tensor in its own type.
    Status plan_as_they_are(ThreadPool& pool, const ProgressSink& progress) {
        std::uint64_t done = 0;
        for (const auto& [key, declared] : parent_.spec.tensors) {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted before any work was done", {}};
            if (!parent_.weights->contains(key) && declared.need == TensorDecl::Need::optional) continue;
            SKIFF_TRY(const auto weight, parent_.weights->load(key));
            if (weight.plain() == nullptr) return unsupported("tensor " + key + " " + state_of(weight) + "; prune the model that it was made from" + or_write_out);
            if (dtype_info(weight.plain()->dtype).is_float) {
                auto survey = survey_weight(weight, nullptr, pool);
                if (!survey.ok()) return survey.take_error().with_context("tensor " + key);
            }
            PlannedTensor planned;
            planned.key = key;
            planned.use = uses_.at(key);
            planned.from = weight.encoding_name();
            planned.stored_as_columns = columns_.count(key) != 0;
            planned.shape = weight.shape;
            planned.n_elements = static_cast<std::uint64_t>(element_count(weight.shape));
            planned.bytes_before = planned.bytes_after = weight.stored_bytes();
            planned.declarations = {{key, weight.plain()->dtype, weight.shape}};
            plan_.bytes_before += planned.bytes_before;
            plan_.n_elements += planned.n_elements;
            if (is_pruned(planned) && planned.stored_as_columns) std::swap(planned.shape[0], planned.shape[1]);
            plan_.tensors.push_back(std::move(planned));
            release_pages(weight);
            if (progress) progress({"survey", key, ++done, parent_.spec.tensors.size()});
        }
        return {};
    }

    // The planned tensor becomes a sparse one of a size that is known now.
    Status make_sparse_plan(PlannedTensor& planned, double sparsity) {
        const std::int64_t n_rows = planned.shape[0], n_columns = planned.shape[1];
        const PruneTarget target = step_.target.with_sparsity(sparsity).resolved(n_rows, n_columns);
        SKIFF_CHECK(method_.defined_on(target));
        SKIFF_TRY(const auto weight, parent_.weights->load(planned.key));
        const DType dtype = weight.plain()->dtype;
        const Scheme scheme = planned.becomes_codes() ? *planned.scheme : Scheme{NumberKind::floating, dtype, dtype_info(dtype).bits};
        SKIFF_CHECK(sparse_defined_on(scheme));
        const std::int64_t n_values = target.n_kept_units(n_rows, n_columns) * target.pattern.unit_values();
        planned.sparse = target.pattern;
        planned.n_stored = static_cast<std::uint64_t>(n_values);
        planned.form = scheme.name() + " of " + target.pattern.name();
        planned.declarations = sparse_tensors(module_of_key(planned.key), target.pattern, scheme, planned.shape, n_values);
        planned.bytes_after = 0;
        for (const auto& part : planned.declarations) planned.bytes_after += static_cast<std::uint64_t>(*dtype_bytes(part.dtype, element_count(part.shape)));
        targets_.emplace(planned.key, target);
        types_.emplace(planned.key, dtype);
        return {};
    }

    Result<MadeTensor> make_others(const PlannedTensor& planned, const WeightSource& weights, ThreadPool& pool, std::vector<std::string>& remarks) const {
        if (!step_.scheme) {
            SKIFF_TRY(const auto weight, weights.load(planned.key));
            return MadeTensor{{{planned.key, weight.plain()->dtype, weight.shape, weight.plain()->data, weight.owner}}, weight, false};
        }
        SKIFF_TRY(const auto result, make_planned(weights, planned, {rounding_, nullptr, pool, &remarks}));
        MadeTensor made{{}, result, planned.scheme.has_value()};
        SKIFF_TRY(made.parts, weight_tensors(module_of_key(planned.key), result));
        if (result.codes() == nullptr) made.parts = {{planned.key, result.plain()->dtype, result.shape, result.plain()->data, result.owner}};
        else if (planned.turn_source()) made.effective = transposed(as_floats(result, pool));
        return made;
    }

    const Checkpoint& parent_;
    const PruneStep& step_;
    const PruneMethod& method_;
    const GradientSource* gradients_;
    std::optional<CalibrationText> text_;  // where the plan or gradients are measured on it
    std::vector<PrunedMatrix> matrices_;
    std::map<std::string, std::vector<float>> sensitivities_;  // in the checkpoint's shape, or turned
    std::set<std::string> turned_;
    Json found_;
    std::map<std::string, TensorUse> uses_;
    std::set<std::string> columns_;
    QuantizeStep rounding_;  // of the tensors that are rounded too
    TensorPlan plan_;
    std::map<std::string, PruneTarget> targets_;
    std::map<std::string, DType> types_;
    BlockCorrections corrections_;
    std::set<std::string> corrected_;  // keys
};

}  // namespace

Result<std::unique_ptr<StepWork>> begin_prune(const Checkpoint& parent, const PruneStep& step, const GradientSource* gradients) {
    SKIFF_TRY(const PruneMethod* method, find_prune_method(step.method));
    if (step.allocation == PruneStep::Allocation::global && method->scores == nullptr)
        return usage_error("--allocation global: " + step.method + " judges weights while it changes others, so that layers cannot be compared by its scores; take magnitude, wanda, snip or taylor, or --allocation owl");
    if (method->gradients != PruneMethod::Gradients::none) SKIFF_CHECK(check_gradients(gradients, "the method " + std::string(method->name)));
    return std::unique_ptr<StepWork>(new PruneWork(parent, step, *method, gradients));
}

}  // namespace skiff
