// Networks of convolutions on devices that are none, against what PyTorch computed: every operator over odd shapes, every structure, weights in few bits.
#include "backend/cuda/device_net.h"

#include <set>

#include "backend/cuda/device_session_testing.h"
#include "backend/cuda/driver.h"
#include "net/net_testing.h"
#include "net/session.h"

namespace skiff::cuda {
namespace {

std::vector<float> run(const Table& table, const net::Golden& golden, std::int64_t batch, const DeviceNetOptions& options = {}, std::vector<std::string>* kernels = nullptr) {
    auto device = DeviceNet::create(table, golden.net, batch, options);
    if (!device.ok()) {
        EXPECT_EQ(device.error().code, ErrorCode::unsupported) << device.error().to_string();
        return {};
    }
    std::vector<float> y(static_cast<std::size_t>(golden.n_images * (*device)->output().n_elements()), -1);
    for (const auto& [name, kernel] : (*device)->steps())
        if (kernels != nullptr) kernels->push_back(kernel);
    for (const std::string& remark : (*device)->remarks())
        if (kernels != nullptr) kernels->push_back(remark);
    for (int pass = 0; pass < 2; ++pass) {
        const Status status = (*device)->run(golden.x.data(), golden.n_images, y.data());
        EXPECT_TRUE(status.ok()) << status.error().to_string();
    }
    return y;
}

bool has_attention(const net::Golden& golden) {
    return std::any_of(golden.net.spec.ops.begin(), golden.net.spec.ops.end(), [](const net::Op& op) { return std::holds_alternative<net::Attention>(op.detail); });
}

class DeviceNets : public ::testing::TestWithParam<const char*> {};

TEST_P(DeviceNets, AgreeWithPyTorch) {
    std::set<std::string> kinds;
    for (const net::Golden& golden : net::goldens(GetParam())) {
        SCOPED_TRACE(golden.net.spec.name);
        for (const std::int64_t batch : {1, 3, 16}) {
            const auto y = run(fake(), golden, batch);
            ASSERT_EQ(y.empty(), has_attention(golden));
            if (y.empty()) continue;
            EXPECT_LE(distance(y, golden.y), 1e-4) << batch << " images at a time";
            for (const net::Op& op : golden.net.spec.ops) kinds.insert(net::op_kind_name(op.detail));
        }
    }
    if (GetParam() == std::string("operators")) {
        EXPECT_EQ(kinds.size(), 13u);  // all but attention
    }
}

INSTANTIATE_TEST_SUITE_P(Files, DeviceNets, ::testing::Values("operators", "structures"), [](const auto& file) { return std::string(file.param); });

// Convolution, bias and activation are two launches: windows with the product, and the next reader.
TEST(DeviceNet, AnActivationIsTheNextReaders) {
    const auto json = Json::parse(R"({"model_type": "skiff-net", "input": {"height": 6, "width": 6, "channels": 3}, "ops": [
        {"name": "c", "op": "conv", "channels": 4, "kernel": 3}, {"name": "r", "op": "activation", "kind": "relu"}, {"name": "d", "op": "conv", "channels": 5, "kernel": 3},
        {"name": "s", "op": "activation", "kind": "sigmoid"}, {"name": "m", "op": "pool", "kind": "max", "kernel": 2}]})");
    ASSERT_TRUE(json.ok());
    auto spec = net::parse_net(*json);
    ASSERT_TRUE(spec.ok()) << spec.error().to_string();
    const net::Net net = net::random_net(*spec, 3);
    const auto device = DeviceNet::create(fake(), net, 4);
    ASSERT_TRUE(device.ok()) << device.error().to_string();
    std::vector<std::string> kernels;
    for (const auto& [name, kernel] : (*device)->steps()) kernels.push_back(kernel);
    EXPECT_EQ(kernels, (std::vector<std::string>{"windows + gemm", "windows + gemm", "pooling"}));
    Rng rng(4);
    std::vector<float> x(5 * 6 * 6 * 3);
    for (float& value : x) value = rng.normal();
    auto reference = net::Session::create(net, {.kernels = KernelChoice::reference});
    ASSERT_TRUE(reference.ok());
    std::vector<float> wanted(static_cast<std::size_t>(5 * (*reference)->output().n_elements())), y(wanted.size());
    (*reference)->run(x.data(), 5, wanted.data());
    ASSERT_TRUE((*device)->run(x.data(), 5, y.data()).ok());
    EXPECT_LE(distance(y, wanted), 1e-5);
}

