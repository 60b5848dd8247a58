// Masks that leave the largest weights, made while training goes on or taken from another model: gradual pruning (Zhu and Gupta 2017), pruning and
// training by turns (Han et al. 2015), lottery tickets (Frankle and Carbin 2019).
#pragma once

#include "train/parameters.h"
#include "train/train.h"

namespace skiff::train {

// The share of weights that are zero from `step` (from 0) on. cubic: initial + (target - initial) (1 - (1 - t)^3) with t = step / until; stages: the
// same span in equal stairs; once: target at once.
double sparsity_at(const SparsifyOptions& options, std::int64_t step);
// Whether masks are made anew before this step.
bool prunes_before(const SparsifyOptions& options, std::int64_t step);

// Zeros (0) and what stays (1) of each matrix so that `sparsity` of them are zero: the smallest magnitudes of each row of outputs, of each tensor, or of
// all together. N:M patterns leave the n largest of each m inputs. Ties go to the lower index. // magnitudes: (outputs, inputs) f32 each
std::vector<at::Tensor> magnitude_masks(const std::vector<at::Tensor>& magnitudes, double sparsity, SparsifyOptions::Scope scope);
at::Tensor pattern_mask(const at::Tensor& magnitudes, std::int64_t n, std::int64_t m);

// What is masked need not be written where that is smaller, if it was until now.
void leave_out_zeros(Parameter& parameter, const SparsePattern& pattern);

class MagnitudeMasks {
public:
    // Gives every linear matrix of the blocks a mask of ones, or what `parameters` have masked already.
    MagnitudeMasks(const ModelSpec& spec, ParameterSet& parameters, const SparsifyOptions& options);
    // Before the first step, where masks come from another model of this shape; the weights that fall out become zero.
    Status take_from(const Checkpoint& other);
    // After a state was read: what is zero was pruned.
    void take_from_zeros();
    // Prunes if it is time. True: weights have changed.
    bool before_step(std::int64_t step);
    double sparsity() const;  // as it is now, of the masked matrices
    struct Count {
        double zeros = 0, all = 0;
    };
    Count count() const;

private:
    void prune(const std::vector<at::Tensor>& magnitudes, double sparsity);
    at::Tensor as_rows(const Parameter& parameter, const at::Tensor& values) const;
    ParameterSet& parameters_;
    SparsifyOptions options_;
    std::vector<std::string> keys_;
    std::set<std::string> columns_;
};

}  // namespace skiff::train
