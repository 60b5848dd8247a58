// For the tests of this folder: the tiny models of tests/data with their weights in memory, where a test may change them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "corpus/corpus_testing.h"
#include "corpus/token_file_header.h"
#include "model/checkpoint.h"
#include "train/trainable_model.h"

namespace skiff::train {

class WeightsInMemory final : public WeightSource {
public:
    bool contains(const std::string& key) const override { return tensors.count(key) != 0; }
    Result<Weight> load(const std::string& key) const override {
        auto found = tensors.find(key);
        if (found == tensors.end()) return not_found(key);
        const at::Tensor values = found->second.contiguous();
        return make_float_weight(Shape(values.sizes().begin(), values.sizes().end()), {values.data_ptr<float>(), values.data_ptr<float>() + values.numel()});
    }
    std::vector<std::string> keys() const override {
        std::vector<std::string> names;
        for (const auto& [key, tensor] : tensors) names.push_back(key);
        return names;
    }
    std::map<std::string, at::Tensor> tensors;  // f32
};

inline at::Tensor tensor_of(const Weight& weight) {
    at::Tensor values = at::empty(weight.shape, at::kFloat);
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data_ptr<float>() + row * weight.n_columns());
    return values;
}

struct TinyCase {
    ModelSpec spec;
    WeightsInMemory weights;
};
inline std::string tiny_model_path(const std::string& name) { return std::string(SKIFF_TEST_DATA_DIR) + "/models/" + name; }
inline TinyCase open_tiny_model(const std::string& name) {
    auto checkpoint = Checkpoint::open(tiny_model_path(name));
    EXPECT_TRUE(checkpoint.ok()) << name;
    TinyCase tiny{checkpoint->spec, {}};
    for (const auto& [key, declared] : tiny.spec.tensors) tiny.weights.tensors[key] = tensor_of(*checkpoint->weights->load(key));
    return tiny;
}

inline ParameterSet load_parameters(const ModelSpec& spec, const WeightSource& weights) {
    auto parameters = ParameterSet::load(spec, weights, at::kCPU);
    EXPECT_TRUE(parameters.ok()) << (parameters.ok() ? "" : parameters.error().to_string());
    return std::move(*parameters);
}
inline std::unique_ptr<TrainableModel> make_trainable(const ModelSpec& spec, ParameterSet parameters, const TrainableOptions& options = {}) {
    auto model = TrainableModel::create(spec, std::move(parameters), options);
    EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().to_string());
    return std::move(*model);
}

// A token file of these ids.
inline std::string write_tokens(const TestFolder& folder, const std::string& name, const std::vector<std::uint16_t>& ids, std::int64_t n_vocab = 300, std::uint64_t hash = 7) {
    TokenFileHeader header(n_vocab, hash);
    header.n_tokens = ids.size();
    header.n_documents = 1;
    return folder.write(name, std::string(reinterpret_cast<const char*>(&header), sizeof header) + std::string(reinterpret_cast<const char*>(ids.data()), ids.size() * 2));
}

// Relative to the largest element of `expected`.
inline double relative_difference(const at::Tensor& found, const at::Tensor& expected) {
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item<double>();
}

}  // namespace skiff::train
