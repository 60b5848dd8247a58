// Norms, element-wise steps, router, convolution and sampling against the reference kernels or plain loops.
#include <algorithm>
#include <numeric>

#include "kernels/cuda/launch_testing.h"
#include "kernels/cuda/product_rows.h"
#include "kernels/kernels_testing.h"

namespace skiff::cuda {
namespace {

using namespace skiff::testing;
using namespace skiff::cuda::testing;

TEST(CudaRows, norms) {
    SKIFF_NEEDS_DEVICE();
    for (const NormKind kind : {NormKind::rms, NormKind::layer})
        for (const std::int64_t width : odd_widths)
            for (const std::int64_t n_groups : {1, 3}) {
                const std::int64_t n_tokens = 3, stride = n_groups * width + 5;
                const auto x = normal_values(n_tokens * stride, 1, 3), added = normal_values(n_tokens * stride, 2), weight = normal_values(width, 3), bias = normal_values(width, 4);
                std::vector<float> sum, wanted(static_cast<std::size_t>(n_tokens * n_groups * width));
                for (std::int64_t t = 0; t < n_tokens; ++t)
                    for (std::int64_t c = 0; c < n_groups * width; ++c) sum.push_back(x[static_cast<std::size_t>(t * stride + c)] + added[static_cast<std::size_t>(t * stride + c)]);
                norm_kernels()[0].fn({sum.data(), weight.data(), bias.data(), wanted.data(), width, 1e-5f, kind}, {0, n_tokens * n_groups});
                const DeviceArray<float> device_added(added), device_weight(weight), device_bias(bias);
                in_every_mode([&](const Launch& launch) {
                    DeviceArray<float> device_x(x), y(n_tokens * n_groups * width);
                    const DeviceMemory operand(operand_bytes(OperandForm::fragments, n_tokens, n_groups * width));
                    NormLaunchArgs args;
                    args.x = device_x.data(), args.x_stride = stride, args.residual = device_added.data(), args.sum = device_x.data(), args.weight = device_weight.data(), args.bias = device_bias.data();
                    args.n_tokens = n_tokens, args.n_groups = n_groups, args.width = width, args.eps = 1e-5f, args.kind = kind, args.y = y.data(), args.y_stride = n_groups * width;
                    args.operand = {OperandForm::fragments, operand.data(), n_groups * width};
                    ASSERT_EQ(launch_norm(args, launch), 0);
                    ASSERT_LT(relative_error(y.values(), wanted, 1), 2e-5) << width;
                    ASSERT_LT(relative_error(operand_floats(OperandForm::fragments, operand_values(operand), n_tokens, n_groups * width), wanted, 0.1), 0x1p-7);
                    const auto stored = device_x.values();
                    for (std::int64_t t = 0; t < n_tokens; ++t)
                        for (std::int64_t c = 0; c < n_groups * width; ++c) ASSERT_EQ(stored[static_cast<std::size_t>(t * stride + c)], sum[static_cast<std::size_t>(t * n_groups * width + c)]);
                });
            }
}

// What stands between a product and the matrices behind it: its own norm, the residual stream, one norm of the sum or two.
TEST(CudaRows, norms_one_behind_the_other) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t n_tokens = 3;
    for (const NormKind kind : {NormKind::rms, NormKind::layer})
        for (const std::int64_t width : odd_widths)
            for (const bool is_behind : {true, false}) {
                SCOPED_TRACE(std::to_string(width) + (is_behind ? " behind" : ""));
                const auto x = normal_values(n_tokens * width, 1, 3), stream = normal_values(n_tokens * width, 2), all = normal_values(6 * width, 3);
                const auto vector = [&](std::int64_t i) { return all.data() + i * width; };
                std::vector<float> sum = x, wanted(x.size()), other(x.size());
                if (is_behind) norm_kernels()[0].fn({x.data(), vector(0), vector(1), sum.data(), width, 1e-6f, kind}, {0, n_tokens});
                for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += stream[i];
                norm_kernels()[0].fn({sum.data(), vector(2), vector(3), wanted.data(), width, 1e-5f, kind}, {0, n_tokens});
                norm_kernels()[0].fn({sum.data(), vector(4), vector(5), other.data(), width, 1e-5f, kind}, {0, n_tokens});
                const DeviceArray<float> device_x(x), device_stream(stream), vectors(all);
                in_every_mode([&](const Launch& launch) {
                    const DeviceArray<float> stored(n_tokens * width);
                    const DeviceMemory first(operand_bytes(OperandForm::split, n_tokens, width)), second(operand_bytes(OperandForm::split, n_tokens, width));
                    NormLaunchArgs args;
                    args.x = device_x.data(), args.x_stride = width, args.residual = device_stream.data(), args.sum = stored.data(), args.n_tokens = n_tokens, args.width = width, args.eps = 1e-5f, args.kind = kind;
                    if (is_behind) args.behind = {NormLaunchArgs::Behind::Is::there, kind, 1e-6f, vectors.data(), vectors.data() + width};
                    ASSERT_EQ(launch_norm(args, launch), 0);  // the sum alone
                    ASSERT_LT(relative_error(stored.values(), sum, 1), 2e-5);
                    args.weight = vectors.data() + 2 * width, args.bias = vectors.data() + 3 * width, args.operand = {OperandForm::split, first.data(), width};
                    args.second_weight = vectors.data() + 4 * width, args.second_bias = vectors.data() + 5 * width, args.second = {OperandForm::split, second.data(), width};
                    ASSERT_EQ(launch_norm(args, launch), 0);
                    ASSERT_LT(relative_error(stored.values(), sum, 1), 2e-5);
                    ASSERT_LT(relative_error(operand_floats(OperandForm::split, operand_values(first), n_tokens, width), wanted, 1), 1e-4);
                    ASSERT_LT(relative_error(operand_floats(OperandForm::split, operand_values(second), n_tokens, width), other, 1), 1e-4);
                });
            }
}

TEST(CudaRows, elements) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t n_tokens = 3, n = 300, stride = 310;
    const auto a = normal_values(n_tokens * stride, 1), b = normal_values(n_tokens * stride, 2);
    std::vector<std::int32_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    std::reverse(order.begin(), order.end());
    const DeviceArray<float> device_a(a), device_b(b);
    const DeviceArray<std::int32_t> device_order(order);
    for (const ElementKind kind : {ElementKind::activation, ElementKind::activate_mul, ElementKind::multiply, ElementKind::add, ElementKind::scale, ElementKind::softcap, ElementKind::column_scale, ElementKind::gate, ElementKind::permute, ElementKind::add_gated})
        for (const Activation activation : {Activation::silu, Activation::gelu_erf, Activation::gelu_tanh, Activation::quick_gelu, Activation::relu, Activation::sigmoid, Activation::tanh}) {
            std::vector<float> wanted;
            for (std::int64_t t = 0; t < n_tokens; ++t)
                for (std::int64_t c = 0; c < n; ++c) {
                    const float x = a[static_cast<std::size_t>(t * stride + c)], y = b[static_cast<std::size_t>(t * stride + c)];
                    float activated = 0;
                    activation_kernels()[0].fn({&x, nullptr, &activated, 1, activation}, {0, 1});
                    switch (kind) {
                        case ElementKind::activation: wanted.push_back(activated); break;
                        case ElementKind::activate_mul: wanted.push_back(activated * y); break;
                        case ElementKind::multiply: wanted.push_back(x * y); break;
                        case ElementKind::add: wanted.push_back(x + y); break;
                        case ElementKind::scale: wanted.push_back(x * 3); break;
                        case ElementKind::softcap: wanted.push_back(3 * std::tanh(x / 3)); break;
                        case ElementKind::column_scale: wanted.push_back(x * b[static_cast<std::size_t>(c)]); break;
                        case ElementKind::gate: wanted.push_back(x * b[static_cast<std::size_t>(t * stride)]); break;
                        case ElementKind::add_gated: wanted.push_back(0.5f + x * b[static_cast<std::size_t>(t * stride)]); break;
                        case ElementKind::permute: wanted.push_back(a[static_cast<std::size_t>(t * stride + n - 1 - c)]); break;
                    }
                }
            in_every_mode([&](const Launch& launch) {
                const DeviceArray<float> y(std::vector<float>(n_tokens * n, 0.5f));
                const DeviceMemory operand(operand_bytes(OperandForm::rows, n_tokens, n));
                ElementLaunchArgs args;
                args.kind = kind, args.a = device_a.data(), args.b = device_b.data(), args.order = device_order.data(), args.n_tokens = n_tokens, args.n_columns = n, args.a_stride = stride, args.b_stride = stride;
                args.factor = 3, args.activation = activation, args.y = y.data(), args.y_stride = n, args.operand = {OperandForm::rows, operand.data(), n};
                ASSERT_EQ(launch_elements(args, launch), 0);
                ASSERT_LT(relative_error(y.values(), wanted, 0.1), 1e-5) << static_cast<int>(kind) << " " << static_cast<int>(activation);
                ASSERT_LT(relative_error(operand_floats(OperandForm::rows, operand_values(operand), n_tokens, n), wanted, 0.1), 0x1p-7);
            });
        }
    const std::vector<std::int32_t> rows = {2, 0};
    const DeviceArray<std::int32_t> index(rows);
    DeviceArray<float> picked(2 * stride);
    ASSERT_EQ(launch_select_rows(device_a.data(), index.data(), picked.data(), 2, stride, test_launch()), 0);
    const auto got = picked.values();
    for (std::int64_t c = 0; c < stride; ++c) ASSERT_TRUE(got[static_cast<std::size_t>(c)] == a[static_cast<std::size_t>(2 * stride + c)] && got[static_cast<std::size_t>(stride + c)] == a[static_cast<std::size_t>(c)]);
}

