// Rope, the state and both attention kernels against plain sums in double, over forms of state, heads, windows and what else changes a score.
#include <algorithm>
#include <array>

#include "kernels/cuda/launch_testing.h"
#include "kernels/kernels_testing.h"

namespace skiff::cuda {
namespace {

using namespace skiff::testing;
using namespace skiff::cuda::testing;

struct StateCase {
    StateForm form;
    const char* name;
};
constexpr StateCase state_cases[] = {{StateForm::bf16, "bf16"}, {StateForm::fp8, "fp8"}, {StateForm::int8, "int8"}, {StateForm::int4, "int4"}};
// Relative to the largest number: what rounding keys, values (coded ones, scaled) and, of prefill, queries and weights to bf16 may do.
double tolerance(StateForm form, bool prefill) { return (form == StateForm::bf16 || form == StateForm::fp8 ? 2e-4 : 0.012) + (prefill ? 0.015 : 0); }

// What a row of a state gives back.
void round_row(StateForm form, float* x, std::int64_t d) {
    if (form == StateForm::int4) rotate_head(x, d);
    const std::int64_t group = form == StateForm::int4 ? 32 : d;
    for (std::int64_t begin = 0; begin < d; begin += group) {
        float highest = 0, lowest = 0;
        for (std::int64_t i = begin; i < begin + group; ++i) highest = std::max(highest, x[i]), lowest = std::min(lowest, x[i]);
        const StateScale scale = form == StateForm::int4 ? state_scale_int4(highest, lowest) : state_scale_int8(std::max(highest, -lowest));
        for (std::int64_t i = begin; i < begin + group; ++i) {
            const float code = std::nearbyint(x[i] * scale.inverse), stored = f16_to_float(scale.bits);
            switch (form) {
                case StateForm::bf16: x[i] = bf16_to_float(float_to_bf16(x[i])); break;
                case StateForm::fp8: x[i] = f8_e4m3_to_float(float_to_f8_e4m3(x[i])); break;
                case StateForm::int8: x[i] = std::clamp(code, -127.0f, 127.0f) * stored; break;
                case StateForm::int4: x[i] = std::clamp(code, -8.0f, 7.0f) * stored; break;
            }
        }
    }
    if (form == StateForm::int4) rotate_head(x, d);
}

// Sequences with keys and values in pages that lie anywhere, written by launch_rope_write, and the same as floats.
struct TestState {
    std::int64_t n_kv_heads, head_dim, capacity, n_sequences, max_pages;
    StateForm form;
    std::vector<float> written_k, written_v, k, v;  // (n_sequences, capacity, n_kv_heads * head_dim): what is written, and what the state keeps of it
    std::vector<std::int32_t> pages;
    DeviceMemory keys, values;
    DeviceArray<std::int32_t> page_table;

