#include "train/objective.h"

namespace skiff::train {
namespace {

class Labels final : public Objective {
public:
    explicit Labels(const TrainableModel& model) : model_(model) {}
    Result<double> add_gradients(const MicroBatch& batch) override { 
        InsideLoss inside;
        if (batch.look) inside = [&](const Pass& pass) { return batch.look(pass), at::Tensor(); };
        return model_.add_gradients(batch.inputs, batch.targets, batch.scale, batch.network, inside);
    }

private:
    const TrainableModel& model_;
};

}  // namespace

std::unique_ptr<Objective> label_objective(const TrainableModel& model) { return std::make_unique<Labels>(model); }

}  // namespace skiff::train
