// The matrix kernels against plain sums, for every stored kind of weight, odd shapes, all ways of writing.
#include <algorithm>
#include <array>

#include "kernels/cuda/launch_testing.h"
#include "kernels/linear_testing.h"

namespace skiff::cuda {
namespace {

using namespace skiff::testing;
using namespace skiff::cuda::testing;

std::vector<Weight> all_weights(std::int64_t n_rows, std::int64_t n_columns) {
    std::vector<Weight> weights = weights_of_all_kinds(n_rows, n_columns);
    for (const SchemePreset& preset : scheme_presets())
        weights.push_back(preset.scheme.is_coded() ? random_codes(n_rows, n_columns, preset.scheme, 70) : random_plain(n_rows, n_columns, preset.scheme.dtype, 70));
    return weights;
}

struct Sums {
    std::vector<double> value, size;  // (n_tokens, n_rows): the sum, and the sum of magnitudes
};
Sums plain_sums(const Weight& weight, const std::vector<float>& x, std::int64_t n_tokens) {
    const std::int64_t n_rows = weight.n_rows(), n_columns = weight.n_columns();
    Sums sums = {std::vector<double>(static_cast<std::size_t>(n_tokens * n_rows)), std::vector<double>(static_cast<std::size_t>(n_tokens * n_rows))};
    std::vector<float> row(static_cast<std::size_t>(n_columns));
    for (std::int64_t r = 0; r < n_rows; ++r) {
        weight.row(r, row.data());
        for (std::int64_t token = 0; token < n_tokens; ++token)
            for (std::int64_t c = 0; c < n_columns; ++c) {
                const double product = static_cast<double>(row[static_cast<std::size_t>(c)]) * x[static_cast<std::size_t>(token * n_columns + c)];
                sums.value[static_cast<std::size_t>(token * n_rows + r)] += product;
                sums.size[static_cast<std::size_t>(token * n_rows + r)] += std::fabs(product);
            }
    }
    return sums;
}
// What an operand in that form keeps of x.
std::vector<float> as_operand(OperandForm form, const std::vector<float>& x, std::int64_t n_tokens, std::int64_t n_columns) {
    std::vector<std::byte> bytes(operand_bytes(form, n_tokens, n_columns));
    host_operand(static_cast<int>(form), x.data(), n_tokens, n_columns, bytes.data());
    return operand_floats(form, bytes, n_tokens, n_columns);
}

int run(bool gemm, const GemvArgs& args, const Launch& launch, float* partials = nullptr, std::int32_t* arrivals = nullptr) {
    if (!gemm) return launch_gemv(args, launch);
    GemmArgs more;
    more.weight = args.weight, more.x = args.x, more.n_tokens = args.n_tokens, more.rms = args.rms, more.bias = args.bias, more.write = args.write, more.activation = args.activation;
    more.y = args.y, more.y_stride = args.y_stride, more.softcap = args.softcap, more.factor = args.factor, more.next = args.next, more.partials = partials, more.arrivals = arrivals, more.x_columns = args.x_columns, more.x_first = args.x_first;
    return launch_gemm(more, launch);
}

void expect_sums(const Weight& weight, std::int64_t n_tokens, bool gemm) {
    const OperandForm form = gemm ? OperandForm::fragments : OperandForm::split;
    const std::int64_t n_rows = weight.n_rows(), n_columns = weight.n_columns();
    const DeviceWeight device = device_weight(weight);
    const auto x = normal_values(n_tokens * n_columns, 3);
    const DeviceMemory operand = device_operand(form, x, n_tokens, n_columns);
    const Sums wanted = plain_sums(weight, as_operand(form, x, n_tokens, n_columns), n_tokens);
    in_every_mode([&](const Launch& launch) {
        DeviceArray<float> y(n_tokens * n_rows), partials(static_cast<std::int64_t>(gemm_partial_bytes(device.view, n_tokens, launch) / 4) + 1);
        DeviceArray<std::int32_t> arrivals(gemm_arrivals(device.view, n_tokens));
        GemvArgs args;
        args.weight = device.view, args.x = operand.data(), args.n_tokens = n_tokens, args.y = y.data(), args.y_stride = n_rows;
        ASSERT_EQ(run(gemm, args, launch, partials.data(), arrivals.data()), 0);
        const auto values = y.values();
        for (std::size_t i = 0; i < values.size(); ++i)
            ASSERT_NEAR(values[i], wanted.value[i], wanted.size[i] * 0x1p-15 + 1e-30) << "token " << i / static_cast<std::size_t>(n_rows) << " row " << i % static_cast<std::size_t>(n_rows);
        for (std::int32_t count : arrivals.values()) ASSERT_EQ(count, 0);
    });
}

TEST(CudaLinear, gemv_of_every_kind) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t shapes[][3] = {{19, 172, 1}, {40, 700, 3}, {16, 64, 8}};
    for (const auto& shape : shapes)
        for (const Weight& weight : all_weights(shape[0], shape[1])) {
            SCOPED_TRACE(weight.encoding_name() + " " + shape_text(weight.shape) + " tokens " + std::to_string(shape[2]));
            ASSERT_NO_FATAL_FAILURE(expect_sums(weight, shape[2], false));
        }
}

TEST(CudaLinear, gemm_of_every_kind) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t shapes[][3] = {{19, 172, 9}, {150, 1100, 13}};
    for (const auto& shape : shapes)
        for (const Weight& weight : all_weights(shape[0], shape[1])) {
            SCOPED_TRACE(weight.encoding_name() + " " + shape_text(weight.shape) + " tokens " + std::to_string(shape[2]));
            ASSERT_NO_FATAL_FAILURE(expect_sums(weight, shape[2], true));
        }
}

