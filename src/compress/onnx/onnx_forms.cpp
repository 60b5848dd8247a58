#include "compress/onnx/onnx_forms.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/checked.h"

namespace skiff {
namespace {

constexpr std::string_view microsoft = "com.microsoft", qonnx_domain = "qonnx.custom_op.general";

// The widest block of MatMulNBits that no two groups share: a power of two from 16 to 256, or 0. Of a whole row as many as make no padding of their own.
std::int64_t block_for(const OnnxMatrix& matrix) {
    const std::int64_t group = matrix.integers()->group_size;
    std::int64_t block = 16;
    if (group == 0) {
        while (block < 128 && block < matrix.n_columns()) block *= 2;
        return block;
    }
    block = std::min<std::int64_t>(group & -group, 256);
    return block >= 16 ? block : 0;
}

using Want = OnnxMatrix::Want;
using Row = OnnxMatrix::Row;

}  // namespace

Result<OnnxForms::Kind> OnnxForms::kind_of(const OnnxMatrix& matrix) const {
    const bool dense = options_.densify == OnnxExportOptions::Densify::yes;
    if (matrix.is_plain() || options_.form == OnnxForm::floats) return Kind::floats;
    if (!matrix.integers()) {
        if (dense) return Kind::floats;
        return unsupported("tensor " + matrix.ref().key + " (" + matrix.encoding() +
                           "): ONNX has no words for its numbers, which are no integers times a scale; --densify writes them as floats");
    }
    if (options_.form == OnnxForm::qdq) return Kind::qdq;
    if (options_.form == OnnxForm::qonnx) return Kind::quant;
    const OnnxIntegers& form = *matrix.integers();
    if (form.group_size == 0 && form.bits == 8) return Kind::by_row;
    if (block_for(matrix) > 0) return Kind::blocks;
    if (dense) return Kind::floats;
    return unsupported("tensor " + matrix.ref().key + " (" + matrix.encoding() + "): MatMulNBits has blocks of 16, 32, 64 ... weights, and groups of " +
                       std::to_string(form.group_size) + " are no multiples of one; --form qdq has any group, --densify writes floats");
}

void OnnxForms::count(const OnnxMatrix& matrix, const std::string& what, std::uint64_t bytes) {
    Count& entry = counts_[what];
    ++entry.tensors;
    entry.weights += matrix.n_rows() * matrix.n_columns();
    entry.bytes += bytes;
}

Result<std::string> OnnxForms::linear(const OnnxMatrix& matrix, const std::string& op, const std::string& x, const std::string& bias) {
    SKIFF_TRY(const Kind kind, kind_of(matrix));
    const std::string input = options_.activations == OnnxExportOptions::Activations::int8 ? quant_input(x, matrix.n_columns()) : x;
    switch (kind) {
        case Kind::floats: return gemm(input, float_weight(matrix, op), bias);
        case Kind::quant: return gemm(input, quant_weight(matrix, op), bias);
        case Kind::by_row: return gemm(input, dequantized(matrix, op, Order::rows), bias);
        case Kind::qdq:
            if (is_embedded(matrix)) return gemm(input, dequantized(matrix, op, Order::rows), bias);
            return with_bias(graph_.node("MatMul", {input, dequantized(matrix, op, Order::columns)}), bias);
        case Kind::blocks: break;
    }
    const Integers made = integers_in_blocks(matrix, op);
    std::vector<std::string> inputs = {input, made.codes, made.scales};
    if (!made.zeros.empty()) inputs.push_back(made.zeros);
    const std::int64_t bits = matrix.integers()->bits;
    return with_bias(graph_.node("MatMulNBits", inputs,
                                 {{"K", matrix.n_columns()}, {"N", matrix.n_rows()}, {"bits", bits}, {"block_size", made.block}}, microsoft),
                     bias);
}

Result<std::string> OnnxForms::rows(const OnnxMatrix& matrix, const std::string& op, const std::string& ids) {
    SKIFF_TRY(const Kind kind, kind_of(matrix));
    const auto gather = [&](const std::string& table) { return graph_.node("Gather", {table, ids}); };
    switch (kind) {
        case Kind::floats: return gather(float_weight(matrix, op));
        case Kind::quant: return gather(quant_weight(matrix, op));
        case Kind::qdq: return gather(dequantized(matrix, op, Order::rows));
        case Kind::by_row: return rows_by_row(matrix, integers_by_row(matrix, op), ids);
        case Kind::blocks: break;
    }
    return rows_in_blocks(matrix, integers_in_blocks(matrix, op), ids);
}

std::string OnnxForms::gemm(const std::string& x, const std::string& weight, const std::string& bias) {
    std::vector<std::string> inputs = {x, weight};
    if (!bias.empty()) inputs.push_back(bias);
    return graph_.node("Gemm", inputs, {{"transB", std::int64_t{1}}});
}

std::string OnnxForms::with_bias(const std::string& y, const std::string& bias) { return bias.empty() ? y : graph_.node("Add", {y, bias}); }

std::string OnnxForms::float_weight(const OnnxMatrix& matrix, const std::string& op) {
    const std::string name = matrix.name(op);
    if (graph_.has(name)) return name;
    const OnnxType type = options_.real;
    const Shape dims = {matrix.n_rows(), matrix.n_columns()};
    count(matrix, type == OnnxType::float16 ? "F16" : "F32", onnx_tensor_bytes(type, dims));
    return graph_.initializer(name, type, dims, [matrix, type](const OnnxDataSink& sink) {
        return matrix.for_each_row(Want::floats, [&](std::int64_t, const Row& row) { return sink_onnx_floats(row.floats, type, matrix, sink); });
    });
}

// ---- DequantizeLinear with one scale per row: int8, or uint8 where zeros vary. // (n_rows, n_columns), (n_rows)
OnnxForms::Integers OnnxForms::integers_by_row(const OnnxMatrix& matrix, const std::string& op) {
    const OnnxIntegers form = *matrix.integers();
    const std::string name = matrix.name(op);
    const OnnxType type = form.zeros_vary ? OnnxType::uint8 : OnnxType::int8, real = options_.real;
    const Shape dims = {matrix.n_rows(), matrix.n_columns()}, per_row = {matrix.n_rows()};
    if (!graph_.has(name + "_quantized")) count(matrix, "DequantizeLinear, 8 bits", onnx_tensor_bytes(type, dims) + onnx_tensor_bytes(real, per_row));
    Integers made;
    made.codes = graph_.initializer(name + "_quantized", type, dims, [matrix, form](const OnnxDataSink& sink) {
        return matrix.for_each_row(Want::integers, [&](std::int64_t, const Row& row) {
            std::vector<std::uint8_t> codes = row.codes;
            for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(form.zeros_vary ? code : code - 128);
            return sink(std::as_bytes(std::span(codes)));
        });
    });
    made.scales = graph_.initializer(name + "_scales", real, per_row, [matrix, real](const OnnxDataSink& sink) {
        return matrix.for_each_row(Want::integers, [&](std::int64_t, const Row& row) { return sink_onnx_floats(row.scales, real, matrix, sink); });
    });
    if (form.zeros_vary)
        made.zeros = graph_.initializer(name + "_zero_points", type, per_row, [matrix](const OnnxDataSink& sink) {
            return matrix.for_each_row(Want::integers, [&](std::int64_t, const Row& row) { return sink(std::as_bytes(std::span(row.zeros))); });
        });
    return made;
}

std::string OnnxForms::rows_by_row(const OnnxMatrix& matrix, const Integers& made, const std::string& ids) {
    const OnnxAttribute to_real = {"to", static_cast<std::int64_t>(options_.real)};
    const auto column = [&](const std::string& table) { return graph_.node("Unsqueeze", {graph_.node("Gather", {table, ids}), graph_.integers({1})}); };
    std::string codes = graph_.node("Cast", {graph_.node("Gather", {made.codes, ids}), }, {to_real});
    if (matrix.integers()->zeros_vary) codes = graph_.node("Sub", {codes, graph_.node("Cast", {column(made.zeros)}, {to_real})});
    return graph_.node("Mul", {codes, column(made.scales)});
}

// ---- MatMulNBits. // codes (n_rows, n_blocks, block * bits / 8), scales (n_rows, n_blocks), zeros (n_rows, ceil(n_blocks * bits / 8))
OnnxForms::Integers OnnxForms::integers_in_blocks(const OnnxMatrix& matrix, const std::string& op) {
    const OnnxIntegers form = *matrix.integers();
    const std::string name = matrix.name(op);
    const OnnxType real = options_.real;
    Integers made;
    made.block = block_for(matrix);
    made.n_blocks = ceil_div(matrix.n_columns(), made.block);
    const std::int64_t n_rows = matrix.n_rows(), n_blocks = made.n_blocks, block = made.block;
    const Shape code_dims = {n_rows, n_blocks, block * form.bits / 8}, scale_dims = {n_rows, n_blocks};
    const Shape zero_dims = {n_rows, ceil_div<std::int64_t>(n_blocks * form.bits, 8)};
    if (!graph_.has(name + "_quantized"))
        count(matrix, "MatMulNBits, " + std::to_string(form.bits) + " bits",
              onnx_tensor_bytes(OnnxType::uint8, code_dims) + onnx_tensor_bytes(real, scale_dims) +
                  (form.zeros_vary ? onnx_tensor_bytes(OnnxType::uint8, zero_dims) : 0));
    // Columns behind the last have the code of zero.
    made.codes = graph_.initializer(name + "_quantized", OnnxType::uint8, code_dims, [matrix, form, n_blocks, block](const OnnxDataSink& sink) {
        return matrix.for_each_row(Want::integers, [&](std::int64_t, const Row& row) {
            std::vector<std::uint8_t> codes = row.codes;
            codes.resize(static_cast<std::size_t>(n_blocks * block), row.zeros.back());
            std::string bytes;
            append_onnx_codes(codes, form.bits, bytes);
            return sink(bytes_of(bytes));
        });
    });
    const auto group_of = [form, block](std::int64_t index) { return static_cast<std::size_t>(form.group_size == 0 ? 0 : index * block / form.group_size); };
    made.scales = graph_.initializer(name + "_scales", real, scale_dims, [matrix, real, n_blocks, group_of](const OnnxDataSink& sink) {
        return matrix.for_each_row(Want::integers, [&](std::int64_t, const Row& row) {
            std::vector<float> scales;
            for (std::int64_t i = 0; i < n_blocks; ++i) scales.push_back(row.scales[group_of(i)]);
            return sink_onnx_floats(scales, real, matrix, sink);
        });
    });
    if (form.zeros_vary)
        made.zeros = graph_.initializer(name + "_zero_points", OnnxType::uint8, zero_dims, [matrix, form, n_blocks, group_of](const OnnxDataSink& sink) {
            return matrix.for_each_row(Want::integers, [&](std::int64_t, const Row& row) {
                std::vector<std::uint8_t> zeros;
                for (std::int64_t i = 0; i < n_blocks; ++i) zeros.push_back(row.zeros[group_of(i)]);
                std::string bytes;
                append_onnx_codes(zeros, form.bits, bytes);
                return sink(bytes_of(bytes));
            });
        });
    return made;
}

// Low half first: (n, ..., b) uint8 becomes (n, ..., b, 2), then (n, 2b), of which the first `n_wanted` are kept.
std::string OnnxForms::unpacked_nibbles(const std::string& bytes, std::int64_t n_wanted) {
    const std::string mask = graph_.initializer("u8_15", OnnxType::uint8, {}, [](const OnnxDataSink& sink) { return sink(bytes_of(std::string(1, 15))); });
    const std::string four = graph_.initializer("u8_4", OnnxType::uint8, {}, [](const OnnxDataSink& sink) { return sink(bytes_of(std::string(1, 4))); });
    const auto spread = [&](const std::string& half) { return graph_.node("Unsqueeze", {half, graph_.integers({-1})}); };
    const std::string low = spread(graph_.node("BitwiseAnd", {bytes, mask}));
    const std::string high = spread(graph_.node("BitShift", {bytes, four}, {{"direction", std::string("RIGHT")}}));
    const std::string both = graph_.node("Concat", {low, high}, {{"axis", std::int64_t{-1}}});
    const std::string flat = graph_.node("Reshape", {both, graph_.integers({0, -1})});
    return graph_.node("Slice", {flat, graph_.integers({0}), graph_.integers({n_wanted}), graph_.integers({1})});
}

std::string OnnxForms::rows_in_blocks(const OnnxMatrix& matrix, const Integers& made, const std::string& ids) {
    const OnnxIntegers& form = *matrix.integers();
    const std::int64_t padded = made.n_blocks * made.block;
    const auto gather = [&](const std::string& table) { return graph_.node("Gather", {table, ids}); };
    const auto unpacked = [&](const std::string& table, std::int64_t n) {
        const std::string bytes = gather(table);
        const std::string codes = form.bits == 4 ? unpacked_nibbles(bytes, n) : graph_.node("Reshape", {bytes, graph_.integers({0, n})});
        return graph_.node("Cast", {codes}, {{"to", static_cast<std::int64_t>(options_.real)}});
    };
    const auto by_block = [&](const std::string& x, std::int64_t width) { return graph_.node("Reshape", {x, graph_.integers({0, made.n_blocks, width})}); };
    const std::string codes = by_block(unpacked(made.codes, padded), made.block);
    const std::string zero = form.zeros_vary ? by_block(unpacked(made.zeros, made.n_blocks), 1) : graph_.real(static_cast<float>(form.zero), options_.real);
    const std::string value = graph_.node("Mul", {graph_.node("Sub", {codes, zero}), by_block(gather(made.scales), 1)});
    const std::string flat = graph_.node("Reshape", {value, graph_.integers({0, padded})});
    if (padded == matrix.n_columns()) return flat;
    return graph_.node("Slice", {flat, graph_.integers({0}), graph_.integers({matrix.n_columns()}), graph_.integers({1})});
}

// ---- DequantizeLinear as ONNX has it since opset 21: by blocks along the inputs, integers of 4 bits. Runtimes know the order (inputs, outputs) in
// front of a MatMul; a table that is also embedded stays (outputs, inputs).
OnnxForms::Integers OnnxForms::integers_for_qdq(const OnnxMatrix& matrix, const std::string& op, Order order) {
    const OnnxIntegers form = *matrix.integers();
    const std::string name = matrix.name(op);
    const OnnxType real = options_.real;
    const OnnxType type = form.bits == 4 ? (form.zeros_vary ? OnnxType::uint4 : OnnxType::int4) : (form.zeros_vary ? OnnxType::uint8 : OnnxType::int8);
    const bool turned = order == Order::columns;
    const std::int64_t n_rows = matrix.n_rows(), n_columns = matrix.n_columns(), n_groups = form.n_groups(n_columns);
    const auto dims = [&](std::int64_t n) { return turned ? Shape{n, n_rows} : Shape{n_rows, n}; };
    const Shape group_dims = form.group_size == 0 ? Shape{n_rows} : dims(n_groups);
    if (!graph_.has(name + "_quantized"))
        count(matrix, "DequantizeLinear, " + std::to_string(form.bits) + " bits",
              onnx_tensor_bytes(type, dims(n_columns)) + onnx_tensor_bytes(real, group_dims) + (form.zeros_vary ? onnx_tensor_bytes(type, group_dims) : 0));
    // All rows, one number after the other; turned so that rows become columns.
    const auto collect = [matrix, n_rows, turned](std::int64_t width, auto pick, auto& all) {
        all.resize(static_cast<std::size_t>(n_rows * width));
        return matrix.for_each_row(Want::integers, [&](std::int64_t r, const Row& row) -> Status {
            for (std::int64_t i = 0; i < width; ++i)
                all[static_cast<std::size_t>(turned ? i * n_rows + r : r * width + i)] = pick(row, static_cast<std::size_t>(i));
            return {};
        });
    };
    Integers made;
    made.block = form.group_size;
    made.codes = graph_.initializer(name + "_quantized", type, dims(n_columns), [=](const OnnxDataSink& sink) -> Status {
        std::vector<std::uint8_t> codes;
        const int zero = form.zeros_vary ? 0 : form.zero;  // signed types have their zero at 0
        SKIFF_CHECK(collect(n_columns, [zero](const Row& row, std::size_t i) { return static_cast<std::uint8_t>(row.codes[i] - zero); }, codes));
        std::string bytes;
        append_onnx_codes(codes, form.bits, bytes);
        return sink(bytes_of(bytes));
    });
    made.scales = graph_.initializer(name + "_scales", real, group_dims, [=](const OnnxDataSink& sink) -> Status {
        std::vector<float> scales;
        SKIFF_CHECK(collect(n_groups, [](const Row& row, std::size_t i) { return row.scales[i]; }, scales));
        return sink_onnx_floats(scales, real, matrix, sink);
    });
    if (form.zeros_vary)
        made.zeros = graph_.initializer(name + "_zero_points", type, group_dims, [=](const OnnxDataSink& sink) -> Status {
            std::vector<std::uint8_t> zeros;
            SKIFF_CHECK(collect(n_groups, [](const Row& row, std::size_t i) { return row.zeros[i]; }, zeros));
            std::string bytes;
            append_onnx_codes(zeros, form.bits, bytes);
            return sink(bytes_of(bytes));
        });
    return made;
}

std::string OnnxForms::dequantized(const OnnxMatrix& matrix, const std::string& op, Order order) {
    std::string& made = made_[matrix.name(op)];
    if (!made.empty()) return made;
    const bool plain_rows = options_.form == OnnxForm::nbits;
    const Integers integers = plain_rows ? integers_by_row(matrix, op) : integers_for_qdq(matrix, op, order);
    std::vector<std::string> inputs = {integers.codes, integers.scales};
    if (!integers.zeros.empty()) inputs.push_back(integers.zeros);
    if (matrix.integers()->bits == 4 || integers.block > 0) graph_.require_opset(21);
    if (options_.real == OnnxType::float16) graph_.require_opset(19);
    const std::int64_t rows_axis = order == Order::rows ? 0 : 1;
    std::vector<OnnxAttribute> attributes = {{"axis", rows_axis}};
    if (integers.block > 0) attributes = {{"axis", 1 - rows_axis}, {"block_size", integers.block}};
    return made = graph_.node("DequantizeLinear", inputs, attributes);
}

// ---- QONNX (Pappalardo et al. 2022): floats that Quant(x, scale, zero point, bits) leaves as they are. Blocks are an axis of their own there.
std::string OnnxForms::quant_weight(const OnnxMatrix& matrix, const std::string& op) {
    const std::string name = matrix.name(op);
    std::string& made = made_[name];
    if (!made.empty()) return made;
    const OnnxIntegers form = *matrix.integers();
    const std::int64_t n_rows = matrix.n_rows(), n_columns = matrix.n_columns();
    const std::int64_t n_groups = form.n_groups(n_columns), group = form.group_size == 0 ? n_columns : form.group_size;
    const bool by_group = n_groups > 1 || group != n_columns;
    const std::int64_t padded = by_group ? n_groups * group : n_columns;
    std::vector<std::int64_t> columns(static_cast<std::size_t>(padded), -1);
    std::iota(columns.begin(), columns.begin() + n_columns, 0);
    made = by_group ? quant(matrix, name, {{n_rows, n_groups, group}, {n_rows, n_groups, 1}, std::move(columns)}) : quant(matrix, name, {{n_rows, n_columns}, {n_rows, 1}, std::move(columns)});
    if (by_group) made = graph_.node("Reshape", {made, graph_.integers({n_rows, padded})});
    if (padded != n_columns) made = graph_.node("Slice", {made, graph_.integers({0}), graph_.integers({n_columns}), graph_.integers({1})});
    return made;
}

// A scale of 0 would divide by it: its weights are 0 with any other. BipolarQuant looks at the sign alone, whatever that of the scale.
std::string OnnxForms::quant(const OnnxMatrix& matrix, const std::string& name, const QuantShape& shape) {
    const OnnxIntegers form = *matrix.integers();
    const OnnxType real = options_.real;
    const auto group = static_cast<std::size_t>(form.group_size == 0 ? matrix.n_columns() : form.group_size);
    count(matrix, form.bipolar ? "BipolarQuant" : "Quant, " + std::to_string(form.scheme_bits) + " bits",
          onnx_tensor_bytes(real, shape.dims) + onnx_tensor_bytes(real, shape.param_dims));
    const std::string weight = graph_.initializer(name, real, shape.dims, [=, columns = shape.columns](const OnnxDataSink& sink) {
        return matrix.for_each_row(Want::integers, [&](std::int64_t, const Row& row) {
            std::vector<float> values(columns.size());
            for (std::size_t i = 0; i < columns.size(); ++i) {
                if (columns[i] < 0) continue;
                const auto column = static_cast<std::size_t>(columns[i]), g = column / group;
                const float scale = form.bipolar ? std::abs(row.scales[g]) : row.scales[g];
                values[i] = static_cast<float>(static_cast<int>(row.codes[column]) - static_cast<int>(row.zeros[g])) * scale;
            }
            return sink_onnx_floats(values, real, matrix, sink);
        });
    });
    const std::string scales = graph_.initializer(name + "_scales", real, shape.param_dims, [=](const OnnxDataSink& sink) {
        return matrix.for_each_row(Want::integers, [&](std::int64_t, const Row& row) {
            std::vector<float> values = row.scales;
            for (float& value : values) value = value == 0 && !form.bipolar ? 1.0f : value;
            return sink_onnx_floats(values, real, matrix, sink);
        });
    });
    if (form.bipolar) return graph_.node("BipolarQuant", {weight, scales}, {}, qonnx_domain);
    const auto varying_zeros = [&] {
        return graph_.initializer(name + "_zero_points", real, shape.param_dims, [=](const OnnxDataSink& sink) {
            return matrix.for_each_row(Want::integers, [&](std::int64_t, const Row& row) {
                return sink_onnx_floats(std::vector<float>(row.zeros.begin(), row.zeros.end()), real, matrix, sink);
            });
        });
    };
    const std::string zeros = form.zeros_vary ? varying_zeros() : graph_.real(0, real);
    const std::int64_t is_signed = form.zeros_vary ? 0 : 1;
    return graph_.node("Quant", {weight, scales, zeros, graph_.real(static_cast<float>(form.scheme_bits), real)},
                       {{"signed", is_signed}, {"narrow", std::int64_t{0}}, {"rounding_mode", std::string("ROUND")}}, qonnx_domain);
}

// Int8 in blocks of 32 with a scale of their largest magnitude / 127 each, as our kernels' int8 activations have it.
std::string OnnxForms::quant_input(const std::string& x, std::int64_t n_columns) {
    std::string& made = made_["input of matrices: " + x];
    if (!made.empty()) return made;
    const OnnxType real = options_.real;
    const std::int64_t n_blocks = ceil_div<std::int64_t>(n_columns, 32), padding = n_blocks * 32 - n_columns;
    std::string blocks = x;
    if (padding > 0) blocks = graph_.node("Pad", {x, graph_.integers({0, 0, 0, padding})});
    blocks = graph_.node("Reshape", {blocks, graph_.integers({-1, n_blocks, 32})});
    const std::string largest = graph_.node("ReduceMax", {graph_.node("Abs", {blocks}), graph_.integers({2})}, {{"keepdims", std::int64_t{1}}});
    const std::string scale = graph_.node("Div", {graph_.node("Max", {largest, graph_.real(1e-30f, real)}), graph_.real(127, real)});
    const std::string quantized = graph_.node("Quant", {blocks, scale, graph_.real(0, real), graph_.real(8, real)},
                                              {{"signed", std::int64_t{1}}, {"narrow", std::int64_t{1}}, {"rounding_mode", std::string("ROUND")}}, qonnx_domain);
    made = graph_.node("Reshape", {quantized, graph_.integers({-1, n_blocks * 32})});
    if (padding > 0) made = graph_.node("Slice", {made, graph_.integers({0}), graph_.integers({n_columns}), graph_.integers({1})});
    return made;
}

}  // namespace skiff
