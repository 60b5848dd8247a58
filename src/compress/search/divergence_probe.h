// How far a model with some weights replaced is from itself, over a calibration text: only the blocks from the first replaced one on are run, on the
// hidden states that enter it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compress/calibrate/walk.h"

namespace skiff {

class DivergenceProbe {
public:
    // Runs the parent once. `text` and `spec` must outlive the probe.
    static Result<DivergenceProbe> create(const ModelSpec& spec, const WeightSource& parent, const CalibrationText& text, int n_threads);

    // Mean KL(parent || model with `weights`) in nats over all tokens of the given samples. `entering`: the parent's hidden states before `first_block`, all
    // samples behind one another, as the walk has them; for block 0 the tokens themselves are fed. // (n_tokens, d_model) f32
    Result<double> divergence(const WeightSource& weights, std::size_t first_block, std::span<const float> entering, std::span<const std::size_t> samples) const;

    const CalibrationText& text() const { return *text_; }

private:
    DivergenceProbe(const ModelSpec& spec, const CalibrationText& text, int n_threads) : spec_(&spec), text_(&text), n_threads_(n_threads) {}
    Result<std::unique_ptr<Session>> start(const WeightSource& weights, std::size_t first_block) const;
    std::span<const float> rows_of(std::span<const float> states, std::size_t sample) const;

    const ModelSpec* spec_;
    const CalibrationText* text_;
    int n_threads_;
    std::unique_ptr<Session> head_;   // the parent's: its logits are made anew each time, since they are too many to keep
    std::vector<float> before_head_;  // (n_tokens, d_model)
};

}  // namespace skiff