TEST(CudaLinear, wide_and_many_tokens) {
    SKIFF_NEEDS_DEVICE();
    for (const char* name : {"w4g128", "bf16", "w8", "w3g32r", "nf4"}) {
        SCOPED_TRACE(name);
        const Scheme scheme = *parse_scheme(name);
        const Weight weight = scheme.is_coded() ? random_codes(70, 2500, scheme, 8) : random_plain(70, 2500, scheme.dtype, 8);
        for (std::int64_t n_tokens : {4, 5, 8}) ASSERT_NO_FATAL_FAILURE(expect_sums(weight, n_tokens, false));
        for (std::int64_t n_tokens : {1, 64, 75}) ASSERT_NO_FATAL_FAILURE(expect_sums(weight, n_tokens, true));
    }
}

// Widths that are whole chunks for eight warps (2304) and for sixteen (4096), and one whose last chunk is not whole: groups of a slab, of several, of more than a chunk, of the whole row.
TEST(CudaLinear, gemv_in_chunks) {
    SKIFF_NEEDS_DEVICE();
    for (const char* name : {"w4", "w4g64", "w4g128", "w4g128a", "w4g512", "w4g32r", "w3g64", "w3g128r", "w2g128", "w2g64a", "w1g128", "w5g128", "w6g64a", "w8g128", "w8g256a", "w4g32", "w4g32a", "w8g32a",
                             "w5g32r", "n4g32r", "n4g128", "n3g64", "n2g32r", "mxfp4", "ternary", "nf4", "e4m3", "bf16"}) {
        const auto parsed = parse_scheme(name);
        ASSERT_TRUE(parsed.ok()) << name;
        for (const std::int64_t n_columns : {2304, 2400, 4096}) {
            SCOPED_TRACE(std::string(name) + ", " + std::to_string(n_columns) + " columns");
            const Weight weight = parsed->is_coded() ? random_codes(20, n_columns, *parsed, 8) : random_plain(20, n_columns, parsed->dtype, 8);
            for (const std::int64_t n_tokens : {1, 3, 6}) ASSERT_NO_FATAL_FAILURE(expect_sums(weight, n_tokens, false));
        }
    }
}

// Inputs of any size, and those that are no numbers, which concern their own token alone.
TEST(CudaLinear, digits_of_inputs_of_any_size) {
    SKIFF_NEEDS_DEVICE();
    const Weight weight = random_codes(20, 2304, *parse_scheme("w4g128"), 8);
    const DeviceWeight device = device_weight(weight);
    auto x = normal_values(5 * 2304, 3);
    const float factors[] = {1e35f, 1e-25f, 1, 1, 1};
    for (int token = 0; token < 5; ++token)
        for (int c = 0; c < 2304; ++c) x[static_cast<std::size_t>(token * 2304 + c)] *= factors[token];
    x[2 * 2304 + 7] = 3000;  // one much larger: the others of its chunk have steps of 3000 / 32512
    x[3 * 2304 + 100] = NAN;
    x[4 * 2304 + 100] = INFINITY;
    const DeviceMemory operand = device_operand(OperandForm::split, x, 5, 2304);
    const Sums wanted = plain_sums(weight, as_operand(OperandForm::split, x, 5, 2304), 5);
    const auto row = [&](std::int64_t r) {
        std::vector<float> values(2304);
        weight.row(r, values.data());
        return values;
    };
    in_every_mode([&](const Launch& launch) {
        DeviceArray<float> y(5 * 20);
        GemvArgs args;
        args.weight = device.view, args.x = operand.data(), args.n_tokens = 5, args.y = y.data(), args.y_stride = 20;
        ASSERT_EQ(launch_gemv(args, launch), 0);
        const auto values = y.values();
        for (std::size_t i = 0; i < 60; ++i) {
            double rounding = 0;  // of the chunk: half a step of each column
            if (i >= 40)
                for (int c = 0; c < 256; ++c) rounding += std::fabs(static_cast<double>(row(static_cast<std::int64_t>(i) % 20)[static_cast<std::size_t>(c)])) * 3000 / 32512 / 2;
            ASSERT_NEAR(values[i], wanted.value[i], wanted.size[i] * 0x1p-15 + rounding) << i;
        }
        for (std::size_t i = 60; i < 100; ++i) ASSERT_FALSE(std::isfinite(values[i])) << i;
    });
}

