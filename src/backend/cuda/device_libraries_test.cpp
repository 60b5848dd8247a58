// Long prompts by libraries: cuBLASLt, CUTLASS; and what becomes of a run where they cannot be had.
#include <functional>

#include "backend/cuda/device_session_testing.h"
#include "model/pruned_on_load.h"
#include "tensor/sparse.h"

namespace skiff::cuda {
namespace {

TEST(DeviceSession, LongPromptsByTheLibrary) {
    Small small;
    Json config = *Json::parse(config_text);
    config.set("intermediate_size", 184);  // rows in whole 16 bytes, as the library wants them, and pairs that fill no whole tile
    small.spec = *build_spec(config);
    small.weights = random_weights(small.spec, DType::bf16, 5);
    auto options = small_options(300);
    options.session.max_batch = 200;
    const auto tokens = some_tokens(180, 131);
    const auto expected = all_logits(*reference_session(small.spec, *small.weights, options.session), tokens, 180);
    options.matmul = Matmul::cublaslt;
    options.cublaslt = "fake";
    const auto fake_session = device_session(small.spec, *small.weights, options);
    for (const std::string& remark : fake_session->plan().remarks) EXPECT_EQ(remark.find("cuBLASLt"), std::string::npos) << remark;
    EXPECT_LE(distance(all_logits(*fake_session, tokens, 180), expected), 1e-3);
    // What a large product of it reaches, beside what the session does; nothing where the own kernels multiply.
    const auto before = fake_session->device_bytes();
    const auto rate = fake_session->gemm_tflops();
    ASSERT_TRUE(rate.has_value());
    EXPECT_GT(*rate, 0);
    EXPECT_EQ(fake_session->device_bytes(), before);
    EXPECT_FALSE(device_session(small.spec, *small.weights, small_options(64))->gemm_tflops().has_value());
#if defined(SKIFF_EMULATED_CUDA)
    // With the kernels that stand around the library's products.
    const auto emulated = open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok());
    options.session.max_batch = 80;
    auto session = DeviceSession::create(*emulated->table, small.spec, *small.weights, options);
    ASSERT_TRUE(session.ok()) << session.error().to_string();
    const auto found = all_logits(**session, {tokens.begin(), tokens.begin() + 80}, 80);
    EXPECT_LE(distance(found, std::span(expected).first(found.size())), 0.03);
#endif
}

// Long prompts with inputs rounded to 8-bit floats: not the same numbers, but near, and only where the weights are such and the run is long.
TEST(DeviceSession, LongPromptsInEightBitFloats) {
    Small small({{"intermediate_size", 184}});
    auto options = small_options(300);
    options.session.max_batch = 100;
    const auto tokens = some_tokens(90, 131);
    const Scheme e4m3 = *parse_scheme("e4m3"), groups = *parse_scheme("e4m3g32");
    const auto weights_in = [&](const Scheme& scheme) {
        return quantized_on_load(
            small.spec, small.weights, [&small, &scheme](const std::string& key) { return small.spec.tensors.at(key).role == TensorDecl::Role::linear && key.find("o_proj") == std::string::npos ? &scheme : nullptr; }, ScaleRule::min_max);
    };
    const auto weights = weights_in(e4m3);
    const auto expected = all_logits(*reference_session(small.spec, *weights, options.session), tokens, 90);
    options.matmul = Matmul::fp8;
    options.library = DeviceSessionOptions::Library::must;
    options.cublaslt = "fake";
    const auto expect_near = [&](DeviceSession& session, double bound) {
        const double rounded = distance(all_logits(session, tokens, 90), expected);
        EXPECT_LE(rounded, 0.15);    // three bits of mantissa are up to 6 % of each input, in three layers; a scale in the wrong place is all of it
        EXPECT_GE(rounded, 1e-3);  // else nothing was rounded
        ASSERT_TRUE(session.state().truncate(0, 0).ok());
        EXPECT_LE(distance(all_logits(session, tokens, 60), expected), bound);  // runs of 60 and 30
    };
    const auto session = device_session(small.spec, *weights, options);
    ASSERT_NE(session, nullptr);
    expect_near(*session, 1e-3);
    // Not joined, it rounds the same numbers: those of products whose scales other launches apply.
    ASSERT_TRUE(session->state().truncate(0, 0).ok());
    const auto joined = all_logits(*session, tokens, 90);
    options.fuse = DeviceModelOptions::Fuse::off;
    EXPECT_LE(distance(all_logits(*device_session(small.spec, *weights, options), tokens, 90), joined), 0.01);
    options.fuse = DeviceModelOptions::Fuse::on;
    const auto remarks = session->plan().remarks;
    EXPECT_TRUE(std::any_of(remarks.begin(), remarks.end(), [](const std::string& remark) { return remark.find("rounded to e4m3") != std::string::npos; }));
#if defined(SKIFF_EMULATED_CUDA)
    const auto emulated = open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok());
    auto of_kernels = DeviceSession::create(*emulated->table, small.spec, *weights, options);
    ASSERT_TRUE(of_kernels.ok()) << of_kernels.error().to_string();
    expect_near(**of_kernels, 0.03);
#endif
    const auto refused = DeviceSession::create(fake(), small.spec, *weights_in(groups), options);
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().to_string().find("one scale for each row"), std::string::npos) << refused.error().to_string();
}

