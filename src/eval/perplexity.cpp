#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>

namespace skiff {

std::vector<double> log_likelihoods_of(const std::vector<TokenScore>& scores) {
    std::vector<double> values;
    for (const TokenScore& score : scores) values.push_back(score.log_likelihood);
    return values;
}

std::vector<double> child_log_likelihoods_of(const std::vector<TokenDivergence>& positions) {
    std::vector<double> values;
    for (const TokenDivergence& position : positions) values.push_back(position.child_log_likelihood);
    return values;
}

PerplexityReport perplexity_report(const std::vector<double>& log_likelihoods, const TextWindows& windows) {
    PerplexityReport report;
    report.mean_nll = mean_of(log_likelihoods);
    report.mean_nll.value = -report.mean_nll.value;
    report.perplexity = exp_of(report.mean_nll);
    report.tokens = static_cast<std::int64_t>(log_likelihoods.size());
    report.protocol = protocol_name(windows.protocol());
    report.window = windows.window();
    report.windows = windows.n_windows();
    report.tokens_in_text = windows.n_tokens_in_text();
    return report;
}

Json PerplexityReport::to_json() const {
    return Json::object({{"value", perplexity.value},
                         {"stderr", perplexity.stderr_},
                         {"tokens", tokens},
                         {"protocol", protocol},
                         {"window", window},
                         {"windows", windows},
                         {"tokens_in_text", tokens_in_text},
                         {"mean_nll", mean_nll.value},
                         {"mean_nll_stderr", mean_nll.stderr_}});
}

AgainstReport against_report(const std::vector<TokenDivergence>& positions, std::int64_t n_windows) {
    AgainstReport report;
    std::vector<double> kl, change, parent_nll, difference;
    std::int64_t agreements = 0;
    double squares = 0;
    for (const TokenDivergence& position : positions) {
        kl.push_back(position.kl);
        change.push_back(std::exp(position.child_log_likelihood) - std::exp(position.parent_log_likelihood));
        squares += change.back() * change.back();
        parent_nll.push_back(-position.parent_log_likelihood);
        difference.push_back(position.parent_log_likelihood - position.child_log_likelihood);
        agreements += position.parent_top == position.child_top;
        report.largest_probability_change = std::max(report.largest_probability_change, static_cast<double>(position.largest_change));
    }
    const std::size_t per_window = n_windows > 0 ? positions.size() / static_cast<std::size_t>(n_windows) : 0;  // windows are full, so that all have as many
    for (std::size_t begin = 0; per_window > 0 && begin + per_window <= positions.size(); begin += per_window) {
        report.window_kl.push_back(mean_of(std::span(kl).subspan(begin, per_window)).value);
        report.window_log_perplexity_ratio.push_back(mean_of(std::span(difference).subspan(begin, per_window)).value);
    }
    report.tokens = static_cast<std::int64_t>(positions.size());
    report.mean_kl = mean_of(kl);
    report.median_kl = quantile(kl, 0.5);
    report.p99_kl = quantile(kl, 0.99);
    report.max_kl = quantile(std::move(kl), 1);
    report.top1_agreement = share_of_hits(agreements, report.tokens);
    report.mean_change_of_right = mean_of(change);
    report.rms_change_of_right = positions.empty() ? 0 : std::sqrt(squares / static_cast<double>(positions.size()));
    report.parent_perplexity = exp_of(mean_of(parent_nll));
    report.log_perplexity_ratio = mean_of(difference);
    return report;
}

Json AgainstReport::to_json() const {
    const auto list = [](const std::vector<double>& values) {
        Json::Array items;
        for (double value : values) items.emplace_back(value);
        return Json(std::move(items));
    };
    return Json::object({{"parent", Json::object({{"path", parent_path}, {"name", parent_name}, {"hash", parent_hash}})},
                         {"parent_logits", parent_logits},
                         {"mean_kl", mean_kl.value},
                         {"mean_kl_stderr", mean_kl.stderr_},
                         {"median_kl", median_kl},
                         {"p99_kl", p99_kl},
                         {"max_kl", max_kl},
                         {"top1_agreement", top1_agreement.value},
                         {"top1_agreement_stderr", top1_agreement.stderr_},
                         {"largest_probability_change", largest_probability_change},
                         {"mean_change_of_right_token", mean_change_of_right.value},
                         {"mean_change_of_right_token_stderr", mean_change_of_right.stderr_},
                         {"rms_change_of_right_token", rms_change_of_right},
                         {"parent_perplexity", Json::object({{"value", parent_perplexity.value}, {"stderr", parent_perplexity.stderr_}})},
                         {"log_perplexity_ratio", log_perplexity_ratio.value},
                         {"log_perplexity_ratio_stderr", log_perplexity_ratio.stderr_},
                         {"tokens", tokens},
                         {"window_kl", list(window_kl)},
                         {"window_log_perplexity_ratio", list(window_log_perplexity_ratio)}});
}

}  // namespace skiff
