// How far a model gets from itself when something is taken out of it: the mean KL of its next-token distributions over some of the calibration text.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "compress/calibrate/calibration_text.h"
#include "model/checkpoint.h"

namespace skiff {

class RemovalProbe {
public:
    // Runs the whole model once and keeps its logits, of as many samples as fit `max_logit_bytes` (one at least).
    static Result<RemovalProbe> create(const Checkpoint& model, const CalibrationText& text, int n_threads, std::uint64_t max_logit_bytes = std::uint64_t{256} << 20);

    Result<double> mean_kl(const ModelSpec& spec, const WeightSource& weights) const;  // KL(model || changed), nats
    std::int64_t n_tokens() const { return n_tokens_; }
    // What to say where it runs over less than all of the text; nothing where over all.
    std::vector<std::string> remarks(const CalibrationText& text) const;

private:
    using Sink = std::function<Status(std::size_t sample, std::span<const float> logits)>;
    Status run(const ModelSpec& spec, const WeightSource& weights, const Sink& sink) const;

    std::vector<std::vector<std::int32_t>> samples_;
    std::vector<std::vector<float>> logits_;  // of each sample // (n_tokens, n_vocab) f32
    std::int64_t n_vocab_ = 0, n_tokens_ = 0;
    std::uint64_t max_logit_bytes_ = 0;
    int n_threads_ = 1;
};

// The model without some of its blocks (numbers of the spec): what entered them goes on to the next. Their tensors are no longer declared, unless others have them too.
ModelSpec without_blocks(const ModelSpec& spec, const std::set<std::size_t>& dropped);

}  // namespace skiff
