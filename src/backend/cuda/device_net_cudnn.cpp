// Convolutions of networks by cuDNN: each with its bias and, where nobody else reads it, the activation behind it, as one launch.
#include <algorithm>

#include "backend/cuda/device_net.h"
#include "backend/cuda/driver.h"

namespace skiff::cuda {
namespace {

constexpr std::size_t net_workspace_bytes = std::size_t{64} << 20;

}  // namespace

Status DeviceNet::open_cudnn() {
    const int error = options_.cudnn.empty() ? 0 : device_->table().open_cudnn(options_.cudnn.c_str());
    if (options_.cudnn.empty() || error != 0) {
        remarks_.push_back("the own kernels do convolutions, not cuDNN: " + (options_.cudnn.empty() ? no_cudnn() : device_->check(error, "opening " + options_.cudnn).error().message));
        options_.convolution = DeviceNetOptions::Convolution::own;
        return {};
    }
    SKIFF_TRY(workspace_, device_->allocate(net_workspace_bytes, "cuDNN's workspace"));
    return {};
}

void DeviceNet::remark_on_cudnn() {
    if (n_left_ > 0) remarks_.push_back("the own kernels do " + std::to_string(n_left_) + " of " + std::to_string(n_convolutions_) + " convolutions, not cuDNN: " + why_left_);
}

// The operator that is the only reader of this one's value, if it is an activation; else SIZE_MAX.
std::size_t DeviceNet::only_activation_behind() const {
    std::size_t found = SIZE_MAX;
    for (std::size_t i = 0; i < net_->spec.ops.size(); ++i)
        for (const std::size_t input : resolved_.inputs[i]) {
            if (input != index_ + 1) continue;
            if (found != SIZE_MAX || !std::holds_alternative<net::Activate>(net_->spec.ops[i].detail)) return SIZE_MAX;
            found = i;
        }
    return found;
}

// All images of a batch whatever their number is, so that there is one plan. False: cuDNN has none.
Result<bool> DeviceNet::by_cudnn(const net::Conv& conv) {
    const std::string& name = net_->spec.ops[index_].name;
    const Table& table = device_->table();
    ConvolutionArgs args;
    ++n_convolutions_;
    SKIFF_TRY(args.x, numbers_in());
    args.n_images = batch_;
    args.height = in_shape().height, args.width = in_shape().width, args.channels = in_shape().channels;
    args.out_height = out_shape().height, args.out_width = out_shape().width, args.out_channels = conv.channels;
    args.groups = conv.groups;
    for (int i : {0, 1}) {
        args.kernel[i] = conv.window.kernel[i];
        args.stride[i] = conv.window.stride[i];
        args.dilation[i] = conv.window.dilation[i];
        args.before[i] = conv.window.before[i];
        args.after[i] = conv.window.after[i];
    }
    const std::size_t activation = only_activation_behind();
    if (activation != SIZE_MAX) {
        args.then = ConvolutionArgs::Then::activation;
        args.activation = std::get<net::Activate>(net_->spec.ops[activation].detail).kind;
    }
    if (conv.bias == net::Conv::Bias::yes) {
        SKIFF_TRY(args.bias, device_->upload_new(net_->floats(name + ".bias"), "a bias"));
    }
    args.workspace = workspace_;
    args.workspace_bytes = net_workspace_bytes;
    if (const int error = table.prepare_convolution(args); error != 0) {
        if (n_left_++ == 0) why_left_ = device_->check(error, name).error().message;
        return false;
    }
    // Taps that pruning took away are zeros.
    const Weight& weight = net_->weights.at(name + ".weight");
    const std::vector<std::int64_t> kept = conv.kept_taps();
    const std::int64_t n_taps = conv.window.n_taps(), of_group = in_shape().channels / conv.groups;
    std::vector<float> whole(static_cast<std::size_t>(conv.channels * n_taps * of_group)), row(static_cast<std::size_t>(weight.n_columns()));
    for (std::int64_t c = 0; c < conv.channels; ++c) {
        weight.row(c, row.data());
        for (std::size_t i = 0; i < kept.size(); ++i)
            std::copy_n(row.begin() + static_cast<std::ptrdiff_t>(i) * of_group, of_group, whole.begin() + (c * n_taps + kept[i]) * of_group);
    }
    SKIFF_TRY(args.weight, device_->upload_new(whole, "the weights of " + name));
    args.y = activation == SIZE_MAX ? out() : values_[activation + 1].data;
    if (activation != SIZE_MAX) joined_.insert(activation);
    push("cudnn convolution", [this, args](const Launch& launch, std::int64_t) { return device_->table().convolution(args, launch); });
    return true;
}

}  // namespace skiff::cuda
