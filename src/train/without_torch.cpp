// What this folder is where LibTorch is absent.
#include "train/net_training.h"
#include "train/train.h"

namespace skiff::train {

bool training_available() { return false; }
std::string training_library() { return "this program was built without LibTorch, so it cannot train; install libtorch-dev (make test does) and build again"; }
std::string training_ranks() { return {}; }
const GradientSource* gradient_source() { return nullptr; }
Result<TrainReport> run_training(const Checkpoint&, const TrainOptions&, const TrainObserver&) { return unsupported(training_library()); }
Result<net::Net> train_net(const net::Net&, const net::LabelledImages&, const NetTrainOptions&, const std::function<void(const NetEpoch&)>&) { return unsupported(training_library()); }

}  // namespace skiff::train
