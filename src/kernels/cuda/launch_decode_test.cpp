// Attention of few tokens against plain sums in double, over forms of state, heads, windows, splits and what else changes a score.
#include "kernels/cuda/launch_attention_testing.h"

namespace skiff::cuda {
namespace {

using namespace skiff::testing;
using namespace skiff::cuda::testing;

void expect_decode(const StateCase& each, const Heads& heads, const Variant& variant, std::int64_t n_splits, const std::vector<std::int32_t>& positions) {
    const auto n_tokens = static_cast<std::int64_t>(positions.size());
    const std::int64_t width = heads.n_heads * heads.head_dim;
    const float scale = 1 / std::sqrt(static_cast<float>(heads.head_dim));
    const TestState state(each.form, heads.n_kv_heads, heads.head_dim, *std::max_element(positions.begin(), positions.end()) + 1, n_tokens);
    const auto q = normal_values(n_tokens * width, 33, 2), slopes = normal_values(heads.n_heads, 34, 0.1f), sinks = normal_values(heads.n_heads, 35, 2);
    std::vector<std::int32_t> lengths, sequences;
    for (std::int64_t t = 0; t < n_tokens; ++t) {
        lengths.push_back(positions[static_cast<std::size_t>(t)] + 1);
        sequences.push_back(static_cast<std::int32_t>((t + 1) % n_tokens));
    }
    std::vector<std::int32_t> by_sequence(lengths.size());
    for (std::size_t t = 0; t < lengths.size(); ++t) by_sequence[static_cast<std::size_t>(sequences[t])] = lengths[t];
    const DeviceArray<float> device_q(q), device_slopes(slopes), device_sinks(sinks);
    const DeviceArray<std::int32_t> device_positions(positions), device_sequences(sequences), device_lengths(by_sequence);
    in_every_mode([&](const Launch& launch) {
        ASSERT_NO_FATAL_FAILURE(state.write(launch));
        DeviceArray<float> y(n_tokens * width), partials(decode_partial_floats(n_tokens, heads.n_heads, heads.head_dim, n_splits));
        DeviceArray<std::int32_t> arrivals(n_tokens * heads.n_kv_heads);
        const DeviceMemory operand(operand_bytes(OperandForm::split, n_tokens, width));
        DecodeAttentionArgs args;
        set_common(args.common, variant, state, device_q, heads.n_heads, scale, device_slopes, device_sinks, device_lengths);
        args.common.tokens = {n_tokens, device_positions.data(), device_sequences.data()};
        args.common.y = y.data(), args.common.y_stride = width, args.common.operand = {OperandForm::split, operand.data(), width};
        args.n_splits = n_splits, args.partials = partials.data(), args.arrivals = arrivals.data();
        ASSERT_EQ(launch_decode_attention(args, launch), 0);
        const auto got = y.values();
        const auto got_operand = operand_floats(OperandForm::split, operand_values(operand), n_tokens, width);
        for (std::int64_t t = 0; t < n_tokens; ++t) {
            const auto ts = static_cast<std::size_t>(t);
            const auto wanted = plain_attention(state, variant, q.data() + t * width, heads.n_heads, sequences[ts], positions[ts], lengths[ts], scale, slopes, sinks);
            double largest = 0;
            for (double value : wanted) largest = std::max(largest, std::fabs(value));
            for (std::size_t i = 0; i < wanted.size(); ++i) {
                ASSERT_NEAR(got[ts * wanted.size() + i], wanted[i], tolerance(each.form, false) * largest) << "token " << t << " number " << i;
                ASSERT_NEAR(got_operand[ts * wanted.size() + i], got[ts * wanted.size() + i], std::fabs(got[ts * wanted.size() + i]) * 0x1p-15 + 1e-20);
            }
        }
        for (std::int32_t count : arrivals.values()) ASSERT_EQ(count, 0);
    });
}

TEST(CudaAttention, decode) {
    SKIFF_NEEDS_DEVICE();
    for (const StateCase& each : state_cases)
        for (const Heads& heads : {Heads{4, 2, 64}, Heads{1, 1, 32}, Heads{8, 1, 128}}) {
            SCOPED_TRACE(std::string(each.name) + " heads " + std::to_string(heads.n_heads) + " of " + std::to_string(heads.head_dim));
            ASSERT_NO_FATAL_FAILURE(expect_decode(each, heads, variants[0], 4, {0, 15, 290}));
        }
    // Groups beyond eight heads, dimensions that are padded, and the largest.
    for (const Heads& heads : {Heads{12, 1, 64}, Heads{2, 2, 80}, Heads{2, 1, 256}, Heads{2, 1, 192}, Heads{2, 1, 8}}) {
        SCOPED_TRACE(heads.head_dim);
        ASSERT_NO_FATAL_FAILURE(expect_decode(state_cases[0], heads, variants[0], 3, {16, 150}));
    }
    ASSERT_NO_FATAL_FAILURE(expect_decode(state_cases[1], {2, 1, 256}, variants[0], 1, {70}));
    ASSERT_NO_FATAL_FAILURE(expect_decode(state_cases[3], {10, 1, 96}, variants[0], 3, {170}));
}

TEST(CudaAttention, decode_variants) {
    SKIFF_NEEDS_DEVICE();
    for (const Variant& variant : variants)
        for (const std::int64_t n_splits : {1, 3}) {
            SCOPED_TRACE(std::string(variant.name) + " splits " + std::to_string(n_splits));
            ASSERT_NO_FATAL_FAILURE(expect_decode(state_cases[0], {4, 2, 64}, variant, n_splits, {200, 63}));
        }
}

// More splits than the rings hold at once, and more tiles of a warp than it has pages of at once.
TEST(CudaAttention, decode_of_long_contexts) {
    SKIFF_NEEDS_DEVICE();
    ASSERT_NO_FATAL_FAILURE(expect_decode(state_cases[3], {8, 1, 64}, variants[4], 20, {2300}));
    ASSERT_NO_FATAL_FAILURE(expect_decode(state_cases[0], {2, 1, 64}, variants[0], 1, {2200}));
    ASSERT_NO_FATAL_FAILURE(expect_decode(state_cases[1], {9, 1, 16}, variants[1], 64, {2300}));
}

#if defined(SKIFF_EMULATED_GPU)
// Nothing that a kernel in front may write in this run (queries, and the positions of the run's tokens, of which one sequence has several) is read before a block has waited for it.
TEST(CudaAttention, decode_waits_for_what_this_run_writes) {
    const std::vector<std::int32_t> positions = {94, 95, 96, 97, 130, 0}, sequences = {0, 0, 0, 0, 2, 1};
    const auto n_tokens = static_cast<std::int64_t>(positions.size());
    for (const StateCase& each : state_cases) {
        SCOPED_TRACE(each.name);
        const TestState state(each.form, 1, 32, 131, 3);
        const auto q = normal_values(n_tokens * 64, 33, 2);
        const DeviceArray<float> device_q(q), none(1);
        const DeviceArray<std::int32_t> device_positions(positions), device_sequences(sequences), no_lengths(1);
        in_every_mode([&](const Launch& launch) {
            ASSERT_NO_FATAL_FAILURE(state.write(launch));
            std::vector<std::byte> keys(state.keys.size_bytes()), values(keys.size());
            state.keys.download(keys.data(), keys.size()), state.values.download(values.data(), values.size());
            DeviceArray<float> y(n_tokens * 64), partials(decode_partial_floats(n_tokens, 2, 32, 2));
            DeviceArray<std::int32_t> arrivals(n_tokens);
            DecodeAttentionArgs args;
            set_common(args.common, variants[0], state, device_q, 2, 0.2f, none, none, no_lengths);
            args.common.tokens = {n_tokens, device_positions.data(), device_sequences.data()};
            args.common.y = y.data(), args.common.y_stride = 64;
            args.n_splits = 2, args.partials = partials.data(), args.arrivals = arrivals.data();
            emulation::set_predecessor([&](bool has_ended) {
                if (has_ended) {
                    std::memcpy(device_q.data(), q.data(), q.size() * 4);
                    std::memcpy(state.keys.data(), keys.data(), keys.size()), std::memcpy(state.values.data(), values.data(), values.size());
                    return;
                }
                std::memset(device_q.data(), 0xff, q.size() * 4);
                for (std::size_t t = 0; t < positions.size(); ++t)
                    for (const DeviceMemory* pool : {&state.keys, &state.values}) state.forget(pool->data(), sequences[t], positions[t]);
            });
            ASSERT_EQ(launch_decode_attention(args, launch), 0);
            emulation::set_predecessor({});
            const auto got = y.values();
            for (std::int64_t t = 0; t < n_tokens; ++t) {
                const auto ts = static_cast<std::size_t>(t);
                const auto wanted = plain_attention(state, variants[0], q.data() + t * 64, 2, sequences[ts], positions[ts], 0, 0.2f, {}, {});
                double largest = 0;
                for (double value : wanted) largest = std::max(largest, std::fabs(value));
                for (std::size_t i = 0; i < wanted.size(); ++i) ASSERT_NEAR(got[ts * 64 + i], wanted[i], tolerance(each.form, false) * largest) << "token " << t << " number " << i;
            }
        });
    }
}
#endif

}  // namespace
}  // namespace skiff::cuda
