#include "compress/search/mixed_precision.h"

#include <algorithm>
#include <cmath>

#include "compress/algebra/algebra.h"
#include "compress/search/divergence_probe.h"
#include "compress/search/measurements.h"
#include "compress/search/scheme_ladder.h"
#include "model/axes.h"

namespace skiff {
namespace {

// Multiply-adds of all measurements up to which every scheme of every unit is measured: a quarter of an hour or so on two cores.
constexpr double most_multiply_adds = 3e13;
constexpr std::uint64_t most_kept_bytes = std::uint64_t{2} << 30;  // of weights kept for measuring around an assignment

using Chosen = std::vector<std::size_t>;  // level of each unit

// A plain matrix that is stored as (inputs, outputs), turned; codes are (outputs, inputs) always.
Weight as_rows(const Weight& weight, StoredAs stored) { return stored == StoredAs::columns && weight.plain() != nullptr && weight.shape.size() == 2 ? transposed(weight) : weight; }

class Search {
public:
    Search(const Checkpoint& parent, const QuantizeStep& step, const SchemeSearchOptions& options) : parent_(parent), step_(step), target_(*step.target), options_(options), pool_(std::max(1, options.n_threads)) {}

    Status prepare(std::vector<std::string>& remarks) {
        if (target_.file_bytes == 0 && !(target_.bits_per_weight > 0)) return usage_error("a target of no bytes: give --target-mb or --target-bpw");
        if (target_.n_tokens < 1) return usage_error("sensitivity over " + std::to_string(target_.n_tokens) + " tokens: expected at least 1");
        SKIFF_CHECK(plan_with(step_.method));
        need_ = ladder_->needs();
        SKIFF_TRY(text_, load_calibration(parent_, step_.calibration));
        share_samples();
        every_scheme_ = target_.measure == SchemeTarget::Measure::every_scheme ||
                        (target_.measure == SchemeTarget::Measure::automatic && measuring_multiply_adds(ladder_->n_levels()) <= most_multiply_adds);
        // Errors of outputs are taken of a method that is quick: that of the step would have to make the whole model once for each scheme.
        if (!every_scheme_ && need_ == StatisticsNeed::gram) SKIFF_CHECK(plan_with("weighted"));
        if (need_ != StatisticsNeed::none) SKIFF_CHECK(algebra_available());
        n_refinements_ = target_.n_refinements;
        if (!step_.transforms.empty()) remarks.push_back("what each part loses was measured without the transforms of blocks");
        if (target_.measure == SchemeTarget::Measure::automatic && !every_scheme_) {
            if (n_refinements_ > 0) remarks.push_back("one scheme of each part is measured and none again around the result, because all would take hours; --sensitivity every-scheme does it nevertheless");
            n_refinements_ = 0;
        }
        if (n_refinements_ > 0 && held_.empty()) {
            remarks.push_back("the calibration text has one sample: nothing is left to check the assignment on, so it is not refined");
            n_refinements_ = 0;
        }
        return {};
    }

    Result<QuantizeStep> run(std::vector<std::string>& remarks) {
        SKIFF_CHECK(prepare(remarks));
        SKIFF_CHECK(check_budget());
        SKIFF_TRY(const Json head, this->head());
        SKIFF_TRY(auto measurements, Measurements::open(options_.journal, head, options_.found == SchemeSearchOptions::Found::drop ? Measurements::Found::drop : Measurements::Found::reuse));
        measurements_.emplace(std::move(measurements));
        SKIFF_TRY(auto probe, DivergenceProbe::create(parent_.spec, *parent_.weights, text_, pool_.n_threads()));
        probe_.emplace(std::move(probe));
        n_total_ = n_measurements();
        SKIFF_CHECK(measure_units());
        SKIFF_TRY(Chosen chosen, solve(unit_costs()));
        Json found = table_of(chosen);
        if (n_refinements_ > 0) SKIFF_CHECK(refine(chosen, found, remarks));
        return finished(chosen, std::move(found));
    }

