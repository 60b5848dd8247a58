// Training of small networks (src/net): labels, or labels and a teacher, to the weights that src/net runs. No LibTorch here.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "net/images.h"

namespace skiff::train {

struct NetTrainOptions {
    std::int64_t n_epochs = 5, batch = 64;
    double learning_rate = 2e-3, weight_decay = 0.01;  // along half a cosine to zero
    std::uint64_t seed = 1;
    const net::Net* teacher = nullptr;  // null: the labels alone
    double temperature = 4;             // of teacher and student; the divergence is multiplied by its square (Hinton et al. 2015)
    double alpha = 0.7;                 // of the divergence; the label has the rest
    enum class Zeros : std::uint8_t { keep, train } zeros = Zeros::train;
    int n_threads = 1;
};
struct NetEpoch {
    std::int64_t epoch, n_epochs;  // epoch counts from 1
    double loss, seconds;          // mean over the epoch; since the beginning
};

// The same network with weights that fit the images. Codes are decoded first: quantize afterwards.
Result<net::Net> train_net(const net::Net& net, const net::LabelledImages& images, const NetTrainOptions& options, const std::function<void(const NetEpoch&)>& on_epoch);

// What training computes: for tests. // x: (n, input) f32; the result (n, output) f32
Result<std::vector<float>> net_outputs_in_training(const net::Net& net, std::span<const float> x);

}  // namespace skiff::train
