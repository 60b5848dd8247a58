// CUTLASS's products against sums in double, on a GPU.
#include "kernels/cuda/cutlass_product.h"

#include <array>
#include <cmath>

#include "kernels/cuda/launch_testing.h"
#include "kernels/linear_testing.h"
#include "tensor/dtype.h"

namespace skiff::cuda {
namespace {

using namespace skiff::testing;
using namespace skiff::cuda::testing;
using Write = CutlassProductArgs::Write;

double activated(Activation kind, double x) {
    switch (kind) {
        case Activation::silu: return x / (1 + std::exp(-x));
        case Activation::gelu_erf: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
        case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
        case Activation::quick_gelu: return x / (1 + std::exp(-1.702 * x));
        case Activation::relu: return std::max(x, 0.0);
        case Activation::sigmoid: return 1 / (1 + std::exp(-x));
        case Activation::tanh: return std::tanh(x);
    }
    return x;
}

std::vector<std::uint16_t> as_bf16(const std::vector<float>& values) {
    std::vector<std::uint16_t> halves;
    for (const float value : values) halves.push_back(float_to_bf16(value));
    return halves;
}

void expect_product(std::int64_t n_tokens, std::int64_t n_rows, std::int64_t n_columns, bool with_bias, Write write, Activation activation, const Launch& launch) {
    const std::int64_t weight_stride = n_columns + 8, x_stride = n_columns, y_stride = n_rows + 16;
    const auto weight = as_bf16(normal_values(n_rows * weight_stride, 1)), x = as_bf16(normal_values(n_tokens * x_stride, 2));
    const auto bias = normal_values(n_rows, 3), old = normal_values(n_tokens * y_stride, 4);
    const bool halves = write == Write::activate;
    const DeviceArray<std::uint16_t> on_weight(weight), on_x(x);
    const DeviceArray<float> on_bias(bias), floats(old);
    const DeviceArray<std::uint16_t> coded(as_bf16(old));
    CutlassProductArgs args;
    args.weight = on_weight.data(), args.x = on_x.data(), args.bias = with_bias ? on_bias.data() : nullptr;
    args.n_tokens = n_tokens, args.n_rows = n_rows, args.n_columns = n_columns, args.weight_stride = weight_stride, args.x_stride = x_stride;
    args.factor = 0.125f, args.write = write, args.activation = activation, args.y_stride = y_stride;
    if (halves) args.operand = {OperandForm::rows, coded.data(), y_stride}, args.first_row = 8;
    else args.y = floats.data();
    ASSERT_EQ(launch_cutlass_product(args, launch), 0) << n_tokens << " tokens, " << n_rows << " x " << n_columns;
    const auto got_floats = floats.values();
    const auto got_halves = coded.values();
    const std::int64_t first = halves ? 8 : 0;
    for (std::int64_t t = 0; t < n_tokens; ++t)
        for (std::int64_t r = -first; r < y_stride - first; ++r) {
            const auto at = static_cast<std::size_t>(t * y_stride + first + r);
            const double got = halves ? bf16_to_float(got_halves[at]) : got_floats[at], before = halves ? bf16_to_float(float_to_bf16(old[at])) : old[at];
            if (r < 0 || r >= n_rows) {
                ASSERT_EQ(got, before) << "written beside the rows";
                continue;
            }
            double sum = 0, size = 0;
            for (std::int64_t c = 0; c < n_columns; ++c) {
                const double product = static_cast<double>(bf16_to_float(weight[static_cast<std::size_t>(r * weight_stride + c)])) * bf16_to_float(x[static_cast<std::size_t>(t * x_stride + c)]);
                sum += product, size += std::fabs(product);
            }
            sum = sum * 0.125 + (with_bias ? bias[static_cast<std::size_t>(r)] : 0);
            if (write == Write::add) sum += before;
            if (halves) sum = activated(activation, sum);
            ASSERT_NEAR(got, sum, 1e-5 * (1 + size) + (halves ? std::fabs(sum) / 256 : 0)) << n_tokens << " tokens, " << n_rows << " x " << n_columns << ", token " << t << " row " << r;
        }
}

TEST(CudaCutlass, multiplies_adds_and_activates) {
    SKIFF_NEEDS_DEVICE();
    in_every_mode([](const Launch& launch) {
        for (const auto& [tokens, rows, columns] : {std::array<std::int64_t, 3>{65, 64, 64}, {200, 136, 40}, {1, 8, 8}, {129, 264, 1000}})
            for (const bool with_bias : {false, true}) {
                for (const Write write : {Write::replace, Write::add}) expect_product(tokens, rows, columns, with_bias, write, Activation::silu, launch);
                for (const Activation activation : {Activation::silu, Activation::gelu_erf, Activation::gelu_tanh, Activation::quick_gelu, Activation::relu, Activation::sigmoid, Activation::tanh})
                    expect_product(tokens, rows, columns, with_bias, Write::activate, activation, launch);
            }
        Launch few = launch;
        few.n_sms = 1;  // large tiles
        expect_product(200, 136, 40, true, Write::add, Activation::silu, few);
        expect_product(200, 136, 72, true, Write::activate, Activation::gelu_tanh, few);
    });
}

TEST(CudaCutlass, refuses_what_is_not_whole_16_bytes) {
    SKIFF_NEEDS_DEVICE();
    const DeviceArray<float> memory(4096);
    CutlassProductArgs good;
    good.weight = good.x = memory.data(), good.y = memory.data() + 2048;
    good.n_tokens = 8, good.n_rows = good.y_stride = 16, good.n_columns = good.weight_stride = good.x_stride = 16;
    ASSERT_EQ(launch_cutlass_product(good, test_launch()), 0);
    const auto refused = [&](auto change) {
        CutlassProductArgs args = good;
        change(args);
        return launch_cutlass_product(args, test_launch()) != 0;
    };
    EXPECT_TRUE(refused([](CutlassProductArgs& args) { args.n_columns = 12; }));
    EXPECT_TRUE(refused([](CutlassProductArgs& args) { args.x_stride = 18; }));
    EXPECT_TRUE(refused([](CutlassProductArgs& args) { args.n_rows = 14; }));
    EXPECT_TRUE(refused([](CutlassProductArgs& args) { args.n_rows = 12, args.write = Write::activate, args.operand = {OperandForm::rows, args.y, 16}; }));
    EXPECT_TRUE(refused([](CutlassProductArgs& args) { args.y += 1; }));
    EXPECT_TRUE(refused([](CutlassProductArgs& args) { args.y = nullptr; }));
    EXPECT_TRUE(refused([](CutlassProductArgs& args) { args.n_tokens = 0; }));
}

}  // namespace
}  // namespace skiff::cuda