// Weights that keep two of every four inputs are half as large there, and long prompts are the own kernels' (the sparse tensor cores').
TEST(DeviceSession, TwoOfEveryFourInputs) {
    Small small({{"intermediate_size", 184}});
    auto options = small_options(300);
    options.session.max_batch = 80;
    const auto tokens = some_tokens(80, 131);
    for (const char* name : {"w4g32r", "w8", "bf16"}) {
        SCOPED_TRACE(name);
        const Scheme scheme = *parse_scheme(name);
        const auto choice = [&](const std::string& key) { return scheme.is_coded() && small.spec.tensors.at(key).role == TensorDecl::Role::linear ? &scheme : nullptr; };
        const auto pruned = pruned_on_load(small.spec, small.weights, *parse_prune_target("2:4"), choice, ScaleRule::min_max);
        const auto whole = quantized_on_load(small.spec, small.weights, choice, ScaleRule::min_max);
        const auto expected = all_logits(*reference_session(small.spec, *pruned, options.session), tokens, 80);
        options.matmul = Matmul::cublaslt;
        options.cublaslt = "fake";
        options.library = DeviceSessionOptions::Library::may;
        const auto session = device_session(small.spec, *pruned, options);
        ASSERT_NE(session, nullptr);
        EXPECT_TRUE(std::any_of(session->plan().remarks.begin(), session->plan().remarks.end(), [](const std::string& remark) { return remark.find("two of every four") != std::string::npos; }));
        EXPECT_LT(session->plan().decode_read_bytes, device_session(small.spec, *whole, options)->plan().decode_read_bytes);
        for (const std::size_t chunk : {80, 5}) EXPECT_LE(distance(all_logits(*device_session(small.spec, *pruned, options), tokens, chunk), expected), 1e-3) << chunk;
        options.library = DeviceSessionOptions::Library::must;  // with their zeros
        EXPECT_LE(distance(all_logits(*device_session(small.spec, *pruned, options), tokens, 80), expected), scheme.is_coded() ? 0.02 : 1e-3);
#if defined(SKIFF_EMULATED_CUDA)
        options.library = DeviceSessionOptions::Library::may;
        const auto emulated = open_plug_in(SKIFF_EMULATED_CUDA);
        ASSERT_TRUE(emulated.ok());
        auto of_kernels = DeviceSession::create(*emulated->table, small.spec, *pruned, options);
        ASSERT_TRUE(of_kernels.ok()) << of_kernels.error().to_string();
        const std::vector<std::int32_t> some(tokens.begin(), tokens.begin() + 14);
        for (const std::size_t chunk : {14, 1}) {
            const auto found = all_logits(**of_kernels, some, chunk);
            EXPECT_LE(distance(found, std::span(expected).first(found.size())), 0.03) << chunk;
            ASSERT_TRUE((*of_kernels)->state().truncate(0, 0).ok());
        }
#endif
    }
}

