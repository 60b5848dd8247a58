// Every causal convolution kernel against the definition, over odd widths and shares.
#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "kernels/kernels.h"

namespace skiff {
namespace {

TEST(CausalConvKernels, AllRowsAgreeWithTheDefinition) {
    Rng rng(1);
    for (const auto& row : causal_conv_kernels()) {
        if (!isa_available(row.isa)) continue;
        for (std::int64_t width : {1, 7, 8, 33, 172})
            for (std::int64_t kernel : {1, 3, 4})
                for (std::int64_t n_before : {std::int64_t{0}, std::int64_t{1}, kernel - 1})
                    for (bool with_bias : {false, true}) {
                        if (n_before > kernel - 1) continue;
                        SCOPED_TRACE(std::string(row.name) + " " + std::to_string(width) + " " + std::to_string(kernel) + " " + std::to_string(n_before));
                        auto draw = [&](std::int64_t n) {
                            std::vector<float> values(static_cast<std::size_t>(n));
                            for (float& value : values) value = rng.normal();
                            return values;
                        };
                        const auto x = draw(kernel * width), taps = draw(kernel * width), bias = draw(width);
                        std::vector<const float*> rows(static_cast<std::size_t>(kernel));
                        for (std::int64_t j = 0; j < kernel; ++j) rows[static_cast<std::size_t>(j)] = j < kernel - 1 - n_before ? nullptr : x.data() + j * width;
                        std::vector<float> y(static_cast<std::size_t>(width), -1), shared = y;
                        row.fn({rows.data(), taps.data(), with_bias ? bias.data() : nullptr, y.data(), kernel, width}, {0, width});
                        for (std::int64_t cut : {width / 3, width})
                            for (Range part : {Range{0, cut}, Range{cut, width}}) row.fn({rows.data(), taps.data(), with_bias ? bias.data() : nullptr, shared.data(), kernel, width}, part);
                        EXPECT_EQ(y, shared);
                        for (std::int64_t c = 0; c < width; ++c) {
                            double sum = with_bias ? static_cast<double>(bias[static_cast<std::size_t>(c)]) : 0;
                            for (std::int64_t j = 0; j < kernel; ++j)
                                if (rows[static_cast<std::size_t>(j)] != nullptr) sum += static_cast<double>(taps[static_cast<std::size_t>(j * width + c)]) * static_cast<double>(rows[static_cast<std::size_t>(j)][c]);
                            ASSERT_NEAR(y[static_cast<std::size_t>(c)], sum, 1e-5);
                        }
                    }
    }
}

}  // namespace
}  // namespace skiff
