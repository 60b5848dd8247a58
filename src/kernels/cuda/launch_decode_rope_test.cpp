// Attention of a token for each sequence that turns and keeps heads itself, against the two launches that do it one after the other: the same bits, in the result and in the state.
#include "kernels/cuda/launch_attention_testing.h"

namespace skiff::cuda {
namespace {

using namespace skiff::testing;
using namespace skiff::cuda::testing;

struct Turning {
    enum class Query : std::uint8_t { turned, as_it_is } query = Query::turned;
    enum class Norms : std::uint8_t { none, of_both, of_keys } norms = Norms::none;
    enum class Angles : std::uint8_t { none, all, some } angles = Angles::all;  // some: of the first dimensions
    RopeStyle style = RopeStyle::half;
};

void expect_same(const StateCase& each, const Heads& heads, const Variant& variant, const Turning& turning, std::int64_t n_splits, const std::vector<std::int32_t>& positions) {
    const auto [n_heads, n_kv, d] = heads;
    const auto n_tokens = static_cast<std::int64_t>(positions.size());
    const std::int64_t width = n_heads * d, rotary = turning.angles == Turning::Angles::none ? 0 : turning.angles == Turning::Angles::some ? d * 3 / 4 / 2 * 2 : d, stride = width + 2 * n_kv * d + 8;
    const bool turns_q = turning.query == Turning::Query::turned;
    const TestState state(each.form, n_kv, d, *std::max_element(positions.begin(), positions.end()) + 1, n_tokens);
    const auto rows = normal_values(n_tokens * stride, 51, 2), slopes = normal_values(n_heads, 52, 0.1f), sinks = normal_values(n_heads, 53, 2), q_norm = normal_values(d, 54), k_norm = normal_values(d, 55);
    std::vector<float> inv_freq;
    for (std::int64_t i = 0; i < rotary / 2; ++i) inv_freq.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(rotary)));
    std::vector<std::int32_t> sequences;
    for (std::int64_t t = 0; t < n_tokens; ++t) sequences.push_back(static_cast<std::int32_t>((t + 1) % n_tokens));
    const DeviceArray<float> device_slopes(slopes), device_sinks(sinks), device_q_norm(q_norm), device_k_norm(k_norm), frequencies(inv_freq.empty() ? std::vector<float>{0} : inv_freq);
    const DeviceArray<std::int32_t> device_positions(positions), device_sequences(sequences), no_lengths(1);
    in_every_mode([&](const Launch& launch) {
        ASSERT_NO_FATAL_FAILURE(state.write(launch));
        std::vector<std::byte> before[2] = {std::vector<std::byte>(state.keys.size_bytes()), std::vector<std::byte>(state.values.size_bytes())};
        state.keys.download(before[0].data(), before[0].size()), state.values.download(before[1].data(), before[1].size());
        // Of what the run writes nothing is there.
        for (std::vector<std::byte>& pool : before)
            for (std::size_t t = 0; t < positions.size(); ++t) state.forget(pool.data(), sequences[t], positions[t]);
        std::vector<std::byte> operands[2], pools[2][2];
        std::vector<float> results[2];
        for (int together = 0; together < 2; ++together) {
            auto& keys = const_cast<DeviceMemory&>(state.keys);
            auto& values = const_cast<DeviceMemory&>(state.values);
            keys.upload(before[0].data(), before[0].size()), values.upload(before[1].data(), before[1].size());
            const DeviceArray<float> qkv(rows);
            DeviceArray<float> y(n_tokens * width), partials(decode_partial_floats(n_tokens, n_heads, d, n_splits));
            DeviceArray<std::int32_t> arrivals(n_tokens * n_kv);
            const DeviceMemory operand(operand_bytes(OperandForm::split, n_tokens, width));
            RopeWriteArgs rope;
            rope.qkv = qkv.data(), rope.qkv_stride = stride, rope.q_offset = 0, rope.k_offset = width, rope.v_offset = width + n_kv * d, rope.n_heads = turns_q ? n_heads : 0;
            rope.norm_eps = 1e-5f, rope.rotary_dim = rotary, rope.magnitude = 1.25f, rope.style = turning.style;
            if (turning.norms == Turning::Norms::of_both) rope.q_norm = device_q_norm.data();
            if (turning.norms != Turning::Norms::none) rope.k_norm = device_k_norm.data();
            if (rotary > 0) rope.inv_freq = frequencies.data();
            DecodeAttentionArgs args;
            set_common(args.common, variant, state, qkv, n_heads, 1 / std::sqrt(static_cast<float>(d)), device_slopes, device_sinks, no_lengths);
            args.common.q_stride = stride;
            args.common.tokens = {n_tokens, device_positions.data(), device_sequences.data()};
            args.common.y = y.data(), args.common.y_stride = width, args.common.operand = {OperandForm::split, operand.data(), width};
            args.n_splits = n_splits, args.partials = partials.data(), args.arrivals = arrivals.data();
            if (together == 1) {
                args.rope = rope;
#if defined(SKIFF_EMULATED_GPU)
                emulation::set_predecessor([&](bool has_ended) {
                    if (has_ended) std::memcpy(qkv.data(), rows.data(), rows.size() * 4);
                    else std::memset(qkv.data(), 0xff, rows.size() * 4);
                });
#endif
            } else {
                rope.q = qkv.data(), rope.q_stride = stride, rope.state = state.view(), rope.tokens = args.common.tokens;
                ASSERT_EQ(launch_rope_write(rope, launch), 0);
            }
            ASSERT_EQ(launch_decode_attention(args, launch), 0);
#if defined(SKIFF_EMULATED_GPU)
            emulation::set_predecessor({});
#endif
            results[together] = y.values();
            operands[together] = operand_values(operand);
            for (const DeviceMemory* pool : {&state.keys, &state.values}) {
                auto& bytes = pools[together][pool == &state.values ? 1 : 0];
                bytes.resize(pool->size_bytes());
                pool->download(bytes.data(), bytes.size());
            }
            for (std::int32_t count : arrivals.values()) ASSERT_EQ(count, 0);
            if (together == 1) {
                ASSERT_EQ(qkv.values(), rows);
            }
        }
        for (std::size_t i = 0; i < results[0].size(); ++i) ASSERT_TRUE(std::isfinite(results[0][i]) && results[0][i] == results[1][i]) << "number " << i << ": " << results[0][i] << ", " << results[1][i];
        ASSERT_EQ(operands[0], operands[1]);
        ASSERT_TRUE(pools[0][0] == pools[1][0]) << "keys of the state";
        ASSERT_TRUE(pools[0][1] == pools[1][1]) << "values of the state";
        ASSERT_TRUE(pools[0][0] != before[0]);
    });
}

