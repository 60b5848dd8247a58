#include "compress/onnx/onnx_net.h"

#include <algorithm>
#include <cmath>

#include "compress/onnx/onnx_nodes.h"

namespace skiff {
namespace {

using net::ValueShape;

constexpr OnnxType f32 = OnnxType::float32;

// A value of the network in the graph, in one or both of two layouts, made when something first asks for it:
//   rows   (images * positions, channels)                                 what matrices, norms and attention read; our own order
//   image  (images, channels, height, width); (images, channels, width) of height 1   what convolutions and pooling read
// A value of one position is rows in any case.
struct Value {
    ValueShape shape;
    std::string rows, image;
    enum class Layout : std::uint8_t { rows, image } first = Layout::rows;
};
using Layout = Value::Layout;

class NetGraph {
public:
    NetGraph(OnnxGraphBuilder& graph, const OnnxExportOptions& options, const net::Net& net, const net::Resolved& resolved, const std::vector<net::ValueRange>& ranges)
        : graph_(graph), options_(options), net_(net), resolved_(resolved), ranges_(ranges), forms_(graph, weight_options_, {}) {
        weight_options_ = options;
        weight_options_.activations = OnnxExportOptions::Activations::real;  // those of decoders have scales that are computed
        for (const ValueShape& shape : resolved.shapes) values_.push_back({shape, {}, {}});
        rounded_ = values_;
    }

    Status add_all() {
        const ValueShape& input = values_.front().shape;
        graph_.input(net::input_name, f32, outside_dims(input));
        store(0, input.n_positions() == 1 ? Layout::rows : Layout::image, net::input_name);
        for (index_ = 0; index_ < net_.spec.ops.size(); ++index_) {
            graph_.set_scope(op().name);
            auto status = std::visit([&](const auto& detail) { return emit(detail); }, op().detail);
            if (!status.ok()) return status.take_error().with_context("operator " + op().name);
        }
        const std::size_t last = values_.size() - 1;
        graph_.set_scope("output");
        graph_.output("output", f32, outside_dims(values_[last].shape));
        graph_.identity(values_[last].shape.n_positions() == 1 ? rows(last) : image(last), "output");
        return {};
    }

    const OnnxForms& forms() const { return forms_; }
    const std::vector<std::string>& notes() const { return notes_; }

private:
    const net::Op& op() const { return net_.spec.ops[index_]; }
    std::size_t in(std::size_t i = 0) const { return resolved_.inputs[index_][i]; }
    const ValueShape& shape(std::size_t i = 0) const { return values_[in(i)].shape; }
    const ValueShape& out() const { return values_[index_ + 1].shape; }

    static std::vector<OnnxDimension> outside_dims(const ValueShape& shape) {
        std::vector<OnnxDimension> dims = {"batch_size", shape.channels};
        if (shape.height > 1) dims.push_back(shape.height);
        if (shape.n_positions() > 1) dims.push_back(shape.width);
        return dims;
    }
    static Shape image_dims(const ValueShape& shape) { return shape.height == 1 ? Shape{-1, shape.channels, shape.width} : Shape{-1, shape.channels, shape.height, shape.width}; }

    std::string reshape(const std::string& x, const Shape& dims) { return graph_.node("Reshape", {x, graph_.integers(dims)}); }
    std::string transpose(const std::string& x, std::vector<std::int64_t> order) { return graph_.node("Transpose", {x}, {{"perm", std::move(order)}}); }
    std::string real(float value) { return graph_.real(value, f32); }

    void store(std::size_t value, Layout layout, std::string name) {
        values_[value].first = layout;
        (layout == Layout::rows ? values_[value].rows : values_[value].image) = std::move(name);
    }
    void give(Layout layout, std::string name) { store(index_ + 1, layout, std::move(name)); }
    // A result of rank 4, or of rank 3 in one dimension, as what its shape is.
    void give_windows(const std::string& y, bool is_flat) {
        if (out().n_positions() == 1) give(Layout::rows, reshape(y, {-1, out().channels}));
        else if (out().height == 1 && !is_flat) give(Layout::image, reshape(y, image_dims(out())));
        else give(Layout::image, y);
    }

