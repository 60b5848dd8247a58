// Shared layers: the choice of groups, and every architecture that the tests hold against a plain model whose layers hold copies.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <limits>
#include <set>

#include "base/atomic_file.h"
#include "base/cpu_features.h"
#include "base/mapped_file.h"
#include "compress/export_hf.h"
#include "compress/pipeline.h"
#include "compress/share/layer_groups.h"
#include "compress/small_models_testing.h"
#include "model/arch/arch.h"
#include "model/axes.h"
#include "model/shared_layers.h"

namespace skiff {
namespace {

TEST(LayerGroups, EvenOnesAreAsEqualAsTheyCanBe) {
    EXPECT_EQ(*even_groups(2, 4), (LayerGroups{0, 0, 2, 2}));
    EXPECT_EQ(*even_groups(4, 4), (LayerGroups{0, 1, 2, 3}));
    EXPECT_EQ(*even_groups(1, 3), (LayerGroups{0, 0, 0}));
    EXPECT_EQ(*even_groups(3, 7), (LayerGroups{0, 0, 0, 3, 3, 5, 5}));
    EXPECT_FALSE(even_groups(0, 4).ok());
    EXPECT_FALSE(even_groups(5, 4).ok());
}

TEST(LayerGroups, AreReadFromText) {
    const auto groups = parse_layer_groups("0-1,3-5");
    ASSERT_TRUE(groups.ok());
    EXPECT_EQ(*listed_groups(*groups, 7), (LayerGroups{0, 0, 2, 3, 3, 3, 6}));
    EXPECT_FALSE(listed_groups(*groups, 5).ok());
    for (const char* text : {"", "0", "1-0", "0-1,1-2", "2-3,0-1", "0-1,", "a-b", "-1-2", "0-1 2-3"}) EXPECT_FALSE(parse_layer_groups(text).ok()) << text;
}

// Against all ways to cut a few layers.
TEST(LayerGroups, TheCheapestOnesAreFound) {
    Rng rng(4);
    for (int turn = 0; turn < 20; ++turn) {
        const std::int64_t n = 6;
        std::vector<double> costs(36);
        for (double& each : costs) each = turn % 5 == 0 && rng.below(3) == 0 ? std::numeric_limits<double>::infinity() : static_cast<double>(rng.uniform());
        const auto cost = [&](std::int64_t first, std::int64_t last) { return first == last ? 0 : costs[static_cast<std::size_t>(first * n + last)]; };
        for (std::int64_t n_groups = 1; n_groups <= n; ++n_groups) {
            double least = std::numeric_limits<double>::infinity();
            for (unsigned cuts = 0; cuts < 32; ++cuts) {  // bit i: a group begins with layer i + 1
                if (__builtin_popcount(cuts) + 1 != n_groups) continue;
                double sum = 0;
                std::int64_t first = 0;
                for (std::int64_t layer = 1; layer <= n; ++layer)
                    if (layer == n || (cuts >> (layer - 1) & 1) != 0) sum += cost(first, layer - 1), first = layer;
                least = std::min(least, sum);
            }
            const auto found = cheapest_groups(n_groups, n, cost);
            ASSERT_EQ(found.ok(), std::isfinite(least));
            if (!found.ok()) continue;
            double sum = 0;
            std::int64_t n_found = 0;
            for (std::int64_t layer = 0; layer < n; ++layer) {
                n_found += (*found)[static_cast<std::size_t>(layer)] == layer;
                if (layer + 1 == n || (*found)[static_cast<std::size_t>(layer) + 1] == layer + 1) sum += cost((*found)[static_cast<std::size_t>(layer)], layer);
            }
            EXPECT_EQ(n_found, n_groups);
            EXPECT_NEAR(sum, least, 1e-12);
        }
    }
}

class Distances : public ::testing::Test {
protected:
    Checkpoint random_model(const std::string& config) {
        EXPECT_TRUE(make_directories(folder_).ok());
        EXPECT_TRUE(write_file_atomic(join_path(folder_, "c.json"), config).ok());
        auto opened = Checkpoint::open("random:" + join_path(folder_, "c.json"));
        EXPECT_TRUE(opened.ok());
        return *opened;
    }
    ~Distances() override { (void)remove_all(folder_); }
    const std::string folder_ = (std::filesystem::temp_directory_path() / ("skiff_distances_" + std::to_string(::getpid()))).string();
};

// More rows than are looked at together, and no whole number of stretches: the same sums, in the order of the rows, for any number of threads.
TEST_F(Distances, AreTheSameBitsForAnyThreads) {
    const Checkpoint model = random_model(R"({"model_type": "llama", "hidden_size": 32, "intermediate_size": 600, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 64, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu"})");
    std::vector<double> expected(9), n_shared(9);
    for (const char* name : {"mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", "self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj"}) {
        std::vector<Weight> weights;
        for (int layer = 0; layer < 3; ++layer) weights.push_back(*model.weights->load("model.layers." + std::to_string(layer) + "." + name + ".weight"));
        std::vector<double> totals(9);
        std::vector<float> a(static_cast<std::size_t>(weights[0].n_columns())), b(a.size());
        for (std::int64_t row = 0; row < weights[0].n_rows(); ++row)
            for (std::size_t i = 0; i < 3; ++i)
                for (std::size_t j = i; j < 3; ++j) {
                    weights[i].row(row, a.data()), weights[j].row(row, b.data());
                    double sum = 0;
                    for (std::size_t c = 0; c < a.size(); ++c) {
                        const double difference = i == j ? static_cast<double>(a[c]) : static_cast<double>(a[c]) - static_cast<double>(b[c]);
                        sum += difference * difference;
                    }
                    totals[i * 3 + j] += sum;
                }
        double norm = 0;
        for (std::size_t i = 0; i < 3; ++i) norm += totals[i * 3 + i] / 3;
        for (std::size_t i = 0; i < 3; ++i)
            for (std::size_t j = i + 1; j < 3; ++j)
                for (const std::size_t place : {i * 3 + j, j * 3 + i}) expected[place] += totals[i * 3 + j] / norm, n_shared[place] += 1;
    }
    for (std::size_t i = 0; i < 9; ++i) expected[i] = n_shared[i] > 0 ? expected[i] / n_shared[i] : 0;
    for (const int n_threads : {1, 3}) {
        ThreadPool pool(n_threads);
        const auto distances = layer_distances(model, pool);
        ASSERT_TRUE(distances.ok());
        EXPECT_EQ(*distances, expected);
    }
}

// Many layers of many rows: sums of all rows would be 92 MiB here.
TEST_F(Distances, TakeMemoryForSomeRows) {
    const Checkpoint model = random_model(R"({"model_type": "llama", "hidden_size": 8, "intermediate_size": 20000, "num_hidden_layers": 24, "num_attention_heads": 1, "vocab_size": 64, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu"})");
    ThreadPool pool(2);
    reset_peak_resident();
    const std::size_t before = resident_bytes();
    if (peak_resident_bytes() > before + (std::size_t{8} << 20)) GTEST_SKIP() << "the peak of memory cannot be set back here";
    ASSERT_TRUE(layer_distances(model, pool).ok());
    EXPECT_LT(peak_resident_bytes(), before + (std::size_t{64} << 20));
}

