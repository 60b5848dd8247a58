#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>

#include "measure/row_exp.h"

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

bool Sampler::has_penalties() const {
    return options_.repetition_penalty != 1.0 || options_.presence_penalty != 0.0 || options_.frequency_penalty != 0.0;
}

std::int64_t Sampler::n_wanted() const {
    constexpr std::int64_t most = 256;  // above, collecting them costs more than a row of logits does
    if (has_penalties()) return 0;
    if (options_.temperature == 0) return 1;
    return options_.top_k <= most ? options_.top_k : 0;
}

std::optional<ChoiceRule> Sampler::rule() const {
    if (n_wanted() == 0) return std::nullopt;
    if (options_.temperature == 0) return ChoiceRule{};
    return ChoiceRule{options_.temperature, options_.top_k, options_.top_p, options_.min_p};
}

std::vector<double> Sampler::next_uniforms(std::int64_t n) const {
    std::vector<double> uniforms;
    Rng copy = rng_;
    for (std::int64_t i = 0; i < n && options_.temperature > 0; ++i) uniforms.push_back(copy.uniform());
    return uniforms;
}

void Sampler::take(std::int32_t token) {
    if (options_.temperature > 0) rng_.uniform();
    observe(token);
}

std::size_t Sampler::window() const {
    return options_.penalty_window < 0 ? history_.size() : std::min(history_.size(), static_cast<std::size_t>(options_.penalty_window));
}

void Sampler::observe(std::int32_t token) { history_.push_back(token); }

void Sampler::forget(std::size_t n_tokens) { history_.resize(history_.size() - std::min(n_tokens, history_.size())); }

// Counts the window anew each time: it is short, or the user asked for all of the text. Counts are zero again at the end.
std::span<const float> Sampler::penalize(std::span<const float> logits) {
    if (!has_penalties()) return logits;
    penalized_.assign(logits.begin(), logits.end());
    counts_.resize(logits.size(), 0);
    const auto recent = std::span<const std::int32_t>(history_).last(window());
    auto known = [&](std::int32_t token) { return token >= 0 && static_cast<std::size_t>(token) < logits.size(); };
    for (std::int32_t token : recent)
        if (known(token)) ++counts_[static_cast<std::size_t>(token)];
    for (std::int32_t token : recent) {
        if (!known(token)) continue;
        std::int32_t& count = counts_[static_cast<std::size_t>(token)];
        if (count == 0) continue;  // it was seen to before
        float& logit = penalized_[static_cast<std::size_t>(token)];
        logit = static_cast<float>(logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty);
        logit -= static_cast<float>(options_.presence_penalty + options_.frequency_penalty * count);
        count = 0;
    }
    return penalized_;
}

// Of the candidates, those whose likelier ones together have less than top_p of the total. The order of what is kept follows from the logits alone.
// Halves instead of sorting: the half that holds the end of the nucleus is halved again. Few are sorted, as a device has them that chooses by itself (kernels/cuda/choose.h): the order
// says which token a random number means.
void Sampler::keep_nucleus(double total) {
    const double target = options_.top_p * total;
    auto weight = [&](std::size_t i) { return static_cast<double>(exponentials_[static_cast<std::size_t>(candidates_[i].token)]); };
    std::size_t begin = 0, end = candidates_.size();
    double before = 0;
    auto at = [&](std::size_t i) { return candidates_.begin() + static_cast<std::ptrdiff_t>(i); };
    while (end - begin > 64) {
        const std::size_t middle = begin + (end - begin) / 2;
        std::nth_element(at(begin), at(middle), at(end), comes_before);
        double mass = 0;
        for (std::size_t i = begin; i < middle; ++i) mass += weight(i);
        if (before + mass >= target) end = middle;
        else before += mass, begin = middle;
    }
    std::sort(at(begin), at(end), comes_before);
    while (begin < end && before < target) before += weight(begin++);
    candidates_.resize(std::max<std::size_t>(1, begin));
}

// Fills candidates_ with what min-p, top-k and top-p leave; or leaves it empty where nothing is cut off.
void Sampler::choose_candidates(const Logits& from, float highest) {
    const std::span<const float> logits = from.all();
    candidates_.clear();
    // min-p relative to the most likely token, before the temperature, as in llama.cpp and vLLM.
    float lowest = options_.min_p > 0 ? static_cast<float>(highest + std::log(options_.min_p)) : -INFINITY;
    const bool nucleus = options_.top_p < 1;
    if (from.only_largest()) {  // top-k of them, or those that are left
        for (const ScoredToken& token : from.largest().first(std::min(from.largest().size(), static_cast<std::size_t>(options_.top_k))))
            if (token.score >= lowest) candidates_.push_back(token);
    } else if (options_.top_k > 0) scan_.largest(lowest, static_cast<std::size_t>(options_.top_k), candidates_);
    else if (options_.min_p > 0) scan_.at_least(lowest, candidates_);
    if (!nucleus) return;
    // Probabilities before the temperature.
    exponentials_.resize(from.n_vocab());
    double total = 0;
    if (candidates_.empty()) {
        total = row_exp(logits.data(), static_cast<std::int64_t>(logits.size()), highest, exponentials_.data());
        // All tokens below this together have less than 1 - top_p of the total, so none of them belongs to the nucleus.
        lowest = static_cast<float>(highest + std::log((1 - options_.top_p) * total / static_cast<double>(logits.size())) - 1e-3);
        scan_.at_least(lowest, candidates_);
    } else {
        for (const ScoredToken& candidate : candidates_) {
            const double weight = std::exp(static_cast<double>(candidate.score) - highest);
            exponentials_[static_cast<std::size_t>(candidate.token)] = static_cast<float>(weight);
            total += weight;
        }
    }
    keep_nucleus(total);
}

