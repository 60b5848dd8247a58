// Clustering of numbers on a line (k-means in one dimension), which has an exact solution.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace skiff {

// Numbers with weights, of which many may be one point: what clustering needs to know of them.
struct ClusterPoint {
    double weight = 0, sum = 0, squares = 0;  // of w, w x and w x^2 over the numbers of the point
};

// Points in rising order: each different number is one, or, where there are more than `most`, each of `most` equal stretches from the least to the largest
// number that holds any; the sums are exact, only the borders of clusters then lie between stretches. Numbers without weight are left out, unless none has any.
// values, weights: same size, or no weights
std::vector<ClusterPoint> cluster_points(std::span<const float> values, std::span<const float> weights, std::size_t most);

// The k means that lose least: the sum over points of w (x - nearest mean)^2 is minimal. By dynamic programming over borders, divide and conquer within a
// layer: O(k n log n) (Grønlund et al. 2017, "Fast Exact k-Means, k-Medians and Bregman Divergence Clustering in 1D", section 3). Rising; the last is
// repeated where there are fewer points than k.
std::vector<float> cluster_means(std::span<const ClusterPoint> points, int k);

}  // namespace skiff
