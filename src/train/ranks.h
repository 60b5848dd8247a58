// Several processes that train one model: each on its share of every batch, gradients summed among them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "base/result.h"

namespace skiff::train {

class Ranks {
public:
    virtual ~Ranks() = default;
    virtual void sum(std::vector<at::Tensor>& tensors) = 0;  // in place, the same on every rank; throws when a rank is gone
    virtual std::string name() const = 0;                    // "Gloo"

    // All ranks meet at a file that all can reach, or at HOST:PORT where rank 0 listens. Nothing for one rank.
    static Result<std::unique_ptr<Ranks>> meet(int rank, int n_ranks, const std::string& meeting, at::Device device);
};

}  // namespace skiff::train
