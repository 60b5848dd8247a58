// Dropping whole layers as a step. Those that stay keep their numbers, bit for bit; they are numbered anew.
#include <cmath>

#include "compress/step_work.h"
#include "compress/structure/layer_choice.h"
#include "compress/structure/removal_probe.h"
#include "compress/structure/structure_config.h"
#include "compress/structure/tensor_copies.h"
#include "compress/weight_state.h"
#include "model/arch/arch.h"
#include "model/axes.h"

namespace skiff {
namespace {

class LayerWork final : public StepWork {
public:
    LayerWork(const Checkpoint& parent, const StructureStep& step, const LayerImportance& importance) : parent_(parent), step_(step), importance_(importance) {}

    Result<TensorPlan> plan(ThreadPool& pool, const ProgressSink& progress) override {
        const std::int64_t n_layers = parent_.spec.n_layers;
        if (static_cast<std::int64_t>(parent_.spec.blocks.size()) != n_layers + 2) return unsupported("the model's layers are not one block each");
        SKIFF_TRY(const std::int64_t n_kept, units_kept(step_.removal, n_layers, 1));
        TensorPlan plan;
        LayerChoice choice;
        if (n_kept < n_layers) {
            CalibrationText text;
            const bool reads = importance_.reads == LayerImportance::Reads::text;
            if (reads) {
                SKIFF_TRY(text, load_calibration(parent_, step_.calibration));
            }
            SKIFF_TRY(choice, importance_.choose({parent_, text, n_layers - n_kept, pool.n_threads(), progress}));
            plan.remarks = text.remarks;
            plan.remarks.insert(plan.remarks.end(), choice.remarks.begin(), choice.remarks.end());
            found_ = choice.found;
            std::string names;
            Json list = Json::array();
            for (const std::int64_t layer : choice.dropped) {
                names += (names.empty() ? "" : ", ") + std::to_string(layer);
                list.push_back(layer);
            }
            found_.set("dropped", list);
            if (reads) found_.set("calibration", text.json());
            plan.remarks.push_back("of " + std::to_string(n_layers) + " layers, numbered from 0, these go: " + names);
        }
        SKIFF_TRY(config_, config_without_layers(parent_.config, parent_.spec, choice.dropped));
        std::set<std::size_t> blocks;
        std::map<std::string, std::pair<std::int64_t, std::int64_t>> moves;  // old and new number, by key
        std::int64_t next = 0;
        for (std::int64_t layer = 0; layer < n_layers; ++layer) {
            if (choice.dropped.count(layer) != 0) {
                blocks.insert(static_cast<std::size_t>(layer) + 1);
                continue;
            }
            for (Op op : parent_.spec.blocks[static_cast<std::size_t>(layer) + 1].ops)
                for_each_tensor_ref(op, [&](const TensorRef& ref) { moves.emplace(ref.key, std::pair{layer, next}); });
            ++next;
        }
        SKIFF_TRY(const auto implied, build_spec(config_));
        for (const auto& [key, tensor] : without_blocks(parent_.spec, blocks).tensors) {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted before any work was done", {}};
            if (!parent_.weights->contains(key) && tensor.need == TensorDecl::Need::optional) continue;
            std::string name = key;
            if (const auto move = moves.find(key); move != moves.end()) name = key_in_layer(key, move->second.first, move->second.second);
            if (name == key && moves.count(key) != 0 && moves[key].first != moves[key].second) return unsupported("tensor " + key + " does not say the number of its layer");
            if (tensor.need == TensorDecl::Need::required && implied.tensors.count(name) == 0) return unsupported("tensor " + key + " would be " + name + ", which the model does not have");
            auto planned = plan_copy(parent_, key, name, parent_.spec.shape(tensor), pool);
            if (!planned.ok()) return planned.take_error().with_context("tensor " + key);
            if (name != key && !planned->parent_is_plain) return unsupported("tensor " + key + " is quantized; drop layers before quantizing the model" + or_write_out);
            add_tensor(plan, std::move(*planned));
        }
        plan.n_elements_before = 0;
        plan.bytes_before = 0;
        for (const auto& [key, tensor] : parent_.spec.tensors) {  // those that go as well
            if (!parent_.weights->contains(key)) continue;
            SKIFF_TRY(const auto weight, parent_.weights->load(key));
            plan.n_elements_before += static_cast<std::uint64_t>(element_count(weight.shape));
            plan.bytes_before += weight.stored_bytes();
        }
        return plan;
    }

    Json found() const override { return found_; }
    bool reads_text() const override { return importance_.reads == LayerImportance::Reads::text; }
    Result<Json> config(const TensorPlan&) const override { return config_; }
    Result<double> seconds(const TensorPlan&, ThreadPool&) override { return 0.0; }

    Result<MadeTensor> make(const PlannedTensor& planned, const WeightSource& weights, const InputStatistics*, ThreadPool&, std::vector<std::string>&) override {
        SKIFF_TRY(const auto weight, weights.load(planned.key));
        return make_copy(planned, weight);
    }

private:
    const Checkpoint& parent_;
    const StructureStep& step_;
    const LayerImportance& importance_;
    Json config_, found_;
};

}  // namespace

Result<std::unique_ptr<StepWork>> begin_layers(const Checkpoint& parent, const StructureStep& step) {
    SKIFF_TRY(const LayerImportance* importance, find_layer_importance(step.importance));
    return std::unique_ptr<StepWork>(new LayerWork(parent, step, *importance));
}

}  // namespace skiff
