// A quantized model as a folder of plain weights computes the same.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "compress/export_hf.h"
#include "plan/session.h"

namespace skiff {
namespace {

namespace fs = std::filesystem;

std::vector<float> logits_of(const ModelSpec& spec, const WeightSource& weights) {
    PlanOptions options;
    options.kernels = KernelChoice::reference;
    auto plan = lower(spec, weights, options);
    EXPECT_TRUE(plan.ok());
    if (!plan.ok()) return {};
    auto session = Session::create(*plan, {.n_threads = 1, .n_context = 16});
    EXPECT_TRUE(session.ok());
    const std::vector<std::int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6};
    EXPECT_TRUE((*session)->forward(0, ids, BatchItem::Logits::all).ok());
    return {(*session)->logits().begin(), (*session)->logits().end()};
}

// GPT-2 stores its matrices the other way round, the square ones too, of which the shape does not tell.
TEST(HfFolders, QuantizedMatricesAreTurnedBack) {
    auto checkpoint = Checkpoint::open(std::string(SKIFF_TEST_DATA_DIR) + "/models/gpt2");
    ASSERT_TRUE(checkpoint.ok());
    const Scheme scheme = *parse_scheme("w8");
    const ModelSpec& spec = checkpoint->spec;
    checkpoint->weights = quantized_on_load(
        spec, checkpoint->weights, [&](const std::string& key) { return spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; },
        ScaleRule::search);
    auto plan = plan_hf_export(*checkpoint, {"F32"});
    ASSERT_TRUE(plan.ok());
    const std::string folder = (fs::temp_directory_path() / ("skiff_hf_" + std::to_string(::getpid()))).string();
    fs::create_directories(folder);
    Status status = write_hf_export(*checkpoint, *plan, folder, nullptr);
    ASSERT_TRUE(status.ok()) << status.error().to_string();
    auto back = Checkpoint::open(folder);
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(logits_of(back->spec, *back->weights), logits_of(spec, *checkpoint->weights));
    fs::remove_all(folder);
}

}  // namespace
}  // namespace skiff
