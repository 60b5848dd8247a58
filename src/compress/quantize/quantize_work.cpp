// Quantization as a step: weights to the schemes of a wish, by a method of the table.
#include <algorithm>
#include <cmath>

#include "base/progress.h"
#include "compress/calibrate/importance.h"
#include "compress/method.h"
#include "compress/quantize/learnt_rounding.h"
#include "compress/quantize/outliers.h"
#include "compress/quantize/block_transform.h"
#include "compress/quantize/coded_inputs.h"
#include "compress/quantize/corrected_tensors.h"
#include "compress/quantize/pruned_weights.h"
#include "compress/step_work.h"
#include "formats/sparse_weights.h"

namespace skiff {
namespace {

class QuantizeWork final : public StepWork {
public:
    QuantizeWork(const Checkpoint& parent, const QuantizeStep& step, const WeightMethod& method, std::vector<const BlockTransform*> transforms, const GradientSource* gradients)
        : parent_(parent), step_(step), method_(method), transforms_(std::move(transforms)), gradients_(gradients), corrections_(parent.spec, step.corrections) {}

    Status open_importance() {
        if (step_.importance.empty() || by_gradients()) return {};
        SKIFF_TRY(importance_, ImportanceFile::open(step_.importance, parent_));
        return {};
    }

    Result<TensorPlan> plan(ThreadPool& pool, const ProgressSink& progress) override {
        SKIFF_TRY(auto plan, plan_tensors(parent_, step_, pool, progress, Zeros::keep));
        for (PlannedTensor& tensor : plan.tensors) {
            if (tensor.hash) continue;
            if (tensor.sparse) {
                Status status = check_pruned(tensor);
                if (!status.ok()) return status.take_error().with_context("tensor " + tensor.key);
                pruned_.insert(tensor.key);
            }
            if (tensor.scheme && (tensor.becomes_codes() || !tensor.sparse)) schemes_[tensor.key] = *tensor.scheme;
            if (has_outliers(tensor)) plan_outliers(tensor, plan);
            if (has_coded_inputs(tensor)) {
                plan_coded_inputs(tensor, step_.inputs.kind, plan);
                coded_inputs_.insert(tensor.key);
            }
        }
        corrected_ = plan_corrections(corrections_, plan);
        if (by_gradients()) {
            SKIFF_TRY(text_, load_calibration(parent_, step_.calibration));
            for (const PlannedTensor& tensor : plan.tensors)
                if (has_gradients(tensor)) measured_.insert(tensor.key), plan.largest_working_set_bytes += tensor.n_elements * sizeof(float);
            plan.largest_working_set_bytes += gradient_memory_bytes(parent_.spec, *text_);
        }
        if (step_.inputs.kind != InputScaleRule::Kind::dynamic && coded_inputs_.empty()) return no_coded_inputs(step_.inputs.kind, plan);
        return plan;
    }
    Json found() const override { return by_gradients() ? Json::object({{"importance", "squared gradients of the loss"}}) : importance_ ? Json::object({{"importance", importance_->json()}}) : Json(); }
    const CalibrationText* text() const override { return text_ ? &*text_ : nullptr; }
    StatisticsNeed needs() const override {
        StatisticsNeed need = importance_ || by_gradients() ? StatisticsNeed::none : method_.needs;
        if (fixes_inputs()) need = std::max(need, StatisticsNeed::moments);
        need = std::max(need, step_.corrections.needs());
        for (const BlockTransform* transform : transforms_) need = std::max(need, transform->needs);
        return need;
    }
    CalibrationOptions calibration() const override { return step_.calibration; }
    Result<Json> config(const TensorPlan& plan) const override { return planned_config(parent_, plan, step_); }

    Status begin_block(std::size_t block, BlockWork& work, ThreadPool& pool) override {
        corrections_.begin_block(block);
        learnt_.clear();
        not_learnt_.clear();
        input_scales_.clear();
        if (!work.is_decoder_block(block)) return {};
        const auto scheme_of = [this](const std::string& key) -> const Scheme* {
            const auto found = schemes_.find(key);
            return found == schemes_.end() ? nullptr : &found->second;
        };
        const auto search = method_.needs == StatisticsNeed::none ? BlockTransformInput::Search::plain : BlockTransformInput::Search::weighted;
        for (const BlockTransform* transform : transforms_)
            SKIFF_CHECK(transform->apply({parent_.spec, block, work.editable(pool), scheme_of, step_.scale_rule, step_.method_options, search}));
        if (fixes_inputs()) {
            const auto wanted = [this](const std::string& key) { return coded_inputs_.count(key) != 0; };
            SKIFF_TRY(input_scales_, measure_input_scales(parent_.spec, block, work, step_.inputs, wanted));
        }
        return learns_by_block(step_) ? learn(block, work, pool) : Status();
    }

