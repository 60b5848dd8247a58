// For tests: executes the graphs of networks in double precision, by the definitions of ONNX's and QONNX's operators alone. It knows nothing of who wrote them.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "base/result.h"
#include "formats/onnx/onnx_testing.h"
#include "tensor/tensor.h"

namespace skiff {

class OnnxRunner {
public:
    struct Value {
        Shape dims;
        std::vector<double> values;
        std::int64_t dim(std::size_t axis) const { return dims[axis]; }
    };

    // data: of the file beside the model.
    OnnxRunner(const OnnxModel& model, const std::string& data) : model_(model) {
        for (const OnnxTensor& tensor : model.initializers) constants_[tensor.name] = decoded(tensor, tensor.external ? data.substr(tensor.external->offset, tensor.external->length) : tensor.data);
    }

    // Of the graph's only input. A node that is not known, or does not get what it needs, is a failed test.
    Value run(Value input) {
        known_ = constants_;
        known_[model_.inputs.at(0).name] = std::move(input);
        for (const OnnxNode& node : model_.nodes) known_[node.outputs.at(0)] = execute(node);
        return known_[model_.outputs.at(0).name];
    }

private:
    static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
    static Value made(Shape dims) {
        const auto n = at(element_count(dims));
        return {std::move(dims), std::vector<double>(n)};
    }

    static Value decoded(const OnnxTensor& tensor, const std::string& raw) {
        Value value = made(tensor.dims);
        EXPECT_EQ(raw.size(), onnx_tensor_bytes(tensor.type, tensor.dims)) << tensor.name;
        for (std::size_t i = 0; i < value.values.size(); ++i) {
            double& x = value.values[i];
            if (tensor.type == OnnxType::float32) {
                float real = 0;
                std::memcpy(&real, raw.data() + i * 4, 4);
                x = static_cast<double>(real);
            } else if (tensor.type == OnnxType::int64) {
                std::int64_t integer = 0;
                std::memcpy(&integer, raw.data() + i * 8, 8);
                x = static_cast<double>(integer);
            } else if (tensor.type == OnnxType::int8) x = static_cast<signed char>(raw[i]);
            else if (tensor.type == OnnxType::uint8) x = static_cast<unsigned char>(raw[i]);
            else if (tensor.type == OnnxType::int4 || tensor.type == OnnxType::uint4) {
                const int nibble = static_cast<unsigned char>(raw[i / 2]) >> (i % 2 * 4) & 15;
                x = tensor.type == OnnxType::int4 && nibble > 7 ? nibble - 16 : nibble;
            } else ADD_FAILURE() << tensor.name << ": a type that is not read";
        }
        return value;
    }

    template <class T>
    static T attribute(const OnnxNode& node, const std::string& name, T fallback) {
        for (const OnnxAttribute& found : node.attributes)
            if (found.name == name) return std::get<T>(found.value);
        return fallback;
    }
    using Integers = std::vector<std::int64_t>;
    static Integers integers(const Value& value) {
        Integers all;
        for (const double x : value.values) all.push_back(static_cast<std::int64_t>(x));
        return all;
    }

    // Calls use(index of each axis) for all elements, the last axis fastest.
    template <class Use>
    static void for_each_index(const Shape& dims, Use&& use) {
        if (element_count(dims) == 0) return;
        Shape index(dims.size(), 0);
        for (;;) {
            use(index);
            std::size_t axis = dims.size();
            while (axis > 0 && ++index[axis - 1] == dims[axis - 1]) index[--axis] = 0;
            if (axis == 0) return;
        }
    }
    static double element(const Value& value, const Shape& index) {
        std::int64_t offset = 0;
        for (std::size_t axis = 0; axis < value.dims.size(); ++axis) offset = offset * value.dims[axis] + index[axis];
        return value.values[at(offset)];
    }