TEST(CudaRows, more_rows_than_a_grid_holds_are_refused) {
    SKIFF_NEEDS_DEVICE();
    const DeviceArray<float> x(1);
    ElementLaunchArgs args;
    args.kind = ElementKind::scale, args.a = x.data(), args.n_tokens = 70000, args.n_columns = 1, args.y = x.data(), args.y_stride = 1;
    EXPECT_NE(launch_elements(args, test_launch()), 0);
}

TEST(CudaRows, routes) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t n_tokens = 5, n_experts = 9, n_used = 3;
    auto logits = normal_values(n_tokens * n_experts, 5);
    logits[1] = logits[4] = logits[7] = 3;  // equal ones: the first
    const DeviceArray<float> device(logits);
    for (const bool top_first : {false, true})
        for (const bool normalize : {false, true})
            in_every_mode([&](const Launch& launch) {
                DeviceArray<float> y(n_tokens * n_experts);
                RouteLaunchArgs args;
                args.logits = device.data(), args.y = y.data(), args.n_tokens = n_tokens, args.n_experts = n_experts, args.n_used = n_used;
                args.rule = top_first ? RouteLaunchArgs::Rule::top_then_softmax : RouteLaunchArgs::Rule::softmax_then_top;
                args.divide = normalize ? RouteLaunchArgs::Divide::by_their_sum : RouteLaunchArgs::Divide::as_they_are;
                ASSERT_EQ(launch_route(args, launch), 0);
                const auto got = y.values();
                for (std::int64_t t = 0; t < n_tokens; ++t) {
                    const float* row = logits.data() + t * n_experts;
                    std::vector<int> order(n_experts);
                    std::iota(order.begin(), order.end(), 0);
                    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return row[a] > row[b]; });
                    double total = 0;
                    for (std::int64_t i = 0; i < (top_first || normalize ? n_used : n_experts); ++i) total += std::exp(static_cast<double>(row[order[static_cast<std::size_t>(i)]]));
                    for (std::int64_t i = 0; i < n_experts; ++i) {
                        const int expert = order[static_cast<std::size_t>(i)];
                        ASSERT_NEAR(got[static_cast<std::size_t>(t * n_experts + expert)], i < n_used ? std::exp(static_cast<double>(row[expert])) / total : 0, 1e-6);
                    }
                }
            });
}