// More digits than two blocks of an SM have shared memory for: a chunk's are made when it is multiplied. And wide records of eight tokens, which are multiplied in two launches where a block has 99 KiB.
TEST(CudaLinear, digits_of_a_chunk_at_a_time) {
    SKIFF_NEEDS_DEVICE();
    for (const char* name : {"w4g128", "w8g64a"}) {
        SCOPED_TRACE(name);
        const Weight weight = random_codes(40, 14336, *parse_scheme(name), 8);
        for (const std::int64_t n_tokens : {1, 8}) ASSERT_NO_FATAL_FAILURE(expect_sums(weight, n_tokens, false));
    }
    for (const bool wide : {false, true})
        for (const char* name : {"w6", "w6g32r", "w6g32a", "w5g32a", "w4g32a", "w3g32a", "w1g32a"}) {
            Scheme scheme = *parse_scheme(name);
            if (wide && !scheme.relative_scales()) scheme.scale_dtype = DType::f32;
            SCOPED_TRACE(std::string(name) + (wide ? ", f32" : ""));
            const Weight weight = random_codes(20, 2304, scheme, 8);
            for (const std::int64_t n_tokens : {4, 5, 8}) ASSERT_NO_FATAL_FAILURE(expect_sums(weight, n_tokens, false));
        }
}

// Two of every four columns kept, by the sparse tensor cores: every form and kind of scale, units cut among warps and blocks, tiles behind the last row.
TEST(CudaLinear, two_of_four) {
    SKIFF_NEEDS_DEVICE();
    for (const SparseCase& each : {SparseCase{"2:4", "bf16"}, SparseCase{"2:4", "w8"}, SparseCase{"2:4", "w8g32"}, SparseCase{"2:4", "w4g32r"}, SparseCase{"2:4", "w4g128"}, SparseCase{"1:4", "w4g64"}})
        for (const auto& shape : {std::array<std::int64_t, 2>{37, 300}, {70, 2500}}) {
            const Weight weight = random_sparse(shape[0], shape[1], each.target, *parse_scheme(each.scheme), 8);
            SCOPED_TRACE(std::string(each.target) + " " + each.scheme + " " + shape_text(weight.shape));
            ASSERT_TRUE(gpu_form(weight).two_of_four);
            for (std::int64_t n_tokens : {1, 4, 5, 8}) ASSERT_NO_FATAL_FAILURE(expect_sums(weight, n_tokens, false));
            for (std::int64_t n_tokens : {1, 9, 64, 75}) ASSERT_NO_FATAL_FAILURE(expect_sums(weight, n_tokens, true));
        }
}

// Groups of 16 with records of 4 and 8 bytes: the most shared memory that rings need.
TEST(CudaLinear, wide_records_fit_every_gpu) {
    SKIFF_NEEDS_DEVICE();
    for (const char* name : {"w1g16", "w1g16a", "w2g16", "w2g16a", "w3g16", "w3g16a", "w4g16a", "w5g16a", "w6g16a", "nf4g16"}) {
        const auto parsed = parse_scheme(name);
        ASSERT_TRUE(parsed.ok()) << name;
        Scheme scheme = *parsed;
        scheme.scale_dtype = DType::f32;
        SCOPED_TRACE(name);
        const Weight weight = random_codes(20, 2600, scheme, 9);
        for (const std::int64_t n_tokens : {1, 6}) ASSERT_NO_FATAL_FAILURE(expect_sums(weight, n_tokens, false));
        ASSERT_NO_FATAL_FAILURE(expect_sums(weight, 10, true));
    }
    for (const char* name : {"w1g64a", "w2g64a", "w3g64a", "w4g64a", "w8g64a"}) {
        Scheme scheme = *parse_scheme(name);
        scheme.scale_dtype = DType::f32;
        SCOPED_TRACE(name);
        const Weight weight = random_codes(20, 8192, scheme, 9);
        for (const std::int64_t n_tokens : {1, 6}) ASSERT_NO_FATAL_FAILURE(expect_sums(weight, n_tokens, false));
    }
}

// The same bits for a token alone and among others.
TEST(CudaLinear, gemv_does_not_depend_on_the_batch) {
    SKIFF_NEEDS_DEVICE();
    for (const auto& [name, n_columns] : {std::pair<const char*, std::int64_t>("w4g128", 4096), {"w4g32a", 14336}, {"n4g32r", 2304}, {"w6g32r", 2304}, {"w8", 2048}, {"bf16", 2304}, {"w4g32", 900}, {"w4g32a", 900}, {"n2g16r", 900}, {"w5g32r", 900}, {"2:4", 900}}) {
        const std::int64_t width = n_columns;
        const Weight weight = std::string(name) == "2:4" ? random_sparse(40, width, name, *parse_scheme("w4g32r"), 4) : std::string(name) == "bf16" ? random_plain(40, width, DType::bf16, 4) : random_codes(40, width, *parse_scheme(name), 4);
        const DeviceWeight device = device_weight(weight);
        const auto x = normal_values(8 * width, 5);
        const auto product = [&](std::int64_t first, std::int64_t n) {
            const std::vector<float> part(x.begin() + first * width, x.begin() + (first + n) * width);
            const DeviceMemory operand = device_operand(OperandForm::split, part, n, width);
            DeviceArray<float> y(n * 40);
            GemvArgs args;
            args.weight = device.view, args.x = operand.data(), args.n_tokens = n, args.y = y.data(), args.y_stride = 40;
            EXPECT_EQ(launch_gemv(args, test_launch()), 0);
            return y.values();
        };
        const auto all = product(0, 8);
        for (std::int64_t token = 0; token < 8; ++token) EXPECT_TRUE(same_bits(product(token, 1), {all.begin() + token * 40, all.begin() + (token + 1) * 40})) << name << " token " << token;
    }
}

