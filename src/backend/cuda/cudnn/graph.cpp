#include "backend/cuda/cudnn/graph.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string_view>

namespace skiff::cuda::cudnn {
namespace {

template <class Fn>
bool bind(void* opened, const char* symbol, Fn& function) {
    function = reinterpret_cast<Fn>(dlsym(opened, symbol));
    return function != nullptr;
}

}  // namespace

std::unique_ptr<Library> Library::open(const char* path) {
    void* opened = path == nullptr ? nullptr : dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) return nullptr;
    auto library = std::make_unique<Library>();
    Functions& f = library->functions_;
    const bool complete = bind(opened, "cudnnGetVersion", f.version) && bind(opened, "cudnnGetErrorString", f.error_string) && bind(opened, "cudnnGetLastErrorString", f.last_error) &&
                          bind(opened, "cudnnCreate", f.create) && bind(opened, "cudnnSetStream", f.set_stream) && bind(opened, "cudnnBackendCreateDescriptor", f.create_descriptor) &&
                          bind(opened, "cudnnBackendDestroyDescriptor", f.destroy_descriptor) && bind(opened, "cudnnBackendSetAttribute", f.set) && bind(opened, "cudnnBackendGetAttribute", f.get) &&
                          bind(opened, "cudnnBackendFinalize", f.finalize) && bind(opened, "cudnnBackendExecute", f.execute);
    return complete ? std::move(library) : nullptr;
}

Code Library::make_handle() { return handle_ != nullptr ? success : functions_.create(&handle_); }

std::string Library::text(Code status) const {
    std::string message(8192, '\0');
    functions_.last_error(message.data(), message.size() - 1);
    message.resize(message.find('\0'));
    const char* name = functions_.error_string(status);
    // A stack of lines: the innermost reason is the first.
    constexpr std::string_view mark = "Reason: ";
    if (const std::size_t at = message.find(mark); at != std::string::npos) message = message.substr(at + mark.size());
    message = message.substr(0, std::min<std::size_t>(message.find('\n'), 200));
    return std::to_string(status) + " (" + (name != nullptr ? name : "unknown") + ")" + (message.empty() ? "" : ": " + message);
}

// ---- descriptors

Descriptor::Descriptor(const Library& library, Kind kind) : library_(&library) { error_ = library.call().create_descriptor(kind, &raw_); }
Descriptor::~Descriptor() {
    if (raw_ != nullptr) library_->call().destroy_descriptor(raw_);
}
Descriptor& Descriptor::set(Attribute name, Type type, std::int64_t n, const void* values) {
    if (error_ == success) error_ = library_->call().set(raw_, name, type, n, values);
    return *this;
}
Descriptor& Descriptor::set(Attribute name, const Descriptor& other) {
    if (error_ == success) error_ = other.error();
    const Raw raw = other.raw();
    return set(name, Type::descriptor, 1, &raw);
}
Descriptor& Descriptor::finalize() {
    if (error_ == success) error_ = library_->call().finalize(raw_);
    return *this;
}

// ---- graphs

std::vector<std::int64_t> packed_strides(const std::vector<std::int64_t>& dims) {
    std::vector<std::int64_t> strides(dims.size(), 1);
    for (std::size_t i = dims.size(); i-- > 1;) strides[i - 1] = strides[i] * dims[i];
    return strides;
}

Descriptor& Graph::make(Kind kind) {
    others_.push_back(std::make_unique<Descriptor>(*library_, kind));
    return *others_.back();
}

int Graph::add_tensor(const TensorSpec& spec, Attribute place) {
    const auto id = static_cast<std::int64_t>(tensors_.size()) + 1;
    tensors_.push_back(std::make_unique<Descriptor>(*library_, Kind::tensor));
    Descriptor& tensor = *tensors_.back();
    tensor.set(Attribute::tensor_type, spec.type).set(Attribute::tensor_dims, spec.dims).set(Attribute::tensor_strides, spec.strides).set(Attribute::tensor_id, id).set(Attribute::tensor_alignment, spec.alignment);
    const bool yes = true;
    if (place != Attribute::tensor_id) tensor.set(place, Type::boolean, 1, &yes);
    keep(tensor.finalize());
    return static_cast<int>(id);
}

int Graph::inside(const std::vector<std::int64_t>& dims, DataType type) { return inside(TensorSpec{dims, packed_strides(dims), type}); }

