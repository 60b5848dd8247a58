// Sharing as a step: the first layer of each group keeps its tensors, or gets the mean of the group's; the others' are not written.
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>
#include <set>

#include "base/mapped_file.h"
#include "base/progress.h"
#include "compress/share/layer_groups.h"
#include "compress/step_work.h"
#include "compress/structure/removal_probe.h"
#include "compress/structure/tensor_copies.h"
#include "compress/weight_state.h"
#include "model/arch/arch.h"
#include "model/axes.h"
#include "model/shared_layers.h"

namespace skiff {
namespace {

class ShareWork final : public StepWork {
public:
    ShareWork(const Checkpoint& parent, const ShareStep& step) : parent_(parent), step_(step) {}

    Result<TensorPlan> plan(ThreadPool& pool, const ProgressSink& progress) override {
        if (static_cast<std::int64_t>(parent_.spec.blocks.size()) != parent_.spec.n_layers + 2) return unsupported("the model's layers are not one block each");
        SKIFF_CHECK(check_plain());
        TensorPlan plan;
        SKIFF_TRY(groups_, choose(pool, progress, plan.remarks));
        for (std::size_t layer = 0; layer < groups_.size(); ++layer) {
            if (!may_share(parent_.spec, groups_[layer], static_cast<std::int64_t>(layer)))
                return unsupported("layers " + std::to_string(groups_[layer]) + " and " + std::to_string(layer) + " differ in their operators or in the shapes of their tensors, so they cannot share them");
            members_[groups_[layer]].push_back(static_cast<std::int64_t>(layer));
        }
        for (std::size_t layer = 0; layer < groups_.size(); ++layer)
            for (Op op : parent_.spec.blocks[layer + 1].ops)
                for_each_tensor_ref(op, [&](const TensorRef& ref) { layer_of_[ref.key] = static_cast<std::int64_t>(layer); });
        for (const auto& [key, declared] : parent_.spec.tensors) {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted before any work was done", {}};
            if (!parent_.weights->contains(key) && declared.need == TensorDecl::Need::optional) continue;
            const auto layer = layer_of_.find(key);
            const bool in_group = layer != layer_of_.end() && members_.at(groups_[static_cast<std::size_t>(layer->second)]).size() > 1;
            auto planned = plan_copy(parent_, key, key, parent_.spec.shape(declared), pool);
            if (!planned.ok()) return planned.take_error().with_context("tensor " + key);
            if (in_group && !planned->parent_is_plain) {
                SKIFF_TRY(const auto weight, parent_.weights->load(key));
                return not_plain(key, weight);
            }
            bytes_before_ += planned->bytes_before;
            n_before_ += planned->n_elements;
            if (in_group && groups_[static_cast<std::size_t>(layer->second)] != layer->second) continue;
            add_tensor(plan, std::move(*planned));
        }
        plan.bytes_before = bytes_before_;
        plan.n_elements_before = n_before_;
        if (members_.size() == groups_.size()) plan.remarks.push_back("every layer keeps weights of its own; the result is a copy");
        else plan.remarks.push_back("of " + std::to_string(groups_.size()) + " layers, numbered from 0, these share their weights: " + text_of_groups());
        return plan;
    }

    Json found() const override {
        Json json = Json::object();
        Json list = Json::array();
        for (const std::int64_t first : groups_) list.push_back(first);
        json.set("layer_weights", list);
        if (!neighbours_.is_null()) json.set("neighbour_distances", neighbours_);
        if (!measured_.is_null()) {
            json.set("measured", measured_);
            json.set("tokens", measured_tokens_);
        }
        return json;
    }
    const CalibrationText* text() const override { return text_ ? &*text_ : nullptr; }
    bool reads_text() const override { return step_.groups.empty() && step_.choice == ShareStep::Choice::measured; }

    Result<Json> config(const TensorPlan&) const override {
        Json config = parent_.config;
        if (members_.size() < groups_.size()) config.set(shared_layers_key, found()["layer_weights"]);
        auto implied = build_spec(config);
        if (!implied.ok()) return implied.take_error().with_context("the config of the result");
        return config;
    }

    Result<double> seconds(const TensorPlan& plan, ThreadPool&) override { return static_cast<double>(plan.n_elements_before) * 1e-8; }

    Result<MadeTensor> make(const PlannedTensor& planned, const WeightSource& weights, const InputStatistics*, ThreadPool&, std::vector<std::string>&) override {
        const auto layer = layer_of_.find(planned.key);
        if (layer == layer_of_.end() || step_.weights == ShareStep::Weights::first || members_.at(groups_[static_cast<std::size_t>(layer->second)]).size() == 1) {
            SKIFF_TRY(const auto own, weights.load(planned.key));
            return make_copy(planned, own);
        }
        SKIFF_TRY(const auto mean, mean_of(planned.key, members_.at(layer->second), weights));
        return make_rounded(planned, mean.dtype, mean.values);
    }

private:
    // Where any layers may have to share, those that cannot are found before groups are measured; else plan() looks at the layers of the groups.
    Status check_plain() const {
        if (!step_.groups.empty() || step_.choice == ShareStep::Choice::even || step_.n_groups >= parent_.spec.n_layers) return {};
        for (std::int64_t layer = 0; layer < parent_.spec.n_layers; ++layer)
            for (const std::string& key : keys_of_layer(layer)) {
                if (!parent_.weights->contains(key)) continue;
                SKIFF_TRY(const auto weight, parent_.weights->load(key));
                if (weight.plain() == nullptr) return not_plain(key, weight);
            }
        return {};
    }

