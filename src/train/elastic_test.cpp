// Sub-networks: what they compute and learn is what the models cut out of the trained one compute and learn, for every architecture; how they are drawn.
#include "train/train_testing.h"

#include <filesystem>
#include <map>

#include <unistd.h>

#include "base/atomic_file.h"
#include "compress/pipeline.h"
#include "compress/structure/layer_choice.h"
#include "train/distillation_loss.h"
#include "train/elastic.h"

namespace skiff::train {
namespace {

std::vector<std::string> case_names() {
    std::vector<std::string> names;
    auto list = read_json_file(tiny_model_path("index.json"));
    if (list.ok())
        for (const Json& name : list->items()) names.push_back(name.text());
    return names;
}
at::Tensor some_tokens() { return at::tensor({1, 5, 9, 33, 60, 7, 8, 21, 40, 3, 2, 50, 17, 5, 9, 34, 61, 11, 12, 1}, at::kLong).view({1, 20}); }

struct CutFolder {
    std::string path = (std::filesystem::temp_directory_path() / ("skiff_elastic_" + std::to_string(::getpid()))).string();
    CutFolder() { (void)remove_all(path); }
    ~CutFolder() { (void)remove_all(path); }
};

// What `skiff prune --importance leading --compensation none` makes of half of the units, and those units; nothing where one cannot be halved.
struct Half {
    std::vector<CutAxis> axes;
    std::optional<Checkpoint> child;
};
Half half_of(const Checkpoint& model, UnitKind units, const std::string& folder) {
    Half half;
    auto axes = find_cut_axes(model.spec, units);
    if (!axes.ok()) return half;
    StructureStep step;
    step.units = units;
    step.removal = {Removal::By::share, 0.5};
    step.importance = "leading";
    step.compensation = StructureStep::Compensation::none;
    step.multiple_of = 1;
    for (CutAxis& axis : *axes) {
        auto kept = units_kept(step.removal, axis.n_units, 1);
        if (!kept.ok() || *kept == axis.n_units) return half;
        axis.n_kept = *kept;
    }
    Checkpoint parent = model;
    parent.kind = Checkpoint::Kind::random;  // no tokenizer to copy
    Recipe recipe;
    recipe.steps.push_back(step);
    CompressOptions options;
    options.output = folder;
    options.n_threads = 1;
    auto report = run_recipe(parent, recipe, options);
    EXPECT_TRUE(report.ok()) << (report.ok() ? "" : report.error().to_string());
    auto child = Checkpoint::open(folder);
    EXPECT_TRUE(child.ok()) << (child.ok() ? "" : child.error().to_string());
    if (!child.ok()) return half;
    half.axes = *axes;
    half.child.emplace(std::move(*child));
    return half;
}

// The part of a gradient that belongs to the units that stay.
at::Tensor cut_gradient(const ModelSpec& spec, const std::string& key, const at::Tensor& gradient, const std::vector<CutAxis>& axes) {
    AxisCut units;
    for (const CutAxis& axis : axes) {
        auto cut = coupled_cut(spec, axis.axis, first_units(axis));
        units.insert(cut->begin(), cut->end());
    }
    at::Tensor part = gradient;
    const Dimension* dimensions = spec.tensors.at(key).dimensions.data();
    for (std::int64_t d = 0; d < gradient.dim(); ++d) part = part.index_select(d, at::tensor(kept_entries(spec, dimensions[d], units), at::kLong));
    return part;
}

class Parts : public ::testing::TestWithParam<std::string> {};

TEST_P(Parts, ComputeAndLearnWhatTheCutModelsDo) {
    auto checkpoint = Checkpoint::open(tiny_model_path(GetParam()));
    ASSERT_TRUE(checkpoint.ok());
    const at::Tensor in = some_tokens().narrow(1, 0, 19), out = some_tokens().narrow(1, 1, 19);
    for (const UnitKind units : {UnitKind::neurons, UnitKind::kv_groups})
        for (const Form form : {Form::automatic, Form::composed}) {
            SCOPED_TRACE(std::string(unit_kind_name(units)) + (form == Form::composed ? ", composed" : ""));
            const CutFolder folder;
            const Half half = half_of(*checkpoint, units, folder.path);
            if (GetParam() == "llama" || GetParam() == "phi3" || (GetParam() == "gpt2" && units == UnitKind::neurons)) { EXPECT_TRUE(half.child.has_value()); }
            if (!half.child) continue;
            const auto whole = make_trainable(checkpoint->spec, load_parameters(checkpoint->spec, *checkpoint->weights), {.form = form});
            const auto small = make_trainable(half.child->spec, load_parameters(half.child->spec, *half.child->weights), {.form = form});
            auto widths = whole->add_leading_units(half.axes);
            ASSERT_TRUE(widths.ok()) << widths.error().to_string();
            const SubNetwork part{{}, *widths};
            EXPECT_EQ(whole->spec_of(part).n_parameters(), half.child->spec.n_parameters());
            {
                const at::NoGradGuard no_grad;
                EXPECT_LT(relative_difference(whole->head(whole->observe(some_tokens(), {}, part).hidden), small->logits(some_tokens())), 1e-5);
            }
            const double loss = small->add_gradients(in, out, 1.0 / 19);
            EXPECT_NEAR(whole->add_gradients(in, out, 1.0 / 19, part), loss, 1e-5 * loss);
            double largest = 0;
            for (const Parameter& parameter : small->parameters().all())
                if (parameter.value.grad().defined()) largest = std::max(largest, parameter.value.grad().abs().max().item<double>());
            for (const Parameter& parameter : small->parameters().all()) {
                if (!parameter.value.grad().defined()) continue;
                const at::Tensor gradient = whole->parameters().find(parameter.key)->value.grad(), own = cut_gradient(checkpoint->spec, parameter.key, gradient, half.axes);
                EXPECT_LT((own - parameter.value.grad()).abs().max().item<double>(), 1e-4 * largest) << parameter.key;
                EXPECT_NEAR(own.square().sum(at::kDouble).item<double>(), gradient.square().sum(at::kDouble).item<double>(), 1e-12 + 1e-6 * gradient.square().sum(at::kDouble).item<double>()) << parameter.key << ": units that are not there learn";
            }
        }
}
INSTANTIATE_TEST_SUITE_P(Cases, Parts, ::testing::ValuesIn(case_names()), [](const auto& param) { return param.param; });

std::unique_ptr<TrainableModel> tiny_llama() {
    const TinyCase tiny = open_tiny_model("llama");
    return make_trainable(tiny.spec, load_parameters(tiny.spec, tiny.weights));
}
ElasticOptions some_options(ElasticOptions::Rule rule) {
    ElasticOptions options;
    options.rule = rule;
    options.neurons = {0.25, 0.5, 1};
    options.kv_groups = {1, 2};
    options.layers = {1, 2};
    return options;
}

TEST(Elastic, RulesOfThePapers) {
    const auto model = tiny_llama();
    using Rule = ElasticOptions::Rule;
    for (const Rule rule : {Rule::uniform, Rule::fair, Rule::sandwich}) {
        auto space = ElasticSpace::create(*model, some_options(rule));
        ASSERT_TRUE(space.ok()) << space.error().to_string();
        EXPECT_EQ(space->all().size(), 12u);
        std::map<std::size_t, int> neurons, groups;
        for (std::int64_t step = 0; step < 300; ++step) {
            const auto drawn = space->drawn(7, step, 0);
            EXPECT_EQ(drawn, space->drawn(7, step, 0));
            std::set<std::size_t> here;
            for (const ElasticChoice& choice : drawn) {
                ++neurons[choice.neurons];
                ++groups[choice.kv_groups];
                here.insert(choice.neurons);
            }
            if (rule == Rule::uniform) { EXPECT_EQ(drawn.size(), 1u); }
            if (rule == Rule::sandwich) {
                ASSERT_EQ(drawn.size(), 4u);
                EXPECT_EQ(drawn[0], space->largest());
                EXPECT_EQ(drawn[1], ElasticChoice{});
            }
            if (rule == Rule::fair) {  // every width once a step; KV groups never more than one apart
                EXPECT_EQ(drawn.size(), 3u);
                EXPECT_EQ(here.size(), 3u);
                EXPECT_LE(std::abs(groups[0] - groups[1]), 1);
            }
        }
        for (std::size_t i = 0; i < 3; ++i) EXPECT_GT(neurons[i], 60);
        if (rule == Rule::uniform) { EXPECT_LT(neurons[0], 140); }
        EXPECT_NE(space->drawn(7, 0, 0), space->drawn(8, 3, 0));
    }
}

TEST(Elastic, LayersGoInTheirOrder) {
    const auto model = tiny_llama();
    auto space = ElasticSpace::create(*model, some_options(ElasticOptions::Rule::uniform));
    ASSERT_TRUE(space.ok());
    EXPECT_TRUE(space->network(space->largest()).dropped.empty());
    EXPECT_EQ(space->network(space->largest()).widths, 0u);
    const SubNetwork smallest = space->network({});
    for (std::int64_t layer = 0; layer < 2; ++layer) EXPECT_EQ(smallest.dropped[static_cast<std::size_t>(layer)], layer == elastic_layer_order(2)[0]);
    EXPECT_NE(smallest.widths, 0u);
    std::set<std::int64_t> sizes;
    for (const ElasticChoice& choice : space->all()) sizes.insert(space->n_parameters(choice));
    EXPECT_EQ(sizes.size(), 12u);
    EXPECT_EQ(*sizes.rbegin(), model->spec().n_parameters());
}

// The sandwich: the largest learns the text, the others what it says, and nothing of that reaches it.
TEST(Elastic, SubNetworksLearnFromTheLargest) {
    const auto model = tiny_llama(), other = tiny_llama();
    TrainOptions options;
    options.elastic = some_options(ElasticOptions::Rule::sandwich);
    options.elastic.n_random = 0;
    auto space = ElasticSpace::create(*model, options.elastic), other_space = ElasticSpace::create(*other, options.elastic);
    ASSERT_TRUE(space.ok() && other_space.ok());
    const auto objective = elastic_objective(*model, *space, label_objective(*model), options);
    const at::Tensor in = some_tokens().narrow(1, 0, 19), out = some_tokens().narrow(1, 1, 19);
    auto found = objective->add_gradients({in, out, 0, 1.0 / 19, {}});
    ASSERT_TRUE(found.ok());
    at::Tensor teacher;
    {
        const at::NoGradGuard no_grad;
        teacher = other->logits(in);
    }
    const double of_largest = other->add_gradients(in, out, 0.5 / 19);
    const LogitsLoss loss = [&](const at::Tensor& logits, std::int64_t first) {
        return distillation_loss(logits, SoftTargets{teacher, {}, {}}.rows(first, logits.size(0)), out.reshape({-1}).narrow(0, first, logits.size(0)), {Divergence::forward_kl, 1, 1, 0.5}, 0.5 / 19);
    };
    const double of_smallest = other->add_gradients(in, loss, other_space->network({}), {}, nullptr);
    EXPECT_GT(of_smallest, 0);
    EXPECT_NEAR(*found, of_largest + of_smallest, 1e-6 * *found);
    for (const Parameter& parameter : other->parameters().all())
        EXPECT_LT(relative_difference(model->parameters().find(parameter.key)->value.grad(), parameter.value.grad()), 1e-5) << parameter.key;
    options.elastic.teach = ElasticOptions::Teach::same;
    EXPECT_FALSE(ElasticSpace::create(*model, options.elastic)->teaches_itself());
}

TEST(Elastic, RefusesWhatMakesNoSense) {
    const auto model = tiny_llama();
    TrainOptions sound;
    sound.elastic = some_options(ElasticOptions::Rule::fair);
    EXPECT_TRUE(check_elastic(sound).ok());
    EXPECT_TRUE(check_elastic({}).ok());
    const auto refused = [&](auto&& change) {
        TrainOptions options = sound;
        change(options);
        return !check_elastic(options).ok();
    };
    EXPECT_TRUE(refused([](TrainOptions& o) { o.elastic.rule = ElasticOptions::Rule::off; }));
    EXPECT_TRUE(refused([](TrainOptions& o) { o.elastic.neurons = {0.5, 0.75}; }));
    EXPECT_TRUE(refused([](TrainOptions& o) { o.elastic.neurons = {0.75, 0.5, 1}; }));
    EXPECT_TRUE(refused([](TrainOptions& o) { o.elastic.kv_groups = {0, 2}; }));
    EXPECT_TRUE(refused([](TrainOptions& o) { o.elastic.neurons.clear(), o.elastic.kv_groups.clear(), o.elastic.layers.clear(); }));
    EXPECT_TRUE(refused([](TrainOptions& o) { o.elastic.neurons = {0.5, std::nan(""), 1}; }));
    EXPECT_TRUE(refused([](TrainOptions& o) { o.elastic.neurons = {1}, o.elastic.kv_groups.clear(), o.elastic.layers = {4}; }));  // the whole alone
    EXPECT_TRUE(refused([](TrainOptions& o) { o.elastic.n_random = 5; }));                                                    // of the sandwich rule
    EXPECT_TRUE(refused([](TrainOptions& o) { o.elastic = {}, o.elastic.n_random = 5; }));
    EXPECT_TRUE(refused([](TrainOptions& o) { o.elastic = {}, o.elastic.teach = ElasticOptions::Teach::largest; }));
    EXPECT_TRUE(refused([](TrainOptions& o) { o.layer_drop = 0.1; }));
    EXPECT_TRUE(refused([](TrainOptions& o) { o.lora_rank = 4; }));
    EXPECT_TRUE(refused([](TrainOptions& o) { o.quant.schemes = default_wish(*parse_scheme("w4g32")); }));
    for (const auto& lists : {std::pair{std::vector<std::int64_t>{1}, std::vector<std::int64_t>{1, 2}}, std::pair{std::vector<std::int64_t>{1, 2}, std::vector<std::int64_t>{1, 3}}}) {
        ElasticOptions options = sound.elastic;
        options.kv_groups = lists.first;
        options.layers = lists.second;
        EXPECT_FALSE(ElasticSpace::create(*model, options).ok());
    }
}

}  // namespace
}  // namespace skiff::train
