#include "measure/speed.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/hash.h"
#include "base/rng.h"

namespace skiff {
namespace {

// Empties all sequences, then gives those of the test the state that its depth asks for.
Status fill(Session& session, const SpeedTest& test) {
    for (std::int64_t sequence = 0; sequence < session.state().n_sequences(); ++sequence) SKIFF_CHECK(session.state().truncate(sequence, 0));
    if (test.depth == 0) return {};
    Rng rng(1);
    std::vector<std::int32_t> tokens;
    for (std::int64_t i = 0; i < std::min(test.depth, attention_chunk); ++i) tokens.push_back(static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(session.plan().spec.n_vocab))));
    SKIFF_CHECK(session.forward(0, tokens, BatchItem::Logits::none));
    if (test.depth > attention_chunk) session.state().repeat(0, test.depth);
    for (std::int64_t sequence = 1; sequence < test.n_sequences; ++sequence) session.state().fork(0, sequence);
    return {};
}

// As generation at temperature 0 does it where the session chooses and feeds the tokens: a few are always on their way.
Status decode_by_itself(SelfFeeder& feeder, std::span<const std::int32_t> tokens, std::int64_t n_tokens) {
    const std::int64_t ahead = feeder.most_steps() / 2;
    std::vector<std::int64_t> sequences(tokens.size());
    std::iota(sequences.begin(), sequences.end(), 0);
    for (std::int64_t queued = 0, read = 0; read < n_tokens; ++read) {
        const std::int64_t n = std::min(ahead - (queued - read), n_tokens - queued);
        if (n > 0 && (n >= ahead / 2 || queued == read)) {
            SKIFF_CHECK(feeder.queue_together(sequences, queued == 0 ? tokens : std::span<const std::int32_t>(), {}, n, {}));
            queued += n;
        }
        SKIFF_TRY(const auto chosen, feeder.next_together());
        for (const std::int32_t token : chosen)
            if (token < 0) return runtime_error("the model's logits are not numbers, or none is finite");
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
    }
    return {};
}

Result<double> run_once(Session& session, const SpeedTest& test) {
    SKIFF_CHECK(fill(session, test));
    Rng rng(static_cast<std::uint64_t>(test.n_tokens));
    auto random_token = [&] { return static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(session.plan().spec.n_vocab))); };
    // By sequence; the first one's tokens do not depend on how many there are.
    std::vector<std::vector<std::int32_t>> tokens(static_cast<std::size_t>(test.n_sequences));
    for (auto& sequence : tokens)
        for (std::int64_t i = 0; i < test.n_tokens; ++i) sequence.push_back(random_token());
    std::vector<BatchItem> items;
    for (std::int64_t sequence = 0; sequence < test.n_sequences; ++sequence) items.push_back({sequence, {0}, BatchItem::Logits::last});
    SelfFeeder* feeder = test.kind == SpeedTest::Kind::decode ? session.self_feeder() : nullptr;
    if (feeder != nullptr && (!feeder->takes({}) || feeder->most_sequences() < test.n_sequences)) feeder = nullptr;
    const bool own_tokens = !session.where().starts_with("cpu");  // as a device feeds them, so that both ways do the same
    std::vector<std::int32_t> first;
    for (const auto& sequence : tokens) first.push_back(sequence.empty() ? 0 : sequence[0]);
    SKIFF_CHECK(session.wait());
    const double begin = monotonic_seconds();
    if (test.kind == SpeedTest::Kind::prefill) {
        SKIFF_CHECK(session.forward(0, tokens[0], BatchItem::Logits::last));
    } else if (feeder != nullptr) {
        SKIFF_CHECK(decode_by_itself(*feeder, first, test.n_tokens));
    } else {
        for (std::size_t i = 0; i < tokens[0].size(); ++i) {
            for (std::size_t sequence = 0; sequence < items.size(); ++sequence) {
                items[sequence].tokens[0] = tokens[sequence][i];
                if (!own_tokens || i == 0) continue;
                SKIFF_TRY(const auto largest, session.top_row(static_cast<std::int64_t>(sequence)));
                items[sequence].tokens[0] = largest[0].token;
            }
            // As generation at temperature 0 does. The last token's logits are wanted whole, for their hash.
            if (i + 1 < tokens[0].size()) SKIFF_CHECK(session.forward_top(items, 1));
            else SKIFF_CHECK(session.forward(items));
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
        }
    }
    SKIFF_CHECK(session.wait());
    return static_cast<double>(test.n_tokens * test.n_sequences) / (monotonic_seconds() - begin);
}

double head_macs(const ModelSpec& spec) {
    double total = 0;
    for (const Op& op : spec.blocks.back().ops)
        if (std::get_if<LinearOp>(&op.detail)) total += static_cast<double>(spec.width(op.in[0])) * static_cast<double>(spec.width(op.out));
    return total;
}

}  // namespace

Spread spread_of(std::vector<double> values) {
    Spread spread;
    if (values.empty()) return spread;
    std::sort(values.begin(), values.end());
    const std::size_t n = values.size();
    spread.min = values.front();
    spread.max = values.back();
    spread.median = n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
    spread.mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(n);
    double square = 0;
    for (double value : values) square += (value - spread.mean) * (value - spread.mean);
    spread.sd = n > 1 ? std::sqrt(square / static_cast<double>(n - 1)) : 0;
    return spread;
}

Result<std::vector<SpeedResult>> measure_speed(Session& session, const std::vector<SpeedTest>& tests, int repeats, std::uint64_t& logits_hash,
                                               EnergyMeter* meter) {
    const Plan& plan = session.plan();
    std::vector<std::vector<double>> speeds(tests.size());
    std::vector<std::vector<double>> joules(tests.size());
    for (int repeat = -1; repeat < repeats; ++repeat) {
        for (std::size_t i = 0; i < tests.size(); ++i) {
            SpeedTest test = tests[i];
            if (repeat < 0 && test.kind == SpeedTest::Kind::decode) test.n_tokens = std::min<std::int64_t>(test.n_tokens, 8);
            if (meter != nullptr) SKIFF_CHECK(meter->begin());
            SKIFF_TRY(auto speed, run_once(session, test));
            if (repeat >= 0) speeds[i].push_back(speed);
            if (meter == nullptr || repeat < 0) continue;
            SKIFF_TRY(const auto used, meter->joules());
            joules[i].resize(used.size());
            for (std::size_t source = 0; source < used.size(); ++source)
                joules[i][source] += used[source] / static_cast<double>(test.n_tokens * test.n_sequences * repeats);
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
        }
    }
    logits_hash = hash64(std::as_bytes(session.logits()));
    std::vector<SpeedResult> results;
    for (std::size_t i = 0; i < tests.size(); ++i) {
        SpeedResult result{tests[i], spread_of(speeds[i]), 0, static_cast<double>(plan.spec.multiply_adds_per_token()), joules[i]};
        if (tests[i].kind == SpeedTest::Kind::prefill)  // the head works on the last token only
            result.macs_per_token -= head_macs(plan.spec) * (1 - 1.0 / static_cast<double>(tests[i].n_tokens));
        else
            result.bytes_per_token = static_cast<double>(plan.decode_read_bytes) / static_cast<double>(tests[i].n_sequences) + 
                static_cast<double>(session.state().bytes_per_token()) * (static_cast<double>(tests[i].depth) + static_cast<double>(tests[i].n_tokens - 1) / 2);
        results.push_back(result);
    }
    for (std::int64_t sequence = 0; sequence < session.state().n_sequences(); ++sequence) SKIFF_CHECK(session.state().truncate(sequence, 0));
    return results;
}

}  // namespace skiff
