#include "kernels/ref/ref.h"

namespace skiff {

void causal_conv_ref(const CausalConvArgs& args, Range columns) {
    for (std::int64_t column = columns.begin; column < columns.end; ++column) {
        double sum = args.bias != nullptr ? static_cast<double>(args.bias[column]) : 0;
        for (std::int64_t tap = 0; tap < args.kernel; ++tap)
            if (args.rows[tap] != nullptr) sum += static_cast<double>(args.taps[tap * args.stride + column]) * static_cast<double>(args.rows[tap][column]);
        args.y[column] = static_cast<float>(sum);
    }
}

}  // namespace skiff
