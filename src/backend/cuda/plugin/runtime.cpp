#include "backend/cuda/plugin/runtime.h"

#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

#include "backend/cuda/cudnn/rows.h"

namespace skiff::cuda {
namespace {

// An error is given once; it does not stay for the next launch.
int said(cudaError_t error) {
    if (error != cudaSuccess) (void)cudaGetLastError();
    return error;
}
cudaStream_t stream_of(Stream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t event_of(Event event) { return static_cast<cudaEvent_t>(event); }

int describe(int device, DeviceFacts* facts) {
    cudaDeviceProp properties;
    if (const cudaError_t error = cudaGetDeviceProperties(&properties, device); error != cudaSuccess) return said(error);
    *facts = {};
    std::snprintf(facts->name, sizeof facts->name, "%.*s", static_cast<int>(sizeof facts->name - 1), properties.name);
    facts->arch = 10 * properties.major + properties.minor;
    facts->n_multiprocessors = properties.multiProcessorCount;
    facts->memory_bytes = properties.totalGlobalMem;
    facts->l2_bytes = static_cast<std::uint64_t>(properties.l2CacheSize);
    facts->memory_bus_bits = properties.memoryBusWidth;
    if (cudaDeviceGetAttribute(&facts->memory_clock_khz, cudaDevAttrMemoryClockRate, device) != cudaSuccess) facts->memory_clock_khz = 0;
    return 0;
}

int memory(std::uint64_t* free_bytes, std::uint64_t* total_bytes) {
    std::size_t available = 0, total = 0;
    const int error = said(cudaMemGetInfo(&available, &total));
    *free_bytes = available;
    *total_bytes = total;
    return error;
}

int end_capture(Stream stream, Graph* graph) {
    *graph = nullptr;
    cudaGraph_t captured = nullptr;
    if (const cudaError_t error = cudaStreamEndCapture(stream_of(stream), &captured); error != cudaSuccess) return said(error);
    cudaGraphExec_t executable = nullptr;
    cudaError_t error = cudaGraphInstantiate(&executable, captured, 0);
    cudaGraphDestroy(captured);
    if (error == cudaSuccess) error = cudaGraphUpload(executable, stream_of(stream));
    if (error == cudaSuccess) *graph = executable;
    else if (executable != nullptr) cudaGraphExecDestroy(executable);
    return said(error);
}

const char* error_text(int error) {
    static thread_local char text[96];
    if (const char* said = cudnn::error_text(error); said != nullptr) return said;
    if (error == cublaslt_not_opened) return "the library cannot be opened, or lacks a function";
    if (error >= cublaslt_errors) {
        std::snprintf(text, sizeof text, "cuBLASLt status %d", error - cublaslt_errors);
        return text;
    }
    return cudaGetErrorString(static_cast<cudaError_t>(error));
}

}  // namespace

void add_runtime(Table& table) {
    table.n_devices = [](int* n) { return said(cudaGetDeviceCount(n)); };
    table.describe = describe;
    table.select = [](int device) { return said(cudaSetDevice(device)); };
    table.memory = memory;
    table.allocate = [](std::size_t size_bytes, void** address) { return said(cudaMalloc(address, size_bytes)); };
    table.release = [](void* address) { return said(cudaFree(address)); };
    table.allocate_pinned = [](std::size_t size_bytes, void** address) { return said(cudaMallocHost(address, size_bytes)); };
    table.release_pinned = [](void* address) { return said(cudaFreeHost(address)); };
    table.copy_in = [](void* device, const void* pinned, std::size_t size, Stream stream) { return said(cudaMemcpyAsync(device, pinned, size, cudaMemcpyHostToDevice, stream_of(stream))); };
    table.copy_out = [](void* pinned, const void* device, std::size_t size, Stream stream) { return said(cudaMemcpyAsync(pinned, device, size, cudaMemcpyDeviceToHost, stream_of(stream))); };
    table.copy_within = [](void* to, const void* from, std::size_t size, Stream stream) { return said(cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, stream_of(stream))); };
    table.fill = [](void* device, int byte, std::size_t size, Stream stream) { return said(cudaMemsetAsync(device, byte, size, stream_of(stream))); };
    table.error_text = error_text;
    table.make_stream = [](Stream* stream) { return said(cudaStreamCreateWithFlags(reinterpret_cast<cudaStream_t*>(stream), cudaStreamNonBlocking)); };
    table.destroy_stream = [](Stream stream) { return said(cudaStreamDestroy(stream_of(stream))); };
    table.wait_stream = [](Stream stream) { return said(cudaStreamSynchronize(stream_of(stream))); };
    table.make_event = [](Event* event) { return said(cudaEventCreate(reinterpret_cast<cudaEvent_t*>(event))); };
    table.destroy_event = [](Event event) { return said(cudaEventDestroy(event_of(event))); };
    table.record = [](Event event, Stream stream) { return said(cudaEventRecord(event_of(event), stream_of(stream))); };
    table.wait_event = [](Event event) { return said(cudaEventSynchronize(event_of(event))); };
    table.stream_waits = [](Stream stream, Event event) { return said(cudaStreamWaitEvent(stream_of(stream), event_of(event), 0)); };
    table.elapsed_ms = [](Event begin, Event end, float* ms) { return said(cudaEventElapsedTime(ms, event_of(begin), event_of(end))); };
    table.begin_capture = [](Stream stream) { return said(cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeThreadLocal)); };
    table.end_capture = end_capture;
    table.launch_graph = [](Graph graph, Stream stream) { return said(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream_of(stream))); };
    table.destroy_graph = [](Graph graph) { return said(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph))); };
}

}  // namespace skiff::cuda
