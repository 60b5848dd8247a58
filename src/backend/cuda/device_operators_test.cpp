// Operators and how they are joined on the device: transforms, biases, gates, routers, launches of a layer.
#include <functional>
#include <tuple>

#include "backend/cuda/device_session_testing.h"
#include "model/pruned_on_load.h"
#include "tensor/sparse.h"

namespace skiff::cuda {
namespace {

// down_proj's input scaled (AWQ) or reordered (GPTQ by activation order): that needs the product of gate and up as numbers.
TEST(DeviceSession, InputTransformsBehindAGatedProduct) {
    for (const auto kind : {InputTransform::Kind::scale, InputTransform::Kind::permutation}) {
        Small small;
        const auto weights = std::make_shared<WithVectors>(small.weights);
        for (Block& block : small.spec.blocks)
            for (Op& op : block.ops) {
                auto* linear = std::get_if<LinearOp>(&op.detail);
                if (linear == nullptr || linear->terms.size() != 1) continue;
                const std::string key = linear->terms[0].weight.key, vector = key + ".vector";
                if (!key.ends_with("down_proj.weight") && !key.ends_with("o_proj.weight")) continue;
                linear->transform = {kind, {vector, {}, false}};
                small.spec.tensors.emplace(vector, TensorDecl{vector, {small.spec.tensors.at(key).dimensions[1]}, TensorDecl::Role::other, TensorDecl::Need::optional});
                std::vector<float> numbers(static_cast<std::size_t>(small.spec.width(op.in[0])));
                for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = kind == InputTransform::Kind::scale ? 0.5f + 0.01f * static_cast<float>(i) : static_cast<float>(numbers.size() - 1 - i);
                weights->put(vector, std::move(numbers));
            }
        const auto tokens = some_tokens(40, 131);
        for (const auto fuse : {DeviceModelOptions::Fuse::on, DeviceModelOptions::Fuse::off}) {
            auto options = small_options(64);
            options.fuse = fuse;
            const auto expected = all_logits(*reference_session(small.spec, *weights, options.session), tokens, 40);
            for (const std::size_t chunk : {40, 1}) EXPECT_LE(distance(all_logits(*device_session(small.spec, *weights, options), tokens, chunk), expected), 1e-4);
        }
    }
}

// A linear operator whose bias is scaled, too: never by the library, whose factor does not reach the bias.
TEST(DeviceSession, AFactorBehindABias) {
    Small small({{"intermediate_size", 184}});
    const auto weights = std::make_shared<WithVectors>(small.weights);
    for (Block& block : small.spec.blocks)
        for (std::size_t i = 0; i < block.ops.size(); ++i) {
            auto* linear = std::get_if<LinearOp>(&block.ops[i].detail);
            if (linear == nullptr || !linear->terms[0].weight.key.ends_with("down_proj.weight")) continue;
            const std::string key = linear->terms[0].weight.key, bias = key + ".bias";
            linear->bias = {bias, {}, false};
            small.spec.tensors.emplace(bias, TensorDecl{bias, {small.spec.tensors.at(key).dimensions[0]}, TensorDecl::Role::bias, TensorDecl::Need::optional});
            std::vector<float> numbers(96);
            for (std::size_t c = 0; c < numbers.size(); ++c) numbers[c] = 0.1f * static_cast<float>(c % 7);
            weights->put(bias, std::move(numbers));
            Op scale{block.ops[i].name + ".scaled", ScaleOp{0.22f}, {block.ops[i].out}, static_cast<ValueId>(small.spec.values.size())};
            small.spec.values.push_back(small.spec.values[static_cast<std::size_t>(block.ops[i].out)]);
            for (std::size_t j = i + 1; j < block.ops.size(); ++j)
                for (ValueId& in : block.ops[j].in)
                    if (in == block.ops[i].out) in = scale.out;
            block.ops.insert(block.ops.begin() + static_cast<std::ptrdiff_t>(i) + 1, scale);
            break;
        }
    const auto tokens = some_tokens(90, 131);
    auto options = small_options(128);
    options.session.max_batch = 90;
    const auto expected = all_logits(*reference_session(small.spec, *weights, options.session), tokens, 90);
    for (const Matmul matmul : {Matmul::own, Matmul::cublaslt, Matmul::cutlass}) {
        options.matmul = matmul;
        options.cublaslt = "fake";
        for (const std::size_t chunk : {90, 1}) EXPECT_LE(distance(all_logits(*device_session(small.spec, *weights, options), tokens, chunk), expected), 1e-4);
    }
}

#if defined(SKIFF_EMULATED_CUDA)
TEST(DeviceSession, TheKernelsWithEveryStateAndManySchemes) {
    static const auto emulated = open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok()) << emulated.error().to_string();
    const Small small;
    const auto tokens = some_tokens(14, 131);
    const auto compare = [&](const WeightSource& weights, const DeviceSessionOptions& options, double bound, const std::string& what) {
        auto exact = options.session;
        exact.state_scheme = StateScheme::f32;
        const auto expected = all_logits(*reference_session(small.spec, weights, exact), tokens, tokens.size());
        for (const std::size_t chunk : {std::size_t{14}, std::size_t{1}}) {
            auto session = DeviceSession::create(*emulated->table, small.spec, weights, options);
            ASSERT_TRUE(session.ok()) << session.error().to_string();
            EXPECT_LE(distance(all_logits(**session, tokens, chunk), expected), bound) << what << ", " << chunk << " tokens at a time";
        }
    };
    for (const char* name : {"w4g32a", "n4g32r", "e4m3"}) {
        const Scheme scheme = *parse_scheme(name);
        const auto weights = quantized_on_load(
            small.spec, small.weights, [&](const std::string& key) { return small.spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; }, ScaleRule::min_max);
        compare(*weights, small_options(64), 0.03, name);
    }
    for (const StateScheme scheme : {StateScheme::int8}) {
        auto options = small_options(64);
        options.session.state_scheme = scheme;
        compare(*small.weights, options, 0.05, std::string(state_scheme_info(scheme).name));
    }
    auto options = small_options(64);
    options.state_fp8 = true;
    compare(*small.weights, options, 0.25, "fp8");
    // The largest logits, by the kernel that samples.
    auto session = DeviceSession::create(*emulated->table, small.spec, *small.weights, small_options(64));
    const BatchItem item{0, tokens, BatchItem::Logits::last};
    ASSERT_TRUE((*session)->forward_top(std::span(&item, 1), 20).ok());
    const auto top = (*session)->top_row(0);
    ASSERT_TRUE(top.ok() && top->size() == 20);
    const auto logits = (*session)->logits();
    EXPECT_EQ((*top)[0].score, *std::max_element(logits.begin(), logits.end()));
    for (std::size_t i = 0; i < top->size(); ++i) EXPECT_EQ((*top)[i].score, logits[static_cast<std::size_t>((*top)[i].token)]);
    // Of more rows, then of fewer, with one scratch memory.
    for (const std::size_t n : {5, 1, 3}) {
        ASSERT_TRUE((*session)->state().truncate(0, 0).ok());
        const BatchItem several{0, {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n)}, BatchItem::Logits::all};
        ASSERT_TRUE((*session)->forward_top(std::span(&several, 1), 4).ok());
        for (std::size_t row = 0; row < n; ++row) {
            const auto first = (*session)->top_row(static_cast<std::int64_t>(row));
            const auto numbers = (*session)->logits_row(static_cast<std::int64_t>(row));
            ASSERT_TRUE(first.ok() && first->size() == 4);
            EXPECT_EQ((*first)[0].score, *std::max_element(numbers.begin(), numbers.end())) << "row " << row << " of " << n;
        }
    }
}

