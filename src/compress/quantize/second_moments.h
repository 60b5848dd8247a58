// What a linear operator's output loses: E ||(W - Q) x||^2 = tr((W - Q) H (W - Q)^T) with H = E[x x^T]. Rows of W do not know of each other.
#pragma once

#include <optional>
#include <vector>

#include "compress/method.h"

namespace skiff {

// H with `damping` times the mean of its diagonal added to it: columns whose inputs were zero then cost a little, and nothing is singular.
struct SecondMoments {
    const float* gram = nullptr;  // (n, n)
    std::int64_t n = 0;
    float added = 0;              // to the diagonal
    std::vector<float> diagonal;  // of the sum // (n)
};
SecondMoments second_moments(const InputStatistics& inputs, double damping);

// How the errors of columns already rounded move the columns after them. With H = (F + 1) D (F + 1)^T, F strictly upper in the order of the visit, what
// is lost is the sum over columns k of D_k (w_k - q_k + sum over i < k of (w_i - q_i) F_ik)^2: rounding w_k + that sum is the best that can be done
// column by column. It is GPTQ (Frantar et al. 2022), written without the inverse of H (Chee et al. 2023, theorem 6, show that both are one).
struct Feedback {
    std::vector<std::int64_t> order;  // columns in the order of the visit // (n)
    std::vector<float> factor;        // F + 1 // (n, n)
    std::vector<float> own;           // D of each column: what an error there costs when the columns after it have made up for it // (n)
    double damping = 0;               // with which H was positive definite
};
// Nothing: H is not positive definite even with as much damping as the mean of its diagonal.
std::optional<Feedback> make_feedback(const InputStatistics& inputs, const Scheme& scheme, const MethodOptions& options);

}  // namespace skiff
