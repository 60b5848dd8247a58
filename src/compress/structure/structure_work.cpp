// Cutting a model along axes of its layers as a step: neurons, query heads, KV groups. How many stay is planned; which, the calibration text decides.
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "compress/algebra/algebra.h"
#include "compress/step_work.h"
#include "compress/structure/removal_probe.h"
#include "compress/structure/structure_config.h"
#include "compress/structure/tensor_copies.h"
#include "compress/structure/unit_gradients.h"
#include "compress/structure/unit_importance.h"
#include "model/axes.h"

namespace skiff {
namespace {

// What was decided for an axis.
struct Choice {
    std::vector<std::int64_t> kept;
    std::vector<float> reader, bias_shift;  // empty: as they were // as reader_matrix() gives it; (n_outputs)
    AxisCut places;                         // where only the order changes: the units of each axis that this touches, as they stand then
};

class StructureWork final : public StepWork {
public:
    StructureWork(const Checkpoint& parent, const StructureStep& step, const UnitImportance& importance, std::vector<CutAxis> axes, const GradientSource* gradients)
        : parent_(parent), step_(step), importance_(importance), axes_(std::move(axes)), gradients_(gradients) {}

    Result<TensorPlan> plan(ThreadPool& pool, const ProgressSink& progress) override {
        SKIFF_CHECK(set_sizes(pool));
        if (asks_for_gradients() && !text_) {
            SKIFF_TRY(text_, load_calibration(parent_, step_.calibration));
        }
        child_ = parent_.spec;
        for (const CutAxis& axis : axes_) {
            const auto kept = first_units(axis);
            SKIFF_TRY(child_, slice_axis(child_, axis.axis, kept));
            SKIFF_TRY(const auto cut, coupled_cut(parent_.spec, axis.axis, kept));
            for (const auto& [name, units] : cut) axis_of_[name] = &axis;
        }
        TensorPlan plan;
        SKIFF_TRY(config_, config_after_cut(parent_.config, parent_.spec, child_, plan.remarks));
        std::uint64_t done = 0;
        for (const auto& [key, tensor] : parent_.spec.tensors) {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted before any work was done", {}};
            if (!parent_.weights->contains(key) && tensor.need == TensorDecl::Need::optional) continue;
            auto planned = plan_copy(parent_, key, key, child_.shape(tensor), pool);
            if (!planned.ok()) return planned.take_error().with_context("tensor " + key);
            add_tensor(plan, std::move(*planned));
            if (progress) progress({"survey", key, ++done, parent_.spec.tensors.size()});
        }
        plan.remarks.insert(plan.remarks.end(), remarks_.begin(), remarks_.end());
        remarks_.clear();
        if (asks_for_gradients()) plan.largest_working_set_bytes += gradient_memory_bytes(parent_.spec, *text_);
        return plan;
    }

    Json found() const override {
        Json sizes = Json::object();
        for (const CutAxis& axis : axes_) sizes.set(axis.axis, Json::object({{"before", axis.n_units}, {"after", axis.n_kept}}));
        Json found = Json::object({{"sizes", sizes}});
        if (!sensitivities_.is_null()) {
            found.set("sensitivities", sensitivities_);
            found.set("tokens", sensitivity_tokens_);
        }
        return found;
    }

    StatisticsNeed needs() const override { return compensates() ? StatisticsNeed::gram : importance_.needs; }
    CalibrationOptions calibration() const override { return step_.calibration; }
    const CalibrationText* text() const override { return text_ ? &*text_ : nullptr; }
    Result<Json> config(const TensorPlan&) const override { return config_; }

    Status begin_block(std::size_t block, BlockWork& work, ThreadPool& pool) override {
        for (const CutAxis& axis : axes_) {
            if (axis.block != block) continue;
            std::vector<double> near_zero;
            if (importance_.counts == UnitImportance::Counts::yes) {
                SKIFF_TRY(near_zero, count_zeros(axis, work));
                remarks_.push_back(zeros_text(axis, near_zero));
            }
            SKIFF_CHECK(choose(axis, work.weights(), work.inputs(axis.reader), near_zero, pool));
        }
        return {};
    }

