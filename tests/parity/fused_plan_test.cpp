// Fused and plain plans of every architecture give the same bits, whatever is fused, however the text is cut, for any number of threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "base/rng.h"
#include "model/checkpoint.h"
#include "plan/session.h"

namespace skiff {
namespace {

const std::string models_dir = std::string(SKIFF_TEST_DATA_DIR) + "/models";

std::vector<std::string> case_names() {
    std::vector<std::string> names;
    auto list = read_json_file(models_dir + "/index.json");
    if (list.ok())
        for (const Json& name : list->items()) names.push_back(name.text());
    return names;
}

struct Weights {
    ModelSpec spec;
    std::shared_ptr<WeightSource> source;
};

Weights open_model(const std::string& name, const char* scheme_text) {
    auto checkpoint = Checkpoint::open(models_dir + "/" + name);
    EXPECT_TRUE(checkpoint.ok());
    Weights weights{checkpoint->spec, checkpoint->weights};
    if (scheme_text == nullptr) return weights;
    static std::map<std::string, Scheme> schemes;
    const Scheme& scheme = schemes[scheme_text] = *parse_scheme(scheme_text);
    weights.source = quantized_on_load(
        weights.spec, weights.source,
        [spec = weights.spec, &scheme](const std::string& key) { return spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; },
        ScaleRule::min_max);
    return weights;
}

std::shared_ptr<const Plan> make_plan(const Weights& weights, FuseSet fuse, int n_threads = 2, std::vector<std::string> taps = {}) {
    PlanOptions options;
    options.fuse = fuse;
    options.n_threads = n_threads;
    options.taps = std::move(taps);
    auto plan = lower(weights.spec, *weights.source, options);
    EXPECT_TRUE(plan.ok()) << (plan.ok() ? "" : plan.error().to_string());
    return *plan;
}

std::vector<std::int32_t> tokens_of(const ModelSpec& spec) {
    Rng rng(3);
    std::vector<std::int32_t> tokens;
    for (std::int64_t i = 0; i < std::min<std::int64_t>(spec.max_positions, 71); ++i)
        tokens.push_back(static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(spec.n_vocab))));
    return tokens;
}

std::vector<float> logits(const std::shared_ptr<const Plan>& plan, int n_threads, std::int64_t chunk) {
    auto session = Session::create(plan, {.n_threads = n_threads, .n_context = 128, .max_batch = chunk, .state_scheme = StateScheme::f16});
    EXPECT_TRUE((*session)->forward(0, tokens_of(plan->spec), BatchItem::Logits::all).ok());
    return {(*session)->logits().begin(), (*session)->logits().end()};
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
    return a.size() == b.size() && !a.empty() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

class FusedPlan : public ::testing::TestWithParam<std::string> {};

TEST_P(FusedPlan, GivesTheBitsOfThePlainOne) {
    for (const char* scheme : {static_cast<const char*>(nullptr), "w8"}) {  // float and integer activations
        const Weights weights = open_model(GetParam(), scheme);
        const std::vector<float> expected = logits(make_plan(weights, FuseSet::none()), 1, 512);
        auto fused = make_plan(weights, FuseSet::all());
        for (std::int64_t chunk : {1, 7, 64, 512})
            for (int threads : {1, 2})
                EXPECT_TRUE(same_bits(logits(fused, threads, chunk), expected)) << (scheme ? scheme : "plain") << ", chunk " << chunk << ", threads " << threads;
        EXPECT_TRUE(same_bits(logits(fused, 3, 7), expected)) << "more threads than the plan was cut for";
        for (std::size_t pass = 0; pass < fuse_passes().size(); ++pass) {
            for (const FuseSet& set : {FuseSet::none().with(pass), FuseSet::all().without(pass)}) {
                auto plan = make_plan(weights, set);
                for (std::int64_t chunk : {1, 64}) EXPECT_TRUE(same_bits(logits(plan, 2, chunk), expected)) << fuse_passes()[pass].name << ", chunk " << chunk;
            }
        }
    }
}

// A value that somebody watches is there, and the same, though fusion would have hidden or overwritten it.
TEST_P(FusedPlan, HidesNoValueThatIsTapped) {
    const Weights weights = open_model(GetParam(), "w8");
    std::vector<std::string> names;
    for (const Block& block : weights.spec.blocks)
        for (const Op& op : block.ops)
            if (block.name != "block1") names.push_back(weights.spec.values[static_cast<std::size_t>(op.out)].name);
    const std::vector<std::int32_t> tokens = tokens_of(weights.spec);
    auto watch = [&](const std::shared_ptr<const Plan>& plan, std::int64_t chunk, const std::string& name) {
        auto session = Session::create(plan, {.n_threads = 2, .n_context = 128, .max_batch = chunk});
        EXPECT_TRUE((*session)->forward(0, std::span(tokens).first(12), BatchItem::Logits::all).ok());
        std::span<const float> tap = (*session)->tap(name);
        return std::vector<float>(tap.begin(), tap.end());
    };
    auto plain = make_plan(weights, FuseSet::none(), 2, names);
    for (const std::string& name : names) {
        auto fused = make_plan(weights, FuseSet::all(), 2, {name});
        for (std::int64_t chunk : {1, 12}) EXPECT_TRUE(same_bits(watch(fused, chunk, name), watch(plain, chunk, name))) << name << ", chunk " << chunk;
    }
    auto all = make_plan(weights, FuseSet::all(), 2, names);
    for (const std::string& name : names) EXPECT_TRUE(same_bits(watch(all, 12, name), watch(plain, 12, name))) << name;
}

INSTANTIATE_TEST_SUITE_P(, FusedPlan, ::testing::ValuesIn(case_names()), [](const auto& parameter) { return parameter.param; });

}  // namespace
}  // namespace skiff