    template <class Fn>
    static Value mapped(Value x, Fn&& fn) {
        for (double& value : x.values) value = fn(value);
        return x;
    }
    // Axes are aligned at their ends; one of size 1 serves for all.
    static double broadcast_element(const Value& value, const Shape& index) {
        std::int64_t offset = 0;
        const std::size_t behind = index.size() - value.dims.size();
        for (std::size_t axis = 0; axis < value.dims.size(); ++axis) offset = offset * value.dims[axis] + (value.dims[axis] == 1 ? 0 : index[axis + behind]);
        return value.values[at(offset)];
    }
    static Shape broadcast(const Shape& a, const Shape& b) {
        Shape dims(std::max(a.size(), b.size()), 1);
        for (std::size_t i = 1; i <= dims.size(); ++i) {
            const std::int64_t x = i <= a.size() ? a[a.size() - i] : 1, y = i <= b.size() ? b[b.size() - i] : 1;
            EXPECT_TRUE(x == y || x == 1 || y == 1) << x << " and " << y;
            dims[dims.size() - i] = std::max(x, y);
        }
        return dims;
    }
    template <class Fn>
    static Value combined(const Value& a, const Value& b, Fn&& fn) {
        Value y = made(broadcast(a.dims, b.dims));
        std::size_t i = 0;
        for_each_index(y.dims, [&](const Shape& index) { y.values[i++] = fn(broadcast_element(a, index), broadcast_element(b, index)); });
        return y;
    }

    const Value& in(const OnnxNode& node, std::size_t i) { return known_.at(node.inputs.at(i)); }

    Value execute(const OnnxNode& node) {
        const std::string& type = node.op_type;
        const auto x = [&]() -> const Value& { return in(node, 0); };
        if (type == "Identity") return x();
        if (type == "Relu") return mapped(x(), [](double v) { return std::max(v, 0.0); });
        if (type == "Sigmoid") return mapped(x(), [](double v) { return 1 / (1 + std::exp(-v)); });
        if (type == "Tanh") return mapped(x(), [](double v) { return std::tanh(v); });
        if (type == "Erf") return mapped(x(), [](double v) { return std::erf(v); });
        if (type == "Sqrt") return mapped(x(), [](double v) { return std::sqrt(v); });
        if (type == "Add") return combined(x(), in(node, 1), [](double a, double b) { return a + b; });
        if (type == "Mul") return combined(x(), in(node, 1), [](double a, double b) { return a * b; });
        if (type == "Div") return combined(x(), in(node, 1), [](double a, double b) { return a / b; });
        if (type == "Pow") return combined(x(), in(node, 1), [](double a, double b) { return std::pow(a, b); });
        if (type == "Reshape") return reshaped(x(), integers(in(node, 1)));
        if (type == "Transpose") return transposed(x(), attribute(node, "perm", Integers()));
        if (type == "Concat") return concatenated(node);
        if (type == "Slice") return sliced(node);
        if (type == "Pad") return padded(x(), integers(in(node, 1)));
        if (type == "Gather") return gathered(x(), integers(in(node, 1)), at(attribute(node, "axis", std::int64_t{0})));
        if (type == "MatMul") return product(x(), in(node, 1));
        if (type == "Gemm") return gemm(node);
        if (type == "Conv") return convolved(node);
        if (type == "MaxPool" || type == "AveragePool") return pooled(node);
        if (type == "GlobalMaxPool" || type == "GlobalAveragePool") return pooled_whole(x(), type == "GlobalMaxPool");
        if (type == "Softmax" || type == "ReduceMean" || type == "LayerNormalization") return over_last_axis(node);
        if (type == "Quant" || type == "BipolarQuant") return quantized(node);
        if (type == "DequantizeLinear") return dequantized(node);
        if (type == "QuantizeLinear") return in_bytes(node);
        ADD_FAILURE() << "no operator " << type;
        return {};
    }

