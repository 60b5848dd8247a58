#include "backend/cuda/device_net.h"

#include <algorithm>
#include <cmath>

#include "kernels/cuda/pack.h"

namespace skiff::cuda {
namespace {

constexpr std::int64_t most_grid_rows = 65535;
constexpr std::int64_t positions_at_once = 16384;  // that a product has gathered

// The first that has no kernel, as the sentence of an error.
std::string missing(const net::Op& op) {
    if (std::holds_alternative<net::Attention>(op.detail)) return "operator " + std::string(net::op_kind_name(op.detail)) + " (" + op.name + ") of networks has no CUDA row; run with --device cpu";
    return {};
}

}  // namespace

Result<std::unique_ptr<DeviceNet>> DeviceNet::create(const Table& table, const net::Net& net, std::int64_t batch, const DeviceNetOptions& options) {
    SKIFF_TRY(auto resolved, net::resolve(net.spec));
    for (const net::Op& op : net.spec.ops)
        if (const std::string sentence = missing(op); !sentence.empty()) return unsupported(sentence);
    std::int64_t largest = 1;
    for (const net::ValueShape& shape : resolved.shapes) largest = std::max(largest, shape.n_elements());
    batch = std::clamp<std::int64_t>(batch, 1, std::max<std::int64_t>(1, (std::int64_t{1} << 30) / largest));
    std::unique_ptr<DeviceNet> device_net(new DeviceNet(net, std::move(resolved), std::min(batch, most_grid_rows), options));
    SKIFF_CHECK(device_net->start(table));
    device_net->net_ = nullptr;  // all of it is there
    return device_net;
}

Status DeviceNet::start(const Table& table) {
    SKIFF_TRY(device_, Device::open(table));
    if (options_.convolution == DeviceNetOptions::Convolution::cudnn) SKIFF_CHECK(open_cudnn());
    values_.resize(resolved_.shapes.size());
    for (std::size_t v = 0; v < values_.size(); ++v) {
        const net::OpDetail* detail = v > 0 ? &net_->spec.ops[v - 1].detail : nullptr;
        if (detail != nullptr && (std::holds_alternative<net::Flatten>(*detail) || std::holds_alternative<net::Fold>(*detail))) continue;  // the same numbers, read otherwise
        SKIFF_TRY(std::byte * memory, device_->allocate(static_cast<std::size_t>(batch_ * resolved_.shapes[v].n_elements()) * sizeof(float), "values of images"));
        values_[v].data = reinterpret_cast<float*>(memory);
    }
    for (index_ = 0; index_ < net_->spec.ops.size(); ++index_) {
        const net::Op& op = net_->spec.ops[index_];
        if (joined_.count(index_) != 0) continue;
        if (std::holds_alternative<net::Flatten>(op.detail) || std::holds_alternative<net::Fold>(op.detail)) {
            SKIFF_CHECK(numbers_in());
            values_[index_ + 1].data = in().data;
            continue;
        }
        Status status = std::visit([&](const auto& detail) { return lower(detail); }, op.detail);
        if (!status.ok()) return status.take_error().with_context("operator " + op.name);
    }
    --index_;
    remark_on_cudnn();
    SKIFF_CHECK(numbers_in_output());
    if (partial_bytes_ > 0) {
        SKIFF_TRY(partials_, device_->allocate(partial_bytes_, "parts of products"));
    }
    const auto arrival_bytes = static_cast<std::size_t>(std::max<std::int64_t>(1, n_arrivals_)) * sizeof(std::int32_t);
    SKIFF_TRY(std::byte * arrivals, device_->allocate(arrival_bytes, "counters"));
    arrivals_ = reinterpret_cast<std::int32_t*>(arrivals);
    SKIFF_CHECK(device_->check(table.fill(arrivals_, 0, arrival_bytes, device_->stream()), "clearing counters"));
    return device_->wait();
}

std::vector<std::pair<std::string, std::string>> DeviceNet::steps() const {
    std::vector<std::pair<std::string, std::string>> all;
    for (const Step& step : steps_) all.emplace_back(step.name, step.kernel);
    return all;
}

Status DeviceNet::run(const float* x, std::int64_t n_images, float* y) {
    SKIFF_CHECK(device_->enter());
    for (std::int64_t done = 0; done < n_images; done += batch_) {
        const std::int64_t n = std::min(batch_, n_images - done);
        SKIFF_CHECK(device_->upload(values_.front().data, x + done * input().n_elements(), static_cast<std::size_t>(n * input().n_elements()) * sizeof(float)));
        for (const Step& step : steps_) SKIFF_CHECK(device_->check(step.launch(device_->launch(), n), std::string(step.kernel) + " of " + step.name));
        SKIFF_CHECK(device_->download(y + done * output().n_elements(), values_.back().data, static_cast<std::size_t>(n * output().n_elements()) * sizeof(float)));
    }
    return {};
}

int DeviceNet::launch(std::int64_t n_images) {
    for (const Step& step : steps_)
        if (const int error = step.launch(device_->launch(), n_images); error != 0) return error;
    return 0;
}

// Rows of all images in grids that a device has.
void DeviceNet::push_rows(const char* kernel, std::int64_t rows_of_image, const ElementLaunchArgs& args) {
    push(kernel, [this, rows_of_image, args](const Launch& launch, std::int64_t n_images) {
        const std::int64_t n_rows = n_images * rows_of_image;
        for (std::int64_t first = 0; first < n_rows; first += most_grid_rows) {
            ElementLaunchArgs part = args;
            part.n_tokens = std::min(most_grid_rows, n_rows - first);
            part.a += first * args.a_stride;
            if (args.kind == ElementKind::add || args.kind == ElementKind::multiply) part.b += first * args.b_stride;
            part.y += first * args.y_stride;
            if (const int error = device_->table().elements(part, launch); error != 0) return error;
        }
        return 0;
    });
}

bool DeviceNet::only_windows_read(std::size_t value) const {
    bool any = false;
    for (std::size_t i = 0; i < net_->spec.ops.size(); ++i)
        for (std::size_t input : resolved_.inputs[i]) {
            if (input != value) continue;
            const bool own = std::holds_alternative<net::Conv>(net_->spec.ops[i].detail) && options_.convolution == DeviceNetOptions::Convolution::own;
            if (!own && !std::holds_alternative<net::Pool>(net_->spec.ops[i].detail)) return false;
            any = true;
        }
    return any;
}

Status DeviceNet::lower(const net::Activate& activate) {
    Value& y = values_[index_ + 1];
    if (!in().pending && only_windows_read(index_ + 1)) {  // in the memory of its input, which nobody changes
        y.data = in().data;
        y.pending = true;
        y.activation = activate.kind;
        return {};
    }
    ElementLaunchArgs args;
    args.kind = ElementKind::activation;
    args.activation = activate.kind;
    SKIFF_TRY(args.a, numbers_in());
    args.n_columns = args.a_stride = args.y_stride = out_shape().n_elements();
    args.y = out();
    push_rows("activation", 1, args);
    return {};
}

Status DeviceNet::lower(const net::Add&) {
    ElementLaunchArgs args;
    args.kind = ElementKind::add;
    SKIFF_TRY(args.a, numbers_in(0));
    SKIFF_TRY(args.b, numbers_in(1));
    args.n_columns = args.a_stride = args.b_stride = args.y_stride = out_shape().n_elements();
    args.y = out();
    push_rows("elements", 1, args);
    return {};
}

Status DeviceNet::lower(const net::Multiply&) {
    ElementLaunchArgs args;
    SKIFF_TRY(args.a, numbers_in(0));
    SKIFF_TRY(args.b, numbers_in(1));
    args.y = out();
    if (in_shape(0) == in_shape(1)) {
        args.kind = ElementKind::multiply;
        args.n_columns = args.a_stride = args.b_stride = args.y_stride = out_shape().n_elements();
        push_rows("elements", 1, args);
        return {};
    }
    args.kind = ElementKind::column_scale;  // a number for each channel of an image
    args.n_columns = args.a_stride = args.y_stride = in_shape().channels;
    const std::int64_t n_positions = in_shape().n_positions();
    push("gate", [this, args, n_positions](const Launch& launch, std::int64_t n_images) {
        for (std::int64_t image = 0; image < n_images; ++image)
            for (std::int64_t first = 0; first < n_positions; first += most_grid_rows) {
                ElementLaunchArgs part = args;
                part.n_tokens = std::min(most_grid_rows, n_positions - first);
                part.a += (image * n_positions + first) * args.n_columns;
                part.y += (image * n_positions + first) * args.n_columns;
                part.b += image * args.n_columns;
                if (const int error = device_->table().elements(part, launch); error != 0) return error;
            }
        return 0;
    });
    return {};
}

Status DeviceNet::lower(const net::Concat&) {
    std::int64_t offset = 0;
    for (std::size_t i = 0; i < resolved_.inputs[index_].size(); ++i) {
        ElementLaunchArgs args;
        args.kind = ElementKind::scale;
        SKIFF_TRY(args.a, numbers_in(i));
        args.n_columns = args.a_stride = in_shape(i).channels;
        args.y = out() + offset;
        args.y_stride = out_shape().channels;
        offset += args.n_columns;
        push_rows("copy", out_shape().n_positions(), args);
    }
    return {};
}

Status DeviceNet::lower(const net::Slice& slice) {
    ElementLaunchArgs args;
    args.kind = ElementKind::scale;
    SKIFF_TRY(args.a, numbers_in());
    args.a += slice.begin;
    args.a_stride = in_shape().channels;
    args.n_columns = args.y_stride = slice.end - slice.begin;
    args.y = out();
    push_rows("copy", out_shape().n_positions(), args);
    return {};
}

Status DeviceNet::lower(const net::Shuffle& shuffle) {
    const std::int64_t channels = in_shape().channels, of_group = channels / shuffle.groups;
    std::vector<std::int32_t> order(static_cast<std::size_t>(channels));
    for (std::int64_t g = 0; g < shuffle.groups; ++g)
        for (std::int64_t i = 0; i < of_group; ++i) order[static_cast<std::size_t>(i * shuffle.groups + g)] = static_cast<std::int32_t>(g * of_group + i);
    ElementLaunchArgs args;
    args.kind = ElementKind::permute;
    SKIFF_TRY(args.order, device_->upload_new(order, "an order of channels"));
    SKIFF_TRY(args.a, numbers_in());
    args.n_columns = args.a_stride = args.y_stride = channels;
    args.y = out();
    push_rows("shuffle", out_shape().n_positions(), args);
    return {};
}

Status DeviceNet::lower(const net::Norm& norm) {
    const std::string& name = net_->spec.ops[index_].name;
    NormLaunchArgs args;
    SKIFF_TRY(args.x, numbers_in());
    SKIFF_TRY(args.weight, device_->upload_new(net_->floats(name + ".weight"), "a norm"));
    if (norm.kind == NormKind::layer) {
        SKIFF_TRY(args.bias, device_->upload_new(net_->floats(name + ".bias"), "a norm"));
    }
    args.width = args.x_stride = args.y_stride = in_shape().channels;
    args.eps = static_cast<float>(norm.eps);
    args.kind = norm.kind;
    args.y = out();
    push("norm", [this, args, n_positions = in_shape().n_positions()](const Launch& launch, std::int64_t n_images) {
        NormLaunchArgs all = args;
        all.n_tokens = n_images * n_positions;
        return device_->table().norm(all, launch);
    });
    return {};
}

Status DeviceNet::lower(const net::Attention&) { return unsupported(missing(net_->spec.ops[index_])); }

// ---- windows

// Elements cannot wait: an activation that is still pending becomes numbers of the value's own.
Result<const float*> DeviceNet::numbers_in(std::size_t i) {
    Value& value = in(i);
    if (!value.pending) return static_cast<const float*>(value.data);
    return runtime_error("an activation was left to a reader that does not apply it; please report this");
}

Status DeviceNet::numbers_in_output() {
    if (!values_.back().pending) return {};
    return runtime_error("an activation was left to nobody; please report this");
}

Result<ImageWindows> DeviceNet::windows_over(const net::Window& window, const std::vector<std::int64_t>& taps) {
    const std::vector<WindowTap> found = net::taps_of(window, taps);
    ImageWindows windows;
    windows.x = in().data;
    windows.height = in_shape().height;
    windows.width = in_shape().width;
    windows.channels = in_shape().channels;
    windows.out_height = out_shape().height;
    windows.out_width = out_shape().width;
    windows.stride_y = window.stride[0];
    windows.stride_x = window.stride[1];
    SKIFF_TRY(windows.taps, device_->upload_new(found, "a window"));
    windows.n_taps = static_cast<std::int64_t>(found.size());
    if (in().pending) windows.read = ImageWindows::Read::activated, windows.activation = in().activation;
    return windows;
}

Status DeviceNet::lower(const net::Pool& pool) {
    WindowsArgs args;
    args.kind = pool.kind == PoolKind::max ? WindowsArgs::Kind::max : pool.kind == PoolKind::average ? WindowsArgs::Kind::average : WindowsArgs::Kind::average_with_padding;
    net::Window window = pool.window;
    if (pool.extent == net::Pool::Extent::whole_image) {
        window = {};
        window.kernel[0] = in_shape().height, window.kernel[1] = in_shape().width;
    }
    SKIFF_TRY(args.windows, windows_over(window, net::Conv{window}.kept_taps()));
    args.y = out();
    push("pooling", [this, args](const Launch& launch, std::int64_t n_images) {
        WindowsArgs all = args;
        all.windows.n_images = n_images;
        return device_->table().windows(all, launch);
    });
    return {};
}

Status DeviceNet::depthwise(const net::Conv& conv) {
    const std::string& name = net_->spec.ops[index_].name;
    WindowsArgs args;
    SKIFF_TRY(args.windows, windows_over(conv.window, conv.kept_taps()));
    const Weight& weight = net_->weights.at(name + ".weight");
    std::vector<float> by_tap(static_cast<std::size_t>(args.windows.n_taps * conv.channels)), row(static_cast<std::size_t>(weight.n_columns()));
    for (std::int64_t c = 0; c < conv.channels; ++c) {
        weight.row(c, row.data());
        for (std::int64_t tap = 0; tap < args.windows.n_taps; ++tap) by_tap[static_cast<std::size_t>(tap * conv.channels + c)] = row[static_cast<std::size_t>(tap)];
    }
    SKIFF_TRY(args.weight, device_->upload_new(by_tap, "a depthwise convolution"));
    if (conv.bias == net::Conv::Bias::yes) {
        SKIFF_TRY(args.bias, device_->upload_new(net_->floats(name + ".bias"), "a bias"));
    }
    args.multiplier = conv.channels / in_shape().channels;
    args.y = out();
    push("depthwise convolution", [this, args](const Launch& launch, std::int64_t n_images) {
        WindowsArgs all = args;
        all.windows.n_images = n_images;
        return device_->table().windows(all, launch);
    });
    return {};
}

// One memory for all products as wide; what pads its columns stays zero.
Result<Operand> DeviceNet::operand_for(std::int64_t n_columns) {
    auto found = operands_.find(n_columns);
    if (found == operands_.end()) {
        const std::size_t size = device_->table().operand_bytes(OperandForm::fragments, positions_at_once, n_columns);
        SKIFF_TRY(std::byte * memory, device_->allocate(size, "gathered windows"));
        SKIFF_CHECK(device_->check(device_->table().fill(memory, 0, size, device_->stream()), "clearing gathered windows"));
        found = operands_.emplace(n_columns, memory).first;
    }
    return Operand{OperandForm::fragments, found->second, n_columns};
}

Status DeviceNet::lower(const net::Conv& conv) {
    if (options_.convolution == DeviceNetOptions::Convolution::cudnn) {
        SKIFF_TRY(const bool done, by_cudnn(conv));
        if (done) return {};
    }
    if (conv.groups == in_shape().channels && conv.groups > 1) return depthwise(conv);
    const std::string& name = net_->spec.ops[index_].name;
    const Table& table = device_->table();
    const Weight& weight = net_->weights.at(name + ".weight");
    const std::int64_t rows = conv.channels / conv.groups, n_positions = out_shape().n_positions();
    PatchesArgs gather;
    SKIFF_TRY(gather.windows, windows_over(conv.window, conv.kept_taps()));
    gather.n_channels = in_shape().channels / conv.groups;
    SKIFF_TRY(gather.operand, operand_for(weight.n_columns()));
    const float* bias = nullptr;
    if (conv.bias == net::Conv::Bias::yes) {
        SKIFF_TRY(bias, device_->upload_new(net_->floats(name + ".bias"), "a bias"));
    }
    for (std::int64_t group = 0; group < conv.groups; ++group) {
        const RowSource source = {&weight, {group * rows, rows, rows, 1}};
        SKIFF_TRY(const auto packed, pack_gpu({&source, 1}));
        SKIFF_TRY(std::byte * address, device_->allocate(packed.size_bytes(), "the weights of " + name));
        SKIFF_CHECK(device_->upload(address, packed.blob.data(), packed.size_bytes()));
        GemmArgs product;
        product.weight = packed.at(address);
        product.x = gather.operand.data;
        product.bias = bias == nullptr ? nullptr : bias + group * rows;
        product.y = out() + group * rows;
        product.y_stride = conv.channels;
        gather.first_channel = group * gather.n_channels;
        const std::int64_t most = std::min(positions_at_once, batch_ * n_positions);
        // Fewer tokens are cut into more parts, so that every number of them is asked.
        for (std::int64_t n = 1; n <= most; n = n < 1024 ? n + 1 : n * 2) {
            partial_bytes_ = std::max(partial_bytes_, table.gemm_partial_bytes(product.weight, n, device_->launch()));
            n_arrivals_ = std::max(n_arrivals_, table.gemm_arrivals(product.weight, n));
        }
        n_arrivals_ = std::max(n_arrivals_, table.gemm_arrivals(product.weight, most));
        push("windows + gemm", [this, gather, product, n_positions](const Launch& launch, std::int64_t n_images) {
            for (std::int64_t first = 0; first < n_images * n_positions; first += positions_at_once) {
                PatchesArgs part = gather;
                part.windows.n_images = n_images;
                part.first_position = first;
                part.n_positions = std::min(positions_at_once, n_images * n_positions - first);
                if (const int error = device_->table().patches(part, launch); error != 0) return error;
                GemmArgs some = product;
                some.n_tokens = part.n_positions;
                some.y += first * product.y_stride;
                if (const std::size_t size = device_->table().gemm_partial_bytes(product.weight, some.n_tokens, launch); size > 0 && size <= partial_bytes_ && device_->table().gemm_arrivals(product.weight, some.n_tokens) <= n_arrivals_) {
                    some.partials = reinterpret_cast<float*>(partials_);
                    some.arrivals = arrivals_;
                }
                if (const int error = device_->table().gemm(some, launch); error != 0) return error;
            }
            return 0;
        });
    }
    return {};
}

}  // namespace skiff::cuda