    Result<MadeTensor> make(const PlannedTensor& planned, const WeightSource& weights, const InputStatistics*, ThreadPool& pool, std::vector<std::string>& remarks) override {
        remarks.insert(remarks.end(), remarks_.begin(), remarks_.end());
        remarks_.clear();
        const TensorDecl& declared = parent_.spec.tensors.at(planned.key);
        const CutAxis *cut = nullptr, *read = nullptr, *biased = nullptr;
        for (const Dimension& dimension : declared.dimensions)
            for (const AxisPart& part : dimension)
                if (const auto found = axis_of_.find(part.axis); found != axis_of_.end()) cut = found->second;
        for (const CutAxis& axis : axes_) {
            if (axis.reader == planned.key) read = &axis;
            if (axis.bias == planned.key) biased = &axis;
        }
        const CutAxis* axis = cut != nullptr ? cut : biased;
        SKIFF_TRY(const auto source, weights.load(planned.key));
        if (axis == nullptr) return make_copy(planned, source);
        if (needs() == StatisticsNeed::none && choices_.count(axis->axis) == 0) SKIFF_CHECK(choose(*axis, weights, nullptr, {}, pool));
        const auto chosen = choices_.find(axis->axis);
        if (chosen == choices_.end()) return runtime_error(axis->axis + " was not measured");
        const Choice& choice = chosen->second;
        const bool shifted = biased != nullptr && !choice.bias_shift.empty(), solved = read != nullptr && !choice.reader.empty();
        if (cut == nullptr && !shifted) return make_copy(planned, source);
        if (sorts() && cut != nullptr) return make_sorted(planned, source, declared, choice.places);
        if (static_cast<std::int64_t>(choice.kept.size()) == axis->n_units) return make_copy(planned, source);

        SKIFF_TRY(const auto stored, parent_.weights->load(planned.key));  // names the type: an edited weight may be floats
        std::vector<float> values;
        SKIFF_CHECK(to_values(source, values));
        if (solved) {
            values = choice.reader;
            if (axis->transposed) SKIFF_CHECK(to_values(transposed(make_float_weight({element_count(source.shape) / source.n_rows(), source.n_rows()}, std::move(values))), values));
        }
        if (shifted)
            for (std::size_t i = 0; i < values.size(); ++i) values[i] += choice.bias_shift[i];
        SKIFF_TRY(const auto whole, make_cut(make_float_weight(source.shape, std::move(values)), declared, cut, choice.kept));
        std::vector<float> left;
        SKIFF_CHECK(to_values(whole, left));
        SKIFF_TRY(auto made, make_rounded(planned, stored.plain()->dtype, left));
        if (cut != nullptr) {
            SKIFF_TRY(made.effective, with_zeros(made.effective, declared, *cut, choice.kept));
        }
        return made;
    }

    // The sweep over the units goes through two matrices each time one goes; the rest is small beside the walk.
    Result<double> seconds(const TensorPlan&, ThreadPool& pool) override {
        constexpr double bytes_per_second = 8e9, multiply_adds_per_second = 1e10;
        double seconds = 0;
        for (const CutAxis& axis : axes_) {
            const double n = static_cast<double>(axis.n_units * axis.unit_columns), m = static_cast<double>(parent_.spec.d_model);
            if (importance_.name == "obs") seconds += static_cast<double>(axis.n_units - axis.n_kept) * static_cast<double>(axis.unit_columns) * n * (n + m) * 16 / bytes_per_second + n * n * n / multiply_adds_per_second;
            if (compensates()) seconds += (n * n * n / 3 + 2 * n * n * m) / multiply_adds_per_second / pool.n_threads();
        }
        if (asks_for_gradients()) seconds += gradient_seconds(parent_.spec, *text_);
        return seconds;
    }

private:
    bool asks_for_gradients() const { return importance_.gradients == UnitImportance::Gradients::yes && (sorts() || step_.removal.amount > 0); }
    // Of the axis; all are measured at the first question, in the parent as it is. Empty where the importance does not ask.
    Result<std::span<const double>> taylor_of(const CutAxis& axis) {
        if (!asks_for_gradients()) return std::span<const double>();
        if (!taylor_) {
            taylor_.emplace(axes_);
            SKIFF_CHECK(gradients_->for_each_sample(parent_.spec, *parent_.weights, *text_, taylor_->keys(), [&](const SampleGradients& gradients) -> Status {
                if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
                return taylor_->add_sample(gradients, *parent_.weights);
            }));
        }
        return std::span<const double>(taylor_->of(axis.axis));
    }
    bool sorts() const { return step_.order == StructureStep::Order::by_importance; }
    bool compensates() const { return !sorts() && step_.compensation == StructureStep::Compensation::least_squares; }

    static Status to_values(const Weight& weight, std::vector<float>& values) {
        if (weight.plain() == nullptr || !to_floats(*weight.plain(), values)) return unsupported("is no plain tensor of numbers; change the shape of the model before quantizing it");
        return {};
    }

