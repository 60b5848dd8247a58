// k-means: the levels of clusters are those that lose least, each weight's error weighed by the mean square of its input (the diagonal of the Hessian of the
// operator's squared error). Exact in one dimension, so that no start and no iteration is to be chosen: tensor/clusters.h. Vectors: tensor/vector_books.h.
#include "compress/method.h"
#include "compress/quantize/coded_rows.h"
#include "compress/quantize/weighted.h"

namespace skiff {

Status kmeans_defined_on(const Scheme& scheme) {
    if (scheme.kind == NumberKind::vectors) return nearest_defined_on(scheme);
    if (scheme.kind != NumberKind::clusters) return unsupported("k-means finds levels, and those of " + scheme.name() + " are given; take a scheme of clusters or vectors, such as k16 or v4k256");
    return {};
}

Result<Weight> kmeans_encode(const MethodInput& input) {
    std::vector<float> importance;
    if (!input.squared_gradients.empty()) {
        // The Fisher information's diagonal: what the loss loses where a weight moves, to second order (Kim et al. 2024, SqueezeLLM). A floor, as of inputs.
        double sum = 0;
        for (float square : input.squared_gradients) sum += static_cast<double>(square);
        const auto floor = static_cast<float>(1e-3 * sum / static_cast<double>(input.squared_gradients.size()));
        importance.assign(input.squared_gradients.begin(), input.squared_gradients.end());
        for (float& value : importance) value += floor;
        return encode_nearest(input.weight, input.scheme, input.scale_rule, sum > 0 ? std::span<const float>(importance) : std::span<const float>(), &input.pool);
    }
    if (const std::string why = why_not_calibrated(input, StatisticsNeed::moments); !why.empty()) {
        remark(input, "every weight counts the same: " + why);
    } else {
        SKIFF_CHECK(check_statistics(input));
        importance = column_importance(*input.inputs);
    }
    return encode_nearest(input.weight, input.scheme, input.scale_rule, importance, &input.pool);
}

}  // namespace skiff
