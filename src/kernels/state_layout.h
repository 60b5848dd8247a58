// How keys and values lie in the state, by storage scheme.
//
// A sequence's keys are blocks of 256 positions (attention_chunk), in each block one head behind the other; its values likewise. Inside a head's block
// both are panels of 16 lanes, so that one broadcast number of the other operand meets 16 results and no sum crosses lanes:
//   keys    a panel is 16 positions; it runs along the head's dimensions
//   values  a panel is 16 dimensions; it runs along the 256 positions
// A step of a panel is what one load takes, 64 bytes (f16: 32): 16 lanes x `interleave` neighbours of the running index.
//   f32, f16  interleave 1      bf16  2      int8  4, code + 128 as u8
//   int4      keys: 8 dimensions, byte 4 * lane + k has dimension k in its low and 4 + k in its high nibble; values: two panels (dimensions g * 32 and
//             g * 32 + 16 on) in the low and high nibbles of one, 4 positions; code + 8
// Scales (f16) follow the codes of a block: int8 (256 positions); int4 (groups of 32 dimensions, 256 positions). A position's bytes do not depend on
// any other position, so a sequence is cut by forgetting its end. int4 holds rotated rows (rotate_head): the spread of a row's numbers evens out.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"

namespace skiff {

enum class StateScheme : std::uint8_t { f32, f16, bf16, int8, int4 };

struct StateSchemeInfo {
    StateScheme scheme;
    std::string_view name;
    int bits, interleave;
};
std::span<const StateSchemeInfo> state_schemes();
const StateSchemeInfo& state_scheme_info(StateScheme scheme);

inline constexpr std::int64_t attention_chunk = 256;  // positions whose partial softmax is merged at a time, in order
inline constexpr std::int64_t state_lanes = 16, state_group = 32;

enum class StatePart : std::uint8_t { keys, values };

// The parts of one head's block of 256 positions, in bytes.
struct StateBlock {
    std::int64_t n_panels, panel_bytes, step_bytes;
    std::int64_t n_groups;        // rows of 256 scales
    std::int64_t scales_offset;   // behind the panels
    std::int64_t size_bytes;      // a multiple of 64
};

struct StateLayout {
    StateScheme scheme;
    std::int64_t n_kv_heads, head_dim;
    StateBlock key, value;

    const StateBlock& part(StatePart which) const { return which == StatePart::keys ? key : value; }
};
StateLayout state_layout(StateScheme scheme, std::int64_t n_kv_heads, std::int64_t head_dim);

// Bytes of a region for `capacity` positions.
std::int64_t state_region_bytes(const StateLayout& layout, StatePart part, std::int64_t capacity);

// Where the bytes of the first n_tokens positions of a region are: calls use(offset, size_bytes) in ascending order.
template <class Use>
void for_each_state_piece(const StateLayout& layout, StatePart which, std::int64_t n_tokens, Use use) {
    const StateBlock& block = layout.part(which);
    const std::int64_t whole = n_tokens / attention_chunk, rest = n_tokens % attention_chunk, row = layout.n_kv_heads * block.size_bytes;
    if (whole > 0) use(std::int64_t{0}, whole * row);
    if (rest == 0) return;
    const std::int64_t interleave = state_scheme_info(layout.scheme).interleave;
    for (std::int64_t head = 0; head < layout.n_kv_heads; ++head) {
        const std::int64_t base = whole * row + head * block.size_bytes;
        if (which == StatePart::keys) {
            use(base, (rest + state_lanes - 1) / state_lanes * block.panel_bytes);
        } else {
            const std::int64_t positions = layout.scheme == StateScheme::int4 ? 4 : interleave;
            for (std::int64_t panel = 0; panel < block.n_panels; ++panel) use(base + panel * block.panel_bytes, (rest + positions - 1) / positions * block.step_bytes);
        }
        for (std::int64_t group = 0; group < block.n_groups; ++group) use(base + block.scales_offset + group * attention_chunk * 2, rest * 2);
    }
}

// The normalised Walsh-Hadamard transform of a head, its own inverse: over the largest blocks of a power of two, 80 = 64 + 16. // x: (head_dim) f32
void rotate_head(float* x, std::int64_t head_dim);

// The scale of a row or group as it is stored (f16, finite), and what to multiply with before rounding to codes.
struct StateScale {
    std::uint16_t bits;
    float inverse;
};
StateScale state_scale_int8(float largest_magnitude);         // codes -127 .. 127
StateScale state_scale_int4(float highest, float lowest);     // codes -8 .. 7: the number furthest from zero becomes -8

}  // namespace skiff
