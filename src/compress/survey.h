// One pass over a weight before the work: is every number finite, how large do they get, and what type must their scales have?
#pragma once

#include <functional>

#include "base/result.h"
#include "base/thread_pool.h"
#include "tensor/weight.h"

namespace skiff {

struct Survey {
    float largest = 0;                 // magnitude
    double sum_of_squares = 0;
    bool needs_wide_scales = false;    // for the scheme asked about: f16 scales might lose too much
};

// `scheme` may be null. Errors: NaN and infinities, with row and column. Errs on the side of wide scales, so that sizes are known beforehand.
Result<Survey> survey_weight(const Weight& weight, const Scheme* scheme, ThreadPool& pool);

// Sum of squared differences between two weights of one shape over the sum of squares of the first; 0 where that is 0. The same for any pool.
double relative_squared_error(const Weight& original, const Weight& result, ThreadPool& pool);

}  // namespace skiff