// Whatever a tuning table says, the bits are the same.
TEST(CudaLinear, tuning_changes_no_bit) {
    SKIFF_NEEDS_DEVICE();
    for (const auto& [name, n_columns] : {std::pair<const char*, std::int64_t>("bf16", 900), {"w4g32", 900}, {"w2g16a", 900}, {"nf4", 900}, {"w4g128", 2304}, {"w8", 2048}}) {
        const std::int64_t width = n_columns;
        Scheme scheme = *parse_scheme(name);
        const Weight weight = scheme.is_coded() ? random_codes(150, width, scheme, 4) : random_plain(150, width, scheme.dtype, 4);
        const DeviceWeight device = device_weight(weight);
        const auto x = normal_values(5 * width, 5);
        const DeviceMemory operand = device_operand(OperandForm::split, x, 5, width);
        const auto product = [&](const Tuning& tuning) {
            DeviceArray<float> y(5 * 150);
            GemvArgs args;
            args.weight = device.view, args.x = operand.data(), args.n_tokens = 5, args.y = y.data(), args.y_stride = 150;
            Launch launch = test_launch();
            launch.tuning = tuning;
            EXPECT_EQ(launch_gemv(args, launch), 0);
            return y.values();
        };
        const auto expected = product({});
        for (const int blocks : {0, 1, 2})
            for (const auto ring : {Tuning::Ring::longest, Tuning::Ring::shortest}) {
                Tuning tuning;
                std::fill(std::begin(tuning.gemv_blocks), std::end(tuning.gemv_blocks), static_cast<std::uint8_t>(blocks));
                std::fill(std::begin(tuning.gemv_ring), std::end(tuning.gemv_ring), ring);
                EXPECT_TRUE(same_bits(product(tuning), expected)) << name;
            }
    }
}

// Residual: what was there is added; the next norm's operand and sums of squares; the pending norm of x; bias; strides.
TEST(CudaLinear, writes_the_residual_and_the_next_operand) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t n_rows = 52, n_columns = 300, stride = 60;
    const Weight weight = random_codes(n_rows, n_columns, *parse_scheme("w4g32a"), 11);
    const DeviceWeight device = device_weight(weight);
    for (const std::int64_t n_tokens : {2, 7, 21}) {
        const bool gemm = n_tokens > 8;
        const OperandForm form = gemm ? OperandForm::fragments : OperandForm::split;
        const auto x = normal_values(n_tokens * n_columns, 12), bias = normal_values(n_rows, 13), old = normal_values(n_tokens * stride, 14), norm = normal_values(n_rows, 15);
        const std::int64_t n_parts = pending_parts(n_columns);
        const auto squares = normal_values(n_tokens * n_parts, 16);
        std::vector<float> square_sums;
        for (float v : squares) square_sums.push_back(v * v);
        const Sums sums = plain_sums(weight, as_operand(form, x, n_tokens, n_columns), n_tokens);
        in_every_mode([&](const Launch& launch) {
            const DeviceMemory operand = device_operand(form, x, n_tokens, n_columns), next(operand_bytes(form, n_tokens, n_rows));
            const DeviceArray<float> y(old), b(bias), weights(norm), pending(square_sums), next_sums(n_tokens * pending_parts(n_rows));
            GemvArgs args;
            args.weight = device.view, args.x = operand.data(), args.n_tokens = n_tokens, args.bias = b.data(), args.write = GemvWrite::add, args.y = y.data(), args.y_stride = stride, args.factor = 0.5f;
            args.rms = {pending.data(), n_parts, n_columns, 1e-5f};
            args.next = {weights.data(), {form, next.data(), n_rows}, next_sums.data()};
            ASSERT_EQ(run(gemm, args, launch), 0);
            const auto got = y.values(), got_sums = next_sums.values();
            const auto got_operand = operand_floats(form, operand_values(next), n_tokens, n_rows);
            for (std::int64_t token = 0; token < n_tokens; ++token) {
                double total = 0;
                for (std::int64_t i = 0; i < n_parts; ++i) total += square_sums[static_cast<std::size_t>(token * n_parts + i)];
                const double scale = 1 / std::sqrt(total / n_columns + 1e-5);
                std::vector<double> parts(static_cast<std::size_t>(pending_parts(n_rows)));
                for (std::int64_t r = 0; r < stride; ++r) {
                    const auto at = static_cast<std::size_t>(token * stride + r);
                    if (r >= n_rows) {
                        ASSERT_EQ(got[at], old[at]);
                        continue;
                    }
                    const auto i = static_cast<std::size_t>(token * n_rows + r);
                    const double wanted = old[at] + 0.5 * (sums.value[i] * scale + bias[static_cast<std::size_t>(r)]);
                    ASSERT_NEAR(got[at], wanted, sums.size[i] * scale * 0x1p-15 + 1e-5) << "token " << token << " row " << r;
                    ASSERT_NEAR(got_operand[i], got[at] * norm[static_cast<std::size_t>(r)], std::fabs(got[at] * norm[static_cast<std::size_t>(r)]) * (gemm ? 0x1p-8 : 0x1p-15) + 1e-20);
                    parts[static_cast<std::size_t>(r / 16)] += static_cast<double>(got[at]) * got[at];
                }
                for (std::size_t i = 0; i < parts.size(); ++i) ASSERT_NEAR(got_sums[static_cast<std::size_t>(token) * parts.size() + i], parts[i], parts[i] * 1e-5 + 1e-20);
            }
        });
    }
}

