// What the fake device's operators share. Operands are f32 here, whatever their form: only the kernels' own tests know the fragments (kernels/cuda).
#pragma once

#include "backend/cuda/testing/fake_memory.h"

namespace skiff::cuda::fake {

std::size_t fake_operand_bytes(OperandForm form, std::int64_t n_tokens, std::int64_t n_columns);
bool operand_here(const Operand& operand, std::int64_t n_tokens);
void write_operand(const Operand& operand, std::int64_t token, std::int64_t column, float value);
bool next_here(const NextNorm& next, std::int64_t n_tokens, std::int64_t width);
void write_next(const NextNorm& next, std::int64_t token, const float* row, std::int64_t width);  // row: (width)
int norm(const NormLaunchArgs& args, const Launch& launch);
float activated(Activation kind, float x);
inline std::int64_t sequence_of(const TokenView& tokens, std::int64_t t) { return tokens.sequences != nullptr ? tokens.sequences[t] : t; }

// Each gives the table its operators and the sizes that go with them.
void add_matrices(Table& table);
void add_rows(Table& table);
void add_experts(Table& table);
void add_state(Table& table);
void add_windows(Table& table);
void add_cudnn(Table& table);  // of the emulated device, too

}  // namespace skiff::cuda::fake
