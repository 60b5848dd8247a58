// How the loss answers to the weights of the whole model. Declared here, where it is asked for, and implemented by training (src/train/weight_gradients.cpp);
// whoever has both hands it over (CompressOptions::gradients).
#pragma once

#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>

#include "compress/calibrate/calibration_text.h"
#include "model/spec.h"
#include "model/weight_source.h"

namespace skiff {

// By key, in the shape in which the checkpoint holds the tensor; f32, valid during the call that hands them over.
using SampleGradients = std::map<std::string, std::span<const float>>;

class GradientSource {
public:
    virtual ~GradientSource() = default;
    // One sample of the text after the other. The loss is the cross-entropy of every next token, in nats, over the number of those that the whole text has: what
    // the samples give adds up to the gradient of the text's mean. The bits are the same for any number of threads.
    using Sink = std::function<Status(const SampleGradients& gradients)>;
    virtual Status for_each_sample(const ModelSpec& spec, const WeightSource& weights, const CalibrationText& text, const std::set<std::string>& keys, const Sink& sink) const = 0;
};

// An unsupported error where there is no source. `what` needs it.
Status check_gradients(const GradientSource* source, const std::string& what);

// What the passes need beside the weights as they lie, about: f32 weights, as many gradients, the values of one sample. And how long they take on one thread.
std::uint64_t gradient_memory_bytes(const ModelSpec& spec, const CalibrationText& text);
double gradient_seconds(const ModelSpec& spec, const CalibrationText& text);

}  // namespace skiff
