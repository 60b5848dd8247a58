#include "train/elastic.h"

#include <algorithm>
#include <numeric>

#include "base/hash.h"
#include "base/rng.h"
#include "compress/structure/cut_axes.h"
#include "compress/structure/layer_choice.h"
#include "compress/structure/removal_probe.h"
#include "train/distillation_loss.h"

namespace skiff::train {
namespace {

constexpr const char* rule_names[] = {"off", "uniform", "fair", "sandwich"};

template <class T>
bool ascends(const std::vector<T>& list) {
    return std::adjacent_find(list.begin(), list.end(), [](const T& a, const T& b) { return !(a < b); }) == list.end();  // nor beside what is no number
}

// Numbers of a step, of a micro-batch, of a dimension: each its own row of random numbers.
Rng rng_of(std::uint64_t seed, std::initializer_list<std::uint64_t> place) { return Rng(hash64(std::as_bytes(std::span(place.begin(), place.size())), seed)); }

// Card `position` of an endless row of decks, each of n cards in a random order.
std::size_t card(std::size_t n, std::uint64_t position, std::uint64_t seed, std::uint64_t dimension) {
    Rng rng = rng_of(seed, {dimension, position / n});
    std::vector<std::size_t> deck(n);
    std::iota(deck.begin(), deck.end(), std::size_t{0});
    for (std::size_t i = n; i > 1; --i) std::swap(deck[i - 1], deck[rng.below(i)]);
    return deck[position % n];
}

// KV groups of every layer; an error where layers differ.
Result<std::int64_t> kv_groups_of(const ModelSpec& spec) {
    SKIFF_TRY(const auto axes, find_cut_axes(spec, UnitKind::kv_groups));
    for (const CutAxis& axis : axes)
        if (axis.n_units != axes[0].n_units) return unsupported("the layers have different numbers of KV groups, so one list of them does not fit all");
    return axes[0].n_units;
}

template <class T>
Json list_json(const std::vector<T>& list) {
    Json json = Json::array();
    for (const T& value : list) json.push_back(value);
    return json;
}

class Elastic final : public Objective {
public:
    Elastic(const TrainableModel& model, const ElasticSpace& space, std::unique_ptr<Objective> whole, const TrainOptions& options)
        : model_(model), space_(space), whole_(std::move(whole)), seed_(options.seed), loss_{options.distill.divergence, options.distill.temperature, 1, options.distill.beta} {}

    Result<double> add_gradients(const MicroBatch& batch) override {
        const auto choices = space_.drawn(seed_, batch.step, batch.micro);
        MicroBatch part = batch;
        part.scale = batch.scale / static_cast<double>(choices.size());
        at::Tensor taught;  // what the largest network's head reads
        double total = 0;
        for (const ElasticChoice& choice : choices) {
            const bool is_largest = choice == space_.largest();
            part.network = space_.network(choice);
            part.look = nullptr;
            if (is_largest && space_.teaches_itself() && !taught.defined()) part.look = [&](const Pass& pass) { taught = pass.hidden.detach(); };
            if (is_largest || !space_.teaches_itself()) {
                SKIFF_TRY(const double loss, whole_->add_gradients(part));
                total += loss;
                continue;
            }
            if (!taught.defined()) {
                const at::NoGradGuard no_grad;
                taught = model_.observe(batch.inputs, {}, space_.network(space_.largest())).hidden;
            }
            total += from_largest(part, taught);
        }
        return total;
    }

    std::vector<ParameterSet::Trained> trained() const override { return whole_->trained(); }
    Json describe() const override { return whole_->describe(); }

private:
    // Its distribution alone: no label (BigNAS, section 3.1).
    double from_largest(const MicroBatch& part, const at::Tensor& taught) const {
        const at::Tensor targets = part.targets.reshape({-1});
        const LogitsLoss loss = [&](const at::Tensor& logits, std::int64_t first) {
            SoftTargets soft;
            {
                const at::NoGradGuard no_grad;
                soft.logits = model_.head(taught.narrow(0, first, logits.size(0))).to(at::kFloat);
            }
            return distillation_loss(logits, soft, targets.narrow(0, first, logits.size(0)), loss_, part.scale, model_.options().form);
        };
        return model_.add_gradients(part.inputs, loss, part.network, {}, nullptr);
    }

