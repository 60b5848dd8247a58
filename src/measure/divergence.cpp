#include "measure/divergence.h"

#include <atomic>
#include <cmath>
#include <cstdlib>

#include "measure/likelihood.h"

namespace skiff {
namespace {

// KL = sum p (a - b) - (lse_a - lse_b) for logits a, b: one sum, and exactly 0 for equal rows.
TokenDivergence compare_row(std::span<const float> parent, std::span<const float> child, const RowSummary& parent_summary,
                            const RowSummary& child_summary, std::size_t target) {
    const double parent_lse = parent_summary.log_sum_exp, child_lse = child_summary.log_sum_exp;
    const auto parent_scale = static_cast<float>(std::exp(static_cast<double>(parent_summary.max) - parent_lse));
    const auto child_scale = static_cast<float>(std::exp(static_cast<double>(child_summary.max) - child_lse));
    double mass = 0, difference = 0;
    float largest_change = 0;
    for (std::size_t i = 0; i < parent.size(); ++i) {
        const float p = std::exp(parent[i] - parent_summary.max) * parent_scale;
        const float q = std::exp(child[i] - child_summary.max) * child_scale;
        mass += static_cast<double>(p);
        difference += static_cast<double>(p) * (static_cast<double>(parent[i]) - static_cast<double>(child[i]));
        largest_change = std::max(largest_change, std::abs(p - q));
    }
    TokenDivergence result;
    result.kl = difference / mass - (parent_lse - child_lse);
    result.parent_log_likelihood = static_cast<double>(parent[target]) - parent_lse;
    result.child_log_likelihood = static_cast<double>(child[target]) - child_lse;
    result.largest_change = largest_change;
    result.parent_top = parent_summary.top;
    result.child_top = child_summary.top;
    return result;
}

}  // namespace

Status compare_rows(ThreadPool& pool, std::span<const float> parent_rows, std::span<const float> child_rows, std::span<const std::int32_t> targets,
                    std::span<TokenDivergence> result) {
    if (targets.empty()) return {};
    const std::size_t n_vocab = child_rows.size() / targets.size();
    if (parent_rows.size() != child_rows.size()) return usage_error("parent and child have different vocabularies");
    std::atomic<std::int64_t> bad_parent{-1}, bad_child{-1};
    pool.run([&](int thread) {
        const Range range = share_of(static_cast<std::int64_t>(targets.size()), thread, pool.n_threads());
        for (std::int64_t r = range.begin; r < range.end; ++r) {
            const auto at = static_cast<std::size_t>(r);
            const auto parent = parent_rows.subspan(at * n_vocab, n_vocab), child = child_rows.subspan(at * n_vocab, n_vocab);
            const RowSummary parent_summary = summarize_row(parent), child_summary = summarize_row(child);
            if (!parent_summary.finite) bad_parent = r;
            if (!child_summary.finite) bad_child = r;
            result[at] = compare_row(parent, child, parent_summary, child_summary, static_cast<std::size_t>(targets[at]));
        }
    });
    for (const auto& [bad, rows, who] : {std::tuple(bad_parent.load(), parent_rows, "the parent"), std::tuple(bad_child.load(), child_rows, "the child")})
        if (bad >= 0) return not_finite_error(rows.subspan(static_cast<std::size_t>(bad) * n_vocab, n_vocab), bad).with_context(who);
    return {};
}

}  // namespace skiff
