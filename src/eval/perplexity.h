// The figures of a text: perplexity with its error, and how far a child is from its parent.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "measure/divergence.h"
#include "measure/likelihood.h"
#include "measure/statistics.h"
#include "measure/text_windows.h"

namespace skiff {

struct PerplexityReport {
    Estimate perplexity;     // exp of the mean negative log-likelihood; the error of the mean carried by the delta method
    Estimate mean_nll;       // nats per token
    std::int64_t tokens = 0; // that were scored
    std::string protocol;
    std::int64_t window = 0, windows = 0, tokens_in_text = 0;

    Json to_json() const;  // {value, stderr, tokens, protocol, window, windows, tokens_in_text, mean_nll}
};

PerplexityReport perplexity_report(const std::vector<double>& log_likelihoods, const TextWindows& windows);

struct AgainstReport {
    std::string parent_path, parent_name, parent_hash;
    std::string parent_logits;              // "beside": both models ran together; "file": from a file of logits
    Estimate mean_kl;                       // KL(parent || child), nats
    double median_kl = 0, p99_kl = 0, max_kl = 0;
    Estimate top1_agreement;
    double largest_probability_change = 0;  // of any token at any position
    Estimate mean_change_of_right;          // child's minus parent's probability of the token that came
    double rms_change_of_right = 0;
    Estimate parent_perplexity;
    Estimate log_perplexity_ratio;          // ln(child / parent); paired: the error of the mean of the differences
    std::int64_t tokens = 0;
    // Means over each window, to compare two children of one parent pair by pair.
    std::vector<double> window_kl, window_log_perplexity_ratio;

    Json to_json() const;
};

AgainstReport against_report(const std::vector<TokenDivergence>& positions, std::int64_t n_windows);

std::vector<double> log_likelihoods_of(const std::vector<TokenScore>& scores);
std::vector<double> child_log_likelihoods_of(const std::vector<TokenDivergence>& positions);

}  // namespace skiff
