// Where the numbers of a state page are, and their conversion. Host and device.
//
// A page holds 64 positions of all KV heads: rows of head_dim numbers, (head, position) apart by row_bytes, then scales (f16) in the same order. So that two numbers come out
// of a word with one mask, neighbours lie 16 bits apart: 8-bit rows have dimensions 0, 2, 1, 3 of every four in bytes 0 .. 3, 4-bit rows have dimension 8 w + 2 j in
// nibble j and 8 w + 2 j + 1 in nibble j + 4 of word w.
#pragma once

#include "kernels/cuda/lane.h"
#include "kernels/cuda/launch.h"

namespace skiff::cuda {

struct PageLayout {
    StateForm form = StateForm::bf16;
    int head_dim = 0, row_bytes = 0;
    int n_groups = 0;               // scales of a row
    std::int64_t page_bytes = 0, scales_offset = 0;

    SKIFF_HD std::int64_t row(std::int64_t page, std::int64_t head, std::int64_t in_page) const { return page * page_bytes + (head * page_positions + in_page) * row_bytes; }
    SKIFF_HD std::int64_t scale(std::int64_t page, std::int64_t head, std::int64_t in_page) const {
        return page * page_bytes + scales_offset + (head * page_positions + in_page) * n_groups * 2;
    }
};
constexpr int state_bits(StateForm form) { return form == StateForm::bf16 ? 16 : form == StateForm::int4 ? 4 : 8; }
inline PageLayout page_layout(const StateView& state) {
    PageLayout layout;
    layout.form = state.form;
    layout.head_dim = static_cast<int>(state.head_dim);
    layout.row_bytes = layout.head_dim * state_bits(state.form) / 8;
    layout.n_groups = state.form == StateForm::int8 ? 1 : state.form == StateForm::int4 ? layout.head_dim / 32 : 0;
    layout.page_bytes = static_cast<std::int64_t>(state_page_bytes(state.form, state.n_kv_heads, state.head_dim));
    layout.scales_offset = state.n_kv_heads * page_positions * layout.row_bytes;
    return layout;
}
// Rows are read in 16 bytes at a time.
inline bool state_takes(StateForm form, std::int64_t head_dim) { return head_dim > 0 && head_dim <= 256 && head_dim * state_bits(form) % 128 == 0; }

// Byte of a dimension in a row of 8-bit numbers; byte and shift of 4-bit ones.
SKIFF_HD int state_byte8(int dim) { return (dim & ~3) + ((dim & 1) << 1) + ((dim & 2) >> 1); }
SKIFF_HD int state_nibble4(int dim) { return (dim & ~7) + ((dim & 7) >> 1) + ((dim & 1) << 2); }  // byte = nibble / 2

// 16 bytes of a row as bf16: 16 dimensions (8 words) of an 8-bit form, 32 (16 words) of int4. `scale` is ignored by fp8, whose numbers are exact.
SKIFF_HD void expand_state(StateForm form, const std::uint32_t (&raw)[4], float scale, std::uint32_t* words) {
    const auto scaled = [&](std::uint32_t pair) { return pack_bf16x2(bits_float(pair << 16) * scale, bits_float(pair & 0xffff0000u) * scale); };
    for (int w = 0; w < 4; ++w) {
        if (form == StateForm::fp8) {
            words[2 * w] = ByteDecoder<CodeForm::e4m3>::pair(raw[w]);
            words[2 * w + 1] = ByteDecoder<CodeForm::e4m3>::pair(raw[w] >> 8);
        } else if (form == StateForm::int8) {
            words[2 * w] = scaled(ByteDecoder<CodeForm::linear8>::pair(raw[w]));
            words[2 * w + 1] = scaled(ByteDecoder<CodeForm::linear8>::pair(raw[w] >> 8));
        } else {
            for (int j = 0; j < 4; ++j) words[4 * w + j] = scaled(fma_bf16x2(and_or(raw[w] >> 4 * j, 0x000f000fu, 0x43004300u), one_bf16x2, 0xc308c308u));  // code - 8
        }
    }
}

// The scale that is stored (finite), and what to multiply with.
struct StoredScale {
    std::uint32_t bits;
    float inverse;
};
SKIFF_HD StoredScale stored_scale(float scale) {
    scale = fminf(fmaxf(scale, -65504.0f), 65504.0f);
    const std::uint32_t bits = float_f16(scale);
    const float stored = f16_float(bits);
    return {bits, stored != 0 ? 1.0f / stored : 0.0f};
}
SKIFF_HD int state_code(float x, float inverse, int lowest, int highest) {
    const float code = rintf(x * inverse);
    return !(code >= static_cast<float>(lowest)) ? lowest : code > static_cast<float>(highest) ? highest : static_cast<int>(code);
}

}  // namespace skiff::cuda
