// The library itself, where it is found: whether it has plans for the graphs, on GPUs that are described to it (9.11 and later makes plans without a device). It finishes each with the kernel
// compiled, for a driver that takes it (fake_driver.cpp). Only running them needs the GPU. A program of its own, since the driver's place is taken in all of it.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <chrono>

#include "backend/cuda/cudnn/attention.h"
#include "backend/cuda/cudnn/convolution.h"
#include "backend/cuda/driver.h"

namespace skiff::cuda::cudnn {
namespace {

struct Described {
    int arch;  // 900: compute capability 9.0
    int n_multiprocessors, shared_bytes, blocks, threads;
    std::int64_t memory_bytes;
    const char* name;
};
constexpr Described devices[] = {
    {800, 108, 166912, 32, 2048, std::int64_t{80} << 30, "NVIDIA A100-SXM4-80GB"},
    {860, 82, 101376, 16, 1536, std::int64_t{24} << 30, "NVIDIA GeForce RTX 3090"},
    {890, 128, 101376, 24, 1536, std::int64_t{24} << 30, "NVIDIA GeForce RTX 4090"},
    {900, 132, 232448, 32, 2048, std::int64_t{141} << 30, "NVIDIA H200"},
    {1000, 148, 232448, 32, 2048, std::int64_t{180} << 30, "NVIDIA B200"},
    {1200, 170, 101376, 24, 1536, std::int64_t{32} << 30, "NVIDIA GeForce RTX 5090"},
};
constexpr int all_cases_on = 900;

std::string description(const Described& device) {
    return R"({"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"regsPerBlock":65536,"multiProcessorCount":)" + std::to_string(device.n_multiprocessors) +
           R"(,"warpSize":32,"maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":)" + std::to_string(device.shared_bytes) + R"(,"reservedSharedMemoryPerBlock":1024,"maxRegistersPerSM":65536,"maxCtasPerSM":)" +
           std::to_string(device.blocks) + R"(,"maxThreadsPerBlock":1024,"maxThreadsPerSM":)" + std::to_string(device.threads) +
           R"(,"pciDeviceId":0,"isTccDriver":0,"supportCoopLaunch":1,"totalGlobalMem":)" + std::to_string(device.memory_bytes) +
           R"(,"smClockRateKHz":1800000,"memClockRateKHz":2600000,"l2CacheSize":52428800,"cudaDeviceId":0,"deviceVer":)" + std::to_string(device.arch) + R"(,"driverVer":13000,"deviceName":")" + device.name + "\"}";
}

// The library behind the driver that is none; null with the reason.
const Library* the_library(std::string& why) {
    static std::string reason;
    static const std::unique_ptr<Library> library = []() -> std::unique_ptr<Library> {
        if (::dlopen(SKIFF_FAKE_DRIVER, RTLD_NOW | RTLD_LOCAL) == nullptr) reason = "the driver that is none cannot be loaded";
        const std::string path = find_cudnn();
        if (path.empty()) reason = no_cudnn();
        auto opened = path.empty() ? nullptr : Library::open(path.c_str());
        if (opened != nullptr && opened->version() < 91100) reason = "this cuDNN makes no plans for devices that are only described";
        return reason.empty() ? std::move(opened) : nullptr;
    }();
    why = reason;
    return library.get();
}

// A failed plan's text; "" for one that was made; what is missing here in `skip`.
std::string plan_for(const Library& library, const Described& described, Graph graph, std::string& skip) {
    constexpr Code prerequisite_missing = 3008;
    constexpr std::size_t most_workspace = std::size_t{64} << 20;
    Descriptor device(library, Kind::device);
    const std::string text = description(described);
    device.set(Attribute::device_json, Type::character, static_cast<std::int64_t>(text.size()), text.data()).finalize();
    if (device.error() != success) return "device: " + library.text(device.error());
    if (graph.error() != success) return "graph: " + library.text(graph.error());
    std::unique_ptr<Plan> plan;
    const Code error = make_plan(library, std::move(graph), {nullptr, &device}, most_workspace, plan);
    const std::string said = error == success ? "" : library.text(error);
    if (error == prerequisite_missing) skip = said;
    return said;
}

struct AttentionCase {
    const char* name;
    AttentionShape shape;
};
AttentionShape attention(std::int64_t n_heads, std::int64_t n_kv_heads, std::int64_t head_dim, std::int64_t n_rows, std::int64_t n_pages) {
    AttentionShape shape;
    shape.n_heads = n_heads, shape.n_kv_heads = n_kv_heads, shape.head_dim = head_dim;
    shape.n_rows = n_rows, shape.n_pages = n_pages, shape.n_pool_pages = 2 * n_pages;
    shape.page_positions = 64, shape.page_stride = 64 * n_kv_heads * head_dim;
    shape.scale = 0.1f;
    return shape;
}
std::vector<AttentionCase> attention_cases() {
    std::vector<AttentionCase> cases = {{"heads of 128", attention(32, 8, 128, 2048, 64)}, {"heads of 64", attention(32, 8, 64, 512, 16)}, {"heads of 96, each its own keys", attention(32, 32, 96, 1024, 32)},
                                        {"heads of 256", attention(16, 8, 256, 2048, 64)}, {"few tokens of a long text", attention(32, 8, 128, 64, 256)}};
    cases.push_back({"window", attention(32, 8, 128, 2048, 64)});
    cases.back().shape.window = 1024;
    cases.push_back({"soft cap", attention(16, 8, 128, 2048, 64)});
    cases.back().shape.softcap = 50;
    return cases;
}

