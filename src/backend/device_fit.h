// How many layers of a model a device has room for (--fit).
#pragma once

#include "backend/cuda/device_session.h"

namespace skiff {

std::int64_t n_layers_of(const ModelSpec& spec);  // blocks between the embedding and the head

// The last block of a stretch from the embedding on that fits in the device's free memory, with state for all sequences; the head's where all fits, 0 where no layer does.
// An estimate: the embedding, two layers and the head are loaded and measured, other layers are taken to be as the second one, by their parameters.
Result<std::size_t> last_block_that_fits(const cuda::Table& table, const ModelSpec& spec, const WeightSource& weights, const cuda::DeviceSessionOptions& options);

}  // namespace skiff
