// What the tests of device sessions share: the fake device (testing/fake_device.cpp), sessions on it and on the processor's reference kernels, small models, distances.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>

#include "backend/cuda/device_session.h"
#include "backend/cuda/library.h"
#include "base/rng.h"
#include "model/arch/arch.h"
#include "model/checkpoint.h"

namespace skiff::cuda {

// The environment's, where the tests were taken to another machine.
inline const std::string models_dir = std::string(std::getenv("SKIFF_TEST_DATA_DIR") != nullptr ? std::getenv("SKIFF_TEST_DATA_DIR") : SKIFF_TEST_DATA_DIR) + "/models";

inline const Table& fake() {
    static const auto opened = open_plug_in(SKIFF_FAKE_CUDA);
    EXPECT_TRUE(opened.ok()) << (opened.ok() ? "" : opened.error().to_string());
    return *opened->table;
}

inline std::vector<std::string> model_names() {
    std::vector<std::string> names;
    const auto list = read_json_file(models_dir + "/index.json");
    EXPECT_TRUE(list.ok());
    for (const Json& name : list->items()) names.push_back(name.text());
    return names;
}

inline std::vector<std::int32_t> some_tokens(std::size_t n, std::int64_t n_vocab, std::uint64_t seed = 1) {
    Rng rng(seed);
    std::vector<std::int32_t> tokens;
    for (std::size_t i = 0; i < n; ++i) tokens.push_back(static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(n_vocab))));
    return tokens;
}

inline DeviceSessionOptions small_options(std::int64_t n_context, std::int64_t n_sequences = 1) {
    DeviceSessionOptions options;
    options.session = {.n_threads = 2, .n_sequences = n_sequences, .n_context = n_context, .max_batch = 48};
    return options;
}

inline std::unique_ptr<DeviceSession> device_session(const ModelSpec& spec, const WeightSource& weights, const DeviceSessionOptions& options) {
    auto session = DeviceSession::create(fake(), spec, weights, options);
    EXPECT_TRUE(session.ok()) << (session.ok() ? "" : session.error().to_string());
    return session.ok() ? std::move(*session) : nullptr;
}

inline std::unique_ptr<Session> reference_session(const ModelSpec& spec, const WeightSource& weights, const SessionOptions& options) {
    PlanOptions plan_options;
    plan_options.kernels = KernelChoice::reference;
    plan_options.isa = Isa::generic;
    auto plan = lower(spec, weights, plan_options);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().to_string());
    auto session = Session::create(*plan, options);
    EXPECT_TRUE(session.ok());
    return std::move(*session);
}

inline std::vector<float> all_logits(Session& session, const std::vector<std::int32_t>& tokens, std::size_t chunk, std::int64_t sequence = 0) {
    std::vector<float> logits;
    for (std::size_t begin = 0; begin < tokens.size(); begin += chunk) {
        const Status status = session.forward(sequence, std::span(tokens).subspan(begin, std::min(chunk, tokens.size() - begin)), BatchItem::Logits::all);
        EXPECT_TRUE(status.ok()) << status.error().to_string();
        logits.insert(logits.end(), session.logits().begin(), session.logits().end());
    }
    return logits;
}

// As a share of the largest logit.
inline double distance(std::span<const float> found, std::span<const float> expected) {
    if (found.size() != expected.size()) return INFINITY;
    double worst = 0, largest = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        const double difference = std::abs(static_cast<double>(found[i]) - expected[i]);
        worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
        largest = std::max(largest, static_cast<double>(std::abs(expected[i])));
    }
    return worst / largest;
}

// Of kernels that round: the worst token; where a router chooses experts, whom a rounding may turn, the token in the middle.
inline double rounded_distance(const ModelSpec& spec, std::span<const float> found, std::span<const float> expected) {
    bool routed = false;
    for (const Block& block : spec.blocks)
        for (const Op& op : block.ops) routed = routed || std::holds_alternative<RouteOp>(op.detail);
    if (!routed || found.size() != expected.size()) return distance(found, expected);
    const auto width = static_cast<std::size_t>(spec.width(spec.logits));
    std::vector<double> rows;
    for (std::size_t begin = 0; begin + width <= found.size(); begin += width) rows.push_back(distance(found.subspan(begin, width), expected.subspan(begin, width)));
    std::sort(rows.begin(), rows.end());
    return rows[rows.size() / 2];
}

inline constexpr const char* config_text =
    R"({"model_type": "llama", "hidden_size": 96, "intermediate_size": 172, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 131, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": false})";

struct Small {
    ModelSpec spec;
    std::shared_ptr<WeightSource> weights;
    explicit Small(const std::map<std::string, std::int64_t>& changes = {}) {
        Json config = *Json::parse(config_text);
        for (const auto& [key, number] : changes) config.set(key, number);
        spec = *build_spec(config);
        weights = random_weights(spec, DType::bf16, 5);
    }
};

// Other weights, and vectors of their own.
class WithVectors final : public WeightSource {
public:
    explicit WithVectors(std::shared_ptr<WeightSource> source) : source_(std::move(source)) {}
    void put(const std::string& key, std::vector<float> values) { vectors_[key] = std::move(values); }
    bool contains(const std::string& key) const override { return vectors_.count(key) != 0 || source_->contains(key); }
    std::vector<std::string> keys() const override { return source_->keys(); }
    Result<Weight> load(const std::string& key) const override {
        const auto found = vectors_.find(key);
        if (found == vectors_.end()) return source_->load(key);
        const auto bytes = std::as_bytes(std::span(found->second));
        return make_plain_weight({static_cast<std::int64_t>(found->second.size())}, DType::f32, {bytes.begin(), bytes.end()});
    }

private:
    std::shared_ptr<WeightSource> source_;
    std::map<std::string, std::vector<float>> vectors_;
};

// Weights whose logits are NaN.
inline std::shared_ptr<WeightSource> without_logits(const Small& small) {
    const auto weights = std::make_shared<WithVectors>(small.weights);
    for (const Op& op : small.spec.blocks.back().ops)
        if (const auto* norm = std::get_if<NormOp>(&op.detail)) weights->put(norm->weight.key, std::vector<float>(static_cast<std::size_t>(small.spec.d_model), NAN));
    return weights;
}

}  // namespace skiff::cuda
