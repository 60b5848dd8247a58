// Low rank as a step: linear weights become two thin matrices, or get two beside what quantization left of them.
#include <algorithm>
#include <map>
#include <optional>

#include "compress/algebra/algebra.h"
#include "compress/lowrank/factor.h"
#include "compress/lowrank/ranks.h"
#include "compress/lowrank/sparse_low_rank.h"
#include "compress/step_work.h"
#include "compress/structure/removal_probe.h"
#include "compress/structure/tensor_copies.h"
#include "compress/survey.h"
#include "compress/weight_state.h"
#include "model/axes.h"

namespace skiff {
namespace {

constexpr std::string_view weight_end = ".weight";

class FactorizeWork final : public StepWork {
public:
    FactorizeWork(const Checkpoint& parent, const FactorizeStep& step, const FactorMethod& method, std::optional<Checkpoint> original)
        : parent_(parent), step_(step), method_(method), original_(std::move(original)), columns_(keys_stored_as_columns(parent.spec)) {}

    Result<TensorPlan> plan(ThreadPool& pool, const ProgressSink& progress) override {
        SKIFF_CHECK(algebra_available());
        SKIFF_CHECK(find_weights());
        if (corrects()) {
            SKIFF_TRY(original_hash_, original_->content_hash());
        }
        SKIFF_CHECK(set_ranks(pool, progress));
        TensorPlan plan;
        std::int64_t n_whole = 0;
        for (const auto& [key, tensor] : parent_.spec.tensors) {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted before any work was done", {}};
            if (!parent_.weights->contains(key) && tensor.need == TensorDecl::Need::optional) continue;
            SKIFF_TRY(const auto weight, parent_.weights->load(key));
            auto planned = plan_copy(parent_, key, key, weight.shape, pool);
            if (!planned.ok()) return planned.take_error().with_context("tensor " + key);
            const auto rank = ranks_.find(key);
            if (rank != ranks_.end() && rank->second == 0) ++n_whole;
            if (rank != ranks_.end() && rank->second > 0) add_factors(*planned, weight, rank->second);
            add_tensor(plan, std::move(*planned));
        }
        plan.remarks = remarks_;
        if (n_whole > 0)
            plan.remarks.push_back(std::to_string(n_whole) + " of " + std::to_string(ranks_.size()) + " weights stay whole: factors of the rank that they would need are not smaller");
        if (n_whole == static_cast<std::int64_t>(ranks_.size())) plan.remarks.push_back("no weight becomes smaller by factors; the result is a copy");
        return plan;
    }

    Json found() const override {
        Json ranks = Json::object();
        for (const auto& [key, rank] : ranks_) ranks.set(key, rank);
        Json found = Json::object({{"ranks", ranks}});
        if (!original_hash_.empty()) found.set("original", original_hash_);
        if (measured_tokens_ > 0) found.set("tokens", measured_tokens_);
        return found;
    }

    StatisticsNeed needs() const override { return method_.needs; }
    CalibrationOptions calibration() const override { return step_.calibration; }
    const CalibrationText* text() const override { return text_ ? &*text_ : nullptr; }
    bool reads_text() const override { return method_.needs != StatisticsNeed::none || (step_.rule == FactorizeStep::Rule::budget && step_.amount > 0); }
    Result<Json> config(const TensorPlan&) const override { return parent_.config; }

