#include "kernels/cpu/scratch.h"

#include "tensor/tensor.h"

namespace skiff {

float* thread_scratch(std::int64_t n_floats) {
    thread_local AlignedBuffer buffer;
    const auto wanted = static_cast<std::size_t>(n_floats) * sizeof(float);
    if (buffer.size_bytes() < wanted) buffer = AlignedBuffer(wanted);
    return buffer.as<float>();
}

}  // namespace skiff
