// Where an operator's tensors come from: a folder, a GGUF file, random numbers. Weights are loaded one at a time, when asked for.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/spec.h"
#include "tensor/weight.h"

namespace skiff {

class WeightSource {
public:
    virtual ~WeightSource() = default;
    virtual bool contains(const std::string& key) const = 0;
    // The tensor as stored. Names are those of the spec (Hugging Face's).
    virtual Result<Weight> load(const std::string& key) const = 0;
    virtual std::vector<std::string> keys() const = 0;
    // Names the numbers that load() gives, across processes: equal names, equal numbers. Empty: they have no name that is cheap to make.
    virtual std::string identity() const { return {}; }
};

// Random numbers in the shapes of `spec`: normal with the deviation of a fresh model, norm weights near one. Deterministic by key and seed.
std::shared_ptr<WeightSource> random_weights(const ModelSpec& spec, DType dtype, std::uint64_t seed);

// Quantizes what `scheme_of` names as it is loaded (for `bench random:... --scheme`); other tensors pass through.
using SchemeChoice = std::function<const Scheme*(const std::string& key)>;
std::shared_ptr<WeightSource> quantized_on_load(const ModelSpec& spec, std::shared_ptr<WeightSource> source, SchemeChoice scheme_of, ScaleRule rule);

}  // namespace skiff
