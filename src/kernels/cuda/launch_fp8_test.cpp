// What stands around cuBLASLt's products of 8-bit floats.
#include "kernels/cuda/fp8_rows.h"

#include "kernels/cuda/launch_testing.h"
#include "kernels/cuda/product_rows.h"
#include "kernels/linear_testing.h"

namespace skiff::cuda {
namespace {

using namespace skiff::testing;
using namespace skiff::cuda::testing;

TEST(CudaFp8, rounds_inputs_by_their_largest) {
    SKIFF_NEEDS_DEVICE();
    for (const std::int64_t n_columns : {8, 48, 1000, 4096}) {
        constexpr std::int64_t n_tokens = 5;
        auto x = normal_values(n_tokens * n_columns, 3);
        for (std::int64_t c = 0; c < n_columns; ++c) {
            x[static_cast<std::size_t>(n_columns + c)] = 0;
            x[static_cast<std::size_t>(2 * n_columns + c)] *= 1e-20f;
            x[static_cast<std::size_t>(3 * n_columns + c)] *= 1e5f;
        }
        x[0] = 1000;  // an outlier: the others become subnormal codes
        const auto kept = operand_floats(OperandForm::rows, [&] {
            std::vector<std::byte> bytes(operand_bytes(OperandForm::rows, n_tokens, n_columns));
            host_operand(static_cast<int>(OperandForm::rows), x.data(), n_tokens, n_columns, bytes.data());
            return bytes;
        }(), n_tokens, n_columns);
        in_every_mode([&](const Launch& launch) {
            const std::int64_t width = fp8_columns(n_columns);
            const DeviceMemory operand = device_operand(OperandForm::rows, x, n_tokens, n_columns);
            DeviceArray<std::uint8_t> codes(std::vector<std::uint8_t>(static_cast<std::size_t>(n_tokens * width), 0xff));
            DeviceArray<float> scales(n_tokens);
            ASSERT_EQ(launch_quantize_rows({operand.data(), n_tokens, n_columns, codes.data(), scales.data()}, launch), 0);
            const auto got = codes.values();
            const auto got_scales = scales.values();
            for (std::int64_t t = 0; t < n_tokens; ++t) {
                float largest = 0;
                for (std::int64_t c = 0; c < n_columns; ++c) largest = std::max(largest, std::fabs(kept[static_cast<std::size_t>(t * n_columns + c)]));
                ASSERT_EQ(got_scales[static_cast<std::size_t>(t)], largest / 448) << "token " << t;
                const float inverse = largest > 0 ? 448 / largest : 0;
                for (std::int64_t c = 0; c < width; ++c) {
                    const int wanted = c < n_columns ? float_to_f8_e4m3(kept[static_cast<std::size_t>(t * n_columns + c)] * inverse) : 0;
                    ASSERT_EQ(got[static_cast<std::size_t>(t * width + c)], wanted) << "token " << t << " column " << c;
                }
            }
        });
    }
}

TEST(CudaFp8, gives_the_codes_of_a_packed_weight) {
    SKIFF_NEEDS_DEVICE();
    for (const auto& shape : {std::pair<std::int64_t, std::int64_t>{37, 40}, {64, 1000}, {5, 300}}) {
        const Weight weight = random_codes(shape.first, shape.second, *parse_scheme("e4m3"), 8);
        const DeviceWeight device = device_weight(weight);
        ASSERT_TRUE(takes_fp8(device.view));
        const std::int64_t width = fp8_columns(shape.second), all_rows = std::int64_t{device.view.n_tiles} * 16;
        for (const auto& [first, n] : {std::pair<std::int64_t, std::int64_t>{0, all_rows}, {all_rows - 16, 16}, {3, all_rows - 3}})
            in_every_mode([&](const Launch& launch) {
                DeviceArray<std::uint8_t> rows(std::vector<std::uint8_t>(static_cast<std::size_t>(n * width), 0xee));
                ASSERT_EQ(launch_fp8_rows({device.view, first, n, rows.data()}, launch), 0);
                const auto got = rows.values();
                const auto* codes = reinterpret_cast<const std::uint8_t*>(weight.codes()->packed.data.data());
                for (std::int64_t r = 0; r < n; ++r)
                    for (std::int64_t c = 0; c < width; ++c)
                        ASSERT_EQ(got[static_cast<std::size_t>(r * width + c)], first + r < shape.first && c < shape.second ? codes[(first + r) * shape.second + c] : 0) << "row " << first + r << " column " << c;
            });
    }
    EXPECT_FALSE(takes_fp8(gpu_form(random_codes(16, 64, *parse_scheme("e4m3g32"), 8))));
    EXPECT_NE(launch_fp8_rows({device_weight(random_codes(16, 64, *parse_scheme("w8"), 8)).view, 0, 16, nullptr}, test_launch()), 0);
}

TEST(CudaFp8, scales_what_the_product_left) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t n_tokens = 4, n_rows = 300, stride = 304, y_stride = 310;
    const auto x = normal_values(n_tokens * stride, 1), tokens = normal_values(n_tokens, 2), rows = normal_values(n_rows, 3), bias = normal_values(n_rows, 4), old = normal_values(n_tokens * y_stride, 5);
    for (const auto write : {Fp8ResultArgs::Write::replace, Fp8ResultArgs::Write::add})
        for (const float softcap : {0.0f, 3.0f})
            in_every_mode([&](const Launch& launch) {
                const DeviceArray<float> on_x(x), on_tokens(tokens), on_rows(rows), on_bias(bias), y(old);
                Fp8ResultArgs args;
                args.x = on_x.data(), args.x_stride = stride, args.token_scales = on_tokens.data(), args.row_scales = on_rows.data(), args.bias = softcap > 0 ? nullptr : on_bias.data();
                args.n_tokens = n_tokens, args.n_rows = n_rows, args.factor = 0.5f, args.softcap = softcap, args.write = write, args.y = y.data(), args.y_stride = y_stride;
                ASSERT_EQ(launch_fp8_result(args, launch), 0);
                const auto got = y.values();
                for (std::int64_t t = 0; t < n_tokens; ++t)
                    for (std::int64_t r = 0; r < y_stride; ++r) {
                        const auto at = static_cast<std::size_t>(t * y_stride + r);
                        if (r >= n_rows) {
                            ASSERT_EQ(got[at], old[at]);
                            continue;
                        }
                        const auto row = static_cast<std::size_t>(r);
                        double wanted = 0.5 * x[static_cast<std::size_t>(t * stride + r)] * tokens[static_cast<std::size_t>(t)] * rows[row];
                        wanted = softcap > 0 ? softcap * std::tanh(wanted / softcap) : wanted + bias[row];
                        if (write == Fp8ResultArgs::Write::add) wanted += old[at];
                        ASSERT_NEAR(got[at], wanted, 1e-5) << "token " << t << " row " << r;
                    }
            });
}

TEST(CudaFp8, scales_pairs) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t n_tokens = 3, n_pairs = 21, stride = 48;
    const auto x = normal_values(n_tokens * stride, 1), tokens = normal_values(n_tokens, 2), rows = normal_values(stride, 3), bias = normal_values(stride, 4);
    in_every_mode([&](const Launch& launch) {
        const DeviceArray<float> on_x(x), on_tokens(tokens), on_rows(rows), on_bias(bias);
        const DeviceMemory operand(operand_bytes(OperandForm::rows, n_tokens, n_pairs));
        PairsArgs args{on_x.data(), on_bias.data(), on_tokens.data(), on_rows.data()};
        args.n_tokens = n_tokens, args.n_pairs = n_pairs, args.activation = Activation::relu, args.operand = {OperandForm::rows, operand.data(), n_pairs};
        ASSERT_EQ(launch_pairs(args, launch), 0);
        const auto got = operand_floats(OperandForm::rows, operand_values(operand), n_tokens, n_pairs);
        for (std::int64_t t = 0; t < n_tokens; ++t)
            for (std::int64_t j = 0; j < n_pairs; ++j) {
                const auto number = [&](std::int64_t at) { return x[static_cast<std::size_t>(t * stride + at)] * tokens[static_cast<std::size_t>(t)] * rows[static_cast<std::size_t>(at)] + bias[static_cast<std::size_t>(at)]; };
                const double wanted = std::max(number(j / 8 * 16 + j % 8), 0.0f) * number(j / 8 * 16 + j % 8 + 8);
                ASSERT_NEAR(got[static_cast<std::size_t>(t * n_pairs + j)], wanted, std::fabs(wanted) * 0x1p-8 + 1e-6);
            }
    });
}

}  // namespace
}  // namespace skiff::cuda