    const std::string& rows(std::size_t index) { return rows(values_[index]); }
    const std::string& image(std::size_t index) { return image(values_[index]); }
    const std::string& rows(Value& value) {
        if (!value.rows.empty()) return value.rows;
        const std::int64_t channels = value.shape.channels;
        const bool is_2d = value.shape.height > 1;
        const std::string moved = channels == 1 ? value.image : transpose(value.image, is_2d ? std::vector<std::int64_t>{0, 2, 3, 1} : std::vector<std::int64_t>{0, 2, 1});
        return value.rows = reshape(moved, {-1, channels});
    }
    const std::string& image(Value& value) {
        if (!value.image.empty()) return value.image;
        const ValueShape& shape = value.shape;
        if (shape.channels == 1 || shape.n_positions() == 1) return value.image = reshape(value.rows, image_dims(shape));
        if (shape.height == 1) return value.image = transpose(reshape(value.rows, {-1, shape.width, shape.channels}), {0, 2, 1});
        return value.image = transpose(reshape(value.rows, {-1, shape.height, shape.width, shape.channels}), {0, 3, 1, 2});
    }
    // What a window in two dimensions, or in one, reads.
    std::string windowed(Value& value, bool is_flat) { return shape().height == 1 && !is_flat ? reshape(image(value), {-1, shape().channels, 1, shape().width}) : image(value); }
    static bool is_flat(const net::Window& window, const ValueShape& shape) { return shape.height == 1 && window.kernel[0] == 1 && window.before[0] == 0 && window.after[0] == 0; }

    Layout layout(std::size_t i = 0) const { return values_[in(i)].first; }
    const std::string& value(Layout layout, std::size_t i = 0) { return layout == Layout::rows ? rows(in(i)) : image(in(i)); }

    // What matrices and convolutions read.
    Value& factor() {
        Value &value = values_[in()], &rounded = rounded_[in()];
        if (options_.activations == OnnxExportOptions::Activations::real) return value;
        if (rounded.rows.empty() && rounded.image.empty()) {
            rounded.first = value.first;
            (value.first == Layout::rows ? rounded.rows : rounded.image) = integers(value.first == Layout::rows ? value.rows : value.image, ranges_[in()]);
        }
        return rounded;
    }
    std::string integers(const std::string& x, const net::ValueRange& range) {
        const bool is_signed = range.low < 0;
        const float reach = std::max(std::abs(range.low), std::abs(range.high));
        const std::string scale = real(reach > 0 ? reach / (is_signed ? 127.0f : 255.0f) : 1);
        if (options_.form == OnnxForm::qonnx)
            return graph_.node("Quant", {x, scale, real(0), real(8)}, {{"signed", std::int64_t{is_signed}}, {"narrow", std::int64_t{is_signed}}, {"rounding_mode", std::string("ROUND")}}, "qonnx.custom_op.general");
        const std::string zero = graph_.initializer(is_signed ? "i8_0" : "u8_0", is_signed ? OnnxType::int8 : OnnxType::uint8, {}, [](const OnnxDataSink& sink) { return sink(bytes_of(std::string(1, '\0'))); });
        return graph_.node("DequantizeLinear", {graph_.node("QuantizeLinear", {x, scale, zero}), scale, zero});
    }

    static std::vector<OnnxAttribute> window_attributes(const net::Window& window, bool is_flat) {
        std::vector<std::int64_t> sides, strides, pads;
        for (int axis = is_flat ? 1 : 0; axis < 2; ++axis) {
            sides.push_back(window.kernel[axis]);
            strides.push_back(window.stride[axis]);
            pads.push_back(window.before[axis]);
        }
        for (int axis = is_flat ? 1 : 0; axis < 2; ++axis) pads.push_back(window.after[axis]);
        return {{"kernel_shape", sides}, {"strides", strides}, {"pads", pads}};
    }
    static std::vector<std::int64_t> dilations(const net::Window& window, bool is_flat) { return is_flat ? std::vector<std::int64_t>{window.dilation[1]} : std::vector<std::int64_t>{window.dilation[0], window.dilation[1]}; }

