#include "backend/device_choice.h"

#include "backend/cuda/device_session.h"
#include "backend/cuda/driver.h"
#include "backend/cuda/library.h"

namespace skiff {
namespace {

// One switch: operators joined, or each by itself.
Result<cuda::DeviceModelOptions::Fuse> fuse_on_device(const FuseSet& fuse) {
    bool all = true, none = true;
    for (std::size_t pass = 0; pass < fuse_passes().size(); ++pass) (fuse.has(pass) ? none : all) = false;
    if (all) return cuda::DeviceModelOptions::Fuse::on;
    if (none) return cuda::DeviceModelOptions::Fuse::off;
    return usage_error("--fuse: on the device all fusions are on or off; single ones are the processor's");
}

}  // namespace

Result<std::unique_ptr<Session>> make_device_session(const ModelSpec& spec, const WeightSource& weights, const DeviceRequest& request) {
    auto plug_in = cuda::open_plug_in();
    if (!plug_in.ok()) return plug_in.take_error().with_context("--device cuda");
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
    auto session = cuda::DeviceSession::create(*plug_in->table, spec, weights, options);
    if (!session.ok()) {
        Error error = session.take_error();
        // What the driver says is clearer than a number.
        if (error.code == ErrorCode::runtime)
            if (const CudaDriver driver = probe_cuda_driver(); !driver.problem.empty()) error.message += "; " + driver.problem;
        return std::move(error).with_context("--device cuda");
    }
    return std::unique_ptr<Session>(std::move(*session));
}

}  // namespace skiff