// From 2048 columns on integer codes are multiplied as digits, by whole chunks; a layer that wide, whose second matrix has columns behind the last chunk.
TEST(DeviceSession, TheKernelsOfAWideLayer) {
    static const auto emulated = open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok()) << emulated.error().to_string();
    const Small wide({{"hidden_size", 2048}, {"intermediate_size", 2112}, {"num_hidden_layers", 1}, {"num_attention_heads", 16}, {"num_key_value_heads", 4}, {"head_dim", 128}});
    const auto tokens = some_tokens(5, 131);
    for (const char* name : {"w4g128", "n4g32r"}) {
        const Scheme scheme = *parse_scheme(name);
        const auto weights = quantized_on_load(
            wide.spec, wide.weights, [&](const std::string& key) { return wide.spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; }, ScaleRule::min_max);
        const auto expected = all_logits(*reference_session(wide.spec, *weights, small_options(64).session), tokens, 5);
        for (const int chunk : {5, 1}) {
            auto session = DeviceSession::create(*emulated->table, wide.spec, *weights, small_options(64));
            ASSERT_TRUE(session.ok()) << session.error().to_string();
            const auto found = all_logits(**session, {tokens.begin(), tokens.begin() + chunk}, static_cast<std::size_t>(chunk));
            EXPECT_LE(distance(found, std::span(expected).first(found.size())), 0.03) << name << ", " << chunk << " tokens";
        }
    }
}
#endif

