// Rope and attention of prompts against plain sums in double, over forms of state, heads, windows and what else changes a score.
#include <array>

#include "kernels/cuda/launch_attention_testing.h"

namespace skiff::cuda {
namespace {

using namespace skiff::testing;
using namespace skiff::cuda::testing;

void expect_prefill(const StateCase& each, const Heads& heads, const Variant& variant, const std::vector<std::array<std::int64_t, 2>>& runs) {  // (first position, tokens) of each sequence
    std::int64_t n_tokens = 0, capacity = 0;
    std::vector<PrefillTile> tiles;
    std::vector<std::int32_t> positions, sequences, lengths;
    for (std::size_t s = 0; s < runs.size(); ++s) {
        for (std::int64_t i = 0; i < runs[s][1]; i += prefill_tile_tokens)
            tiles.push_back({static_cast<std::int32_t>(n_tokens + i), static_cast<std::int32_t>(std::min(prefill_tile_tokens, runs[s][1] - i)), static_cast<std::int32_t>(s), static_cast<std::int32_t>(runs[s][0] + i)});
        for (std::int64_t i = 0; i < runs[s][1]; ++i) positions.push_back(static_cast<std::int32_t>(runs[s][0] + i)), sequences.push_back(static_cast<std::int32_t>(s));
        n_tokens += runs[s][1];
        capacity = std::max(capacity, runs[s][0] + runs[s][1]);
        lengths.push_back(static_cast<std::int32_t>(runs[s][0] + runs[s][1]));
    }
    const std::int64_t width = heads.n_heads * heads.head_dim;
    const float scale = 1 / std::sqrt(static_cast<float>(heads.head_dim));
    const TestState state(each.form, heads.n_kv_heads, heads.head_dim, capacity, static_cast<std::int64_t>(runs.size()));
    const auto q = normal_values(n_tokens * width, 33, 2), slopes = normal_values(heads.n_heads, 34, 0.1f), sinks = normal_values(heads.n_heads, 35, 2);
    const DeviceArray<float> device_q(q), device_slopes(slopes), device_sinks(sinks);
    const DeviceArray<std::int32_t> device_lengths(lengths);
    const DeviceArray<PrefillTile> device_tiles(tiles);
    in_every_mode([&](const Launch& launch) {
        ASSERT_NO_FATAL_FAILURE(state.write(launch));
        for (const OperandForm form : {OperandForm::rows, OperandForm::fragments}) {
            DeviceArray<float> y(n_tokens * width);
            const DeviceMemory operand(operand_bytes(form, n_tokens, width));
            PrefillAttentionArgs args;
            set_common(args.common, variant, state, device_q, heads.n_heads, scale, device_slopes, device_sinks, device_lengths);
            args.common.tokens.n_tokens = n_tokens, args.common.y = y.data(), args.common.y_stride = width, args.common.operand = {form, operand.data(), width};
            args.tiles = device_tiles.data(), args.n_tiles = static_cast<std::int64_t>(tiles.size());
            ASSERT_EQ(launch_prefill_attention(args, launch), 0);
            const auto got = y.values();
            const auto got_operand = operand_floats(form, operand_values(operand), n_tokens, width);
            for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got_operand[i], got[i], std::fabs(got[i]) * 0x1p-8 + 1e-20);
            for (std::int64_t t = 0; t < n_tokens; ++t) {
                const auto ts = static_cast<std::size_t>(t);
                const auto sequence = static_cast<std::size_t>(sequences[ts]);
                const auto wanted = plain_attention(state, variant, q.data() + t * width, heads.n_heads, sequences[ts], positions[ts], lengths[sequence], scale, slopes, sinks);
                double largest = 0;
                for (double value : wanted) largest = std::max(largest, std::fabs(value));
                for (std::size_t i = 0; i < wanted.size(); ++i) ASSERT_NEAR(got[ts * wanted.size() + i], wanted[i], tolerance(each.form, true) * largest) << "token " << t << " number " << i;
            }
        }
    });
}

TEST(CudaAttention, prefill) {
    SKIFF_NEEDS_DEVICE();
    for (const StateCase& each : state_cases)
        for (const Heads& heads : {Heads{4, 2, 64}, Heads{1, 1, 128}}) {
            SCOPED_TRACE(std::string(each.name) + " heads of " + std::to_string(heads.head_dim));
            ASSERT_NO_FATAL_FAILURE(expect_prefill(each, heads, variants[0], {{0, 70}, {100, 9}}));
        }
    for (const std::int64_t head_dim : {80, 192, 256}) {
        SCOPED_TRACE(head_dim);
        ASSERT_NO_FATAL_FAILURE(expect_prefill(state_cases[0], {1, 1, head_dim}, variants[0], {{30, 40}}));
    }
    // Coded rows that are padded, and those whose tiles have 32 keys.
    ASSERT_NO_FATAL_FAILURE(expect_prefill(state_cases[1], {1, 1, 256}, variants[0], {{30, 40}}));
    ASSERT_NO_FATAL_FAILURE(expect_prefill(state_cases[2], {2, 1, 80}, variants[0], {{30, 40}}));
    ASSERT_NO_FATAL_FAILURE(expect_prefill(state_cases[3], {1, 1, 256}, variants[0], {{30, 10}}));
}

TEST(CudaAttention, prefill_variants) {
    SKIFF_NEEDS_DEVICE();
    for (const Variant& variant : variants) {
        SCOPED_TRACE(variant.name);
        ASSERT_NO_FATAL_FAILURE(expect_prefill(state_cases[0], {2, 1, 64}, variant, {{75, 66}, {0, 5}}));
    }
}

TEST(CudaRope, rotates_as_the_reference) {
    SKIFF_NEEDS_DEVICE();
    for (const RopeStyle style : {RopeStyle::half, RopeStyle::interleaved})
        for (const std::int64_t head_dim : {8, 64, 80, 256}) {
            const std::int64_t n_heads = 3, n_kv = 2, rotary = head_dim > 8 ? head_dim * 3 / 4 / 2 * 2 : 8, stride = (n_heads + 2 * n_kv) * head_dim + 4;
            const std::vector<std::int32_t> positions = {0, 1, 77, 130000, 5};
            const auto n_tokens = static_cast<std::int64_t>(positions.size());
            const auto x = normal_values(n_tokens * stride, 41), q_norm = normal_values(head_dim, 42), k_norm = normal_values(head_dim, 43);
            std::vector<float> inv_freq;
            for (std::int64_t i = 0; i < rotary / 2; ++i) inv_freq.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(rotary)));
            for (const bool with_norm : {false, true}) {
                std::vector<float> q, k;
                for (std::int64_t t = 0; t < n_tokens; ++t) {
                    q.insert(q.end(), x.begin() + t * stride, x.begin() + t * stride + n_heads * head_dim);
                    k.insert(k.end(), x.begin() + t * stride + n_heads * head_dim, x.begin() + t * stride + (n_heads + n_kv) * head_dim);
                }
                if (with_norm) {
                    norm_kernels()[0].fn({q.data(), q_norm.data(), nullptr, q.data(), head_dim, 1e-6f, NormKind::rms}, {0, n_tokens * n_heads});
                    norm_kernels()[0].fn({k.data(), k_norm.data(), nullptr, k.data(), head_dim, 1e-6f, NormKind::rms}, {0, n_tokens * n_kv});
                }
                rope_kernels()[0].fn({q.data(), positions.data(), inv_freq.data(), n_heads, head_dim, rotary, 1.25f, style}, {0, n_tokens});
                rope_kernels()[0].fn({k.data(), positions.data(), inv_freq.data(), n_kv, head_dim, rotary, 1.25f, style}, {0, n_tokens});
                const DeviceArray<float> qkv(x), frequencies(inv_freq), q_weight(q_norm), k_weight(k_norm);
                const DeviceArray<std::int32_t> device_positions(positions);
                in_every_mode([&](const Launch& launch) {
                    DeviceArray<float> got_q(n_tokens * n_heads * head_dim), got_k(n_tokens * n_kv * head_dim);
                    RopeWriteArgs args;
                    args.qkv = qkv.data(), args.qkv_stride = stride, args.q_offset = 0, args.k_offset = n_heads * head_dim, args.v_offset = -1, args.n_heads = n_heads;
                    if (with_norm) args.q_norm = q_weight.data(), args.k_norm = k_weight.data(), args.norm_eps = 1e-6f;
                    args.inv_freq = frequencies.data(), args.rotary_dim = rotary, args.magnitude = 1.25f, args.style = style;
                    args.q = got_q.data(), args.q_stride = n_heads * head_dim, args.k = got_k.data(), args.k_stride = n_kv * head_dim;
                    args.state.n_kv_heads = n_kv, args.state.head_dim = head_dim;
                    args.tokens = {n_tokens, device_positions.data(), nullptr};
                    ASSERT_EQ(launch_rope_write(args, launch), 0);
                    ASSERT_LT(relative_error(got_q.values(), q, 0.1), 1e-4);
                    ASSERT_LT(relative_error(got_k.values(), k, 0.1), 1e-4);
                });
            }
        }
}

}  // namespace
}  // namespace skiff::cuda
