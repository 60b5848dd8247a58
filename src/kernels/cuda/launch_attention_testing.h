// States with known keys and values, and attention over them as plain sums in double, for the tests of rotation and attention.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/cuda/launch_testing.h"
#include "kernels/cuda/state_format.h"
#include "kernels/kernels_testing.h"

namespace skiff::cuda::testing {

using namespace skiff::testing;

struct StateCase {
    StateForm form;
    const char* name;
};
constexpr StateCase state_cases[] = {{StateForm::bf16, "bf16"}, {StateForm::fp8, "fp8"}, {StateForm::int8, "int8"}, {StateForm::int4, "int4"}};
// Relative to the largest number: what rounding keys, values (coded ones, scaled) and, of prefill, queries and weights to bf16 may do.
inline double tolerance(StateForm form, bool prefill) { return (form == StateForm::bf16 || form == StateForm::fp8 ? 2e-4 : 0.012) + (prefill ? 0.015 : 0); }

// What a row of a state gives back.
inline void round_row(StateForm form, float* x, std::int64_t d) {
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
    // Rows of a position, of all heads, become NaN (their scales, too).
    void forget(std::byte* pool, std::int64_t sequence, std::int64_t position) const {
        const PageLayout layout = page_layout(view());
        const std::int64_t page = pages[static_cast<std::size_t>(sequence * max_pages + position / page_positions)];
        for (std::int64_t head = 0; head < n_kv_heads; ++head) {
            std::memset(pool + layout.row(page, head, position % page_positions), 0xff, static_cast<std::size_t>(layout.row_bytes));
            std::memset(pool + layout.scale(page, head, position % page_positions), 0xff, static_cast<std::size_t>(layout.n_groups) * 2);
        }
    }
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

inline std::vector<double> plain_attention(const TestState& state, const Variant& variant, const float* q, std::int64_t n_heads, std::int64_t sequence, std::int64_t position, std::int64_t length, float scale, const std::vector<float>& slopes,
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

inline void set_common(AttentionCommon& common, const Variant& variant, const TestState& state, const DeviceArray<float>& q, std::int64_t n_heads, float scale, const DeviceArray<float>& slopes, const DeviceArray<float>& sinks,
                const DeviceArray<std::int32_t>& lengths) {
    common.q = q.data(), common.q_stride = n_heads * state.head_dim, common.n_heads = n_heads, common.state = state.view(), common.mask = variant.mask, common.window = variant.window, common.scale = scale;
    common.softcap = variant.softcap, common.alibi_slopes = variant.alibi ? slopes.data() : nullptr, common.sinks = variant.sinks ? sinks.data() : nullptr, common.lengths = lengths.data();
}

}  // namespace skiff::cuda::testing
