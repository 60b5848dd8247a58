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
    if (const std::string why = why_not_calibrated(input, StatisticsNeed::moments); !why.empty()) {
        remark(input, "every weight counts the same: " + why);
    } else {
        SKIFF_CHECK(check_statistics(input));
        importance = column_importance(*input.inputs);
    }
    SKIFF_TRY(auto weight, encode_nearest(input.weight, input.scheme, input.scale_rule, importance, &input.pool));
    if (weight.codes()->scheme.scale_dtype != input.scheme.scale_dtype)
        return runtime_error("levels do not fit " + std::string(dtype_info(input.scheme.scale_dtype).name) + ", which the survey of the weights did not foresee; this is a bug, please report it");
    return weight;
}

}  // namespace skiff