// x + W x: what the product writes for the norm behind it must not lie where it reads x.
TEST(DeviceSession, AProductOfTheResidualStreamItself) {
    Small small;
    Block& block = small.spec.blocks[2];
    const ValueId x = block.out, product = static_cast<ValueId>(small.spec.values.size()), sum = product + 1;
    for (int i = 0; i < 2; ++i) small.spec.values.push_back(small.spec.values[static_cast<std::size_t>(x)]);
    const auto& hidden = small.spec.tensors.at("model.layers.1.self_attn.o_proj.weight").dimensions[0];
    small.spec.tensors.emplace("extra.weight", TensorDecl{"extra.weight", {hidden, hidden}, TensorDecl::Role::linear, TensorDecl::Need::required});
    LinearOp linear;
    linear.terms.push_back({LinearTerm::Kind::packed, {"extra.weight", {}, false}, {}});
    block.ops.push_back({"extra", linear, {x}, product});
    block.ops.push_back({"extra.add", AddOp{}, {x, product}, sum});
    block.out = small.spec.blocks[3].in = sum;
    for (Op& op : small.spec.blocks[3].ops)
        for (ValueId& in : op.in)
            if (in == x) in = sum;
    small.weights = random_weights(small.spec, DType::bf16, 5);
    const auto tokens = some_tokens(40, 131);
    const auto options = small_options(64);
    const auto expected = all_logits(*reference_session(small.spec, *small.weights, options.session), tokens, 40);
    for (const std::size_t chunk : {40, 1}) EXPECT_LE(distance(all_logits(*device_session(small.spec, *small.weights, options), tokens, chunk), expected), 1e-4);
}

// A router whose logits are columns of a wider product.
TEST(DeviceSession, ARouterBesideAnotherProduct) {
    auto opened = Checkpoint::open(models_dir + "/mixtral");
    ASSERT_TRUE(opened.ok());
    ModelSpec spec = opened->spec;
    int n_routers = 0;
    for (Block& block : spec.blocks)
        for (std::size_t i = 0; i + 1 < block.ops.size(); ++i) {
            if (!std::holds_alternative<RouteOp>(block.ops[i + 1].detail) || !std::holds_alternative<LinearOp>(block.ops[i].detail)) continue;
            Op other = block.ops[i];
            other.name += ".beside";
            other.out = static_cast<ValueId>(spec.values.size());
            spec.values.push_back(spec.values[static_cast<std::size_t>(block.ops[i].out)]);
            block.ops.insert(block.ops.begin() + static_cast<std::ptrdiff_t>(i), other);
            ++n_routers;
            break;
        }
    ASSERT_EQ(n_routers, 2);
    const auto tokens = some_tokens(40, spec.n_vocab);
    const auto options = small_options(64);
    const auto expected = all_logits(*reference_session(spec, *opened->weights, options.session), tokens, 40);
    for (const std::size_t chunk : {40, 7, 1}) EXPECT_LE(distance(all_logits(*device_session(spec, *opened->weights, options), tokens, chunk), expected), 1e-4);
}

