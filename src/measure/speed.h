// How fast a session prefills and decodes, in the tests that llama-bench made common: pp512 (a prompt of 512 tokens), tg128 (128 tokens one by one);
// tg128x4: four sequences decode together, a token of each in one pass.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "measure/energy.h"
#include "plan/session.h"

namespace skiff {

struct Spread {
    double median = 0, mean = 0, min = 0, max = 0, sd = 0;
};
Spread spread_of(std::vector<double> values);

struct SpeedTest {
    enum class Kind : std::uint8_t { prefill, decode } kind = Kind::prefill;
    std::int64_t n_tokens = 0;
    std::int64_t n_sequences = 1;  // decode: that are worked on together
    std::int64_t depth = 0;        // tokens in the state of each before
    std::string name() const {
        return (kind == Kind::prefill ? "pp" : "tg") + std::to_string(n_tokens) + (n_sequences > 1 ? "x" + std::to_string(n_sequences) : "") +
               (depth > 0 ? " @ d" + std::to_string(depth) : "");
    }
};

struct SpeedResult {
    SpeedTest test;
    Spread tokens_per_s;
    double bytes_per_token = 0;   // decode: its share of the weights, and the state that it reads; prefill: 0
    double macs_per_token = 0;    // multiply-adds of the linear operators
    std::vector<double> joules_per_token;  // by source of the meter; empty without one
    double gb_per_s() const { return tokens_per_s.median * bytes_per_token / 1e9; }
    double gmac_per_s() const { return tokens_per_s.median * macs_per_token / 1e9; }
};

// The state that a depth asks for is that of 256 tokens, repeated: its numbers do not matter to the speed.
// On a device sequences that decode go on with their own tokens, as it feeds them itself; else tokens are pseudo-random and the same every time.
// Each test `repeats` times, the tests taking turns, after one run of each to warm up.
// `logits_hash` gets the hash of the last logits of the last run: the same for the same model, instruction set and scheme.
// The session has as many sequences as the tests want. `meter` may be null.
Result<std::vector<SpeedResult>> measure_speed(Session& session, const std::vector<SpeedTest>& tests, int repeats, std::uint64_t& logits_hash,
                                               EnergyMeter* meter = nullptr);

}  // namespace skiff