TEST(CudaRows, causal_convolution) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t n_columns = 300, n_taps = 4, n_ring = n_taps - 1, length = 11;
    constexpr std::int64_t stride = n_columns + 7;
    const auto all = normal_values(2 * length * n_columns, 6), taps = normal_values(n_taps * n_columns, 7), bias = normal_values(n_columns, 8), before = normal_values(2 * length * n_columns, 9), behind = normal_values(2 * length * n_columns, 10);
    const DeviceArray<float> device_taps(taps), device_bias(bias);
    for (const bool gated : {false, true})
        in_every_mode([&](const Launch& launch) {
            DeviceArray<float> rings(2 * n_ring * n_columns);
            std::int64_t done = 0;
            for (const std::int64_t run : {1, 2, 5, 3}) {  // tokens of each sequence in a run
                std::vector<float> x, x_gates, y_gates;
                std::vector<std::int32_t> positions, sequences;
                for (std::int32_t s = 0; s < 2; ++s)
                    for (std::int64_t p = done; p < done + run; ++p) {
                        const auto add = [&](std::vector<float>& to, const std::vector<float>& from, std::int64_t width) {
                            to.insert(to.end(), from.begin() + (s * length + p) * n_columns, from.begin() + (s * length + p + 1) * n_columns);
                            to.resize(to.size() + static_cast<std::size_t>(width - n_columns), NAN);
                        };
                        add(x, all, stride), add(x_gates, before, stride), add(y_gates, behind, n_columns);
                        positions.push_back(static_cast<std::int32_t>(p)), sequences.push_back(s);
                    }
                const DeviceArray<float> device_x(x), device_x_gates(x_gates), device_y_gates(y_gates);
                const DeviceMemory operand(operand_bytes(OperandForm::split, 2 * run, n_columns));
                const DeviceArray<std::int32_t> device_positions(positions), device_sequences(sequences);
                DeviceArray<float> y(2 * run * n_columns);
                ConvLaunchArgs args;
                args.x = device_x.data(), args.taps = device_taps.data(), args.bias = device_bias.data(), args.rings = rings.data(), args.tokens = {2 * run, device_positions.data(), device_sequences.data()};
                args.n_taps = n_taps, args.n_columns = n_columns, args.y = y.data(), args.x_stride = stride;
                if (gated) args.gate_in = device_x_gates.data(), args.gate_in_stride = stride, args.gate_out = device_y_gates.data(), args.gate_out_stride = n_columns, args.operand = {OperandForm::split, operand.data(), n_columns};
                ASSERT_EQ(launch_causal_conv(args, launch), 0);
                const auto got = y.values(), multiplied = operand_floats(OperandForm::split, operand_values(operand), 2 * run, n_columns);
                for (std::size_t t = 0; t < positions.size(); ++t)
                    for (std::int64_t c = 0; c < n_columns; ++c) {
                        double wanted = bias[static_cast<std::size_t>(c)];
                        for (std::int64_t tap = 0; tap < n_taps; ++tap) {
                            const std::int64_t p = positions[t] - n_ring + tap;
                            const auto at = static_cast<std::size_t>((sequences[t] * length + p) * n_columns + c);
                            if (p >= 0) wanted += static_cast<double>(taps[static_cast<std::size_t>(tap * n_columns + c)]) * all[at] * (gated ? before[at] : 1.0f);
                        }
                        const auto i = t * n_columns + static_cast<std::size_t>(c);
                        if (gated) wanted *= y_gates[i];
                        ASSERT_NEAR(got[i], wanted, 1e-5 * (1 + std::fabs(wanted))) << "token " << t;
                        ASSERT_NEAR(multiplied[i], gated ? got[i] : 0.0f, std::fabs(got[i]) * 0x1p-15 + 1e-30);
                    }
                done += run;
            }
        });
}