    Result<MadeTensor> make(const PlannedTensor& planned, const WeightSource& weights, const InputStatistics* inputs, ThreadPool& pool, std::vector<std::string>& remarks) override {
        if (corrected_.count(planned.key) != 0) return make_corrected(corrections_, planned, weights, pool);
        const InputStatistics* seen = importance_ ? importance_->find(planned.key) : method_.needs == StatisticsNeed::none ? nullptr : inputs;
        if (has_outliers(planned)) return make_with_outliers(planned, weights, {seen, inputs}, pool, remarks);
        std::vector<std::string> said;
        SKIFF_TRY(auto result, rounded(planned, weights, {seen, inputs}, pool, said));
        const bool of_operator = operators_.count(planned.key) != 0 && planned.becomes_codes();
        if (of_operator && !not_learnt_.empty()) said.push_back(not_learnt_);
        if (of_operator && importance_ && seen == nullptr && method_.needs == StatisticsNeed::none) said.push_back("every weight counts the same: the importance file has nothing for it");
        // Tables are rounded without data by every method, as the guide says; the weights of operators should not be.
        if (planned.use == TensorUse::linear) remarks.insert(remarks.end(), said.begin(), said.end());
        if (step_.corrections.any() && planned.becomes_codes() && !planned.hash) {  // blocks that are shared stay as they are
            SKIFF_TRY(const auto source, load_as_rows(weights, planned));  // pruned: what was gone before is no error
            result = corrections_.with_sizes_kept(planned.key, source, std::move(result), inputs, pool);
            corrections_.note(planned.key, source, result, inputs);
        }
        MadeTensor made{{}, result, planned.scheme || !transforms_.empty()};  // a transform may have edited what keeps its type
        if (result.hashed() != nullptr) {
            SKIFF_TRY(made.parts, weight_tensors(module_of_key(planned.key), result));
            return made;
        }
        if (result.sparse() != nullptr) {
            SKIFF_TRY(made.parts, weight_tensors(module_of_key(planned.key), result));
            if (planned.turn_source()) made.effective = transposed(as_floats(result, pool));
            return made;
        }
        if (result.codes() == nullptr) {
            made.parts = {{planned.key, result.plain()->dtype, result.shape, result.plain()->data, result.owner}};
            return made;
        }
        if (has_coded_inputs(planned)) {
            const auto scale = input_scales_.find(planned.key);
            if (fixes_inputs() && scale == input_scales_.end()) return runtime_error("nothing was measured of its inputs, so that they cannot have a fixed scale");
            made.parts = coded_input_tensors(planned, result, fixes_inputs() ? scale->second : 0.0f);
        } else {
            SKIFF_TRY(made.parts, weight_tensors(module_of_key(planned.key), result));
        }
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
        return seconds_per_element * static_cast<double>(n_elements) + (text_ ? gradient_seconds(parent_.spec, *text_) : 0);
    }

private:
    // What the method is told of the inputs, and what was measured of them.
    struct Inputs {
        const InputStatistics *told = nullptr, *measured = nullptr;
    };

    Result<Weight> rounded(const PlannedTensor& planned, const WeightSource& weights, const Inputs& inputs, ThreadPool& pool, std::vector<std::string>& said) {
        const auto learnt = learnt_.find(planned.key);
        if (learnt == learnt_.end()) {
            MakeOptions options{step_, inputs.told, pool, &said, parent_.weights.get()};
            if (has_gradients(planned)) {
                SKIFF_TRY(options.squared_gradients, squares_of(planned));
            }
            return make_planned(weights, planned, options);
        }
        if (!planned.sparse) return learnt->second;
        SKIFF_TRY(const auto before, load_as_rows(*parent_.weights, planned));
        return make_sparse(learnt->second, *planned.sparse, kept_units(before, *planned.sparse));
    }

    bool by_gradients() const { return step_.importance == importance_by_gradients; }
    bool has_gradients(const PlannedTensor& planned) const { return by_gradients() && !planned.hash && planned.use == TensorUse::linear && planned.scheme && planned.scheme->kind == NumberKind::clusters; }

