#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd_neon.h"

namespace skiff {
namespace {

inline int32x4_t clipped(float32x4_t x) { return vcvtnq_s32_f32(vmaxq_f32(vminq_f32(x, vdupq_n_f32(127.0f)), vdupq_n_f32(-127.0f))); }

inline int16x8_t to_codes(F8 x, float inverse) {
    return vcombine_s16(vmovn_s32(clipped(vmulq_n_f32(x.low, inverse))), vmovn_s32(clipped(vmulq_n_f32(x.high, inverse))));
}

inline uint32x4_t magnitude_bits(float32x4_t x) { return vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(0x7fffffff)); }

inline int32x2_t halves(int16x8_t x) { return vreinterpret_s32_s16(vadd_s16(vget_low_s16(x), vget_high_s16(x))); }

// 32 values to codes, scale and sums, the same bits as quantize_ref.
inline void quantize_block(const F8 (&x)[4], float fixed_scale, std::int8_t* codes, float* scale_out, std::int16_t* sums) {
    uint32x4_t top = vdupq_n_u32(0);
    SKIFF_UNROLL
    for (int k = 0; k < 4; ++k) top = vmaxq_u32(top, vmaxq_u32(magnitude_bits(x[k].low), magnitude_bits(x[k].high)));
    const float largest = __builtin_bit_cast(float, vmaxvq_u32(top));
    const bool fixed = fixed_scale > 0 && largest <= 3.0e38f;
    *scale_out = fixed ? fixed_scale : largest / 127.0f;
    if (!fixed && !(largest >= 1e-30f && largest <= 3.0e38f)) {  // nothing, or not a number: the scale tells which
        vst1q_s8(codes, vdupq_n_s8(0)), vst1q_s8(codes + 16, vdupq_n_s8(0));
        vst1_s16(sums, vdup_n_s16(0));
        return;
    }
    const float inverse = fixed ? 1.0f / fixed_scale : 127.0f / largest;
    int16x8_t whole[4];
    SKIFF_UNROLL
    for (int k = 0; k < 4; ++k) whole[k] = to_codes(x[k], inverse);
    // sums of columns 0, 1 (mod 4) and 2, 3 (mod 4) by turns, of each 16 columns; at most 8 * 127
    const int32x2_t first = halves(vpaddq_s16(whole[0], whole[1])), second = halves(vpaddq_s16(whole[2], whole[3]));
    vst1_s16(sums, vadd_s16(vreinterpret_s16_s32(vzip1_s32(first, second)), vreinterpret_s16_s32(vzip2_s32(first, second))));
    vst1q_s8(codes, vcombine_s8(vmovn_s16(whole[0]), vmovn_s16(whole[1])));
    vst1q_s8(codes + 16, vcombine_s8(vmovn_s16(whole[2]), vmovn_s16(whole[3])));
}

}  // namespace

void quantize_neon(const QuantizeArgs& args, Range tokens) {
    const std::int64_t n_blocks = args.padded_columns / 32;
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
        const float* x = args.x + token * args.n_columns;
        for (std::int64_t block = 0; block < n_blocks; ++block) {
            F8 values[4];
            const std::int64_t rest = args.n_columns - block * 32;
            SKIFF_UNROLL
            for (int k = 0; k < 4; ++k) {
                const std::int64_t n = rest - k * 8;
                values[k] = n > 0 ? load_tail(x + block * 32 + k * 8, n) : zeros();
            }
            quantize_block(values, args.fixed_scale, args.codes + token * args.padded_columns + block * 32, args.scales + token * n_blocks + block, args.sums + (token * n_blocks + block) * 4);
        }
    }
}

}  // namespace skiff
