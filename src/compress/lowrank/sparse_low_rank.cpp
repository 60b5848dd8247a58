// Sparse plus low rank as a step: W ~ L + S, where L has a few directions and S what they leave that matters most (GoDec, Zhou and Tao 2011; OATS, Zhang and
// Papyan 2024). L and S are found in turns, each the best for what the other leaves, by what the calibration text says of the inputs.
#include "compress/lowrank/sparse_low_rank.h"

#include <algorithm>
#include <map>

#include "compress/algebra/algebra.h"
#include "compress/lowrank/factor.h"
#include "compress/prune/prune_method.h"
#include "compress/structure/tensor_copies.h"
#include "compress/weight_state.h"
#include "formats/sparse_weights.h"
#include "model/axes.h"

namespace skiff {
namespace {

constexpr int n_turns = 4;
constexpr std::string_view weight_end = ".weight";

class SparseLowRankWork final : public StepWork {
public:
    SparseLowRankWork(const Checkpoint& parent, const FactorizeStep& step, PruneTarget target, const FactorMethod& factor, const PruneMethod& prune)
        : parent_(parent), step_(step), target_(target), factor_(factor), prune_(prune), columns_(keys_stored_as_columns(parent.spec)) {}

    Result<TensorPlan> plan(ThreadPool& pool, const ProgressSink&) override {
        SKIFF_CHECK(algebra_available());
        const std::set<std::string> split = weights_to_split();
        TensorPlan plan;
        for (const auto& [key, tensor] : parent_.spec.tensors) {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted before any work was done", {}};
            if (!parent_.weights->contains(key) && tensor.need == TensorDecl::Need::optional) continue;
            SKIFF_TRY(const auto weight, parent_.weights->load(key));
            auto planned = plan_copy(parent_, key, key, weight.shape, pool);
            if (!planned.ok()) return planned.take_error().with_context("tensor " + key);
            if (split.count(key) != 0) {
                Status status = plan_split(*planned, weight);
                if (!status.ok()) return status.take_error().with_context("tensor " + key);
            }
            add_tensor(plan, std::move(*planned));
        }
        if (targets_.empty()) return unsupported(std::string("the model has no linear weights of plain numbers in 16 or 32 bits; factorize it before it is quantized") + or_write_out);
        return plan;
    }

    StatisticsNeed needs() const override { return factor_.needs; }
    CalibrationOptions calibration() const override { return step_.calibration; }

    Result<Json> config(const TensorPlan&) const override {
        // So that other programs refuse the file by its format instead of missing weights.
        Json config = parent_.config;
        SKIFF_TRY(auto quantization, quantization_config_for({}, {}));
        quantization.set("format", "skiff-quantized");
        config.set("quantization_config", std::move(quantization));
        return config;
    }

