// Five steps of each optimizer against torch.optim (tests/golden/optimizers.py).
#include <gtest/gtest.h>

#include "base/json.h"
#include "train/optimizer.h"

namespace skiff::train {
namespace {

at::Tensor numbers_of(const Json& list, const Json& shape) {
    std::vector<float> values;
    for (const Json& value : list.items()) values.push_back(static_cast<float>(value.number_or(0)));
    std::vector<std::int64_t> sizes;
    for (const Json& size : shape.items()) sizes.push_back(size.int_or(0));
    return at::tensor(values).view(sizes);
}

struct Case {
    const char* name;
    double tolerance;
};
class GoldenSteps : public ::testing::TestWithParam<Case> {};

TEST_P(GoldenSteps, AreThoseOfTorch) {
    auto file = read_json_file(std::string(SKIFF_TEST_DATA_DIR) + "/train/optimizers.json");
    ASSERT_TRUE(file.ok());
    const Json* golden = nullptr;
    for (const Json& item : (*file)["cases"].items())
        if (item["name"].text() == GetParam().name) golden = &item;
    ASSERT_NE(golden, nullptr);

    OptimizerSettings settings;
    settings.kind = (*golden)["optimizer"].text() == "muon" ? OptimizerSettings::Kind::muon : OptimizerSettings::Kind::adamw;
    settings.clip = (*golden)["clip"].number_or(0);
    settings.weight_decay = (*golden)["weight_decay"].number_or(0);
    settings.momentum = (*golden)["momentum"].number_or(0.95);
    settings.eps = (*golden)["eps"].number_or(1e-8);
    if ((*golden)["betas"].is_array()) {
        settings.beta1 = (*golden)["betas"].items()[0].number_or(0);
        settings.beta2 = (*golden)["betas"].items()[1].number_or(0);
    }
    std::vector<ParameterSet::Trained> parameters;
    for (const auto& [name, after] : (*golden)["after"].members()) {
        const Json& declared = (*file)["parameters"][name];
        parameters.push_back({name, TensorDecl::Role::linear, numbers_of(declared["before"], declared["shape"]).set_requires_grad(true), {}, true});
    }
    Optimizer optimizer(parameters, settings);
    for (std::size_t step = 0; step < 5; ++step) {
        for (auto& parameter : parameters) {
            const Json& declared = (*file)["parameters"][parameter.name];
            parameter.value.mutable_grad().copy_(numbers_of(declared["gradients"].items()[step], declared["shape"]));
        }
        const double norm = optimizer.gradient_norm();
        if ((*golden)["norms_before_clip"].is_array()) {
            EXPECT_NEAR(norm, (*golden)["norms_before_clip"].items()[step].number_or(0), 1e-5 * norm);
        }
        optimizer.step((*golden)["lr"].items()[step].number_or(0), static_cast<std::int64_t>(step) + 1, norm);
        for (const auto& parameter : parameters) {
            const Json& expected = (*golden)["after"][parameter.name].items()[step];
            const double difference = (parameter.value.detach() - numbers_of(expected, (*file)["parameters"][parameter.name]["shape"])).abs().max().item<double>();
            EXPECT_LT(difference, GetParam().tolerance) << parameter.name << " after step " << step + 1;
            EXPECT_EQ(parameter.value.grad().abs().max().item<double>(), 0);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenSteps, ::testing::Values(Case{"adamw", 3e-6}, Case{"adamw_clipped", 3e-6}, Case{"muon_rms_float32", 3e-6}),
                         [](const auto& param) { return std::string(param.param.name); });

// Five steps of the iteration bring every singular value near one; in bf16 too.
TEST(Orthogonalized, SingularValuesAreNearOne) {
    at::manual_seed(1);
    const at::Tensor x = at::randn({96, 160});
    for (const at::Tensor& matrix : {x, x.t().contiguous()}) {
        const at::Tensor exact = orthogonalized(matrix, at::kFloat), rounded = orthogonalized(matrix, at::kBFloat16);
        const auto singular = std::get<1>(at::svd(exact));
        EXPECT_GT(singular.min().item<double>(), 0.6);
        EXPECT_LT(singular.max().item<double>(), 1.3);
        EXPECT_LT(((rounded - exact).norm() / exact.norm()).item<double>(), 0.03);
    }
}

TEST(Optimizer, PrunedWeightsStayZero) {
    at::Tensor value = at::tensor({1.0f, 0.0f, 2.0f, 0.0f}).view({2, 2});
    value.set_requires_grad(true);
    const at::Tensor mask = (value.detach() != 0).to(at::kFloat);
    Optimizer optimizer({{"w", TensorDecl::Role::linear, value, mask, true}}, {});
    value.mutable_grad().fill_(1);
    optimizer.step(0.1, 1, optimizer.gradient_norm());
    EXPECT_EQ((value.detach() * (1 - mask)).abs().max().item<double>(), 0);
    EXPECT_NE(value.detach()[0][0].item<float>(), 1.0f);
}

}  // namespace
}  // namespace skiff::train
