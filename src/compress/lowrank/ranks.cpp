#include "compress/lowrank/ranks.h"

#include <algorithm>
#include <cmath>

namespace skiff {
namespace {

// The nearest multiple not above it, but one at least.
std::int64_t whole_rank(double rank, std::int64_t multiple) { return std::max<std::int64_t>(multiple, static_cast<std::int64_t>(std::floor(rank / static_cast<double>(multiple) + 1e-9)) * multiple); }

std::int64_t kept_if_smaller(const RankCandidate& weight, std::int64_t rank) { return factor_size(weight, rank) < weight.n_rows * weight.n_columns ? rank : 0; }

// For a price per number, the rank (0: whole) at which what is lost and what is stored cost least together.
std::int64_t rank_at_price(const RankCandidate& weight, double price, std::int64_t multiple) {
    double left = 0;
    for (const double energy : weight.energy) left += energy;
    std::int64_t best = 0;
    double least = price * static_cast<double>(weight.n_rows * weight.n_columns);
    for (std::int64_t rank = 1; rank <= static_cast<std::int64_t>(weight.energy.size()); ++rank) {
        left -= weight.energy[static_cast<std::size_t>(rank - 1)];
        if (rank % multiple != 0 || kept_if_smaller(weight, rank) == 0) continue;
        const double cost = weight.weight * std::max(0.0, left) + price * static_cast<double>(factor_size(weight, rank));
        if (cost < least) best = rank, least = cost;
    }
    return best;
}

std::int64_t size_of(const RankCandidate& weight, std::int64_t rank) { return rank > 0 ? factor_size(weight, rank) : weight.n_rows * weight.n_columns; }

// The losses of different weights add up: the price per number is raised until all fit (Lagrange).
std::vector<std::int64_t> within_budget(const FactorizeStep& step, std::span<const RankCandidate> weights) {
    std::int64_t whole = 0;
    for (const RankCandidate& weight : weights) whole += weight.n_rows * weight.n_columns;
    const double budget = (1 - step.amount) * static_cast<double>(whole);
    auto at = [&](double price) {
        std::vector<std::int64_t> ranks;
        for (const RankCandidate& weight : weights) ranks.push_back(rank_at_price(weight, price, step.multiple_of));
        return ranks;
    };
    auto size = [&](const std::vector<std::int64_t>& ranks) {
        std::int64_t total = 0;
        for (std::size_t i = 0; i < ranks.size(); ++i) total += size_of(weights[i], ranks[i]);
        return static_cast<double>(total);
    };
    double low = -60, high = 60;  // natural logarithms of the price
    if (size(at(std::exp(low))) <= budget) return at(std::exp(low));
    for (int round = 0; round < 100; ++round) {
        const double middle = (low + high) / 2;
        (size(at(std::exp(middle))) <= budget ? high : low) = middle;
    }
    return at(std::exp(high));
}

// What the rules on one weight ask for, before it is made whole.
double asked_rank(const FactorizeStep& step, const RankCandidate& weight) {
    using Rule = FactorizeStep::Rule;
    const double full = static_cast<double>(std::min(weight.n_rows, weight.n_columns)), size = static_cast<double>(weight.n_rows * weight.n_columns);
    if (step.rule == Rule::rank) return step.amount;
    if (step.rule == Rule::share) return step.amount * full;
    if (step.rule == Rule::remove && step.amount > 0) return (1 - step.amount) * size / static_cast<double>(weight.n_rows + weight.n_columns);
    return full;
}

std::string percent_text(double share) {
    const std::string text = std::to_string(100 * share);
    return text.substr(0, text.find('.') + 2) + " %";
}

}  // namespace

Status check_budget(const FactorizeStep& step, std::span<const RankCandidate> weights) {
    if (step.rule != FactorizeStep::Rule::budget || step.amount == 0) return {};
    std::int64_t whole = 0, stored = 0;
    for (const RankCandidate& weight : weights) {
        whole += weight.n_rows * weight.n_columns;
        stored += size_of(weight, kept_if_smaller(weight, std::min({step.multiple_of, weight.n_rows, weight.n_columns})));
    }
    const double gone = 1 - static_cast<double>(stored) / static_cast<double>(std::max<std::int64_t>(1, whole));
    if (gone >= step.amount - 1e-12) return {};
    return usage_error("a budget of " + percent_text(step.amount) + " of these weights' numbers cannot be kept: at rank " + std::to_string(step.multiple_of) + ", the smallest multiple, " + percent_text(gone) +
                       " of them go; give a smaller --budget" + (step.multiple_of > 1 ? " or --multiple" : ""));
}

std::int64_t n_ranks_above(const FactorizeStep& step, std::span<const RankCandidate> weights, std::span<const std::int64_t> ranks) {
    std::int64_t n = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) n += ranks[i] > 0 && static_cast<double>(ranks[i]) > asked_rank(step, weights[i]) + 1e-9;
    return step.rule == FactorizeStep::Rule::energy ? 0 : n;
}

std::vector<std::int64_t> choose_ranks(const FactorizeStep& step, std::span<const RankCandidate> weights) {
    using Rule = FactorizeStep::Rule;
    if (step.rule == Rule::budget) {
        if (step.amount == 0) return std::vector<std::int64_t>(weights.size(), 0);
        return within_budget(step, weights);
    }
    std::vector<std::int64_t> ranks;
    for (const RankCandidate& weight : weights) {
        const double full = static_cast<double>(std::min(weight.n_rows, weight.n_columns));
        double rank = asked_rank(step, weight);
        if (step.rule == Rule::energy) {
            double total = 0, sum = 0;
            for (const double energy : weight.energy) total += energy;
            std::size_t r = 0;
            while (r < weight.energy.size() && sum < step.amount * total) sum += weight.energy[r++];
            // Upwards: at least so much stays.
            rank = std::ceil(static_cast<double>(r) / static_cast<double>(step.multiple_of)) * static_cast<double>(step.multiple_of);
        }
        ranks.push_back(kept_if_smaller(weight, std::min(whole_rank(rank, step.multiple_of), static_cast<std::int64_t>(full))));
    }
    return ranks;
}

}  // namespace skiff
