#include "measure/likelihood.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>

#include "measure/row_exp.h"

namespace skiff {
namespace {

// Eight lanes, so that the compiler can keep them in vector registers without being allowed to reorder sums.
constexpr std::size_t lanes = 8;

// Largest value; *zero becomes NaN when any value is NaN or infinite, because those times 0 are NaN.
float max_and_check(std::span<const float> row, float* zero) {
    float largest[lanes], zeros[lanes] = {};
    std::fill(largest, largest + lanes, row[0]);
    std::size_t i = 0;
    for (; i + lanes <= row.size(); i += lanes) {
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            const float value = row[i + lane];
            largest[lane] = value > largest[lane] ? value : largest[lane];
            zeros[lane] += value * 0.0f;
        }
    }
    for (; i < row.size(); ++i) {
        largest[0] = std::max(largest[0], row[i]);
        zeros[0] += row[i] * 0.0f;
    }
    *zero = 0;
    for (float z : zeros) *zero += z;
    return *std::max_element(largest, largest + lanes);
}

}  // namespace

RowSummary summarize_row(std::span<const float> logits) {
    thread_local std::vector<float> exps;
    return summarize_row(logits, exps);
}

RowSummary summarize_row(std::span<const float> logits, std::vector<float>& exps) {
    RowSummary summary;
    float zero = 0;
    summary.max = max_and_check(logits, &zero);
    summary.finite = zero == 0;
    if (!summary.finite) return summary;
    summary.top = static_cast<std::int32_t>(std::find(logits.begin(), logits.end(), summary.max) - logits.begin());
    exps.resize(logits.size());
    const double sum = row_exp(logits.data(), static_cast<std::int64_t>(logits.size()), summary.max, exps.data());
    summary.log_sum_exp = static_cast<double>(summary.max) + std::log(sum);
    return summary;
}

Error not_finite_error(std::span<const float> logits, std::int64_t row) {
    const auto bad = std::find_if(logits.begin(), logits.end(), [](float value) { return !std::isfinite(value); });
    const char* what = bad == logits.end() ? "finite" : std::isnan(*bad) ? "NaN" : "infinite";
    return runtime_error("row " + std::to_string(row) + ": the logit of token " + std::to_string(bad - logits.begin()) + " is " + what +
                         "; the model's weights or its arithmetic are broken there, so no figure is given");
}

Status score_rows(ThreadPool& pool, std::span<const float> rows, std::span<const std::int32_t> targets, std::span<TokenScore> scores) {
    if (targets.empty()) return {};
    const std::size_t n_vocab = rows.size() / targets.size();
    std::atomic<std::int64_t> bad{-1};
    pool.run([&](int thread) {
        const Range range = share_of(static_cast<std::int64_t>(targets.size()), thread, pool.n_threads());
        for (std::int64_t r = range.begin; r < range.end; ++r) {
            const auto at = static_cast<std::size_t>(r);
            const auto row = rows.subspan(at * n_vocab, n_vocab);
            const RowSummary summary = summarize_row(row);
            if (!summary.finite) bad = r;
            scores[at] = {static_cast<double>(row[static_cast<std::size_t>(targets[at])]) - summary.log_sum_exp, summary.top};
        }
    });
    if (const std::int64_t row = bad; row >= 0) return not_finite_error(rows.subspan(static_cast<std::size_t>(row) * n_vocab, n_vocab), row);
    return {};
}

}  // namespace skiff
