// Logits and gradients of every tiny model against transformers (tests/golden/README.md), and the fused operators against composed ones.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "formats/safetensors.h"
#include "model/checkpoint.h"
#include "train/trainable_model.h"

namespace skiff::train {
namespace {

const std::string models_dir = std::string(SKIFF_TEST_DATA_DIR) + "/models";

std::vector<std::string> case_names() {
    std::vector<std::string> names;
    auto list = read_json_file(models_dir + "/index.json");
    EXPECT_TRUE(list.ok());
    if (list.ok())
        for (const Json& name : list->items()) names.push_back(name.text());
    return names;
}

at::Tensor read_ids(const SafetensorsFile& file) {
    auto view = file.view("input_ids");
    EXPECT_TRUE(view.ok());
    at::Tensor ids = at::empty({1, view->n_elements()}, at::kLong);
    std::memcpy(ids.data_ptr(), view->data.data(), view->data.size());
    return ids;
}
at::Tensor read_floats(const SafetensorsFile& file, const std::string& name) {
    auto view = file.view(name);
    EXPECT_TRUE(view.ok()) << name;
    std::vector<float> values;
    EXPECT_TRUE(to_floats(*view, values));
    return at::tensor(values).view(view->shape);
}

std::unique_ptr<TrainableModel> load_model(const std::string& name, const TrainableOptions& options) {
    auto checkpoint = Checkpoint::open(models_dir + "/" + name);
    EXPECT_TRUE(checkpoint.ok()) << name;
    auto parameters = ParameterSet::load(checkpoint->spec, *checkpoint->weights, at::kCPU);
    EXPECT_TRUE(parameters.ok()) << (parameters.ok() ? "" : parameters.error().to_string());
    auto model = TrainableModel::create(checkpoint->spec, std::move(*parameters), options);
    EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().to_string());
    return std::move(*model);
}

double relative_difference(const at::Tensor& a, const at::Tensor& b) {
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item<double>();
}

class TinyModel : public ::testing::TestWithParam<std::string> {};

TEST_P(TinyModel, LogitsAreThoseOfTransformers) {
    auto golden = SafetensorsFile::open(models_dir + "/" + GetParam() + "/golden.safetensors");
    ASSERT_TRUE(golden.ok());
    const at::NoGradGuard no_grad;
    for (Form form : {Form::automatic, Form::composed}) {
        const auto model = load_model(GetParam(), {.form = form});
        EXPECT_LT(relative_difference(model->logits(read_ids(*golden)), read_floats(*golden, "logits")), 1e-5);
    }
}

// The sampled elements, and the norm over all.
void expect_golden_gradients(const ParameterSet& parameters, const SafetensorsFile& golden) {
    Json about;
    double largest = 0;
    for (const auto& [key, value] : golden.metadata())
        if (key == "gradients") {
            auto parsed = Json::parse(value);
            ASSERT_TRUE(parsed.ok());
            about = *parsed;
        }
    for (const auto& [key, entry] : about.members()) largest = std::max(largest, entry["max"].number_or(0));
    std::size_t n_checked = 0;
    for (const auto& [key, entry] : about.members()) {
        const Parameter* parameter = parameters.find(key);
        if (parameter == nullptr) parameter = parameters.find("transformer." + key);  // gpt2_bare_names
        ASSERT_NE(parameter, nullptr) << key;
        ASSERT_TRUE(parameter->value.grad().defined()) << key;
        const at::Tensor flat = parameter->value.grad().reshape({-1});
        const at::Tensor sample = flat.slice(0, 0, flat.size(0), entry["stride"].int_or(1));
        const double bound = 2e-4 * std::max(entry["max"].number_or(0), largest / 1000);
        EXPECT_LT((sample - read_floats(golden, key).reshape({-1})).abs().max().item<double>(), bound) << key;
        EXPECT_NEAR(flat.to(at::kDouble).norm().item<double>(), entry["norm"].number_or(0), bound * std::sqrt(static_cast<double>(flat.size(0)))) << key;
        ++n_checked;
    }
    EXPECT_GT(n_checked, 5u);
}

TEST_P(TinyModel, GradientsAreThoseOfTransformers) {
    auto golden = SafetensorsFile::open(models_dir + "/" + GetParam() + "/golden.safetensors");
    auto gradients = SafetensorsFile::open(models_dir + "/" + GetParam() + "/gradients.safetensors");
    ASSERT_TRUE(golden.ok() && gradients.ok());
    const at::Tensor ids = read_ids(*golden);
    const std::int64_t n = ids.size(1) - 1;
    const double loss = read_floats(*gradients, "loss").item<double>();
    for (const bool recompute : {false, true})
        for (Form form : {Form::automatic, Form::composed}) {
            auto model = load_model(GetParam(), {.form = form, .recompute_blocks = recompute});
            const double found = model->add_gradients(ids.narrow(1, 0, n), ids.narrow(1, 1, n), 1.0 / static_cast<double>(n));
            EXPECT_NEAR(found, loss, 1e-5 * loss);
            EXPECT_NEAR(model->loss_sum(ids.narrow(1, 0, n), ids.narrow(1, 1, n)) / static_cast<double>(n), loss, 1e-5 * loss);
            expect_golden_gradients(model->parameters(), *gradients);
        }
}

INSTANTIATE_TEST_SUITE_P(Cases, TinyModel, ::testing::ValuesIn(case_names()), [](const auto& param) { return param.param; });

}  // namespace
}  // namespace skiff::train
