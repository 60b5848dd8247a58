// The weights of convolutions in each form. Our rows have their inputs innermost, position by position; ONNX's filters have them outermost. Where a row has one
// scale the numbers are written in ONNX's order; groups of columns are decoded in ours first, by nodes that runtimes fold.
#include <algorithm>
#include <cmath>

#include "compress/onnx/onnx_forms.h"

namespace skiff {
namespace {

using Want = OnnxMatrix::Want;
using Row = OnnxMatrix::Row;

// Of each number of a filter, in the order (inputs, positions), the column; -1 where pruning left none.
std::vector<std::int64_t> columns_of(const OnnxKernel& kernel) {
    const std::int64_t n_taps = kernel.n_taps();
    std::vector<std::int64_t> columns(static_cast<std::size_t>(kernel.n_inputs * n_taps), -1);
    for (std::size_t slot = 0; slot < kernel.taps.size(); ++slot)
        for (std::int64_t input = 0; input < kernel.n_inputs; ++input)
            columns[static_cast<std::size_t>(input * n_taps + kernel.taps[slot])] = static_cast<std::int64_t>(slot) * kernel.n_inputs + input;
    return columns;
}

}  // namespace

std::int64_t OnnxKernel::n_taps() const {
    std::int64_t n = 1;
    for (const std::int64_t side : sides) n *= side;
    return n;
}

Result<std::string> OnnxForms::filters(const OnnxMatrix& matrix, const std::string& op, const OnnxKernel& kernel) {
    SKIFF_TRY(const Kind kind, kind_of(matrix));
    QuantShape shape{{matrix.n_rows(), kernel.n_inputs}, {matrix.n_rows(), 1}, columns_of(kernel)};
    for (const std::int64_t side : kernel.sides) {
        shape.dims.push_back(side);
        shape.param_dims.push_back(1);
    }
    if (kind == Kind::floats) return float_filters(matrix, op, shape);
    if (kind != Kind::quant && kind != Kind::qdq) return unsupported("filters in blocks of MatMulNBits");
    const OnnxIntegers& form = *matrix.integers();
    const bool is_whole = static_cast<std::int64_t>(kernel.taps.size()) == kernel.n_taps();
    if (form.group_size == 0 && (is_whole || !form.bipolar))  // two levels have no zero
        return kind == Kind::quant ? quant(matrix, matrix.name(op), shape) : dequantized_filters(matrix, op, shape);
    return as_filters(kind == Kind::quant ? quant_weight(matrix, op) : dequantized(matrix, op, Order::rows), matrix.n_rows(), kernel);
}

std::string OnnxForms::float_filters(const OnnxMatrix& matrix, const std::string& op, const QuantShape& shape) {
    const OnnxType real = options_.real;
    count(matrix, real == OnnxType::float16 ? "F16" : "F32", onnx_tensor_bytes(real, shape.dims));
    return graph_.initializer(matrix.name(op), real, shape.dims, [matrix, real, columns = shape.columns](const OnnxDataSink& sink) {
        return matrix.for_each_row(Want::floats, [&](std::int64_t, const Row& row) {
            std::vector<float> values;
            for (const std::int64_t column : columns) values.push_back(column < 0 ? 0 : row.floats[static_cast<std::size_t>(column)]);
            return sink_onnx_floats(values, real, matrix, sink);
        });
    });
}

// One scale per filter: axis 0.
std::string OnnxForms::dequantized_filters(const OnnxMatrix& matrix, const std::string& op, const QuantShape& shape) {
    const OnnxIntegers form = *matrix.integers();
    const std::string name = matrix.name(op);
    const OnnxType real = options_.real;
    const OnnxType type = form.bits == 4 ? (form.zeros_vary ? OnnxType::uint4 : OnnxType::int4) : (form.zeros_vary ? OnnxType::uint8 : OnnxType::int8);
    const Shape per_row = {matrix.n_rows()};
    count(matrix, "DequantizeLinear, " + std::to_string(form.bits) + " bits",
          onnx_tensor_bytes(type, shape.dims) + onnx_tensor_bytes(real, per_row) + (form.zeros_vary ? onnx_tensor_bytes(type, per_row) : 0));
    std::vector<std::string> inputs;
    inputs.push_back(graph_.initializer(name + "_quantized", type, shape.dims, [matrix, form, columns = shape.columns](const OnnxDataSink& sink) -> Status {
        std::vector<std::uint8_t> codes;  // of all rows: two share a byte where a row has an odd number
        const int zero = form.zeros_vary ? 0 : form.zero;
        SKIFF_CHECK(matrix.for_each_row(Want::integers, [&](std::int64_t, const Row& row) -> Status {
            for (const std::int64_t column : columns) codes.push_back(static_cast<std::uint8_t>((column < 0 ? row.zeros[0] : row.codes[static_cast<std::size_t>(column)]) - zero));
            return {};
        }));
        std::string bytes;
        append_onnx_codes(codes, form.bits, bytes);
        return sink(bytes_of(bytes));
    }));
    inputs.push_back(graph_.initializer(name + "_scales", real, per_row, [matrix, real](const OnnxDataSink& sink) {
        return matrix.for_each_row(Want::integers, [&](std::int64_t, const Row& row) { return sink_onnx_floats(row.scales, real, matrix, sink); });
    }));
    if (form.zeros_vary)
        inputs.push_back(graph_.initializer(name + "_zero_points", type, per_row, [matrix, form](const OnnxDataSink& sink) -> Status {
            std::vector<std::uint8_t> zeros;
            SKIFF_CHECK(matrix.for_each_row(Want::integers, [&](std::int64_t, const Row& row) -> Status {
                zeros.push_back(row.zeros[0]);
                return {};
            }));
            std::string bytes;
            append_onnx_codes(zeros, form.bits, bytes);
            return sink(bytes_of(bytes));
        }));
    if (form.bits == 4) graph_.require_opset(21);
    return graph_.node("DequantizeLinear", inputs, {{"axis", std::int64_t{0}}});
}

// (n_rows, kept positions * n_inputs) as (n_rows, n_inputs, sides...): positions that pruning took read a row of zeros behind the others.
std::string OnnxForms::as_filters(std::string matrix, std::int64_t n_rows, const OnnxKernel& kernel) {
    const auto n_kept = static_cast<std::int64_t>(kernel.taps.size());
    const std::int64_t n_taps = kernel.n_taps();
    if (n_kept < n_taps) {
        std::vector<std::int64_t> slots(static_cast<std::size_t>(n_taps), n_kept);
        for (std::size_t slot = 0; slot < kernel.taps.size(); ++slot) slots[static_cast<std::size_t>(kernel.taps[slot])] = static_cast<std::int64_t>(slot);
        matrix = graph_.node("Reshape", {matrix, graph_.integers({n_rows, n_kept, kernel.n_inputs})});
        matrix = graph_.node("Pad", {matrix, graph_.integers({0, 0, 0, 0, 1, 0})});
        matrix = graph_.node("Gather", {matrix, graph_.integers(slots)}, {{"axis", std::int64_t{1}}});
    }
    Shape filters = {n_rows, kernel.n_inputs}, inputs_last = {n_rows};
    std::vector<std::int64_t> order = {0, static_cast<std::int64_t>(kernel.sides.size()) + 1};
    for (const std::int64_t side : kernel.sides) {
        filters.push_back(side);
        inputs_last.push_back(side);
        order.push_back(static_cast<std::int64_t>(inputs_last.size()) - 1);
    }
    inputs_last.push_back(kernel.n_inputs);
    if (kernel.n_inputs == 1 || n_taps == 1) return graph_.node("Reshape", {matrix, graph_.integers(filters)});
    return graph_.node("Transpose", {graph_.node("Reshape", {matrix, graph_.integers(inputs_last)})}, {{"perm", order}});
}

}  // namespace skiff
