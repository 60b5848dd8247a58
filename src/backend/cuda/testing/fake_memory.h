// The runtime of the devices that are none: memory, streams, events and captures on the host. Both stand on it: the one that computes by plain loops (fake_device.cpp) and the one that
// runs the kernels' own sources (emulated_device.cpp).
//
// It is stricter than a device. Memory comes filled with NaN; an address that no allocation holds is refused; work waits in the stream until somebody waits for
// it, so that host memory which changes too early shows; a capture refuses what CUDA refuses. SKIFF_FAKE_DEVICE_MIB is its memory, SKIFF_FAKE_PINNED_MIB what the host can lock; SKIFF_FAKE_CAPTURE_FAILS_AT the step of a capture
// that fails, SKIFF_FAKE_FAILS_AT the copy or launch that does, counted from when it was set.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "backend/cuda/table.h"

namespace skiff::cuda::fake {

enum FakeError : int { good = 0, bad_value = 1, out_of_memory = 2, not_ready = 600, in_capture = 900, wrong_form = 901, not_supported = 10015 };

// Whether an allocation of the device holds it.
bool here(const void* address, std::size_t size);
inline bool here_or_none(const void* address, std::size_t size) { return address == nullptr || here(address, size); }
template <class T>
bool floats(const T* address, std::int64_t n) {
    return here_or_none(address, static_cast<std::size_t>(std::max<std::int64_t>(n, 0)) * sizeof(T));
}
inline bool rows(const float* address, std::int64_t n, std::int64_t width, std::int64_t stride) { return address == nullptr || (stride >= width && floats(address, (n - 1) * stride + width)); }

// A grid has this many blocks in its second and third dimension, where kernels have a token for each.
inline bool grid(std::int64_t n) { return n <= 65535; }

// What the library wants of products of 8-bit floats.
inline bool fp8_product_can_be(const MatmulArgs& args) {
    const auto whole = [](std::int64_t n) { return n % 16 == 0; };
    return whole(args.n_rows) && whole(args.n_columns) && whole(args.weight_stride) && whole(args.x_stride) && whole(static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(args.weight))) &&
           whole(static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(args.x))) && args.bias == nullptr;
}

using Task = std::function<int()>;
int put(Stream stream, Task task);  // behind what waits in the stream, or into its capture

// Everything of memory, order and graphs goes into the table, and what opens the library: "broken" cannot be opened, "picky" has no algorithm for odd numbers of tokens.
void add_runtime(Table& table);

}  // namespace skiff::cuda::fake