    // How many units of each layer stay.
    Status set_sizes(ThreadPool& pool) {
        for (CutAxis& axis : axes_) {
            const std::int64_t n = axis.n_units / axis.n_groups, multiple = step_.units == UnitKind::neurons ? step_.multiple_of : 1;
            auto kept = units_kept(step_.removal, n, multiple);
            if (!kept.ok() && step_.units == UnitKind::heads)
                return usage_error("heads:" + step_.removal.text() + ": each KV group has " + std::to_string(n) + " query heads, of which at most " + std::to_string(n - 1) + " can go").with_context(axis.axis);
            if (!kept.ok()) return kept.take_error().with_context(axis.axis);
            if (&axis == axes_.data()) note_rounding(step_, n, *kept, multiple, remarks_);
            axis.n_kept = *kept * axis.n_groups;
        }
        if (step_.spread == StructureStep::Spread::sensitivity && step_.removal.amount > 0) SKIFF_CHECK(spread_by_sensitivity(pool));
        const bool none = std::all_of(axes_.begin(), axes_.end(), [](const CutAxis& axis) { return axis.n_kept == axis.n_units; });
        if (none && step_.removal.amount > 0)
            remarks_.push_back("nothing goes: " + step_.removal.text() + " of " + std::to_string(axes_[0].n_units) + " is less than half of the unit of " + std::to_string(step_.multiple_of) + " that widths keep; the result is a copy");
        return {};
    }

    // Each layer by itself without the share that shall go (the least contributing units, without compensation), and the mean KL of it. If the KL of a layer grows with
    // the square of its share and layers add up, least is lost with shares as the inverse of these figures.
    Status spread_by_sensitivity(ThreadPool& pool) {
        SKIFF_CHECK(algebra_available());
        SKIFF_TRY(text_, load_calibration(parent_, step_.calibration));
        const CalibrationText& text = *text_;
        SKIFF_TRY(const auto probe, RemovalProbe::create(parent_, text, pool.n_threads()));
        sensitivity_tokens_ = probe.n_tokens();
        for (std::string& remark : probe.remarks(text)) remarks_.push_back(std::move(remark));
        SKIFF_TRY(const auto* by_contribution, find_unit_importance("contribution"));
        CalibrationWalk walk(parent_.spec, text, pool.n_threads());
        SKIFF_CHECK(walk.embed(*parent_.weights));
        std::vector<double> kl;
        std::size_t entered = 1;
        for (const CutAxis& axis : axes_) {
            for (; entered < axis.block; ++entered) SKIFF_CHECK(walk.advance(entered, *parent_.weights));
            SKIFF_TRY(const auto inputs, walk.observe(axis.block, *parent_.weights, StatisticsNeed::gram));
            SKIFF_TRY(const auto kept, by_contribution->keep({parent_.spec, axis, *parent_.weights, inputs.at(axis.reader).get(), {}, step_, pool}));
            EditedWeights edited(parent_.weights);
            const TensorDecl& declared = parent_.spec.tensors.at(axis.reader);
            SKIFF_TRY(const auto reader, parent_.weights->load(axis.reader));
            SKIFF_TRY(const auto part, make_cut(as_floats(reader, pool), declared, &axis, kept));
            SKIFF_TRY(auto zeroed, with_zeros(part, declared, axis, kept));
            edited.replace(axis.reader, std::move(zeroed));
            SKIFF_TRY(const double lost, probe.mean_kl(parent_.spec, edited));
            kl.push_back(std::max(lost, 1e-9));
        }
        double sum_inverse = 0, total = 0, possible = 0;
        for (std::size_t i = 0; i < axes_.size(); ++i) {
            sum_inverse += 1 / kl[i];
            total += static_cast<double>(axes_[i].n_units - axes_[i].n_kept);
        }
        sensitivities_ = Json::object();
        for (std::size_t i = 0; i < axes_.size(); ++i) {
            CutAxis& axis = axes_[i];
            sensitivities_.set(axis.axis, kl[i]);
            const std::int64_t unit = step_.units == UnitKind::neurons && axis.n_units % step_.multiple_of == 0 ? step_.multiple_of : axis.n_groups;
            // No layer loses more than twice its share: the square law is a local one.
            const double most = std::min(2.0 * static_cast<double>(axis.n_units - axis.n_kept), static_cast<double>(axis.n_units - unit));
            const double gone = std::min(most, total / kl[i] / sum_inverse);
            axis.n_kept = std::clamp<std::int64_t>(static_cast<std::int64_t>(std::round((static_cast<double>(axis.n_units) - gone) / static_cast<double>(unit))) * unit, unit, axis.n_units);
            possible += static_cast<double>(axis.n_units - axis.n_kept);
        }
        // What clamping and rounding left over goes where one more unit costs least, or comes back where it gains most.
        for (int round = 0; round < 10000 && std::fabs(possible - total) > 0.5; ++round) {
            const bool more = possible < total;
            CutAxis* best = nullptr;
            double best_cost = 0;
            for (std::size_t i = 0; i < axes_.size(); ++i) {
                CutAxis& axis = axes_[i];
                const std::int64_t unit = step_.units == UnitKind::neurons && axis.n_units % step_.multiple_of == 0 ? step_.multiple_of : axis.n_groups;
                const std::int64_t next = axis.n_kept + (more ? -unit : unit);
                if (next < unit || next > axis.n_units || std::fabs(possible - total) < static_cast<double>(unit) / 2) continue;
                const double cost = kl[i] * static_cast<double>(axis.n_units - axis.n_kept + (more ? unit / 2 : -unit / 2)) * (more ? 1 : -1);
                if (best == nullptr || cost < best_cost) best = &axis, best_cost = cost;
            }
            if (best == nullptr) break;
            const std::int64_t unit = step_.units == UnitKind::neurons && best->n_units % step_.multiple_of == 0 ? step_.multiple_of : best->n_groups;
            best->n_kept += more ? -unit : unit;
            possible += static_cast<double>(more ? unit : -unit);
        }
        return {};
    }

