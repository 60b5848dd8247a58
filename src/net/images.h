// Images with what they show: from IDX files, or digits that are drawn here.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "net/session.h"

namespace skiff::net {

struct LabelledImages {
    ValueShape shape;
    std::vector<float> pixels;         // (n, height, width, channels) f32, 0 to 1
    std::vector<std::int32_t> labels;  // (n)
    std::int64_t n() const { return static_cast<std::int64_t>(labels.size()); }
};

// "IMAGES,LABELS", two IDX files; or "digits:N" or "digits:N:SEED", drawn (generated_digits.h).
Result<LabelledImages> load_images(const std::string& source);
// Whether a network can be asked about them: its input, and a label for no more than its outputs.
Status check_images(const NetSpec& spec, const LabelledImages& images);

struct Accuracy {
    std::int64_t n_right = 0, n = 0;
    double loss = 0;                                // mean cross-entropy, nats
    std::vector<std::vector<std::int64_t>> counts;  // [label][answer]
    std::vector<std::int64_t> answers;              // (n) the largest output of each image
    double share() const { return n > 0 ? static_cast<double>(n_right) / static_cast<double>(n) : 0; }
    double standard_error() const;
};
Accuracy measure_accuracy(Session& session, const LabelledImages& images);
Accuracy accuracy_of(std::span<const float> outputs, const LabelledImages& images);  // of all images // (n, answers) f32

}  // namespace skiff::net
