// The calls: what is set, finished, asked and executed, each checked as far as it can be without computing.
#include "backend/cuda/testing/fake_cudnn.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <string_view>

namespace skiff::cuda::cudnn::fake {
namespace {

constexpr std::int64_t usual_workspace = 512, too_much_workspace = std::int64_t{1} << 40;
constexpr std::int64_t any = 64;
thread_local std::string last_message;
Record handle_record;
void* stream_of_handle = nullptr;

Code refuse(Code code, const std::string& why) {
    last_message = "{\"engineId\":0}\nWarning: refused; Reason: " + why + "\nWarning: refused; Reason: finalize_internal()";
    return code;
}
bool wants(std::string_view what) {
    const char* given = std::getenv("SKIFF_FAKE_CUDNN");
    return given != nullptr && what == given;
}

enum class Need { must, may };
struct Rule {
    Kind kind;
    Attribute name;
    Type type;
    std::int64_t least = 1, most = 1;
    Need need = Need::must;
    int of = -1;  // the kind of a descriptor; -1: any operation
};
using A = Attribute;
using T = Type;
using K = Kind;
constexpr int tensor_kind = static_cast<int>(K::tensor);
const Rule rules[] = {
    {K::tensor, A::tensor_type, T::data_type},
    {K::tensor, A::tensor_dims, T::i64, 1, 8},
    {K::tensor, A::tensor_strides, T::i64, 1, 8},
    {K::tensor, A::tensor_id, T::i64},
    {K::tensor, A::tensor_alignment, T::i64},
    {K::tensor, A::tensor_virtual, T::boolean, 1, 1, Need::may},
    {K::tensor, A::tensor_by_value, T::boolean, 1, 1, Need::may},
    {K::pointwise, A::pointwise_mode, T::pointwise_mode},
    {K::pointwise, A::pointwise_math, T::data_type},
    {K::pointwise, A::pointwise_relu_lower, T::f64, 1, 1, Need::may},
    {K::pointwise, A::pointwise_relu_upper, T::f64, 1, 1, Need::may},
    {K::pointwise, A::pointwise_relu_slope, T::f64, 1, 1, Need::may},
    {K::pointwise, A::pointwise_swish_beta, T::f64, 1, 1, Need::may},
    {K::pointwise, A::pointwise_axis, T::i64, 1, 1, Need::may},
    {K::operation_pointwise, A::pointwise_descriptor, T::descriptor, 1, 1, Need::must, static_cast<int>(K::pointwise)},
    {K::operation_pointwise, A::pointwise_x, T::descriptor, 1, 1, Need::must, tensor_kind},
    {K::operation_pointwise, A::pointwise_b, T::descriptor, 1, 1, Need::may, tensor_kind},
    {K::operation_pointwise, A::pointwise_t, T::descriptor, 1, 1, Need::may, tensor_kind},
    {K::operation_pointwise, A::pointwise_y, T::descriptor, 1, 1, Need::must, tensor_kind},
    {K::operation_pointwise, A::pointwise_alpha1, T::f32, 1, 1, Need::may},
    {K::operation_pointwise, A::pointwise_alpha2, T::f32, 1, 1, Need::may},
    {K::reduction, A::reduction_math, T::data_type},
    {K::reduction, A::reduction_operator, T::reduction_operator},
    {K::operation_reduction, A::reduction_descriptor, T::descriptor, 1, 1, Need::must, static_cast<int>(K::reduction)},
    {K::operation_reduction, A::reduction_x, T::descriptor, 1, 1, Need::must, tensor_kind},
    {K::operation_reduction, A::reduction_y, T::descriptor, 1, 1, Need::must, tensor_kind},
    {K::matmul, A::matmul_math, T::data_type},
    {K::operation_matmul, A::matmul_descriptor, T::descriptor, 1, 1, Need::must, static_cast<int>(K::matmul)},
    {K::operation_matmul, A::matmul_a, T::descriptor, 1, 1, Need::must, tensor_kind},
    {K::operation_matmul, A::matmul_b, T::descriptor, 1, 1, Need::must, tensor_kind},
    {K::operation_matmul, A::matmul_c, T::descriptor, 1, 1, Need::must, tensor_kind},
    {K::operation_matmul, A::matmul_m_override, T::descriptor, 1, 1, Need::may, tensor_kind},
    {K::operation_matmul, A::matmul_n_override, T::descriptor, 1, 1, Need::may, tensor_kind},
    {K::operation_matmul, A::matmul_k_override, T::descriptor, 1, 1, Need::may, tensor_kind},
    {K::operation_paged_load, A::paged_container, T::descriptor, 1, 1, Need::must, tensor_kind},
    {K::operation_paged_load, A::paged_table, T::descriptor, 1, 1, Need::must, tensor_kind},
    {K::operation_paged_load, A::paged_lengths, T::descriptor, 1, 1, Need::must, tensor_kind},
    {K::operation_paged_load, A::paged_y, T::descriptor, 1, 1, Need::must, tensor_kind},
    {K::convolution, A::convolution_math, T::data_type},
    {K::convolution, A::convolution_mode, T::convolution_mode},
    {K::convolution, A::convolution_dims, T::i64},
    {K::convolution, A::convolution_dilations, T::i64, 1, 3},
    {K::convolution, A::convolution_strides, T::i64, 1, 3},
    {K::convolution, A::convolution_before, T::i64, 1, 3},
    {K::convolution, A::convolution_after, T::i64, 1, 3},
    {K::operation_convolution, A::convolution_descriptor, T::descriptor, 1, 1, Need::must, static_cast<int>(K::convolution)},
    {K::operation_convolution, A::convolution_x, T::descriptor, 1, 1, Need::must, tensor_kind},
    {K::operation_convolution, A::convolution_w, T::descriptor, 1, 1, Need::must, tensor_kind},
    {K::operation_convolution, A::convolution_y, T::descriptor, 1, 1, Need::must, tensor_kind},
    {K::operation_convolution, A::convolution_alpha, T::f32},
    {K::operation_convolution, A::convolution_beta, T::f32},
    {K::operation_graph, A::graph_operations, T::descriptor, 1, any},
    {K::operation_graph, A::graph_handle, T::handle, 1, 1, Need::may},
    {K::heuristics, A::heuristics_graph, T::descriptor, 1, 1, Need::must, static_cast<int>(K::operation_graph)},
    {K::heuristics, A::heuristics_mode, T::heuristics_mode},
    {K::plan, A::plan_handle, T::handle},
    {K::plan, A::plan_config, T::descriptor, 1, 1, Need::must, static_cast<int>(K::engine_config)},
    {K::variant_pack, A::pack_ids, T::i64, 1, any},
    {K::variant_pack, A::pack_pointers, T::pointer, 1, any},
    {K::variant_pack, A::pack_workspace, T::pointer},
};

bool is_operation(Kind kind) { return kind == K::operation_pointwise || kind == K::operation_reduction || kind == K::operation_matmul || kind == K::operation_paged_load || kind == K::operation_convolution; }

std::size_t size_of(Type type) {
    switch (type) {
        case T::boolean:
        case T::character: return 1;
        case T::i64:
        case T::f64:
        case T::pointer:
        case T::descriptor:
        case T::handle: return 8;
        default: return 4;
    }
}

Code finish_tensor(const Record& tensor) {
    const auto dims = tensor.list<std::int64_t>(A::tensor_dims), strides = tensor.list<std::int64_t>(A::tensor_strides);
    const auto alignment = tensor.one<std::int64_t>(A::tensor_alignment);
    if (dims.size() != strides.size()) return refuse(bad_parameter, "as many strides as dimensions are needed");
    for (const std::int64_t dim : dims)
        if (dim < 1) return refuse(bad_parameter, "a dimension is not positive");
    if (alignment < 1 || (alignment & (alignment - 1)) != 0) return refuse(bad_parameter, "the alignment is no power of two");
    if (tensor.has(A::tensor_virtual) && tensor.has(A::tensor_by_value)) return refuse(bad_parameter, "a tensor is both virtual and a number");
    return success;
}

// Every tensor between operations is written once, before it is read; numbers name one tensor each.
Code finish_graph(const Record& graph) {
    std::map<std::int64_t, const Record*> by_id;
    std::set<const Record*> written;
    for (const Raw raw : graph.list<Raw>(A::graph_operations)) {
        const auto& operation = *static_cast<const Record*>(raw);
        for (const Record* tensor : inputs_of(operation))
            if (tensor->has(A::tensor_virtual) && written.count(tensor) == 0) return refuse(not_supported_pattern, "a virtual tensor is read before it is written");
        const Record* y = output_of(operation);
        if (y->has(A::tensor_by_value)) return refuse(not_supported_pattern, "a number is written");
        if (!written.insert(y).second) return refuse(not_supported_pattern, "a tensor is written twice");
        auto all = inputs_of(operation);
        all.push_back(y);
        for (const Record* tensor : all)
            if (const Record*& known = by_id[tensor->one<std::int64_t>(A::tensor_id)]; known == nullptr) known = tensor;
            else if (known != tensor) return refuse(bad_parameter, "two tensors have one number");
    }
    return success;
}

Code finish_pack(const Record& pack) {
    const auto ids = pack.list<std::int64_t>(A::pack_ids);
    if (ids.size() != pack.list<void*>(A::pack_pointers).size()) return refuse(bad_parameter, "as many addresses as tensors are needed");
    return std::set<std::int64_t>(ids.begin(), ids.end()).size() == ids.size() ? success : refuse(bad_parameter, "a tensor is given twice");
}

const Record* graph_of(const Record& plan) { return plan.record(A::plan_config)->record(A::heuristics_graph); }
std::int64_t workspace_of(const Record& plan) { return plan.record(A::plan_config)->one<std::int64_t>(A::plan_workspace); }

}  // namespace
}  // namespace skiff::cuda::cudnn::fake