// Terms beside a matrix or in its place, in every linear operator of the layers.
class WithWeights final : public WeightSource {
public:
    explicit WithWeights(std::shared_ptr<WeightSource> source) : source_(std::move(source)) {}
    void put(const std::string& key, Weight weight) { weights_.insert_or_assign(key, std::move(weight)); }
    bool contains(const std::string& key) const override { return weights_.count(key) != 0 || source_->contains(key); }
    std::vector<std::string> keys() const override { return source_->keys(); }
    Result<Weight> load(const std::string& key) const override {
        const auto found = weights_.find(key);
        return found == weights_.end() ? source_->load(key) : Result<Weight>(found->second);
    }

private:
    std::shared_ptr<WeightSource> source_;
    std::map<std::string, Weight> weights_;
};
enum class Beside : std::uint8_t { nothing, matrix };
struct Terms {
    Small small;
    std::shared_ptr<WithWeights> weights;

    // Thin matrices of a few ranks, which differ from operator to operator.
    void low_rank(Beside beside, std::int64_t step) {
        std::int64_t n = 0;
        in_layers([&](LinearOp& linear, const std::string& key) {
            const std::string axis = key + ".rank";
            small.spec.axes.push_back({axis, step * (1 + n++ % 3), 1});
            const auto dimensions = small.spec.tensors.at(key).dimensions;
            small.spec.tensors.emplace(key + ".up", TensorDecl{key + ".up", {dimensions[0], {{axis, 1}}}, TensorDecl::Role::linear, TensorDecl::Need::required});
            small.spec.tensors.emplace(key + ".down", TensorDecl{key + ".down", {{{axis, 1}}, dimensions[1]}, TensorDecl::Role::linear, TensorDecl::Need::required});
            if (beside == Beside::nothing) linear.terms.clear();
            linear.terms.push_back({LinearTerm::Kind::low_rank, {key + ".up", {}, false}, {key + ".down", {}, false}});
        });
        weights = std::make_shared<WithWeights>(small.weights = random_weights(small.spec, DType::bf16, 5));
    }
    // One number in a hundred, where `wanted` says so.
    void aside(DType dtype, const std::function<bool(const std::string&)>& wanted) {
        weights = std::make_shared<WithWeights>(small.weights);
        Rng rng(4);
        in_layers([&](LinearOp& linear, const std::string& key) {
            if (!wanted(key)) return;
            auto dimensions = small.spec.tensors.at(key).dimensions;
            if (linear.terms[0].kind == LinearTerm::Kind::low_rank) dimensions[1] = small.spec.tensors.at(linear.terms[0].down.key).dimensions[1];
            const Shape shape = {small.spec.width(dimensions[0]), small.spec.width(dimensions[1])};
            std::vector<float> values;
            std::vector<std::int32_t> columns;
            std::vector<std::int64_t> rows = {0};
            for (std::int64_t r = 0; r < shape[0]; ++r) {
                for (std::int64_t c = 0; c < shape[1]; ++c)
                    if (rng.below(100) == 0) values.push_back(static_cast<float>(rng.uniform()) - 0.5f), columns.push_back(static_cast<std::int32_t>(c));
                rows.push_back(static_cast<std::int64_t>(values.size()));
            }
            weights->put(key + ".outliers", make_outliers(shape, dtype, values, std::move(columns), std::move(rows)));
            small.spec.tensors.emplace(key + ".outliers", TensorDecl{key + ".outliers", dimensions, TensorDecl::Role::other, TensorDecl::Need::optional});
            linear.terms.push_back({LinearTerm::Kind::sparse, {key + ".outliers", {}, false}, {}});
        });
    }
    // As the reference kernels have them, however many tokens come at once, with all joined and nothing.
    void expect_the_reference(const char* what, std::initializer_list<Matmul> ways = {Matmul::own, Matmul::cublaslt, Matmul::cutlass}) const {
        const auto tokens = some_tokens(90, 131);
        auto options = small_options(128);
        options.session.max_batch = 90;
        const auto expected = all_logits(*reference_session(small.spec, *weights, options.session), tokens, 90);
        for (const Matmul matmul : ways)
            for (const auto fuse : {DeviceModelOptions::Fuse::on, DeviceModelOptions::Fuse::off}) {
                if (matmul == Matmul::cutlass && fuse == DeviceModelOptions::Fuse::off) continue;  // its own test has that
                options.matmul = matmul;
                options.cublaslt = "fake";
                options.fuse = fuse;
                for (const std::size_t chunk : {90, 20, 7, 1}) {
                    if (chunk != 90 && matmul != Matmul::own) continue;
                    EXPECT_LE(distance(all_logits(*device_session(small.spec, *weights, options), tokens, chunk), expected), 1e-4) << what << ", " << chunk << " tokens at a time";
                }
            }
    }
    std::size_t launches() const { return device_session(small.spec, *weights, small_options(64))->decode_launches().size(); }

private:
    void in_layers(const std::function<void(LinearOp&, const std::string&)>& use) {
        for (std::size_t b = 1; b + 1 < small.spec.blocks.size(); ++b)
            for (Op& op : small.spec.blocks[b].ops)
                if (auto* linear = std::get_if<LinearOp>(&op.detail)) use(*linear, std::string(linear->terms[0].weight.key));
    }
};

