// The walking skeleton: a trained checkpoint, through every level, to text that another program printed.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/mapped_file.h"
#include "model/checkpoint.h"
#include "plan/session.h"

namespace skiff {
namespace {

std::int32_t argmax(std::span<const float> logits) {
    return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

TEST(Skeleton, GreedyTextOfATrainedModel) {
    const std::string folder = std::string(SKIFF_SHARED_DIR) + "/models/stories260K";
    if (!is_directory(folder)) GTEST_SKIP() << "the shared models are not here";
    auto checkpoint = Checkpoint::open(folder);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().to_string();
    for (KernelChoice choice : {KernelChoice::reference, KernelChoice::fastest}) {
        PlanOptions options;
        options.kernels = choice;
        auto plan = lower(checkpoint->spec, *checkpoint->weights, options);
        ASSERT_TRUE(plan.ok()) << plan.error().to_string();
        auto session = Session::create(*plan, {.n_threads = 2, .n_context = 256});
        ASSERT_TRUE(session.ok());
        auto tokenizer = checkpoint->load_tokenizer();
        ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().to_string();
        std::vector<std::int32_t> ids = {1};
        std::string text;
        for (int i = 0; i < 200; ++i) {
            std::int32_t last = ids.back();
            ASSERT_TRUE((*session)->forward(0, std::span(&last, 1), BatchItem::Logits::last).ok());
            ids.push_back(argmax((*session)->logits()));
        }
        text = tokenizer->decode(ids);
        auto expected = read_text_file(std::string(SKIFF_SHARED_DIR) + "/models/stories260K.expected_greedy.txt", 10000);
        EXPECT_EQ(expected->compare(0, 400, text, 0, 400), 0) << text;
    }
}

}  // namespace
}  // namespace skiff