    Result<SchemeSearchEstimate> estimate(QuantizeStep& uniform, std::vector<std::string>& remarks) {
        SKIFF_CHECK(prepare(remarks));
        SchemeSearchEstimate estimate;
        const std::size_t n_units = ladder_->units().size(), n_levels = ladder_->n_levels();
        estimate.n_units = n_units;
        estimate.n_schemes = n_levels;
        estimate.measure = measure_name();
        estimate.n_measurements = n_measurements();
        estimate.n_refinements = static_cast<std::size_t>(n_refinements_);
        SKIFF_TRY(estimate.smallest_bytes, ladder_->file_bytes(Chosen(n_units, 0), options_.max_shard_bytes));
        SKIFF_TRY(estimate.largest_bytes, ladder_->file_bytes(Chosen(n_units, n_levels - 1), options_.max_shard_bytes));
        SKIFF_CHECK(check_budget());
        SKIFF_TRY(const std::size_t level, uniform_level());
        uniform = step_;
        uniform.target.reset();
        uniform.schemes = ladder_->step(level).schemes;
        SKIFF_TRY(estimate.seconds, time_of_search());
        return estimate;
    }

    static Error interrupted() { return {ErrorCode::interrupted, "interrupted; what was measured is kept: run the same command again to go on", {}}; }

private:
    Status plan_with(const std::string& method) {
        method_ = method;
        SKIFF_TRY(auto ladder, SchemeLadder::create(parent_, step_, method, pool_, options_.progress));
        ladder_.emplace(std::move(ladder));
        return {};
    }

    const char* measure_name() const { return every_scheme_ ? "every scheme" : "one scheme"; }

    // Every other sample to measure on, of the others as many to check the result on.
    void share_samples() {
        std::int64_t n = 0;
        for (std::size_t i = 0; i < text_.samples.size() && n < target_.n_tokens; i += 2) {
            fit_.push_back(i);
            n += static_cast<std::int64_t>(text_.samples[i].size());
        }
        for (std::size_t i = 1; i < text_.samples.size() && held_.size() < fit_.size(); i += 2) held_.push_back(i);
    }

    std::int64_t n_fit_tokens() const {
        std::int64_t n = 0;
        for (std::size_t i : fit_) n += static_cast<std::int64_t>(text_.samples[i].size());
        return n;
    }

    // Of the blocks behind each unit, for every unit and so many schemes.
    double measuring_multiply_adds(std::size_t n_schemes) const {
        const auto n_blocks = static_cast<double>(parent_.spec.blocks.size());
        double passes = 0;
        for (const SchemeUnit& unit : ladder_->units()) passes += (n_blocks - static_cast<double>(unit.block)) / n_blocks;
        return passes * static_cast<double>(n_schemes) * static_cast<double>(n_fit_tokens()) * static_cast<double>(parent_.spec.multiply_adds_per_token());
    }

    std::size_t n_measurements() const {
        const std::size_t n_units = ladder_->units().size();
        return n_units * (every_scheme_ ? ladder_->n_levels() : 1) + static_cast<std::size_t>(n_refinements_) * (2 * n_units + 2);
    }

    Result<Json> head() const {
        SKIFF_TRY(const auto hash, parent_.content_hash());
        Json step = step_json(step_);
        for (const char* key : {"target", "scheme", "head", "embedding"}) step.erase(key);
        Json::Array fit;
        for (std::size_t i : fit_) fit.emplace_back(static_cast<std::uint64_t>(i));
        // Names and places of the ladder are part of what is measured, the schemes in it are not.
        return Json::object({{"tool", std::string("skiff ") + SKIFF_VERSION},
                             {"parent", hash},
                             {"text", text_.sha256},
                             {"samples", std::move(fit)},
                             {"step", std::move(step)},
                             {"measured_with", method_},
                             {"unit", target_.unit == SchemeTarget::Unit::tensor ? "tensor" : "shared input"}});
    }

    // ---- sizes
    std::uint64_t tensor_budget() const {  // of all tensors, where the target is bits per weight
        return static_cast<std::uint64_t>(std::floor(target_.bits_per_weight * static_cast<double>(ladder_->n_elements()) / 8));
    }

