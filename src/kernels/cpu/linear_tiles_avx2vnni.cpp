// Linear kernels over tiles with int8 activations (i8_b32) for AVX2 with AVX-VNNI (Alder Lake, Zen 5 and later).
#include "kernels/cpu/tile_256.h"

namespace skiff {
namespace {

template <int Bits>
void linear(const LinearArgs& args, Range rows) {
    if constexpr (Bits <= 4) {
        const TileFormat format = tile_format(*args.weight);
        if (format.row_levels) return linear_tiles<Micro256<Bits, vnni, 2>>(args, rows);
        if constexpr (Bits == 1)
            if (format.twice_codes()) return linear_tiles<Micro256<Bits, vnni, twice>>(args, rows);
        if (format.has_levels) return linear_tiles<Micro256<Bits, vnni, 1>>(args, rows);
    }
    linear_tiles<Micro256<Bits, vnni, 0>>(args, rows);
}

}  // namespace

void linear_w1_r16_avx2vnni(const LinearArgs& args, Range rows) { linear<1>(args, rows); }
void linear_w2_r16_avx2vnni(const LinearArgs& args, Range rows) { linear<2>(args, rows); }
void linear_w3_r16_avx2vnni(const LinearArgs& args, Range rows) { linear<3>(args, rows); }
void linear_w4_r16_avx2vnni(const LinearArgs& args, Range rows) { linear<4>(args, rows); }
void linear_w5_r16_avx2vnni(const LinearArgs& args, Range rows) { linear<5>(args, rows); }
void linear_w6_r16_avx2vnni(const LinearArgs& args, Range rows) { linear<6>(args, rows); }
void linear_w8_r16_avx2vnni(const LinearArgs& args, Range rows) { linear<8>(args, rows); }

}  // namespace skiff
