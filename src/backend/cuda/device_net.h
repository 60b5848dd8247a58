// A small network of convolutions (net/spec.h) on a device. A convolution is the low-bit product over gathered windows, whatever its weights are made of; an activation that only convolutions
// and pooling read is applied where they read it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/cuda/device.h"
#include "net/net.h"

namespace skiff::cuda {

class DeviceNet {
public:
    static Result<std::unique_ptr<DeviceNet>> create(const Table& table, const net::Net& net, std::int64_t batch);

    const net::ValueShape& input() const { return resolved_.shapes.front(); }
    const net::ValueShape& output() const { return resolved_.shapes.back(); }
    // x: (n_images, height, width, channels) f32; y: (n_images, output) f32
    Status run(const float* x, std::int64_t n_images, float* y);
    std::string where() const { return std::string(device_->table().name) + " " + device_->facts().name; }
    std::vector<std::pair<std::string, std::string>> steps() const;  // (operator, kernel), of a batch

private:
    DeviceNet(const net::Net& net, net::Resolved resolved, std::int64_t batch) : net_(&net), resolved_(std::move(resolved)), batch_(batch) {}
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

    const net::ValueShape& in_shape(std::size_t i = 0) const { return resolved_.shapes[resolved_.inputs[index_][i]]; }
    const net::ValueShape& out_shape() const { return resolved_.shapes[index_ + 1]; }
    Value& in(std::size_t i = 0) { return values_[resolved_.inputs[index_][i]]; }
    float* out() { return values_[index_ + 1].data; }
    Result<const float*> numbers_in(std::size_t i = 0);  // of a value without an activation that is pending
    Status numbers_in_output();
    bool only_windows_read(std::size_t value) const;
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
    std::vector<Step> steps_;
    std::size_t index_ = 0;
};

}  // namespace skiff::cuda
