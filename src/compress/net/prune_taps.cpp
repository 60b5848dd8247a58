#include <algorithm>
#include <numeric>

#include "compress/net/changes.h"

namespace skiff::net {

Result<Changed> prune_taps(const Net& net, const TapPruning& pruning) {
    if (pruning.keep < 0 || !(pruning.share >= 0 && pruning.share < 1)) return usage_error("the positions that go are a share from 0% to less than 100%, or give how many stay");
    SKIFF_CHECK(check_names(net, pruning.layers));
    SKIFF_CHECK(check_plain(net));
    SKIFF_TRY(const auto resolved, resolve(net.spec));
    Changed result{net, {}, {}};
    for (std::size_t i = 0; i < net.spec.ops.size(); ++i) {
        Op& op = result.net.spec.ops[i];
        auto* conv = std::get_if<Conv>(&op.detail);
        if (conv == nullptr || !concerns(pruning.layers, op.name)) continue;
        const std::vector<std::int64_t> taps = conv->kept_taps();
        const std::size_t n_taps = taps.size(), inputs = static_cast<std::size_t>(resolved.shapes[resolved.inputs[i][0]].channels / conv->groups);
        const auto n_kept = pruning.keep > 0 ? std::min(static_cast<std::size_t>(pruning.keep), n_taps) : std::max<std::size_t>(1, n_taps - static_cast<std::size_t>(pruning.share * static_cast<double>(n_taps)));
        if (n_kept == n_taps) continue;
        const std::vector<float> weight = net.floats(op.name + ".weight");
        std::vector<double> squares(n_taps, 0);
        for (std::size_t j = 0; j < weight.size(); ++j) squares[j / inputs % n_taps] += static_cast<double>(weight[j]) * static_cast<double>(weight[j]);
        std::vector<std::size_t> order(n_taps);
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return squares[a] > squares[b]; });
        order.resize(n_kept);
        std::sort(order.begin(), order.end());
        std::vector<float> small;
        double kept = 0;
        conv->taps.clear();
        for (const std::size_t tap : order) conv->taps.push_back(taps[tap]), kept += squares[tap];
        for (std::size_t row = 0; row < static_cast<std::size_t>(conv->channels); ++row)
            for (const std::size_t tap : order)
                for (std::size_t input = 0; input < inputs; ++input) small.push_back(weight[(row * n_taps + tap) * inputs + input]);
        result.net.set_floats(op.name + ".weight", {conv->channels, static_cast<std::int64_t>(n_kept * inputs)}, std::move(small));
        result.changes.push_back({op.name, std::to_string(n_taps) + " positions", std::to_string(n_kept), 1 - kept / std::max(std::accumulate(squares.begin(), squares.end(), 0.0), 1e-30)});
    }
    if (result.changes.empty()) result.remarks.push_back("no kernel loses a position; the result is a copy");
    return result;
}

}  // namespace skiff::net