    Status emit(const net::Conv& conv) {
        SKIFF_TRY(const auto matrix, OnnxMatrix::hold(op().name + ".weight", net_.weights.at(op().name + ".weight")));
        std::string bias;
        if (conv.bias == net::Conv::Bias::yes) bias = graph_.floats(op().name + ".bias", f32, {conv.channels}, net_.floats(op().name + ".bias"));
        const bool is_point = conv.window.looks_at_one(), in_rows = shape().n_positions() == 1 || (shape().height == 1 && layout() == Layout::rows);
        if (is_point && conv.groups == 1 && in_rows) {
            SKIFF_TRY(auto y, forms_.linear(matrix, op().name, rows(factor()), bias));
            give(Layout::rows, std::move(y));
            return {};
        }
        if (is_point && conv.groups == shape().channels && conv.channels == conv.groups && in_rows) {  // a factor for each channel
            SKIFF_TRY(const auto factors, forms_.filters(matrix, op().name, {{}, 1, {0}}));
            const std::string y = graph_.node("Mul", {rows(factor()), reshape(factors, {-1})});
            give(Layout::rows, bias.empty() ? y : graph_.node("Add", {y, bias}));
            return {};
        }
        const bool flat = is_flat(conv.window, shape());
        const std::vector<std::int64_t> taps = conv.kept_taps();
        if (static_cast<std::int64_t>(taps.size()) < conv.window.n_taps()) note("positions in kernels that pruning took are zeros: a graph has no other form for them");
        OnnxKernel kernel{{conv.window.kernel[0], conv.window.kernel[1]}, shape().channels / conv.groups, taps};
        if (flat) kernel.sides = {conv.window.kernel[1]};
        SKIFF_TRY(const auto filters, forms_.filters(matrix, op().name, kernel));
        std::vector<OnnxAttribute> attributes = window_attributes(conv.window, flat);
        attributes.push_back({"dilations", dilations(conv.window, flat)});
        attributes.push_back({"group", conv.groups});
        std::vector<std::string> inputs = {windowed(factor(), flat), filters};
        if (!bias.empty()) inputs.push_back(bias);
        give_windows(graph_.node("Conv", inputs, std::move(attributes)), flat);
        return {};
    }

    Status emit(const net::Pool& pool) {
        const bool is_max = pool.kind == PoolKind::max;
        if (pool.extent == net::Pool::Extent::whole_image) {
            if (shape().n_positions() == 1) give(Layout::rows, rows(in()));
            else give(Layout::rows, reshape(graph_.node(is_max ? "GlobalMaxPool" : "GlobalAveragePool", {image(in())}), {-1, out().channels}));
            return {};
        }
        const net::Window& window = pool.window;
        for (int axis = 0; axis < 2; ++axis)
            if (std::max(window.before[axis], window.after[axis]) >= window.kernel[axis])
                return unsupported("a padding of " + std::to_string(std::max(window.before[axis], window.after[axis])) + " around windows of " + std::to_string(window.kernel[axis]) + " has no form in ONNX: its runtimes pool with less padding than kernel");
        const bool flat = is_flat(window, shape()), dilates = window.dilation[0] != 1 || window.dilation[1] != 1;
        std::vector<OnnxAttribute> attributes = window_attributes(window, flat);
        if (dilates) attributes.push_back({"dilations", dilations(window, flat)});
        if (!is_max) attributes.push_back({"count_include_pad", std::int64_t{pool.kind == PoolKind::average_with_padding ? 1 : 0}});
        if (!is_max && dilates) graph_.require_opset(19);
        give_windows(graph_.node(is_max ? "MaxPool" : "AveragePool", {windowed(values_[in()], flat)}, std::move(attributes)), flat);
        return {};
    }

    Status emit(const net::Shuffle& shuffle) {
        const std::int64_t groups = shuffle.groups, of_group = shape().channels / groups;
        if (layout() == Layout::rows) {
            give(Layout::rows, reshape(transpose(reshape(rows(in()), {-1, groups, of_group}), {0, 2, 1}), {-1, shape().channels}));
            return {};
        }
        const std::string split = reshape(image(in()), {-1, groups, of_group, shape().n_positions()});
        give(Layout::image, reshape(transpose(split, {0, 2, 1, 3}), image_dims(shape())));
        return {};
    }