    Result<MadeTensor> make(const PlannedTensor& planned, const WeightSource& weights, const InputStatistics* inputs, ThreadPool& pool, std::vector<std::string>&) override {
        const auto rank = ranks_.find(planned.key);
        if (rank == ranks_.end() || rank->second == 0) {
            SKIFF_TRY(const auto weight, weights.load(planned.key));
            return make_copy(planned, weight);
        }
        SKIFF_TRY(const auto stored, parent_.weights->load(planned.key));
        SKIFF_TRY(const auto w, target(planned.key, weights, pool));
        const bool turned = columns_.count(planned.key) != 0 && stored.plain() != nullptr;
        const std::int64_t n_rows = turned ? stored.shape[1] : stored.shape[0], n_columns = turned ? stored.shape[0] : stored.shape[1];
        SKIFF_TRY(const auto factors, method_.factor(w, n_rows, inputs, pool));
        ThinPair pair = thin_pair(factors, w, rank->second, pool);
        const DType dtype = factor_type(stored);
        MadeTensor made;
        if (corrects()) {
            SKIFF_TRY(made, make_copy(planned, stored));
        }
        made.changed = true;
        const std::string base = base_of(planned.key);
        for (auto& [name, values, shape] : {std::tuple{base + ".low_rank_up", &pair.up, Shape{n_rows, rank->second}}, std::tuple{base + ".low_rank_down", &pair.down, Shape{rank->second, n_columns}}}) {
            std::vector<std::byte> bytes(static_cast<std::size_t>(*dtype_bytes(dtype, static_cast<std::int64_t>(values->size()))));
            dtype_info(dtype).from_float(values->data(), static_cast<std::int64_t>(values->size()), bytes.data());
            dtype_info(dtype).to_float(bytes.data(), static_cast<std::int64_t>(values->size()), values->data());  // the walk goes on with what is stored
            const Weight part = make_plain_weight(shape, dtype, std::move(bytes));
            made.parts.push_back({name, dtype, shape, part.plain()->data, part.owner});
        }
        std::vector<float> product = product_of(pair, n_rows, n_columns, pool);
        if (corrects()) {
            std::vector<float> row(static_cast<std::size_t>(n_columns));
            for (std::int64_t i = 0; i < n_rows; ++i) {
                stored.row(i, row.data());
                for (std::int64_t j = 0; j < n_columns; ++j) product[static_cast<std::size_t>(i * n_columns + j)] += row[static_cast<std::size_t>(j)];
            }
        }
        made.effective = make_float_weight({n_rows, n_columns}, std::move(product));
        if (columns_.count(planned.key) != 0) made.effective = transposed(made.effective);  // plain numbers are read as the model has them
        return made;
    }

    Result<double> seconds(const TensorPlan&, ThreadPool&) override {
        constexpr double multiply_adds_per_second = 5e9;  // of singular values
        double seconds = 0;
        for (const auto& [key, rank] : ranks_) {
            if (rank == 0) continue;
            const Shape shape = parent_.spec.shape(parent_.spec.tensors.at(key));
            const auto m = static_cast<double>(std::max(shape[0], shape[1])), n = static_cast<double>(std::min(shape[0], shape[1]));
            seconds += (4 * m * n * n + 8 * n * n * n) / multiply_adds_per_second;
        }
        return seconds;
    }

private:
    bool corrects() const { return original_.has_value(); }
    static std::string base_of(const std::string& key) { return key.substr(0, key.size() - weight_end.size()); }

    // 16 bit floats beside codes, else the type of the weight.
    static DType factor_type(const Weight& stored) { return stored.plain() != nullptr ? stored.plain()->dtype : DType::bf16; }

    // Linear weights that are one product with their input.
    Status find_weights() {
        const auto uses = tensor_uses(parent_.spec);
        for (const Block& block : parent_.spec.blocks)
            for (const Op& op : block.ops) {
                const auto* linear = std::get_if<LinearOp>(&op.detail);
                if (linear == nullptr || linear->terms.size() != 1 || linear->transform.kind != InputTransform::Kind::none) continue;
                const std::string& key = linear->terms[0].weight.key;
                if (!key.ends_with(weight_end) || uses.at(key) != TensorUse::linear || !parent_.weights->contains(key)) continue;
                SKIFF_TRY(const auto weight, parent_.weights->load(key));
                if (corrects() ? weight.plain() != nullptr : weight.plain() == nullptr) {
                    if (corrects()) continue;
                    return unsupported("tensor " + key + " " + state_of(weight) + (weight.hashed() != nullptr ? std::string("; factorize the model before hashing it") + or_write_out : weight.sparse() != nullptr ? std::string("; factorize the model before pruning it, or by --method sparse-low-rank, which does both") + or_write_out : std::string("; factorize the model before quantizing it, or add factors to it with --method correction --original MODEL") + or_write_out));
                }
                ranks_[key] = 0;
            }
        if (ranks_.empty()) return unsupported(corrects() ? "the model has no quantized weights to correct" : "the model has no linear weights that factors could stand for");
        return {};
    }

    // (n_rows, n_columns) f32: the weight, or what quantization took from it.
    Result<std::vector<float>> target(const std::string& key, const WeightSource& weights, ThreadPool& pool) const {
        SKIFF_TRY(const auto weight, corrects() ? original_->weights->load(key) : weights.load(key));
        Weight floats = as_floats(weight, pool);
        if (columns_.count(key) != 0 && weight.plain() != nullptr) floats = transposed(floats);
        std::vector<float> values;
        if (!to_floats(*floats.plain(), values)) return unsupported("holds no numbers");
        if (!corrects()) return values;
        SKIFF_TRY(const auto rounded, parent_.weights->load(key));
        if (rounded.n_rows() * rounded.n_columns() != static_cast<std::int64_t>(values.size()) || rounded.n_rows() != floats.shape[0])
            return usage_error(original_->path + ": tensor " + key + " has another shape there; give the model that this one was quantized from");
        std::vector<float> row(static_cast<std::size_t>(rounded.n_columns()));
        for (std::int64_t i = 0; i < rounded.n_rows(); ++i) {
            rounded.row(i, row.data());
            for (std::size_t j = 0; j < row.size(); ++j) values[static_cast<std::size_t>(i) * row.size() + j] -= row[j];
        }
        return values;
    }

