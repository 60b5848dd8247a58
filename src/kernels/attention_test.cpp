// Attention and the writing of its state: every row against the reference, in every storage scheme, and bits that do not depend on how the work is split.
#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

#include "kernels/kernels_testing.h"

namespace skiff {
namespace {

using testing::for_each_row;
using testing::normal_values;
using testing::relative_error;
using testing::same_bits;

struct Case {
    std::int64_t n_heads, n_kv_heads, head_dim, window;
    float softcap;
};

constexpr std::int64_t n_positions = 700;

// Keys or values of one sequence, written by the reference.
AlignedBuffer written_by_reference(const StateLayout& layout, StatePart part, std::uint64_t seed) {
    AlignedBuffer buffer(static_cast<std::size_t>(state_region_bytes(layout, part, n_positions)));
    std::memset(buffer.as<std::byte>(), 0, buffer.size_bytes());
    const std::int64_t row_size = layout.n_kv_heads * layout.head_dim;
    const auto x = normal_values(n_positions * row_size, seed);
    std::vector<std::int32_t> positions(n_positions);
    std::iota(positions.begin(), positions.end(), 0);
    const std::vector<std::byte*> rows(positions.size(), buffer.as<std::byte>());
    state_write_kernels()[0].fn({x.data(), row_size, rows.data(), positions.data(), layout.n_kv_heads, layout.head_dim, {0, layout.n_kv_heads}, layout.scheme, part}, {0, n_positions});
    return buffer;
}

// One's own copy of such; many scenes begin with the same, which is written once.
struct Region {
    AlignedBuffer buffer;
    std::byte* data() const { return const_cast<std::byte*>(buffer.as<const std::byte>()); }

    Region(const Case& c, StateScheme scheme, StatePart part, std::uint64_t seed) {
        static std::map<std::tuple<std::int64_t, std::int64_t, StateScheme, StatePart, std::uint64_t>, AlignedBuffer> written;
        AlignedBuffer& whole = written[{c.n_kv_heads, c.head_dim, scheme, part, seed}];
        if (whole.size_bytes() == 0) whole = written_by_reference(state_layout(scheme, c.n_kv_heads, c.head_dim), part, seed);
        buffer = AlignedBuffer(whole.size_bytes());
        std::memcpy(data(), whole.as<std::byte>(), whole.size_bytes());
    }
};

// One sequence of 700 positions in the state; queries at several of them.
struct Scene {
    Case c;
    StateScheme scheme;
    Region keys, values;
    std::vector<std::int32_t> positions = {0, 1, 7, 31, 32, 255, 256, 300, 511, 699};
    std::vector<const std::byte*> key_bases, value_bases;
    std::vector<float> q;
    mutable std::vector<float> partials;
    mutable std::vector<std::int32_t> arrivals;

