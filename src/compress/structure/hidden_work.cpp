// Narrowing the hidden state as a step: one rotation of the residual stream to its principal directions, the weights of norms folded into what reads them
// (SliceGPT, Ashkboos et al. 2024, but with one rotation for all blocks, so that the result is a plain model without matrices on its shortcuts); then the last
// directions are cut off.
#include <algorithm>
#include <cmath>

#include "compress/algebra/algebra.h"
#include "compress/quantize/rotation.h"
#include "compress/step_work.h"
#include "compress/structure/structure_config.h"
#include "compress/structure/tensor_copies.h"
#include "model/arch/arch.h"
#include "model/axes.h"

namespace skiff {
namespace {

constexpr const char* hidden_axis = "model.hidden";

class HiddenWork final : public StepWork {
public:
    HiddenWork(const Checkpoint& parent, const StructureStep& step, Rotation rotation) : parent_(parent), step_(step), rotation_(std::move(rotation)) {}

    Result<TensorPlan> plan(ThreadPool& pool, const ProgressSink& progress) override {
        const std::int64_t width = parent_.spec.d_model;
        SKIFF_TRY(n_kept_, units_kept(step_.removal, width, step_.multiple_of));
        cuts_ = n_kept_ < width;
        TensorPlan plan;
        std::vector<std::string> rounding;
        note_rounding(step_, width, n_kept_, step_.multiple_of, rounding);
        before_ = parent_.spec;
        child_ = parent_.spec;
        config_ = parent_.config;
        if (cuts_) {
            SKIFF_CHECK(find_directions(pool, progress));
            plan.remarks = rotation_.remarks();
            plan.remarks.insert(plan.remarks.end(), rounding.begin(), rounding.end());
            for (std::int64_t i = 0; i < n_kept_; ++i) kept_.push_back(i);
            if (!rotation_.new_head().empty()) {
                SKIFF_TRY(before_, build_spec(rotation_.config(parent_.config)));
            }
            SKIFF_TRY(child_, slice_axis(before_, hidden_axis, kept_));
            SKIFF_TRY(config_, config_after_cut(rotation_.config(parent_.config), before_, child_, plan.remarks));
        }
        for (const auto& [key, tensor] : before_.tensors) {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted before any work was done", {}};
            const bool is_new = cuts_ && key == rotation_.new_head();
            const std::string& source = is_new ? rotation_.table() : key;
            if (!parent_.weights->contains(source) && tensor.need == TensorDecl::Need::optional) continue;
            auto planned = plan_copy(parent_, source, key, child_.shape(tensor), pool);
            if (!planned.ok()) return planned.take_error().with_context("tensor " + key);
            if (is_new) planned->bytes_before = planned->n_elements_before = 0;
            add_tensor(plan, std::move(*planned));
        }
        return plan;
    }

    Json found() const override {
        Json found = Json::object({{"sizes", Json::object({{hidden_axis, Json::object({{"before", parent_.spec.d_model}, {"after", n_kept_}})}})}});
        if (cuts_) found.set("energy_kept", energy_kept_);
        return found;
    }
    bool reads_text() const override { return true; }
    Result<Json> config(const TensorPlan&) const override { return config_; }
    Result<double> seconds(const TensorPlan& plan, ThreadPool& pool) override {
        return cuts_ ? static_cast<double>(plan.n_elements) * static_cast<double>(parent_.spec.d_model) / 2e10 / pool.n_threads() : 0.0;
    }