    Status set_ranks(ThreadPool& pool, const ProgressSink& progress) {
        const bool looks = step_.rule == FactorizeStep::Rule::energy || (step_.rule == FactorizeStep::Rule::budget && step_.amount > 0);
        std::vector<RankCandidate> candidates;
        std::map<std::string, std::size_t> place;
        for (const auto& [key, rank] : ranks_) {
            const Shape shape = parent_.spec.shape(parent_.spec.tensors.at(key));
            const bool turned = columns_.count(key) != 0;
            place[key] = candidates.size();
            candidates.push_back({shape[turned ? 1 : 0], shape[turned ? 0 : 1], {}, 1});
        }
        SKIFF_CHECK(check_budget(step_, candidates));
        if (looks) SKIFF_CHECK(look(candidates, place, pool, progress));
        auto chosen = choose_ranks(step_, candidates);
        if (!corrects()) {
            if (const std::int64_t n = n_ranks_above(step_, candidates, chosen); n > 0)
                remarks_.push_back(std::to_string(n) + " of " + std::to_string(candidates.size()) + " weights have rank " + std::to_string(step_.multiple_of) + ", the smallest multiple (--multiple), which is more than was asked for");
        }
        for (auto& [key, rank] : ranks_) {
            const RankCandidate& weight = candidates[place[key]];
            rank = chosen[place[key]];
            // Beside a weight that stays, factors only add.
            if (corrects()) rank = std::min(std::min(weight.n_rows, weight.n_columns), static_cast<std::int64_t>(step_.rule == FactorizeStep::Rule::share ? step_.amount * static_cast<double>(std::min(weight.n_rows, weight.n_columns)) : step_.amount));
        }
        return {};
    }

    // The singular values of all weights in the parent, and for a budget what each costs the model: the mean KL when it alone has the rank of the budget, over
    // the energy that is lost then.
    Status look(std::vector<RankCandidate>& candidates, const std::map<std::string, std::size_t>& place, ThreadPool& pool, const ProgressSink& progress) {
        CalibrationText text;
        if (reads_text()) {
            SKIFF_TRY(text_, load_calibration(parent_, step_.calibration));
            text = *text_;
        }
        std::optional<RemovalProbe> probe;
        if (step_.rule == FactorizeStep::Rule::budget) {
            SKIFF_TRY(auto made, RemovalProbe::create(parent_, text, pool.n_threads(), std::uint64_t{64} << 20));
            probe.emplace(std::move(made));
            measured_tokens_ = probe->n_tokens();
            remarks_ = probe->remarks(text);
        }
        FactorizeStep alike = step_;
        alike.rule = FactorizeStep::Rule::remove;
        CalibrationWalk walk(parent_.spec, text, pool.n_threads());
        if (method_.needs != StatisticsNeed::none) SKIFF_CHECK(walk.embed(*parent_.weights));
        std::uint64_t done = 0;
        std::set<std::string> measured;  // layers may share their weights
        for (std::size_t block = 1; block + 1 < walk.n_blocks(); ++block) {
            BlockInputs inputs;
            if (method_.needs != StatisticsNeed::none) {
                SKIFF_TRY(inputs, walk.observe(block, walk.last_sharing(block), *parent_.weights, method_.needs));
            }
            std::set<std::string> keys;
            for (Op op : parent_.spec.blocks[block].ops) for_each_tensor_ref(op, [&](const TensorRef& ref) { keys.insert(ref.key); });
            for (const std::string& key : keys) {
                const auto found = place.find(key);
                if (found == place.end() || !measured.insert(key).second) continue;
                RankCandidate& candidate = candidates[found->second];
                const auto seen = inputs.find(key);
                SKIFF_TRY(const auto w, target(key, *parent_.weights, pool));
                SKIFF_TRY(const auto factors, method_.factor(w, candidate.n_rows, seen != inputs.end() ? seen->second.get() : nullptr, pool));
                for (const double value : factors.values) candidate.energy.push_back(value * value);
                if (progress) progress({"singular values", key, ++done, static_cast<std::uint64_t>(place.size())});
                if (!probe) continue;
                const std::int64_t rank = choose_ranks(alike, std::span(&candidate, 1))[0];
                if (rank == 0) continue;
                Weight thin = make_float_weight({candidate.n_rows, candidate.n_columns}, product_of(thin_pair(factors, w, rank, pool), candidate.n_rows, candidate.n_columns, pool));
                if (columns_.count(key) != 0) thin = transposed(thin);
                EditedWeights edited(parent_.weights);
                edited.replace(key, std::move(thin));
                SKIFF_TRY(const double kl, probe->mean_kl(parent_.spec, edited));
                double lost = 0;
                for (std::size_t i = static_cast<std::size_t>(rank); i < candidate.energy.size(); ++i) lost += candidate.energy[i];
                candidate.weight = std::max(kl, 1e-9) / std::max(lost, 1e-30);
            }
            if (method_.needs != StatisticsNeed::none) SKIFF_CHECK(walk.advance(block, *parent_.weights));
        }
        return {};
    }

