// How a checkpoint's files hold weights of fewer bits: one reader per quant_method of config.json, each in a file of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "formats/compressed_tensors.h"
#include "tensor/weight.h"

namespace skiff {

// Finds tensors by name, checks every type, shape and size before it reads, and gives our canonical codes: the same numbers, to the bit.
class QuantizedReader {
public:
    virtual ~QuantizedReader() = default;
    // What `<module>` ends in where a module has no tensor `<module>.weight`: ".qweight".
    virtual std::string_view marker() const = 0;
    // A module's weight as (outputs, inputs); nothing where it is not quantized: then `<module>.weight` is what it is.
    virtual Result<std::optional<Weight>> read(const std::string& module, const TensorLookup& lookup) const = 0;
    // The input that each column of read()'s weight belongs to. Empty: its own. // (n_columns) i32
    virtual Result<std::vector<std::int32_t>> input_order(const std::string&, const TensorLookup&) const { return std::vector<std::int32_t>(); }
    // The scale of the 8-bit integers that the module's inputs are to become, where the checkpoint fixes it for all tokens; nothing: it does not, or
    // it fixes what is not done here.
    virtual Result<std::optional<float>> fixed_input_scale(const std::string&, const TensorLookup&) const { return std::optional<float>(); }
};

// By quant_method; null: for a folder without a quantization_config, whose quantized tensors are refused by name.
Result<std::unique_ptr<QuantizedReader>> make_quantized_reader(const Json& quantization_config);

// The rows of the table behind it.
using MakeReader = Result<std::unique_ptr<QuantizedReader>> (*)(const Json& quantization_config);
Result<std::unique_ptr<QuantizedReader>> make_compressed_tensors_reader(const Json& config);
Result<std::unique_ptr<QuantizedReader>> make_gptq_reader(const Json& config);
Result<std::unique_ptr<QuantizedReader>> make_awq_reader(const Json& config);
Result<std::unique_ptr<QuantizedReader>> make_bitsandbytes_reader(const Json& config);
Result<std::unique_ptr<QuantizedReader>> make_fp8_reader(const Json& config);

}  // namespace skiff
