// Block encoders, for the types that files are written in. Scales are searched for the least squared error, weighed by `importance`
// (n_weights numbers >= 0, or null for all ones). Input must be finite; what is not gives a block without meaning, never undefined behaviour.
// Same numbers in, same bytes out, on every machine.
#pragma once

#include <cstdint>

namespace skiff::blocks {

void encode_q4_0(const float* source, const float* importance, std::int64_t n_weights, void* blocks);
void encode_q4_1(const float* source, const float* importance, std::int64_t n_weights, void* blocks);
void encode_q5_0(const float* source, const float* importance, std::int64_t n_weights, void* blocks);
void encode_q5_1(const float* source, const float* importance, std::int64_t n_weights, void* blocks);
void encode_q8_0(const float* source, const float* importance, std::int64_t n_weights, void* blocks);  // plain rounding, no search
void encode_iq4_nl(const float* source, const float* importance, std::int64_t n_weights, void* blocks);
void encode_q4_k(const float* source, const float* importance, std::int64_t n_weights, void* blocks);
void encode_q5_k(const float* source, const float* importance, std::int64_t n_weights, void* blocks);
void encode_q6_k(const float* source, const float* importance, std::int64_t n_weights, void* blocks);

}  // namespace skiff::blocks