    Result<MadeTensor> make(const PlannedTensor& planned, const WeightSource& weights, const InputStatistics* inputs, ThreadPool& pool, std::vector<std::string>&) override {
        SKIFF_TRY(auto source, weights.load(planned.key));
        const auto found = targets_.find(planned.key);
        if (found == targets_.end()) return make_copy(planned, source);
        const bool turned = columns_.count(planned.key) != 0;
        const DType dtype = source.plain()->dtype;
        if (turned) source = transposed(source);
        const std::int64_t n_rows = source.shape[0], n_columns = source.shape[1];
        std::vector<float> w;
        if (!to_floats(*source.plain(), w)) return unsupported("holds no numbers");
        const std::int64_t rank = rank_for(n_rows, n_columns);

        std::vector<float> rest = w, thin;
        ThinPair pair;
        Weight sparse;
        for (int turn = 0; turn < n_turns; ++turn) {
            SKIFF_TRY(const auto factors, factor_.factor(rest, n_rows, inputs, pool));
            pair = thin_pair(factors, rest, rank, pool);
            round(pair.up, dtype), round(pair.down, dtype);
            thin = product_of(pair, n_rows, n_columns, pool);
            for (std::size_t i = 0; i < w.size(); ++i) rest[i] = w[i] - thin[i];
            round(rest, dtype);
            SKIFF_TRY(auto pruned, prune_.prune({make_float_weight({n_rows, n_columns}, rest), found->second, pool, inputs, 0.01, nullptr}));
            SKIFF_TRY(const auto stored, encode_nearest(pruned.weight, {NumberKind::floating, dtype, dtype_info(dtype).bits}, ScaleRule::min_max, {}, &pool));
            SKIFF_TRY(sparse, make_sparse(stored, found->second.pattern, std::move(pruned.bitmask)));
            std::vector<float> row(static_cast<std::size_t>(n_columns));
            for (std::int64_t i = 0; i < n_rows; ++i) {
                sparse.row(i, row.data());
                for (std::size_t j = 0; j < row.size(); ++j) {
                    const std::size_t at = static_cast<std::size_t>(i * n_columns) + j;
                    rest[at] = w[at] - row[j];  // what the next turn's directions are to say
                    thin[at] += row[j];         // what the model computes with
                }
            }
        }
        MadeTensor made{{}, make_float_weight({n_rows, n_columns}, std::move(thin)), true};
        SKIFF_TRY(made.parts, weight_tensors(base_of(planned.key), sparse));
        const std::string base = base_of(planned.key);
        made.parts.push_back(stored_part(base + ".low_rank_up", {n_rows, rank}, dtype, pair.up));
        made.parts.push_back(stored_part(base + ".low_rank_down", {rank, n_columns}, dtype, pair.down));
        if (turned) made.effective = transposed(made.effective);
        return made;
    }

    Result<double> seconds(const TensorPlan& plan, ThreadPool&) override {
        constexpr double multiply_adds_per_second = 5e9;  // of singular values
        double seconds = 0;
        for (const PlannedTensor& planned : plan.tensors) {
            if (targets_.count(planned.key) == 0) continue;
            const auto m = static_cast<double>(std::max(planned.shape[0], planned.shape[1])), n = static_cast<double>(std::min(planned.shape[0], planned.shape[1]));
            seconds += n_turns * (4 * m * n * n + 8 * n * n * n) / multiply_adds_per_second;
        }
        return seconds;
    }

private:
    static std::string base_of(const std::string& key) { return key.substr(0, key.size() - weight_end.size()); }

    static void round(std::vector<float>& values, DType dtype) {
        std::vector<std::byte> bytes(static_cast<std::size_t>(*dtype_bytes(dtype, static_cast<std::int64_t>(values.size()))));
        dtype_info(dtype).from_float(values.data(), static_cast<std::int64_t>(values.size()), bytes.data());
        dtype_info(dtype).to_float(bytes.data(), static_cast<std::int64_t>(values.size()), values.data());
    }
    static StoredTensor stored_part(const std::string& name, Shape shape, DType dtype, const std::vector<float>& values) {
        std::vector<std::byte> bytes(static_cast<std::size_t>(*dtype_bytes(dtype, static_cast<std::int64_t>(values.size()))));
        dtype_info(dtype).from_float(values.data(), static_cast<std::int64_t>(values.size()), bytes.data());
        const Weight part = make_plain_weight(shape, dtype, std::move(bytes));
        return {name, dtype, shape, part.plain()->data, part.owner};
    }

    std::int64_t rank_for(std::int64_t n_rows, std::int64_t n_columns) const {
        const std::int64_t full = std::min(n_rows, n_columns);
        const double wanted = step_.rule == FactorizeStep::Rule::share ? step_.amount * static_cast<double>(full) : step_.amount;
        const auto rank = static_cast<std::int64_t>(std::min(wanted, static_cast<double>(full)));
        return std::clamp<std::int64_t>(rank > step_.multiple_of ? rank / step_.multiple_of * step_.multiple_of : rank, 1, full);
    }