    static Error not_plain(const std::string& key, const Weight& weight) { return unsupported("tensor " + key + " " + state_of(weight) + "; let layers share before the model is pruned or quantized" + or_write_out); }

    std::set<std::string> keys_of_layer(std::int64_t layer) const {
        std::set<std::string> keys;
        for (Op op : parent_.spec.blocks[static_cast<std::size_t>(layer) + 1].ops) for_each_tensor_ref(op, [&](const TensorRef& ref) { keys.insert(ref.key); });
        return keys;
    }

    struct Mean {
        DType dtype;
        std::vector<float> values;
    };
    // Equal weights stay what they are: their sum and its quotient are exact.
    Result<Mean> mean_of(const std::string& key, const std::vector<std::int64_t>& members, const WeightSource& weights) const {
        SKIFF_TRY(const auto own, weights.load(key));
        if (own.plain() == nullptr) return not_plain(key, own);
        std::vector<double> sums(static_cast<std::size_t>(element_count(own.shape)));
        std::vector<float> row(static_cast<std::size_t>(own.n_columns()));
        for (const std::int64_t member : members) {
            SKIFF_TRY(const auto weight, weights.load(key_of_layer(key, member)));
            if (weight.shape != own.shape) return corrupt("has another shape in layer " + std::to_string(member));
            for (std::int64_t r = 0; r < weight.n_rows(); ++r) {
                weight.row(r, row.data());
                for (std::size_t c = 0; c < row.size(); ++c) sums[static_cast<std::size_t>(r) * row.size() + c] += static_cast<double>(row[c]);
            }
            release_pages(weight);
        }
        Mean mean{own.plain()->dtype, std::vector<float>(sums.size())};
        for (std::size_t i = 0; i < sums.size(); ++i) mean.values[i] = static_cast<float>(sums[i] / static_cast<double>(members.size()));
        return mean;
    }

    // The divergence that one group by itself brings, for every group that so many sets of weights allow.
    Result<LayerGroups> measure(ThreadPool& pool, const ProgressSink& progress, std::vector<std::string>& remarks) {
        const std::int64_t n = parent_.spec.n_layers, longest = n - step_.n_groups + 1;
        if (step_.n_groups < 1 || longest < 2) return even_groups(step_.n_groups, n);  // says what is wrong; or nothing is shared
        SKIFF_TRY(text_, load_calibration(parent_, step_.calibration));
        SKIFF_TRY(const auto probe, RemovalProbe::create(parent_, *text_, pool.n_threads(), std::uint64_t{64} << 20));
        measured_tokens_ = probe.n_tokens();
        for (std::string& remark : probe.remarks(*text_)) remarks.push_back(std::move(remark));
        std::map<std::pair<std::int64_t, std::int64_t>, double> costs;
        std::uint64_t n_trials = 0;
        for (std::int64_t size = 2; size <= longest; ++size) n_trials += static_cast<std::uint64_t>(n - size + 1);
        measured_ = Json::array();
        for (std::int64_t first = 0; first < n; ++first)
            for (std::int64_t last = first + 1; last < std::min(n, first + longest); ++last) {
                double& kl = costs.emplace(std::pair{first, last}, std::numeric_limits<double>::infinity()).first->second;
                if (progress) progress({"groups", std::to_string(first) + "-" + std::to_string(last), costs.size(), n_trials});
                if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted before any work was done", {}};
                if (!may_share(parent_.spec, first, last)) break;
                ModelSpec spec = parent_.spec;
                SKIFF_TRY(const auto list, listed_groups({{first, last}}, n));
                SKIFF_CHECK(share_layers(spec, list));
                EditedWeights weights(parent_.weights);
                if (step_.weights == ShareStep::Weights::average) SKIFF_CHECK(replace_by_means(first, last, weights));
                SKIFF_TRY(kl, probe.mean_kl(spec, weights));
                measured_.push_back(Json::object({{"first", first}, {"last", last}, {"mean_kl", kl}}));
            }
        return cheapest_groups(step_.n_groups, n, [&](std::int64_t first, std::int64_t last) {
            const auto found = costs.find({first, last});  // none: longer than any can be, or of layers that differ
            return first == last ? 0 : found != costs.end() ? found->second : std::numeric_limits<double>::infinity();
        });
    }

