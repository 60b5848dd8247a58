#include "backend/device_choice.h"

#include <algorithm>

#include "backend/cuda/device_session.h"
#include "backend/cuda/driver.h"
#include "backend/cuda/library.h"
#include "backend/device_fit.h"
#include "backend/split_session.h"

namespace skiff {
namespace {

constexpr std::int64_t processor_batch = 256;  // tokens at a time

// One switch: operators joined, or each by itself.
Result<cuda::DeviceModelOptions::Fuse> fuse_on_device(const FuseSet& fuse) {
    bool all = true, none = true;
    for (std::size_t pass = 0; pass < fuse_passes().size(); ++pass) (fuse.has(pass) ? none : all) = false;
    if (all) return cuda::DeviceModelOptions::Fuse::on;
    if (none) return cuda::DeviceModelOptions::Fuse::off;
    return usage_error("--fuse: on the device all fusions are on or off; single ones are the processor's");
}

Result<cuda::DeviceSessionOptions> options_of(const DeviceRequest& request) {
    cuda::DeviceSessionOptions options;
    SKIFF_TRY(options.fuse, fuse_on_device(request.fuse));
    options.session = request.session;
    options.state_fp8 = request.choice.state_fp8;
    options.graphs = request.choice.graphs == DeviceChoice::Graphs::on ? cuda::DeviceSessionOptions::Graphs::on : cuda::DeviceSessionOptions::Graphs::off;
    options.dependence = request.choice.overlap == DeviceChoice::Overlap::on ? cuda::Dependence::programmatic : cuda::Dependence::stream;
    options.progress = request.progress;
    if (request.choice.gemm != DeviceChoice::Gemm::own) {
        for (const NamedLibrary& library : probe_cuda_libraries())
            if (library.what == "cuBLASLt") options.cublaslt = library.path;
        if (!options.cublaslt.empty()) options.matmul = cuda::Matmul::cublaslt;
        if (request.choice.gemm == DeviceChoice::Gemm::cublaslt) options.library = cuda::DeviceSessionOptions::Library::must;
        if (options.cublaslt.empty() && request.choice.gemm == DeviceChoice::Gemm::cublaslt) return unsupported("--gemm cublaslt: libcublasLt was not found; name its folder in SKIFF_CUDA_LIBRARIES, or use --gemm own");
    }
    return options;
}

// Blocks 0 to `last` on the device; none where it is 0, which is the embedding's.
Result<std::unique_ptr<Session>> session_up_to(const cuda::Table& table, const ModelSpec& spec, const WeightSource& weights, const DeviceRequest& request, const cuda::DeviceSessionOptions& given,
                                               std::size_t last) {
    cuda::DeviceSessionOptions options = given;
    PlanOptions processor = request.processor;
    SessionOptions session = request.session;
    session.max_batch = std::min(session.max_batch, processor_batch);
    std::unique_ptr<Session> device;
    if (last > 0) {
        options.last_block = last;
        SKIFF_TRY(device, cuda::DeviceSession::create(table, spec, weights, options));
        if (last + 1 >= spec.blocks.size()) return device;
        processor.first_block = last + 1;
        session.n_context = device->state().capacity();
    }
    SKIFF_TRY(auto plan, lower(spec, weights, processor));
    SKIFF_TRY(auto rest, Session::create(std::move(plan), session));
    if (!device) return rest;
    return make_split_session(std::move(device), std::move(rest), static_cast<std::int64_t>(last));
}

}  // namespace

Result<std::unique_ptr<Session>> make_device_session(const cuda::Table& table, const ModelSpec& spec, const WeightSource& weights, const DeviceRequest& request) {
    SKIFF_TRY(const cuda::DeviceSessionOptions options, options_of(request));
    const std::int64_t n_layers = n_layers_of(spec);
    const bool fits = request.choice.fit == DeviceChoice::Fit::what_fits;
    if (!request.choice.n_layers && !fits) return session_up_to(table, spec, weights, request, options, spec.blocks.size());
    if (!request.session.state_rules.empty()) return usage_error("--state of single layers: their numbers mean nothing where some layers are the device's and some the processor's; leave out --fit and --device-layers, or name one form for all");
    if (request.choice.n_layers) {
        const std::int64_t wanted = *request.choice.n_layers;
        if (wanted < 0 || wanted > n_layers) return usage_error("--device-layers " + std::to_string(wanted) + ": the model has " + std::to_string(n_layers) + " layers");
        return session_up_to(table, spec, weights, request, options, wanted == n_layers ? spec.blocks.size() : static_cast<std::size_t>(wanted));
    }
    SKIFF_TRY(std::size_t last, last_block_that_fits(table, spec, weights, options));
    while (last > 0) {
        auto session = session_up_to(table, spec, weights, request, options, last);
        if (session.ok() || session.error().code != ErrorCode::resource) return session;
        last -= std::max<std::size_t>(1, last / 16);  // layers differ, and others take memory, too
    }
    return resource_error("not one layer with its keys and values fits in the device's free memory; take a smaller --scheme, a shorter --ctx, or --device cpu");
}

Result<std::unique_ptr<Session>> make_device_session(const ModelSpec& spec, const WeightSource& weights, const DeviceRequest& request) {
    auto plug_in = cuda::open_plug_in();
    if (!plug_in.ok()) return plug_in.take_error().with_context("--device cuda");
    auto session = make_device_session(*plug_in->table, spec, weights, request);
    if (session.ok()) return session;
    Error error = session.take_error();
    // What the driver says is clearer than a number.
    if (error.code == ErrorCode::runtime)
        if (const CudaDriver driver = probe_cuda_driver(); !driver.problem.empty()) error.message += "; " + driver.problem;
    return std::move(error).with_context("--device cuda");
}

}  // namespace skiff
