// A small network of convolutions (net/spec.h) on a device. A convolution is the low-bit product over gathered windows, whatever its weights are made of; an activation that only convolutions
// and pooling read is applied where they read it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "backend/cuda/device.h"
#include "net/net.h"

namespace skiff::cuda {

struct DeviceNetOptions {
    enum class Convolution : std::uint8_t { own, cudnn } convolution = Convolution::own;  // cudnn: where it has a plan; else the own kernels, and a remark
    std::string cudnn = {};  // its path; empty: it was not found
};

class DeviceNet {
public:
    static Result<std::unique_ptr<DeviceNet>> create(const Table& table, const net::Net& net, std::int64_t batch, const DeviceNetOptions& options = {});

    const net::ValueShape& input() const { return resolved_.shapes.front(); }
    const net::ValueShape& output() const { return resolved_.shapes.back(); }
    // x: (n_images, height, width, channels) f32; y: (n_images, output) f32
    Status run(const float* x, std::int64_t n_images, float* y);
    // The launches of a run alone, on values that are there: to time them.
    int launch(std::int64_t n_images);
    Device& device() { return *device_; }
    std::string where() const { return std::string(device_->table().name) + " " + device_->facts().name; }
    std::vector<std::pair<std::string, std::string>> steps() const;  // (operator, kernel), of a batch
    const std::vector<std::string>& remarks() const { return remarks_; }  // what is done otherwise than it was asked for, and why

private:
    DeviceNet(const net::Net& net, net::Resolved resolved, std::int64_t batch, DeviceNetOptions options) : net_(&net), resolved_(std::move(resolved)), batch_(batch), options_(std::move(options)) {}
    struct Step {
        std::string name;
        const char* kernel;
        std::function<int(const Launch& launch, std::int64_t n_images)> launch;
    };
    // A value: its numbers, and an activation that its readers still have to apply.
    struct Value {
        float* data = nullptr;  // (batch, height, width, channels) f32
        bool pending = false;
        Activation activation = Activation::relu;
    };

    Status start(const Table& table);
    Status lower(const net::Conv& conv);
    Status lower(const net::Pool& pool);
    Status lower(const net::Shuffle& shuffle);
    Status lower(const net::Activate& activate);
    Status lower(const net::Add&);
    Status lower(const net::Multiply&);
    Status lower(const net::Concat&);
    Status lower(const net::Slice& slice);
    Status lower(const net::Norm& norm);
    Status lower(const net::Attention&);
    Status lower(const net::Flatten&) { return {}; }
    Status lower(const net::Fold&) { return {}; }
    Status depthwise(const net::Conv& conv);
    Status open_cudnn();
    void remark_on_cudnn();
    Result<bool> by_cudnn(const net::Conv& conv);
    std::size_t only_activation_behind() const;

    const net::ValueShape& in_shape(std::size_t i = 0) const { return resolved_.shapes[resolved_.inputs[index_][i]]; }
    const net::ValueShape& out_shape() const { return resolved_.shapes[index_ + 1]; }
    Value& in(std::size_t i = 0) { return values_[resolved_.inputs[index_][i]]; }
    float* out() { return values_[index_ + 1].data; }
    Result<const float*> numbers_in(std::size_t i = 0);  // of a value without an activation that is pending
    Status numbers_in_output();
    bool only_windows_read(std::size_t value) const;  // own ones
    Result<ImageWindows> windows_over(const net::Window& window, const std::vector<std::int64_t>& taps);
    Result<Operand> operand_for(std::int64_t n_columns);
    void push(const char* kernel, std::function<int(const Launch&, std::int64_t)> launch) { steps_.push_back({net_->spec.ops[index_].name, kernel, std::move(launch)}); }
    void push_rows(const char* kernel, std::int64_t rows_of_image, const ElementLaunchArgs& args);

    const net::Net* net_;
    net::Resolved resolved_;
    std::int64_t batch_;
    std::unique_ptr<Device> device_;
    std::vector<Value> values_;
    std::map<std::int64_t, std::byte*> operands_;  // by columns
    std::byte* partials_ = nullptr;
    std::size_t partial_bytes_ = 0;
    std::int32_t* arrivals_ = nullptr;
    std::int64_t n_arrivals_ = 0;
    DeviceNetOptions options_;
    std::byte* workspace_ = nullptr;  // of cuDNN
    std::set<std::size_t> joined_;    // activations that are done with their convolution
    std::int64_t n_convolutions_ = 0, n_left_ = 0;  // of them, to the own kernels
    std::string why_left_;            // the first
    std::vector<std::string> remarks_;
    std::vector<Step> steps_;
    std::size_t index_ = 0;
};

}  // namespace skiff::cuda