    const TrainableModel& model_;
    const ElasticSpace& space_;
    std::unique_ptr<Objective> whole_;
    std::uint64_t seed_;
    DistillLossSettings loss_;
};

}  // namespace

Status check_elastic(const TrainOptions& options) {
    const ElasticOptions& elastic = options.elastic;
    auto need = [](bool holds, const char* message) { return holds ? Status() : Status(usage_error(message)); };
    const bool lists = !elastic.neurons.empty() || !elastic.kv_groups.empty() || !elastic.layers.empty();
    if (elastic.rule == ElasticOptions::Rule::off) return need(!lists && elastic.n_random == ElasticOptions().n_random && elastic.teach == ElasticOptions().teach, "options that begin with --elastic- need --elastic uniform, fair or sandwich");
    SKIFF_CHECK(need(lists, "--elastic needs what sub-networks keep: --elastic-neurons, --elastic-kv-groups or --elastic-layers"));
    SKIFF_CHECK(need(ascends(elastic.neurons) && ascends(elastic.kv_groups) && ascends(elastic.layers), "lists of --elastic must ascend, without repetition"));
    SKIFF_CHECK(need(elastic.neurons.empty() || (elastic.neurons.front() > 0 && elastic.neurons.back() == 1), "--elastic-neurons are shares above 0, of which the last is 1: the whole model"));
    SKIFF_CHECK(need((elastic.kv_groups.empty() || elastic.kv_groups.front() >= 1) && (elastic.layers.empty() || elastic.layers.front() >= 1), "--elastic-kv-groups and --elastic-layers are what stays: at least 1"));
    SKIFF_CHECK(need(elastic.neurons.size() > 1 || !elastic.kv_groups.empty() || elastic.layers.size() > 1, "--elastic: the lists hold the whole model alone; give what sub-networks keep, too"));
    SKIFF_CHECK(need(elastic.rule == ElasticOptions::Rule::sandwich || elastic.n_random == ElasticOptions().n_random, "--elastic-random is for --elastic sandwich"));
    SKIFF_CHECK(need(elastic.n_random >= 0 && elastic.n_random <= 64, "--elastic-random must be 0 to 64"));
    SKIFF_CHECK(need(options.layer_drop == 0, "--elastic decides which layers are left out; leave --layer-drop out"));
    SKIFF_CHECK(need(options.lora_rank == 0, "--elastic trains the weights themselves; leave --lora out"));
    SKIFF_CHECK(need(!options.quant.schemes, "sub-networks are cut out of plain weights: train them, then quantize; leave --elastic out"));
    return need(options.distill.block_wise == DistillOptions::BlockWise::off, "--block-wise trains blocks that never meet; leave --elastic out");
}

Result<ElasticSpace> ElasticSpace::create(TrainableModel& model, const ElasticOptions& options) {
    ElasticSpace space(model, options);
    const ModelSpec& spec = model.spec();
    space.neurons_ = options.neurons.empty() ? std::vector<double>{1} : options.neurons;
    space.layers_ = options.layers.empty() ? std::vector<std::int64_t>{spec.n_layers} : options.layers;
    space.kv_groups_ = options.kv_groups;
    space.order_ = elastic_layer_order(spec.n_layers);
    if (space.layers_.back() != spec.n_layers) return usage_error("--elastic-layers: the last must be the model's " + std::to_string(spec.n_layers) + ", so that all are trained");
    std::vector<CutAxis> neurons, groups;
    if (space.neurons_.size() > 1) {
        SKIFF_TRY(neurons, find_cut_axes(spec, UnitKind::neurons));
    }
    if (!options.kv_groups.empty()) {
        SKIFF_TRY(const std::int64_t n_groups, kv_groups_of(spec));
        SKIFF_TRY(groups, find_cut_axes(spec, UnitKind::kv_groups));
        if (options.kv_groups.back() != n_groups) return usage_error("--elastic-kv-groups: the last must be the model's " + std::to_string(n_groups) + ", so that all are trained");
    } else {
        space.kv_groups_ = {0};  // as many as there are
    }
    for (const double share : space.neurons_)
        for (const std::int64_t n_kept : space.kv_groups_) {
            std::vector<CutAxis> cuts;
            for (CutAxis axis : neurons) {
                SKIFF_TRY(axis.n_kept, units_kept({Removal::By::share, 1 - share}, axis.n_units, StructureStep().multiple_of));
                if (axis.n_kept < axis.n_units) cuts.push_back(axis);
                else if (share < 1) return usage_error("--elastic-neurons: of " + std::to_string(axis.n_units) + " neurons, widths being a multiple of " + std::to_string(StructureStep().multiple_of) + ", none would go; give a smaller share");
            }
            for (CutAxis axis : groups) {
                axis.n_kept = n_kept;
                if (n_kept < axis.n_units) cuts.push_back(axis);
            }
            SKIFF_TRY(const std::size_t widths, model.add_leading_units(cuts));
            space.widths_.push_back(widths);
        }
    return space;
}

std::vector<ElasticChoice> ElasticSpace::all() const {
    std::vector<ElasticChoice> list;
    for (std::size_t n = 0; n < neurons_.size(); ++n)
        for (std::size_t g = 0; g < kv_groups_.size(); ++g)
            for (std::size_t l = 0; l < layers_.size(); ++l) list.push_back({n, g, l});
    return list;
}

SubNetwork ElasticSpace::network(const ElasticChoice& choice) const {
    SubNetwork network;
    network.widths = widths_[choice.neurons * kv_groups_.size() + choice.kv_groups];
    const std::int64_t n_layers = model_->spec().n_layers, n_out = n_layers - layers_[choice.layers];
    if (n_out == 0) return network;
    network.dropped.assign(static_cast<std::size_t>(n_layers), false);
    for (std::int64_t i = 0; i < n_out; ++i) network.dropped[static_cast<std::size_t>(order_[static_cast<std::size_t>(i)])] = true;
    return network;
}

std::int64_t ElasticSpace::n_parameters(const ElasticChoice& choice) const {
    const SubNetwork part = network(choice);
    std::set<std::size_t> blocks;
    for (std::size_t i = 0; i < part.dropped.size(); ++i)
        if (part.dropped[i]) blocks.insert(i + 1);
    return without_blocks(model_->spec_of(part), blocks).n_parameters();
}

std::vector<ElasticChoice> ElasticSpace::drawn(std::uint64_t seed, std::int64_t step, std::int64_t micro) const {
    using Rule = ElasticOptions::Rule;
    const auto at_step = static_cast<std::uint64_t>(step);
    Rng rng = rng_of(seed, {0, at_step, static_cast<std::uint64_t>(micro)});
    const auto any = [&] { return ElasticChoice{rng.below(neurons_.size()), rng.below(kv_groups_.size()), rng.below(layers_.size())}; };
    std::vector<ElasticChoice> list;
    if (options_.rule == Rule::fair) {
        const std::size_t n = std::max({neurons_.size(), kv_groups_.size(), layers_.size()});
        for (std::size_t i = 0; i < n; ++i) {
            const std::uint64_t position = at_step * n + i;
            list.push_back({card(neurons_.size(), position, seed, 1), card(kv_groups_.size(), position, seed, 2), card(layers_.size(), position, seed, 3)});
        }
        // The largest first: the others may learn from it.
        std::stable_partition(list.begin(), list.end(), [&](const ElasticChoice& choice) { return choice == largest(); });
        return list;
    }
    if (options_.rule == Rule::uniform) return {any()};
    list = {largest(), {}};
    for (std::int64_t i = 0; i < options_.n_random; ++i) list.push_back(any());
    return list;
}

bool ElasticSpace::teaches_itself() const {
    using Teach = ElasticOptions::Teach;
    return options_.teach == Teach::largest || (options_.teach == Teach::automatic && options_.rule == ElasticOptions::Rule::sandwich);
}

Json ElasticSpace::describe() const {
    Json json = Json::object({{"rule", rule_names[static_cast<std::size_t>(options_.rule)]},
                              {"neurons", list_json(neurons_)},
                              {"layers", list_json(layers_)},
                              {"layers_leave_in_order", list_json(order_)},
                              {"learn_from", teaches_itself() ? "largest" : "same"}});
    if (!options_.kv_groups.empty()) json.set("kv_groups", list_json(kv_groups_));
    if (options_.rule == ElasticOptions::Rule::sandwich) json.set("random", options_.n_random);
    return json;
}

std::unique_ptr<Objective> elastic_objective(const TrainableModel& model, const ElasticSpace& space, std::unique_ptr<Objective> whole, const TrainOptions& options) {
    return std::make_unique<Elastic>(model, space, std::move(whole), options);
}

}  // namespace skiff::train