// The block that ends last has the norms of the finished rows: the same numbers as a launch of their own.
TEST(CudaLinear, the_last_block_norms_the_rows) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t shapes[][2] = {{52, 300}, {272, 64}, {8000, 64}, {52, 4096}};  // the last in chunks
    for (const auto& shape : shapes)
        for (const std::int64_t n_tokens : {1, 4})
            for (const NormKind kind : {NormKind::rms, NormKind::layer}) {
                const std::int64_t n_rows = shape[0], n_columns = shape[1];
                if (n_rows > 1000 && (n_tokens > 1 || kind == NormKind::rms)) continue;  // a row that is more than the rings
                const Weight weight = random_codes(n_rows, n_columns, *parse_scheme(n_columns > 1000 ? "w4g128" : "w4g32a"), 11);
                const DeviceWeight device = device_weight(weight);
                const auto x = normal_values(n_tokens * n_columns, 12), old = normal_values(n_tokens * n_rows, 14), all = normal_values(5 * n_rows, 15);
                const DeviceArray<float> vectors(all), stream(old);
                const DeviceMemory operand = device_operand(OperandForm::split, x, n_tokens, n_columns);
                in_every_mode([&](const Launch& launch) {
                    std::vector<std::vector<float>> found[2];
                    for (const bool apart : {false, true}) {
                        const DeviceArray<float> y(old), sum(n_tokens * n_rows), normed(n_tokens * n_rows);
                        const DeviceArray<std::int32_t> arrivals(1);
                        const DeviceMemory first(operand_bytes(OperandForm::split, n_tokens, n_rows)), second(operand_bytes(OperandForm::split, n_tokens, n_rows));
                        NormLaunchArgs norms;
                        norms.x = y.data(), norms.x_stride = n_rows, norms.residual = stream.data(), norms.sum = sum.data(), norms.n_tokens = n_tokens, norms.width = n_rows, norms.eps = 1e-5f, norms.kind = kind;
                        norms.behind = {NormLaunchArgs::Behind::Is::there, kind, 1e-6f, vectors.data(), nullptr};
                        norms.weight = vectors.data() + n_rows, norms.bias = vectors.data() + 2 * n_rows, norms.y = normed.data(), norms.y_stride = n_rows, norms.operand = {OperandForm::split, first.data(), n_rows};
                        norms.second_weight = vectors.data() + 3 * n_rows, norms.second_bias = vectors.data() + 4 * n_rows, norms.second = {OperandForm::split, second.data(), n_rows};
                        GemvArgs args;
                        args.weight = device.view, args.x = operand.data(), args.n_tokens = n_tokens, args.write = GemvWrite::add, args.y = y.data(), args.y_stride = n_rows;
                        if (!apart) args.norms = norms, args.arrivals = arrivals.data();
                        for (int again = 0; again < 2; ++again) {
                            args.write = again == 0 ? GemvWrite::add : GemvWrite::replace;
                            ASSERT_EQ(launch_gemv(args, launch), 0);
                            if (apart) {
                                ASSERT_EQ(launch_norm(norms, launch), 0);
                            }
                            ASSERT_EQ(arrivals.values()[0], 0);
                            for (const auto& values : {y.values(), sum.values(), normed.values(), operand_floats(OperandForm::split, operand_values(first), n_tokens, n_rows),
                                                       operand_floats(OperandForm::split, operand_values(second), n_tokens, n_rows)})
                                found[apart ? 1 : 0].push_back(values);
                        }
                    }
                    EXPECT_GT(*std::max_element(found[0][2].begin(), found[0][2].end()), 0.5f);
                    for (std::size_t i = 0; i < found[0].size(); ++i) ASSERT_EQ(found[0][i], found[1][i]) << "result " << i << ", " << n_rows << " rows, " << n_tokens << " tokens";
                });
                GemvArgs args;
                args.weight = device.view, args.n_tokens = 5, args.norms.width = n_rows;
                DeviceArray<std::int32_t> arrivals(1);
                args.arrivals = arrivals.data();
                EXPECT_NE(launch_gemv(args, test_launch()), 0);
            }
}