    static Value reshaped(Value x, Integers dims) {
        std::int64_t rest = element_count(x.dims);
        for (std::size_t i = 0; i < dims.size(); ++i) {
            if (dims[i] == 0) dims[i] = x.dims[i];
            if (dims[i] > 0) rest /= dims[i];
        }
        for (std::int64_t& dim : dims) dim = dim < 0 ? rest : dim;
        EXPECT_EQ(element_count(dims), element_count(x.dims));
        x.dims = dims;
        return x;
    }
    static Value transposed(const Value& x, const Integers& order) {
        Shape dims, from(order.size());
        for (const std::int64_t axis : order) dims.push_back(x.dims[at(axis)]);
        Value y = made(dims);
        std::size_t i = 0;
        for_each_index(dims, [&](const Shape& index) {
            for (std::size_t axis = 0; axis < order.size(); ++axis) from[at(order[axis])] = index[axis];
            y.values[i++] = element(x, from);
        });
        return y;
    }
    Value concatenated(const OnnxNode& node) {
        const auto axis = at(attribute(node, "axis", std::int64_t{0}));
        Shape dims = in(node, 0).dims;
        dims[axis] = 0;
        for (std::size_t i = 0; i < node.inputs.size(); ++i) dims[axis] += in(node, i).dims[axis];
        Value y = made(dims);
        std::size_t i = 0;
        for_each_index(dims, [&](Shape index) {
            std::size_t part = 0;
            for (; index[axis] >= in(node, part).dims[axis]; ++part) index[axis] -= in(node, part).dims[axis];
            y.values[i++] = element(in(node, part), index);
        });
        return y;
    }
    Value sliced(const OnnxNode& node) {
        const Value& x = in(node, 0);
        const auto begin = integers(in(node, 1))[0], end = integers(in(node, 2))[0];
        const auto axis = at(integers(in(node, 3))[0]);
        Shape dims = x.dims;
        dims[axis] = end - begin;
        Value y = made(dims);
        std::size_t i = 0;
        for_each_index(dims, [&](Shape index) {
            index[axis] += begin;
            y.values[i++] = element(x, index);
        });
        return y;
    }
    static Value padded(const Value& x, const Integers& pads) {
        Shape dims = x.dims;
        const std::size_t rank = dims.size();
        for (std::size_t axis = 0; axis < rank; ++axis) dims[axis] += pads[axis] + pads[axis + rank];
        Value y = made(dims);
        std::size_t i = 0;
        for_each_index(dims, [&](Shape index) {
            bool inside = true;
            for (std::size_t axis = 0; axis < rank; ++axis) {
                index[axis] -= pads[axis];
                inside = inside && index[axis] >= 0 && index[axis] < x.dims[axis];
            }
            y.values[i++] = inside ? element(x, index) : 0;
        });
        return y;
    }
    static Value gathered(const Value& x, const Integers& indices, std::size_t axis) {
        Shape dims = x.dims;
        dims[axis] = static_cast<std::int64_t>(indices.size());
        Value y = made(dims);
        std::size_t i = 0;
        for_each_index(dims, [&](Shape index) {
            index[axis] = indices[at(index[axis])];
            y.values[i++] = element(x, index);
        });
        return y;
    }

    // Of the last two axes; those before are the same in both, or none of b.
    static Value product(const Value& a, const Value& b) {
        const std::size_t rank = a.dims.size();
        const std::int64_t n = a.dims[rank - 2], k = a.dims[rank - 1], m = b.dims.back();
        EXPECT_EQ(b.dims[b.dims.size() - 2], k);
        Shape dims = a.dims;
        dims[rank - 1] = m;
        Value y = made(dims);
        const std::int64_t n_matrices = element_count(a.dims) / (n * k);
        for (std::int64_t matrix = 0; matrix < n_matrices; ++matrix) {
            const double* right = b.values.data() + (b.dims.size() == 2 ? 0 : matrix * k * m);
            for (std::int64_t i = 0; i < n; ++i)
                for (std::int64_t t = 0; t < k; ++t)
                    for (std::int64_t j = 0; j < m; ++j) y.values[at((matrix * n + i) * m + j)] += a.values[at((matrix * n + i) * k + t)] * right[t * m + j];
        }
        return y;
    }
    Value gemm(const OnnxNode& node) {
        EXPECT_EQ(attribute(node, "transB", std::int64_t{0}), 1);
        const Value y = product(in(node, 0), transposed(in(node, 1), {1, 0}));
        return node.inputs.size() > 2 ? combined(y, in(node, 2), [](double a, double b) { return a + b; }) : y;
    }

