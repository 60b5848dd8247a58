#include "compress/structure/layer_choice.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <numeric>

#include "compress/calibrate/walk.h"
#include "compress/structure/removal_probe.h"

namespace skiff {
namespace {

// How little a layer turns the residual stream: 1 - E cos(before, after) (Men et al. 2024, ShortGPT). All layers are judged at once, in the whole model.
Result<LayerChoice> by_block_influence(const LayerData& data) {
    CalibrationWalk walk(data.model.spec, data.text, data.n_threads);
    SKIFF_CHECK(walk.embed(*data.model.weights));
    const auto width = static_cast<std::size_t>(data.model.spec.d_model);
    std::vector<double> influence;
    Json figures = Json::array();
    for (std::size_t block = 1; block + 1 < walk.n_blocks(); ++block) {
        const std::vector<float> before(walk.hidden().begin(), walk.hidden().end());
        SKIFF_CHECK(walk.advance(block, *data.model.weights));
        double cosines = 0;
        for (std::size_t at = 0; at < before.size(); at += width) {
            double dot = 0, a = 0, b = 0;
            for (std::size_t i = at; i < at + width; ++i) {
                const double x = static_cast<double>(before[i]), y = static_cast<double>(walk.hidden()[i]);
                dot += x * y;
                a += x * x;
                b += y * y;
            }
            cosines += a > 0 && b > 0 ? dot / std::sqrt(a * b) : 0;
        }
        influence.push_back(1 - cosines * static_cast<double>(width) / static_cast<double>(before.size()));
        figures.push_back(influence.back());
        if (data.progress) data.progress({"influence", data.model.spec.blocks[block].name, block, walk.n_blocks() - 2});
    }
    std::vector<std::int64_t> order(influence.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return influence[static_cast<std::size_t>(a)] < influence[static_cast<std::size_t>(b)]; });
    return LayerChoice{{order.begin(), order.begin() + data.n_drop}, Json::object({{"block_influence", figures}})};
}

// One by one the layer without which the model stays nearest to the whole one; what is left is judged anew after each.
Result<LayerChoice> by_kl(const LayerData& data) {
    SKIFF_TRY(const auto probe, RemovalProbe::create(data.model, data.text, data.n_threads));
    const std::int64_t n_layers = data.model.spec.n_layers;
    const auto n_trials = static_cast<std::uint64_t>(data.n_drop * n_layers - data.n_drop * (data.n_drop - 1) / 2);
    LayerChoice choice;
    std::set<std::size_t> blocks;
    Json rounds = Json::array(), alone = Json::array();
    std::uint64_t done = 0;
    for (std::int64_t round = 0; round < data.n_drop; ++round) {
        double least = 0;
        std::int64_t best = -1;
        for (std::int64_t layer = 0; layer < n_layers; ++layer) {
            if (choice.dropped.count(layer) != 0) continue;
            std::set<std::size_t> tried = blocks;
            tried.insert(static_cast<std::size_t>(layer) + 1);
            SKIFF_TRY(const double kl, probe.mean_kl(without_blocks(data.model.spec, tried), *data.model.weights));
            if (round == 0) alone.push_back(kl);
            if (best < 0 || kl < least) best = layer, least = kl;
            if (data.progress) data.progress({"layers", "without " + data.model.spec.blocks[static_cast<std::size_t>(layer) + 1].name, ++done, n_trials});
        }
        choice.dropped.insert(best);
        blocks.insert(static_cast<std::size_t>(best) + 1);
        rounds.push_back(Json::object({{"layer", best}, {"mean_kl", least}}));
    }
    choice.found = Json::object({{"removed_alone", alone}, {"removed_one_by_one", rounds}, {"tokens", probe.n_tokens()}});
    choice.remarks = probe.remarks(data.text);
    return choice;
}

Result<LayerChoice> by_elastic_order(const LayerData& data) {
    const auto order = elastic_layer_order(data.model.spec.n_layers);
    return LayerChoice{{order.begin(), order.begin() + data.n_drop}, Json::object({})};
}

constexpr LayerImportance importances[] = {
    {"kl", "one by one the layer without which the next-token distributions change least; what is left is judged anew after each", by_kl},
    {"block-influence", "how much the layer turns the hidden state, 1 - mean cosine; all at once", by_block_influence},
    {"elastic-order", "those that elastic training leaves out first; looks at nothing", by_elastic_order, LayerImportance::Reads::nothing},
};

}  // namespace

std::vector<std::int64_t> elastic_layer_order(std::int64_t n_layers) {
    std::vector<std::uint8_t> out(static_cast<std::size_t>(n_layers), 0);
    std::vector<std::int64_t> order;
    // Smaller is better: outer layers last, then the longest run, less distance, distance from the middle (doubled), later ones.
    const auto cost = [&](std::int64_t layer) {
        std::int64_t longest = 0, run = 0, distance = n_layers;
        for (std::int64_t i = 0; i < n_layers; ++i) {
            const bool gone = out[static_cast<std::size_t>(i)] != 0;
            if (gone) distance = std::min(distance, std::abs(i - layer));
            run = gone || i == layer ? run + 1 : 0;
            longest = std::max(longest, run);
        }
        const std::int64_t outer = layer == n_layers - 1 ? 2 : layer == 0 ? 1 : 0;
        return std::array{outer, longest, -distance, std::abs(2 * layer - (n_layers - 1)), -layer};
    };
    while (static_cast<std::int64_t>(order.size()) < n_layers) {
        std::int64_t best = -1;
        for (std::int64_t layer = 0; layer < n_layers; ++layer)
            if (out[static_cast<std::size_t>(layer)] == 0 && (best < 0 || cost(layer) < cost(best))) best = layer;
        out[static_cast<std::size_t>(best)] = 1;
        order.push_back(best);
    }
    return order;
}

std::span<const LayerImportance> layer_importances() { return importances; }

Result<const LayerImportance*> find_layer_importance(std::string_view name) {
    std::string known;
    for (const LayerImportance& row : importances) {
        if (row.name == name) return &row;
        known += (known.empty() ? "" : ", ") + std::string(row.name);
    }
    return usage_error("no importance of layers is called \"" + std::string(name.substr(0, 64)) + "\"; there are: " + known);
}

}  // namespace skiff