TEST(CudaSample, takes_the_largest) {
    SKIFF_NEEDS_DEVICE();
    for (const std::int64_t n_vocab : {1, 50, 3000, 270000}) {
        const std::int64_t n_tokens = n_vocab > 3000 ? 1 : 2, stride = n_vocab + 3;
        auto logits = normal_values(n_tokens * stride, 9);
        for (float& x : logits) x = std::nearbyint(x * 8) / 8;  // many are equal
        logits[0] = NAN;
        const DeviceArray<float> device(logits);
        in_every_mode([&](const Launch& launch) {
            const DeviceMemory scratch(sample_scratch_bytes(n_tokens));
            DeviceArray<std::int32_t> ids(n_tokens), positions(std::vector<std::int32_t>{4, 9}), history(n_tokens * 12), top_ids(n_tokens * 64);
            DeviceArray<float> top_values(n_tokens * 64);
            SampleArgs args;
            args.logits = device.data(), args.stride = stride, args.n_vocab = n_vocab, args.n_tokens = n_tokens, args.ids = ids.data(), args.positions = positions.data(), args.history = history.data(), args.history_length = 12;
            args.feed = SampleArgs::Feed::advance, args.scratch = reinterpret_cast<float*>(scratch.data());
            ASSERT_EQ(launch_sample(args, launch), 0);
            const auto got = ids.values(), fed = positions.values(), past = history.values();
            args.feed = SampleArgs::Feed::keep, args.top_k = n_vocab > 3000 ? 1 : 64, args.top_values = top_values.data(), args.top_ids = top_ids.data();
            ASSERT_EQ(launch_sample(args, launch), 0);
            const auto tops = top_ids.values();
            const std::vector<std::int32_t> began = {4, 9};
            for (std::int64_t t = 0; t < n_tokens; ++t) {
                std::vector<std::int32_t> order;
                for (std::int32_t i = 0; i < n_vocab; ++i)
                    if (!std::isnan(logits[static_cast<std::size_t>(t * stride + i)])) order.push_back(i);
                std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return logits[static_cast<std::size_t>(t * stride + a)] > logits[static_cast<std::size_t>(t * stride + b)]; });
                const auto ts = static_cast<std::size_t>(t);
                ASSERT_EQ(got[ts], order.empty() ? 0 : order[0]);
                ASSERT_EQ(fed[ts], began[ts] + 1);
                ASSERT_EQ(past[(static_cast<std::size_t>(began[ts]) + 1) * static_cast<std::size_t>(n_tokens) + ts], order.empty() ? -1 : got[ts]);
                for (std::size_t i = 0; i < 64; ++i) ASSERT_EQ(tops[ts * 64 + i], i < order.size() && i < static_cast<std::size_t>(args.top_k) ? order[i] : -1) << "token " << t << " rank " << i << " of " << n_vocab;
            }
        });
    }
}

