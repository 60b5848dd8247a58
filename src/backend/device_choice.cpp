#include "backend/device_choice.h"

#include <algorithm>
#include <cstdio>

#include "backend/cuda/device_session.h"
#include "backend/cuda/driver.h"
#include "backend/cuda/library.h"
#include "backend/device_fit.h"
#include "backend/device_options.h"
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

}  // namespace

Result<cuda::DeviceSessionOptions> device_options_of(const DeviceRequest& request) {
    cuda::DeviceSessionOptions options;
    SKIFF_TRY(options.fuse, fuse_on_device(request.fuse));
    options.session = request.session;
    options.state_fp8 = request.choice.state_fp8;
    options.graphs = request.choice.graphs == DeviceChoice::Graphs::on ? cuda::DeviceSessionOptions::Graphs::on : cuda::DeviceSessionOptions::Graphs::off;
    options.dependence = request.choice.overlap == DeviceChoice::Overlap::on ? cuda::Dependence::programmatic : cuda::Dependence::stream;
    options.feed = request.choice.feed == DeviceChoice::Feed::device ? cuda::DeviceSessionOptions::Feed::device : cuda::DeviceSessionOptions::Feed::host;
    options.progress = request.progress;
    if (request.choice.attention == DeviceChoice::Attention::cudnn) {
        options.attention = cuda::PromptAttention::cudnn;
        options.cudnn = find_cudnn();
    }
    if (request.choice.gemm == DeviceChoice::Gemm::cutlass) {
        options.matmul = cuda::Matmul::cutlass;
        options.library = cuda::DeviceSessionOptions::Library::must;
    } else if (request.choice.gemm != DeviceChoice::Gemm::own) {
        for (const NamedLibrary& library : probe_cuda_libraries())
            if (library.what == "cuBLASLt") options.cublaslt = library.path;
        const bool fp8 = request.choice.gemm == DeviceChoice::Gemm::fp8, must = fp8 || request.choice.gemm == DeviceChoice::Gemm::cublaslt;
        if (!options.cublaslt.empty()) options.matmul = fp8 ? cuda::Matmul::fp8 : cuda::Matmul::cublaslt;
        if (must) options.library = cuda::DeviceSessionOptions::Library::must;
        if (must && options.cublaslt.empty()) return unsupported(std::string("--gemm ") + (fp8 ? "fp8" : "cublaslt") + ": libcublasLt was not found; name its folder in SKIFF_CUDA_LIBRARIES, or use --gemm own");
    }
    return options;
}

// What the driver says is clearer than a number.
Error device_error(Error error) {
    if (error.code == ErrorCode::runtime)
        if (const CudaDriver driver = probe_cuda_driver(); !driver.problem.empty()) error.message += "; " + driver.problem;
    return std::move(error).with_context("--device cuda");
}

namespace {

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

// All blocks on the device, the weights of those from `first` on copied there when they are used.
Result<std::unique_ptr<Session>> streaming_session(const cuda::Table& table, const ModelSpec& spec, const WeightSource& weights, const cuda::DeviceSessionOptions& given, std::size_t first) {
    cuda::DeviceSessionOptions options = given;
    options.stream_from = first;
    SKIFF_TRY(auto session, cuda::DeviceSession::create(table, spec, weights, options));
    return std::unique_ptr<Session>(std::move(session));
}

std::string ms_text(double seconds) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g ms", seconds * 1e3);
    return text;
}

bool fewer_layers_help(const Result<std::unique_ptr<Session>>& session) { return !session.ok() && session.error().code == ErrorCode::resource && !cuda::lacks_host_memory(session.error()); }