    Status choose(const CutAxis& axis, const WeightSource& weights, const InputStatistics* inputs, std::span<const double> near_zero, ThreadPool& pool) {
        Choice& choice = choices_[axis.axis];
        choice = {};
        if (sorts()) {
            SKIFF_TRY(const auto taylor, taylor_of(axis));
            return sort(axis, choice, {parent_.spec, axis, weights, inputs, near_zero, step_, pool, taylor});
        }
        if (axis.n_kept == axis.n_units) {
            choice.kept = first_units(axis);
            return {};
        }
        if (inputs == nullptr && needs() != StatisticsNeed::none) return unsupported(axis.axis + ": the inputs of " + axis.reader + " were not measured");
        SKIFF_TRY(const auto taylor, taylor_of(axis));
        SKIFF_TRY(choice.kept, importance_.keep({parent_.spec, axis, weights, inputs, near_zero, step_, pool, taylor}));
        if (!compensates()) return {};
        SKIFF_TRY(const auto weight, reader_matrix(axis, weights, pool));
        const auto intercept = axis.bias.empty() ? LeastSquares::Intercept::no : LeastSquares::Intercept::yes;
        SKIFF_TRY(auto solved, solve_kept({weight, *inputs, intercept, step_.damping}, columns_of(axis, choice.kept), pool));
        choice.reader = std::move(solved.weight);
        choice.bias_shift = std::move(solved.bias);
        return {};
    }

    Status sort(const CutAxis& axis, Choice& choice, const UnitData& data) {
        choice.kept = first_units(axis);
        if (data.inputs == nullptr && needs() != StatisticsNeed::none) return unsupported(axis.axis + ": the inputs of " + axis.reader + " were not measured");
        SKIFF_TRY(const auto order, importance_.rank(data));
        SKIFF_TRY(choice.places, coupled_cut(parent_.spec, axis.axis, choice.kept));
        // A KV group takes its query heads along.
        for (auto& [name, units] : choice.places) {
            const std::int64_t each = static_cast<std::int64_t>(units.size()) / axis.n_units;
            for (std::size_t i = 0; i < units.size(); ++i) units[i] = order[i / static_cast<std::size_t>(each)] * each + static_cast<std::int64_t>(i) % each;
        }
        return {};
    }

    // The same numbers in other places.
    Result<MadeTensor> make_sorted(const PlannedTensor& planned, const Weight& source, const TensorDecl& declared, const AxisCut& places) const {
        SKIFF_TRY(const auto stored, parent_.weights->load(planned.key));
        SKIFF_TRY(const auto moved, gather_units(source, parent_.spec, declared, places));
        std::vector<float> values;
        SKIFF_CHECK(to_values(moved, values));
        SKIFF_TRY(auto made, make_rounded(planned, stored.plain()->dtype, values));
        made.changed = false;  // a difference from what stood there before says nothing
        return made;
    }

