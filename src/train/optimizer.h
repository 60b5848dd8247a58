// AdamW, and Muon for the matrices of the blocks; one pass over each tensor's numbers.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "train/parameters.h"

namespace skiff::train {

struct OptimizerSettings {
    enum class Kind : std::uint8_t { adamw, muon } kind = Kind::adamw;
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
    double weight_decay = 0.1;  // of matrices; vectors have none
    double momentum = 0.95;     // of Muon
    double clip = 1.0;          // largest norm of all gradients together; 0: as they are
    at::ScalarType muon_numbers = at::kFloat;  // of the Newton-Schulz iteration
};

class Optimizer {
public:
    Optimizer(std::vector<ParameterSet::Trained> trained, const OptimizerSettings& settings);

    // Of all gradients together.
    double gradient_norm() const;
    // One step with the gradients that the parameters hold, which are zero afterwards. `step` counts from 1; `norm` is gradient_norm().
    void step(double learning_rate, std::int64_t step, double norm);

    // What must be kept to go on: name and tensor. The tensors are the optimizer's own.
    std::vector<std::pair<std::string, at::Tensor>> state() const;
    std::uint64_t state_bytes() const;

private:
    struct Slot {
        ParameterSet::Trained parameter;
        bool orthogonal = false;   // moved by Muon
        at::Tensor first, second;  // moments of AdamW; Muon has the first only
    };
    void adamw(Slot& slot, double learning_rate, std::int64_t step, double gradient_scale) const;
    void muon(Slot& slot, double learning_rate, double gradient_scale) const;
    std::vector<Slot> slots_;
    OptimizerSettings settings_;
};

// The nearest matrix whose singular values are all about 1: five Newton-Schulz steps (Jordan et al. 2024, Muon). x: (rows, columns) f32
at::Tensor orthogonalized(const at::Tensor& x, at::ScalarType numbers);

}  // namespace skiff::train