// Parts of an operand: what one product wrote for three matrices, each of which reads its own columns.
TEST(CudaLinear, products_of_parts_of_an_operand) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t heights[] = {40, 300, 24}, firsts[] = {0, 256, 768}, n_columns = 130, n_rows = 364, padded = 768 + 24;
    const Weight down = random_codes(n_rows, n_columns, *parse_scheme("w4g32"), 41);
    const DeviceWeight device = device_weight(down);
    for (const std::int64_t n_tokens : {1, 6, 21}) {
        const bool gemm = n_tokens > 8;
        const OperandForm form = gemm ? OperandForm::fragments : OperandForm::split;
        const auto x = normal_values(n_tokens * n_columns, 42);
        in_every_mode([&](const Launch& launch) {
            const DeviceMemory operand = device_operand(form, x, n_tokens, n_columns), parts(operand_bytes(form, n_tokens, padded));
            DeviceArray<float> y(n_tokens * n_rows);
            GemvArgs args;
            args.weight = device.view, args.x = operand.data(), args.n_tokens = n_tokens, args.y = y.data(), args.y_stride = n_rows;
            args.next.operand = {form, parts.data(), padded, {40, 340}, {256 - 40, 768 - 340}};
            ASSERT_EQ(run(gemm, args, launch), 0);
            const auto found = operand_floats(form, operand_values(parts), n_tokens, padded), numbers = y.values();
            std::int64_t row = 0;
            for (int part = 0; part < 3; ++part) {
                std::vector<float> mine;
                for (std::int64_t token = 0; token < n_tokens; ++token)
                    for (std::int64_t c = 0; c < heights[part]; ++c) {
                        mine.push_back(found[static_cast<std::size_t>(token * padded + firsts[part] + c)]);
                        const float number = numbers[static_cast<std::size_t>(token * n_rows + row + c)];
                        ASSERT_NEAR(mine.back(), number, std::fabs(number) * (gemm ? 0x1p-8 : 0x1p-15) + 1e-20) << "part " << part << " column " << c;
                    }
                row += heights[part];
                const Weight up = random_codes(37, heights[part], *parse_scheme("w8g32"), 43);
                const DeviceWeight up_device = device_weight(up);
                const Sums wanted = plain_sums(up, mine, n_tokens);
                DeviceArray<float> product(n_tokens * 37);
                GemvArgs next;
                next.weight = up_device.view, next.x = parts.data(), next.x_columns = padded, next.x_first = firsts[part], next.n_tokens = n_tokens, next.y = product.data(), next.y_stride = 37;
                ASSERT_EQ(run(gemm, next, launch), 0);
                const auto got = product.values();
                for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], wanted.value[i], wanted.size[i] * 0x1p-15 + 1e-30) << "part " << part << " of " << n_tokens << " tokens";
            }
        });
    }
}

// Numbers that were kept aside, of several matrices, some without any; operands of every form, a pending norm, what is there before.
TEST(CudaLinear, rows_of_a_few_numbers) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t n_columns = 700, stride = 130;
    for (const DType dtype : {DType::f16, DType::bf16}) {
        std::vector<Weight> weights;
        for (const std::int64_t n_rows : {37, 60}) {
            std::vector<float> values;
            std::vector<std::int32_t> columns;
            std::vector<std::int64_t> rows = {0};
            for (std::int64_t r = 0; r < n_rows; ++r) {  // from none to more than a warp has lanes
                for (std::int64_t c = r % 5; c < n_columns; c += r % 7 == 0 ? 13 : 90 + r) columns.push_back(static_cast<std::int32_t>(c));
                if (r % 11 == 3) columns.resize(static_cast<std::size_t>(rows.back()));
                rows.push_back(static_cast<std::int64_t>(columns.size()));
            }
            values = normal_values(static_cast<std::int64_t>(columns.size()), 51);
            weights.push_back(make_outliers({n_rows, n_columns}, dtype, values, columns, rows));
        }
        const RowSource sources[] = {{&weights[0], RowMap::all(37)}, {nullptr, RowMap::all(20)}, {&weights[1], {30, 30, 30, 1}}};
        const auto packed = pack_sparse_rows(sources);
        ASSERT_TRUE(packed.has_value());
        const std::int64_t n_rows = packed->n_rows;
        ASSERT_EQ(n_rows, 37 + 20 + 30);
        for (const OperandForm form : {OperandForm::split, OperandForm::fragments, OperandForm::rows})
            for (const std::int64_t n_tokens : {1, 7, 21}) {
                if (form == OperandForm::split && n_tokens > 8) continue;
                const auto x = normal_values(n_tokens * n_columns, 52), old = normal_values(n_tokens * stride, 53);
                const auto seen = as_operand(form, x, n_tokens, n_columns);
                const std::int64_t n_parts = pending_parts(n_columns);
                const std::vector<float> squares(static_cast<std::size_t>(n_tokens * n_parts), 4.0f);
                const double scale = 1 / std::sqrt(4.0 * static_cast<double>(n_parts) / n_columns + 1e-5);
                std::vector<float> row(static_cast<std::size_t>(n_columns));
                in_every_mode([&](const Launch& launch) {
                    const DeviceMemory operand = device_operand(form, x, n_tokens, n_columns);
                    const DeviceArray<std::uint32_t> entries(packed->entries);
                    const DeviceArray<std::int32_t> begins(packed->begins);
                    const DeviceArray<float> pending(squares);
                    for (const auto write : {SparseRowsArgs::Write::add, SparseRowsArgs::Write::replace}) {
                        const DeviceArray<float> y(old);
                        SparseRowsArgs args;
                        args.entries = entries.data(), args.begins = begins.data(), args.values = packed->values, args.n_rows = n_rows, args.n_columns = n_columns, args.x = operand.data(), args.form = form;
                        args.n_tokens = n_tokens, args.rms = {pending.data(), n_parts, n_columns, 1e-5f}, args.write = write, args.y = y.data(), args.y_stride = stride;
                        ASSERT_EQ(launch_sparse_rows(args, launch), 0);
                        const auto got = y.values();
                        for (std::int64_t r = 0; r < n_rows; ++r) {
                            std::fill(row.begin(), row.end(), 0.0f);
                            if (r < 37) weights[0].row(r, row.data());
                            else if (r >= 57) weights[1].row(30 + r - 57, row.data());
                            for (std::int64_t token = 0; token < n_tokens; ++token) {
                                double sum = 0, size = 0;
                                for (std::int64_t c = 0; c < n_columns; ++c) {
                                    const double product = static_cast<double>(row[static_cast<std::size_t>(c)]) * seen[static_cast<std::size_t>(token * n_columns + c)];
                                    sum += product, size += std::fabs(product);
                                }
                                const auto at = static_cast<std::size_t>(token * stride + r);
                                ASSERT_NEAR(got[at], (write == SparseRowsArgs::Write::add ? old[at] : 0) + sum * scale, size * scale * 0x1p-18 + 1e-6) << "token " << token << " row " << r;
                            }
                        }
                        for (std::int64_t token = 0; token < n_tokens; ++token) ASSERT_EQ(got[static_cast<std::size_t>(token * stride + n_rows)], old[static_cast<std::size_t>(token * stride + n_rows)]);
                    }
                });
            }
    }
}

