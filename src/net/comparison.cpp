#include "net/comparison.h"

#include <algorithm>
#include <chrono>

#include "base/rng.h"

namespace skiff::net {
namespace {

double run_us(Session& session, std::span<const float> images, std::vector<float>& y) {
    const std::int64_t n_images = static_cast<std::int64_t>(images.size()) / session.input().n_elements();
    y.resize(static_cast<std::size_t>(n_images * session.output().n_elements()));
    const auto begin = std::chrono::steady_clock::now();
    session.run(images.data(), n_images, y.data());
    return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count() / static_cast<double>(n_images);
}

}  // namespace

std::vector<float> noise_images(const ValueShape& shape, std::int64_t n_images, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<float> images(static_cast<std::size_t>(n_images * shape.n_elements()));
    for (float& value : images) value = rng.normal();
    return images;
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values.empty() ? 0 : values[values.size() / 2];
}

double image_us(Session& session, std::span<const float> images, int n_runs) {
    std::vector<float> y;
    std::vector<double> times;
    run_us(session, images, y);
    for (int i = 0; i < n_runs; ++i) times.push_back(run_us(session, images, y));
    return median(times);
}

Result<Comparison> compare_nets(const Net& parent, const Net& child, std::span<const float> images, const SessionOptions& options) {
    constexpr int n_pairs = 15;
    SKIFF_TRY(const auto before, Session::create(parent, options));
    SKIFF_TRY(const auto after, Session::create(child, options));
    if (before->input() != after->input() || before->output() != after->output()) return usage_error("the networks take or give values of different shapes");
    std::vector<float> wanted, found;
    run_us(*before, images, wanted);
    run_us(*after, images, found);
    Comparison comparison;
    double squares = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        const double difference = static_cast<double>(wanted[i]) - static_cast<double>(found[i]);
        comparison.output_error += difference * difference;
        squares += static_cast<double>(wanted[i]) * static_cast<double>(wanted[i]);
    }
    comparison.output_error /= std::max(squares, 1e-30);
    std::vector<double> parent_us, child_us, ratios;
    for (int pair = 0; pair < n_pairs; ++pair) {
        parent_us.push_back(run_us(*before, images, wanted));
        child_us.push_back(run_us(*after, images, found));
        ratios.push_back(parent_us.back() / child_us.back());
    }
    comparison.speed_ratio = median(ratios);
    comparison.parent_us = median(parent_us);
    comparison.child_us = median(child_us);
    return comparison;
}

}  // namespace skiff::net
