#include "compress/quantize/corrected_tensors.h"

#include <algorithm>

namespace skiff {

std::set<std::string> plan_corrections(const BlockCorrections& corrections, TensorPlan& plan) {
    std::set<std::string> corrected;
    const auto keys = corrections.keys();
    for (PlannedTensor& tensor : plan.tensors) {
        if (keys.count(tensor.key) == 0 || tensor.scheme || !tensor.parent_is_plain) continue;
        corrected.insert(tensor.key);
        TensorDeclaration& part = tensor.declarations[0];
        if (!dtype_info(part.dtype).is_float || part.dtype == DType::f32 || tensor.key.ends_with(".bias")) continue;
        const auto n = static_cast<std::uint64_t>(element_count(part.shape)), more = n * 4 - tensor.bytes_after;
        part.dtype = DType::f32;
        tensor.bytes_after += more;
        plan.bytes_after += more;
        tensor.form = "F32";
    }
    std::map<std::string, std::uint64_t> n_elements;
    for (const PlannedTensor& tensor : plan.tensors) n_elements[tensor.key] = tensor.n_elements;
    plan.largest_working_set_bytes += corrections.memory_bytes(n_elements);
    if (const auto left_out = corrections.left_out(); !left_out.empty())
        plan.remarks.push_back("operators without a bias, which config.json cannot give them, keep the mean of their errors: " + left_out.front() + (left_out.size() > 1 ? " and " + std::to_string(left_out.size() - 1) + " more" : ""));
    std::stable_partition(plan.tensors.begin(), plan.tensors.end(), [&](const PlannedTensor& tensor) { return corrected.count(tensor.key) == 0; });
    return corrected;
}

Result<MadeTensor> make_corrected(BlockCorrections& corrections, const PlannedTensor& planned, const WeightSource& weights, ThreadPool& pool) {
    if (!corrections.settled()) SKIFF_CHECK(corrections.settle(weights, pool));
    const Weight* corrected = corrections.value(planned.key);
    SKIFF_TRY(const auto stored, weights.load(planned.key));
    const DType dtype = planned.declarations[0].dtype;
    MadeTensor made{{}, corrected != nullptr ? *corrected : stored, true};
    if (made.effective.plain()->dtype != dtype) {
        SKIFF_TRY(made.effective, encode_nearest(made.effective, floating_scheme(dtype), ScaleRule::min_max, {}, &pool));
    }
    made.parts = {{planned.key, dtype, made.effective.shape, made.effective.plain()->data, made.effective.owner}};
    return made;
}

}  // namespace skiff