TEST(DeviceSession, LowRankTermsShareWhatTheyCan) {
    for (const Beside beside : {Beside::nothing, Beside::matrix})
        for (const std::int64_t step : {8, 5, 120}) {  // ranks that the library takes, others, and parts of an operand beyond the first 256 columns
            Terms terms{Small({{"intermediate_size", 184}}), nullptr};
            terms.low_rank(beside, step);
            terms.expect_the_reference(beside == Beside::nothing ? "low rank" : "low rank beside a matrix");
            // q, k and v: one product of thin matrices, three that are added into one value, and what stands beside them; so of gate and up, and an activation.
            EXPECT_EQ(terms.launches(), 1u + 3u * (beside == Beside::nothing ? 13 : 17) + 1u);
        }
    // Biases are added once.
    Terms terms{Small({{"intermediate_size", 184}}), nullptr};
    Json config = *Json::parse(config_text);
    config.set("model_type", "qwen2");
    terms.small.spec = *build_spec(config);
    terms.low_rank(Beside::nothing, 8);
    terms.expect_the_reference("low rank with biases");
}

TEST(DeviceSession, NumbersKeptAsideAreALaunchAndNoMatrix) {
    const auto all = [](const std::string&) { return true; };
    Terms terms{Small({{"intermediate_size", 184}}), nullptr};
    const auto without = device_session(terms.small.spec, *terms.small.weights, small_options(64))->plan().decode_read_bytes;
    terms.aside(DType::f16, all);
    terms.expect_the_reference("outliers");
    EXPECT_EQ(terms.launches(), 1u + 3u * 10 + 1u);
    const auto with = device_session(terms.small.spec, *terms.weights, small_options(64))->plan().decode_read_bytes;
    EXPECT_LT(with - without, without / 15);  // of bf16 matrices: a hundredth of the numbers, two halves each, and where rows begin
    // Some operators have them, and some types are no entries of the kernel: matrices then, as before.
    Terms some{Small({{"intermediate_size", 184}}), nullptr};
    some.aside(DType::bf16, [](const std::string& key) { return key.find("v_proj") != std::string::npos || key.find("gate") != std::string::npos; });
    some.expect_the_reference("outliers of some");
    Terms wide{Small({{"intermediate_size", 184}}), nullptr};
    wide.aside(DType::f32, all);
    wide.expect_the_reference("outliers of 32 bits", {Matmul::own});  // the library would be given them as bf16
    // Beside thin matrices.
    Terms both{Small({{"intermediate_size", 184}}), nullptr};
    both.low_rank(Beside::nothing, 8);
    both.aside(DType::f16, all);
    both.expect_the_reference("outliers beside low rank");
}

// Pruned weights run with their zeros written out, and whoever loads them is told.
TEST(DeviceSession, ZerosThatAreWrittenOutAreSaid) {
    const Small small;
    const auto remarks_of = [&](const WeightSource& weights) {
        std::string all;
        const auto session = device_session(small.spec, weights, small_options(64));
        for (const std::string& remark : session->plan().remarks) all += remark + "\n";
        return all;
    };
    EXPECT_EQ(remarks_of(*small.weights).find("written out"), std::string::npos);
    WithWeights weights(small.weights);
    for (const char* name : {"mlp.down_proj", "self_attn.o_proj"}) {
        const std::string key = std::string("model.layers.1.") + name + ".weight";
        const auto dense = small.weights->load(key);
        ASSERT_TRUE(dense.ok());
        const SparsePattern pattern;
        auto bits = full_bitmask(pattern, dense->n_rows(), dense->n_columns());
        for (std::byte& byte : bits) byte &= std::byte{0x55};
        auto pruned = make_sparse(*dense, pattern, std::move(bits));
        ASSERT_TRUE(pruned.ok()) << pruned.error().to_string();
        weights.put(key, std::move(*pruned));
    }
    const std::string told = remarks_of(weights);
    EXPECT_NE(told.find("the zeros of 2 pruned matrices are written out"), std::string::npos) << told;
    const auto tokens = some_tokens(20, 131);
    const auto options = small_options(64);
    const auto expected = all_logits(*reference_session(small.spec, weights, options.session), tokens, 20);
    EXPECT_LE(distance(all_logits(*device_session(small.spec, weights, options), tokens, 20), expected), 1e-4);
}

