// Hashed weights: every architecture that the tests hold, against the bank by hand and against the model with its blocks written out.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "compress/export_hf.h"
#include "compress/pipeline.h"
#include "compress/small_models_testing.h"
#include "compress/survey.h"
#include "model/axes.h"

namespace skiff {
namespace {

// By the plain kernels, which round no activations.
std::vector<float> exact_logits(const Checkpoint& checkpoint, const CalibrationText& text) {
    PlanOptions options;
    options.kernels = KernelChoice::reference;
    options.isa = Isa::generic;
    auto plan = lower(checkpoint.spec, *checkpoint.weights, options);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().to_string());
    auto session = Session::create(*plan, {.n_threads = 1, .n_context = 32, .max_batch = 32});
    EXPECT_TRUE((*session)->forward(0, text.samples.back(), BatchItem::Logits::all).ok());
    return {(*session)->logits().begin(), (*session)->logits().end()};
}

class Hash : public ::testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        auto opened = Checkpoint::open(GetParam());
        ASSERT_TRUE(opened.ok()) << opened.error().to_string();
        parent_ = *opened;
        ASSERT_TRUE(make_directories(folder_).ok());
    }
    void TearDown() override { (void)remove_all(folder_); }

    Result<Checkpoint> made(const Checkpoint& parent, const std::string& name, const RecipeStep& step, int n_threads = 2) const {
        CompressOptions options;
        options.output = join_path(folder_, name);
        options.n_threads = n_threads;
        Recipe recipe;
        recipe.steps.push_back(step);
        SKIFF_CHECK(run_recipe(parent, recipe, options));
        return Checkpoint::open(options.output);
    }
    Result<Checkpoint> hashed(const Checkpoint& parent, const std::string& name, std::int64_t shared, int n_threads = 2) const {
        ShareStep step;
        step.hash = shared;
        return made(parent, name, step, n_threads);
    }
    Checkpoint written_out_copy(const Checkpoint& child, const std::string& name, const char* type = "auto") const {
        const std::string path = join_path(folder_, name);
        EXPECT_TRUE(make_directories(path).ok());
        auto plan = plan_hf_export(child, {type});
        EXPECT_TRUE(plan.ok()) << plan.error().to_string();
        EXPECT_TRUE(write_hf_export(child, *plan, path, nullptr).ok());
        auto opened = Checkpoint::open(path);
        EXPECT_TRUE(opened.ok()) << opened.error().to_string();
        return *opened;
    }
    Checkpoint parent_;
    const std::string folder_ = (std::filesystem::temp_directory_path() / ("skiff_hash_" + std::to_string(::getpid()))).string();
};

// Strength 0: each block has one of its own.
TEST_P(Hash, OneBlockEachChangesNothing) {
    const CalibrationText text = testing::random_text(parent_.spec.n_vocab);
    auto child = hashed(parent_, "one", 1);
    ASSERT_TRUE(child.ok()) << child.error().to_string();
    EXPECT_LT(testing::largest_difference(testing::logits_of(parent_.spec, *parent_.weights, text), testing::logits_of(child->spec, *child->weights, text)), 1e-4);  // sums in another order
    EXPECT_EQ(*written_out_copy(*child, "copy").content_hash(), *parent_.content_hash());
}

