#include "compress/share/layer_groups.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "base/progress.h"
#include "model/axes.h"
#include "model/shared_layers.h"

namespace skiff {
namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();

Status check_count(std::int64_t n_groups, std::int64_t n_layers) {
    if (n_groups >= 1 && n_groups <= n_layers) return {};
    return usage_error("--groups " + std::to_string(n_groups) + ": expected 1 to " + std::to_string(n_layers) + ", the number of layers");
}

// Keys of a layer's matrices, by the name that they have in layer 0.
std::vector<std::string> matrices_of(const ModelSpec& spec, std::int64_t layer) {
    std::vector<std::string> keys;
    for (Op op : spec.blocks[static_cast<std::size_t>(layer) + 1].ops)
        for_each_tensor_ref(op, [&](const TensorRef& ref) {
            const auto& declared = spec.tensors.at(ref.key);
            if (declared.role == TensorDecl::Role::linear && std::find(keys.begin(), keys.end(), ref.key) == keys.end()) keys.push_back(ref.key);
        });
    return keys;
}

// Of matrices of one shape, between each two the sum of squared differences; in the diagonal the sum of squares. Half above the diagonal. Sums of each row
// apart, added in the order of the rows, so that the bits do not depend on the threads; a stretch of rows at a time, for there are many where layers are many.
std::vector<double> squared_distances(const std::vector<Weight>& weights, ThreadPool& pool) {
    constexpr std::int64_t stretch_rows = 256;
    const std::size_t m = weights.size(), n_sums = m * m, n_columns = static_cast<std::size_t>(weights[0].n_columns());
    const std::int64_t n_rows = weights[0].n_rows();
    std::vector<double> sums(static_cast<std::size_t>(std::min(n_rows, stretch_rows)) * n_sums), totals(n_sums);
    for (std::int64_t begin = 0; begin < n_rows; begin += stretch_rows) {
        const std::int64_t n_now = std::min(stretch_rows, n_rows - begin);
        pool.run([&](int thread) {
            std::vector<float> rows(m * n_columns);
            const Range mine = share_of(n_now, thread, pool.n_threads());
            for (std::int64_t row = mine.begin; row < mine.end; ++row) {
                for (std::size_t i = 0; i < m; ++i) weights[i].row(begin + row, rows.data() + i * n_columns);
                for (std::size_t i = 0; i < m; ++i)
                    for (std::size_t j = i; j < m; ++j) {
                        double sum = 0;
                        const float *a = rows.data() + i * n_columns, *b = rows.data() + j * n_columns;
                        for (std::size_t c = 0; c < n_columns; ++c) {
                            const double difference = i == j ? static_cast<double>(a[c]) : static_cast<double>(a[c]) - static_cast<double>(b[c]);
                            sum += difference * difference;
                        }
                        sums[static_cast<std::size_t>(row) * n_sums + i * m + j] = sum;
                    }
            }
        });
        for (std::size_t row = 0; row < static_cast<std::size_t>(n_now); ++row)
            for (std::size_t i = 0; i < n_sums; ++i) totals[i] += sums[row * n_sums + i];
    }
    return totals;
}

}  // namespace

Result<std::vector<std::pair<std::int64_t, std::int64_t>>> parse_layer_groups(const std::string& text) {
    std::vector<std::pair<std::int64_t, std::int64_t>> groups;
    const auto wrong = [&] { return usage_error("\"" + text.substr(0, 60) + "\": expected groups of consecutive layers, numbered from 0, such as 0-1,2-5"); };
    const char *at = text.data(), *end = text.data() + text.size();
    while (true) {
        std::int64_t first = 0, last = 0;
        auto read = std::from_chars(at, end, first);
        if (read.ec != std::errc() || read.ptr == end || *read.ptr != '-') return wrong();
        read = std::from_chars(read.ptr + 1, end, last);
        if (read.ec != std::errc() || first < 0 || last <= first || (!groups.empty() && first <= groups.back().second)) return wrong();
        groups.emplace_back(first, last);
        if (read.ptr == end) return groups;
        if (*read.ptr != ',') return wrong();
        at = read.ptr + 1;
    }
}

Result<LayerGroups> listed_groups(const std::vector<std::pair<std::int64_t, std::int64_t>>& groups, std::int64_t n_layers) {
    LayerGroups first_of(static_cast<std::size_t>(n_layers));
    for (std::size_t layer = 0; layer < first_of.size(); ++layer) first_of[layer] = static_cast<std::int64_t>(layer);
    for (const auto& [first, last] : groups) {
        if (last >= n_layers) return usage_error("--layers names layer " + std::to_string(last) + "; there are 0 to " + std::to_string(n_layers - 1));
        std::fill(first_of.begin() + first, first_of.begin() + last + 1, first);
    }
    return first_of;
}