    // (outputs, inputs), as the weight is rounded. All are measured at the first question.
    Result<std::span<const float>> squares_of(const PlannedTensor& planned) {
        if (squares_.empty()) SKIFF_CHECK(measure_gradients());
        const auto found = squares_.find(planned.key);
        if (found == squares_.end()) return unsupported("--importance gradients: the loss has no gradient of " + planned.key + "; leave it out with --scheme-for");
        std::vector<float>& sums = found->second;
        const bool finite = std::all_of(sums.begin(), sums.end(), [](float square) { return std::isfinite(square); });
        if (!finite) return corrupt("the loss's gradients of " + planned.key + " are not finite on this text; take another --calibration, or leave --importance out");
        if (planned.turn_source() && turned_.insert(planned.key).second) {
            SKIFF_TRY(const auto stored, parent_.weights->load(planned.key));
            to_floats(*transposed(make_float_weight(stored.shape, sums)).plain(), sums);
        }
        return std::span<const float>(sums);
    }

    Status measure_gradients() {
        return gradients_->for_each_sample(parent_.spec, *parent_.weights, *text_, measured_, [&](const SampleGradients& gradients) -> Status {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
            for (const auto& [key, gradient] : gradients) {
                std::vector<float>& sums = squares_[key];
                sums.resize(gradient.size());
                for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += gradient[i] * gradient[i];
            }
            return {};
        });
    }

    Status learn(std::size_t block, BlockWork& work, ThreadPool& pool) {
        if (work.shares_weights(block)) {  // what a block gives says nothing of the others that use its weights
            not_learnt_ = "learnt operator by operator: later layers use the same weights";
            return {};
        }
        BlockRounding rounding{parent_.spec, block, work, {}, pruned_, step_.scale_rule, step_.method_options, pool};
        for (const auto& [key, scheme] : schemes_)
            if (scheme.is_coded() && autoround_defined_on(scheme).ok() && operators_.count(key) != 0) rounding.wanted[key] = scheme;
        auto learnt = learn_block(rounding);
        if (learnt.ok()) learnt_ = std::move(*learnt);
        else if (learnt.error().code != ErrorCode::unsupported) return learnt.take_error();
        else not_learnt_ = "learnt operator by operator: " + learnt.error().message;
        return {};
    }

    // What cannot be done to a weight that stays pruned, or not to one that is stored as columns where others are rows.
    Status check_pruned(const PlannedTensor& planned) const {
        const std::string is = pruned_words(planned);
        const bool rounds = planned.becomes_codes() && operators_.count(planned.key) != 0;
        if (rounds && step_.outliers > 0) return unsupported(is + ": outliers stand beside dense codes; leave --outliers out");
        if (rounds && step_.inputs.kind != InputScaleRule::Kind::dynamic) return coded_inputs_of_pruned(planned);
        if (!transforms_.empty() && planned.stored_as_columns && !planned.parent_is_plain) return unsupported(is + " and stored as columns, which transforms do not scale; leave --transform out");
        return {};
    }

    bool fixes_inputs() const { return step_.inputs.kind == InputScaleRule::Kind::fixed; }
    bool has_coded_inputs(const PlannedTensor& planned) const { return step_.inputs.kind != InputScaleRule::Kind::dynamic && can_code_inputs(planned) && !has_outliers(planned) && operators_.count(planned.key) != 0; }

    bool has_outliers(const PlannedTensor& planned) const { return step_.outliers > 0 && !planned.hash && !planned.sparse && planned.use == TensorUse::linear && planned.becomes_codes() && outliers_per_row(step_.outliers, planned.shape[1]) > 0; }

    void plan_outliers(PlannedTensor& planned, TensorPlan& plan) const {
        const std::int64_t n = planned.shape[0] * outliers_per_row(step_.outliers, planned.shape[1]);
        std::uint64_t bytes = 0;
        for (const TensorDeclaration& part : outlier_tensors(module_of_key(planned.key), DType::f16, planned.shape, n)) {
            bytes += static_cast<std::uint64_t>(element_count(part.shape) * dtype_info(part.dtype).bits / 8);
            planned.declarations.push_back(part);
        }
        planned.bytes_after += bytes;
        plan.bytes_after += bytes;
        planned.form = planned.scheme->name() + " + outliers";
    }