Result<std::span<const TokenChance>> Sampler::distribution(const Logits& original) {
    const std::span<const float> logits = original.only_largest() ? std::span<const float>() : penalize(original.all());
    std::int32_t best = 0;
    if (original.only_largest()) best = original.largest()[0].token;
    else {
        SKIFF_TRY(best, scan_.read(logits));
    }
    distribution_.clear();
    if (options_.temperature == 0) {
        distribution_.push_back({best, 1.0});
        return std::span<const TokenChance>(distribution_);
    }
    const float highest = original.only_largest() ? original.largest()[0].score : logits[static_cast<std::size_t>(best)];
    choose_candidates(original.only_largest() ? original : Logits(logits), highest);
    double total = 0;
    if (!candidates_.empty()) {
        for (const ScoredToken& candidate : candidates_) {
            const double chance = std::exp((static_cast<double>(candidate.score) - highest) / options_.temperature);
            total += chance;
            distribution_.push_back({candidate.token, chance});
        }
        for (TokenChance& entry : distribution_) entry.chance /= total;
        return std::span<const TokenChance>(distribution_);
    }
    const auto n_tokens = static_cast<std::int64_t>(logits.size());
    exponentials_.resize(logits.size());
    if (options_.temperature == 1) {
        total = row_exp(logits.data(), n_tokens, highest, exponentials_.data());
    } else {
        const auto scale = static_cast<float>(1 / options_.temperature);
        for (std::size_t i = 0; i < logits.size(); ++i) exponentials_[i] = (logits[i] - highest) * scale;
        total = row_exp(exponentials_.data(), n_tokens, 0, exponentials_.data());
    }
    distribution_.resize(logits.size());
    const double scale = 1 / total;
    for (std::size_t i = 0; i < logits.size(); ++i) distribution_[i] = {static_cast<std::int32_t>(i), static_cast<double>(exponentials_[i]) * scale};
    return std::span<const TokenChance>(distribution_);
}

std::int32_t Sampler::draw() {
    double target = rng_.uniform();
    if (distribution_.size() == 1) return distribution_[0].token;
    for (const TokenChance& entry : distribution_) {
        target -= entry.chance;
        if (target < 0) return entry.token;
    }
    // Rounding left a little: the last that has a chance.
    auto last = distribution_.rbegin();
    while (last->chance == 0) ++last;
    return last->token;
}

Result<std::int32_t> Sampler::sample(const Logits& logits) {
    SKIFF_CHECK(distribution(logits));
    const std::int32_t token = options_.temperature == 0 ? distribution_[0].token : draw();
    observe(token);
    return token;
}

Result<std::int32_t> Sampler::verify(const Logits& logits, std::int32_t proposal, std::span<const TokenChance> draft) {
    SKIFF_CHECK(distribution(logits));
    if (options_.temperature == 0) {
        observe(distribution_[0].token);
        return distribution_[0].token;
    }
    draft_chances_.resize(std::max(draft_chances_.size(), logits.n_vocab()), 0.0);
    double q = 0, p = 0, total = 0;
    for (const TokenChance& entry : draft) {
        if (static_cast<std::size_t>(entry.token) < logits.n_vocab()) draft_chances_[static_cast<std::size_t>(entry.token)] = entry.chance;
        if (entry.token == proposal) q = entry.chance;
    }
    for (const TokenChance& entry : distribution_)
        if (entry.token == proposal) p = entry.chance;
    if (rng_.uniform() * q >= p) {
        for (TokenChance& entry : distribution_) {
            entry.chance = std::max(0.0, entry.chance - draft_chances_[static_cast<std::size_t>(entry.token)]);
            total += entry.chance;
        }
        if (total > 0) {  // where rounding leaves nothing, p and q are the same, and the proposal is as good as any
            for (TokenChance& entry : distribution_) entry.chance /= total;
            proposal = draw();
        }
    }
    for (const TokenChance& entry : draft)
        if (static_cast<std::size_t>(entry.token) < logits.n_vocab()) draft_chances_[static_cast<std::size_t>(entry.token)] = 0;
    observe(proposal);
    return proposal;
}

}  // namespace skiff