TEST(DeviceNet, WeightsInFewBits) {
    for (net::Golden& golden : net::goldens("structures")) {
        if (has_attention(golden)) continue;
        const Scheme scheme = *parse_scheme("w8g32");
        for (auto& [name, weight] : golden.net.weights)
            if (name.ends_with(".weight") && weight.shape.size() == 2 && weight.n_columns() % 32 == 0) {
                auto coded = encode_nearest(weight, scheme, ScaleRule::min_max, {}, nullptr);
                ASSERT_TRUE(coded.ok());
                weight = std::move(*coded);
            }
        auto reference = net::Session::create(golden.net, {.kernels = KernelChoice::reference});
        ASSERT_TRUE(reference.ok());
        std::vector<float> wanted(golden.y.size());
        (*reference)->run(golden.x.data(), golden.n_images, wanted.data());
        EXPECT_LE(distance(run(fake(), golden, 2), wanted), 1e-4) << golden.net.spec.name;
    }
}

// ---- convolutions by cuDNN: the graphs in a library of its interface

const DeviceNetOptions by_cudnn = {DeviceNetOptions::Convolution::cudnn, SKIFF_FAKE_CUDNN};

TEST_P(DeviceNets, AgreeWithPyTorchByCudnn) {
    std::int64_t n_convolutions = 0;
    for (const net::Golden& golden : net::goldens(GetParam())) {
        SCOPED_TRACE(golden.net.spec.name);
        if (has_attention(golden)) continue;
        for (const std::int64_t batch : {3}) {
            std::vector<std::string> kernels;
            EXPECT_LE(distance(run(fake(), golden, batch, by_cudnn, &kernels), golden.y), 1e-4) << batch << " images at a time";
            std::int64_t n_here = 0;
            for (const net::Op& op : golden.net.spec.ops) n_here += std::holds_alternative<net::Conv>(op.detail);
            EXPECT_EQ(std::count(kernels.begin(), kernels.end(), "cudnn convolution"), n_here);
            for (const std::string& kernel : kernels) EXPECT_EQ(kernel.find("the own kernels"), std::string::npos) << kernel;
            n_convolutions += n_here;
        }
    }
    EXPECT_GT(n_convolutions, 10);
}

// Every activation behind a convolution is done with it, and only where nobody else reads the convolution.
TEST(DeviceNet, CudnnDoesTheActivationToo) {
    for (const char* kind : {"silu", "gelu", "gelu_tanh", "relu", "sigmoid", "tanh"}) {
        SCOPED_TRACE(kind);
        const auto json = Json::parse(std::string(R"({"model_type": "skiff-net", "input": {"height": 5, "width": 6, "channels": 4}, "ops": [
            {"name": "c", "op": "conv", "channels": 4, "kernel": 3, "padding": 1, "groups": 2}, {"name": "r", "op": "activation", "kind": ")") + kind + R"("},
            {"name": "d", "op": "conv", "channels": 4, "kernel": 3, "padding": 1}, {"name": "s", "op": "activation", "kind": ")" + kind + R"("}, {"name": "a", "op": "add", "in": ["d", "s"]},
            {"name": "t", "op": "activation", "kind": ")" + kind + R"("}, {"name": "e", "op": "conv", "channels": 8, "kernel": 3, "groups": 4, "bias": false}]})");
        ASSERT_TRUE(json.ok());
        auto spec = net::parse_net(*json);
        ASSERT_TRUE(spec.ok()) << spec.error().to_string();
        const net::Net net = net::random_net(*spec, 3);
        const auto device = DeviceNet::create(fake(), net, 4, by_cudnn);
        ASSERT_TRUE(device.ok()) << device.error().to_string();
        std::vector<std::string> kernels;
        for (const auto& [name, kernel] : (*device)->steps()) kernels.push_back(kernel);
        EXPECT_EQ(kernels, (std::vector<std::string>{"cudnn convolution", "cudnn convolution", "activation", "elements", "activation", "cudnn convolution"}));
        Rng rng(4);
        std::vector<float> x(6 * 5 * 6 * 4);
        for (float& value : x) value = rng.normal();
        auto reference = net::Session::create(net, {.kernels = KernelChoice::reference});
        ASSERT_TRUE(reference.ok());
        std::vector<float> wanted(static_cast<std::size_t>(6 * (*reference)->output().n_elements())), y(wanted.size());
        (*reference)->run(x.data(), 6, wanted.data());
        ASSERT_TRUE((*device)->run(x.data(), 6, y.data()).ok());
        EXPECT_LE(distance(y, wanted), 1e-5);
    }
}

