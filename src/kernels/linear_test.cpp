// Every linear kernel on every weight of its layout: against the reference, and the same bits however tokens and rows are split.
#include <map>
#include <optional>

#include "kernels/linear_testing.h"

namespace skiff {
namespace {

using testing::Activations;
using testing::for_each_row;
using testing::multiply;
using testing::same_bits;
using testing::weights_of_all_kinds;

// Calls body(packed) for each weight in each layout that accepts it.
template <class Body>
void for_each_weight(std::int64_t n_rows, std::int64_t n_columns, Body body) {
    for (const Weight& weight : weights_of_all_kinds(n_rows, n_columns))
        for (const Layout* layout : layout_table()) {
            if (!layout->accepts(weight)) continue;
            const PackedWeight packed = pack_weight(*layout, weight, RowMap::all(n_rows));
            SCOPED_TRACE(weight.encoding_name() + " rows " + std::to_string(n_rows) + " columns " + std::to_string(packed.n_columns));
            body(packed);
        }
}

// Calls body(kernel) for each kernel of a layout that this processor runs.
template <class Body>
void for_each_kernel_of(const Layout& layout, Body body) {
    for_each_row(linear_kernels(), [&](const LinearKernel& kernel) {
        if (kernel.layout == layout.name) body(kernel);
    });
}

template <class Body>
void for_each_kernel_and_weight(std::int64_t n_rows, std::int64_t n_columns, Body body) {
    for_each_weight(n_rows, n_columns, [&](const PackedWeight& packed) { for_each_kernel_of(*packed.layout, [&](const LinearKernel& kernel) { body(kernel, packed); }); });
}

// Sums of |w x| per output, what rounding errors are measured against, and of |w|.
struct Magnitudes {
    std::vector<double> products, weights;
};
Magnitudes magnitudes(const PackedWeight& packed, const std::vector<float>& x, std::int64_t n_tokens) {
    Magnitudes result;
    // What a weight's size does not show: code * scale - minimum is two sums, each perhaps larger than the result; levels that are no integers are
    // rounded to 1/127 of the largest, so by half of that times a scale (0.02 times a normal number).
    const bool learnt = packed.scheme.kind == NumberKind::clusters && packed.layout->row_unit > 1;  // bytes in tiles
    const bool rounded = learnt || (packed.scheme.kind == NumberKind::codebook && !packed.scheme.codebook->is_float8() && !packed.scheme.codebook->integral());
    const double hidden = packed.scheme.minimums ? 1.0 : rounded ? 0.5 / 127 * 0.08 / 2e-6 : 0.0;
    std::vector<float> row(static_cast<std::size_t>(packed.n_columns));
    std::vector<double> sizes(row.size());
    result.products.resize(static_cast<std::size_t>(n_tokens * packed.n_rows));
    for (std::int64_t r = 0; r < packed.n_rows; ++r) {
        packed.layout->row(packed, r, row.data());
        double sum = 0;
        for (std::size_t c = 0; c < row.size(); ++c) sum += std::fabs(row[c]), sizes[c] = std::fabs(row[c]) + hidden;
        result.weights.push_back(sum);
        for (std::int64_t t = 0; t < n_tokens; ++t) {
            const float* inputs = x.data() + t * packed.n_columns;
            double sums[4] = {};  // so that no add waits for the one before
            for (std::size_t c = 0; c < sizes.size(); ++c) sums[c % 4] += sizes[c] * std::fabs(static_cast<double>(inputs[c]));
            result.products[static_cast<std::size_t>(t * packed.n_rows + r)] = sums[0] + sums[1] + sums[2] + sums[3];
        }
    }
    return result;
}

// What the reference makes of a weight and inputs, and what a kernel that reads them is measured against.
struct Expected {
    std::vector<float> y;  // (n_tokens, n_rows)
    Magnitudes sums;
};

// Tokens behind the first nine are those again, twice as large with each turn: what the reference makes of them is known to the bit without computing it.
constexpr std::int64_t distinct_tokens = 9;
float size_of(std::int64_t token) { return std::ldexp(1.0f, static_cast<int>(token / distinct_tokens)); }

Activations growing_activations(std::int64_t n_tokens, std::int64_t n_columns) {
    const auto distinct = testing::normal_values(distinct_tokens * n_columns, 70, 2);
    std::vector<float> x;
    for (std::int64_t token = 0; token < n_tokens; ++token)
        for (std::int64_t i = 0; i < n_columns; ++i) x.push_back(size_of(token) * distinct[static_cast<std::size_t>(token % distinct_tokens * n_columns + i)]);
    return Activations(std::move(x), n_columns);
}

// All kernels of the weight's layout, with each number of tokens. What they are held against is computed once for those that read floats, once for those that read codes.
void expect_near_reference(const PackedWeight& packed, std::initializer_list<std::int64_t> numbers_of_tokens) {
    static std::map<std::pair<std::int64_t, std::int64_t>, Activations> made;
    const std::int64_t most = std::max(numbers_of_tokens), n_distinct = std::min(most, distinct_tokens), n_rows = packed.n_rows;
    const std::pair<std::int64_t, std::int64_t> key = {most, packed.n_columns};
    if (!made.contains(key)) made.emplace(key, growing_activations(most, packed.n_columns));
    const Activations& activations = made.at(key);
    const PreparedActivation x = activations.from(0);
    const LinearFn reference = linear_kernels()[0].fn;
    std::vector<float> of_floats;
    std::optional<Expected> found[2];  // of inputs as codes stand for them, and as they are
    for_each_kernel_of(*packed.layout, [&](const LinearKernel& kernel) {
        const bool reads_floats = kernel.form == ActivationForm::f32;
        if (of_floats.empty()) of_floats = multiply(reference, packed, x, n_distinct);
        if (!found[reads_floats]) {
            const std::vector<float> inputs = reads_floats ? activations.x : activations.dequantized();
            PreparedActivation seen = x;
            seen.f32 = inputs.data();
            found[reads_floats] = {reads_floats ? of_floats : multiply(reference, packed, seen, n_distinct), magnitudes(packed, inputs, n_distinct)};
        }
        const Expected& expected = *found[reads_floats];
        for (std::int64_t n_tokens : numbers_of_tokens) {
            const auto y = multiply(kernel.fn, packed, x, n_tokens);
            for (std::int64_t token = 0; token < n_tokens; ++token) {
                const auto token_scales = activations.scales.begin() + token * activations.padded / 32;
                const float size = size_of(token), largest_step = *std::max_element(token_scales, token_scales + activations.padded / 32);
                for (std::int64_t row = 0; row < n_rows; ++row) {
                    const float own = y[static_cast<std::size_t>(token * n_rows + row)];
                    const auto at = static_cast<std::size_t>(token % distinct_tokens * n_rows + row);
                    // 2e-6 of the sum of magnitudes: some hundred roundings of 6e-8, which mostly cancel
                    const double rounding = 2e-6 * size * expected.sums.products[at];
                    ASSERT_NEAR(own, size * expected.y[at], rounding + 1e-30) << "output " << row << " of token " << token << " of " << n_tokens;
                    if (reads_floats) continue;
                    ASSERT_NEAR(own, size * of_floats[at], 0.51 * largest_step * expected.sums.weights[static_cast<std::size_t>(row)] + rounding + 1e-6) << "against float activations";
                }
            }
        }
    });
}

TEST(Linear, every_row_against_the_reference_over_widths) {
    for (std::int64_t width : testing::odd_widths) for_each_weight(17, width, [](const PackedWeight& packed) { expect_near_reference(packed, {1, 2, 3, 8, 9, 57}); });
}

TEST(Linear, every_row_against_the_reference_over_rows) {
    for (std::int64_t n_rows : {1, 5, 8, 17, 32, 100}) for_each_weight(n_rows, 172, [](const PackedWeight& packed) { expect_near_reference(packed, {1, 4, 5, 70}); });
}

// Long rows pass through several column blocks of the many-token paths.
TEST(Linear, every_row_against_the_reference_on_long_rows) {
    for_each_weight(20, 2500, [](const PackedWeight& packed) { expect_near_reference(packed, {1, 7}); });
}

// The largest sums that int16 and int32 accumulators meet: all codes and activations at their extremes.
TEST(Linear, extreme_codes_do_not_overflow) {
    for (int bits : {1, 2, 3, 4, 5, 6, 7, 8})
        for (int code : {0, (1 << bits) - 1})
            for (float sign : {1.0f, -1.0f}) {
                Scheme scheme = {NumberKind::integer, DType::bf16, bits, true, 32, DType::f16};
                Weight weight = testing::random_codes(16, 256, scheme, 80);
                std::vector<std::uint8_t> codes(256, static_cast<std::uint8_t>(code));
                std::vector<std::byte> packed_codes(static_cast<std::size_t>(16 * packed_row_bytes(bits, 256)));
                for (int row = 0; row < 16; ++row) pack_codes(codes.data(), bits, 256, packed_codes.data() + row * packed_row_bytes(bits, 256));
                std::get<Codes>(weight.store).packed.data = packed_codes;
                Activations activations(6, 256, 81);
                std::fill(activations.x.begin(), activations.x.end(), 3 * sign);
                quantize_kernels()[0].fn({activations.x.data(), activations.codes.data(), activations.scales.data(), activations.sums.data(), 256, activations.padded}, {0, 6});
                for (const Layout* layout : layout_table()) {
                    if (!layout->accepts(weight)) continue;
                    const PackedWeight packed = pack_weight(*layout, weight, RowMap::all(16));
                    const auto expected = multiply(linear_kernels()[0].fn, packed, activations.from(0), 6);
                    for_each_row(linear_kernels(), [&](const auto& kernel) {
                        if (kernel.layout != layout->name) return;
                        for (std::int64_t n_tokens : {1, 6}) {
                            const auto y = multiply(kernel.fn, packed, activations.from(0), n_tokens);
                            for (std::size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 1e-5 * std::fabs(expected[i])) << bits << " bits, code " << code;
                        }
                    });
                }
            }
}

// The last block of 33 columns in groups of 16 has a second half without a group. Behind the last group's scales lie codes, here such that they would be NaN.
TEST(Linear, a_half_block_without_a_group_reads_no_scale) {
    Scheme scheme = *parse_scheme("w8g16");
    scheme.scale_dtype = DType::f32;
    for (std::int64_t n_columns : {1, 33, 76}) {
        Weight weight = testing::random_codes(16, n_columns, scheme, 82);
        const std::int64_t row_bytes = packed_row_bytes(8, n_columns);
        const std::vector<std::byte> all_ones(static_cast<std::size_t>(16 * row_bytes), std::byte{255});
        std::get<Codes>(weight.store).packed.data = all_ones;
        for (const Layout* layout : layout_table()) {
            if (!layout->accepts(weight)) continue;
            const PackedWeight packed = pack_weight(*layout, weight, RowMap::all(16));
            expect_near_reference(packed, {1, 20});
        }
    }
}

// One instruction set gives one result: a token alone, among others, or in another chunk.
TEST(Linear, bits_do_not_depend_on_the_number_of_tokens) {
    for (std::int64_t width : {33, 172, 1600})
        for_each_kernel_and_weight(19, width, [](const LinearKernel& kernel, const PackedWeight& packed) {
            const std::int64_t n_tokens = packed.n_columns == 172 ? 270 : packed.n_columns > 1000 ? 21 : 65;
            const Activations activations(n_tokens, packed.n_columns, 90);
            std::vector<float> one_by_one;
            for (std::int64_t t = 0; t < n_tokens; ++t) {
                const auto y = multiply(kernel.fn, packed, activations.from(t), 1);
                one_by_one.insert(one_by_one.end(), y.begin(), y.end());
            }
            for (const LinearTiles& tiles : {LinearTiles{24}, LinearTiles{32, 16}, LinearTiles{100, 0, 32}, LinearTiles{48, 32, 256}, LinearTiles{0, 16, 96}, LinearTiles{1, 1, 1}}) {
                std::vector<float> y(one_by_one.size(), NAN);
                kernel.fn({&packed, activations.from(0), nullptr, y.data(), packed.n_rows, n_tokens, LinearArgs::Write::replace, tiles}, {0, packed.n_rows});
                ASSERT_TRUE(same_bits(y, one_by_one)) << tiles.tokens << " tokens, " << tiles.rows << " rows, " << tiles.columns << " columns at once";
            }
            for (std::int64_t n = 2; n <= n_tokens; n += n < 10 ? 1 : 37) {
                auto y = multiply(kernel.fn, packed, activations.from(0), n);
                ASSERT_TRUE(same_bits(y, {one_by_one.begin(), one_by_one.begin() + static_cast<std::ptrdiff_t>(y.size())})) << n << " tokens";
                y = multiply(kernel.fn, packed, activations.from(n_tokens - n), n);
                ASSERT_TRUE(same_bits(y, {one_by_one.end() - static_cast<std::ptrdiff_t>(y.size()), one_by_one.end()})) << "last " << n << " tokens";
            }
        });
}

TEST(Linear, bits_do_not_depend_on_the_split_of_rows) {
    for_each_kernel_and_weight(100, 172, [](const LinearKernel& kernel, const PackedWeight& packed) {
        for (std::int64_t n_tokens : {1, 3, 9}) {
            const Activations activations(n_tokens, packed.n_columns, 91);
            const auto whole = multiply(kernel.fn, packed, activations.from(0), n_tokens);
            for (int n_threads : {2, 3, 7}) {
                std::vector<float> y(whole.size(), NAN);
                for (int thread = 0; thread < n_threads; ++thread)
                    kernel.fn({&packed, activations.from(0), nullptr, y.data(), packed.n_rows, n_tokens, LinearArgs::Write::replace},
                              share_of(packed.n_rows, thread, n_threads, packed.layout->row_unit));
                ASSERT_TRUE(same_bits(whole, y)) << n_threads << " threads";
            }
        }
    });
}

// What a kernel keeps of a call's tokens serves calls of the same epoch alone, whatever the weights of those are.
TEST(Linear, bits_do_not_depend_on_what_was_kept_of_the_tokens) {
    const auto weights = weights_of_all_kinds(19, 172);
    for (std::int64_t n_tokens : {1, 3, 40}) {
        const Activations first(n_tokens, 172, 95), second(n_tokens, 172, 96);
        Activations place = first;  // holds the one, then the other
        std::uint64_t epoch = 1000000;
        for (const auto& kernel : linear_kernels()) {
            if (!testing::runs_here(kernel.isa)) continue;
            for (const Activations* now : {&first, &second}) {
                place.x = now->x, place.codes = now->codes, place.scales = now->scales, place.sums = now->sums;
                ++epoch;
                for (const Weight& weight : weights)
                    for (const Layout* layout : layout_table()) {
                        if (kernel.layout != layout->name || !layout->accepts(weight) || weight.n_columns() != 172) continue;
                        const PackedWeight packed = pack_weight(*layout, weight, RowMap::all(19));
                        const auto expected = multiply(kernel.fn, packed, now->from(0), n_tokens);
                        std::vector<float> y(expected.size(), NAN);
                        kernel.fn({&packed, place.from(0), nullptr, y.data(), packed.n_rows, n_tokens, LinearArgs::Write::replace, {}, epoch}, {0, 16});
                        kernel.fn({&packed, place.from(0), nullptr, y.data(), packed.n_rows, n_tokens, LinearArgs::Write::replace, {}, epoch}, {16, 19});
                        ASSERT_TRUE(same_bits(y, expected)) << kernel.name << " " << weight.encoding_name() << " " << n_tokens << " tokens";
                    }
            }
        }
    }
}

TEST(Linear, bias_accumulation_and_stride) {
    for_each_kernel_and_weight(21, 64, [](const LinearKernel& kernel, const PackedWeight& packed) {
        const auto bias = testing::normal_values(21, 92), before = testing::normal_values(10 * 30, 93);
        for (std::int64_t n_tokens : {1, 3, 9}) {
            const Activations activations(n_tokens, packed.n_columns, 94);
            const auto plain = multiply(kernel.fn, packed, activations.from(0), n_tokens);
            for (auto write : {LinearArgs::Write::replace, LinearArgs::Write::add}) {
                auto y = before;
                kernel.fn({&packed, activations.from(0), bias.data(), y.data() + 2, 30, n_tokens, write}, {0, 21});
                for (std::size_t i = 0; i < y.size(); ++i) {
                    const std::size_t token = i < 2 ? 99 : (i - 2) / 30, row = (i - 2) % 30;
                    if (i < 2 || row >= 21 || token >= static_cast<std::size_t>(n_tokens)) {
                        ASSERT_EQ(y[i], before[i]) << "written outside";
                        continue;
                    }
                    const float value = plain[token * 21 + row] + bias[row];
                    ASSERT_EQ(y[i], write == LinearArgs::Write::add ? before[i] + value : value);
                }
            }
        }
    });
}

}  // namespace
}  // namespace skiff
