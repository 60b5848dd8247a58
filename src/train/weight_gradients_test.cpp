// The gradients that compress asks for: transformers' own, those of the engine's own loss by finite differences, and what pruning by them does.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include <ATen/Parallel.h>

#include "base/thread_pool.h"
#include "compress/algebra/algebra.h"
#include "compress/pipeline.h"
#include "compress/small_models_testing.h"
#include "compress/structure/cut_axes.h"
#include "formats/safetensors.h"
#include "train/train.h"

namespace skiff::train {
namespace {

const std::string models_dir = std::string(SKIFF_TEST_DATA_DIR) + "/models";

std::vector<float> floats_of(const SafetensorsFile& file, const std::string& name) {
    auto view = file.view(name);
    EXPECT_TRUE(view.ok()) << name;
    std::vector<float> values;
    EXPECT_TRUE(to_floats(*view, values));
    return values;
}
std::set<std::string> linear_keys(const ModelSpec& spec) {
    std::set<std::string> keys;
    for (std::size_t i = 1; i + 1 < spec.blocks.size(); ++i)
        for (const auto& [key, value] : linear_inputs(spec.blocks[i])) keys.insert(key);
    return keys;
}
using Sums = std::map<std::string, std::vector<double>>;
Sums summed(const ModelSpec& spec, const WeightSource& weights, const CalibrationText& text) {
    Sums sums;
    const auto status = gradient_source()->for_each_sample(spec, weights, text, linear_keys(spec), [&](const SampleGradients& gradients) -> Status {
        for (const auto& [key, gradient] : gradients) {
            auto& sum = sums[key];
            sum.resize(gradient.size());
            for (std::size_t i = 0; i < gradient.size(); ++i) sum[i] += static_cast<double>(gradient[i]);
        }
        return {};
    });
    EXPECT_TRUE(status.ok()) << status.error().to_string();
    return sums;
}
Checkpoint open(const std::string& name) {
    auto model = Checkpoint::open(models_dir + "/" + name);
    EXPECT_TRUE(model.ok()) << name;
    return std::move(*model);
}

class ModelGradients : public ::testing::TestWithParam<std::string> {};

// Of one sample: the elements that the files hold.
TEST_P(ModelGradients, AreThoseOfTransformers) {
    const Checkpoint model = open(GetParam());
    auto golden = SafetensorsFile::open(models_dir + "/" + GetParam() + "/golden.safetensors");
    auto gradients = SafetensorsFile::open(models_dir + "/" + GetParam() + "/gradients.safetensors");
    ASSERT_TRUE(golden.ok() && gradients.ok());
    Json about;
    for (const auto& [key, value] : gradients->metadata())
        if (key == "gradients") about = *Json::parse(value);
    const auto ids = golden->view("input_ids");
    std::vector<std::int64_t> wide(static_cast<std::size_t>(ids->n_elements()));
    std::memcpy(wide.data(), ids->data.data(), ids->data.size());
    CalibrationText text;
    text.samples.emplace_back(wide.begin(), wide.end());
    const Sums sums = summed(model.spec, *model.weights, text);
    double largest = 0;
    for (const auto& [key, entry] : about.members()) largest = std::max(largest, entry["max"].number_or(0));
    std::size_t n_checked = 0;
    for (const auto& [key, entry] : about.members()) {
        const auto found = sums.count(key) != 0 ? sums.find(key) : sums.find("transformer." + key);  // gpt2_bare_names
        if (found == sums.end()) continue;
        const auto sample = floats_of(*gradients, key);
        const auto stride = static_cast<std::size_t>(entry["stride"].int_or(1));
        for (std::size_t i = 0; i < sample.size(); ++i) ASSERT_NEAR(found->second.at(i * stride), static_cast<double>(sample[i]), 2e-4 * std::max(entry["max"].number_or(0), largest / 1000)) << key << " " << i;
        ++n_checked;
    }
    EXPECT_EQ(n_checked, sums.size());
}

// Mean cross-entropy of the next tokens of all samples, by the engine. // f64
double loss_of(const ModelSpec& spec, const WeightSource& weights, const CalibrationText& text) {
    const auto logits = skiff::testing::logits_of(spec, weights, text);
    const auto n_vocab = static_cast<std::size_t>(spec.n_vocab);
    double sum = 0, n = 0;
    const float* row = logits.data();
    for (const auto& sample : text.samples)
        for (std::size_t i = 0; i < sample.size(); ++i, row += n_vocab) {
            if (i + 1 == sample.size()) continue;
            double total = 0;
            for (std::size_t v = 0; v < n_vocab; ++v) total += std::exp(static_cast<double>(row[v]));
            sum += std::log(total) - static_cast<double>(row[sample[i + 1]]);
            n += 1;
        }
    return sum / n;
}

// Along the gradient itself, one matrix at a time: the steepest way, where f32 still shows the difference.
TEST_P(ModelGradients, AreThoseOfTheEnginesLoss) {
    const Checkpoint model = open(GetParam());
    const CalibrationText text = skiff::testing::random_text(model.spec.n_vocab);
    const Sums sums = summed(model.spec, *model.weights, text);
    ThreadPool pool(1);
    double steepest = 0;
    std::map<std::string, double> norms;
    for (const auto& [key, gradient] : sums) {
        for (const double g : gradient) norms[key] += g * g;
        norms[key] = std::sqrt(norms[key]);
        steepest = std::max(steepest, norms[key]);
    }
    std::size_t n_checked = 0;
    for (const auto& [key, gradient] : sums) {
        if (norms[key] < 0.1 * steepest) continue;  // too little beside what f32 leaves of the loss
        if (GetParam() == "mixtral" && key.find("layers.1.block_sparse_moe.experts") == std::string::npos) continue;  // in front of a router, whose choice jumps
        double square = 0;
        std::vector<float> values;
        ASSERT_TRUE(to_floats(*as_floats(*model.weights->load(key), pool).plain(), values));
        for (const float w : values) square += static_cast<double>(w) * static_cast<double>(w);
        const double step = 2e-3 * std::sqrt(square) / norms[key];
        double losses[2];
        for (const int side : {0, 1}) {
            std::vector<float> moved = values;
            for (std::size_t i = 0; i < moved.size(); ++i) moved[i] += static_cast<float>((side == 0 ? -step : step) * gradient[i]);
            EditedWeights edited(model.weights);
            edited.replace(key, make_float_weight(model.weights->load(key)->shape, std::move(moved)));
            losses[side] = loss_of(model.spec, edited, text);
        }
        EXPECT_NEAR((losses[1] - losses[0]) / (2 * step), norms[key] * norms[key], 0.03 * norms[key] * norms[key]) << key;
        ++n_checked;
    }
    EXPECT_GT(n_checked, 1u);
}

TEST(WeightGradients, DoNotDependOnThreads) {
    const Checkpoint model = open("llama");
    const CalibrationText text = skiff::testing::random_text(model.spec.n_vocab);
    const int before = at::get_num_threads();
    std::vector<Sums> found;
    for (const int n_threads : {1, 2}) {
        at::set_num_threads(n_threads);
        found.push_back(summed(model.spec, *model.weights, text));
        EXPECT_EQ(at::get_num_threads(), n_threads);
    }
    at::set_num_threads(before);
    EXPECT_EQ(found[0], found[1]);
}

// Neurons and KV groups that the loss does not answer to, though their weights are the largest: their readers' columns are zero, or what makes their values is.
TEST_P(ModelGradients, UnitsWithoutTaylorScoreGoWithoutLoss) {
    const Checkpoint original = open(GetParam());
    const std::string folder = (std::filesystem::temp_directory_path() / ("skiff_taylor_" + std::to_string(::getpid()))).string();
    for (const UnitKind units : {UnitKind::neurons, UnitKind::kv_groups}) {
        SCOPED_TRACE(unit_kind_name(units));
        Checkpoint model = original;
        model.kind = Checkpoint::Kind::random;  // it has no tokenizer: random ids
        auto axes = find_cut_axes(model.spec, units);
        ASSERT_TRUE(axes.ok());
        if (std::any_of(axes->begin(), axes->end(), [](const CutAxis& axis) { return axis.n_units < 2; })) continue;
        ThreadPool pool(1);
        auto edited = std::make_shared<EditedWeights>(model.weights);
        for (const CutAxis& axis : *axes) {
            std::vector<float> values;
            const auto weight = model.weights->load(axis.reader);
            ASSERT_TRUE(to_floats(*as_floats(*weight, pool).plain(), values));
            for (std::size_t i = 0; i < values.size(); ++i) {
                const auto column = static_cast<std::int64_t>(axis.transposed ? i / static_cast<std::size_t>(weight->n_columns()) : i % static_cast<std::size_t>(weight->n_columns()));
                if (column / axis.unit_columns == axis.n_units - 1) values[i] = 0;
            }
            edited->replace(axis.reader, make_float_weight(weight->shape, std::move(values)));
        }
        model.weights = edited;
        const CalibrationText text = skiff::testing::random_text(model.spec.n_vocab);
        const auto before = skiff::testing::logits_of(model.spec, *model.weights, text);
        StructureStep step = *parse_structure_pattern(std::string(unit_kind_name(units)) + ":1");
        step.importance = "taylor";
        step.compensation = StructureStep::Compensation::none;
        step.multiple_of = 1;
        step.calibration = {"", 6, 24};
        CompressOptions options;
        options.output = folder;
        options.if_exists = AtomicDirectory::IfExists::replace;
        options.gradients = gradient_source();
        const auto report = run_recipe(model, {{step}, 0}, options);
        ASSERT_TRUE(report.ok()) << report.error().to_string();
        const auto child = Checkpoint::open(folder);
        ASSERT_TRUE(child.ok()) << child.error().to_string();
        EXPECT_LT(child->spec.n_parameters(), model.spec.n_parameters());
        const bool rounded = original.weights->load(original.spec.tensors.begin()->first)->encoding_name() != "F32";
        EXPECT_LT(skiff::testing::largest_difference(before, skiff::testing::logits_of(child->spec, *child->weights, text)), rounded ? 0.02 : 1e-5);
    }
    std::filesystem::remove_all(folder);
}

// The columns of blocks with one matrix for all, the other way round, with experts, windows, convolutions.
INSTANTIATE_TEST_SUITE_P(Cases, ModelGradients, ::testing::Values("llama", "gpt2", "phi3", "qwen3", "gemma2", "mixtral", "lfm2", "opt"), [](const auto& param) { return param.param; });

}  // namespace
}  // namespace skiff::train
