// A weight as an ONNX graph can hold it: floats, or integers with scales and zeros. Loads one tensor at a time, when its numbers are asked for.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "compress/onnx/graph_builder.h"
#include "model/spec.h"
#include "model/weight_source.h"

namespace skiff {

// Codes q of 4 or 8 bits with w = (q - zero) * scale, both by group: what integer schemes, and codebooks whose levels are integers, are without loss.
struct OnnxIntegers {
    int bits = 8;                 // of q as stored: 4 or 8
    int scheme_bits = 8;          // of the numbers as they are
    std::int64_t group_size = 0;  // 0: the whole row
    bool zeros_vary = false;      // else the zero is `zero` everywhere
    int zero = 128;
    bool bipolar = false;         // only -1 and 1
    std::int64_t n_groups(std::int64_t n_columns) const { return group_size == 0 ? 1 : (n_columns + group_size - 1) / group_size; }
};

// Some rows of a tensor, as (n_rows, n_columns).
class OnnxMatrix {
public:
    // Reads what kind of weight it is, not the numbers. Shapes are checked against the spec and the operator.
    static Result<OnnxMatrix> open(const ModelSpec& spec, std::shared_ptr<const WeightSource> source, const TensorRef& ref, std::int64_t n_rows,
                                   std::int64_t n_columns);

    // A weight that is in memory already, as the tensor `key`.
    static Result<OnnxMatrix> hold(const std::string& key, Weight weight);

    const TensorRef& ref() const { return ref_; }
    std::int64_t n_rows() const { return n_rows_; }
    std::int64_t n_columns() const { return n_columns_; }
    const std::string& encoding() const { return encoding_; }
    bool is_plain() const { return plain_; }
    const std::optional<OnnxIntegers>& integers() const { return integers_; }  // nothing: plain, or no integers can say it
    std::string name(const std::string& op) const;                            // of its initializers: the key, or the operator's where it is a part

    // One row's floats, or its codes, scales and zeros. // floats, codes: (n_columns); scales, zeros: (n_groups)
    struct Row {
        std::vector<float> floats, scales;
        std::vector<std::uint8_t> codes, zeros;
    };
    enum class Want : std::uint8_t { floats, integers };
    // Loads the tensor and hands its rows over in order.
    Status for_each_row(Want want, const std::function<Status(std::int64_t row, const Row&)>& fn) const;

private:
    Result<Weight> load() const;
    void describe(const Weight& weight, std::int64_t n_rows, std::int64_t n_columns);

    const ModelSpec* spec_ = nullptr;
    std::shared_ptr<const WeightSource> source_;
    std::shared_ptr<const Weight> held_;  // else spec and source say where it is
    TensorRef ref_;
    std::int64_t n_rows_ = 0, n_columns_ = 0;
    std::string encoding_;
    bool plain_ = true;
    std::optional<OnnxIntegers> integers_;
};

// Floats of the matrix, in the type that the graph has.
Status sink_onnx_floats(std::span<const float> values, OnnxType type, const OnnxMatrix& matrix, const OnnxDataSink& sink);
// 4-bit codes two to a byte, the first in the low half; 8-bit ones as they are.
void append_onnx_codes(std::span<const std::uint8_t> codes, int bits, std::string& bytes);

// A vector as floats, with `offset` added.
Result<std::vector<float>> load_onnx_vector(const ModelSpec& spec, const WeightSource& source, const TensorRef& ref, std::int64_t size, float offset);

}  // namespace skiff
