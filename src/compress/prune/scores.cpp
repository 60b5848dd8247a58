// Pruning by a score of each weight by itself: its size, its size times that of its input (Wanda, Sun et al. 2023), or times the loss's gradient by it (SNIP, Lee
// et al. 2019, equation 3 with the sum over samples outside; squared: the first-order Taylor score of Molchanov et al. 2019, equation 8).
#include <cmath>

#include "compress/prune/prune_method.h"

namespace skiff {
namespace {

// (n_rows, n_columns) of score(weight, column)
template <class Score>
std::vector<float> scores_of(const Weight& weight, ThreadPool& pool, Score score) {
    const std::int64_t n_rows = weight.n_rows(), n_columns = weight.n_columns();
    std::vector<float> scores(static_cast<std::size_t>(n_rows * n_columns));
    pool.run([&](int thread) {
        const Range rows = share_of(n_rows, thread, pool.n_threads());
        for (std::int64_t row = rows.begin; row < rows.end; ++row) {
            float* target = scores.data() + row * n_columns;
            weight.row(row, target);
            for (std::int64_t column = 0; column < n_columns; ++column) target[column] = score(target[column], column);
        }
    });
    return scores;
}

Result<Pruned> keep_best(const PruneInput& input, const std::vector<float>& scores) {
    return Pruned{input.weight, choose_units(input.target, scores, input.weight.n_rows(), input.weight.n_columns(), &input.pool)};
}

}  // namespace

Status any_pattern(const PruneTarget&) { return {}; }

Result<std::vector<float>> magnitude_scores(const PruneInput& input) {
    return scores_of(input.weight, input.pool, [](float w, std::int64_t) { return std::fabs(w); });
}

Result<std::vector<float>> magnitude_squared_scores(const PruneInput& input) {
    return scores_of(input.weight, input.pool, [](float w, std::int64_t) { return w * w; });
}

Result<std::vector<float>> wanda_input_scores(const PruneInput& input) {
    if (input.inputs == nullptr || static_cast<std::int64_t>(input.inputs->mean_square.size()) != input.weight.n_columns()) return runtime_error("its inputs were not measured, so that it cannot be compared with other layers; take --allocation uniform");
    return wanda_scores(input.weight, input.inputs->mean_square, input.pool);
}

Result<std::vector<float>> sensitivity_scores(const PruneInput& input) {
    if (input.sensitivity.empty()) return runtime_error("its gradients were not measured, so that it cannot be compared with other layers; take --allocation uniform");
    return std::vector<float>(input.sensitivity.begin(), input.sensitivity.end());
}

Result<Pruned> magnitude_prune(const PruneInput& input) {
    SKIFF_TRY(const auto scores, magnitude_scores(input));
    return keep_best(input, scores);
}

Result<Pruned> magnitude_squared_prune(const PruneInput& input) {
    SKIFF_TRY(const auto scores, magnitude_squared_scores(input));
    return keep_best(input, scores);
}

std::vector<float> wanda_scores(const Weight& weight, std::span<const float> mean_square, ThreadPool& pool) {
    std::vector<float> sizes;
    for (float square : mean_square) sizes.push_back(std::sqrt(square));
    return scores_of(weight, pool, [&](float w, std::int64_t column) { return std::fabs(w) * sizes[static_cast<std::size_t>(column)]; });
}

Result<Pruned> wanda_prune(const PruneInput& input) {
    if (input.inputs == nullptr || static_cast<std::int64_t>(input.inputs->mean_square.size()) != input.weight.n_columns()) {
        if (input.remarks != nullptr) input.remarks->push_back("pruned by magnitude: its inputs were not measured");
        return magnitude_prune(input);
    }
    return keep_best(input, wanda_scores(input.weight, input.inputs->mean_square, input.pool));
}

Result<Pruned> sensitivity_prune(const PruneInput& input) {
    if (input.sensitivity.empty()) {
        if (input.remarks != nullptr) input.remarks->push_back("pruned by magnitude: its gradients were not measured");
        return magnitude_prune(input);
    }
    return Pruned{input.weight, choose_units(input.target, input.sensitivity, input.weight.n_rows(), input.weight.n_columns(), &input.pool)};
}

}  // namespace skiff