constexpr Turning turnings[] = {{},
                                {Turning::Query::turned, Turning::Norms::of_both, Turning::Angles::all, RopeStyle::interleaved},
                                {Turning::Query::turned, Turning::Norms::none, Turning::Angles::some, RopeStyle::interleaved},
                                {Turning::Query::turned, Turning::Norms::of_both, Turning::Angles::some, RopeStyle::half},
                                {Turning::Query::as_it_is, Turning::Norms::none, Turning::Angles::none, RopeStyle::half},
                                {Turning::Query::turned, Turning::Norms::of_keys, Turning::Angles::none, RopeStyle::half}};

TEST(CudaDecodeRope, same_bits_as_two_launches) {
    SKIFF_NEEDS_DEVICE();
    for (const StateCase& each : state_cases)
        for (const Turning& turning : turnings) {
            SCOPED_TRACE(std::string(each.name) + " turning " + std::to_string(&turning - turnings));
            ASSERT_NO_FATAL_FAILURE(expect_same(each, {4, 2, 64}, variants[0], turning, 2, {0, 17, 128}));
        }
    for (const StateCase& each : state_cases) {  // first and last positions of tiles, pages and splits
        SCOPED_TRACE(each.name);
        ASSERT_NO_FATAL_FAILURE(expect_same(each, {1, 1, 32}, variants[0], turnings[3], 3, {0, 1, 15, 16, 31, 63, 64, 127, 128, 143, 191, 192, 257}));
    }
}

TEST(CudaDecodeRope, heads_and_groups) {
    SKIFF_NEEDS_DEVICE();
    for (const StateCase& each : state_cases)
        for (const Heads& heads : {Heads{12, 1, 64}, Heads{5, 1, 128}, Heads{18, 2, 96}, Heads{2, 1, 256}, Heads{3, 3, 192}, Heads{7, 1, 160}}) {
            SCOPED_TRACE(std::string(each.name) + " heads " + std::to_string(heads.n_heads) + " of " + std::to_string(heads.head_dim));
            ASSERT_NO_FATAL_FAILURE(expect_same(each, heads, variants[0], turnings[1], 2, {64, 150}));
        }
    for (const std::int64_t d : {8, 24, 72, 80, 120, 136}) {
        SCOPED_TRACE(d);
        ASSERT_NO_FATAL_FAILURE(expect_same(state_cases[0], {3, 1, d}, variants[0], turnings[3], 2, {64, 150}));
    }
    ASSERT_NO_FATAL_FAILURE(expect_same(state_cases[2], {4, 1, 48}, variants[0], turnings[2], 2, {33, 150}));
}

TEST(CudaDecodeRope, variants) {
    SKIFF_NEEDS_DEVICE();
    for (const Variant& variant : variants) {
        if (variant.mask == AttentionMask::none) continue;
        SCOPED_TRACE(variant.name);
        for (const StateCase& each : {state_cases[0], state_cases[3]}) ASSERT_NO_FATAL_FAILURE(expect_same(each, {4, 2, 64}, variant, turnings[3], 3, {63, 0, 280}));
    }
    ASSERT_NO_FATAL_FAILURE(expect_same(state_cases[0], {2, 1, 64}, variants[0], turnings[0], 1, {2120}));
}

TEST(CudaDecodeRope, refuses) {
    SKIFF_NEEDS_DEVICE();
    const DeviceArray<float> qkv(1);
    DecodeAttentionArgs args;
    args.common.n_heads = 4, args.common.state.n_kv_heads = 2, args.common.state.head_dim = 64, args.rope.qkv = qkv.data();
    const auto refused = [&](auto change) {
        DecodeAttentionArgs changed = args;
        change(changed);
        return launch_decode_attention(changed, test_launch()) != 0;
    };
    EXPECT_TRUE(refused([](DecodeAttentionArgs& a) { a.rope.k_offset = -1; }));
    EXPECT_TRUE(refused([](DecodeAttentionArgs& a) { a.rope.v_offset = -1; }));
    EXPECT_TRUE(refused([](DecodeAttentionArgs& a) { a.rope.n_heads = 2; }));
    EXPECT_TRUE(refused([](DecodeAttentionArgs& a) { a.rope.rotary_dim = 128; }));
    EXPECT_TRUE(refused([](DecodeAttentionArgs& a) { a.common.mask = AttentionMask::none; }));
}

}  // namespace
}  // namespace skiff::cuda
