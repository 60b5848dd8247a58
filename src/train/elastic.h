// Elastic (one-shot) training: one set of weights, of which the leading units and a nested choice of layers are models of their own, trained together so that
// each can be cut out without training.
#pragma once

#include "train/objective.h"

namespace skiff::train {

Status check_elastic(const TrainOptions& options);

// A sub-network: places in the lists of the options.
struct ElasticChoice {
    std::size_t neurons = 0, kv_groups = 0, layers = 0;
    bool operator==(const ElasticChoice&) const = default;
};

class ElasticSpace {
public:
    // Lists that are not given have one entry, the whole. Adds the widths to the model. Errors where the lists do not fit it.
    static Result<ElasticSpace> create(TrainableModel& model, const ElasticOptions& options);

    ElasticChoice largest() const { return {neurons_.size() - 1, kv_groups_.size() - 1, layers_.size() - 1}; }
    std::vector<ElasticChoice> all() const;
    SubNetwork network(const ElasticChoice& choice) const;
    std::int64_t n_parameters(const ElasticChoice& choice) const;

    // What a micro-batch trains. uniform: one, each dimension drawn by itself (SPOS, Guo et al. 2020). fair: as many as the longest list is; each list is dealt
    // out as shuffled decks, one after the other, so that every entry of the longest comes once a step and no entry is ever two ahead (strict fairness of
    // FairNAS, Chu et al. 2021, for lists of any length). sandwich: the largest, the smallest, and some at random (BigNAS, Yu et al. 2020).
    std::vector<ElasticChoice> drawn(std::uint64_t seed, std::int64_t step, std::int64_t micro) const;

    bool teaches_itself() const;  // sub-networks learn from the largest one's distribution
    Json describe() const;        // for the manifest and the fingerprint
    double neurons(const ElasticChoice& choice) const { return neurons_[choice.neurons]; }
    std::int64_t kv_groups(const ElasticChoice& choice) const { return kv_groups_[choice.kv_groups]; }
    std::int64_t layers(const ElasticChoice& choice) const { return layers_[choice.layers]; }

private:
    ElasticSpace(const TrainableModel& model, const ElasticOptions& options) : model_(&model), options_(options) {}
    const TrainableModel* model_;
    ElasticOptions options_;
    std::vector<double> neurons_;
    std::vector<std::int64_t> kv_groups_, layers_, order_;
    std::vector<std::size_t> widths_;  // the model's, by neurons and KV groups
};

// `whole` is what the largest network minimises, and all others where they do not learn from it. The references must outlive the objective.
std::unique_ptr<Objective> elastic_objective(const TrainableModel& model, const ElasticSpace& space, std::unique_ptr<Objective> whole, const TrainOptions& options);

}  // namespace skiff::train
