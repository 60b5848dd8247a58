#include "compress/prune/layer_shares.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "compress/calibrate/walk.h"
#include "compress/prune/allocate.h"
#include "compress/structure/removal_probe.h"

namespace skiff {
namespace {

// The blocks that hold matrices, with these: each in the first that reads it. Matrices that no block of the walk reads are in none, and lose the common share.
class PrunedBlocks {
public:
    explicit PrunedBlocks(const ShareQuestion& question) : question_(question) {
        std::map<std::string, std::size_t> block_of;
        for (std::size_t block = 1; block + 1 < question.parent.spec.blocks.size(); ++block)
            for (const auto& [key, value] : linear_inputs(question.parent.spec.blocks[block])) block_of.emplace(key, block);
        for (std::size_t i = 0; i < question.matrices.size(); ++i)
            if (const auto found = block_of.find(question.matrices[i].key); found != block_of.end()) matrices_[found->second].push_back(i);
    }
    // visit(block, numbers of its matrices, statistics by key), block after block
    template <class Visit>
    Status walk(StatisticsNeed need, const Visit& visit) const {
        const ModelSpec& spec = question_.parent.spec;
        CalibrationWalk walk(spec, question_.text, question_.pool.n_threads());
        SKIFF_CHECK(walk.embed(*question_.parent.weights));
        std::size_t entered = 1;
        for (const auto& [block, matrices] : matrices_) {
            for (; entered < block; ++entered) SKIFF_CHECK(walk.advance(entered, *question_.parent.weights));
            SKIFF_TRY(const auto inputs, walk.observe(block, walk.last_sharing(block), *question_.parent.weights, need));
            SKIFF_CHECK(visit(block, matrices, inputs));
        }
        return {};
    }
    // The shares of blocks, in their order, given to their matrices.
    LayerShares shares(const std::vector<double>& of_blocks) const {
        LayerShares shares{std::vector<double>(question_.matrices.size(), question_.step.target.sparsity), Json::object()};
        std::size_t at = 0;
        Json found = Json::object();
        for (const auto& [block, matrices] : matrices_) {
            for (const std::size_t i : matrices) shares.sparsities[i] = of_blocks[at];
            found.set(question_.parent.spec.blocks[block].name, of_blocks[at++]);
        }
        shares.found.set("sparsities", std::move(found));
        return shares;
    }
    std::vector<double> sizes() const {
        std::vector<double> sizes;
        for (const auto& [block, matrices] : matrices_) {
            sizes.push_back(0);
            for (const std::size_t i : matrices) sizes.back() += static_cast<double>(question_.matrices[i].n_rows * question_.matrices[i].n_columns);
        }
        return sizes;
    }
    const std::string& name(std::size_t block) const { return question_.parent.spec.blocks[block].name; }

private:
    const ShareQuestion& question_;
    std::map<std::size_t, std::vector<std::size_t>> matrices_;
};

const InputStatistics* find(const BlockInputs& inputs, const std::string& key) {
    const auto found = inputs.find(key);
    return found == inputs.end() ? nullptr : found->second.get();
}

}  // namespace

std::string lost_by_blocks(const ModelSpec& spec, const std::vector<PrunedMatrix>& matrices, const std::vector<double>& sparsities) {
    std::map<std::string, std::size_t> block_of;
    for (std::size_t block = 1; block + 1 < spec.blocks.size(); ++block)
        for (const auto& [key, value] : linear_inputs(spec.blocks[block])) block_of.emplace(key, block);
    std::map<std::size_t, std::pair<double, double>> sums;  // what goes of each block, of how much
    for (std::size_t i = 0; i < matrices.size(); ++i) {
        const auto found = block_of.find(matrices[i].key);
        if (found == block_of.end()) continue;
        const auto n = static_cast<double>(matrices[i].n_rows * matrices[i].n_columns);
        sums[found->second].first += n * sparsities[i];
        sums[found->second].second += n;
    }
    std::string text;
    for (const auto& [block, sum] : sums) text += (text.empty() ? "blocks lose " : ", ") + std::to_string(static_cast<int>(std::lround(100 * sum.first / sum.second)));
    return text + " %";
}

Result<LayerShares> shares_by_outliers(const ShareQuestion& question) {
    const PrunedBlocks blocks(question);
    std::vector<double> ratios;
    Json measured = Json::object();
    SKIFF_CHECK(blocks.walk(StatisticsNeed::moments, [&](std::size_t block, const std::vector<std::size_t>& matrices, const BlockInputs& inputs) -> Status {
        std::vector<std::vector<float>> scores;
        for (const std::size_t i : matrices) {
            const PrunedMatrix& matrix = question.matrices[i];
            const InputStatistics* own = find(inputs, matrix.key);
            if (own == nullptr || static_cast<std::int64_t>(own->mean_square.size()) != matrix.n_columns) continue;
            SKIFF_TRY(auto weight, question.parent.weights->load(matrix.key));
            if (matrix.stored_as_columns) weight = transposed(weight);
            scores.push_back(wanda_scores(weight, own->mean_square, question.pool));
        }
        ratios.push_back(outlier_ratio(scores));
        measured.set(blocks.name(block), ratios.back());
        return {};
    }));
    LayerShares shares = blocks.shares(owl_sparsities(ratios, blocks.sizes(), question.step.target.sparsity));
    shares.found.set("outlier_ratios", std::move(measured));
    return shares;
}

Result<LayerShares> shares_by_score(const ShareQuestion& question) {
    std::vector<ScoreHistogram> histograms(question.matrices.size());
    std::vector<double> unit_weights;
    for (const PrunedMatrix& matrix : question.matrices) unit_weights.push_back(static_cast<double>(question.step.target.resolved(matrix.n_rows, matrix.n_columns).pattern.unit_values()));
    const auto look = [&](std::size_t i, const InputStatistics* inputs) -> Status {
        const PrunedMatrix& matrix = question.matrices[i];
        auto scores = question.unit_scores(matrix, inputs);
        if (!scores.ok()) return scores.take_error().with_context("tensor " + matrix.key);
        histograms[i] = score_histogram(*scores, question.pool);
        return {};
    };
    if (question.needs == StatisticsNeed::none) {
        for (std::size_t i = 0; i < question.matrices.size(); ++i) SKIFF_CHECK(look(i, nullptr));
    } else {
        const PrunedBlocks blocks(question);
        const auto look_at_all = [&](std::size_t, const std::vector<std::size_t>& matrices, const BlockInputs& inputs) -> Status {
            for (const std::size_t i : matrices) SKIFF_CHECK(look(i, find(inputs, question.matrices[i].key)));
            return {};
        };
        SKIFF_CHECK(blocks.walk(question.needs, look_at_all));
        for (std::size_t i = 0; i < histograms.size(); ++i)
            if (histograms[i].empty()) SKIFF_CHECK(look(i, nullptr));  // no block of the walk reads it
    }
    return LayerShares{global_sparsities(histograms, unit_weights, question.step.target.sparsity), {}};
}

Result<LayerShares> shares_by_sensitivity(const ShareQuestion& question) {
    const PrunedBlocks blocks(question);
    const double sparsity = question.step.target.sparsity, step = std::min({0.05, sparsity / 2, (1 - sparsity) / 2});
    const std::vector<double> levels = {sparsity - 2 * step, sparsity - step, sparsity, sparsity + step, sparsity + 2 * step};
    if (step < 1e-6) return blocks.shares(std::vector<double>(blocks.sizes().size(), sparsity));
    SKIFF_TRY(const auto probe, RemovalProbe::create(question.parent, question.text, question.pool.n_threads()));
    std::vector<std::vector<double>> losses;
    Json measured = Json::object();
    SKIFF_CHECK(blocks.walk(question.needs, [&](std::size_t block, const std::vector<std::size_t>& matrices, const BlockInputs& inputs) -> Status {
        std::vector<double> own;
        Json row = Json::array();
        for (const double level : levels) {
            EditedWeights edited(question.parent.weights);
            for (const std::size_t i : matrices) {
                const PrunedMatrix& matrix = question.matrices[i];
                auto pruned = question.try_pruning(matrix, level, find(inputs, matrix.key));
                if (!pruned.ok()) return pruned.take_error().with_context("tensor " + matrix.key);
                edited.replace(matrix.key, std::move(*pruned));
            }
            SKIFF_TRY(const double kl, probe.mean_kl(question.parent.spec, edited));
            own.push_back(kl);
            row.push_back(kl);
        }
        losses.push_back(std::move(own));
        measured.set(blocks.name(block), std::move(row));
        return {};
    }));
    LayerShares shares = blocks.shares(least_loss_sparsities(levels, losses, blocks.sizes(), sparsity));
    Json at = Json::array();
    for (const double level : levels) at.push_back(level);
    shares.found.set("levels", std::move(at));
    shares.found.set("mean_kl", std::move(measured));
    shares.found.set("tokens", probe.n_tokens());
    shares.remarks = probe.remarks(question.text);
    return shares;
}

}  // namespace skiff