using namespace skiff::cuda::cudnn;        // NOLINT: the library's own names stand below
using namespace skiff::cuda::cudnn::fake;  // NOLINT

extern "C" {

std::size_t cudnnGetVersion() { return 91900; }
const char* cudnnGetErrorString(Code code) { return code == success ? "FAKE_SUCCESS" : code >= not_supported ? "FAKE_NOT_SUPPORTED" : "FAKE_BAD_PARAM"; }
void cudnnGetLastErrorString(char* message, std::size_t size) {
    std::strncpy(message, last_message.c_str(), size - 1);
    message[size - 1] = '\0';
}
Code cudnnCreate(Handle* handle) {
    if (wants("no_device")) return refuse(1001, "there is no device");
    *handle = &handle_record;
    return success;
}
Code cudnnSetStream(Handle handle, void* stream) {
    if (handle != &handle_record || stream == nullptr) return refuse(bad_parameter, "no handle, or no stream");
    stream_of_handle = stream;
    return success;
}

Code cudnnBackendCreateDescriptor(Kind kind, Raw* descriptor) {
    *descriptor = new Record{kind, false, {}};
    return success;
}
Code cudnnBackendDestroyDescriptor(Raw descriptor) {
    delete static_cast<Record*>(descriptor);
    return success;
}

Code cudnnBackendSetAttribute(Raw descriptor, Attribute name, Type type, std::int64_t n, const void* values) {
    auto& record = *static_cast<Record*>(descriptor);
    if (record.final) return refuse(bad_parameter, "an attribute is set behind finalize");
    for (const Rule& rule : rules) {
        if (rule.kind != record.kind || rule.name != name) continue;
        if (rule.type != type) return refuse(wrong_type, "attribute " + std::to_string(static_cast<int>(name)) + " is of another type");
        if (n < rule.least || n > rule.most || values == nullptr) return refuse(out_of_bound, "attribute " + std::to_string(static_cast<int>(name)) + " has another number of elements");
        const auto* bytes = static_cast<const std::byte*>(values);
        record.values[name] = {type, n, {bytes, bytes + static_cast<std::size_t>(n) * size_of(type)}};
        if (type == T::handle && record.one<Handle>(name) != &handle_record) return refuse(bad_parameter, "no handle");
        if (type != T::descriptor) return success;
        for (const Raw raw : record.list<Raw>(name)) {
            const auto* other = static_cast<const Record*>(raw);
            if (other == nullptr || !other->final) return refuse(not_finalized, "a descriptor is used before finalize");
            if (rule.of >= 0 ? static_cast<int>(other->kind) != rule.of : !is_operation(other->kind)) return refuse(bad_parameter, "a descriptor is of another kind");
        }
        return success;
    }
    return refuse(bad_parameter, "attribute " + std::to_string(static_cast<int>(name)) + " is none of kind " + std::to_string(static_cast<int>(record.kind)));
}

Code cudnnBackendFinalize(Raw descriptor) {
    auto& record = *static_cast<Record*>(descriptor);
    if (record.final) return refuse(bad_parameter, "finished twice");
    for (const Rule& rule : rules)
        if (rule.kind == record.kind && rule.need == Need::must && !record.has(rule.name))
            return refuse(bad_parameter, "attribute " + std::to_string(static_cast<int>(rule.name)) + " of kind " + std::to_string(static_cast<int>(record.kind)) + " is missing");
    Code code = success;
    if (record.kind == K::tensor) code = finish_tensor(record);
    if (record.kind == K::operation_graph) code = finish_graph(record);
    if (record.kind == K::variant_pack) code = finish_pack(record);
    if (record.kind == K::heuristics && wants("unsupported")) code = refuse(not_supported, "nothing is supported today");
    record.final = code == success;
    return code;
}

// Two plans for every graph, the first with more workspace than anybody has.
Code cudnnBackendGetAttribute(Raw descriptor, Attribute name, Type type, std::int64_t n_wanted, std::int64_t* n, void* values) {
    auto& record = *static_cast<Record*>(descriptor);
    if (!record.final) return refuse(not_finalized, "an unfinished descriptor is asked");
    if (record.kind == K::heuristics && name == A::heuristics_results && type == T::descriptor) {
        constexpr std::int64_t n_configs = 2;
        for (std::int64_t i = 0; i < std::min(n_configs, n_wanted); ++i) {
            auto& config = *static_cast<Record*>(static_cast<Raw*>(values)[i]);
            if (config.kind != K::engine_config || config.final) return refuse(bad_parameter, "no engine configs to write to");
            const std::int64_t workspace = i == 0 ? too_much_workspace : usual_workspace;
            const auto* bytes = reinterpret_cast<const std::byte*>(&workspace);
            config.values[A::plan_workspace] = {T::i64, 1, {bytes, bytes + sizeof workspace}};
            config.values[A::heuristics_graph] = record.values.at(A::heuristics_graph);
            config.final = true;
        }
        *n = n_configs;
        return success;
    }
    if (record.kind == K::plan && name == A::plan_workspace && type == T::i64 && n_wanted == 1) {
        const std::int64_t workspace = workspace_of(record);
        std::memcpy(values, &workspace, sizeof workspace);
        *n = 1;
        return success;
    }
    return refuse(bad_parameter, "attribute " + std::to_string(static_cast<int>(name)) + " cannot be asked for");
}

Code cudnnBackendExecute(Handle handle, Raw plan_raw, Raw pack_raw) {
    const auto &plan = *static_cast<const Record*>(plan_raw), &pack = *static_cast<const Record*>(pack_raw);
    if (handle != &handle_record || stream_of_handle == nullptr) return refuse(bad_parameter, "no handle, or no stream");
    if (plan.kind != K::plan || !plan.final || pack.kind != K::variant_pack || !pack.final) return refuse(not_finalized, "no finished plan and pack");
    if (wants("failure")) return refuse(5000, "it was told to fail");
    auto* workspace = pack.one<std::byte*>(A::pack_workspace, nullptr);
    if (workspace == nullptr) return refuse(bad_parameter, "no workspace");
    std::memset(workspace, 0xff, static_cast<std::size_t>(workspace_of(plan)));
    std::map<std::int64_t, void*> given;
    const auto ids = pack.list<std::int64_t>(A::pack_ids);
    const auto pointers = pack.list<void*>(A::pack_pointers);
    for (std::size_t i = 0; i < ids.size(); ++i) given[ids[i]] = pointers[i];
    std::vector<const Record*> operations;
    std::set<std::int64_t> needed;
    for (const Raw raw : graph_of(plan)->list<Raw>(A::graph_operations)) {
        operations.push_back(static_cast<const Record*>(raw));
        auto tensors = inputs_of(*operations.back());
        tensors.push_back(output_of(*operations.back()));
        for (const Record* tensor : tensors) {
            if (tensor->has(A::tensor_virtual)) continue;
            const auto id = tensor->one<std::int64_t>(A::tensor_id);
            needed.insert(id);
            const auto found = given.find(id);
            if (found == given.end() || found->second == nullptr) return refuse(bad_parameter, "tensor " + std::to_string(id) + " has no address");
            if (!tensor->has(A::tensor_by_value) && reinterpret_cast<std::uintptr_t>(found->second) % static_cast<std::uintptr_t>(tensor->one<std::int64_t>(A::tensor_alignment)) != 0)
                return refuse(bad_parameter, "tensor " + std::to_string(id) + " is not aligned as it says");
        }
    }
    if (needed.size() != given.size()) return refuse(bad_parameter, "a tensor is given that the graph does not have");
    return run(operations, given);
}

}  // extern "C"