    Result<bool> keeps_target(const Chosen& chosen) const {
        if (target_.file_bytes == 0) {
            std::uint64_t bytes = ladder_->fixed_bytes();
            for (std::size_t unit = 0; unit < chosen.size(); ++unit) bytes += ladder_->bytes(unit, chosen[unit]);
            return bytes <= tensor_budget();
        }
        SKIFF_TRY(const auto bytes, ladder_->file_bytes(chosen, options_.max_shard_bytes));
        return bytes <= target_.file_bytes;
    }

    Status check_budget() const {
        const Chosen smallest(ladder_->units().size(), 0);
        SKIFF_TRY(const bool fits, keeps_target(smallest));
        if (fits) return {};
        SKIFF_TRY(const auto bytes, ladder_->file_bytes(smallest, options_.max_shard_bytes));
        const double bits = static_cast<double>(bytes) * 8 / static_cast<double>(ladder_->n_elements());
        return usage_error("the target is too small: with " + ladder_->scheme(0) + " throughout, the smallest of the ladder, the weight files take " + std::to_string(bytes) + " bytes, " +
                           std::to_string(bits) + " bits per weight; give a larger --target-mb or --target-bpw, or a --ladder with smaller schemes");
    }

    // The largest scheme that all units can have.
    Result<std::size_t> uniform_level() const {
        std::size_t level = 0;
        while (level + 1 < ladder_->n_levels()) {
            SKIFF_TRY(const bool fits, keeps_target(Chosen(ladder_->units().size(), level + 1)));
            if (!fits) break;
            ++level;
        }
        return level;
    }

    // Costs by unit and level; infinite: may not be chosen. Headers grow with the digits of offsets, so what they take is known behind the choice only.
    Result<Chosen> solve(const std::vector<std::vector<double>>& costs) const {
        std::vector<std::vector<std::size_t>> levels(costs.size());
        std::vector<UnitChoices> units(costs.size());
        for (std::size_t unit = 0; unit < costs.size(); ++unit)
            for (std::size_t level = 0; level < costs[unit].size(); ++level) {
                if (!std::isfinite(costs[unit][level])) continue;
                levels[unit].push_back(level);
                units[unit].push_back({ladder_->bytes(unit, level), costs[unit][level]});
            }
        const std::uint64_t whole = target_.file_bytes > 0 ? target_.file_bytes : tensor_budget();
        std::uint64_t budget = whole - ladder_->fixed_bytes();
        if (target_.file_bytes > 0) {
            SKIFF_TRY(const auto smallest, ladder_->file_bytes(Chosen(costs.size(), 0), options_.max_shard_bytes));
            std::uint64_t tensors = 0;
            for (std::size_t unit = 0; unit < costs.size(); ++unit) tensors += ladder_->bytes(unit, 0);
            budget = whole - (smallest - tensors);
        }
        while (true) {
            SKIFF_TRY(const auto choices, cheapest_choices(units, budget));
            Chosen chosen;
            for (std::size_t unit = 0; unit < costs.size(); ++unit) chosen.push_back(levels[unit][choices[unit]]);
            SKIFF_TRY(const bool fits, keeps_target(chosen));
            if (fits) return chosen;
            SKIFF_TRY(const auto bytes, ladder_->file_bytes(chosen, options_.max_shard_bytes));
            budget -= std::max<std::uint64_t>(1, bytes > whole ? bytes - whole : 1);
        }
    }

    // ---- units one by one
    std::string what_of(const char* kind, std::size_t unit, std::size_t level) const { return std::string(kind) + " " + ladder_->units()[unit].name + " " + ladder_->scheme(level); }

    Status done(const std::string& item) {
        ++n_done_;
        if (options_.progress) options_.progress({"sensitivity", item, n_done_, std::max(n_total_, n_done_)});
        return interrupt_requested() ? Status(interrupted()) : Status();
    }