    // The largest weights are set aside, the method rounds the others, and what it then lacks of the largest stands beside the codes.
    Result<MadeTensor> make_with_outliers(const PlannedTensor& planned, const WeightSource& weights, const Inputs& inputs, ThreadPool& pool, std::vector<std::string>& remarks) {
        SKIFF_TRY(const auto source, load_as_rows(weights, planned));
        const auto split = split_outliers(source, outliers_per_row(step_.outliers, source.n_columns()), pool);
        SKIFF_TRY(auto codes, encode_by(method_, {split.rest, *planned.scheme, step_.scale_rule, pool, inputs.told, step_.method_options, &remarks}));
        codes = corrections_.with_sizes_kept(planned.key, split.rest, std::move(codes), inputs.measured, pool);
        const Weight outliers = outliers_of(source, codes, split, pool);
        MadeTensor made{{}, sum_of(codes, outliers, pool), true};
        if (step_.corrections.any()) corrections_.note(planned.key, source, made.effective, inputs.measured);
        if (planned.turn_source()) made.effective = transposed(made.effective);
        SKIFF_TRY(made.parts, weight_tensors(module_of_key(planned.key), codes));
        for (StoredTensor& part : outlier_weight_tensors(module_of_key(planned.key), outliers)) made.parts.push_back(std::move(part));
        return made;
    }

    Result<double> time_sample(const PlannedTensor& planned, ThreadPool& pool) {
        constexpr std::int64_t sample_elements = 1 << 18;
        SKIFF_TRY(const auto weight, load_as_rows(*parent_.weights, planned));
        const std::int64_t n_columns = weight.n_columns(), n_rows = std::clamp<std::int64_t>(sample_elements / std::max<std::int64_t>(1, n_columns), 1, weight.n_rows());
        std::vector<float> values(static_cast<std::size_t>(n_rows * n_columns));
        for (std::int64_t row = 0; row < n_rows; ++row) weight.row(row, values.data() + row * n_columns);
        const auto sample = make_float_weight({n_rows, n_columns}, std::move(values));
        const double begin = monotonic_seconds();
        SKIFF_TRY(const auto result, encode_by(method_, {sample, *planned.scheme, step_.scale_rule, pool}));
        (void)result;
        return (monotonic_seconds() - begin) / static_cast<double>(n_rows * n_columns);
    }

    const Checkpoint& parent_;
    const QuantizeStep& step_;
    const WeightMethod& method_;
    const std::vector<const BlockTransform*> transforms_;
    std::map<std::string, Scheme> schemes_;
    std::set<std::string> operators_ = operator_weights(parent_.spec);
    std::optional<ImportanceFile> importance_;
    const GradientSource* gradients_;
    std::optional<CalibrationText> text_;  // that gradients are taken on
    std::set<std::string> measured_, turned_;  // keys
    std::map<std::string, std::vector<float>> squares_;  // of the gradients, summed over the samples
    BlockCorrections corrections_;
    std::set<std::string> corrected_, coded_inputs_, pruned_;  // keys
    std::map<std::string, float> input_scales_;  // of the block
    std::map<std::string, Weight> learnt_;       // of the block
    std::string not_learnt_;                     // why it has none, where it should
};

}  // namespace

Result<std::unique_ptr<StepWork>> begin_quantize(const Checkpoint& parent, const QuantizeStep& step, const GradientSource* gradients) {
    SKIFF_TRY(const WeightMethod* method, find_weight_method(step.method));
    std::vector<const BlockTransform*> transforms;
    for (const std::string& name : step.transforms) {
        SKIFF_TRY(const BlockTransform* transform, find_block_transform(name));
        transforms.push_back(transform);
    }
    if (step.importance == importance_by_gradients) {
        if (step.method != "kmeans" || step.schemes.linear.kind != NumberKind::clusters) return usage_error("--importance gradients: the loss's gradients weigh single weights, which the levels of clusters alone are found by; take --method kmeans and a scheme such as k16");
        if (step.outliers > 0) return usage_error("--importance gradients and --outliers: what is set aside would have to be weighed, too; give one of them");
        SKIFF_CHECK(check_gradients(gradients, "--importance gradients"));
    }
    if (!step.importance.empty() && method->needs == StatisticsNeed::gram) return usage_error("--importance: " + step.method + " needs the products of all pairs of inputs, and such a file has the squares of each alone; take weighted, hqq or kmeans");
    if (!step.importance.empty() && method->name == "nearest") return usage_error("--importance: nearest looks at no data; take weighted, hqq or kmeans");
    if (!step.importance.empty() && step.target) return usage_error("--importance and a target: what the parts lose is measured on the calibration text; give one of them");
    if (!step.importance.empty() && !step.transforms.empty()) return usage_error("--importance and --transform: a transform changes the inputs, and the file says what they were before; give one of them");
    auto work = std::make_unique<QuantizeWork>(parent, step, *method, std::move(transforms), gradients);
    SKIFF_CHECK(work->open_importance());
    return std::unique_ptr<StepWork>(std::move(work));
}

}  // namespace skiff