Result<LayerGroups> even_groups(std::int64_t n_groups, std::int64_t n_layers) {
    SKIFF_CHECK(check_count(n_groups, n_layers));
    LayerGroups first_of;
    for (std::int64_t layer = 0; layer < n_layers; ++layer) {
        const std::int64_t group = layer * n_groups / n_layers;
        first_of.push_back(layer > 0 && group == (layer - 1) * n_groups / n_layers ? first_of.back() : layer);
    }
    return first_of;
}

Result<LayerGroups> cheapest_groups(std::int64_t n_groups, std::int64_t n_layers, const std::function<double(std::int64_t, std::int64_t)>& cost) {
    SKIFF_CHECK(check_count(n_groups, n_layers));
    const auto n = static_cast<std::size_t>(n_layers);
    // least[g][end]: of the first `end` layers in g groups; begin[g][end]: where the last of these groups begins.
    std::vector<std::vector<double>> least(static_cast<std::size_t>(n_groups) + 1, std::vector<double>(n + 1, infinite));
    std::vector<std::vector<std::size_t>> begin(least.size(), std::vector<std::size_t>(n + 1, 0));
    least[0][0] = 0;
    for (std::size_t g = 1; g < least.size(); ++g)
        for (std::size_t end = g; end <= n; ++end)
            for (std::size_t first = g - 1; first < end; ++first) {
                const double sum = least[g - 1][first] + (least[g - 1][first] < infinite ? cost(static_cast<std::int64_t>(first), static_cast<std::int64_t>(end) - 1) : 0);
                if (sum < least[g][end]) least[g][end] = sum, begin[g][end] = first;
            }
    if (least.back()[n] == infinite) return unsupported("the layers of this model cannot form " + std::to_string(n_groups) + " groups: neighbours differ in their operators or shapes; more groups may do");
    LayerGroups first_of(n);
    for (std::size_t g = static_cast<std::size_t>(n_groups), end = n; g > 0; --g) {
        const std::size_t first = begin[g][end];
        std::fill(first_of.begin() + static_cast<std::ptrdiff_t>(first), first_of.begin() + static_cast<std::ptrdiff_t>(end), static_cast<std::int64_t>(first));
        end = first;
    }
    return first_of;
}

Result<std::vector<double>> layer_distances(const Checkpoint& parent, ThreadPool& pool) {
    const auto n = static_cast<std::size_t>(parent.spec.n_layers);
    std::vector<double> distances(n * n), shared(n * n);
    std::map<std::string, std::vector<std::pair<std::size_t, std::string>>> by_name;  // as in layer 0 -> layers that have it
    for (std::size_t layer = 0; layer < n; ++layer)
        for (const std::string& key : matrices_of(parent.spec, static_cast<std::int64_t>(layer))) by_name[key_of_layer(key, 0)].emplace_back(layer, key);
    for (const auto& [name, owners] : by_name) {
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted before any work was done", {}};
        std::vector<Weight> weights;
        for (const auto& [layer, key] : owners) {
            SKIFF_TRY(auto weight, parent.weights->load(key));
            weights.push_back(std::move(weight));
        }
        if (std::any_of(weights.begin(), weights.end(), [&](const Weight& weight) { return weight.shape != weights[0].shape; })) continue;  // may_share says so
        const std::size_t m = weights.size();
        const std::vector<double> totals = squared_distances(weights, pool);
        double norm = 0;
        for (std::size_t i = 0; i < m; ++i) norm += totals[i * m + i] / static_cast<double>(m);
        for (std::size_t i = 0; i < m; ++i)
            for (std::size_t j = i + 1; j < m; ++j)
                for (const std::size_t place : {owners[i].first * n + owners[j].first, owners[j].first * n + owners[i].first}) {
                    distances[place] += norm > 0 ? totals[i * m + j] / norm : 0;
                    shared[place] += 1;
                }
        for (const Weight& weight : weights) release_pages(weight);
    }
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j) {
            if (i == j) continue;
            const bool may = may_share(parent.spec, static_cast<std::int64_t>(i), static_cast<std::int64_t>(j));
            distances[i * n + j] = !may ? infinite : shared[i * n + j] > 0 ? distances[i * n + j] / shared[i * n + j] : 0;
        }
    return distances;
}

}  // namespace skiff
