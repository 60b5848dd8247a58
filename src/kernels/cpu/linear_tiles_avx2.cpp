// Linear kernels over tiles with int8 activations (i8_b32) for AVX2: which of the sums of tile_256.h a weight's levels allow.
#include "kernels/cpu/tile_256.h"

namespace skiff {
namespace {

// Levels by table, so their range decides.
template <int Bits>
void by_table(const LinearArgs& args, Range rows, const TileFormat& format) {
    const std::int32_t lowest = -format.offset, highest = format.largest_level - format.offset, extreme = lowest + highest < 0 ? -lowest : highest;  // as they are meant
    if (extreme <= 16) linear_tiles<Micro256<Bits, 8, 1>>(args, rows);
    else if (extreme <= 32) linear_tiles<Micro256<Bits, halves, 1>>(args, rows);
    else if (format.largest_level <= 63) linear_tiles<Micro256<Bits, 2, 1>>(args, rows);
    else if (format.largest_level <= 127) linear_tiles<Micro256<Bits, 1, 1>>(args, rows);
    else linear_tiles<Micro256<Bits, signed_levels, 1>>(args, rows);
}

template <int Bits>
void linear(const LinearArgs& args, Range rows) {
    if constexpr (Bits <= 4) {
        const TileFormat format = tile_format(*args.weight);
        if (format.row_levels) return linear_tiles<Micro256<Bits, signed_levels, 2>>(args, rows);
        if constexpr (Bits == 1)
            if (format.twice_codes()) return linear_tiles<Micro256<Bits, 8, twice>>(args, rows);
        if (format.has_levels) return by_table<Bits>(args, rows, format);
    }
    constexpr int depth = Bits <= 5 ? 8 : Bits == 6 ? halves : signed_levels;  // levels within 1 << (Bits - 1)
    linear_tiles<Micro256<Bits, depth, 0>>(args, rows);
}

}  // namespace

void linear_w1_r16_avx2(const LinearArgs& args, Range rows) { linear<1>(args, rows); }
void linear_w2_r16_avx2(const LinearArgs& args, Range rows) { linear<2>(args, rows); }
void linear_w3_r16_avx2(const LinearArgs& args, Range rows) { linear<3>(args, rows); }
void linear_w4_r16_avx2(const LinearArgs& args, Range rows) { linear<4>(args, rows); }
void linear_w5_r16_avx2(const LinearArgs& args, Range rows) { linear<5>(args, rows); }
void linear_w6_r16_avx2(const LinearArgs& args, Range rows) { linear<6>(args, rows); }
void linear_w8_r16_avx2(const LinearArgs& args, Range rows) { linear<8>(args, rows); }

}  // namespace skiff
