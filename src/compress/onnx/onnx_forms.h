// How an ONNX graph multiplies with a matrix, or takes rows of it, in each form that a quantized weight can have there.
#pragma once

#include <map>
#include <set>
#include <string>

#include "compress/onnx/onnx_weights.h"

namespace skiff {

enum class OnnxForm : std::uint8_t {
    nbits,  // com.microsoft's MatMulNBits where scales are by group, DequantizeLinear where they are by row
    qdq,    // ONNX's own DequantizeLinear, blocked, with 4- and 8-bit integers
    qonnx,  // QONNX's Quant and BipolarQuant on float weights
    floats, // plain numbers, whatever they were
};

// The window of a convolution, whose matrix has a row for each filter: position by position the inputs of its group.
struct OnnxKernel {
    std::vector<std::int64_t> sides;  // two, one, or none for a single position
    std::int64_t n_inputs = 1;        // of a group
    std::vector<std::int64_t> taps;   // positions that the rows hold, ascending; the others are zeros
    std::int64_t n_taps() const;
};

struct OnnxExportOptions {
    OnnxType real = OnnxType::float32;  // of weights and values: float32 or float16
    OnnxForm form = OnnxForm::nbits;
    enum class Densify : std::uint8_t { no, yes } densify = Densify::no;  // write as floats what the form has no integers for
    enum class Activations : std::uint8_t { real, int8 } activations = Activations::real;  // qonnx: Quant on the inputs of matrices
    std::int64_t context = 0;  // positions in the tables of rope; 0: as many as the model has
};

class OnnxForms {
public:
    // `embedded`: keys of the tables that tokens or positions index.
    OnnxForms(OnnxGraphBuilder& graph, const OnnxExportOptions& options, std::set<std::string> embedded)
        : graph_(graph), options_(options), embedded_(std::move(embedded)) {}

    // x (n, n_columns) times the matrix, transposed, plus `bias` unless that is empty. Gives (n, n_rows).
    Result<std::string> linear(const OnnxMatrix& matrix, const std::string& op, const std::string& x, const std::string& bias);
    // The filters of a convolution, (n_rows, n_inputs, sides...).
    Result<std::string> filters(const OnnxMatrix& matrix, const std::string& op, const OnnxKernel& kernel);
    // The rows that `ids` (n) names. Gives (n, n_columns).
    Result<std::string> rows(const OnnxMatrix& matrix, const std::string& op, const std::string& ids);

    struct Count {
        std::int64_t tensors = 0, weights = 0;
        std::uint64_t bytes = 0;
    };
    const std::map<std::string, Count>& counts() const { return counts_; }  // by what the matrices became

private:
    enum class Kind : std::uint8_t { floats, by_row, blocks, qdq, quant };
    Result<Kind> kind_of(const OnnxMatrix& matrix) const;
    void count(const OnnxMatrix& matrix, const std::string& what, std::uint64_t bytes);

    std::string float_weight(const OnnxMatrix& matrix, const std::string& op);
    // Initializers of integers and what goes with them; `zeros` is empty where they are all the same.
    struct Integers {
        std::string codes, scales, zeros;
        std::int64_t block = 0, n_blocks = 0;
    };
    Integers integers_by_row(const OnnxMatrix& matrix, const std::string& op);
    Integers integers_in_blocks(const OnnxMatrix& matrix, const std::string& op);
    enum class Order : std::uint8_t { rows, columns };  // (n_rows, n_columns), or turned
    Integers integers_for_qdq(const OnnxMatrix& matrix, const std::string& op, Order order);
    std::string dequantized(const OnnxMatrix& matrix, const std::string& op, Order order);
    std::string quant_weight(const OnnxMatrix& matrix, const std::string& op);
    struct QuantShape {
        Shape dims, param_dims;             // of weights, and of scales and zeros
        std::vector<std::int64_t> columns;  // of a row of `dims`: columns of the matrix, -1 for a zero
    };
    std::string quant(const OnnxMatrix& matrix, const std::string& name, const QuantShape& shape);
    std::string float_filters(const OnnxMatrix& matrix, const std::string& op, const QuantShape& shape);
    std::string dequantized_filters(const OnnxMatrix& matrix, const std::string& op, const QuantShape& shape);
    std::string as_filters(std::string matrix, std::int64_t n_rows, const OnnxKernel& kernel);
    std::string quant_input(const std::string& x, std::int64_t n_columns);
    std::string gemm(const std::string& x, const std::string& weight, const std::string& bias);
    std::string with_bias(const std::string& y, const std::string& bias);
    std::string unpacked_nibbles(const std::string& bytes, std::int64_t n);  // (n, ..., b) uint8 as (n, `n`) real
    std::string rows_by_row(const OnnxMatrix& matrix, const Integers& made, const std::string& ids);
    std::string rows_in_blocks(const OnnxMatrix& matrix, const Integers& made, const std::string& ids);
    bool is_embedded(const OnnxMatrix& matrix) const { return embedded_.count(matrix.ref().key) != 0; }

    OnnxGraphBuilder& graph_;
    const OnnxExportOptions& options_;
    std::set<std::string> embedded_;
    std::map<std::string, std::string> made_;  // names of weights that a node makes, by initializer
    std::map<std::string, Count> counts_;
};

}  // namespace skiff