// As many layers as fit, and the others where they are fast. Numbers that were estimated are tried, and made smaller.
Result<std::unique_ptr<Session>> fitting_session(const cuda::Table& table, const ModelSpec& spec, const WeightSource& weights, const DeviceRequest& request, cuda::DeviceSessionOptions options) {
    using Offload = DeviceChoice::Offload;
    const auto n_layers = static_cast<std::size_t>(n_layers_of(spec));
    const std::string left_to_processor = "--fit leaves what does not fit to the processor: ";
    std::size_t last = n_layers + 1;
    std::size_t first_streamed = 0;
    if (n_layers >= 3) {  // else trying costs no more than measuring
        SKIFF_TRY(const DeviceNeeds needs, device_needs(table, spec, weights, options));
        last = last_block_that_fits(needs);
        if (last == n_layers) {  // all but the head by an estimate, which counts twice what the head shares with other blocks
            auto whole = session_up_to(table, spec, weights, request, options, n_layers + 1);
            if (!fewer_layers_help(whole)) return whole;
        }
        if (last <= n_layers && request.choice.offload != Offload::processor) first_streamed = first_streamed_block(needs);
        if (first_streamed > 0 && request.choice.offload == Offload::automatic) {
            const auto speeds = layer_speeds(table, spec, weights, options, request.processor);
            if (!speeds.ok() && !cuda::lacks_host_memory(speeds.error())) return Error(speeds.error());
            const OffloadCost cost = speeds.ok() ? offload_cost(needs, *speeds, last, first_streamed, options.session.max_batch) : OffloadCost{.processor = 0, .stream = 1};
            const std::string faster = cost.stream < cost.processor ? "--fit copies the weights of what does not fit, which is faster here" : "--fit leaves what does not fit to the processor, which is faster here";
            options.remark = speeds.ok() ? faster + " (measured: a layer takes " + ms_text(speeds->token) + " a token on the processor, " + ms_text(speeds->copy * needs.weights[1]) + " to be copied)" : left_to_processor + speeds.error().message;
            if (cost.stream >= cost.processor) first_streamed = 0;
        }
    }
    if (request.choice.offload == Offload::stream && first_streamed == 0 && last <= n_layers)
        return resource_error("--offload stream: the state of all layers, the head and two layers do not fit in the device's free memory; take a shorter --ctx, or --offload processor");
    const bool streams = first_streamed > 0;
    std::string told;
    for (int attempts = 0; first_streamed > 0; ++attempts) {
        auto session = streaming_session(table, spec, weights, options, first_streamed);
        if (session.ok() || session.error().code != ErrorCode::resource || (request.choice.offload == Offload::stream && first_streamed == 1)) return session;
        if (cuda::lacks_host_memory(session.error())) {  // more copied layers would lock more
            if (request.choice.offload == Offload::stream) return session;
            told = left_to_processor + session.error().message;
            break;
        }
        if (request.choice.offload == Offload::automatic && attempts == 2) break;  // the processor takes them
        first_streamed = first_streamed == 1 ? 0 : std::max<std::size_t>(1, first_streamed - std::max<std::size_t>(1, first_streamed / 16));
    }
    if (streams) options.remark = told;
    while (last > 0) {
        auto session = session_up_to(table, spec, weights, request, options, last);
        if (!fewer_layers_help(session) || request.choice.offload == Offload::stream) return session;  // the processor was not asked for
        last -= std::max<std::size_t>(1, last / 16);  // layers differ, and others take memory, too
    }
    return resource_error("not one layer with its keys and values fits in the device's free memory; take a smaller --scheme, a shorter --ctx, or --device cpu");
}

}  // namespace

Result<std::unique_ptr<Session>> make_device_session(const cuda::Table& table, const ModelSpec& spec, const WeightSource& weights, const DeviceRequest& request) {
    SKIFF_TRY(const cuda::DeviceSessionOptions options, device_options_of(request));
    const std::int64_t n_layers = n_layers_of(spec);
    const bool fits = request.choice.fit == DeviceChoice::Fit::what_fits;
    if (!request.choice.n_layers && !fits) return session_up_to(table, spec, weights, request, options, spec.blocks.size());
    if (!request.session.state_rules.empty() && request.choice.offload != DeviceChoice::Offload::stream) return usage_error("--state of single layers: their numbers mean nothing where some layers are the device's and some the processor's; leave out --fit and --device-layers, or name one form for all");
    if (request.choice.n_layers) {
        const std::int64_t wanted = *request.choice.n_layers;
        if (wanted < 0 || wanted > n_layers) return usage_error("--device-layers " + std::to_string(wanted) + ": the model has " + std::to_string(n_layers) + " layers");
        if (request.choice.offload == DeviceChoice::Offload::stream && wanted == n_layers) return usage_error("--offload stream: --device-layers " + std::to_string(wanted) + " keeps all layers on the device; give fewer, or leave --offload out");
        if (request.choice.offload == DeviceChoice::Offload::stream) return streaming_session(table, spec, weights, options, static_cast<std::size_t>(wanted) + 1);
        return session_up_to(table, spec, weights, request, options, wanted == n_layers ? spec.blocks.size() : static_cast<std::size_t>(wanted));
    }
    return fitting_session(table, spec, weights, request, options);
}

Result<std::unique_ptr<Session>> make_device_session(const ModelSpec& spec, const WeightSource& weights, const DeviceRequest& request) {
    auto plug_in = cuda::open_plug_in();
    if (!plug_in.ok()) return plug_in.take_error().with_context("--device cuda");
    auto session = make_device_session(*plug_in->table, spec, weights, request);
    if (session.ok()) return session;
    return device_error(session.take_error());
}

}  // namespace skiff