    Result<std::vector<double>> count_zeros(const CutAxis& axis, BlockWork& work) {
        const InputStatistics& inputs = *work.inputs(axis.reader);
        double square = 0;
        for (const float value : inputs.mean_square) square += static_cast<double>(value);
        const auto threshold = static_cast<float>(step_.zero_epsilon * std::sqrt(square / static_cast<double>(inputs.mean_square.size())));
        std::vector<double> counts(inputs.mean_square.size());
        const ValueId ids[] = {axis.value};
        SKIFF_CHECK(work.watch(axis.block, ids, [&](std::int64_t, std::span<const std::span<const float>> values, ThreadPool&) -> Status {
            for (std::size_t i = 0; i < values[0].size(); ++i) counts[i % counts.size()] += std::fabs(values[0][i]) <= threshold;
            return {};
        }));
        for (double& count : counts) count /= static_cast<double>(std::max<std::int64_t>(1, inputs.n_tokens));
        return counts;
    }

    static std::string zeros_text(const CutAxis& axis, const std::vector<double>& near_zero) {
        int bins[10] = {};
        double mean = 0;
        for (const double share : near_zero) {
            ++bins[std::min(9, static_cast<int>(share * 10))];
            mean += share / static_cast<double>(near_zero.size());
        }
        std::string text = axis.axis + ": values are about zero at " + std::to_string(static_cast<int>(std::round(mean * 100))) + " % of the tokens; of " + std::to_string(near_zero.size()) + " values, by tenths of the tokens:";
        for (const int n : bins) text += " " + std::to_string(n);
        return text;
    }

    Result<Weight> make_cut(const Weight& whole, const TensorDecl& declared, const CutAxis* cut, const std::vector<std::int64_t>& kept) const {
        if (cut == nullptr) return whole;
        return slice_weight(whole, parent_.spec, declared, cut->axis, kept);
    }

    // The opposite of a cut: zeros where entries went. // f32, in the parent's shape
    Result<Weight> with_zeros(const Weight& part, const TensorDecl& declared, const CutAxis& cut, const std::vector<std::int64_t>& kept) const {
        SKIFF_TRY(const auto coupled, coupled_cut(parent_.spec, cut.axis, kept));
        const Shape shape = parent_.spec.shape(declared);
        const auto rows = kept_entries(parent_.spec, declared.dimensions[0], coupled);
        const auto columns = declared.dimensions.size() == 2 ? kept_entries(parent_.spec, declared.dimensions[1], coupled) : std::vector<std::int64_t>{0};
        const std::int64_t width = declared.dimensions.size() == 2 ? shape[1] : 1;
        std::vector<float> values, all(static_cast<std::size_t>(element_count(shape)));
        SKIFF_CHECK(to_values(part, values));
        std::size_t at = 0;
        for (const std::int64_t row : rows)
            for (const std::int64_t column : columns) all[static_cast<std::size_t>(row * width + column)] = values[at++];
        return make_float_weight(shape, std::move(all));
    }

    const Checkpoint& parent_;
    const StructureStep& step_;
    const UnitImportance& importance_;
    std::vector<CutAxis> axes_;
    const GradientSource* gradients_;
    std::optional<CalibrationText> text_;  // where gradients or what layers lose are measured on it
    std::optional<UnitTaylorScores> taylor_;
    ModelSpec child_;
    Json config_, sensitivities_;
    std::int64_t sensitivity_tokens_ = 0;
    std::map<std::string, const CutAxis*> axis_of_;  // by the name of each axis that a cut touches
    std::map<std::string, Choice> choices_;
    std::vector<std::string> remarks_;
};

}  // namespace

Result<std::unique_ptr<StepWork>> begin_structure(const Checkpoint& parent, const StructureStep& step, const GradientSource* gradients) {
    if (step.multiple_of < 1) return usage_error("widths must stay a multiple of at least 1");
    if (!(step.damping > 0)) return usage_error("the damping of the second moments must be above 0");
    if (step.order == StructureStep::Order::by_importance && step.removal.amount != 0)
        return usage_error("sorting units takes none away: give " + std::string(unit_kind_name(step.units)) + ":0%, and cut in a second step");
    SKIFF_TRY(const UnitImportance* importance, find_unit_importance(step.importance));
    if (importance->gradients == UnitImportance::Gradients::yes) SKIFF_CHECK(check_gradients(gradients, "the importance " + std::string(importance->name)));
    SKIFF_TRY(auto axes, find_cut_axes(parent.spec, step.units));
    return std::unique_ptr<StepWork>(new StructureWork(parent, step, *importance, std::move(axes), gradients));
}

}  // namespace skiff