// A library that is found may still not be of use: then the own kernels multiply, and a remark says so; where it was asked for, that is an error.
TEST(DeviceSession, ALibraryThatDoesNotWorkIsLeft) {
    const Small small({{"intermediate_size", 184}});
    auto options = small_options(300);
    const auto tokens = some_tokens(200, 131);
    const auto remarks_of = [](const Session& session) {
        std::string all;
        for (const std::string& remark : session.plan().remarks) all += remark + "\n";
        return all;
    };
    const auto expect_own = [&](std::int64_t max_batch, std::size_t n_tokens, const char* path, bool at_the_start) {
        options.session.max_batch = max_batch;
        options.matmul = Matmul::cublaslt;
        options.cublaslt = path;
        const auto session = device_session(small.spec, *small.weights, options);
        ASSERT_NE(session, nullptr);
        EXPECT_EQ(remarks_of(*session).find("the own kernels multiply long prompts") != std::string::npos, at_the_start) << path << ": " << remarks_of(*session);
        const auto found = all_logits(*session, {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n_tokens)}, n_tokens);
        EXPECT_NE(remarks_of(*session).find("the own kernels multiply long prompts"), std::string::npos) << path;
        options.matmul = Matmul::own;
        const auto own = device_session(small.spec, *small.weights, options);
        EXPECT_EQ(found, all_logits(*own, {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n_tokens)}, n_tokens)) << path;
    };
    expect_own(200, 200, "broken", true);
    ::setenv("SKIFF_FAKE_DEVICE_MIB", "60", 1);
    expect_own(200, 200, "fake", true);  // no room for its workspace
    ::unsetenv("SKIFF_FAKE_DEVICE_MIB");
    expect_own(199, 199, "picky", true);
    expect_own(200, 121, "picky", false);  // the largest run has an algorithm, this one has none
    options.library = DeviceSessionOptions::Library::must;
    options.matmul = Matmul::cublaslt;
    options.session.max_batch = 199;
    for (const char* path : {"broken", "picky"}) {
        options.cublaslt = path;
        const auto session = DeviceSession::create(fake(), small.spec, *small.weights, options);
        ASSERT_FALSE(session.ok()) << path;
        EXPECT_NE(session.error().to_string().find(path), std::string::npos) << session.error().to_string();
    }
    options.cublaslt = "fake";
    EXPECT_FALSE(DeviceSession::create(fake(), Small().spec, *Small().weights, options).ok());  // rows that are not whole 16 bytes
    options.session.max_batch = 200;
    options.cublaslt = "picky";
    const auto session = device_session(small.spec, *small.weights, options);
    EXPECT_FALSE(session->forward(0, std::span(tokens).first(121), BatchItem::Logits::last).ok());
    EXPECT_EQ(session->state().length(0), 0);
    EXPECT_TRUE(session->forward(0, std::span(tokens).first(122), BatchItem::Logits::last).ok());
}

// CUTLASS's epilogue adds and activates: gates (by a launch behind it), activations that are the next product's operand, biases, residuals.
TEST(DeviceSession, LongPromptsByCutlass) {
    const auto tokens = some_tokens(90, 131);
    const std::string layers = R"("vocab_size": 131, "tie_word_embeddings": true, )";
    const std::pair<const char*, std::string> configs[] = {
        {"llama", std::string(config_text)},
        {"qwen2", R"({"model_type": "qwen2", )" + layers + R"("hidden_size": 96, "intermediate_size": 184, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5})"},
        {"gpt2", R"({"model_type": "gpt2", )" + layers + R"("n_embd": 96, "n_layer": 2, "n_head": 6, "n_positions": 512, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5})"},
        {"opt", R"({"model_type": "opt", )" + layers + R"("hidden_size": 96, "ffn_dim": 200, "num_hidden_layers": 2, "num_attention_heads": 6, "max_position_embeddings": 512, "activation_function": "relu", "do_layer_norm_before": true, "word_embed_proj_dim": 96})"}};
    for (const auto& [name, text] : configs) {
        Json config = *Json::parse(text);
        if (std::string(name) == "llama") config.set("intermediate_size", 184);
        const auto spec = build_spec(config);
        ASSERT_TRUE(spec.ok()) << name << ": " << spec.error().to_string();
        const auto weights = random_weights(*spec, DType::bf16, 5);
        auto options = small_options(128);
        options.session.max_batch = 90;
        options.library = DeviceSessionOptions::Library::must;
        const auto expected = all_logits(*reference_session(*spec, *weights, options.session), tokens, 90);
        for (const auto fuse : {DeviceModelOptions::Fuse::on, DeviceModelOptions::Fuse::off}) {
            options.matmul = Matmul::cutlass;
            options.fuse = fuse;
            const auto session = device_session(*spec, *weights, options);
            ASSERT_NE(session, nullptr) << name;
            EXPECT_LE(distance(all_logits(*session, tokens, 90), expected), 1e-4) << name;
        }
    }
}

TEST(DeviceSession, CutlassThatIsNotThere) {
    const Small small({{"intermediate_size", 184}});
    Table without = fake();
    without.cutlass = nullptr;
    auto options = small_options(128);
    options.session.max_batch = 90;
    options.matmul = Matmul::cutlass;
    options.library = DeviceSessionOptions::Library::must;
    const auto session = DeviceSession::create(without, small.spec, *small.weights, options);
    ASSERT_FALSE(session.ok());
    EXPECT_NE(session.error().to_string().find("-DSKIFF_CUTLASS=FOLDER"), std::string::npos) << session.error().to_string();
    EXPECT_FALSE(DeviceSession::create(fake(), Small().spec, *Small().weights, options).ok());  // rows that are not whole 16 bytes
    options.library = DeviceSessionOptions::Library::may;
    const auto own = DeviceSession::create(without, small.spec, *small.weights, options);
    ASSERT_TRUE(own.ok()) << own.error().to_string();
    const auto& remarks = (*own)->plan().remarks;
    EXPECT_TRUE(std::any_of(remarks.begin(), remarks.end(), [](const std::string& remark) { return remark.find("not CUTLASS") != std::string::npos; }));
}

}  // namespace
}  // namespace skiff::cuda
