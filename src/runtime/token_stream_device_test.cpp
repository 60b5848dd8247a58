// Streams of tokens on a device that chooses and feeds them itself (the fake one, and where it is built the kernels' own code): the tokens that the host's sampler gives, for every rule that the
// device has, and for every rule that it has not.
#include <cmath>

#include "backend/cuda/device_session_testing.h"
#include "runtime/token_stream.h"

namespace skiff {
namespace {

using cuda::DeviceSession;
using cuda::DeviceSessionOptions;
using cuda::Small;
using cuda::small_options;
using cuda::some_tokens;

struct Way {
    const char* name;
    SamplingOptions sampling;
    bool by_device;  // its rule is one of the device's
};
const Way ways[] = {
    {"greedy", {.temperature = 0}, true},
    {"default", {.seed = 3}, true},
    {"hot", {.temperature = 1.7, .top_k = 64, .top_p = 1, .min_p = 0, .seed = 4}, true},
    {"nucleus", {.temperature = 1, .top_k = 64, .top_p = 0.6, .min_p = 0, .seed = 5}, true},
    {"min_p", {.temperature = 1.2, .top_k = 50, .top_p = 1, .min_p = 0.3, .seed = 6}, true},
    {"two", {.temperature = 3, .top_k = 2, .top_p = 0.99, .min_p = 0, .seed = 7}, true},
    {"all_logits", {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 8}, false},
    {"many", {.temperature = 1, .top_k = 100, .top_p = 1, .min_p = 0, .seed = 8}, false},
    {"penalties", {.temperature = 0, .repetition_penalty = 1.3}, false},
};

std::vector<std::int32_t> read(TokenStream& stream, const std::vector<std::int32_t>& prompt, const SamplingOptions& sampling, std::int64_t n, std::int64_t n_said) {
    std::vector<std::int32_t> tokens;
    EXPECT_TRUE(stream.begin(prompt, sampling, n_said).ok());
    while (static_cast<std::int64_t>(tokens.size()) < n && !stream.full()) {
        const auto token = stream.next();
        EXPECT_TRUE(token.ok()) << token.error().to_string();
        if (!token.ok()) break;
        tokens.push_back(*token);
    }
    EXPECT_TRUE(stream.end().ok());
    return tokens;
}

void compare(const cuda::Table& table, std::int64_t n_tokens, std::span<const Way> compared) {
    const Small small;
    auto options = small_options(150);
    auto fed = DeviceSession::create(table, small.spec, *small.weights, options);
    options.feed = DeviceSessionOptions::Feed::host;
    auto plain = DeviceSession::create(table, small.spec, *small.weights, options);
    ASSERT_TRUE(fed.ok() && plain.ok());
    TokenStream ours(**fed, 0), hosts(**plain, 0);
    for (const Way& way : compared) {
        const auto rule = Sampler(way.sampling).rule();
        ASSERT_EQ(rule && (*fed)->self_feeder()->takes(*rule), way.by_device) << way.name;
        const auto prompt = some_tokens(11, 131, way.sampling.seed);
        for (const std::int64_t said : {n_tokens, std::int64_t{-1}}) {
            const auto expected = read(hosts, prompt, way.sampling, n_tokens, said);
            EXPECT_EQ(read(ours, prompt, way.sampling, n_tokens, said), expected) << way.name;
            ASSERT_EQ(static_cast<std::int64_t>(expected.size()), n_tokens);
            // What was queued beyond the end is forgotten.
            EXPECT_EQ((*fed)->state().length(0), (*plain)->state().length(0)) << way.name;
            EXPECT_EQ(ours.stats().tokens, hosts.stats().tokens);
        }
        // A text goes on from the state of the one before.
        auto longer = prompt;
        for (const std::int32_t token : read(hosts, prompt, way.sampling, 5, -1)) longer.push_back(token);
        EXPECT_EQ(read(ours, prompt, way.sampling, 5, -1), std::vector<std::int32_t>(longer.begin() + 11, longer.end()));
        EXPECT_EQ(read(ours, longer, way.sampling, 6, -1), read(hosts, longer, way.sampling, 6, -1)) << way.name;
    }
}

TEST(TokenStreamOnADevice, TokensAreTheHostSamplers) { compare(cuda::fake(), 60, ways); }

TEST(TokenStreamOnADevice, TheContextIsFilledToItsEnd) {
    const Small small;
    auto options = small_options(40);
    auto fed = DeviceSession::create(cuda::fake(), small.spec, *small.weights, options);
    options.feed = DeviceSessionOptions::Feed::host;
    auto plain = DeviceSession::create(cuda::fake(), small.spec, *small.weights, options);
    TokenStream ours(**fed, 0), hosts(**plain, 0);
    for (const Way& way : ways) {
        const auto expected = read(hosts, some_tokens(9, 131), way.sampling, 1000, -1);
        EXPECT_EQ(expected.size(), 32u);
        EXPECT_EQ(read(ours, some_tokens(9, 131), way.sampling, 1000, -1), expected) << way.name;
    }
}

// Who asks for more than was wanted at the beginning gets it; a text that is dictated is dictated.
TEST(TokenStreamOnADevice, MoreThanWasSaidAndDictation) {
    const Small small;
    auto fed = DeviceSession::create(cuda::fake(), small.spec, *small.weights, small_options(80));
    TokenStream stream(**fed, 0);
    const auto prompt = some_tokens(7, 131);
    const auto expected = read(stream, prompt, {.temperature = 0}, 30, -1);
    EXPECT_EQ(read(stream, prompt, {.temperature = 0}, 30, 4), expected);
    ASSERT_TRUE(stream.begin(prompt, {.temperature = 0}).ok());
    stream.dictate({expected[0], expected[1], expected[2]});
    std::vector<std::int32_t> tokens;
    for (int i = 0; i < 20; ++i) tokens.push_back(*stream.next());
    EXPECT_EQ(tokens, std::vector<std::int32_t>(expected.begin(), expected.begin() + 20));
    ASSERT_TRUE(stream.end().ok());
}

// Logits that are no numbers are the error that they are without a device's choice.
TEST(TokenStreamOnADevice, NoChoiceIsTheSamplersError) {
    const Small small;
    const auto weights = cuda::without_logits(small);
    auto fed = DeviceSession::create(cuda::fake(), small.spec, *weights, small_options(40));
    ASSERT_TRUE(fed.ok());
    TokenStream stream(**fed, 0);
    ASSERT_TRUE(stream.begin(some_tokens(3, 131), {.temperature = 0}).ok());
    const auto token = stream.next();
    ASSERT_FALSE(token.ok());
    EXPECT_NE(token.error().to_string().find("NaN"), std::string::npos) << token.error().to_string();
}

// Several sequences with random numbers of their own: chosen and fed there, each is what its sampler gives here.
TEST(TokenStreamOnADevice, SequencesTogetherAreTheirSamplers) {
    const Small small;
    for (const std::int64_t n : {2, 8, 16})
        for (const Way& way : ways) {
            if (!way.by_device) continue;
            auto fed = DeviceSession::create(cuda::fake(), small.spec, *small.weights, small_options(60, n)), plain = DeviceSession::create(cuda::fake(), small.spec, *small.weights, small_options(60, n));
            ASSERT_TRUE(fed.ok() && plain.ok());
            std::vector<std::int64_t> sequences;
            std::vector<std::int32_t> tokens;
            std::vector<Sampler> here, there;
            for (std::int64_t i = 0; i < n; ++i) {
                sequences.push_back(i);
                tokens.push_back(static_cast<std::int32_t>(3 * i + 1));
                SamplingOptions sampling = way.sampling;
                sampling.seed += static_cast<std::uint64_t>(100 * i);
                here.emplace_back(sampling);
                there.emplace_back(sampling);
                for (auto* session : {&fed, &plain}) ASSERT_TRUE((***session).forward(i, some_tokens(static_cast<std::size_t>(2 + i % 3), 131, 5), BatchItem::Logits::none).ok());
            }
            std::vector<std::int32_t> last = tokens;
            SelfFeeder& feeder = *(**fed).self_feeder();
            for (int part = 0; part < 2; ++part) {
                constexpr std::int64_t steps = 5;
                std::vector<double> uniforms;
                for (const Sampler& sampler : there)
                    for (const double number : sampler.next_uniforms(steps)) uniforms.push_back(number);
                const Status queued = feeder.queue_together(sequences, part == 0 ? tokens : std::vector<std::int32_t>(), *there[0].rule(), steps, uniforms);
                ASSERT_TRUE(queued.ok()) << queued.error().to_string();
                for (std::int64_t step = 0; step < steps; ++step) {
                    std::vector<BatchItem> items;
                    for (std::int64_t i = 0; i < n; ++i) items.push_back({i, {last[static_cast<std::size_t>(i)]}, BatchItem::Logits::last});
                    ASSERT_TRUE((*plain)->forward(items).ok());
                    const auto found = feeder.next_together();
                    ASSERT_TRUE(found.ok());
                    for (std::size_t i = 0; i < last.size(); ++i) {
                        last[i] = *here[i].sample(Logits((*plain)->logits_row(static_cast<std::int64_t>(i))));
                        ASSERT_EQ((*found)[i], last[i]) << way.name << ", sequence " << i << " of " << n << ", step " << step;
                        there[i].take((*found)[i]);
                    }
                }
            }
        }
}

#if defined(SKIFF_EMULATED_CUDA)
TEST(TokenStreamOnADevice, TheKernelsChooseAsTheHostDoes) {
    static const auto emulated = cuda::open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok()) << emulated.error().to_string();
    compare(*emulated->table, 6, std::span(ways).first(3));
}
#endif

}  // namespace
}  // namespace skiff