TEST(SharedLayers, NamesOfTensors) {
    EXPECT_EQ(key_of_layer("model.layers.3.mlp.up_proj.weight", 12), "model.layers.12.mlp.up_proj.weight");
    EXPECT_EQ(key_of_layer("h.0.attn.c_attn.weight", 1), "h.1.attn.c_attn.weight");
    EXPECT_EQ(key_of_layer("model.layers.1.block_sparse_moe.experts.1.w1.weight", 0), "model.layers.0.block_sparse_moe.experts.1.w1.weight");
    EXPECT_EQ(key_of_layer("model.embed_tokens.weight", 1), "model.embed_tokens.weight");
    EXPECT_EQ(key_of_layer("lm_head2.weight", 1), "lm_head2.weight");
}

class Share : public ::testing::TestWithParam<std::string> {
protected:
    void SetUp() override {
        auto opened = Checkpoint::open(GetParam());
        ASSERT_TRUE(opened.ok()) << opened.error().to_string();
        parent_ = *opened;
        pairs_ = parent_.spec.n_layers >= 2 && may_share(parent_.spec, 0, 1);
        ASSERT_TRUE(make_directories(folder_).ok());
    }
    void TearDown() override { (void)remove_all(folder_); }

    Result<Checkpoint> child_of(const Checkpoint& parent, const std::string& name, ShareStep::Weights weights) const {
        ShareStep step;
        step.groups = {{0, 1}};
        step.weights = weights;
        return made(parent, name, step);
    }
    Result<Checkpoint> made(const Checkpoint& parent, const std::string& name, const RecipeStep& step) const {
        CompressOptions options;
        options.output = join_path(folder_, name);
        options.n_threads = 2;
        Recipe recipe;
        recipe.steps.push_back(step);
        SKIFF_CHECK(run_recipe(parent, recipe, options));
        return Checkpoint::open(options.output);
    }
    // The plain model with copies, as a folder of its own.
    Checkpoint copied(const Checkpoint& child, const std::string& name) const {
        const std::string path = join_path(folder_, name);
        EXPECT_TRUE(make_directories(path).ok());
        auto plain = without_sharing(child);
        EXPECT_TRUE(plain.ok()) << plain.error().to_string();
        auto plan = plan_hf_export(*plain, {"auto"});
        EXPECT_TRUE(plan.ok()) << plan.error().to_string();
        EXPECT_TRUE(write_hf_export(*plain, *plan, path, nullptr).ok());
        auto opened = Checkpoint::open(path);
        EXPECT_TRUE(opened.ok()) << opened.error().to_string();
        return *opened;
    }
    Checkpoint parent_;
    bool pairs_ = false;
    const std::string folder_ = (std::filesystem::temp_directory_path() / ("skiff_share_" + std::to_string(::getpid()))).string();
};

