#include <torch/version.h>

#include "train/train.h"

namespace skiff::train {

bool training_available() { return true; }
std::string training_library() { return "LibTorch " TORCH_VERSION; }

}  // namespace skiff::train