    Result<MadeTensor> make(const PlannedTensor& planned, const WeightSource& weights, const InputStatistics*, ThreadPool& pool, std::vector<std::string>&) override {
        SKIFF_TRY(const auto stored, weights.load(planned.key));
        const std::string& key = planned.stored_as.empty() ? planned.key : planned.stored_as;
        if (!cuts_ || rotation_.of(key) == nullptr) return make_copy(planned, stored);
        SKIFF_TRY(const auto rotated, rotation_.make(key, weights, pool));
        SKIFF_TRY(const auto left, slice_weight(rotated, before_, before_.tensors.at(key), hidden_axis, kept_));
        std::vector<float> values;
        if (!to_floats(*left.plain(), values)) return unsupported("holds no numbers");
        const TensorRotation& how = *rotation_.of(key);
        // A norm divides by the root mean square of what it sees: of fewer entries, without the energy that went.
        if (how.becomes_ones)
            for (float& value : values) value = static_cast<float>(std::sqrt(energy_kept_ * static_cast<double>(parent_.spec.d_model) / static_cast<double>(n_kept_))) - how.ones_minus;
        SKIFF_TRY(auto made, make_rounded(planned, stored.plain()->dtype, values));
        made.changed = false;  // its numbers are in another basis: a difference from the parent's says nothing
        return made;
    }

private:
    // The principal directions of all that norms read, each token counted with the same length, as norms see it.
    Status find_directions(ThreadPool& pool, const ProgressSink& progress) {
        SKIFF_TRY(const auto text, load_calibration(parent_, step_.calibration));
        CalibrationWalk walk(parent_.spec, text, pool.n_threads());
        SKIFF_CHECK(walk.embed(*parent_.weights));
        const auto n = static_cast<std::size_t>(parent_.spec.d_model);
        std::vector<float> moments(n * n), rows;
        for (std::size_t block = 1; block < walk.n_blocks(); ++block) {
            std::vector<ValueId> ids;
            for (const Op& op : parent_.spec.blocks[block].ops)
                if (const auto* norm = std::get_if<NormOp>(&op.detail); norm != nullptr && norm->group_width == 0 && std::find(ids.begin(), ids.end(), op.in[0]) == ids.end()) ids.push_back(op.in[0]);
            auto status = walk.watch(block, *parent_.weights, ids, [&](std::int64_t, std::span<const std::span<const float>> values, ThreadPool& threads) -> Status {
                for (const auto& x : values) {
                    rows.assign(x.begin(), x.end());
                    for (std::size_t at = 0; at < rows.size(); at += n) {
                        double square = 0;
                        for (std::size_t i = at; i < at + n; ++i) square += static_cast<double>(rows[i]) * static_cast<double>(rows[i]);
                        const auto scale = static_cast<float>(1 / std::sqrt(std::max(square, 1e-30)));
                        for (std::size_t i = at; i < at + n; ++i) rows[i] *= scale;
                    }
                    add_gram(rows.data(), static_cast<std::int64_t>(rows.size() / n), static_cast<std::int64_t>(n), moments.data(), threads);
                }
                return {};
            });
            if (!status.ok()) return status.take_error();
            if (progress) progress({"directions", parent_.spec.blocks[block].name, block, walk.n_blocks() - 1});
            if (block + 1 < walk.n_blocks()) SKIFF_CHECK(walk.advance(block, *parent_.weights));
        }
        mirror_upper(moments.data(), static_cast<std::int64_t>(n));
        SKIFF_TRY(const auto directions, symmetric_eigen({moments.begin(), moments.end()}, static_cast<std::int64_t>(n)));
        std::vector<float> matrix(n * n);
        double all = 0, left = 0;
        for (std::size_t i = 0; i < n; ++i) {
            for (std::size_t j = 0; j < n; ++j) matrix[j * n + i] = static_cast<float>(directions.vectors[i * n + j]);
            all += std::max(0.0, directions.values[i]);
            if (i < static_cast<std::size_t>(n_kept_)) left += std::max(0.0, directions.values[i]);
        }
        energy_kept_ = all > 0 ? left / all : 1;
        rotation_.set_residual_basis(parent_.spec.d_model, std::move(matrix));
        return {};
    }

    const Checkpoint& parent_;
    const StructureStep& step_;
    Rotation rotation_;
    std::int64_t n_kept_ = 0;
    bool cuts_ = false;
    double energy_kept_ = 1;
    std::vector<std::int64_t> kept_;
    ModelSpec before_, child_;
    Json config_;
};

}  // namespace

Result<std::unique_ptr<StepWork>> begin_hidden(const Checkpoint& parent, const StructureStep& step) {
    if (step.multiple_of < 1) return usage_error("widths must stay a multiple of at least 1");
    SKIFF_TRY(auto rotation, Rotation::plan(parent, {RotationOptions::What::residual, 0}));
    return std::unique_ptr<StepWork>(new HiddenWork(parent, step, std::move(rotation)));
}

}  // namespace skiff
