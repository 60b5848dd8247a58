// Scale search shared by the block encoders: least squares over candidate scales, weighed by importance.
#pragma once

#include <algorithm>
#include <cstdint>

namespace skiff::blocks {

// Nearest integer of a number within [low, high], ties to even; adding 1.5 * 2^23 leaves no fraction bits. NaN gives `high`.
inline float nearest(float x, float low, float high) {
    const float clamped = std::max(low, std::min(high, x));
    return (clamped + 12582912.0f) - 12582912.0f;
}

// The numbers of one (sub-)block and how much each squared error counts. n is a multiple of 8, at most 32.
struct Group {
    const float* x;
    const float* importance;
    int n;
};

// Scale s such that x ~ s * q with q an integer of [low, high]; either sign, 0 for a group of zeros.
float search_scale(const Group& group, int low, int high);
double scale_error(const Group& group, float scale, int low, int high);       // weighed squared error of rounding to that scale
void round_to_scale(const Group& group, float scale, int low, int high, std::int8_t* codes);

// The same over the 16 levels of IQ4: x ~ s * iq4_levels[q].
float search_level_scale(const Group& group);
void round_to_levels(const Group& group, float scale, std::uint8_t* codes);

// Scale and offset with x ~ scale * q + offset, q an integer of [0, top].
struct Affine {
    float scale = 0, offset = 0;
};
enum class OffsetSign { any, not_positive };
Affine search_affine(const Group& group, int top, OffsetSign sign);
double affine_error(const Group& group, Affine affine, int top);
void round_to_affine(const Group& group, Affine affine, int top, std::uint8_t* codes);

}  // namespace skiff::blocks