struct ConvolutionCase {
    const char* name;
    ConvolutionShape shape;
};
ConvolutionShape convolution(std::int64_t height, std::int64_t channels, std::int64_t out_channels, std::int64_t groups, std::int64_t kernel, ConvolutionThen then, std::int64_t stride = 1) {
    ConvolutionShape shape;
    shape.n_images = 64;
    shape.height = height, shape.width = 28, shape.channels = channels, shape.out_channels = out_channels, shape.groups = groups;
    const std::int64_t sizes[2] = {height > 1 ? kernel : 1, kernel};
    for (int i : {0, 1}) {
        shape.kernel[i] = sizes[i];
        shape.stride[i] = sizes[i] > 1 ? stride : 1;
        shape.before[i] = shape.after[i] = sizes[i] / 2;
    }
    shape.out_height = (height + 2 * shape.before[0] - shape.kernel[0]) / shape.stride[0] + 1;
    shape.out_width = (28 + 2 * shape.before[1] - shape.kernel[1]) / shape.stride[1] + 1;
    shape.bias = ConvolutionShape::Bias::yes;
    shape.then = then;
    return shape;
}
std::vector<ConvolutionCase> convolution_cases() {
    using Then = ConvolutionThen;
    std::vector<ConvolutionCase> cases = {{"3 x 3", convolution(28, 64, 128, 1, 3, Then::relu)},        {"depthwise", convolution(28, 64, 64, 64, 3, Then::relu)},       {"three channels", convolution(28, 3, 64, 1, 3, Then::relu)},
                                          {"one to ten channels", convolution(28, 1, 10, 1, 3, Then::relu)}, {"grouped", convolution(28, 64, 128, 4, 3, Then::relu)},      {"every other", convolution(28, 12, 20, 1, 3, Then::relu, 2)},
                                          {"sequence", convolution(1, 64, 64, 1, 5, Then::relu)},        {"depthwise sequence", convolution(1, 40, 40, 40, 7, Then::swish)}, {"1 x 1", convolution(28, 64, 128, 1, 1, Then::relu)},
                                          {"bias alone", convolution(28, 64, 128, 1, 3, Then::nothing)}, {"tanh", convolution(28, 64, 128, 1, 3, Then::tanh)},             {"sigmoid", convolution(28, 64, 128, 1, 3, Then::sigmoid)},
                                          {"gelu", convolution(28, 64, 128, 1, 3, Then::gelu_erf)},      {"gelu by tanh", convolution(28, 64, 128, 1, 3, Then::gelu_tanh)}, {"silu", convolution(28, 64, 128, 1, 3, Then::swish)},
                                          {"quick gelu", convolution(28, 64, 128, 1, 3, Then::swish_1702)}};
    cases.push_back({"neither bias nor activation", convolution(28, 64, 128, 1, 3, Then::nothing)});
    cases.back().shape.bias = ConvolutionShape::Bias::no;
    cases.push_back({"dilated, padded on one side", convolution(28, 64, 128, 1, 3, Then::relu)});
    ConvolutionShape& last = cases.back().shape;
    last.dilation[0] = last.dilation[1] = 2;
    last.before[0] = last.before[1] = 4, last.after[0] = last.after[1] = 0;
    return cases;
}

template <class Cases, class Make>
void expect_plans(const Cases& cases, std::size_t n_everywhere, const Make& make) {
    std::string why;
    const Library* library = the_library(why);
    if (library == nullptr) GTEST_SKIP() << why;
    for (const Described& device : devices)
        for (std::size_t i = 0; i < (device.arch == all_cases_on ? cases.size() : n_everywhere); ++i) {
            std::string skip;
            const std::string failed = plan_for(*library, device, make(*library, cases[i].shape), skip);
            if (!skip.empty()) GTEST_SKIP() << skip;
            EXPECT_EQ(failed, "") << cases[i].name << " on " << device.name;
        }
}

TEST(CudnnPlans, Attention) {
    expect_plans(attention_cases(), 1, [](const Library& library, const AttentionShape& shape) { return std::move(attention_graph(library, shape).graph); });
}
TEST(CudnnPlans, Convolutions) {
    expect_plans(convolution_cases(), 3, [](const Library& library, const ConvolutionShape& shape) { return std::move(convolution_graph(library, shape).graph); });
}

// What is wrong has no plan: the test above would see it.
TEST(CudnnPlans, AWrongGraphHasNone) {
    std::string why;
    const Library* library = the_library(why);
    if (library == nullptr) GTEST_SKIP() << why;
    ConvolutionShape shape = convolution(28, 64, 128, 1, 3, ConvolutionThen::relu);
    shape.out_width += 1;
    std::string skip;
    EXPECT_NE(plan_for(*library, devices[3], std::move(convolution_graph(*library, shape).graph), skip), "");
}

}  // namespace
}  // namespace skiff::cuda::cudnn