    // Windows over the axes behind the second; one such axis is a height of 1.
    struct Windows {
        std::int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, dilation[2] = {1, 1}, before[2] = {0, 0}, after[2] = {0, 0}, side[2] = {1, 1}, out[2] = {1, 1};
        Shape out_dims;
    };
    static Windows windows(const OnnxNode& node, const Value& x, std::int64_t channels) {
        Windows made;
        const std::size_t n_axes = x.dims.size() - 2;
        const Integers ones(n_axes, 1), kernel = attribute(node, "kernel_shape", ones), stride = attribute(node, "strides", ones), dilation = attribute(node, "dilations", ones),
                                         pads = attribute(node, "pads", Integers(2 * n_axes, 0));
        made.out_dims = {x.dims[0], channels};
        for (std::size_t i = 0; i < n_axes; ++i) {
            const std::size_t axis = i + 2 - n_axes;
            made.kernel[axis] = kernel[i], made.stride[axis] = stride[i], made.dilation[axis] = dilation[i], made.before[axis] = pads[i], made.after[axis] = pads[i + n_axes], made.side[axis] = x.dims[i + 2];
            made.out[axis] = (made.side[axis] + pads[i] + pads[i + n_axes] - (kernel[i] - 1) * dilation[i] - 1) / stride[i] + 1;
            made.out_dims.push_back(made.out[axis]);
        }
        return made;
    }
    // use(position in the kernel, position in the image or -1) for each of a window.
    template <class Use>
    static void for_each_tap(const Windows& w, std::int64_t out_y, std::int64_t out_x, Use&& use) {
        for (std::int64_t ky = 0; ky < w.kernel[0]; ++ky)
            for (std::int64_t kx = 0; kx < w.kernel[1]; ++kx) {
                const std::int64_t row = out_y * w.stride[0] + ky * w.dilation[0] - w.before[0], column = out_x * w.stride[1] + kx * w.dilation[1] - w.before[1];
                const bool inside = row >= 0 && row < w.side[0] && column >= 0 && column < w.side[1];
                use(ky * w.kernel[1] + kx, inside ? row * w.side[1] + column : -1);
            }
    }
    Value convolved(const OnnxNode& node) {
        const Value &x = in(node, 0), &filters = in(node, 1);
        const std::int64_t channels = filters.dims[0], inputs = filters.dims[1], groups = attribute(node, "group", std::int64_t{1});
        EXPECT_EQ(inputs * groups, x.dims[1]);
        const Windows w = windows(node, x, channels);
        Value y = made(w.out_dims);
        const std::int64_t n_taps = w.kernel[0] * w.kernel[1], pixels = w.side[0] * w.side[1];
        EXPECT_EQ(element_count(filters.dims), channels * inputs * n_taps);
        std::size_t i = 0;
        for (std::int64_t image = 0; image < x.dims[0]; ++image)
            for (std::int64_t c = 0; c < channels; ++c)
                for (std::int64_t out_y = 0; out_y < w.out[0]; ++out_y)
                    for (std::int64_t out_x = 0; out_x < w.out[1]; ++out_x, ++i) {
                        double sum = node.inputs.size() > 2 ? in(node, 2).values[at(c)] : 0;
                        const std::int64_t first = c / (channels / groups) * inputs;
                        for_each_tap(w, out_y, out_x, [&](std::int64_t tap, std::int64_t pixel) {
                            for (std::int64_t input = 0; pixel >= 0 && input < inputs; ++input)
                                sum += filters.values[at((c * inputs + input) * n_taps + tap)] * x.values[at((image * x.dims[1] + first + input) * pixels + pixel)];
                        });
                        y.values[i] = sum;
                    }
        return y;
    }
    Value pooled(const OnnxNode& node) {
        const Value& x = in(node, 0);
        const bool is_max = node.op_type == "MaxPool", counts_padding = attribute(node, "count_include_pad", std::int64_t{0}) == 1;
        const Windows w = windows(node, x, x.dims[1]);
        for (int axis = 0; axis < 2; ++axis) EXPECT_LT(std::max(w.before[axis], w.after[axis]), w.kernel[axis]) << "onnxruntime does not take it";
        Value y = made(w.out_dims);
        const std::int64_t pixels = w.side[0] * w.side[1];
        std::size_t i = 0;
        for (std::int64_t plane = 0; plane < x.dims[0] * x.dims[1]; ++plane)
            for (std::int64_t out_y = 0; out_y < w.out[0]; ++out_y)
                for (std::int64_t out_x = 0; out_x < w.out[1]; ++out_x, ++i) {
                    double sum = 0, largest = -std::numeric_limits<double>::infinity(), n = 0;
                    for_each_tap(w, out_y, out_x, [&](std::int64_t, std::int64_t pixel) {
                        n += pixel >= 0 || counts_padding ? 1 : 0;
                        if (pixel < 0) return;
                        sum += x.values[at(plane * pixels + pixel)];
                        largest = std::max(largest, x.values[at(plane * pixels + pixel)]);
                    });
                    y.values[i] = is_max ? largest : sum / n;
                }
        return y;
    }
    static Value pooled_whole(const Value& x, bool is_max) {
        Shape dims = x.dims;
        std::fill(dims.begin() + 2, dims.end(), 1);
        Value y = made(dims);
        const std::size_t pixels = x.values.size() / y.values.size();
        for (std::size_t i = 0; i < y.values.size(); ++i) {
            const auto begin = x.values.begin() + static_cast<std::ptrdiff_t>(i * pixels), end = begin + static_cast<std::ptrdiff_t>(pixels);
            y.values[i] = is_max ? *std::max_element(begin, end) : std::accumulate(begin, end, 0.0) / static_cast<double>(pixels);
        }
        return y;
    }

