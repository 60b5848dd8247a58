#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>

namespace skiff {

Status check(const SamplingOptions& options) {
    auto bad = [](const char* name, const char* range) { return usage_error(std::string(name) + ": expected " + range); };
    if (!(options.temperature >= 0 && options.temperature <= 100)) return bad("--temp", "0 to 100");
    if (options.top_k < 0) return bad("--top-k", "0 (off) or more");
    if (!(options.top_p > 0 && options.top_p <= 1)) return bad("--top-p", "more than 0, at most 1 (off)");
    if (!(options.min_p >= 0 && options.min_p <= 1)) return bad("--min-p", "0 (off) to 1");
    if (!(options.repetition_penalty > 0 && options.repetition_penalty <= 100)) return bad("--repeat-penalty", "more than 0; 1 is off");
    if (!std::isfinite(options.presence_penalty) || !std::isfinite(options.frequency_penalty))
        return bad("--presence-penalty and --frequency-penalty", "a finite number");
    return {};
}

Result<std::int32_t> argmax_token(std::span<const float> logits) {
    std::size_t best = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
        if (std::isnan(logits[i]))
            return runtime_error("the logits hold NaN (token " + std::to_string(i) + "): the weights or the state are damaged");
        if (logits[i] > logits[best]) best = i;
    }
    if (logits.empty() || std::isinf(logits[best])) return runtime_error("the logits are not finite: the weights or the state are damaged");
    return static_cast<std::int32_t>(best);
}

void Sampler::penalize(std::vector<float>& logits) const {
    if (options_.repetition_penalty == 1.0 && options_.presence_penalty == 0.0 && options_.frequency_penalty == 0.0) return;
    const auto window = options_.penalty_window < 0 ? history_.size() : std::min(history_.size(), static_cast<std::size_t>(options_.penalty_window));
    std::map<std::int32_t, int> counts;
    for (std::size_t i = history_.size() - window; i < history_.size(); ++i) ++counts[history_[i]];
    for (const auto& [token, count] : counts) {
        if (token < 0 || token >= static_cast<std::int32_t>(logits.size())) continue;
        float& logit = logits[static_cast<std::size_t>(token)];
        logit = static_cast<float>(logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty);
        logit -= static_cast<float>(options_.presence_penalty + options_.frequency_penalty * count);
    }
}

Result<std::int32_t> Sampler::sample(std::span<const float> original) {
    std::vector<float> logits(original.begin(), original.end());
    penalize(logits);
    SKIFF_TRY(auto best, argmax_token(logits));
    if (options_.temperature == 0) {
        observe(best);
        return best;
    }
    std::vector<Candidate> candidates;
    candidates.reserve(logits.size());
    const float highest = logits[static_cast<std::size_t>(best)];
    // min-p relative to the most likely token, before the temperature, as in llama.cpp and vLLM.
    const double lowest = options_.min_p > 0 ? highest + std::log(options_.min_p) : -INFINITY;
    for (std::size_t i = 0; i < logits.size(); ++i)
        if (logits[i] >= lowest) candidates.push_back({static_cast<std::int32_t>(i), logits[i], 0});
    auto by_logit = [](const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.token < b.token; };
    if (options_.top_k > 0 && candidates.size() > static_cast<std::size_t>(options_.top_k)) {
        std::partial_sort(candidates.begin(), candidates.begin() + options_.top_k, candidates.end(), by_logit);
        candidates.resize(static_cast<std::size_t>(options_.top_k));
    } else {
        std::sort(candidates.begin(), candidates.end(), by_logit);
    }
    double total = 0;
    for (Candidate& candidate : candidates) total += candidate.probability = std::exp(static_cast<double>(candidate.logit) - highest);
    if (options_.top_p < 1) {  // on the probabilities before the temperature
        double kept = 0;
        std::size_t n = 0;
        while (n < candidates.size() && kept < options_.top_p * total) kept += candidates[n++].probability;
        candidates.resize(std::max<std::size_t>(1, n));
    }
    total = 0;
    for (Candidate& candidate : candidates)
        total += candidate.probability = std::exp((static_cast<double>(candidate.logit) - highest) / options_.temperature);
    double target = rng_.uniform() * total;
    std::int32_t chosen = candidates.back().token;
    for (const Candidate& candidate : candidates) {
        target -= candidate.probability;
        if (target < 0) {
            chosen = candidate.token;
            break;
        }
    }
    observe(chosen);
    return chosen;
}

}  // namespace skiff
