// A network with its weights: a folder with config.json (spec.h), model.safetensors and skiff.json, or a spec alone with random weights.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/atomic_file.h"
#include "net/spec.h"
#include "tensor/weight.h"

namespace skiff::net {

struct Net {
    NetSpec spec;
    std::map<std::string, Weight> weights;  // by the name of the tensor
    std::vector<Json> steps;                // what was done to it, the first first

    // The numbers of a tensor, decoded. // in the order of its rows
    std::vector<float> floats(const std::string& name) const;
    void set_floats(const std::string& name, Shape shape, std::vector<float> values) { weights.insert_or_assign(name, make_float_weight(std::move(shape), std::move(values))); }
    std::uint64_t stored_bytes() const;
};

// Whether `path` is such a folder or spec, so that a verb knows what it was given. No more than that is checked.
bool is_net(const std::string& path);
// `fresh_seed`: of the weights of a spec, which has none of its own.
Result<Net> open_net(const std::string& path, std::uint64_t fresh_seed = 1);
// Weights as training begins with (He et al. 2015), by seed and name.
Net random_net(NetSpec spec, std::uint64_t seed);
// `net` as a folder that appears when it is complete.
Status write_net(const Net& net, const std::string& folder, AtomicDirectory::IfExists if_exists);

}  // namespace skiff::net
