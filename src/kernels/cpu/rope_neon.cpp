#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd_neon.h"

namespace skiff {
namespace {

struct SineCosine {
    F8 sine, cosine;
};

inline float64x2_t reduce_pair(float64x2_t x, int64x2_t& quadrant) {
    const float64x2_t n = vrndnq_f64(vmulq_n_f64(x, 0.63661977236758134308));
    quadrant = vcvtq_s64_f64(n);
    return vfmsq_f64(vfmsq_f64(x, n, vdupq_n_f64(1.57079632679489661923)), n, vdupq_n_f64(6.12323399573676603587e-17));
}

// Four angles: the quadrant and the rest, reduced in double so that long contexts keep every bit of the angle.
inline float32x4_t reduce_angle(float32x4_t angle, int32x4_t& quadrant) {
    int64x2_t low_quadrant, high_quadrant;
    const float64x2_t low = reduce_pair(vcvt_f64_f32(vget_low_f32(angle)), low_quadrant), high = reduce_pair(vcvt_high_f64_f32(angle), high_quadrant);
    quadrant = vcombine_s32(vmovn_s64(low_quadrant), vmovn_s64(high_quadrant));
    return vcvt_high_f32_f64(vcvt_f32_f64(low), high);
}

inline float32x4_t flip(float32x4_t x, int32x4_t sign) { return vreinterpretq_f32_s32(veorq_s32(vreinterpretq_s32_f32(x), sign)); }

// Of one half: sine and cosine of r, put in the place and given the sign that the quadrant says.
inline void to_quadrant(int32x4_t quadrant, float32x4_t s, float32x4_t c, float32x4_t& sine, float32x4_t& cosine) {
    const uint32x4_t swap = vtstq_s32(quadrant, vdupq_n_s32(1));
    const int32x4_t two = vdupq_n_s32(2);
    sine = flip(vbslq_f32(swap, c, s), vshlq_n_s32(vandq_s32(quadrant, two), 30));
    cosine = flip(vbslq_f32(swap, s, c), vshlq_n_s32(vandq_s32(vaddq_s32(quadrant, vdupq_n_s32(1)), two), 30));
}

// Cephes sinf and cosf (Moshier) on [-pi/4, pi/4], error below 1e-7.
inline SineCosine sine_cosine(F8 angle) {
    int32x4_t low_quadrant, high_quadrant;
    const F8 r = {reduce_angle(angle.low, low_quadrant), reduce_angle(angle.high, high_quadrant)}, z = multiply(r, r);
    F8 s = fma(z, same(-1.9515295891e-4f), same(8.3321608736e-3f));
    s = fma(s, z, same(-1.6666654611e-1f));
    s = fma(multiply(s, z), r, r);
    F8 c = fma(z, same(2.443315711809948e-5f), same(-1.388731625493765e-3f));
    c = fma(c, z, same(4.166664568298827e-2f));
    c = fma(multiply(c, z), z, fnma(z, same(0.5f), same(1.0f)));
    SineCosine result;
    to_quadrant(low_quadrant, s.low, c.low, result.sine.low, result.cosine.low);
    to_quadrant(high_quadrant, s.high, c.high, result.sine.high, result.cosine.high);
    return result;
}

// Lanes 0..n-1 of x[0..] with x[half..], for every head.
inline void rotate_halves(const RopeArgs& args, float* x, std::int64_t n, SineCosine at) {
    const std::int64_t half = args.rotary_dim / 2;
    for (std::int64_t head = 0; head < args.n_heads; ++head, x += args.head_dim) {
        const F8 a = load_tail(x, n), b = load_tail(x + half, n);
        store_tail(x, n, subtract(multiply(a, at.cosine), multiply(b, at.sine)));
        store_tail(x + half, n, add(multiply(b, at.cosine), multiply(a, at.sine)));
    }
}

// Pairs (x[0], x[1]), (x[2], x[3]) ... n pairs, for every head.
inline void rotate_pairs(const RopeArgs& args, float* x, std::int64_t n, SineCosine at) {
    for (std::int64_t head = 0; head < args.n_heads; ++head, x += args.head_dim) {
        float some[16] = {};
        float* const pairs = n == 8 ? x : some;
        for (std::int64_t i = 0; n < 8 && i < 2 * n; ++i) some[i] = x[i];
        const float32x4x2_t low = vld2q_f32(pairs), high = vld2q_f32(pairs + 8);
        const F8 a = {low.val[0], high.val[0]}, b = {low.val[1], high.val[1]};
        const F8 first = subtract(multiply(a, at.cosine), multiply(b, at.sine)), second = add(multiply(b, at.cosine), multiply(a, at.sine));
        vst2q_f32(pairs, {{first.low, second.low}});
        vst2q_f32(pairs + 8, {{first.high, second.high}});
        for (std::int64_t i = 0; n < 8 && i < 2 * n; ++i) x[i] = some[i];
    }
}

}  // namespace

void rope_neon(const RopeArgs& args, Range tokens) {
    const std::int64_t half = args.rotary_dim / 2;
    const F8 magnitudes = same(args.magnitude);
    for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
        const F8 position = same(static_cast<float>(args.positions[token]));
        float* x = args.x + token * args.n_heads * args.head_dim;
        for (std::int64_t i = 0; i < half; i += 8) {
            const std::int64_t n = half - i < 8 ? half - i : 8;
            SineCosine at = sine_cosine(multiply(position, load_tail(args.inv_freq + i, n)));
            at = {multiply(at.sine, magnitudes), multiply(at.cosine, magnitudes)};
            if (args.style == RopeStyle::half) rotate_halves(args, x + i, n, at);
            else rotate_pairs(args, x + 2 * i, n, at);
        }
    }
}

}  // namespace skiff