    // The parent's block by block: visit(unit, walk, inputs) for the units of each for which `wanted` says so.
    template <class Wanted, class Visit>
    Status for_each_unit(Wanted wanted, Visit visit) {
        CalibrationWalk walk(parent_.spec, text_, pool_.n_threads());
        std::size_t last = 0;
        bool any = false;
        for (std::size_t unit = 0; unit < ladder_->units().size(); ++unit)
            if (wanted(unit)) {
                last = std::max(last, ladder_->units()[unit].block);
                any = true;
            }
        for (std::size_t block = 0; any && block <= last; ++block) {
            BlockInputs inputs;
            bool observed = false;
            for (std::size_t unit = 0; unit < ladder_->units().size(); ++unit) {
                if (ladder_->units()[unit].block != block || !wanted(unit)) continue;
                const bool is_decoder_block = block > 0 && block + 1 < walk.n_blocks();
                if (!observed && is_decoder_block && need_ != StatisticsNeed::none) {
                    SKIFF_TRY(inputs, walk.observe(block, walk.last_sharing(block), *parent_.weights, need_));
                }
                observed = true;
                SKIFF_CHECK(visit(unit, walk, inputs));
            }
            if (block == last) break;
            SKIFF_CHECK(block == 0 ? walk.embed(*parent_.weights) : walk.advance(block, *parent_.weights));
        }
        return {};
    }

    using Made = std::vector<std::pair<std::string, Weight>>;
    Result<Made> make(std::size_t unit, std::size_t level, const BlockInputs& inputs) {
        Made made;
        for (const std::string& key : ladder_->units()[unit].keys) {
            const auto found = inputs.find(key);
            auto weight = ladder_->make(key, level, *parent_.weights, found == inputs.end() ? nullptr : found->second.get(), pool_);
            if (!weight.ok()) return weight.take_error().with_context("tensor " + key + " as " + ladder_->scheme(level));
            made.emplace_back(key, std::move(*weight));
        }
        return made;
    }

    std::vector<std::string> missing_of(std::size_t unit) const {
        std::vector<std::string> missing;
        for (std::size_t level = 0; level < ladder_->n_levels(); ++level) {
            if ((every_scheme_ || level == reference_) && !measurements_->find(what_of("kl", unit, level))) missing.push_back(what_of("kl", unit, level));
            if (!every_scheme_ && !measurements_->find(what_of("error", unit, level))) missing.push_back(what_of("error", unit, level));
        }
        return missing;
    }

    Status measure_units() {
        if (!every_scheme_) {
            SKIFF_TRY(reference_, uniform_level());
        }
        for (std::size_t unit = 0; unit < ladder_->units().size(); ++unit)
            for (std::size_t level = 0; level < ladder_->n_levels(); ++level) n_done_ += measurements_->find(what_of("kl", unit, level)).has_value();
        return for_each_unit([&](std::size_t unit) { return !missing_of(unit).empty(); },
                             [&](std::size_t unit, const CalibrationWalk& walk, const BlockInputs& inputs) -> Status {
                                 auto status = measure_unit(unit, walk, inputs);
                                 if (!status.ok()) return status.take_error().with_context(ladder_->units()[unit].name);
                                 return {};
                             });
    }

    Status measure_unit(std::size_t unit, const CalibrationWalk& walk, const BlockInputs& inputs) {
        const SchemeUnit& which = ladder_->units()[unit];
        for (std::size_t level = 0; level < ladder_->n_levels(); ++level) {
            const std::string kl_name = what_of("kl", unit, level), error_name = what_of("error", unit, level);
            const bool wants_kl = (every_scheme_ || level == reference_) && !measurements_->find(kl_name), wants_error = !every_scheme_ && !measurements_->find(error_name);
            if (!wants_kl && !wants_error) continue;
            SKIFF_TRY(const Made made, make(unit, level, inputs));
            if (wants_error) {
                double error = 0;
                for (const auto& [key, weight] : made) {
                    SKIFF_TRY(const auto original, parent_.weights->load(key));
                    const auto found = inputs.find(key);
                    error += output_error(original, weight, columns_.count(key) != 0 ? StoredAs::columns : StoredAs::rows, found == inputs.end() ? nullptr : found->second.get(), pool_);
                }
                SKIFF_CHECK(measurements_->add(error_name, error));
            }
            if (!wants_kl) continue;
            EditedWeights edited(parent_.weights);
            for (const auto& [key, weight] : made) edited.replace(key, weight);
            SKIFF_TRY(const double kl, probe_->divergence(edited, which.block, walk.hidden(), fit_));
            SKIFF_CHECK(measurements_->add(kl_name, kl));
            SKIFF_CHECK(done(which.name + " as " + ladder_->scheme(level)));
        }
        return {};
    }

