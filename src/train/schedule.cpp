#include "train/schedule.h"

#include <algorithm>
#include <cmath>

namespace skiff::train {

double learning_rate(const Schedule& schedule, std::int64_t step) {
    if (step < schedule.warmup_steps) return schedule.peak * static_cast<double>(step + 1) / static_cast<double>(schedule.warmup_steps);
    const std::int64_t begin = schedule.kind == Schedule::Kind::wsd ? std::max(schedule.warmup_steps, schedule.n_steps - schedule.decay_steps) : schedule.warmup_steps;
    const double length = static_cast<double>(std::max<std::int64_t>(1, schedule.n_steps - begin));
    const double done = std::clamp(static_cast<double>(step - begin) / length, 0.0, 1.0);
    double share = 1;
    switch (schedule.kind) {
        case Schedule::Kind::constant: break;
        case Schedule::Kind::cosine: share = 0.5 * (1 + std::cos(done * 3.14159265358979323846)); break;
        case Schedule::Kind::linear:
        case Schedule::Kind::wsd: share = 1 - done; break;
    }
    return schedule.peak * (schedule.floor + (1 - schedule.floor) * share);
}

}  // namespace skiff::train
