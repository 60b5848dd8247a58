// What the fused operators share: numbers of a tensor as the row kernels take them, and rows shared among threads.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "train/row_kernels.h"

namespace skiff::train {

template <class T>
T* numbers(const at::Tensor& tensor) {
    return static_cast<T*>(tensor.data_ptr());
}

// Runs fn(float) or fn(Bf16) by the tensor's number type.
template <class Fn>
void by_number_type(const at::Tensor& tensor, Fn&& fn) {
    if (tensor.scalar_type() == at::kBFloat16) fn(Bf16{});
    else fn(float{});
}

// As composed operators compute: f32 for bf16; f64 stays, so that tests can take differences in it.
inline at::Tensor widened(const at::Tensor& tensor) { return tensor.scalar_type() == at::kDouble ? tensor : tensor.to(at::kFloat); }

inline bool can_fuse(const at::Tensor& tensor) {
    return tensor.is_cpu() && (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16);
}

// fn(first, last) over [0, n) on all threads. What it does must not depend on how rows are shared.
template <class Fn>
void for_rows(std::int64_t n, std::int64_t grain, Fn&& fn) {
    at::parallel_for(0, n, grain, [&](std::int64_t first, std::int64_t last) { fn(first, last); });
}

}  // namespace skiff::train
