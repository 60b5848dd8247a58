// What a table offers of cuDNN (backend/cuda/table.h): plans by shape, made once, and their execution. Errors of the library are numbers from `errors` on.
#pragma once

#include "backend/cuda/table.h"

namespace skiff::cuda::cudnn {

inline constexpr int errors = 30000, not_opened = 40000;

int open(const char* path);
int prepare(const SequenceAttentionArgs& args);
int attend(const SequenceAttentionArgs& args, const Launch& launch);
int prepare(const ConvolutionArgs& args);
int convolve(const ConvolutionArgs& args, const Launch& launch);
// Of the last error of the calling thread that this gave; null for numbers that are none of its.
const char* error_text(int error);

}  // namespace skiff::cuda::cudnn