    // Linear weights that are one product with their input, in numbers that a sparse form holds.
    std::set<std::string> weights_to_split() const {
        std::set<std::string> keys;
        const auto uses = tensor_uses(parent_.spec);
        for (const Block& block : parent_.spec.blocks)
            for (const Op& op : block.ops) {
                const auto* linear = std::get_if<LinearOp>(&op.detail);
                if (linear == nullptr || linear->terms.size() != 1 || linear->terms[0].kind != LinearTerm::Kind::packed || linear->transform.kind != InputTransform::Kind::none) continue;
                const std::string& key = linear->terms[0].weight.key;
                if (key.ends_with(weight_end) && uses.at(key) == TensorUse::linear && parent_.weights->contains(key)) keys.insert(key);
            }
        return keys;
    }

    Status plan_split(PlannedTensor& planned, const Weight& weight) {
        if (weight.plain() == nullptr) return {};  // stays as it is
        const bool turned = columns_.count(planned.key) != 0;
        const std::int64_t n_rows = weight.shape[turned ? 1 : 0], n_columns = weight.shape[turned ? 0 : 1], rank = rank_for(n_rows, n_columns);
        const DType dtype = weight.plain()->dtype;
        const Scheme scheme{NumberKind::floating, dtype, dtype_info(dtype).bits};
        if (!dtype_info(dtype).is_float || !sparse_defined_on(scheme).ok()) return {};
        const PruneTarget target = target_.resolved(n_rows, n_columns);
        SKIFF_CHECK(prune_.defined_on(target));
        const std::string base = base_of(planned.key);
        const std::int64_t n_values = target.n_kept_units(n_rows, n_columns) * target.pattern.unit_values(), n_factors = rank * (n_rows + n_columns);
        planned.n_elements += static_cast<std::uint64_t>(n_factors);
        planned.n_stored = static_cast<std::uint64_t>(n_values + n_factors);
        planned.declarations = sparse_tensors(base, target.pattern, scheme, {n_rows, n_columns}, n_values);
        planned.declarations.push_back({base + ".low_rank_up", dtype, {n_rows, rank}});
        planned.declarations.push_back({base + ".low_rank_down", dtype, {rank, n_columns}});
        planned.bytes_after = 0;
        for (const auto& part : planned.declarations) planned.bytes_after += static_cast<std::uint64_t>(*dtype_bytes(part.dtype, element_count(part.shape)));
        planned.sparse = target.pattern;
        planned.form = target.name() + " + rank " + std::to_string(rank);
        targets_.emplace(planned.key, target);
        return {};
    }

    const Checkpoint& parent_;
    const FactorizeStep& step_;
    PruneTarget target_;
    const FactorMethod& factor_;
    const PruneMethod& prune_;
    std::set<std::string> columns_;
    std::map<std::string, PruneTarget> targets_;  // of the weights that are split
};

}  // namespace

Result<std::unique_ptr<StepWork>> begin_sparse_low_rank(const Checkpoint& parent, const FactorizeStep& step) {
    using Rule = FactorizeStep::Rule;
    if ((step.rule != Rule::rank && step.rule != Rule::share) || !(step.amount > 0) || (step.rule == Rule::share && step.amount > 1)) return usage_error("--method sparse-low-rank takes --rank: a number, or a share of the full rank");
    if (!step.original.empty()) return usage_error("--original is for --method correction: sparse-low-rank splits the weights of the model itself");
    if (step.multiple_of < 1) return usage_error("--multiple must be at least 1");
    SKIFF_TRY(const auto target, parse_prune_target(std::string_view(step.method).substr(sparse_low_rank_prefix.size())));
    SKIFF_TRY(const FactorMethod* factor, find_factor_method("svd-llm"));
    SKIFF_TRY(const PruneMethod* prune, find_prune_method("wanda"));
    return std::unique_ptr<StepWork>(new SparseLowRankWork(parent, step, target, *factor, *prune));
}

}  // namespace skiff
