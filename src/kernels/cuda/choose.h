// The choice of a token among the largest logits, in the sampler's order of steps (runtime/sampler.cpp) and in its double precision, so that host and device choose the same token by the
// same random number: min-p and top-p by the probabilities before the temperature, then the temperature, then one subtraction after another.
#pragma once

#include "kernels/cuda/hd.h"

namespace skiff::cuda {

struct ChoiceLimits {
    double top_p, log_min_p;
};

// weights[i] = exp(score i - highest), chances[i] = exp((score i - highest) / temperature), of n falling scores // scores: (n) f32, weights, chances: (n) f64
SKIFF_HD int choose_token(const ChoiceLimits& limits, const float* scores, const double* weights, const double* chances, int n, double uniform) {
    const float lowest = static_cast<float>(static_cast<double>(scores[0]) + limits.log_min_p);
    int n_kept = 1;
    while (n_kept < n && scores[n_kept] >= lowest) ++n_kept;
    if (limits.top_p < 1) {
        double total = 0, before = 0;
        for (int i = 0; i < n_kept; ++i) total += weights[i];
        const double target = limits.top_p * total;
        int n_nucleus = 0;
        while (n_nucleus < n_kept && before < target) before += static_cast<double>(static_cast<float>(weights[n_nucleus++]));
        n_kept = n_nucleus > 0 ? n_nucleus : 1;
    }
    double total = 0;
    for (int i = 0; i < n_kept; ++i) total += chances[i];
    for (int i = 0; i < n_kept; ++i) {
        uniform -= chances[i] / total;
        if (uniform < 0) return i;
    }
    int last = n_kept - 1;  // rounding left a little: the last that has a chance
    while (last > 0 && chances[last] / total == 0) --last;
    return last;
}

}  // namespace skiff::cuda
