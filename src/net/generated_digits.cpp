#include "net/generated_digits.h"

#include <algorithm>
#include <cmath>

#include "base/rng.h"

namespace skiff::net {
namespace {

constexpr std::int64_t side = 28;

struct Point {
    double x, y;
};
using Stroke = std::vector<Point>;

// Part of an ellipse, in turns from the right, downwards.
Stroke arc(Point center, double radius_x, double radius_y, double from, double to) {
    constexpr int n_pieces = 16;
    Stroke stroke;
    for (int i = 0; i <= n_pieces; ++i) {
        const double angle = 2 * M_PI * (from + (to - from) * i / n_pieces);
        stroke.push_back({center.x + radius_x * std::cos(angle), center.y + radius_y * std::sin(angle)});
    }
    return stroke;
}

// In a box from (-1, -1.4) to (1, 1.4), y downwards.
std::vector<Stroke> strokes_of(std::int32_t digit) {
    switch (digit) {
        case 0: return {arc({0, 0}, 0.8, 1.3, 0, 1)};
        case 1: return {{{-0.4, -0.8}, {0.1, -1.3}, {0.1, 1.3}}};
        case 2: return {arc({0, -0.6}, 0.75, 0.7, 0.5, 1.1), {{0.6, -0.2}, {-0.8, 1.3}, {0.85, 1.3}}};
        case 3: return {arc({-0.1, -0.65}, 0.75, 0.65, 0.6, 1.25), arc({-0.1, 0.65}, 0.85, 0.65, 0.75, 1.4)};
        case 4: return {{{0.35, 1.3}, {0.35, -1.3}, {-0.85, 0.4}, {0.9, 0.4}}};
        case 5: return {{{0.7, -1.3}, {-0.6, -1.3}, {-0.65, -0.1}}, arc({0, 0.5}, 0.8, 0.8, 0.62, 1.38)};
        case 6: return {arc({0, 0.55}, 0.75, 0.75, 0, 1), {{0.45, -1.3}, {-0.4, -0.5}, {-0.72, 0.4}}};
        case 7: return {{{-0.8, -1.3}, {0.8, -1.3}, {-0.2, 1.3}}};
        case 8: return {arc({0, -0.65}, 0.62, 0.62, 0, 1), arc({0, 0.65}, 0.78, 0.68, 0, 1)};
        default: return {arc({0, -0.55}, 0.75, 0.75, 0, 1), {{0.73, -0.4}, {0.55, 0.6}, {0.1, 1.3}}};
    }
}

double distance(Point p, Point a, Point b) {
    const double dx = b.x - a.x, dy = b.y - a.y, length = dx * dx + dy * dy;
    const double t = length > 0 ? std::clamp(((p.x - a.x) * dx + (p.y - a.y) * dy) / length, 0.0, 1.0) : 0;
    return std::hypot(p.x - a.x - t * dx, p.y - a.y - t * dy);
}

void draw(std::int32_t digit, Rng& rng, float* pixels) {
    const auto between = [&](double low, double high) { return low + (high - low) * rng.uniform(); };
    const double angle = between(-0.3, 0.3), slant = between(-0.35, 0.35), scale_x = between(5.0, 8.5), scale_y = between(5.5, 8.0), thickness = between(0.7, 1.9);
    const Point middle{13.5 + between(-3, 3), 13.5 + between(-2.5, 2.5)};
    std::vector<Stroke> strokes = strokes_of(digit);
    for (Stroke& stroke : strokes)
        for (Point& p : stroke) {
            const double x = (p.x + slant * p.y + between(-0.07, 0.07)) * scale_x, y = (p.y + between(-0.07, 0.07)) * scale_y;
            p = {middle.x + x * std::cos(angle) - y * std::sin(angle), middle.y + x * std::sin(angle) + y * std::cos(angle)};
        }
    const double noise = between(0, 0.25), ink = between(0.6, 1);
    for (std::int64_t row = 0; row < side; ++row)
        for (std::int64_t column = 0; column < side; ++column) {
            double nearest = 1e9;
            for (const Stroke& stroke : strokes)
                for (std::size_t i = 1; i < stroke.size(); ++i) nearest = std::min(nearest, distance({static_cast<double>(column), static_cast<double>(row)}, stroke[i - 1], stroke[i]));
            const double value = ink * std::clamp(thickness + 0.5 - nearest, 0.0, 1.0) + noise * static_cast<double>(rng.normal());
            pixels[row * side + column] = static_cast<float>(std::round(std::clamp(value, 0.0, 1.0) * 255) / 255);  // what a file of bytes can hold
        }
}

}  // namespace

LabelledImages generate_digits(std::int64_t n, std::uint64_t seed) {
    Rng rng(seed);
    LabelledImages digits;
    digits.shape = {side, side, 1};
    digits.pixels.resize(static_cast<std::size_t>(n * side * side));
    for (std::int64_t i = 0; i < n; ++i) {
        const auto digit = static_cast<std::int32_t>(rng.below(10));
        digits.labels.push_back(digit);
        draw(digit, rng, digits.pixels.data() + i * side * side);
    }
    return digits;
}

}  // namespace skiff::net
