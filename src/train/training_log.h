// The course of a training run: a row per step in train.csv, a row per validation in validation.csv, a picture of both.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "train/train.h"

namespace skiff::train {

Status append_line(const std::string& path, const std::string& line);

class TrainingLog {
public:
    // Takes over what the folder's files say up to `step`, and drops what a killed run wrote behind it.
    static Result<TrainingLog> open(const std::string& folder, std::int64_t step);

    Status add_step(const StepReport& report, std::int64_t n_tokens);
    Status add_validation(std::int64_t step, std::int64_t n_tokens, double loss);
    Status write_plot(const std::string& title, const std::string& y_label = "loss, nats a token") const;  // loss.svg

    // As the files have them, so that a run that was interrupted reports the same numbers; 0 without a row.
    double first_loss() const { return steps_.empty() ? 0 : steps_.front().loss; }
    double last_loss() const { return steps_.empty() ? 0 : steps_.back().loss; }
    double last_validation_loss() const { return validations_.empty() ? 0 : validations_.back().loss; }
    std::int64_t last_validation_step() const { return validations_.empty() ? 0 : validations_.back().step; }
    std::int64_t n_steps() const { return static_cast<std::int64_t>(steps_.size()); }

private:
    struct Row {
        std::int64_t step, n_tokens;
        double loss;
    };
    explicit TrainingLog(std::string folder) : folder_(std::move(folder)) {}
    std::string folder_;
    std::vector<Row> steps_, validations_;
};

}  // namespace skiff::train