int Graph::add_number(DataType type, const void* value) {
    const int tensor = add_tensor({{1, 1, 1, 1}, {1, 1, 1, 1}, type}, Attribute::tensor_by_value);
    numbers_.emplace_back(tensor, std::make_unique<std::uint32_t>());
    std::memcpy(numbers_.back().second.get(), value, sizeof(std::uint32_t));
    return tensor;
}

void Graph::set_tensor(Descriptor& operation, Attribute name, int tensor) {
    if (tensor >= 0) operation.set(name, of(tensor));
}

void Graph::pointwise(const PointwiseSpec& spec, const PointwiseInputs& in, int y) {
    Descriptor& how = make(Kind::pointwise);
    how.set(Attribute::pointwise_mode, Type::pointwise_mode, 1, &spec.mode).set(Attribute::pointwise_math, spec.math);
    if (spec.mode == Pointwise::relu)
        how.set(Attribute::pointwise_relu_lower, 0.0).set(Attribute::pointwise_relu_upper, static_cast<double>(std::numeric_limits<float>::max())).set(Attribute::pointwise_relu_slope, 0.0);
    if (spec.mode == Pointwise::swish) how.set(Attribute::pointwise_swish_beta, spec.beta);
    if (spec.mode == Pointwise::index) how.set(Attribute::pointwise_axis, spec.axis);
    how.finalize();
    Descriptor& operation = make(Kind::operation_pointwise);
    operation.set(Attribute::pointwise_descriptor, how);
    set_tensor(operation, Attribute::pointwise_x, in.x);
    set_tensor(operation, Attribute::pointwise_b, in.b);
    set_tensor(operation, Attribute::pointwise_t, in.t);
    set_tensor(operation, Attribute::pointwise_y, y);
    operation.set(Attribute::pointwise_alpha1, 1.0f).set(Attribute::pointwise_alpha2, 1.0f);
    keep(operation.finalize());
    operations_.push_back(&operation);
}

void Graph::reduce(Reduction how_to, int x, int y) {
    Descriptor& how = make(Kind::reduction);
    how.set(Attribute::reduction_math, DataType::f32).set(Attribute::reduction_operator, Type::reduction_operator, 1, &how_to).finalize();
    Descriptor& operation = make(Kind::operation_reduction);
    operation.set(Attribute::reduction_descriptor, how);
    set_tensor(operation, Attribute::reduction_x, x);
    set_tensor(operation, Attribute::reduction_y, y);
    keep(operation.finalize());
    operations_.push_back(&operation);
}

void Graph::matmul(int a, int b, int c, const Overrides& overrides) {
    Descriptor& how = make(Kind::matmul);
    how.set(Attribute::matmul_math, DataType::f32).finalize();
    Descriptor& operation = make(Kind::operation_matmul);
    set_tensor(operation, Attribute::matmul_a, a);
    set_tensor(operation, Attribute::matmul_b, b);
    set_tensor(operation, Attribute::matmul_c, c);
    operation.set(Attribute::matmul_descriptor, how);
    set_tensor(operation, Attribute::matmul_m_override, overrides.m);
    set_tensor(operation, Attribute::matmul_n_override, overrides.n);
    set_tensor(operation, Attribute::matmul_k_override, overrides.k);
    keep(operation.finalize());
    operations_.push_back(&operation);
}

void Graph::paged_load(int container, int table, int lengths, int y) {
    Descriptor& operation = make(Kind::operation_paged_load);
    set_tensor(operation, Attribute::paged_container, container);
    set_tensor(operation, Attribute::paged_table, table);
    set_tensor(operation, Attribute::paged_lengths, lengths);
    set_tensor(operation, Attribute::paged_y, y);
    keep(operation.finalize());
    operations_.push_back(&operation);
}

void Graph::convolution(const Convolution& window, int x, int w, int y) {
    Descriptor& how = make(Kind::convolution);
    const ConvolutionMode mode = ConvolutionMode::cross_correlation;
    how.set(Attribute::convolution_math, DataType::f32)
        .set(Attribute::convolution_mode, Type::convolution_mode, 1, &mode)
        .set(Attribute::convolution_dims, static_cast<std::int64_t>(window.strides.size()))
        .set(Attribute::convolution_before, window.before)
        .set(Attribute::convolution_after, window.after)
        .set(Attribute::convolution_dilations, window.dilations)
        .set(Attribute::convolution_strides, window.strides)
        .finalize();
    Descriptor& operation = make(Kind::operation_convolution);
    set_tensor(operation, Attribute::convolution_x, x);
    set_tensor(operation, Attribute::convolution_w, w);
    set_tensor(operation, Attribute::convolution_y, y);
    operation.set(Attribute::convolution_descriptor, how).set(Attribute::convolution_alpha, 1.0f).set(Attribute::convolution_beta, 0.0f);
    keep(operation.finalize());
    operations_.push_back(&operation);
}

