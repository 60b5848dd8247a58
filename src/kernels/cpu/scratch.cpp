#include "kernels/cpu/scratch.h"

#include "tensor/tensor.h"

namespace skiff {

float* thread_scratch(std::int64_t n_floats) {
    thread_local AlignedBuffer buffer;
    const auto wanted = static_cast<std::size_t>(n_floats) * sizeof(float);
    if (buffer.size_bytes() < wanted) buffer = AlignedBuffer(wanted);
    return buffer.as<float>();
}

TokensSpace thread_tokens(const TokensKey& key, std::int64_t n_floats) {
    thread_local AlignedBuffer buffer;
    thread_local TokensKey held = {};
    const bool known = key.epoch != 0 && key == held;
    const auto wanted = static_cast<std::size_t>(n_floats) * sizeof(float);
    if (buffer.size_bytes() < wanted) buffer = AlignedBuffer(wanted);
    held = key;
    return {buffer.as<float>(), known};
}

}  // namespace skiff