    TestState(StateForm state_form, std::int64_t kv_heads, std::int64_t dim, std::int64_t positions, std::int64_t sequences)
        : n_kv_heads(kv_heads), head_dim(dim), capacity(positions), n_sequences(sequences), max_pages((positions + 63) / 64 + 1), form(state_form),
          written_k(normal_values(sequences * positions * kv_heads * dim, 31)), written_v(normal_values(sequences * positions * kv_heads * dim, 32)), k(written_k), v(written_v), pages(mixed(sequences * max_pages)),
          keys(state_page_bytes(form, kv_heads, dim) * pages.size()), values(keys.size_bytes()), page_table(pages) {
        for (std::vector<float>* each : {&k, &v})
            for (std::size_t row = 0; row < each->size(); row += static_cast<std::size_t>(dim)) round_row(form, each->data() + row, dim);
        const std::vector<unsigned char> rubbish(keys.size_bytes(), 0xff);  // what was never written may be NaN
        keys.upload(rubbish.data(), rubbish.size());
        values.upload(rubbish.data(), rubbish.size());
    }
    static std::vector<std::int32_t> mixed(std::int64_t n) {
        std::vector<std::int32_t> order;
        for (std::int64_t i = 0; i < n; ++i) order.push_back(static_cast<std::int32_t>(n % 7 == 0 ? n - 1 - i : (i * 7 + 3) % n));
        return order;
    }
    StateView view() const { return {form, keys.data(), values.data(), page_table.data(), max_pages, n_kv_heads, head_dim}; }
    std::int64_t width() const { return n_kv_heads * head_dim; }
    // Writes all positions of all sequences, without rope.
    void write(const Launch& launch) const {
        std::vector<float> rows;
        std::vector<std::int32_t> positions, sequences;
        for (std::int64_t s = 0; s < n_sequences; ++s)
            for (std::int64_t p = 0; p < capacity; ++p) {
                const auto at = (s * capacity + p) * width();
                rows.insert(rows.end(), written_k.begin() + at, written_k.begin() + at + width());
                rows.insert(rows.end(), written_v.begin() + at, written_v.begin() + at + width());
                positions.push_back(static_cast<std::int32_t>(p)), sequences.push_back(static_cast<std::int32_t>(s));
            }
        const DeviceArray<float> device_rows(rows);
        const DeviceArray<std::int32_t> device_positions(positions), device_sequences(sequences);
        RopeWriteArgs args;
        args.qkv = device_rows.data(), args.qkv_stride = 2 * width(), args.k_offset = 0, args.v_offset = width(), args.state = view();
        args.tokens = {n_sequences * capacity, device_positions.data(), device_sequences.data()};
        ASSERT_EQ(launch_rope_write(args, launch), 0);
        device_positions.values();  // waits
    }
};

struct Variant {
    const char* name;
    std::int64_t window = 0;
    float softcap = 0;
    bool alibi = false, sinks = false;
    AttentionMask mask = AttentionMask::causal;
};
constexpr Variant variants[] = {{"causal"}, {"window", 37}, {"softcap", 0, 5.0f}, {"alibi", 0, 0, true}, {"sinks", 0, 0, false, true}, {"window and sinks", 90, 0, false, true}, {"none", 0, 0, false, false, AttentionMask::none}};

std::vector<double> plain_attention(const TestState& state, const Variant& variant, const float* q, std::int64_t n_heads, std::int64_t sequence, std::int64_t position, std::int64_t length, float scale, const std::vector<float>& slopes,
                                    const std::vector<float>& sinks) {
    const std::int64_t d = state.head_dim, group = n_heads / state.n_kv_heads;
    std::vector<double> y(static_cast<std::size_t>(n_heads * d));
    const std::int64_t end = variant.mask == AttentionMask::none ? length : position + 1, first = variant.window > 0 ? std::max<std::int64_t>(0, position - variant.window + 1) : 0;
    for (std::int64_t head = 0; head < n_heads; ++head) {
        std::vector<double> scores;
        double highest = variant.sinks ? sinks[static_cast<std::size_t>(head)] : -INFINITY;
        for (std::int64_t p = first; p < end; ++p) {
            double score = 0;
            const auto at = (sequence * state.capacity + p) * state.width() + head / group * d;
            for (std::int64_t i = 0; i < d; ++i) score += static_cast<double>(q[head * d + i]) * state.k[static_cast<std::size_t>(at + i)];
            score *= scale;
            if (variant.softcap > 0) score = variant.softcap * std::tanh(score / variant.softcap);
            if (variant.alibi) score += slopes[static_cast<std::size_t>(head)] * static_cast<double>(p - position);
            scores.push_back(score);
            highest = std::max(highest, score);
        }
        double total = variant.sinks ? std::exp(sinks[static_cast<std::size_t>(head)] - highest) : 0;
        for (double& score : scores) total += score = std::exp(score - highest);
        for (std::int64_t p = first; p < end; ++p) {
            const auto at = (sequence * state.capacity + p) * state.width() + head / group * d;
            for (std::int64_t i = 0; i < d; ++i) y[static_cast<std::size_t>(head * d + i)] += scores[static_cast<std::size_t>(p - first)] / total * state.v[static_cast<std::size_t>(at + i)];
        }
    }
    return y;
}

struct Heads {
    std::int64_t n_heads, n_kv_heads, head_dim;
};

void set_common(AttentionCommon& common, const Variant& variant, const TestState& state, const DeviceArray<float>& q, std::int64_t n_heads, float scale, const DeviceArray<float>& slopes, const DeviceArray<float>& sinks,
                const DeviceArray<std::int32_t>& lengths) {
    common.q = q.data(), common.q_stride = n_heads * state.head_dim, common.n_heads = n_heads, common.state = state.view(), common.mask = variant.mask, common.window = variant.window, common.scale = scale;
    common.softcap = variant.softcap, common.alibi_slopes = variant.alibi ? slopes.data() : nullptr, common.sinks = variant.sinks ? sinks.data() : nullptr, common.lengths = lengths.data();
}

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