// ---- plans

Code make_plan(const Library& library, Graph graph, const Target& target, std::size_t most_workspace, std::unique_ptr<Plan>& made) {
    if (graph.error() != success) return graph.error();
    const auto set_handle = [&](Descriptor& descriptor, Attribute name) {
        if (target.handle != nullptr) descriptor.set(name, Type::handle, 1, &target.handle);
    };
    Descriptor operations(library, Kind::operation_graph);
    std::vector<Raw> raws;
    for (const Descriptor* operation : graph.operations_) raws.push_back(operation->raw());
    operations.set(Attribute::graph_operations, Type::descriptor, static_cast<std::int64_t>(raws.size()), raws.data());
    set_handle(operations, Attribute::graph_handle);
    if (operations.finalize().error() != success) return operations.error();

    Code why = no_plan;
    for (const HeuristicsMode mode : {HeuristicsMode::a, HeuristicsMode::fallback}) {
        Descriptor heuristics(library, Kind::heuristics);
        heuristics.set(Attribute::heuristics_graph, operations).set(Attribute::heuristics_mode, Type::heuristics_mode, 1, &mode);
        if (target.device != nullptr) heuristics.set(Attribute::heuristics_device, *target.device);
        std::int64_t n = 0;
        Code error = heuristics.finalize().error();
        if (error == success) error = library.call().get(heuristics.raw(), Attribute::heuristics_results, Type::descriptor, 0, &n, nullptr);
        if (error != success) {
            why = error;
            continue;
        }
        std::vector<std::unique_ptr<Descriptor>> configs;
        std::vector<Raw> found;
        for (std::int64_t i = 0; i < n; ++i) {
            configs.push_back(std::make_unique<Descriptor>(library, Kind::engine_config));
            found.push_back(configs.back()->raw());
        }
        if (n > 0) error = library.call().get(heuristics.raw(), Attribute::heuristics_results, Type::descriptor, n, &n, found.data());
        if (error != success) {
            why = error;
            continue;
        }
        for (std::int64_t i = 0; i < n; ++i) {
            Descriptor plan(library, Kind::plan);
            set_handle(plan, Attribute::plan_handle);
            if (target.device != nullptr) plan.set(Attribute::plan_device, *target.device);
            plan.set(Attribute::plan_config, *configs[static_cast<std::size_t>(i)]).finalize();
            std::int64_t workspace = 0, n_got = 0;
            if (plan.error() == success) error = library.call().get(plan.raw(), Attribute::plan_workspace, Type::i64, 1, &n_got, &workspace);
            else error = plan.error();
            if (error == success && static_cast<std::size_t>(workspace) > most_workspace) error = no_plan;
            if (error != success) {
                why = error;
                continue;
            }
            made.reset(new Plan(library, std::move(graph), std::move(operations), std::move(*configs[static_cast<std::size_t>(i)]), std::move(plan)));
            made->workspace_bytes_ = static_cast<std::size_t>(workspace);
            return success;
        }
    }
    return why;
}

Code Plan::execute(void* stream, const std::vector<std::pair<int, void*>>& tensors, void* workspace) const {
    const Functions& call = library_->call();
    if (const Code error = call.set_stream(library_->handle(), stream); error != success) return error;
    std::vector<std::int64_t> ids;
    std::vector<void*> addresses;
    for (const auto& [id, address] : tensors) ids.push_back(id), addresses.push_back(address);
    for (const auto& [id, number] : graph_.numbers_) ids.push_back(id), addresses.push_back(number.get());
    Descriptor pack(*library_, Kind::variant_pack);
    pack.set(Attribute::pack_ids, ids).set(Attribute::pack_pointers, Type::pointer, static_cast<std::int64_t>(addresses.size()), addresses.data());
    void* const space = workspace_bytes_ > 0 ? workspace : nullptr;
    pack.set(Attribute::pack_workspace, Type::pointer, 1, &space).finalize();
    return pack.error() != success ? pack.error() : call.execute(library_->handle(), plan_.raw(), pack.raw());
}

}  // namespace skiff::cuda::cudnn
