#include <cmath>

#include "kernels/ref/ref.h"

namespace skiff {

void norm_ref(const NormArgs& args, Range items) {
    for (std::int64_t item = items.begin; item < items.end; ++item) {
        const float* x = args.x + item * args.width;
        float* y = args.y + item * args.width;
        double mean = 0, square = 0;
        if (args.kind == NormKind::layer) {
            for (std::int64_t i = 0; i < args.width; ++i) mean += x[i];
            mean /= static_cast<double>(args.width);
        }
        for (std::int64_t i = 0; i < args.width; ++i) square += (x[i] - mean) * (x[i] - mean);
        auto scale = static_cast<float>(1.0 / std::sqrt(square / static_cast<double>(args.width) + args.eps));
        auto shift = static_cast<float>(mean);
        for (std::int64_t i = 0; i < args.width; ++i) {
            float value = (x[i] - shift) * scale;
            if (args.weight != nullptr) value *= args.weight[i];
            if (args.bias != nullptr) value += args.bias[i];
            y[i] = value;
        }
    }
}

}  // namespace skiff
