// `skiff eval --soft-labels`: what a teacher would tell a student at several temperatures.
#pragma once

#include "eval/evaluate.h"
#include "measure/soft_labels.h"

namespace skiff {

struct SoftLabelOptions {
    std::int64_t n_top = 5;                   // tokens shown
    std::vector<double> temperatures = {1};
    std::int64_t n_places = 3;                // places of the first window that are shown
};

struct SoftLabelReport {
    struct Choice {
        std::string text;
        LikelyToken token;
    };
    struct AtTemperature {
        double temperature = 1, entropy = 0;
        std::vector<Choice> choices;
    };
    struct Place {
        std::string context, next;            // the text's last words before it, and its own next token
        std::vector<AtTemperature> softened;
    };
    ModelIdentity model;
    std::string text_path;
    std::int64_t tokens = 0;                  // that the means are over
    std::vector<double> mean_entropy;         // by temperature, nats
    std::vector<double> mean_top;             // probability of the first choice
    std::vector<Place> places;
    Json to_json(const SoftLabelOptions& options) const;
};

// Takes the model, the text, the window and the engine of `options`.
Result<SoftLabelReport> soft_labels(const EvalOptions& options, const SoftLabelOptions& soft);

}  // namespace skiff