TEST(CudaSample, one_scratch_memory_for_any_number_of_tokens) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t most = 8, n_vocab = 500;
    const auto logits = normal_values(most * n_vocab, 31);
    const DeviceArray<float> device(logits);
    in_every_mode([&](const Launch& launch) {
        const DeviceMemory scratch(sample_scratch_bytes(most));
        for (const std::int64_t n_tokens : {8, 1, 5, 8}) {
            DeviceArray<std::int32_t> ids(std::vector<std::int32_t>(static_cast<std::size_t>(n_tokens), -1));
            SampleArgs args;
            args.logits = device.data(), args.stride = n_vocab, args.n_vocab = n_vocab, args.n_tokens = n_tokens, args.ids = ids.data(), args.scratch = reinterpret_cast<float*>(scratch.data());
            ASSERT_EQ(launch_sample(args, launch), 0);
            const auto got = ids.values();
            for (std::int64_t t = 0; t < n_tokens; ++t) {
                const auto row = logits.begin() + t * n_vocab;
                ASSERT_EQ(got[static_cast<std::size_t>(t)], std::max_element(row, row + n_vocab) - row) << "token " << t << " of " << n_tokens;
            }
        }
    });
}

TEST(CudaSample, follows_the_distribution) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t n_vocab = 40;
    std::vector<float> logits(n_vocab, -5.0f);
    logits[7] = 2, logits[30] = 1, logits[3] = 0;
    const DeviceArray<float> device(logits);
    const DeviceMemory scratch(sample_scratch_bytes(1));
    DeviceArray<std::int32_t> ids(1), positions(1);
    std::vector<int> counts(n_vocab);
    constexpr int draws = 150;
    std::vector<double> numbers;
    for (int i = 0; i < draws; ++i) numbers.push_back((i * 37 % draws + 0.5) / draws);
    const DeviceArray<double> uniforms(numbers);
    SampleArgs args;
    args.logits = device.data(), args.stride = n_vocab, args.n_vocab = n_vocab, args.n_tokens = 1, args.ids = ids.data(), args.positions = positions.data(), args.scratch = reinterpret_cast<float*>(scratch.data());
    args.temperature = 1, args.top_k = 3, args.feed = SampleArgs::Feed::advance;
    EXPECT_NE(launch_sample(args, test_launch()), 0) << "no random numbers";
    args.uniforms = uniforms.data(), args.n_uniforms = draws;
    for (int i = 0; i < draws; ++i) {
        ASSERT_EQ(launch_sample(args, test_launch()), 0);
        ++counts[static_cast<std::size_t>(ids.values()[0])];
    }
    const double total = std::exp(2.0) + std::exp(1.0) + 1;
    for (const std::size_t id : {7, 30, 3}) EXPECT_NEAR(counts[id] / static_cast<double>(draws), std::exp(static_cast<double>(logits[id])) / total, 0.01);
    EXPECT_EQ(counts[7] + counts[30] + counts[3], draws);
    args.top_p = 0.5;  // the first alone has two thirds
    ASSERT_EQ(launch_sample(args, test_launch()), 0);
    EXPECT_EQ(ids.values()[0], 7);
    args.top_p = 1, args.log_min_p = std::log(0.9);
    ASSERT_EQ(launch_sample(args, test_launch()), 0);
    EXPECT_EQ(ids.values()[0], 7);
}

