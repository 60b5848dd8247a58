#include "net/ranges.h"

#include <algorithm>
#include <cmath>

namespace skiff::net {

Result<std::vector<ValueRange>> value_ranges(const Net& net, std::span<const float> images, const SessionOptions& options) {
    SKIFF_TRY(const auto resolved, resolve(net.spec));
    SKIFF_TRY(const auto session, Session::create(net, options));
    const std::int64_t of_image = net.spec.input.n_elements(), n_images = static_cast<std::int64_t>(images.size()) / of_image;
    if (n_images < 1) return usage_error("there are no images to find the ranges of values with");
    constexpr float far = 3e38f;
    std::vector<ValueRange> ranges(resolved.shapes.size(), {far, -far});
    std::vector<float> y(static_cast<std::size_t>(session->options().batch * session->output().n_elements()));
    for (std::int64_t done = 0; done < n_images; done += session->options().batch) {
        const std::int64_t n = std::min(session->options().batch, n_images - done);
        const float* x = images.data() + done * of_image;
        session->run(x, n, y.data());
        for (std::size_t value = 0; value < ranges.size(); ++value) {
            const float* numbers = value == 0 ? x : session->value(value - 1);
            for (std::int64_t i = 0; i < n * resolved.shapes[value].n_elements(); ++i) {
                if (!std::isfinite(numbers[i])) return corrupt(value == 0 ? "an image holds numbers that are not finite" : "operator " + net.spec.ops[value - 1].name + " gives numbers that are not finite");
                ranges[value].low = std::min(ranges[value].low, numbers[i]);
                ranges[value].high = std::max(ranges[value].high, numbers[i]);
            }
        }
    }
    return ranges;
}

}  // namespace skiff::net