TEST(CudaLinear, gate_and_up_in_one) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t height = 45, n_columns = 200;
    const Scheme scheme = *parse_scheme("w4g32");
    const Weight gate = random_codes(height, n_columns, scheme, 21), up = random_codes(height, n_columns, scheme, 22);
    const RowSource pair[] = {{&gate, RowMap::all(height)}, {&up, RowMap::all(height)}};
    const DeviceWeight device(*pack_gpu(pair, Interleave::gate_up));
    const auto bias_gate = normal_values(height, 23, 0.1f), bias_up = normal_values(height, 24, 0.1f);
    for (const std::int64_t n_tokens : {1, 6, 12})
        for (const Activation activation : {Activation::silu, Activation::gelu_tanh, Activation::gelu_erf, Activation::relu}) {
            const bool gemm = n_tokens > 8;
            const OperandForm form = gemm ? OperandForm::fragments : OperandForm::split;
            const auto x = normal_values(n_tokens * n_columns, 25);
            const Sums gates = plain_sums(gate, as_operand(form, x, n_tokens, n_columns), n_tokens), ups = plain_sums(up, as_operand(form, x, n_tokens, n_columns), n_tokens);
            in_every_mode([&](const Launch& launch) {
                const DeviceMemory operand = device_operand(form, x, n_tokens, n_columns), next(operand_bytes(form, n_tokens, height));
                const DeviceArray<float> bias(pair_bias(bias_gate, bias_up));
                GemvArgs args;
                args.weight = device.view, args.x = operand.data(), args.n_tokens = n_tokens, args.bias = bias.data(), args.write = GemvWrite::gate, args.activation = activation;
                args.next.operand = {form, next.data(), height};
                ASSERT_EQ(run(gemm, args, launch), 0);
                const auto got = operand_floats(form, operand_values(next), n_tokens, height);
                for (std::size_t i = 0; i < got.size(); ++i) {
                    const auto g = static_cast<float>(gates.value[i] + bias_gate[i % height]);
                    float activated = 0;
                    activation_kernels()[0].fn({&g, nullptr, &activated, 1, activation}, {0, 1});
                    const double wanted = activated * (ups.value[i] + bias_up[i % height]);
                    ASSERT_NEAR(got[i], wanted, std::fabs(wanted) * (gemm ? 0x1p-7 : 0x1p-12) + (gates.size[i] + ups.size[i] + 1) * 1e-4) << "token " << i / height << " column " << i % height;
                }
            });
        }
}