#if defined(SKIFF_EMULATED_CUDA)
TEST(DeviceSession, TheKernelsWithTermsBesideMatrices) {
    static const auto emulated = open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok()) << emulated.error().to_string();
    Terms terms{Small({{"num_hidden_layers", 1}}), nullptr};
    terms.low_rank(Beside::matrix, 24);
    terms.aside(DType::f16, [](const std::string&) { return true; });
    const auto tokens = some_tokens(14, 131);
    const auto options = small_options(64);
    const auto expected = all_logits(*reference_session(terms.small.spec, *terms.weights, options.session), tokens, 14);
    for (const std::size_t chunk : {14, 6, 1}) {
        auto session = DeviceSession::create(*emulated->table, terms.small.spec, *terms.weights, options);
        ASSERT_TRUE(session.ok()) << session.error().to_string();
        EXPECT_LE(distance(all_logits(**session, tokens, chunk), expected), 0.03) << chunk << " tokens at a time";
    }
}
#endif

// What docs/fusion.md says: of every architecture a layer, and what stands around all layers, joined and plain.
struct Launches {
    const char* model;
    int of_layer, around, plain, plain_around;
};
TEST(DeviceSession, LaunchesOfALayer) {
    constexpr Launches all[] = {{"llama", 5, 2, 18, 3},  {"llama_biases", 5, 2, 18, 3}, {"mistral", 5, 2, 18, 3}, {"qwen2", 5, 2, 18, 3},    {"phi3", 5, 2, 18, 3},
                                {"qwen3", 5, 2, 20, 3},  {"gpt2", 5, 5, 14, 5},         {"opt", 5, 5, 14, 5},     {"gpt_neox", 5, 4, 16, 3}, {"gpt_neox_sequential", 5, 4, 16, 3},
                                {"gemma2", 5, 3, 20, 4}, {"gemma3", 5, 3, 22, 3},       {"mixtral", 6, 2, 42, 3}, {"lfm2", 5, 2, 20, 3}};
    for (const Launches& expected : all) {
        const auto opened = Checkpoint::open(models_dir + "/" + expected.model);
        ASSERT_TRUE(opened.ok()) << expected.model;
        int n_convolutions = 0;  // whose layers have four launches less where nothing is joined
        for (const Block& block : opened->spec.blocks)
            for (const Op& op : block.ops) n_convolutions += std::holds_alternative<CausalConvOp>(op.detail) ? 1 : 0;
        EXPECT_EQ(n_convolutions > 0, std::string(expected.model) == "lfm2");
        for (const auto fuse : {DeviceModelOptions::Fuse::on, DeviceModelOptions::Fuse::off}) {
            const bool joined = fuse == DeviceModelOptions::Fuse::on;
            auto options = small_options(32);
            options.fuse = fuse;
            const auto launches = device_session(opened->spec, *opened->weights, options)->decode_launches();
            std::string list;
            for (const auto& [operators, kernel] : launches) list += "  " + kernel + ": " + operators + "\n";
            const int n_layers = static_cast<int>(opened->spec.blocks.size()) - 2;
            const int wanted = joined ? n_layers * expected.of_layer + expected.around : n_layers * expected.plain - 4 * n_convolutions + expected.plain_around;
            EXPECT_EQ(launches.size(), static_cast<std::size_t>(wanted)) << expected.model << " of " << n_layers << " layers\n" << list;
        }
    }
}

}  // namespace
}  // namespace skiff::cuda
