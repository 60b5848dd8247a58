// What the student writes itself, to be taught on: windows whose tokens behind a prompt are drawn from its own distribution, as it is now (GKD, Agarwal et al.
// 2023; MiniLLM, Gu et al. 2023). The engine writes them, several sequences at once.
#pragma once

#include "plan/plan.h"
#include "train/trainable_model.h"

namespace skiff::train {

class StudentText {
public:
    struct Settings {
        std::int64_t n_prompt = 1;  // tokens of each window that stay
        std::uint64_t seed = 1;
        int n_threads = 1;
    };
    StudentText(const TrainableModel& student, const Settings& settings) : student_(student), settings_(settings) {}

    // `windows` with all tokens behind the prompt drawn anew at temperature 1: a function of the seed, the window's number in the order of training, and the
    // weights. `step` says when these have changed. // windows, result: (n, n_tokens) i64
    Result<at::Tensor> continued(const at::Tensor& windows, std::uint64_t first_window, std::int64_t step);
    // The seed of the random numbers that draw one window.
    std::uint64_t seed_of(std::uint64_t window) const;

private:
    const TrainableModel& student_;
    Settings settings_;
    std::shared_ptr<const Plan> plan_;  // of the weights at plan_step_
    std::int64_t plan_step_ = -1;
};

}  // namespace skiff::train
