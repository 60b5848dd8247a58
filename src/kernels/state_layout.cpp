#include "kernels/state_layout.h"

#include <cmath>

#include "base/checked.h"
#include "tensor/dtype.h"

namespace skiff {
namespace {

constexpr StateSchemeInfo schemes[] = {{StateScheme::f32, "f32", 32, 1},
                                       {StateScheme::f16, "f16", 16, 1},
                                       {StateScheme::bf16, "bf16", 16, 2},
                                       {StateScheme::int8, "int8", 8, 4},
                                       {StateScheme::int4, "int4", 4, 8}};

StateBlock finished(StateBlock block) {
    block.scales_offset = block.n_panels * block.panel_bytes;
    block.size_bytes = round_up<std::int64_t>(block.scales_offset + block.n_groups * attention_chunk * 2, 64);
    return block;
}

StateScale stored_scale(float scale) {
    if (scale > 65504.0f) scale = 65504.0f;
    if (scale < -65504.0f) scale = -65504.0f;
    const std::uint16_t bits = float_to_f16(scale);
    const float stored = f16_to_float(bits);
    return {bits, stored != 0 ? 1.0f / stored : 0.0f};
}

}  // namespace

std::span<const StateSchemeInfo> state_schemes() { return schemes; }
const StateSchemeInfo& state_scheme_info(StateScheme scheme) { return schemes[static_cast<std::size_t>(scheme)]; }

StateLayout state_layout(StateScheme scheme, std::int64_t n_kv_heads, std::int64_t head_dim) {
    const StateSchemeInfo& info = state_scheme_info(scheme);
    StateLayout layout{scheme, n_kv_heads, head_dim, {}, {}};
    const std::int64_t step_bytes = scheme == StateScheme::f16 ? 32 : 64, groups = ceil_div<std::int64_t>(head_dim, state_group);
    const std::int64_t rows_of_scales = scheme == StateScheme::int8 ? 1 : scheme == StateScheme::int4 ? groups : 0;
    layout.key = {attention_chunk / state_lanes, ceil_div<std::int64_t>(head_dim, info.interleave) * step_bytes, step_bytes, rows_of_scales, 0, 0};
    layout.value = scheme == StateScheme::int4
                       ? StateBlock{groups, attention_chunk / 4 * step_bytes, step_bytes, rows_of_scales, 0, 0}
                       : StateBlock{ceil_div<std::int64_t>(head_dim, state_lanes), attention_chunk / info.interleave * step_bytes, step_bytes, rows_of_scales, 0, 0};
    layout.key = finished(layout.key);
    layout.value = finished(layout.value);
    return layout;
}

std::int64_t state_region_bytes(const StateLayout& layout, StatePart part, std::int64_t capacity) {
    return ceil_div<std::int64_t>(capacity, attention_chunk) * layout.n_kv_heads * layout.part(part).size_bytes;
}

void rotate_head(float* x, std::int64_t head_dim) {
    for (std::int64_t begin = 0; begin < head_dim;) {
        std::int64_t n = 1;
        while (n * 2 <= head_dim - begin) n *= 2;
        float* block = x + begin;
        for (std::int64_t half = 1; half < n; half *= 2)
            for (std::int64_t i = 0; i < n; i += 2 * half)
                for (std::int64_t j = i; j < i + half; ++j) {
                    const float a = block[j], b = block[j + half];
                    block[j] = a + b;
                    block[j + half] = a - b;
                }
        const float factor = 1.0f / std::sqrt(static_cast<float>(n));
        for (std::int64_t i = 0; i < n; ++i) block[i] *= factor;
        begin += n;
    }
}

StateScale state_scale_int8(float largest_magnitude) { return stored_scale(largest_magnitude / 127.0f); }
StateScale state_scale_int4(float highest, float lowest) { return stored_scale((highest >= -lowest ? highest : lowest) / -8.0f); }

}  // namespace skiff
