#include "tensor/clusters.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace skiff {
namespace {

struct Item {
    float value, weight;
};

ClusterPoint point_of(const Item& item) {
    const double w = static_cast<double>(item.weight), x = static_cast<double>(item.value);
    return {w, w * x, w * x * x};
}

void add(ClusterPoint& point, const ClusterPoint& other) {
    point.weight += other.weight;
    point.sum += other.sum;
    point.squares += other.squares;
}

// Sums over the points before each, around a middle, so that differences of squares keep their digits.
struct PrefixSums {
    std::vector<ClusterPoint> before;
    double middle = 0;

    explicit PrefixSums(std::span<const ClusterPoint> points) : before(points.size() + 1) {
        ClusterPoint all;
        for (const ClusterPoint& point : points) add(all, point);
        middle = all.weight > 0 ? all.sum / all.weight : 0;
        for (std::size_t i = 0; i < points.size(); ++i) {
            const ClusterPoint& p = points[i];
            before[i + 1] = before[i];
            add(before[i + 1], {p.weight, p.sum - p.weight * middle, p.squares - 2 * middle * p.sum + middle * middle * p.weight});
        }
    }
    double loss(std::size_t begin, std::size_t end) const {  // of one cluster
        const double weight = before[end].weight - before[begin].weight, sum = before[end].sum - before[begin].sum;
        const double squares = before[end].squares - before[begin].squares;
        return weight > 0 ? std::max(0.0, squares - sum * sum / weight) : 0;
    }
    double mean(std::size_t begin, std::size_t end) const { return middle + (before[end].sum - before[begin].sum) / (before[end].weight - before[begin].weight); }
};

// One more cluster: least[end] for the points before `end` out of that of the layer before, and where the last cluster then begins.
struct Layer {
    const PrefixSums& sums;
    const std::vector<double>& before;
    std::vector<double>& least;
    std::uint32_t* begins;  // (n + 1)

    // The best begin rises with the end, so the one in the middle bounds those of both halves.
    void solve(std::size_t first_end, std::size_t last_end, std::size_t low, std::size_t high) const {
        if (first_end > last_end) return;
        const std::size_t end = (first_end + last_end) / 2;
        double best = std::numeric_limits<double>::infinity();
        std::size_t best_begin = low;
        for (std::size_t begin = low; begin <= std::min(high, end); ++begin) {
            const double loss = before[begin] + sums.loss(begin, end);
            if (loss < best) best = loss, best_begin = begin;
        }
        least[end] = best;
        begins[end] = static_cast<std::uint32_t>(best_begin);
        if (end > first_end) solve(first_end, end - 1, low, best_begin);
        solve(end + 1, last_end, best_begin, high);
    }
};

}  // namespace

std::vector<ClusterPoint> cluster_points(std::span<const float> values, std::span<const float> weights, std::size_t most) {
    const bool weighted = std::any_of(weights.begin(), weights.end(), [](float weight) { return weight > 0; });
    std::vector<Item> items;
    items.reserve(values.size());
    for (std::size_t i = 0; i < values.size(); ++i)
        if (!weighted || weights[i] > 0) items.push_back({values[i], weighted ? weights[i] : 1.0f});
    std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.value < b.value; });
    std::vector<ClusterPoint> points;
    std::size_t n_different = 0;
    for (std::size_t i = 0; i < items.size(); ++i) n_different += i == 0 || items[i].value != items[i - 1].value;
    const double low = items.empty() ? 0 : static_cast<double>(items.front().value), high = items.empty() ? 0 : static_cast<double>(items.back().value);
    std::size_t last_bin = std::numeric_limits<std::size_t>::max();
    for (std::size_t i = 0; i < items.size(); ++i) {
        const double share = high > low ? (static_cast<double>(items[i].value) - low) / (high - low) : 0;
        const std::size_t bin = n_different <= most ? (i > 0 && items[i].value == items[i - 1].value ? last_bin : i) : std::min(most - 1, static_cast<std::size_t>(share * static_cast<double>(most)));
        if (bin != last_bin) points.push_back({});
        last_bin = bin;
        add(points.back(), point_of(items[i]));
    }
    return points;
}

std::vector<float> cluster_means(std::span<const ClusterPoint> points, int k) {
    std::vector<float> means;
    const std::size_t n = points.size(), n_clusters = std::min(n, static_cast<std::size_t>(k));
    if (n > 0) {
        const PrefixSums sums(points);
        std::vector<double> before(n + 1), least(n + 1);
        std::vector<std::uint32_t> begins((n + 1) * n_clusters);
        for (std::size_t end = 1; end <= n; ++end) least[end] = sums.loss(0, end);
        for (std::size_t layer = 1; layer < n_clusters; ++layer) {
            std::swap(before, least);
            Layer{sums, before, least, begins.data() + layer * (n + 1)}.solve(layer + 1, n, layer, n - 1);
        }
        std::size_t end = n;
        for (std::size_t layer = n_clusters; layer-- > 0;) {
            const std::size_t begin = begins[layer * (n + 1) + end];
            means.push_back(static_cast<float>(sums.mean(begin, end)));
            end = begin;
        }
        std::reverse(means.begin(), means.end());
    }
    means.resize(static_cast<std::size_t>(k), means.empty() ? 0.0f : means.back());
    return means;
}

}  // namespace skiff