    Value over_last_axis(const OnnxNode& node) {
        Value y = in(node, 0);
        const std::size_t n = at(y.dims.back()), n_rows = y.values.size() / n;
        std::vector<double> means;
        for (std::size_t r = 0; r < n_rows; ++r) {
            double* row = y.values.data() + r * n;
            const double mean = std::accumulate(row, row + n, 0.0) / static_cast<double>(n);
            means.push_back(mean);
            if (node.op_type == "Softmax") {
                const double largest = *std::max_element(row, row + n);
                double sum = 0;
                for (std::size_t i = 0; i < n; ++i) sum += row[i] = std::exp(row[i] - largest);
                for (std::size_t i = 0; i < n; ++i) row[i] /= sum;
            } else if (node.op_type == "LayerNormalization") {
                double variance = 0;
                for (std::size_t i = 0; i < n; ++i) variance += (row[i] - mean) * (row[i] - mean) / static_cast<double>(n);
                const double factor = 1 / std::sqrt(variance + static_cast<double>(attribute(node, "epsilon", 1e-5f)));
                for (std::size_t i = 0; i < n; ++i) row[i] = (row[i] - mean) * factor * in(node, 1).values[i] + (node.inputs.size() > 2 ? in(node, 2).values[i] : 0);
            }
        }
        if (node.op_type != "ReduceMean") return y;
        y.dims.back() = 1;
        y.values = means;
        return y;
    }

    // https://github.com/fastmachinelearning/qonnx/tree/main/docs/qonnx-custom-ops
    Value quantized(const OnnxNode& node) {
        const Value &x = in(node, 0), &scale = in(node, 1);
        if (node.op_type == "BipolarQuant") return combined(mapped(x, [](double v) { return v >= 0 ? 1.0 : -1.0; }), scale, [](double a, double b) { return a * b; });
        const Value& zero = in(node, 2);
        const double span = std::exp2(in(node, 3).values.at(0));
        const bool is_signed = attribute(node, "signed", std::int64_t{1}) == 1;
        const double narrower = attribute(node, "narrow", std::int64_t{0}) == 1 ? 1 : 0;
        const double low = is_signed ? narrower - span / 2 : 0, high = is_signed ? span / 2 - 1 : span - 1 - narrower;
        const Value shifted = combined(combined(x, scale, [](double a, double b) { return a / b; }), zero, [](double a, double b) { return a + b; });
        const Value rounded = mapped(shifted, [&](double v) { return std::clamp(std::nearbyint(v), low, high); });
        return combined(combined(rounded, zero, [](double a, double b) { return a - b; }), scale, [](double a, double b) { return a * b; });
    }
    // With one scale and a zero of 0, whose type says which integers these are.
    Value in_bytes(const OnnxNode& node) {
        const double scale = in(node, 1).values.at(0);
        EXPECT_EQ(in(node, 2).values.at(0), 0);
        bool is_signed = false;
        for (const OnnxTensor& tensor : model_.initializers) is_signed = is_signed || (tensor.name == node.inputs[2] && tensor.type == OnnxType::int8);
        return mapped(in(node, 0), [&](double v) { return std::clamp(std::nearbyint(v / scale), is_signed ? -128.0 : 0.0, is_signed ? 127.0 : 255.0); });
    }
    Value dequantized(const OnnxNode& node) {
        const Value &q = in(node, 0), &scale = in(node, 1);
        const auto axis = at(attribute(node, "axis", std::int64_t{1}));
        const std::int64_t block = attribute(node, "block_size", std::int64_t{0});
        Value y = made(q.dims);
        std::size_t i = 0;
        for_each_index(q.dims, [&](const Shape& index) {
            Shape group = {index[axis]};
            if (block > 0) {
                group = index;
                group[axis] /= block;
            }
            const double zero = node.inputs.size() > 2 ? element(in(node, 2), group) : 0;
            y.values[i++] = (element(q, index) - zero) * element(scale, group);
        });
        return y;
    }

    const OnnxModel& model_;
    std::map<std::string, Value> constants_, known_;
};

}  // namespace skiff