    Status emit(const net::Activate& activate) {
        SKIFF_TRY(auto y, activation_nodes(graph_, activate.kind, value(layout()), f32));
        give(layout(), std::move(y));
        return {};
    }
    Status emit(const net::Add&) {
        give(layout(), graph_.node("Add", {value(layout()), value(layout(), 1)}));
        return {};
    }
    Status emit(const net::Multiply&) {
        if (shape(0) == shape(1)) {
            give(layout(), graph_.node("Mul", {value(layout()), value(layout(), 1)}));
            return {};
        }
        Shape gate = {-1, shape().channels, 1};
        if (shape().height > 1) gate.push_back(1);
        const std::string factors = reshape(rows(in(1)), gate);
        give(Layout::image, graph_.node("Mul", {image(in()), factors}));
        return {};
    }
    Status emit(const net::Concat&) {
        std::vector<std::string> parts;
        for (std::size_t i = 0; i < op().in.size(); ++i) parts.push_back(value(layout(), i));
        give(layout(), graph_.node("Concat", parts, {{"axis", std::int64_t{1}}}));
        return {};
    }
    Status emit(const net::Slice& slice) {
        const std::string y = graph_.node("Slice", {value(layout()), graph_.integers({slice.begin}), graph_.integers({slice.end}), graph_.integers({1})});
        give(layout(), y);
        return {};
    }
    Status emit(const net::Norm& norm) {
        const std::int64_t channels = shape().channels;
        OnnxNorm made{norm.kind, static_cast<float>(norm.eps), graph_.floats(op().name + ".weight", f32, {channels}, net_.floats(op().name + ".weight")), {}};
        if (norm.kind == NormKind::layer) made.bias = graph_.floats(op().name + ".bias", f32, {channels}, net_.floats(op().name + ".bias"));
        give(Layout::rows, norm_nodes(graph_, made, rows(in())));
        return {};
    }
    Status emit(const net::Attention& attention) {
        const std::int64_t heads = attention.n_heads, width = shape().channels / heads;
        const auto by_head = [&](std::size_t i, std::vector<std::int64_t> order) { return transpose(reshape(rows(in(i)), {-1, shape().n_positions(), heads, width}), std::move(order)); };
        const std::string q = by_head(0, {0, 2, 1, 3}), k = by_head(1, {0, 2, 3, 1}), v = by_head(2, {0, 2, 1, 3});
        const std::string scores = graph_.node("Mul", {graph_.node("MatMul", {q, k}), real(1 / std::sqrt(static_cast<float>(width)))});
        const std::string mixed = graph_.node("MatMul", {graph_.node("Softmax", {scores}, {{"axis", std::int64_t{-1}}}), v});
        give(Layout::rows, reshape(transpose(mixed, {0, 2, 1, 3}), {-1, shape().channels}));
        return {};
    }
    Status emit(const net::Flatten&) {
        const bool in_order = shape().channels == 1 || shape().n_positions() == 1;
        give(Layout::rows, reshape(in_order ? value(layout()) : rows(in()), {-1, out().channels}));
        return {};
    }
    Status emit(const net::Fold&) {
        give(Layout::rows, reshape(rows(in()), {-1, out().channels}));
        return {};
    }

    void note(const std::string& text) {
        if (notes_.empty() || notes_.back() != text) notes_.push_back(text);
    }

    OnnxGraphBuilder& graph_;
    const OnnxExportOptions& options_;
    OnnxExportOptions weight_options_;
    const net::Net& net_;
    const net::Resolved& resolved_;
    const std::vector<net::ValueRange>& ranges_;
    OnnxForms forms_;
    std::vector<Value> values_, rounded_;  // rounded: their integers, where something reads them
    std::vector<std::string> notes_;
    std::size_t index_ = 0;
};

}  // namespace

Result<OnnxExport> plan_onnx_net(const net::Net& net, const OnnxExportOptions& options, const std::vector<net::ValueRange>& ranges) {
    if (options.form == OnnxForm::nbits) return unsupported("MatMulNBits multiplies the matrices of language models; networks of convolutions have the forms qdq, qonnx and float");
    if (options.real != f32) return unsupported("networks of convolutions are written with float32 values");
    SKIFF_TRY(const auto resolved, net::resolve(net.spec));
    if (options.activations == OnnxExportOptions::Activations::int8 && (ranges.size() != resolved.shapes.size() || options.form == OnnxForm::floats))
        return unsupported("activations of 8 bits need the forms qdq or qonnx, and the ranges of all values");
    OnnxGraphBuilder graph;
    NetGraph made(graph, options, net, resolved, ranges);
    SKIFF_CHECK(made.add_all());
    OnnxExport plan;
    plan.model = graph.finish();
    plan.model.graph_name = net.spec.name.empty() ? "network" : net.spec.name;
    plan.initializers = graph.take_initializers();
    plan.counts = made.forms().counts();
    plan.notes = made.notes();
    for (const OnnxInitializer& initializer : plan.initializers) plan.data_bytes += initializer.size_bytes;
    return plan;
}

}  // namespace skiff
