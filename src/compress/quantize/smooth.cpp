// SmoothQuant (Xiao et al. 2022): s_j = max|x_j|^alpha / max|w_j|^(1 - alpha) levels the columns of the inputs, which 8-bit activations then lose less of.
#include <algorithm>
#include <cmath>

#include "compress/quantize/block_transform.h"

namespace skiff {

Status smooth_apply(const BlockTransformInput& input) {
    for (const InputCoupling& coupling : find_couplings(input.spec, input.block)) {
        const auto found = input.target.inputs.find(coupling.readers[0].key);
        if (found == input.target.inputs.end()) continue;
        const InputStatistics& inputs = *found->second;
        std::vector<float> largest_x(static_cast<std::size_t>(coupling.n_sources)), largest_w(largest_x);
        const auto raise = [](float& largest, float value) { largest = std::max(largest, value); };
        for (std::int64_t i = 0; i < coupling.n_columns; ++i) raise(largest_x[static_cast<std::size_t>(coupling.source_of(i))], inputs.largest[static_cast<std::size_t>(i)]);
        for (const TensorRef& reader : coupling.readers) {
            SKIFF_TRY(const auto stored, input.target.weights.load(reader.key));
            const Weight weight = reader.transposed ? transposed(stored) : stored;
            std::vector<float> row(static_cast<std::size_t>(weight.n_columns()));
            for (std::int64_t r = 0; r < weight.n_rows(); ++r) {
                weight.row(r, row.data());
                for (std::int64_t i = 0; i < coupling.n_columns; ++i) raise(largest_w[static_cast<std::size_t>(coupling.source_of(i))], std::fabs(row[static_cast<std::size_t>(i)]));
            }
        }
        std::vector<float> scales(largest_x.size(), 1.0f);
        const double alpha = input.options.smooth_alpha;
        for (std::size_t i = 0; i < scales.size(); ++i) {
            if (!(largest_x[i] > 0) || !(largest_w[i] > 0)) continue;  // a dead channel
            const double scale = std::pow(static_cast<double>(largest_x[i]), alpha) / std::pow(static_cast<double>(largest_w[i]), 1 - alpha);
            scales[i] = static_cast<float>(std::clamp(scale, 1e-4, 1e4));
        }
        SKIFF_CHECK(scale_inputs(coupling, std::move(scales), input.target));
    }
    return {};
}

}  // namespace skiff
