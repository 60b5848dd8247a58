// What choosing a token costs beside the model, at two sizes of vocabulary: one thread, logits as a model gives them (normal, with a few that stand out).
#include <benchmark/benchmark.h>

#include "runtime/sampler.h"

namespace skiff {
namespace {

std::vector<float> make_logits(std::int64_t n_vocab) {
    Rng rng(1);
    std::vector<float> logits(static_cast<std::size_t>(n_vocab));
    for (float& logit : logits) logit = 2.5f * rng.normal();
    for (int i = 0; i < 20; ++i) logits[rng.below(static_cast<std::uint64_t>(n_vocab))] = 12 + 2 * rng.normal();
    return logits;
}

void sample(benchmark::State& state, const SamplingOptions& options) {
    const auto logits = make_logits(state.range(0));
    Sampler sampler(options);
    for (int i = 0; i < 2000; ++i) sampler.observe(i % 700);
    for (auto _ : state) {
        auto token = sampler.sample(logits);
        benchmark::DoNotOptimize(token);
    }
}

struct Case {
    const char* name;
    SamplingOptions options;
};
const Case cases[] = {
    {"greedy", {.temperature = 0}},
    {"default", {}},
    {"top_k_40", {.top_k = 40, .top_p = 1, .min_p = 0}},
    {"top_p_0.95", {.top_k = 0, .top_p = 0.95, .min_p = 0}},
    {"min_p_0.05", {.top_k = 0, .top_p = 1, .min_p = 0.05}},
    {"temperature_only", {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0}},
    {"greedy_penalties", {.temperature = 0, .repetition_penalty = 1.1}},
    {"default_penalties_of_all", {.repetition_penalty = 1.1, .penalty_window = -1}},
};

[[maybe_unused]] const bool registered = [] {
    for (const Case& c : cases)
        benchmark::RegisterBenchmark(c.name, [options = c.options](benchmark::State& state) { sample(state, options); })->Arg(32000)->Arg(128256)->Unit(benchmark::kMicrosecond);
    return true;
}();

}  // namespace
}  // namespace skiff

BENCHMARK_MAIN();