    std::vector<std::vector<double>> unit_costs() const {
        std::vector<std::vector<double>> costs(ladder_->units().size());
        for (std::size_t unit = 0; unit < costs.size(); ++unit)
            for (std::size_t level = 0; level < ladder_->n_levels(); ++level) {
                if (every_scheme_) {
                    costs[unit].push_back(*measurements_->find(what_of("kl", unit, level)));
                    continue;
                }
                const double kl = *measurements_->find(what_of("kl", unit, reference_)), of_reference = *measurements_->find(what_of("error", unit, reference_));
                costs[unit].push_back(of_reference > 0 ? kl * *measurements_->find(what_of("error", unit, level)) / of_reference : 0);
            }
        return costs;
    }

    // ---- around an assignment
    // Weights of the units as chosen and a level to either side, made as they are needed.
    Status make_neighbours(const Chosen& chosen) {
        auto wanted = [&](std::size_t unit, std::size_t level) { return level + 1 >= chosen[unit] && level <= chosen[unit] + 1 && kept_.count({unit, level}) == 0; };
        std::erase_if(kept_, [&](const auto& kept) { return kept.first.second + 1 < chosen[kept.first.first] || kept.first.second > chosen[kept.first.first] + 1; });
        return for_each_unit(
            [&](std::size_t unit) {
                for (std::size_t level = 0; level < ladder_->n_levels(); ++level)
                    if (wanted(unit, level)) return true;
                return false;
            },
            [&](std::size_t unit, const CalibrationWalk&, const BlockInputs& inputs) -> Status {
                for (std::size_t level = 0; level < ladder_->n_levels(); ++level) {
                    if (!wanted(unit, level)) continue;
                    SKIFF_TRY(kept_[std::pair(unit, level)], make(unit, level, inputs));
                }
                return interrupt_requested() ? Status(interrupted()) : Status();
            });
    }

    std::uint64_t neighbour_bytes(const Chosen& chosen) const {
        std::uint64_t bytes = 0;
        for (std::size_t unit = 0; unit < chosen.size(); ++unit)
            for (std::size_t level = 0; level < ladder_->n_levels(); ++level)
                if (level + 1 >= chosen[unit] && level <= chosen[unit] + 1) bytes += ladder_->bytes(unit, level);
        return bytes;
    }

    // Of the whole model, all units in their schemes, which are those of `around` or next to them.
    Result<double> whole_divergence(const Chosen& chosen, const Chosen& around, const std::vector<std::size_t>& samples) {
        std::string what = (&samples == &fit_ ? "whole" : "held");
        for (std::size_t unit = 0; unit < chosen.size(); ++unit) what += " " + ladder_->scheme(chosen[unit]);
        if (const auto known = measurements_->find(what)) {
            SKIFF_CHECK(done("all parts"));
            return *known;
        }
        SKIFF_CHECK(make_neighbours(around));
        EditedWeights edited(parent_.weights);
        for (std::size_t unit = 0; unit < chosen.size(); ++unit)
            for (const auto& [key, weight] : kept_.at({unit, chosen[unit]})) edited.replace(key, weight);
        SKIFF_TRY(const double kl, probe_->divergence(edited, 0, {}, samples));
        SKIFF_CHECK(measurements_->add(what, kl));
        SKIFF_CHECK(done("all parts"));
        return kl;
    }

    // What each unit's next smaller and larger scheme cost where all others are as chosen; from these the best assignment nearby.
    Result<Chosen> step_from(const Chosen& chosen, double here) {
        std::vector<std::vector<double>> costs(chosen.size(), std::vector<double>(ladder_->n_levels(), INFINITY));
        for (std::size_t unit = 0; unit < chosen.size(); ++unit) {
            costs[unit][chosen[unit]] = 0;
            for (std::size_t level : {chosen[unit] - 1, chosen[unit] + 1}) {
                if (level >= ladder_->n_levels()) continue;  // also behind zero
                Chosen other = chosen;
                other[unit] = level;
                SKIFF_TRY(const double kl, whole_divergence(other, chosen, fit_));
                costs[unit][level] = kl - here;
            }
        }
        return solve(costs);
    }

