#include "measure/divergence.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "measure/likelihood.h"

namespace skiff {
namespace {

// KL = sum p (a - b) - (lse_a - lse_b) for logits a, b: one sum, and exactly 0 for equal rows.
TokenDivergence compare_row(std::span<const float> parent, std::span<const float> child, std::size_t target, bool& parent_finite, bool& child_finite) {
    thread_local std::vector<float> parent_exps, child_exps;
    const RowSummary parent_summary = summarize_row(parent, parent_exps), child_summary = summarize_row(child, child_exps);
    parent_finite = parent_summary.finite;
    child_finite = child_summary.finite;
    if (!parent_finite || !child_finite) return {};
    const double parent_lse = parent_summary.log_sum_exp, child_lse = child_summary.log_sum_exp;
    const auto parent_scale = static_cast<float>(std::exp(static_cast<double>(parent_summary.max) - parent_lse));
    const auto child_scale = static_cast<float>(std::exp(static_cast<double>(child_summary.max) - child_lse));
    // Four lanes, which the compiler keeps in vector registers.
    double mass[4] = {}, difference[4] = {};
    float change[4] = {};
    auto add = [&](std::size_t i, std::size_t lane) {
        const float p = parent_exps[i] * parent_scale;
        mass[lane] += static_cast<double>(p);
        difference[lane] += static_cast<double>(p) * (static_cast<double>(parent[i]) - static_cast<double>(child[i]));
        const float gap = std::abs(p - child_exps[i] * child_scale);
        change[lane] = gap > change[lane] ? gap : change[lane];
    };
    std::size_t i = 0;
    for (; i + 4 <= parent.size(); i += 4)
        for (std::size_t lane = 0; lane < 4; ++lane) add(i + lane, lane);
    for (; i < parent.size(); ++i) add(i, 0);
    const double total_mass = (mass[0] + mass[1]) + (mass[2] + mass[3]);
    const double total_difference = (difference[0] + difference[1]) + (difference[2] + difference[3]);
    const float largest_change = std::max(std::max(change[0], change[1]), std::max(change[2], change[3]));
    TokenDivergence result;
    result.kl = total_difference / total_mass - (parent_lse - child_lse);
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
            bool parent_finite = true, child_finite = true;
            result[at] = compare_row(parent, child, static_cast<std::size_t>(targets[at]), parent_finite, child_finite);
            if (!parent_finite) bad_parent = r;
            if (!child_finite) bad_child = r;
        }
    });
    for (const auto& [bad, rows, who] : {std::tuple(bad_parent.load(), parent_rows, "the parent"), std::tuple(bad_child.load(), child_rows, "the child")})
        if (bad >= 0) return not_finite_error(rows.subspan(static_cast<std::size_t>(bad) * n_vocab, n_vocab), bad).with_context(who);
    return {};
}

}  // namespace skiff
