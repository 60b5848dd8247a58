// Values and comparisons that the kernel tests share.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "base/rng.h"
#include "kernels/kernels.h"

namespace skiff::testing {

inline constexpr std::int64_t odd_widths[] = {1, 3, 33, 64, 172, 576, 896, 1000};

inline std::vector<float> normal_values(std::int64_t n, std::uint64_t seed, float spread = 1) {
    Rng rng(seed);
    std::vector<float> values(static_cast<std::size_t>(n));
    for (auto& value : values) value = rng.normal() * spread;
    return values;
}

// Largest |a - b| / max(|b|, floor).
inline double relative_error(const std::vector<float>& a, const std::vector<float>& b, double floor) {
    EXPECT_EQ(a.size(), b.size());
    double worst = 0;
    for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
        const double difference = std::fabs(static_cast<double>(a[i]) - b[i]);
        if (!(difference <= worst * std::max<double>(std::fabs(b[i]), floor))) worst = difference / std::max<double>(std::fabs(b[i]), floor);
    }
    return worst;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Whether rows of an instruction set are tested here: those that the processor has; in a program with units that are emulated (tests/simde), those alone.
inline bool runs_here(Isa isa) {
#if defined(SKIFF_EMULATED_ISAS)
    for (Isa emulated : {SKIFF_EMULATED_ISAS})
        if (isa == emulated) return true;
    return false;
#else
    return isa_available(isa);
#endif
}

// Runs body(row) for each row of a table that can run here, with its name in the trace.
template <class Rows, class Body>
void for_each_row(const Rows& rows, Body body) {
    for (const auto& row : rows) {
        if (!runs_here(row.isa)) continue;
        SCOPED_TRACE(row.name);
        body(row);
    }
}

}  // namespace skiff::testing