TEST(DeviceNet, WithoutCudnnTheOwnKernelsDoItAndSaySo) {
    const auto goldens = net::goldens("structures");
    const auto golden = std::find_if(goldens.begin(), goldens.end(), [](const net::Golden& each) { return !has_attention(each); });
    ASSERT_NE(golden, goldens.end());
    const auto expect_own = [&](const std::string& path, const std::string& why) {
        std::vector<std::string> said;
        EXPECT_LE(distance(run(fake(), *golden, 5, {DeviceNetOptions::Convolution::cudnn, path}, &said), golden->y), 1e-4);
        EXPECT_EQ(std::count(said.begin(), said.end(), "cudnn convolution"), 0);
        EXPECT_EQ(std::count_if(said.begin(), said.end(), [](const std::string& line) { return line.find("the own kernels do") == 0; }), 1);
        EXPECT_NE(said.back().find(why), std::string::npos) << said.back();
    };
    expect_own("", "SKIFF_CUDA_LIBRARIES");
    expect_own("/nowhere/libcudnn.so.9", "cannot be opened");
    ::setenv("SKIFF_FAKE_CUDNN", "unsupported", 1);
    expect_own(SKIFF_FAKE_CUDNN, "nothing is supported today");  // a batch of 5 has no plans from before
    ::unsetenv("SKIFF_FAKE_CUDNN");
}

#if defined(SKIFF_EMULATED_CUDA)
// Operands of bf16.
TEST(DeviceNet, TheKernelsComeNear) {
    static const auto emulated = open_plug_in(SKIFF_EMULATED_CUDA);
    ASSERT_TRUE(emulated.ok()) << emulated.error().to_string();
    for (const net::Golden& golden : net::goldens("operators")) {
        if (has_attention(golden)) continue;
        EXPECT_LE(distance(run(*emulated->table, golden, 16), golden.y), 0.02) << golden.net.spec.name;
    }
}
#endif

// On the machine's own GPU, by the plug-in beside the program or in SKIFF_CUDA_LIBRARY.
TEST(DeviceNet, ThisGpuComesNear) {
    const CudaDriver driver = probe_cuda_driver();
    if (!driver.problem.empty()) GTEST_SKIP() << driver.problem;
    const auto plug_in = open_plug_in();
    if (!plug_in.ok()) GTEST_SKIP() << plug_in.error().to_string();
    for (const char* file : {"operators", "structures"})
        for (const net::Golden& golden : net::goldens(file)) {
            if (has_attention(golden)) continue;
            EXPECT_LE(distance(run(*plug_in->table, golden, 16), golden.y), 0.02) << golden.net.spec.name;
        }
}

TEST(DeviceNet, ThisGpuComesNearByCudnn) {
    const CudaDriver driver = probe_cuda_driver();
    if (!driver.problem.empty()) GTEST_SKIP() << driver.problem;
    const auto plug_in = open_plug_in();
    if (!plug_in.ok()) GTEST_SKIP() << plug_in.error().to_string();
    const std::string path = find_cudnn();
    if (path.empty()) GTEST_SKIP() << no_cudnn();
    for (const char* file : {"operators", "structures"})
        for (const net::Golden& golden : net::goldens(file)) {
            if (has_attention(golden)) continue;
            std::vector<std::string> said;
            EXPECT_LE(distance(run(*plug_in->table, golden, 16, {DeviceNetOptions::Convolution::cudnn, path}, &said), golden.y), 0.02) << golden.net.spec.name;  // products of TF32
            EXPECT_EQ(std::count_if(said.begin(), said.end(), [](const std::string& line) { return line.find("the own kernels do") == 0; }), 0) << said.back();
        }
}

}  // namespace
}  // namespace skiff::cuda