    Status replace_by_means(std::int64_t first, std::int64_t last, EditedWeights& weights) const {
        std::vector<std::int64_t> members;
        for (std::int64_t layer = first; layer <= last; ++layer) members.push_back(layer);
        for (const std::string& key : keys_of_layer(first)) {
            if (!parent_.weights->contains(key)) continue;
            SKIFF_TRY(auto mean, mean_of(key, members, *parent_.weights));
            weights.replace(key, make_float_weight(parent_.spec.shape(parent_.spec.tensors.at(key)), std::move(mean.values)));
        }
        return {};
    }

    Result<LayerGroups> choose(ThreadPool& pool, const ProgressSink& progress, std::vector<std::string>& remarks) {
        const std::int64_t n_layers = parent_.spec.n_layers;
        if (!step_.groups.empty()) return listed_groups(step_.groups, n_layers);
        if (step_.choice == ShareStep::Choice::even) return even_groups(step_.n_groups, n_layers);
        if (step_.choice == ShareStep::Choice::measured) return measure(pool, progress, remarks);
        SKIFF_TRY(const auto distances, layer_distances(parent_, pool));
        const auto between = [&](std::int64_t a, std::int64_t b) { return distances[static_cast<std::size_t>(a * n_layers + b)]; };
        neighbours_ = Json::array();
        for (std::int64_t layer = 1; layer < n_layers; ++layer) neighbours_.push_back(std::isfinite(between(layer - 1, layer)) ? Json(std::round(between(layer - 1, layer) * 1e4) / 1e4) : Json());
        // What the group's weights lose: squared distances to their mean, or to the first.
        return cheapest_groups(step_.n_groups, n_layers, [&](std::int64_t first, std::int64_t last) {
            double sum = 0;
            for (std::int64_t a = first; a <= last; ++a)
                for (std::int64_t b = a + 1; b <= last; ++b)
                    if (step_.weights == ShareStep::Weights::average || a == first) sum += between(a, b);
            return step_.weights == ShareStep::Weights::average ? sum / static_cast<double>(last - first + 1) : sum;
        });
    }

    // What was measured of a group; "": nothing was.
    std::string kl_text(std::int64_t first, std::int64_t last) const {
        for (const Json& row : measured_.items())
            if (row["first"].int_or(-1) == first && row["last"].int_or(-1) == last) {
                char kl[32];
                std::snprintf(kl, sizeof kl, "%.3g", row["mean_kl"].number_or(0));
                return " (KL of it alone " + std::string(kl) + ")";
            }
        return {};
    }

    std::string text_of_groups() const {
        std::string text;
        for (const auto& [first, members] : members_)
            if (members.size() > 1) text += (text.empty() ? "" : ", ") + std::to_string(first) + "-" + std::to_string(members.back()) + kl_text(first, members.back());
        return text;
    }

    const Checkpoint& parent_;
    const ShareStep& step_;
    LayerGroups groups_;
    std::map<std::int64_t, std::vector<std::int64_t>> members_;  // by the first of each group
    std::map<std::string, std::int64_t> layer_of_;               // of each layer's tensors
    std::uint64_t bytes_before_ = 0, n_before_ = 0;
    Json neighbours_, measured_;
    std::optional<CalibrationText> text_;  // that groups were measured on
    std::int64_t measured_tokens_ = 0;
};

}  // namespace

Json share_step_json(const ShareStep& step) {
    if (step.hash > 0) {
        Json patterns = Json::array();
        for (const std::string& pattern : step.hash_tensors) patterns.push_back(pattern);
        return Json::object({{"kind", "share"}, {"hash", step.hash}, {"hash_tensors", patterns}, {"hash_seed", step.hash_seed}});
    }
    Json json = Json::object({{"kind", "share"}, {"weights", step.weights == ShareStep::Weights::average ? "average" : "first"}});
    if (step.groups.empty()) {
        json.set("groups", step.n_groups);
        static constexpr const char* choices[] = {"measured", "similar", "even"};
        json.set("choose", choices[static_cast<int>(step.choice)]);
        if (step.choice != ShareStep::Choice::measured) return json;
        json.set("calibration_file", base_name(step.calibration.file));
        json.set("calibration_samples", step.calibration.n_samples);
        json.set("calibration_tokens", step.calibration.sample_tokens);
        return json;
    }
    Json::Array groups;
    for (const auto& [first, last] : step.groups) groups.push_back(Json(Json::Array{Json(first), Json(last)}));
    json.set("layers", std::move(groups));
    return json;
}

Result<std::unique_ptr<StepWork>> begin_share(const Checkpoint& parent, const ShareStep& step) {
    if (step.hash > 0) return begin_hash(parent, step);
    if (parent.config.contains(shared_layers_key)) return unsupported(parent.name + ": layers share their weights already; begin with the model that it was made from, or with the copy that skiff convert --to hf writes");
    return std::unique_ptr<StepWork>(new ShareWork(parent, step));
}

}  // namespace skiff
