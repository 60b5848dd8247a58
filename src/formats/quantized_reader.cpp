#include "formats/quantized_reader.h"

namespace skiff {
namespace {

struct Row {
    std::string_view quant_method;
    MakeReader make;
};
constexpr Row readers[] = {
    {"compressed-tensors", make_compressed_tensors_reader},
    {"compressed_tensors", make_compressed_tensors_reader},
    {"gptq", make_gptq_reader},
    {"awq", make_awq_reader},
    {"bitsandbytes", make_bitsandbytes_reader},
    {"fp8", make_fp8_reader},
    {"fbgemm_fp8", make_fp8_reader},
};

}  // namespace

Result<std::unique_ptr<QuantizedReader>> make_quantized_reader(const Json& config) {
    if (config.is_null()) return make_compressed_tensors_reader(config);
    if (!config.is_object()) return corrupt("quantization_config must be an object");
    const std::string& method = config["quant_method"].text();
    std::string known;
    for (const Row& row : readers) {
        if (row.quant_method == method) return row.make(config);
        if (row.quant_method.find('_') == std::string_view::npos || row.make == make_fp8_reader) known += (known.empty() ? "" : ", ") + std::string(row.quant_method);
    }
    return unsupported("quantization_config: quant_method is \"" + method.substr(0, 80) + "\"; known: " + known);
}

}  // namespace skiff