    Status refine(Chosen& chosen, Json& found, std::vector<std::string>& remarks) {
        if (neighbour_bytes(chosen) > most_kept_bytes) {
            remarks.push_back("the assignment is not refined: the weights to try take more than 2 GiB of memory");
            return {};
        }
        const Chosen first = chosen;
        SKIFF_TRY(const double before, whole_divergence(first, first, fit_));
        SKIFF_TRY(const double held_before, whole_divergence(first, first, held_));
        double now = before, held_now = held_before;
        int n_rounds = 0;
        Json::Array rounds;
        for (; n_rounds < n_refinements_; ++n_rounds) {
            SKIFF_TRY(const Chosen next, step_from(chosen, now));
            if (next == chosen) break;
            SKIFF_TRY(const double kl, whole_divergence(next, chosen, fit_));
            SKIFF_TRY(const double held, whole_divergence(next, chosen, held_));
            const bool better = kl < now && held < held_now;  // the other half of the text has the last word
            rounds.push_back(Json::object({{"kl", kl}, {"kl_of_the_other_half", held}, {"kept", better}}));
            if (!better) break;
            chosen = next;
            now = kl;
            held_now = held;
        }
        found = table_of(chosen);
        found.set("refinement", Json::object({{"kl", before}, {"kl_of_the_other_half", held_before}, {"rounds", std::move(rounds)}}));
        return {};
    }

    // ---- result
    Json table_of(const Chosen& chosen) const {
        const auto costs = unit_costs();
        Json::Array rows;
        double sum = 0;
        for (std::size_t unit = 0; unit < chosen.size(); ++unit) {
            Json kl = Json::object(), bytes = Json::object();
            for (std::size_t level = 0; level < ladder_->n_levels(); ++level) {
                kl.set(ladder_->scheme(level), costs[unit][level]);
                bytes.set(ladder_->scheme(level), ladder_->bytes(unit, level));
            }
            Json::Array tensors;
            for (const std::string& key : ladder_->units()[unit].keys) tensors.emplace_back(key);
            sum += costs[unit][chosen[unit]];
            rows.push_back(Json::object({{"name", ladder_->units()[unit].name}, {"tensors", std::move(tensors)}, {"chosen", ladder_->scheme(chosen[unit])}, {"kl", std::move(kl)}, {"bytes", std::move(bytes)}}));
        }
        return Json::object({{"measure", measure_name()}, {"method", method_}, {"tokens", n_fit_tokens()}, {"calibration", text_.json()}, {"sum_of_kl", sum}, {"units", std::move(rows)}});
    }

