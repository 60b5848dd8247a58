// Vectors: books for a weight, then scales and codes of its rows.
#pragma once

#include "tensor/vector_books.h"
#include "tensor/weight.h"

namespace skiff {

// What a weight of vectors is made of, before it is packed. Entries are whole numbers, scales as they will be read.
struct FittedVectors {
    Scheme scheme;  // F32 scales where F16 would lose too much
    VectorBooks books;
    std::vector<RowParams> params;     // (n_rows)
    std::vector<std::uint16_t> codes;  // (n_rows, n_codes)
};

// Books by k-means over vectors of rows spread over the weight, each divided by the scale of its group; then for every row the scales and codes that lose least.
// Errors weigh as `importance` (n_columns) says; it may be empty. Refuses NaN and infinities with the row and column. The bits do not depend on the pool.
Result<FittedVectors> fit_vectors(const Weight& source, const Scheme& scheme, std::span<const float> importance, ThreadPool* pool);
Weight pack_vectors(const FittedVectors& fitted, std::int64_t n_rows, std::int64_t n_columns);
Result<Weight> encode_vectors(const Weight& source, const Scheme& scheme, std::span<const float> importance, ThreadPool* pool);

// The best stored scale of a group near `wanted`.
GroupParams stored_vector_scale(const Scheme& scheme, float super_scale, float wanted);

}  // namespace skiff
