// Mixtures of experts on the fake device: joined, one after another where they differ, streamed.
#include "backend/cuda/device_session_testing.h"

namespace skiff::cuda {
namespace {

class DeviceExperts : public ::testing::Test {
protected:
    void SetUp() override {
        auto opened = Checkpoint::open(models_dir + "/mixtral");
        ASSERT_TRUE(opened.ok()) << opened.error().to_string();
        checkpoint = std::move(*opened);
        tokens = some_tokens(30, checkpoint.spec.n_vocab);
    }
    // Weights of which those whose names say so have 4-bit codes.
    std::shared_ptr<WeightSource> quantized(const std::function<bool(const std::string&)>& wanted) const {
        static const Scheme scheme = *parse_scheme("w4g32");
        return quantized_on_load(
            checkpoint.spec, checkpoint.weights, [wanted](const std::string& key) { return wanted(key) ? &scheme : nullptr; }, ScaleRule::min_max);
    }
    void expect_the_reference(const ModelSpec& spec, const WeightSource& weights, DeviceSessionOptions options, double bound = 1e-4) const {
        const auto expected = all_logits(*reference_session(spec, weights, options.session), tokens, tokens.size());
        for (const std::size_t chunk : {tokens.size(), std::size_t{8}, std::size_t{3}, std::size_t{1}}) EXPECT_LE(distance(all_logits(*device_session(spec, weights, options), tokens, chunk), expected), bound) << chunk << " tokens at a time";
    }
    std::size_t launches(const ModelSpec& spec, const WeightSource& weights) const { return device_session(spec, weights, small_options(32))->decode_launches().size(); }
    Checkpoint checkpoint;
    std::vector<std::int32_t> tokens;
};

TEST_F(DeviceExperts, AreTwoLaunches) {
    std::size_t of_experts = 0;
    const auto all = device_session(checkpoint.spec, *checkpoint.weights, small_options(32))->decode_launches();
    for (const auto& [operators, kernel] : all) of_experts += kernel.starts_with("experts") ? 1u : 0u;
    EXPECT_EQ(of_experts, 2u * 2u);
    // A token reads two of four experts.
    auto options = small_options(32);
    const auto joined = device_session(checkpoint.spec, *checkpoint.weights, options)->plan().decode_read_bytes;
    options.fuse = DeviceModelOptions::Fuse::off;
    const auto plain = device_session(checkpoint.spec, *checkpoint.weights, options)->plan().decode_read_bytes;
    EXPECT_LT(joined, plain);
    EXPECT_GT(joined, plain / 2);
}

TEST_F(DeviceExperts, ThatDifferComeOneAfterAnother) {
    const std::size_t joined = launches(checkpoint.spec, *checkpoint.weights);
    for (const char* part : {"experts.1.w1", "experts.2.w2", "experts.3."}) {
        const auto weights = quantized([part](const std::string& key) { return key.find(part) != std::string::npos; });
        expect_the_reference(checkpoint.spec, *weights, small_options(64), 1e-3);
        EXPECT_GT(launches(checkpoint.spec, *weights), joined + 8) << part;
    }
    const auto all = quantized([](const std::string& key) { return key.find("experts.") != std::string::npos; });
    expect_the_reference(checkpoint.spec, *all, small_options(64), 1e-3);
    EXPECT_EQ(launches(checkpoint.spec, *all), joined);
    // Of another width, as pruning leaves them.
    ModelSpec spec = checkpoint.spec;
    for (Axis& axis : spec.axes)
        if (axis.name == "block1.expert2.ff") axis.size = 11;
    const auto narrow = random_weights(spec, DType::bf16, 3);
    expect_the_reference(spec, *narrow, small_options(64));
    EXPECT_EQ(launches(spec, *narrow), joined + 16);  // the router's choice, two matrices and weighting for each of four, three sums, and the one with the stream, less two launches; and the head's norm, which no product prepares
}

TEST_F(DeviceExperts, AreCopiedWhenTheyAreUsed) {
    auto options = small_options(64);
    options.stream_from = 1;
    expect_the_reference(checkpoint.spec, *checkpoint.weights, options);
}

TEST_F(DeviceExperts, OfLongPromptsByTheLibrary) {
    Json config = *read_json_file(models_dir + "/mixtral/config.json");
    for (const auto& [key, number] : {std::pair{"hidden_size", 32}, std::pair{"intermediate_size", 40}, std::pair{"max_position_embeddings", 256}}) config.set(key, std::int64_t{number});
    const ModelSpec spec = *build_spec(config);
    const auto weights = random_weights(spec, DType::bf16, 4);
    tokens = some_tokens(90, spec.n_vocab);
    auto options = small_options(128);
    options.session.max_batch = 90;
    const auto expected = all_logits(*reference_session(spec, *weights, options.session), tokens, 90);
    options.matmul = Matmul::cublaslt;
    options.cublaslt = "fake";
    const auto session = device_session(spec, *weights, options);
    EXPECT_LE(distance(all_logits(*session, tokens, 90), expected), 1e-4);
    const auto leaves_the_library = [](const Session& of) {
        return std::any_of(of.plan().remarks.begin(), of.plan().remarks.end(), [](const std::string& remark) { return remark.find("the own kernels multiply long prompts") != std::string::npos; });
    };
    EXPECT_FALSE(leaves_the_library(*session));
    // Rows that are not whole 16 bytes are not the library's, an expert's neither.
    config.set("intermediate_size", std::int64_t{42});
    const ModelSpec odd = *build_spec(config);
    EXPECT_TRUE(leaves_the_library(*device_session(odd, *random_weights(odd, DType::bf16, 4), options)));
}

}  // namespace
}  // namespace skiff::cuda