    void add_factors(PlannedTensor& planned, const Weight& weight, std::int64_t rank) const {
        const bool turned = columns_.count(planned.key) != 0 && weight.plain() != nullptr;
        const std::int64_t n_rows = weight.shape[turned ? 1 : 0], n_columns = weight.shape[turned ? 0 : 1];
        const DType dtype = factor_type(weight);
        const std::string base = base_of(planned.key);
        const auto n = static_cast<std::uint64_t>(rank * (n_rows + n_columns));
        if (!corrects()) {
            planned.declarations.clear();
            planned.n_elements = planned.bytes_after = 0;
        }
        planned.declarations.push_back({base + ".low_rank_up", dtype, {n_rows, rank}});
        planned.declarations.push_back({base + ".low_rank_down", dtype, {rank, n_columns}});
        planned.n_elements += n;
        planned.bytes_after += n * static_cast<std::uint64_t>(dtype_info(dtype).bits) / 8;
        planned.form = planned.from + (corrects() ? " + rank " : " rank ") + std::to_string(rank);
    }

    const Checkpoint& parent_;
    const FactorizeStep& step_;
    const FactorMethod& method_;
    std::optional<Checkpoint> original_;
    std::string original_hash_;
    std::optional<CalibrationText> text_;  // where singular values or the costs of ranks are measured on it
    std::int64_t measured_tokens_ = 0;     // that the costs were measured on
    std::vector<std::string> remarks_;
    std::set<std::string> columns_;
    std::map<std::string, std::int64_t> ranks_;  // of each weight that may become factors; 0: it stays whole
};

}  // namespace

const char* rank_rule_name(FactorizeStep::Rule rule) {
    static constexpr const char* names[] = {"rank", "share", "remove", "energy", "budget"};
    return names[static_cast<int>(rule)];
}

Json factorize_step_json(const FactorizeStep& step) {
    return Json::object({{"kind", "factorize"},
                         {"method", step.method},
                         {"rule", rank_rule_name(step.rule)},
                         {"amount", step.amount},
                         {"multiple_of", step.multiple_of},
                         {"original", step.original.substr(step.original.find_last_of('/') + 1)},
                         {"calibration_file", step.calibration.file.substr(step.calibration.file.find_last_of('/') + 1)},
                         {"calibration_samples", step.calibration.n_samples},
                         {"calibration_tokens", step.calibration.sample_tokens}});
}

Result<std::unique_ptr<StepWork>> begin_factorize(const Checkpoint& parent, const FactorizeStep& step) {
    using Rule = FactorizeStep::Rule;
    if (step.method.starts_with(sparse_low_rank_prefix)) return begin_sparse_low_rank(parent, step);
    const bool corrects = step.method == "correction";
    const bool is_share = step.rule != Rule::rank;
    if (!(step.amount >= 0) || (is_share && step.amount > 1) || (step.rule == Rule::rank && step.amount < 1)) return usage_error(std::string("the ") + rank_rule_name(step.rule) + " of factors is out of range");
    if ((step.rule == Rule::remove || step.rule == Rule::budget) && step.amount >= 1) return usage_error("something must stay of the weights: remove less than 100%");
    if (step.multiple_of < 1) return usage_error("ranks must be a multiple of at least 1");
    if (corrects && step.original.empty()) return usage_error("--method correction needs --original, the model that this one was quantized from");
    if (!corrects && !step.original.empty()) return usage_error("--original is for --method correction");
    if (corrects && step.rule != Rule::rank && step.rule != Rule::share) return usage_error("--method correction takes --rank");
    std::optional<Checkpoint> original;
    if (corrects) {
        SKIFF_TRY(auto opened, Checkpoint::open(step.original));
        original.emplace(std::move(opened));
    }
    SKIFF_TRY(const FactorMethod* method, find_factor_method(corrects ? "svd-llm" : step.method));
    return std::unique_ptr<StepWork>(new FactorizeWork(parent, step, *method, std::move(original)));
}

}  // namespace skiff
