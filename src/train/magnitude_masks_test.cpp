#include "train/magnitude_masks.h"

#include <cmath>

#include "train/optimizer.h"
#include "train/train_testing.h"

namespace skiff::train {
namespace {

using Course = SparsifyOptions::Course;
using Scope = SparsifyOptions::Scope;

TEST(SparsityCourse, FollowsItsFormula) {
    SparsifyOptions options;
    options.target = 0.8;
    options.until = 40;
    options.every = 10;
    // Zhu and Gupta 2017, equation 1, from zero: s (1 - (1 - t)^3).
    EXPECT_DOUBLE_EQ(sparsity_at(options, 0), 0);
    EXPECT_NEAR(sparsity_at(options, 10), 0.8 * (1 - 0.421875), 1e-12);
    EXPECT_NEAR(sparsity_at(options, 20), 0.7, 1e-12);
    EXPECT_DOUBLE_EQ(sparsity_at(options, 40), 0.8);
    EXPECT_DOUBLE_EQ(sparsity_at(options, 99), 0.8);
    std::vector<std::int64_t> times;
    for (std::int64_t step = 0; step < 60; ++step)
        if (prunes_before(options, step)) times.push_back(step);
    EXPECT_EQ(times, (std::vector<std::int64_t>{0, 10, 20, 30, 40}));

    options.course = Course::stages;
    options.n_stages = 4;
    times.clear();
    for (std::int64_t step = 0; step < 60; ++step)
        if (prunes_before(options, step)) times.push_back(step);
    EXPECT_EQ(times, (std::vector<std::int64_t>{0, 10, 20, 30, 40}));
    EXPECT_DOUBLE_EQ(sparsity_at(options, 0), 0.2);
    EXPECT_DOUBLE_EQ(sparsity_at(options, 29), 0.6);
    EXPECT_DOUBLE_EQ(sparsity_at(options, 30), 0.8);

    options.course = Course::once;
    EXPECT_DOUBLE_EQ(sparsity_at(options, 0), 0.8);
    EXPECT_TRUE(prunes_before(options, 0));
    EXPECT_FALSE(prunes_before(options, 1));
    options.mask_from = "another";
    EXPECT_FALSE(prunes_before(options, 0));
}

TEST(MagnitudeMask, TakesTheSmallestOfItsScope) {
    const at::Tensor a = at::tensor({1.0f, 4.0f, 2.0f, 3.0f, 8.0f, 5.0f, 7.0f, 6.0f}).view({2, 4}), b = at::tensor({0.5f, 9.0f}).view({1, 2});
    auto flat = [](const std::vector<at::Tensor>& masks) { return at::cat({masks[0].reshape({-1}), masks[1].reshape({-1})}); };
    EXPECT_TRUE(flat(magnitude_masks({a, b}, 0.5, Scope::row)).equal(at::tensor({0.0f, 1.0f, 0.0f, 1.0f, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, 1.0f})));
    EXPECT_TRUE(flat(magnitude_masks({a, b}, 0.5, Scope::tensor)).equal(at::tensor({0.0f, 0.0f, 0.0f, 0.0f, 1.0f, 1.0f, 1.0f, 1.0f, 0.0f, 1.0f})));
    EXPECT_TRUE(flat(magnitude_masks({a, b}, 0.3, Scope::global)).equal(at::tensor({0.0f, 1.0f, 0.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 0.0f, 1.0f})));
    EXPECT_TRUE(flat(magnitude_masks({a, b}, 0, Scope::row)).equal(at::ones({10})));
    EXPECT_TRUE(magnitude_masks({at::ones({1, 4})}, 0.5, Scope::row)[0].equal(at::tensor({0.0f, 0.0f, 1.0f, 1.0f}).view({1, 4}))) << "ties go by index";
    EXPECT_TRUE(pattern_mask(at::tensor({1.0f, 4.0f, 2.0f, 3.0f, 0.0f, 5.0f, 7.0f, 6.0f, 1.0f}).view({1, 9}), 2, 4).equal(at::tensor({0.0f, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, 1.0f, 1.0f, 1.0f}).view({1, 9})));
}

// On a ramp, masks only grow, zeros stay, and the share is what the course says. Matrices stored as columns are pruned by outputs too.
TEST(MagnitudeMask, GrowsWhileTrainingGoesOn) {
    for (const char* name : {"llama", "gpt2"}) {
        const TinyCase tiny = open_tiny_model(name);
        const auto model = make_trainable(tiny.spec, load_parameters(tiny.spec, tiny.weights));
        SparsifyOptions options;
        options.target = 0.5;
        options.until = 6;
        options.every = 2;
        MagnitudeMasks masks(tiny.spec, model->parameters(), options);
        Optimizer optimizer(model->parameters().trained(tiny.spec), {});
        const at::Tensor tokens = at::tensor({1, 5, 9, 33, 60, 7, 8, 21, 40, 3, 2, 50}, at::kLong).view({1, 12});
        double before = 0;
        for (std::int64_t step = 0; step < 9; ++step) {
            masks.before_step(step);
            EXPECT_GE(masks.sparsity(), before);
            before = masks.sparsity();
            model->add_gradients(tokens.narrow(1, 0, 11), tokens.narrow(1, 1, 11), 1.0 / 11);
            optimizer.step(1e-2, step + 1, optimizer.gradient_norm());
        }
        EXPECT_NEAR(masks.sparsity(), 0.5, 0.02);
        const auto columns = keys_stored_as_columns(tiny.spec);
        for (const Parameter& parameter : model->parameters().all()) {
            if (!parameter.mask.defined()) continue;
            EXPECT_EQ((parameter.value.detach() * (1 - parameter.mask)).abs().max().item<double>(), 0) << parameter.key;
            const at::Tensor rows = columns.count(parameter.key) != 0 ? parameter.mask.t() : parameter.mask;
            EXPECT_EQ(rows.sum(1).min().item<double>(), rows.sum(1).max().item<double>()) << parameter.key << ": as many in every row";
        }
    }
}

// Adapters that will be merged change only what is left, in training as in the result.
TEST(MaskedAdapters, LeaveZerosAlone) {
    for (const char* name : {"llama", "gpt2", "phi3"}) {
        TinyCase tiny = open_tiny_model(name);
        for (auto& [key, tensor] : tiny.weights.tensors)
            if (tiny.spec.tensors.at(key).role == TensorDecl::Role::linear) tensor = tensor * (at::rand_like(tensor) > 0.5);
        auto parameters = load_parameters(tiny.spec, tiny.weights);
        EXPECT_GT(parameters.keep_zeros(0.05), 0u);
        ASSERT_TRUE(parameters.add_adapters(tiny.spec, {2, 16, {}, 1}).ok());
        const auto model = make_trainable(tiny.spec, std::move(parameters));
        Optimizer optimizer(model->parameters().trained(tiny.spec), {});
        const at::Tensor tokens = at::tensor({1, 5, 9, 33, 60, 7, 8, 21, 40, 3, 2, 50}, at::kLong).view({1, 12});
        double first = 0, last = 0;
        for (std::int64_t step = 1; step <= 5; ++step) {
            last = model->add_gradients(tokens.narrow(1, 0, 11), tokens.narrow(1, 1, 11), 1.0 / 11);
            if (step == 1) first = last;
            optimizer.step(1e-2, step, optimizer.gradient_norm());
        }
        EXPECT_LT(last, first) << name;
        // The merged weights as a model of their own.
        TinyCase merged = tiny;
        const auto source = model->parameters().source(DType::f32);
        for (auto& [key, tensor] : merged.weights.tensors) {
            const at::Tensor before = tensor;
            tensor = tensor_of(*source->load(key));
            if (tiny.spec.tensors.at(key).role == TensorDecl::Role::linear) { EXPECT_TRUE(((tensor == 0) | (before != 0)).all().item<bool>()) << key; }
        }
        const auto plain = make_trainable(merged.spec, load_parameters(merged.spec, merged.weights));
        const at::NoGradGuard no_grad;
        EXPECT_LT(relative_difference(plain->logits(tokens), model->logits(tokens)), 1e-5) << name;
    }
}

}  // namespace
}  // namespace skiff::train
