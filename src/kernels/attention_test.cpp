// Attention and the writing of its state: every row against the reference, and bits that do not depend on how the work is split.
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

// One sequence of 700 positions in the state; queries at several of them.
struct Scene {
    Case c;
    DType dtype;
    std::vector<std::byte> keys, values;
    std::vector<std::int32_t> positions = {0, 1, 7, 31, 32, 255, 256, 300, 511, 699};
    std::vector<const std::byte*> key_bases, value_bases;
    std::vector<float> q;

    Scene(Case shape, DType state_dtype) : c(shape), dtype(state_dtype) {
        const std::int64_t width = c.n_kv_heads * c.head_dim, n = 700 * width;
        const DTypeInfo& info = dtype_info(dtype);
        keys.resize(static_cast<std::size_t>(n * info.bits / 8));
        values.resize(keys.size());
        info.from_float(normal_values(n, 20).data(), n, keys.data());
        info.from_float(normal_values(n, 21).data(), n, values.data());
        key_bases.assign(positions.size(), keys.data());
        value_bases.assign(positions.size(), values.data());
        q = normal_values(n_tokens() * c.n_heads * c.head_dim, 22, 2);
    }
    std::int64_t n_tokens() const { return static_cast<std::int64_t>(positions.size()); }
    AttentionArgs args(std::vector<float>& y) const {
        y.assign(q.size(), NAN);
        return {q.data(), key_bases.data(), value_bases.data(), positions.data(), y.data(), n_tokens(), c.n_heads, c.n_kv_heads, c.head_dim, c.window,
                1 / std::sqrt(static_cast<float>(c.head_dim)), c.softcap, dtype};
    }
};

constexpr Case cases[] = {{2, 2, 8, 0, 0}, {8, 4, 64, 0, 0}, {4, 1, 128, 0, 50}, {32, 4, 16, 100, 0}, {3, 1, 33, 0, 0}, {2, 1, 80, 300, 20}, {20, 1, 24, 0, 0}, {1, 1, 256, 0, 0}, {2, 1, 520, 0, 0}};

TEST(Attention, every_row_against_the_reference) {
    for (const Case& c : cases)
        for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
            const Scene scene(c, dtype);
            std::vector<float> expected, y;
            const Range all = {0, scene.n_tokens() * c.n_kv_heads};
            attention_kernels()[0].fn(scene.args(expected), all);
            for_each_row(attention_kernels(), [&](const auto& row) {
                row.fn(scene.args(y), all);
                EXPECT_LE(relative_error(y, expected, 1.0), 5e-6) << "head_dim " << c.head_dim << " heads " << c.n_heads << " state " << dtype_info(dtype).name;
            });
        }
}

TEST(Attention, bits_do_not_depend_on_the_split_of_items) {
    for (const Case& c : cases) {
        const Scene scene(c, DType::f16);
        for_each_row(attention_kernels(), [&](const auto& row) {
            std::vector<float> whole, parts;
            row.fn(scene.args(whole), {0, scene.n_tokens() * c.n_kv_heads});
            const auto args = scene.args(parts);
            for (std::int64_t item = scene.n_tokens() * c.n_kv_heads - 1; item >= 0; --item) row.fn(args, {item, item + 1});
            EXPECT_TRUE(same_bits(whole, parts));
        });
    }
}

// Tokens of several sequences in one batch: each as if it were alone, and near the reference.
TEST(Attention, sequences_of_a_batch_do_not_touch) {
    for (const Case& c : cases) {
        Scene scene(c, DType::bf16), other(c, DType::bf16);
        std::reverse(other.keys.begin(), other.keys.end());  // other numbers, of no meaning
        for (auto& byte : other.keys) byte &= std::byte{0xbf};
        for (auto& byte : other.values) byte ^= std::byte{1};
        for (std::size_t i = 0; i < scene.positions.size(); i += i % 3 + 1) scene.key_bases[i] = other.keys.data(), scene.value_bases[i] = other.values.data();
        const std::int64_t n_items = scene.n_tokens() * c.n_kv_heads;
        for_each_row(attention_kernels(), [&](const auto& row) {
            std::vector<float> whole, parts, expected;
            attention_kernels()[0].fn(scene.args(expected), {0, n_items});
            row.fn(scene.args(whole), {0, n_items});
            const auto args = scene.args(parts);
            for (std::int64_t item = 0; item < n_items; ++item) row.fn(args, {item, item + 1});
            EXPECT_TRUE(same_bits(whole, parts));
            EXPECT_LE(relative_error(whole, expected, 1.0), 5e-6);
        });
    }
}

// Very large scores must not overflow: the largest takes all.
TEST(Attention, large_scores_stay_finite) {
    Scene scene({2, 1, 64, 0, 0}, DType::f32);
    for (auto& value : scene.q) value *= 1e4f;
    for_each_row(attention_kernels(), [&](const auto& row) {
        std::vector<float> y;
        row.fn(scene.args(y), {0, scene.n_tokens()});
        for (float value : y) ASSERT_TRUE(std::isfinite(value));
    });
}

TEST(StateWrite, every_row_gives_the_bits_of_the_reference) {
    for (std::int64_t width : testing::odd_widths)
        for (DType dtype : {DType::f32, DType::f16, DType::bf16}) {
            const std::vector<std::int32_t> positions = {2, 0, 4};
            auto x = normal_values(3 * width, 23, 30);
            x[0] = 1e6f, x.back() = -1e-7f;
            const auto bytes = static_cast<std::size_t>(5 * width * dtype_info(dtype).bits / 8);
            std::vector<std::byte> expected(bytes), state(bytes);
            std::vector<std::byte*> rows(3, expected.data());
            state_write_kernels()[0].fn({x.data(), rows.data(), positions.data(), width, dtype}, {0, 3});
            for_each_row(state_write_kernels(), [&](const auto& row) {
                std::fill(state.begin(), state.end(), std::byte{0});
                std::vector<std::byte*> targets(3, state.data());
                row.fn({x.data(), targets.data(), positions.data(), width, dtype}, {0, 2});
                row.fn({x.data(), targets.data(), positions.data(), width, dtype}, {2, 3});
                EXPECT_EQ(state, expected) << dtype_info(dtype).name << " width " << width;
            });
        }
}

}  // namespace
}  // namespace skiff