// The rule written down once more, from the probabilities themselves: what min-p, top-k and top-p leave, and whose share of it the random number falls into.
TEST(CudaSample, chooses_by_the_rule) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t n_vocab = 700, n_tokens = 3;
    auto logits = normal_values(n_tokens * n_vocab, 77);
    for (float& x : logits) x *= 3;
    const DeviceArray<float> device(logits);
    const DeviceMemory scratch(sample_scratch_bytes(n_tokens));
    const std::vector<double> numbers = {0.0, 0.31, 0.77, 0.999, 0.5, 0.6, 0.2, 0.9, 0.05, 0.4, 0.85, 0.15, 0.7, 0.95, 0.35};  // (n_tokens, 5)
    const DeviceArray<double> uniforms(numbers);
    struct Case {
        double temperature, top_p, min_p;
        std::int32_t top_k;
    };
    for (const Case& c : {Case{0.8, 0.95, 0.05, 40}, Case{1, 1, 0, 64}, Case{2.5, 0.7, 0, 64}, Case{0.1, 0.99, 0.2, 5}, Case{1.3, 1, 0.01, 64}})
        in_every_mode([&](const Launch& launch) {
            DeviceArray<std::int32_t> ids(n_tokens), positions(std::vector<std::int32_t>{0, 6, 18}), history(n_tokens * 32);
            SampleArgs args;
            args.logits = device.data(), args.stride = args.n_vocab = n_vocab, args.n_tokens = n_tokens, args.ids = ids.data(), args.positions = positions.data(), args.scratch = reinterpret_cast<float*>(scratch.data());
            args.temperature = c.temperature, args.top_p = c.top_p, args.top_k = c.top_k, args.uniforms = uniforms.data(), args.n_uniforms = 5, args.feed = SampleArgs::Feed::advance;
            args.history = history.data(), args.history_length = 32;
            if (c.min_p > 0) args.log_min_p = std::log(c.min_p);
            ASSERT_EQ(launch_sample(args, launch), 0);
            const auto got = ids.values(), past = history.values();
            for (std::int64_t t = 0; t < n_tokens; ++t) {
                const float* row = logits.data() + t * n_vocab;
                std::vector<std::int32_t> order(n_vocab);
                std::iota(order.begin(), order.end(), 0);
                std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return row[a] > row[b]; });
                order.resize(static_cast<std::size_t>(c.top_k));
                std::vector<double> chances;
                double all = 0, before = 0, total = 0;
                for (const std::int32_t id : order) all += std::exp(row[id]) >= c.min_p * std::exp(row[order[0]]) ? std::exp(static_cast<double>(row[id])) : 0;
                for (const std::int32_t id : order) {
                    if (std::exp(row[id]) < c.min_p * std::exp(row[order[0]]) || before >= c.top_p * all) break;
                    before += std::exp(static_cast<double>(row[id]));
                    total += chances.emplace_back(std::exp(row[id] / c.temperature));
                }
                const std::int64_t position = t == 0 ? 0 : t == 1 ? 6 : 18;
                double left = numbers[static_cast<std::size_t>(t * 5 + position % 5)] * total;
                std::size_t wanted = 0;
                while (wanted + 1 < chances.size() && left >= chances[wanted]) left -= chances[wanted++];
                EXPECT_EQ(got[static_cast<std::size_t>(t)], order[wanted]) << "token " << t << " at temperature " << c.temperature;
                EXPECT_EQ(past[static_cast<std::size_t>((position + 1) * n_tokens + t)], order[wanted]);
            }
        });
}