    QuantizeStep finished(const Chosen& chosen, Json found) const {
        QuantizeStep step = step_;
        std::map<std::size_t, std::uint64_t> elements;
        for (std::size_t unit = 0; unit < chosen.size(); ++unit) {
            elements[chosen[unit]] += ladder_->n_elements(unit);
            for (const std::string& key : ladder_->units()[unit].keys) step.schemes.rules.push_back({key, ladder_->step(chosen[unit]).schemes.linear});
        }
        const auto most = std::max_element(elements.begin(), elements.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
        step.schemes.linear = ladder_->step(most->first).schemes.linear;
        step.schemes.head = step.schemes.embedding = step.schemes.linear;
        step.found = std::move(found);
        return step;
    }

    // A unit of the middle is made once and measured on one sample.
    Result<double> time_of_search() {
        SKIFF_TRY(auto probe, DivergenceProbe::create(parent_.spec, *parent_.weights, text_, pool_.n_threads()));
        const std::size_t some[] = {fit_[0]};
        const double begin = monotonic_seconds();
        SKIFF_TRY(const double kl, probe.divergence(*parent_.weights, 0, {}, some));
        (void)kl;
        const double pass = (monotonic_seconds() - begin) * static_cast<double>(fit_.size());
        const std::size_t unit = ladder_->units().size() / 2;
        const double making = monotonic_seconds();
        SKIFF_TRY(const Made made, make(unit, 0, {}));
        const double make_all = (monotonic_seconds() - making) / static_cast<double>(std::max<std::uint64_t>(1, ladder_->n_elements(unit))) * static_cast<double>(ladder_->n_elements()) * static_cast<double>(ladder_->n_levels());
        const double one_by_one = measuring_multiply_adds(every_scheme_ ? ladder_->n_levels() : 1) / (static_cast<double>(n_fit_tokens()) * static_cast<double>(parent_.spec.multiply_adds_per_token()));
        const double whole = static_cast<double>(n_refinements_) * static_cast<double>(2 * ladder_->units().size() + 2);
        return make_all + pass * (one_by_one + whole);
    }

    const Checkpoint& parent_;
    const QuantizeStep& step_;
    const SchemeTarget& target_;
    const SchemeSearchOptions& options_;
    ThreadPool pool_;
    std::string method_;  // that measurements are made with
    StatisticsNeed need_ = StatisticsNeed::none;  // of the step's own method, which output errors use too
    std::optional<SchemeLadder> ladder_;
    const std::set<std::string> columns_ = keys_stored_as_columns(parent_.spec);
    CalibrationText text_;
    std::vector<std::size_t> fit_, held_;  // samples
    bool every_scheme_ = true;
    int n_refinements_ = 0;
    std::size_t reference_ = 0;  // the level that is measured where one is
    std::optional<Measurements> measurements_;
    std::optional<DivergenceProbe> probe_;
    std::map<std::pair<std::size_t, std::size_t>, Made> kept_;  // by unit and level
    std::uint64_t n_done_ = 0, n_total_ = 0;
};

}  // namespace

double output_error(const Weight& stored_original, const Weight& stored_made, StoredAs stored, const InputStatistics* inputs, ThreadPool& pool) {
    const Weight original = as_rows(stored_original, stored), made = as_rows(stored_made, stored);
    const std::int64_t n_rows = original.n_rows(), n = original.n_columns();
    const bool has_gram = inputs != nullptr && static_cast<std::int64_t>(inputs->gram.size()) == n * n, has_squares = inputs != nullptr && static_cast<std::int64_t>(inputs->mean_square.size()) == n;
    constexpr std::int64_t tile = 64;
    std::vector<double> sums(static_cast<std::size_t>((n_rows + tile - 1) / tile), 0);
    pool.run([&](int thread) {
        std::vector<float> difference(static_cast<std::size_t>(tile * n)), product(static_cast<std::size_t>(has_gram ? tile * n : 0)), row(static_cast<std::size_t>(n));
        const Range tiles = share_of(static_cast<std::int64_t>(sums.size()), thread, pool.n_threads());
        for (std::int64_t t = tiles.begin; t < tiles.end; ++t) {
            const std::int64_t begin = t * tile, size = std::min(tile, n_rows - begin);
            for (std::int64_t r = 0; r < size; ++r) {
                original.row(begin + r, difference.data() + r * n);
                made.row(begin + r, row.data());
                for (std::int64_t c = 0; c < n; ++c) difference[static_cast<std::size_t>(r * n + c)] -= row[static_cast<std::size_t>(c)];
            }
            if (has_gram) multiply({.m = size, .n = n, .k = n, .a = difference.data(), .a_stride = n, .b = inputs->gram.data(), .b_stride = n, .c = product.data(), .c_stride = n});
            double sum = 0;
            for (std::int64_t i = 0; i < size * n; ++i) {
                const auto at = static_cast<std::size_t>(i);
                const float d = difference[at], weighted = has_gram ? product[at] : has_squares ? d * inputs->mean_square[static_cast<std::size_t>(i % n)] : d;
                sum += static_cast<double>(d) * static_cast<double>(weighted);
            }
            sums[static_cast<std::size_t>(t)] = sum;
        }
    });
    double sum = 0;
    for (double part : sums) sum += part;
    return sum;
}

Result<QuantizeStep> find_schemes(const Checkpoint& parent, const QuantizeStep& step, const SchemeSearchOptions& options, std::vector<std::string>& remarks) {
    auto found = Search(parent, step, options).run(remarks);
    if (!found.ok() && found.error().code == ErrorCode::interrupted) return Search::interrupted();
    return found;
}

Result<SchemeSearchEstimate> estimate_scheme_search(const Checkpoint& parent, const QuantizeStep& step, const SchemeSearchOptions& options, QuantizeStep& uniform) {
    std::vector<std::string> remarks;
    return Search(parent, step, options).estimate(uniform, remarks);
}

}  // namespace skiff
