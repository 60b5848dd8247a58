// Writing rows into the state, written once; each attention_<isa>.cpp includes the lanes of its instruction set first.
#pragma once

#include "kernels/ref/ref.h"
#include "tensor/dtype.h"

namespace skiff {
namespace {

struct RowWork {
    alignas(64) float x[max_code_head];  // rotated, zeros behind
    alignas(64) std::uint16_t halves[max_code_head];
    alignas(64) std::uint8_t codes[max_code_head];
};

// Codes of a head at one position, and its scales `attention_chunk` apart; zeros behind the head's last.
void encode_head(StateScheme scheme, const float* x, std::int64_t d, std::uint16_t* scales, RowWork& work) {
    const std::int64_t whole = padded(d, state_group);
    for (std::int64_t i = 0; i < whole; i += state_lanes) {
        const std::int64_t left = most(least(d - i, state_lanes), 0);
        store_lanes(work.x + i, left == 0 ? set_lanes(0) : load_first(x + i, left));
    }
    if (scheme == StateScheme::f16) {
        for (std::int64_t i = 0; i < d; i += state_lanes) put_f16(load_lanes(work.x + i), work.halves + i);
    } else if (scheme == StateScheme::bf16) {
        for (std::int64_t i = 0; i < d; i += state_lanes) put_bf16(load_lanes(work.x + i), work.halves + i);
    } else if (scheme == StateScheme::int8) {
        Lanes size = set_lanes(0);
        for (std::int64_t i = 0; i < d; i += state_lanes) size = greater(size, magnitude(load_lanes(work.x + i)));
        const StateScale scale = state_scale_int8(highest_of(size));
        scales[0] = scale.bits;
        for (std::int64_t i = 0; i < d; i += state_lanes) put_bytes(load_lanes(work.x + i), scale.inverse, -127, 127, 128, work.codes + i);
    } else if (scheme == StateScheme::int4) {
        rotate_head(work.x, d);
        for (std::int64_t i = 0; i < d; i += state_group) {
            const Lanes a = load_lanes(work.x + i), b = load_lanes(work.x + i + state_lanes);
            const float highest = highest_of(greater(a, b)), lowest = -highest_of(greater(mul(a, set_lanes(-1)), mul(b, set_lanes(-1))));
            const StateScale scale = state_scale_int4(highest > 0 ? highest : 0, lowest < 0 ? lowest : 0);
            scales[i / state_group * attention_chunk] = scale.bits;
            put_bytes(a, scale.inverse, -8, 7, 8, work.codes + i);
            put_bytes(b, scale.inverse, -8, 7, 8, work.codes + i + state_lanes);
        }
    }
}

void store_key(const StateLayout& layout, std::byte* block, std::int64_t p, const RowWork& work) {
    const std::int64_t d = layout.head_dim, lane = p % state_lanes;
    std::byte* panel = block + p / state_lanes * layout.key.panel_bytes;
    switch (layout.scheme) {
        case StateScheme::f32: {
            auto* target = reinterpret_cast<float*>(panel) + lane;
            for (std::int64_t i = 0; i < d; ++i) target[i * state_lanes] = work.x[i];
            break;
        }
        case StateScheme::f16: {
            auto* target = reinterpret_cast<std::uint16_t*>(panel) + lane;
            for (std::int64_t i = 0; i < d; ++i) target[i * state_lanes] = work.halves[i];
            break;
        }
        case StateScheme::bf16: {
            auto* target = reinterpret_cast<std::uint32_t*>(panel) + lane;
            for (std::int64_t i = 0; i < d; i += 2, target += state_lanes) *target = work.halves[i] | static_cast<std::uint32_t>(work.halves[i + 1]) << 16;
            break;
        }
        case StateScheme::int8:
            for (std::int64_t i = 0; i < d; i += 4) __builtin_memcpy(panel + i / 4 * 64 + lane * 4, work.codes + i, 4);
            break;
        case StateScheme::int4:
            for (std::int64_t i = 0; i < d; i += 8)
                for (std::int64_t k = 0; k < 4; ++k) panel[i / 8 * 64 + lane * 4 + k] = static_cast<std::byte>(work.codes[i + k] | work.codes[i + 4 + k] << 4);
            break;
    }
}

// The d numbers of a head to lanes of 16 that are `step` bytes apart, in panels; only these bytes, since others of a line may be written by another thread.
template <class T>
void put_lanes(const T* x, std::int64_t d, std::byte* target, std::int64_t panel_bytes, std::int64_t step) {
    for (; d > 0; d -= state_lanes, x += state_lanes, target += panel_bytes) {
        const std::int64_t n = least(d, state_lanes);
        if (n == state_lanes)
            for (std::int64_t i = 0; i < state_lanes; ++i) __builtin_memcpy(target + i * step, x + i, sizeof(T));
        else
            for (std::int64_t i = 0; i < n; ++i) __builtin_memcpy(target + i * step, x + i, sizeof(T));
    }
}

void store_value(const StateLayout& layout, std::byte* block, std::int64_t p, const RowWork& work) {
    const std::int64_t d = layout.head_dim, panel_bytes = layout.value.panel_bytes;
    switch (layout.scheme) {
        case StateScheme::f32:
            put_lanes(work.x, d, block + p * 64, panel_bytes, 4);
            break;
        case StateScheme::f16:
            put_lanes(work.halves, d, block + p * 32, panel_bytes, 2);
            break;
        case StateScheme::bf16:
            put_lanes(work.halves, d, block + p / 2 * 64 + p % 2 * 2, panel_bytes, 4);
            break;
        case StateScheme::int8:
            put_lanes(work.codes, d, block + p / 4 * 64 + p % 4, panel_bytes, 4);
            break;
        case StateScheme::int4:
            for (std::int64_t i = 0; i < d; i += 32)
                for (std::int64_t k = 0; k < 16; ++k)
                    block[i / 32 * panel_bytes + p / 4 * 64 + k * 4 + p % 4] = static_cast<std::byte>(work.codes[i + k] | work.codes[i + 16 + k] << 4);
            break;
    }
}

void state_write(const StateWriteArgs& args, Range tokens) {
    if (args.head_dim > max_code_head) return state_write_ref(args, tokens);
    const StateLayout layout = state_layout(args.scheme, args.n_kv_heads, args.head_dim);
    const StateBlock& part = layout.part(args.part);
    RowWork work;
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token)
        for (std::int64_t head = args.heads.begin; head < args.heads.end; ++head) {
            const std::int64_t position = args.positions[token], p = position % attention_chunk;
            std::byte* block = args.rows[token] + (position / attention_chunk * args.n_kv_heads + head) * part.size_bytes;
            encode_head(args.scheme, args.x + token * args.x_stride + (head - args.heads.begin) * args.head_dim, args.head_dim, reinterpret_cast<std::uint16_t*>(block + part.scales_offset) + p, work);
            if (args.part == StatePart::keys) store_key(layout, block, p, work);
            else store_value(layout, block, p, work);
        }
}

}  // namespace
}  // namespace skiff
