// Which consecutive layers are to share their weights.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "compress/share/share_step.h"
#include "model/checkpoint.h"

namespace skiff {

// For each layer the first of its group: [0, 0, 2, 2].
using LayerGroups = std::vector<std::int64_t>;

// "0-1,2-5" as groups: ascending, apart, below n_layers.
Result<std::vector<std::pair<std::int64_t, std::int64_t>>> parse_layer_groups(const std::string& text);
Result<LayerGroups> listed_groups(const std::vector<std::pair<std::int64_t, std::int64_t>>& groups, std::int64_t n_layers);
Result<LayerGroups> even_groups(std::int64_t n_groups, std::int64_t n_layers);
// So many groups with the least sum of costs; cost(first, last) of one group, infinite: these cannot be one.
Result<LayerGroups> cheapest_groups(std::int64_t n_groups, std::int64_t n_layers, const std::function<double(std::int64_t first, std::int64_t last)>& cost);

// How far the linear weights of two layers lie apart: for each pair of layers the mean over their matrices of ||A - B||^2, over the mean of all layers'
// ||A||^2. 0: they are equal; 2: nothing in common. Infinite where they cannot share. // (n_layers, n_layers)
Result<std::vector<double>> layer_distances(const Checkpoint& parent, ThreadPool& pool);

}  // namespace skiff