TEST_P(Hash, TheBankIsTheMeanOfWhatItStandsFor) {
    const CalibrationText text = testing::random_text(parent_.spec.n_vocab);
    auto child = hashed(parent_, "two", 2);
    if (!child.ok() && child.error().to_string().find("smaller") != std::string::npos) GTEST_SKIP() << child.error().to_string();
    ASSERT_TRUE(child.ok()) << child.error().to_string();
    EXPECT_EQ(*hashed(parent_, "again", 2, 3)->content_hash(), *child->content_hash());
    const std::set<std::string> columns = keys_stored_as_columns(parent_.spec);
    EditedWeights edited(parent_.weights);
    std::size_t n_hashed = 0;
    for (const auto& [key, declared] : parent_.spec.tensors) {
        if (!parent_.weights->contains(key)) continue;
        const auto before = parent_.weights->load(key), after = child->weights->load(key);
        ASSERT_TRUE(before.ok() && after.ok()) << key;
        const Hashed* found = after->hashed();
        if (found == nullptr) {
            EXPECT_EQ(before->encoding_name(), after->encoding_name()) << key;
            continue;
        }
        ++n_hashed;
        const bool turned = columns.count(key) != 0;
        const Weight rows = turned ? transposed(*before) : *before;
        const BlockHash& hash = found->hash;
        ASSERT_EQ(rows.shape, after->shape) << key;
        EXPECT_EQ(hash.shared, std::min<std::int64_t>(2, hash.n_block_rows()));
        const auto n = static_cast<std::size_t>(element_count(hash.bank_shape()));
        std::vector<double> sums(n), counts(n);
        std::vector<float> row(static_cast<std::size_t>(hash.n_columns));
        for (std::int64_t r = 0; r < hash.n_rows; ++r) {
            rows.row(r, row.data());
            for (std::int64_t c = 0; c < hash.n_columns; ++c) {
                const BankBlock block = found->row_of_blocks(r / 16)[static_cast<std::size_t>(c / 32)];
                const auto at = static_cast<std::size_t>((r / 16 / hash.shared * 16 + r % 16) * hash.n_bank_columns() + block.column * 32 + c % 32);
                sums[at] += (block.negative ? -1.0 : 1.0) * static_cast<double>(row[static_cast<std::size_t>(c)]);
                counts[at] += 1;
            }
        }
        std::vector<float> means(n);
        for (std::size_t i = 0; i < n; ++i) means[i] = static_cast<float>(sums[i] / std::max(1.0, counts[i]));
        const DType dtype = before->plain()->dtype;
        std::vector<std::byte> bytes(n * static_cast<std::size_t>(dtype_info(dtype).bits / 8));
        dtype_info(dtype).from_float(means.data(), static_cast<std::int64_t>(n), bytes.data());
        ASSERT_TRUE(std::ranges::equal(found->bank->plain()->data, bytes)) << key;
        const Weight dense = written_out(*make_hashed(hash, make_plain_weight(hash.bank_shape(), dtype, std::move(bytes))));
        edited.replace(key, turned ? transposed(dense) : dense);
    }
    EXPECT_GT(n_hashed, 0u);
    EXPECT_LT(child->weight_bytes(), parent_.weight_bytes() + 32 * n_hashed);
    const auto expected = testing::logits_of(parent_.spec, edited, text);
    EXPECT_LT(testing::largest_difference(expected, testing::logits_of(child->spec, *child->weights, text)), 1e-4);
    const Checkpoint copy = written_out_copy(*child, "copy");
    EXPECT_TRUE(testing::logits_of(copy.spec, *copy.weights, text) == expected);
    EXPECT_EQ(copy.weight_bytes(), parent_.weight_bytes());

    // What works on whole matrices refuses, and hashing does too, twice.
    auto refused = made(*child, "refused", PruneStep());
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().to_string().find("hashed"), std::string::npos) << refused.error().to_string();
    auto twice = hashed(*child, "twice", 2);
    ASSERT_FALSE(twice.ok());
    EXPECT_NE(twice.error().to_string().find("hashed 1:"), std::string::npos) << twice.error().to_string();
}

// The bank alone is rounded. (That kernels which gather its blocks compute this too is Linear's to show.)
TEST_P(Hash, TheBankIsQuantized) {
    const CalibrationText text = testing::random_text(parent_.spec.n_vocab);
    auto child = hashed(parent_, "two", 2);
    if (!child.ok() && child.error().to_string().find("smaller") != std::string::npos) GTEST_SKIP() << child.error().to_string();
    ASSERT_TRUE(child.ok()) << child.error().to_string();
    ThreadPool pool(1);
    QuantizeStep step;
    step.schemes = {*parse_scheme("w8g32"), {}, {}};
    auto rounded = made(*child, "rounded", step);
    ASSERT_TRUE(rounded.ok()) << rounded.error().to_string();
    for (const auto& [key, declared] : child->spec.tensors) {
        if (!child->weights->contains(key)) continue;
        const auto before = child->weights->load(key), after = rounded->weights->load(key);
        ASSERT_TRUE(before.ok() && after.ok()) << key << (after.ok() ? "" : after.error().to_string());
        if (before->hashed() == nullptr) continue;
        ASSERT_NE(after->hashed(), nullptr) << key;
        EXPECT_EQ(after->hashed()->hash, before->hashed()->hash);
        EXPECT_LT(relative_squared_error(*before, *after, pool), 1e-4) << key;
        EXPECT_EQ(after->encoding_name(), "w8g32 hashed 1:" + std::to_string(before->hashed()->hash.shared));
    }
    const Checkpoint copy = written_out_copy(*rounded, "copy", "F32");
    EXPECT_LT(testing::largest_difference(exact_logits(copy, text), exact_logits(*rounded, text)), 1e-4);
    step.method = "gptq";
    auto refused = made(*child, "refused", step);
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().to_string().find("rounded to nearest"), std::string::npos) << refused.error().to_string();
    step.method = "nearest";
    step.schemes.linear = *parse_scheme("n4g32r");
    refused = made(*child, "refused", step);
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().to_string().find("symmetric integers"), std::string::npos) << refused.error().to_string();
}

INSTANTIATE_TEST_SUITE_P(Models, Hash, ::testing::ValuesIn(testing::small_model_folders()), [](const auto& each) { return std::filesystem::path(each.param).filename().string(); });

}  // namespace
}  // namespace skiff
