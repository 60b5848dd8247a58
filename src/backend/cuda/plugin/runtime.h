// The plug-in's own parts of the table (table.cpp puts them together with the kernels). Compiled by the host's compiler.
#pragma once

#include "backend/cuda/table.h"

namespace skiff::cuda {

// Everything of memory, order and graphs goes into the table.
void add_runtime(Table& table);

// cuBLASLt, opened by name. Errors of the library are numbers from cublaslt_errors on.
inline constexpr int cublaslt_errors = 10000, cublaslt_not_opened = 20000;
int open_cublaslt(const char* path);
int prepare_cublaslt(const MatmulArgs& args);
int multiply_cublaslt(const MatmulArgs& args, const Launch& launch);

}  // namespace skiff::cuda
