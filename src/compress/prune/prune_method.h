// The methods that say which weights stay, one row each in prune_table.cpp, with the patterns that each is defined on.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "compress/calibrate/statistics.h"
#include "tensor/prune_target.h"
#include "tensor/weight.h"

namespace skiff {

struct PruneInput {
    const Weight& weight;                     // (outputs, inputs), plain
    const PruneTarget& target;                // resolved for it
    ThreadPool& pool;
    const InputStatistics* inputs = nullptr;  // of the operators that read it; null: not measured
    double damping = 0.01;                    // SparseGPT: added to the diagonal of the second moments, times its mean
    std::vector<std::string>* remarks = nullptr;  // what was done otherwise than asked, and why
    std::span<const float> sensitivity = {};  // the sums over samples that PruneMethod::gradients asks for; empty: not measured // (outputs, inputs)
};

struct Pruned {
    Weight weight;                    // with what is kept, perhaps moved; what is dropped may be anything
    std::vector<std::byte> bitmask;   // keeps target.n_kept_units(); as Sparse has it
};

// The result's bits do not depend on the pool.
struct PruneMethod {
    std::string_view name, summary;
    Status (*defined_on)(const PruneTarget& target);  // an error that says why not
    Result<Pruned> (*prune)(const PruneInput& input);
    StatisticsNeed needs = StatisticsNeed::none;      // without inputs it does what `magnitude` does, and says so
    // Of weight times gradient, what is summed over the samples of the calibration text; without it the same.
    enum class Gradients : std::uint8_t { none, magnitudes, squares } gradients = Gradients::none;
    // What it keeps most of, by which layers can be compared too; null: it has no score that stands still while it works. // (outputs, inputs)
    Result<std::vector<float>> (*scores)(const PruneInput& input) = nullptr;
};

std::span<const PruneMethod> prune_methods();
Result<const PruneMethod*> find_prune_method(std::string_view name);  // a usage error lists the names

// ---- the methods, one file each
Status any_pattern(const PruneTarget& target);
Result<Pruned> magnitude_prune(const PruneInput& input);          // |w|; of a unit the mean: L1
Result<Pruned> magnitude_squared_prune(const PruneInput& input);  // w^2; of a unit the mean: L2
Result<Pruned> wanda_prune(const PruneInput& input);
Result<Pruned> sensitivity_prune(const PruneInput& input);        // by what was summed of weight times gradient
Status sparsegpt_defined_on(const PruneTarget& target);
Result<Pruned> sparsegpt_prune(const PruneInput& input);

Result<std::vector<float>> magnitude_scores(const PruneInput& input);
Result<std::vector<float>> magnitude_squared_scores(const PruneInput& input);
Result<std::vector<float>> wanda_input_scores(const PruneInput& input);
Result<std::vector<float>> sensitivity_scores(const PruneInput& input);

// |w| sqrt(E[x^2]): Sun et al. 2023, Wanda, equation 1 up to a common factor. // (n_rows, n_columns)
std::vector<float> wanda_scores(const Weight& weight, std::span<const float> mean_square, ThreadPool& pool);

}  // namespace skiff