TEST_P(Share, ComputesWhatCopiesWould) {
    if (!pairs_) {
        auto refused = child_of(parent_, "refused", ShareStep::Weights::average);
        ASSERT_FALSE(refused.ok());
        EXPECT_NE(refused.error().to_string().find("layer"), std::string::npos);
        GTEST_SKIP() << "its first two layers differ";
    }
    const CalibrationText text = testing::random_text(parent_.spec.n_vocab);
    for (const auto weights : {ShareStep::Weights::average, ShareStep::Weights::first}) {
        const bool average = weights == ShareStep::Weights::average;
        auto child = child_of(parent_, average ? "average" : "first", weights);
        ASSERT_TRUE(child.ok()) << child.error().to_string();
        // By hand: the parent with the mean, rounded to its type, in both layers.
        EditedWeights edited(parent_.weights);
        std::uint64_t layer_bytes = 0;
        std::set<std::string> seen;
        for (Op op : parent_.spec.blocks[2].ops)
            for_each_tensor_ref(op, [&](const TensorRef& ref) {
                if (!parent_.weights->contains(ref.key) || !seen.insert(ref.key).second) return;
                const std::string first_key = key_of_layer(ref.key, 0);
                auto first = parent_.weights->load(first_key), second = parent_.weights->load(ref.key);
                ASSERT_TRUE(first.ok() && second.ok());
                layer_bytes += second->stored_bytes();
                std::vector<float> a, b;
                ASSERT_TRUE(to_floats(*first->plain(), a) && to_floats(*second->plain(), b));
                for (std::size_t i = 0; i < a.size(); ++i) a[i] = average ? static_cast<float>((static_cast<double>(a[i]) + static_cast<double>(b[i])) / 2) : a[i];
                const DType dtype = first->plain()->dtype;
                std::vector<std::byte> bytes(first->plain()->data.size());
                dtype_info(dtype).from_float(a.data(), static_cast<std::int64_t>(a.size()), bytes.data());
                for (const std::string& key : {first_key, ref.key}) edited.replace(key, make_plain_weight(first->shape, dtype, bytes));
            });
        const auto expected = testing::logits_of(parent_.spec, edited, text);
        EXPECT_TRUE(testing::logits_of(child->spec, *child->weights, text) == expected);
        const Checkpoint plain = copied(*child, average ? "average_copies" : "first_copies");
        EXPECT_TRUE(testing::logits_of(plain.spec, *plain.weights, text) == expected);
        EXPECT_EQ(plain.spec, parent_.spec);

        // Once on disk, once in memory: the layer is gone from both.
        EXPECT_EQ(child->weight_bytes() + layer_bytes, parent_.weight_bytes());
        const auto plan = lower(child->spec, *child->weights, {}), whole = lower(parent_.spec, *parent_.weights, {});
        ASSERT_TRUE(plan.ok() && whole.ok());
        EXPECT_LT((*plan)->weights.size(), (*whole)->weights.size());
        EXPECT_LT((*plan)->weight_bytes, (*whole)->weight_bytes);

        // What shares already is the same again: copies are equal, and so is their mean.
        auto again = child_of(plain, average ? "average_again" : "first_again", average ? ShareStep::Weights::average : ShareStep::Weights::first);
        ASSERT_TRUE(again.ok()) << again.error().to_string();
        EXPECT_EQ(*again->content_hash(), *child->content_hash());
        EXPECT_FALSE(child_of(*child, "twice", weights).ok());
    }
}

