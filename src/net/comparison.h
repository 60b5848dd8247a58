// Two networks side by side, on the same images, on this machine: what a step changed, and what it gained.
#pragma once

#include <cstdint>
#include <span>

#include "net/session.h"

namespace skiff::net {

// Images of independent normal numbers, by seed. // (n_images, height, width, channels) f32
std::vector<float> noise_images(const ValueShape& shape, std::int64_t n_images, std::uint64_t seed);

struct Comparison {
    double output_error = 0;   // squared difference of the outputs, relative to the parent's squares
    double speed_ratio = 0;    // child over parent: the median over pairs of runs, one after the other
    double parent_us = 0, child_us = 0;  // of one image: medians
};
// images: (n_images, input) f32
Result<Comparison> compare_nets(const Net& parent, const Net& child, std::span<const float> images, const SessionOptions& options);

// Microseconds of one image: the median of `n_runs` after one to warm up.
double image_us(Session& session, std::span<const float> images, int n_runs);

double median(std::vector<double> values);

}  // namespace skiff::net
