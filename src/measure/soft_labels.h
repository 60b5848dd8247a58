// A model's next-token distributions softened by a temperature: what a student learns from (Hinton et al. 2015).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace skiff {

// softmax(logits / temperature). // (n_vocab)
std::vector<double> softened(std::span<const float> logits, double temperature);
double entropy_of(std::span<const double> probabilities);  // nats

struct LikelyToken {
    std::int32_t token = 0;
    double probability = 0;
};
// The n likeliest, the likeliest first; of equals the one with the lower id.
std::vector<LikelyToken> likeliest(std::span<const double> probabilities, std::int64_t n);

}  // namespace skiff