    Scene(Case shape, StateScheme state_scheme)
        : c(shape), scheme(state_scheme), keys(shape, state_scheme, StatePart::keys, 20), values(shape, state_scheme, StatePart::values, 21) {
        key_bases.assign(positions.size(), keys.data());
        value_bases.assign(positions.size(), values.data());
        q = normal_values(n_tokens() * c.n_heads * c.head_dim, 22, 2);
    }
    std::int64_t n_tokens() const { return static_cast<std::int64_t>(positions.size()); }
    AttentionArgs args(std::vector<float>& y) const {
        y.assign(q.size(), NAN);
        AttentionArgs args{q.data(), key_bases.data(), value_bases.data(), positions.data(), y.data(), n_tokens(), c.n_heads, c.n_kv_heads, c.head_dim, c.window,
                           1 / std::sqrt(static_cast<float>(c.head_dim)), c.softcap, scheme, nullptr, nullptr};
        partials.assign(static_cast<std::size_t>(attention_n_units(args) * attention_partial_floats(c.n_heads, c.n_kv_heads, c.head_dim)), NAN);
        arrivals.resize(static_cast<std::size_t>(n_tokens() * c.n_kv_heads));
        args.partials = partials.data(), args.arrivals = arrivals.data();
        return args;
    }
    std::vector<float> reference() const {
        std::vector<float> y;
        const AttentionArgs whole = args(y);
        attention_kernels()[0].fn(whole, {0, attention_n_units(whole)});
        return y;
    }
};

constexpr Case cases[] = {{2, 2, 8, 0, 0},     {8, 4, 64, 0, 0},   {4, 1, 128, 0, 50},  {32, 4, 16, 100, 0}, {3, 1, 33, 0, 0},   {2, 1, 80, 300, 20}, {20, 1, 24, 0, 0},
                          {1, 1, 256, 0, 0},   {2, 1, 520, 0, 0},  {2, 2, 1, 0, 0},     {5, 1, 40, 257, 0},  {6, 2, 96, 0, 30},  {7, 1, 64, 1, 0},    {6, 1, 5, 0, 0},
                          {8, 8, 64, 256, 0},  {3, 3, 17, 0, 0}};

// f32, f16 and bf16 rows are read as they are; queries and weights against int8 and int4 rows have 14 bits, and 8 where bf16 is multiplied with bf16.
double tolerance(StateScheme scheme, Isa isa) {
    if (scheme == StateScheme::bf16 && isa_includes(isa, Isa::avx512bf16) && isa_of_this_build(Isa::avx512bf16)) return 1.5e-2;
    return scheme == StateScheme::int8 || scheme == StateScheme::int4 ? 1e-3 : 5e-6;
}

std::string label(const Case& c, StateScheme scheme) {
    return std::to_string(c.n_heads) + ":" + std::to_string(c.n_kv_heads) + " heads of " + std::to_string(c.head_dim) + ", state " + std::string(state_scheme_info(scheme).name);
}

TEST(Attention, every_row_against_the_reference) {
    for (const Case& c : cases)
        for (const StateSchemeInfo& info : state_schemes()) {
            const Scene scene(c, info.scheme);
            const std::vector<float> expected = scene.reference();
            std::vector<float> y;
            for_each_row(attention_kernels().subspan(1), [&](const auto& row) {
                const AttentionArgs args = scene.args(y);
                row.fn(args, {0, attention_n_units(args)});
                EXPECT_LE(relative_error(y, expected, 1.0), tolerance(info.scheme, row.isa)) << label(c, info.scheme);
            });
        }
}

TEST(Attention, bits_do_not_depend_on_the_split_of_units) {
    for (const Case& c : cases)
        for (const StateSchemeInfo& info : state_schemes()) {
            const Scene scene(c, info.scheme);
            for_each_row(attention_kernels().subspan(1), [&](const auto& row) {
                std::vector<float> whole, parts;
                const std::int64_t n = attention_n_units(scene.args(whole));
                row.fn(scene.args(whole), {0, n});
                auto args = scene.args(parts);
                for (std::int64_t unit = n - 1; unit >= 0; --unit) row.fn(args, {unit, unit + 1});
                EXPECT_TRUE(same_bits(whole, parts)) << label(c, info.scheme);
                for (int n_threads : {2, 3, 7}) {
                    args = scene.args(parts);
                    for (int thread = n_threads - 1; thread >= 0; --thread) row.fn(args, attention_share(args, thread, n_threads));
                    EXPECT_TRUE(same_bits(whole, parts)) << label(c, info.scheme) << ", " << n_threads << " threads";
                }
                EXPECT_EQ(std::count(scene.arrivals.begin(), scene.arrivals.end(), 0), std::ssize(scene.arrivals));
            });
        }
}

// A token's bits are the same alone and among others, whatever tile it falls into.
TEST(Attention, bits_do_not_depend_on_the_tile) {
    for (const Case& c : cases)
        for (const StateSchemeInfo& info : state_schemes()) {
            Scene scene(c, info.scheme);
            scene.positions = {253, 254, 255, 256, 257, 258, 259, 300, 510, 511};
            for_each_row(attention_kernels().subspan(1), [&](const auto& row) {
                std::vector<float> together, alone;
                const auto args = scene.args(together);
                row.fn(args, {0, attention_n_units(args)});
                auto one = scene.args(alone);
                one.n_tokens = 1;
                for (std::int64_t token = 0; token < scene.n_tokens(); ++token) {
                    row.fn(one, {0, attention_n_units(one)});
                    ++one.keys, ++one.values, ++one.positions;
                    one.q += c.n_heads * c.head_dim, one.y += c.n_heads * c.head_dim;
                }
                EXPECT_TRUE(same_bits(together, alone)) << label(c, info.scheme);
            });
        }
}

// Tokens of several sequences in one batch: each as if it were alone, and near the reference.
TEST(Attention, sequences_of_a_batch_do_not_touch) {
    for (const Case& c : cases)
        for (const StateSchemeInfo& info : state_schemes()) {
            Scene scene(c, info.scheme);
            const Region keys(c, info.scheme, StatePart::keys, 30), values(c, info.scheme, StatePart::values, 31);
            for (std::size_t i = 0; i < scene.positions.size(); i += i % 3 + 1) scene.key_bases[i] = keys.data(), scene.value_bases[i] = values.data();
            const std::vector<float> expected = scene.reference();
            for_each_row(attention_kernels(), [&](const auto& row) {
                std::vector<float> whole, parts;
                auto args = scene.args(whole);
                const std::int64_t n = attention_n_units(args);
                row.fn(args, {0, n});
                args = scene.args(parts);
                for (std::int64_t unit = 0; unit < n; ++unit) row.fn(args, {unit, unit + 1});
                EXPECT_TRUE(same_bits(whole, parts)) << label(c, info.scheme);
                EXPECT_LE(relative_error(whole, expected, 1.0), tolerance(info.scheme, row.isa)) << label(c, info.scheme);
            });
        }
}

// Very large scores must not overflow: the largest takes all.
TEST(Attention, large_scores_stay_finite) {
    for (const StateSchemeInfo& info : state_schemes()) {
        Scene scene({2, 1, 64, 0, 0}, info.scheme);
        for (auto& value : scene.q) value *= 1e4f;
        for_each_row(attention_kernels(), [&](const auto& row) {
            std::vector<float> y;
            const auto args = scene.args(y);
            row.fn(args, {0, attention_n_units(args)});
            for (float value : y) ASSERT_TRUE(std::isfinite(value)) << info.name;
        });
    }
}

// What one storage scheme costs, with each row: on its keys and values against the reference on the same in f32.
TEST(Attention, schemes_are_as_near_to_f32_as_their_bits_say) {
    const Case c = {4, 2, 64, 0, 0};
    const std::vector<float> exact = Scene(c, StateScheme::f32).reference();
    constexpr double most[] = {0, 1e-3, 6e-3, 1.5e-2, 0.2};  // in units of the numbers' spread, root mean square
    for (const StateSchemeInfo& info : state_schemes()) {
        const Scene scene(c, info.scheme);
        for_each_row(attention_kernels(), [&](const auto& row) {
            std::vector<float> y;
            const AttentionArgs args = scene.args(y);
            row.fn(args, {0, attention_n_units(args)});
            double square = 0;
            for (std::size_t i = 0; i < y.size(); ++i) square += (y[i] - exact[i]) * (y[i] - exact[i]);
            EXPECT_LE(std::sqrt(square / static_cast<double>(y.size())), most[static_cast<int>(info.scheme)] + 1e-5) << info.name;
        });
    }
}

// Shares cover all units once, in order, and no thread of two has much more to read than half.
TEST(Attention, shares_cover_all_units) {
    for (const Case& c : cases) {
        const Scene scene(c, StateScheme::f16);
        std::vector<float> y;
        const auto args = scene.args(y);
        for (int n_threads : {1, 2, 3, 8, 64}) {
            std::int64_t next = 0;
            for (int thread = 0; thread < n_threads; ++thread) {
                const Range share = attention_share(args, thread, n_threads);
                EXPECT_EQ(share.begin, next);
                EXPECT_GE(share.end, share.begin);
                next = share.end;
            }
            EXPECT_EQ(next, attention_n_units(args));
        }
    }
    // One token at position 4095 of a model with one KV head: 16 units, and two threads take eight each.
    std::int32_t position = 4095;
    const std::byte* base = nullptr;
    float partial = 0;
    AttentionArgs args{nullptr, &base, &base, &position, nullptr, 1, 8, 1, 64, 0, 1, 0, StateScheme::bf16, &partial, nullptr};
    EXPECT_EQ(attention_n_units(args), 16);
    EXPECT_EQ(attention_share(args, 0, 2).end, 8);
    args.window = 512;  // positions 3584 .. 4095
    EXPECT_EQ(attention_n_units(args), 2);
    args.partials = nullptr;  // nowhere to leave a part
    EXPECT_EQ(attention_share(args, 0, 2).end + attention_share(args, 1, 2).end - attention_share(args, 1, 2).begin, 2);
    EXPECT_NE(attention_share(args, 0, 2).end, 1);
}

TEST(RotateHead, is_its_own_inverse_and_keeps_products) {
    for (std::int64_t d : {1, 2, 3, 16, 33, 40, 64, 80, 96, 128, 256}) {
        auto a = normal_values(d, 40), b = normal_values(d, 41), before = a;
        double product = 0, rotated = 0;
        for (std::size_t i = 0; i < a.size(); ++i) product += a[i] * b[i];
        rotate_head(a.data(), d);
        rotate_head(b.data(), d);
        for (std::size_t i = 0; i < a.size(); ++i) rotated += a[i] * b[i];
        EXPECT_NEAR(rotated, product, 1e-5 * static_cast<double>(d)) << d;
        EXPECT_EQ(same_bits(a, before), d == 1);
        rotate_head(a.data(), d);
        EXPECT_LE(relative_error(a, before, 1.0), 1e-6) << d;
    }
}

TEST(StateWrite, every_row_gives_the_bits_of_the_reference) {
    for (std::int64_t head_dim : {1, 5, 33, 40, 64, 80, 96, 128, 256, 520})
        for (std::int64_t n_kv_heads : {1, 3})
            for (const StateSchemeInfo& info : state_schemes())
                for (StatePart part : {StatePart::keys, StatePart::values}) {
                    const std::vector<std::int32_t> positions = {2, 0, 4, 255, 256, 300, 17};
                    const auto n = static_cast<std::int64_t>(positions.size());
                    auto x = normal_values(n * n_kv_heads * head_dim, 23, 30);
                    x[0] = 1e6f, x.back() = -1e-7f;
                    const auto bytes = static_cast<std::size_t>(state_region_bytes(state_layout(info.scheme, n_kv_heads, head_dim), part, 400));
                    std::vector<std::byte> expected(bytes), state(bytes);
                    std::vector<std::byte*> rows(positions.size(), expected.data());
                    state_write_kernels()[0].fn({x.data(), n_kv_heads * head_dim, rows.data(), positions.data(), n_kv_heads, head_dim, {0, n_kv_heads}, info.scheme, part}, {0, n});
                    for_each_row(state_write_kernels(), [&](const auto& row) {
                        std::fill(state.begin(), state.end(), std::byte{0});
                        std::vector<std::byte*> targets(positions.size(), state.data());
                        StateWriteArgs args{x.data(), n_kv_heads * head_dim, targets.data(), positions.data(), n_kv_heads, head_dim, {0, 1}, info.scheme, part};
                        row.fn(args, {0, 2});
                        row.fn(args, {2, n});
                        args.heads = {1, n_kv_heads}, args.x += head_dim;
                        row.fn(args, {0, n});
                        EXPECT_EQ(state, expected) << info.name << ", heads of " << head_dim;
                    });
                }
}

// The bytes that a sequence of n tokens occupies are all that attention needs of it.
TEST(StateLayout, pieces_hold_the_first_tokens) {
    for (std::int64_t head_dim : {5, 64, 80})
        for (const StateSchemeInfo& info : state_schemes())
            for (std::int64_t n_tokens : {1, 16, 17, 255, 256, 257, 300}) {
                const Case c = {2, 2, head_dim, 0, 0};
                Scene scene(c, info.scheme);
                scene.positions = {static_cast<std::int32_t>(n_tokens - 1)};
                scene.q.resize(static_cast<std::size_t>(c.n_heads * head_dim));
                const std::vector<float> expected = scene.reference();
                const StateLayout layout = state_layout(info.scheme, c.n_kv_heads, head_dim);
                Scene copy = Scene(c, info.scheme);
                copy.positions = scene.positions, copy.q = scene.q;
                for (auto [part, source, target] : {std::tuple(StatePart::keys, &scene.keys, &copy.keys), std::tuple(StatePart::values, &scene.values, &copy.values)}) {
                    std::memset(target->data(), 0, target->buffer.size_bytes());
                    std::int64_t end = 0;
                    for_each_state_piece(layout, part, n_tokens, [&, from = source->data(), to = target->data()](std::int64_t offset, std::int64_t size) {
                        EXPECT_GE(offset, end);
                        end = offset + size;
                        std::memcpy(to + offset, from + offset, static_cast<std::size_t>(size));
                    });
                    EXPECT_LE(end, state_region_bytes(layout, part, n_tokens));
                }
                EXPECT_TRUE(same_bits(copy.reference(), expected)) << info.name << ", " << n_tokens << " tokens";
            }
}

}  // namespace
}  // namespace skiff
