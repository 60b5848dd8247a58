// For tests that walk through every small model of the test data.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "base/rng.h"
#include "compress/algebra/algebra.h"
#include "compress/calibrate/gradients.h"
#include "compress/calibrate/walk.h"

namespace skiff::testing {

inline std::vector<std::string> small_model_folders() {
    std::vector<std::string> folders;
    for (const auto& entry : std::filesystem::directory_iterator(std::string(SKIFF_TEST_DATA_DIR) + "/models"))
        if (entry.is_directory() && std::filesystem::exists(entry.path() / "model.safetensors")) folders.push_back(entry.path().string());
    std::sort(folders.begin(), folders.end());
    return folders;
}

inline CalibrationText random_text(std::int64_t n_vocab, std::initializer_list<std::size_t> lengths = {9, 17, 17}) {
    CalibrationText text;
    Rng rng(3);
    for (std::size_t length : lengths) {
        std::vector<std::int32_t> sample(length);
        for (auto& id : sample) id = static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(n_vocab)));
        text.samples.push_back(std::move(sample));
    }
    text.sha256 = "some text";
    return text;
}

// Stands in for training: the gradients of half the sum of squares of all weights, which are the weights.
class WeightsAsGradients final : public GradientSource {
public:
    Status for_each_sample(const ModelSpec&, const WeightSource& weights, const CalibrationText& text, const std::set<std::string>& keys, const Sink& sink) const override {
        ThreadPool pool(1);
        std::map<std::string, std::vector<float>> values;
        SampleGradients gradients;
        for (const std::string& key : keys) {
            SKIFF_TRY(const auto weight, weights.load(key));
            to_floats(*as_floats(weight, pool).plain(), values[key]);
            gradients[key] = values[key];
        }
        for (std::size_t i = 0; i < text.samples.size(); ++i) SKIFF_CHECK(sink(gradients));
        return {};
    }
};

// Of all positions, with float activations.
inline std::vector<float> logits_of(const ModelSpec& spec, const WeightSource& weights, const CalibrationText& text) {
    ModelSpec exact = spec;
    for (Block& block : exact.blocks)
        for (Op& op : block.ops)
            if (auto* linear = std::get_if<LinearOp>(&op.detail)) linear->activation = ActivationScheme::f32;
    auto plan = lower(exact, weights, {});
    EXPECT_TRUE(plan.ok()) << plan.error().to_string();
    auto session = Session::create(*plan, {.n_threads = 2, .n_context = 32, .max_batch = 32});
    std::vector<float> logits;
    for (const auto& sample : text.samples) {
        EXPECT_TRUE((*session)->forward(0, sample, BatchItem::Logits::all).ok());
        logits.insert(logits.end(), (*session)->logits().begin(), (*session)->logits().end());
        EXPECT_TRUE((*session)->state().truncate(0, 0).ok());
    }
    return logits;
}

// Over the largest magnitude of a.
inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
    EXPECT_EQ(a.size(), b.size());
    double largest = 0, difference = 0;
    for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
        largest = std::max(largest, std::fabs(static_cast<double>(a[i])));
        difference = std::max(difference, std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    }
    return difference / largest;
}

// E ||(W - Q) x||^2, and E ||W x||^2
struct OutputLoss {
    double lost = 0, all = 0;
};
inline OutputLoss output_loss(const Weight& original, const Weight& result, const InputStatistics& inputs) {
    const std::int64_t n = original.n_columns(), n_rows = original.n_rows();
    std::vector<float> w(static_cast<std::size_t>(n * n_rows)), d(w), hw(w), hd(w);
    for (std::int64_t row = 0; row < n_rows; ++row) {
        original.row(row, w.data() + row * n);
        result.row(row, d.data() + row * n);
    }
    for (std::size_t i = 0; i < w.size(); ++i) d[i] = w[i] - d[i];
    const auto times_gram = [&](const std::vector<float>& a, std::vector<float>& c) {
        multiply({.m = n_rows, .n = n, .k = n, .a = a.data(), .a_stride = n, .b = inputs.gram.data(), .b_stride = n, .c = c.data(), .c_stride = n});
    };
    times_gram(w, hw);
    times_gram(d, hd);
    OutputLoss loss;
    for (std::size_t i = 0; i < w.size(); ++i) {
        loss.lost += static_cast<double>(d[i]) * static_cast<double>(hd[i]);
        loss.all += static_cast<double>(w[i]) * static_cast<double>(hw[i]);
    }
    return loss;
}

}  // namespace skiff::testing
