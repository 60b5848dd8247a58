// How many layers of a model a device has room for (--fit), and what is done with the others.
#pragma once

#include <vector>

#include "backend/cuda/device_session.h"

namespace skiff {

std::int64_t n_layers_of(const ModelSpec& spec);  // blocks between the embedding and the head

// What the parts of a model take there. An estimate: the embedding, two layers and the head are loaded and measured, other layers are taken to be as the second one, by their parameters.
struct DeviceNeeds {
    double available = 0;
    double base = 0;              // the embedding, and what every session takes
    double state_of_layer = 0;    // keys and values of all sequences
    double head = 0;
    std::vector<double> weights;  // of each layer
};
Result<DeviceNeeds> device_needs(const cuda::Table& table, const ModelSpec& spec, const WeightSource& weights, const cuda::DeviceSessionOptions& options);

// The last block of a stretch from the embedding on that fits in the device's free memory, with state for all sequences; the head's where all fits, 0 where no layer does.
std::size_t last_block_that_fits(const DeviceNeeds& needs);
// The first block whose weights are to be copied when they are used, so that the state of all layers, the head, two buffers and the weights of the blocks before it fit. 0: they do not.
std::size_t first_streamed_block(const DeviceNeeds& needs);

// Seconds of a layer, each way: measured with one layer.
struct LayerSpeeds {
    double copy = 0;           // of a byte of its weights to the device
    double token = 0;          // on the processor
    double prompt_token = 0;   // there, of a prompt of 256
};
Result<LayerSpeeds> layer_speeds(const cuda::Table& table, const ModelSpec& spec, const WeightSource& weights, const cuda::DeviceSessionOptions& options, const PlanOptions& processor);

// An answer of 128 tokens to a prompt of 512: what the layers that the device does not keep cost, computed by the processor behind `last`, or copied from `first_streamed` on.
struct OffloadCost {
    double processor = 0, stream = 0;  // seconds
};
OffloadCost offload_cost(const DeviceNeeds& needs, const LayerSpeeds& speeds, std::size_t last, std::size_t first_streamed, std::int64_t max_batch);

}  // namespace skiff