TEST_P(Share, AsManyGroupsAsLayersChangeNothing) {
    ShareStep step;
    step.n_groups = parent_.spec.n_layers;
    for (const auto choice : {ShareStep::Choice::measured, ShareStep::Choice::similar, ShareStep::Choice::even}) {
        step.choice = choice;
        auto child = made(parent_, std::to_string(static_cast<int>(choice)), step);
        ASSERT_TRUE(child.ok()) << child.error().to_string();
        EXPECT_FALSE(child->config.contains(shared_layers_key));
        EXPECT_EQ(*child->content_hash(), *parent_.content_hash());
    }
}

// A method that looks at the data sees what all layers of a group feed their weights, and goes on behind them.
TEST_P(Share, IsCalibratedOverAllItsUses) {
    if (!pairs_) GTEST_SKIP() << "its first two layers differ";
    if (!algebra_available().ok()) GTEST_SKIP() << algebra_available().error().message;
    auto child = child_of(parent_, "child", ShareStep::Weights::average);
    ASSERT_TRUE(child.ok()) << child.error().to_string();
    const CalibrationText text = testing::random_text(child->spec.n_vocab);
    CalibrationWalk walk(child->spec, text, 2), apart(child->spec, text, 2);
    ASSERT_TRUE(walk.embed(*child->weights).ok() && apart.embed(*child->weights).ok());
    const std::vector<float> entering(walk.hidden().begin(), walk.hidden().end());
    EXPECT_EQ(walk.last_sharing(1), 2u);
    auto both = walk.observe(1, 2, *child->weights, StatisticsNeed::gram);
    ASSERT_TRUE(both.ok()) << both.error().to_string();
    EXPECT_TRUE(std::equal(entering.begin(), entering.end(), walk.hidden().begin()));
    auto first = apart.observe(1, *child->weights, StatisticsNeed::gram);
    ASSERT_TRUE(first.ok() && apart.advance(1, *child->weights).ok());
    auto second = apart.observe(2, *child->weights, StatisticsNeed::gram);
    ASSERT_TRUE(second.ok());
    ASSERT_EQ(both->size(), first->size());
    for (const auto& [key, sum] : *both) {
        const InputStatistics &a = *first->at(key), &b = *second->at(key);
        EXPECT_EQ(sum->n_tokens, a.n_tokens + b.n_tokens);
        double largest = 0;
        for (const float value : a.mean_square) largest = std::max(largest, static_cast<double>(value));
        for (const float value : b.mean_square) largest = std::max(largest, static_cast<double>(value));
        for (std::size_t i = 0; i < sum->mean_square.size(); ++i) EXPECT_NEAR(sum->mean_square[i], (a.mean_square[i] + b.mean_square[i]) / 2, 1e-5 * largest) << key << " column " << i;
        for (std::size_t i = 0; i < sum->gram.size(); ++i) ASSERT_NEAR(sum->gram[i], (a.gram[i] + b.gram[i]) / 2, 1e-5 * largest) << key;
    }
}

INSTANTIATE_TEST_SUITE_P(Models, Share, ::testing::ValuesIn(testing::small_model_folders()), [](const auto& each) { return std::filesystem::path(each.param).filename().string(); });

TEST(SharedLayers, ListsThatSayNothingSensibleAreRefused) {
    auto config = read_json_file(std::string(SKIFF_TEST_DATA_DIR) + "/models/llama/config.json");
    ASSERT_TRUE(config.ok()) << config.error().to_string();
    auto plain = build_spec(*config);
    ASSERT_TRUE(plain.ok());
    const auto with = [&](const std::string& list) {
        Json changed = *config;
        changed.set(shared_layers_key, *Json::parse(list));
        return build_spec(changed);
    };
    std::string rest;
    for (std::int64_t layer = 2; layer < plain->n_layers; ++layer) rest += ", " + std::to_string(layer);
    EXPECT_FALSE(with("[]").ok());
    ASSERT_TRUE(with("[0, 0" + rest + "]").ok());
    EXPECT_LT(with("[0, 0" + rest + "]")->n_parameters(), plain->n_parameters());
    EXPECT_EQ(*with("[0, 1" + rest + "]"), *plain);
    for (const std::string& list : {std::string("7"), std::string("[0]"), "[0, 2" + rest + "]", "[1, 1" + rest + "]", "[0, -1" + rest + "]", "[0, \"x\"" + rest + "]", std::string("[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]")})
        EXPECT_FALSE(with(list).ok()) << list;
}

}  // namespace
}  // namespace skiff