// What leaves no choice is said, not guessed.
TEST(CudaSample, says_that_there_is_no_choice) {
    SKIFF_NEEDS_DEVICE();
    const float huge = INFINITY;
    for (const std::vector<float>& logits : {std::vector<float>{NAN, NAN, NAN, NAN}, std::vector<float>{-huge, -huge, -huge, -huge}, std::vector<float>{1, huge, 2, 0}, std::vector<float>{1, NAN, 2, 0}})
        for (const double temperature : {0.0, 1.0}) {
            const DeviceArray<float> device(logits);
            const DeviceMemory scratch(sample_scratch_bytes(1));
            const DeviceArray<double> uniforms(std::vector<double>{0.5});
            DeviceArray<std::int32_t> ids(std::vector<std::int32_t>{9}), positions(std::vector<std::int32_t>{2}), history(8);
            SampleArgs args;
            args.logits = device.data(), args.stride = args.n_vocab = 4, args.n_tokens = 1, args.ids = ids.data(), args.positions = positions.data(), args.scratch = reinterpret_cast<float*>(scratch.data());
            args.temperature = temperature, args.top_k = 4, args.uniforms = uniforms.data(), args.n_uniforms = 1, args.history = history.data(), args.history_length = 8;
            ASSERT_EQ(launch_sample(args, test_launch()), 0);
            const bool one_is_nan = logits[0] == 1 && std::isnan(logits[1]);
            EXPECT_EQ(history.values()[3], one_is_nan && temperature == 0 ? 2 : -1);  // the largest of what are numbers, as on the host
            EXPECT_TRUE(ids.values()[0] >= 0 && ids.values()[0] < 4);
        }
}

// What cuDNN leaves as bf16, as numbers and as every form of operand.
TEST(CudaRows, bfloat_rows_become_numbers_and_operands) {
    SKIFF_NEEDS_DEVICE();
    for (const std::int64_t n_tokens : {1, 7, 33})
        for (const std::int64_t n_columns : {2, 96, 640})
            for (const OperandForm form : {OperandForm::rows, OperandForm::fragments, OperandForm::split}) {
                if (form == OperandForm::split && n_tokens > max_gemv_tokens) continue;
                Rng rng(9);
                std::vector<std::uint16_t> x;
                std::vector<float> wanted;
                for (std::int64_t i = 0; i < n_tokens * n_columns; ++i) {
                    x.push_back(float_to_bf16(rng.normal()));
                    wanted.push_back(bf16_to_float(x.back()));
                }
                in_every_mode([&](const Launch& launch) {
                    const DeviceArray<std::uint16_t> from(x);
                    const std::int64_t stride = n_columns + 6;
                    const DeviceArray<float> y(n_tokens * stride);
                    const DeviceMemory operand(operand_bytes(form, n_tokens, n_columns));
                    ASSERT_EQ(launch_widen({from.data(), n_tokens, n_columns, y.data(), stride, {form, operand.data(), n_columns}}, launch), 0);
                    const auto numbers = y.values();
                    for (std::int64_t t = 0; t < n_tokens; ++t)
                        for (std::int64_t c = 0; c < stride; ++c) ASSERT_EQ(numbers[static_cast<std::size_t>(t * stride + c)], c < n_columns ? wanted[static_cast<std::size_t>(t * n_columns + c)] : 0.0f);
                    EXPECT_EQ(operand_floats(form, operand_values(operand), n_tokens, n_columns), wanted);
                });
            }
    const DeviceArray<float> y(4);
    EXPECT_NE(launch_widen({y.data(), 1, 3, y.data(), 3, {}}, test_launch()), 0);
}

}  // namespace
}  // namespace skiff::cuda