TEST(CudaLinear, an_activation_behind_a_bias) {
    SKIFF_NEEDS_DEVICE();
    constexpr std::int64_t n_rows = 45, n_columns = 200;
    const Weight weight = random_codes(n_rows, n_columns, *parse_scheme("w8g32"), 61);
    const DeviceWeight device = device_weight(weight);
    const auto bias = normal_values(n_rows, 62, 0.1f);
    for (const std::int64_t n_tokens : {1, 6, 12})
        for (const Activation activation : {Activation::gelu_tanh, Activation::gelu_erf, Activation::relu}) {
            const bool gemm = n_tokens > 8;
            const OperandForm form = gemm ? OperandForm::fragments : OperandForm::split;
            const auto x = normal_values(n_tokens * n_columns, 63);
            const Sums sums = plain_sums(weight, as_operand(form, x, n_tokens, n_columns), n_tokens);
            in_every_mode([&](const Launch& launch) {
                const DeviceMemory operand = device_operand(form, x, n_tokens, n_columns), next(operand_bytes(form, n_tokens, n_rows));
                const DeviceArray<float> biases(bias);
                GemvArgs args;
                args.weight = device.view, args.x = operand.data(), args.n_tokens = n_tokens, args.bias = biases.data(), args.write = GemvWrite::activate, args.activation = activation, args.factor = 0.5f;
                args.next.operand = {form, next.data(), n_rows};
                ASSERT_EQ(run(gemm, args, launch), 0);
                const auto got = operand_floats(form, operand_values(next), n_tokens, n_rows);
                for (std::size_t i = 0; i < got.size(); ++i) {
                    const auto value = static_cast<float>(0.5 * (sums.value[i] + bias[i % n_rows]));
                    float wanted = 0;
                    activation_kernels()[0].fn({&value, nullptr, &wanted, 1, activation}, {0, 1});
                    ASSERT_NEAR(got[i], wanted, std::fabs(wanted) * (gemm ? 0x1p-7 : 0x1p-12) + (sums.size[i] + 1) * 1e-4) << "token " << i / n_rows << " row " << i % n_rows;
                }
            });
        }
}

TEST(CudaLinear, embeds_and_dequantizes) {
    SKIFF_NEEDS_DEVICE();
    for (const Weight& weight : all_weights(37, 300)) {
        SCOPED_TRACE(weight.encoding_name());
        const DeviceWeight device = device_weight(weight);
        const std::int64_t n_columns = weight.n_columns(), n_parts = pending_parts(n_columns);
        const std::vector<std::int32_t> ids = {36, 0, 17, 8, 7};
        const auto norm = normal_values(n_columns, 4);
        std::vector<float> rows(static_cast<std::size_t>(37 * n_columns)), decoded(rows.size());
        for (std::int64_t r = 0; r < 37; ++r) weight.row(r, rows.data() + r * n_columns);
        const GpuWeight host = device.packed.at(device.packed.blob.data());
        for (std::int64_t r = 0; r < 37; ++r) packed_row(host, r, decoded.data() + r * n_columns);
        in_every_mode([&](const Launch& launch) {
            const DeviceArray<std::int32_t> index(ids);
            const DeviceArray<float> x(5 * n_columns), weights(norm), sums(5 * n_parts);
            const DeviceMemory operand(operand_bytes(OperandForm::split, 5, n_columns));
            EmbedArgs args;
            args.table = device.view, args.index = index.data(), args.n_tokens = 5, args.scale = 2, args.x = x.data();
            args.next = {weights.data(), {OperandForm::split, operand.data(), n_columns}, sums.data()};
            ASSERT_EQ(launch_embed(args, launch), 0);
            const auto got = x.values(), got_sums = sums.values();
            const auto got_operand = operand_floats(OperandForm::split, operand_values(operand), 5, n_columns);
            for (std::int64_t t = 0; t < 5; ++t)
                for (std::int64_t part = 0; part < n_parts; ++part) {
                    double squares = 0;
                    for (std::int64_t c = part * 16; c < std::min(n_columns, part * 16 + 16); ++c) {
                        const auto i = static_cast<std::size_t>(t * n_columns + c);
                        const float wanted = decoded[static_cast<std::size_t>(ids[static_cast<std::size_t>(t)] * n_columns + c)] * 2;
                        ASSERT_NEAR(got[i], wanted, std::fabs(wanted) * 0x1p-16 + 1e-6) << "token " << t << " column " << c;
                        ASSERT_NEAR(got_operand[i], got[i] * norm[static_cast<std::size_t>(c)], std::fabs(got[i] * norm[static_cast<std::size_t>(c)]) * 0x1p-15 + 1e-20);
                        squares += static_cast<double>(got[i]) * got[i];
                    }
                    ASSERT_NEAR(got_sums[static_cast<std::size_t>(t * n_parts + part)], squares, squares * 1e-5 + 1e-20);
                }
            const DeviceArray<std::uint16_t> matrix(20 * n_columns);
            ASSERT_EQ(launch_dequantize({device.view, 13, 20, matrix.data(), n_columns}, launch), 0);
            const auto halves = matrix.values();
            for (std::size_t i = 0; i < halves.size(); ++i) {
                const float wanted = rows[13 * static_cast<std::size_t>(n_columns) + i];
                ASSERT_NEAR(bf16_to_float(halves[i]), wanted, std::fabs(wanted) * 0x1p-8 + 1e-4) << i;
            }
        });
    }
}

}  // namespace
}  // namespace skiff::cuda
