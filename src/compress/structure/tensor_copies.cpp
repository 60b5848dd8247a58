#include "compress/structure/tensor_copies.h"

#include <algorithm>

#include "compress/survey.h"
#include "compress/weight_state.h"

namespace skiff {

Result<PlannedTensor> plan_copy(const Checkpoint& parent, const std::string& key, const std::string& name, const Shape& shape, ThreadPool& pool) {
    SKIFF_TRY(const auto weight, parent.weights->load(key));
    PlannedTensor planned;
    planned.key = key;
    planned.from = weight.encoding_name();
    planned.shape = shape;
    if (name != key) planned.stored_as = name;
    planned.parent_is_plain = weight.plain() != nullptr;
    planned.bytes_before = weight.stored_bytes();
    planned.n_elements = static_cast<std::uint64_t>(element_count(shape));
    planned.n_elements_before = static_cast<std::uint64_t>(element_count(weight.shape));
    if (weight.plain() != nullptr) {
        const DTypeInfo& type = dtype_info(weight.plain()->dtype);
        if (type.is_float && type.to_float != nullptr) SKIFF_CHECK(survey_weight(weight, nullptr, pool));
        planned.declarations = {{name, weight.plain()->dtype, shape}};
    } else if (weight.codes() != nullptr && shape == weight.shape) {
        planned.declarations = code_tensors(module_of_key(name), weight.codes()->scheme, shape);
    } else if (weight.hashed() != nullptr) {
        return unsupported("is " + planned.from + "; this comes before weights are hashed, or after skiff convert --to hf has written their blocks out");
    } else {
        return unsupported(state_of(weight) + "; change the shape of the model before " + (weight.sparse() != nullptr ? "weights are pruned" : "quantizing it") + or_write_out);
    }
    for (const auto& part : planned.declarations) {
        const auto size = dtype_bytes(part.dtype, element_count(part.shape));
        if (!size) return corrupt("has no size in bytes");
        planned.bytes_after += static_cast<std::uint64_t>(*size);
    }
    release_pages(weight);
    return planned;
}

void add_tensor(TensorPlan& plan, PlannedTensor planned) {
    plan.bytes_before += planned.bytes_before;
    plan.bytes_after += planned.bytes_after;
    plan.n_elements += planned.n_elements;
    plan.n_elements_before += planned.n_elements_before;
    plan.largest_working_set_bytes = std::max(plan.largest_working_set_bytes, planned.bytes_before * 3 + planned.bytes_after);
    plan.tensors.push_back(std::move(planned));
}

Result<MadeTensor> make_copy(const PlannedTensor& planned, const Weight& weight) {
    MadeTensor made{{}, weight, false};
    if (weight.plain() != nullptr) {
        made.parts = {{planned.declarations[0].name, weight.plain()->dtype, weight.shape, weight.plain()->data, weight.owner}};
        return made;
    }
    SKIFF_TRY(made.parts, weight_tensors(module_of_key(planned.stored_as.empty() ? planned.key : planned.stored_as), weight));
    return made;
}

Result<MadeTensor> make_rounded(const PlannedTensor& planned, DType dtype, const std::vector<float>& values) {
    const auto size = dtype_bytes(dtype, static_cast<std::int64_t>(values.size()));
    if (!size || dtype_info(dtype).from_float == nullptr) return unsupported("has a type that is no number");
    std::vector<std::byte> bytes(static_cast<std::size_t>(*size));
    dtype_info(dtype).from_float(values.data(), static_cast<std::int64_t>(values.size()), bytes.data());
    MadeTensor made;
    made.effective = make_plain_weight(planned.shape, dtype, std::move(bytes));
    made.parts = {{planned.declarations[0].name, dtype, planned.shape, made.effective.plain()->data, made.effective.owner}};
    made.changed = true;
    return made;
}

}  // namespace skiff
