#include "cli/bench_speculation.h"

#include "base/mapped_file.h"
#include "base/progress.h"
#include "cli/format.h"
#include "measure/speed.h"

namespace skiff {
namespace {

constexpr std::size_t excerpt_tokens = speculation_prompt_tokens;

struct Workload {
    const char* name;
    std::vector<std::int32_t> prompt;
    SamplingOptions sampling;
    std::vector<std::int32_t> dictated;
};

// A stretch of the text in the model's tokens; random ones where the model has no tokenizer.
Result<std::vector<std::int32_t>> excerpt(const Engine& engine, std::string file) {
    std::vector<std::int32_t> tokens;
    if (engine.tokenizer() == nullptr) {
        Rng rng(1);
        while (tokens.size() < excerpt_tokens)
            tokens.push_back(static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(engine.checkpoint().spec.n_vocab))));
        return tokens;
    }
    if (file.empty()) file = join_path(engine.checkpoint().path, "heldout.txt");
    if (!file_exists(file)) return usage_error(file + ": no such file; give a text with --text, for what --speculate is measured on");
    SKIFF_TRY(const auto text, read_text_file(file, std::size_t{64} << 20));
    SKIFF_TRY(tokens, engine.tokenizer()->encode(text.substr(0, 64 * excerpt_tokens)));
    if (tokens.size() < excerpt_tokens)
        return usage_error(file + ": has " + std::to_string(tokens.size()) + " tokens, at least " + std::to_string(excerpt_tokens) + " are needed");
    tokens.resize(excerpt_tokens);
    return tokens;
}

// copy: the text over and over, as when a model quotes or edits what it was given; dictated, so that it does not depend on how well the model copies.
// greedy, prose: the model goes on with the text, always the likeliest token, or drawn as people do. noise: tokens drawn nearly evenly, so that nothing
// comes twice but by chance.
std::vector<Workload> workloads(const std::vector<std::int32_t>& text, std::int64_t n_tokens) {
    std::vector<std::int32_t> copy;
    while (static_cast<std::int64_t>(copy.size()) < n_tokens) copy.insert(copy.end(), text.begin(), text.end());
    return {{"copy", text, {.temperature = 0}, copy},
            {"greedy", text, {.temperature = 0}, {}},
            {"prose", text, {.seed = 1}, {}},
            {"noise", text, {.temperature = 100, .top_k = 0, .top_p = 1, .min_p = 0, .seed = 1}, {}}};
}

// Tokens per second behind the first one, which comes from the prompt's own pass. Cold, as in a program that has just started.
Result<double> generate(TokenStream& stream, const Workload& work, std::int64_t n_tokens) {
    stream.start_cold();
    SKIFF_CHECK(stream.begin(work.prompt, work.sampling, n_tokens));
    if (!work.dictated.empty()) stream.dictate(work.dictated);
    SKIFF_CHECK(stream.next());
    const double begin = monotonic_seconds();
    for (std::int64_t i = 1; i < n_tokens; ++i) {
        SKIFF_CHECK(stream.next());
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
    }
    const double seconds = monotonic_seconds() - begin;
    SKIFF_CHECK(stream.end());
    return static_cast<double>(n_tokens - 1) / seconds;
}

}  // namespace

Result<Json> bench_speculation(Engine& engine, const SpeculationBench& options, Terminal& terminal) {
    SKIFF_TRY(const auto text, excerpt(engine, options.text_file));
    TokenStream plain(engine.session(), 1);
    std::vector<std::vector<std::string>> rows = {{"speculation", "t/s without", "t/s with", "gain", "guesses right", "tokens a pass"}};
    Json list = Json::array();
    for (std::int64_t n : options.n_tokens) {
        if (n < 2) continue;
        for (const Workload& work : workloads(text, n)) {
            std::vector<double> without, with, gains;
            std::int64_t proposed = 0, accepted = 0, passes = 0, tokens = 0;
            for (int repeat = -1; repeat < options.repeats; ++repeat) {
                // The order changes from pair to pair.
                double speeds[2] = {};
                for (int turn = 0; turn < 2; ++turn) {
                    const int which = (turn + repeat) & 1;
                    SKIFF_TRY(speeds[which], generate(which == 1 ? engine.stream() : plain, work, n));
                }
                if (repeat < 0) continue;
                without.push_back(speeds[0]);
                with.push_back(speeds[1]);
                gains.push_back(speeds[1] / speeds[0]);
                const SpeculationStats& stats = engine.stream().stats();
                proposed += stats.proposed, accepted += stats.accepted, passes += stats.passes, tokens += stats.tokens;
            }
            const Spread a = spread_of(without), b = spread_of(with), gain = spread_of(gains);
            const double per_pass = static_cast<double>(tokens) / static_cast<double>(std::max<std::int64_t>(1, passes));
            rows.push_back({work.name + std::to_string(n), number_text(a.median, 2), number_text(b.median, 2), number_text(gain.median, 3),
                            std::to_string(accepted) + " of " + std::to_string(proposed), number_text(per_pass, 2)});
            list.push_back(Json::object({{"test", work.name + std::to_string(n)},
                                         {"tokens_per_s_without", a.median},
                                         {"tokens_per_s", b.median},
                                         {"gain", gain.median},
                                         {"gain_min", gain.min},
                                         {"gain_max", gain.max},
                                         {"proposed", proposed},
                                         {"accepted", accepted},
                                         {"tokens_per_pass", per_pass}}));
        }
    }
    terminal.print(table_text(rows, TableStyle::markdown));
    return list;
}

}  // namespace skiff
