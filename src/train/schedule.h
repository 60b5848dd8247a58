// The learning rate of each step.
#pragma once

#include <cstdint>

namespace skiff::train {

struct Schedule {
    enum class Kind : std::uint8_t {
        constant,
        cosine,  // down to the floor along half a cosine
        linear,  // down to the floor along a line
        wsd,     // warm-up, stable, decay: constant, then along a line to the floor in the last decay_steps
    } kind = Kind::cosine;
    double peak = 1e-3;
    double floor = 0;  // in shares of the peak
    std::int64_t n_steps = 1, warmup_steps = 0, decay_steps = 0;
};

// `step` counts from 0. The warm-up rises along a line and reaches the peak at step warmup_steps.
double learning_rate(const Schedule& schedule, std::int64_t step);

}  // namespace skiff::train
