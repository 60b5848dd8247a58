// Weights of codes as the compressed-tensors package stores them: quantization_config in config.json says which modules and how;
// `<module>.weight_packed`, `.weight_scale`, `.weight_zero_point` and `.weight_shape` hold the numbers. What the package has no words for
// (codebooks, relative scales, minimums) is said in fields and tensors of our own: docs/formats/safetensors.md.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "formats/checkpoint_files.h"
#include "formats/name_pattern.h"
#include "formats/safetensors.h"
#include "tensor/scheme.h"
#include "tensor/weight.h"

namespace skiff {

struct Fp8Blocks {
    std::int64_t rows = 128, columns = 128;  // of an FP8 weight, that share a scale where the scales are a matrix of blocks
};

// The quantization_config of a checkpoint that was read.
class QuantizationConfig {
public:
    static Result<QuantizationConfig> parse(const Json& quantization_config);

    // How a module's weight is quantized, or nothing. Precedence as in the package: the ignore list, then exact names, then patterns, then
    // the module's class. The scale type of the scheme is decided by the tensor.
    Result<std::optional<Scheme>> scheme_of(std::string_view module, std::string_view module_class = "Linear") const;

    // Whether the inputs of a module are symmetric 8-bit integers whose scale is fixed: the tensor `<module>.input_scale`.
    Result<bool> has_fixed_inputs(std::string_view module, std::string_view module_class = "Linear") const;

    // Our own addition to the format: the last group of a row may be shorter.
    bool short_last_group() const { return short_last_group_; }
    const Fp8Blocks& fp8_blocks() const { return fp8_blocks_; }
    // What the config asks for beyond weights, which is not done here: quantized activations, a quantized cache. One line each.
    const std::vector<std::string>& notes() const { return notes_; }

private:
    struct Pattern {
        std::string text;
        NamePattern expression;  // empty: the text is a name or a class
    };
    struct Target {
        Pattern pattern;
        std::optional<Scheme> scheme;
        std::string unsupported;  // why a module with this target cannot be read
        bool fixed_inputs = false;
    };
    static Result<Pattern> compile(const std::string& text);
    static Result<bool> matches(const Pattern& pattern, std::string_view name);
    Result<const Target*> target_of(std::string_view module, std::string_view module_class) const;  // null: none
    Status take_blocks(const Json& sides, const std::string& where);
    Status add_group(const std::string& group, const Json& value, const std::string& whole_format, std::map<std::string, Target>& targets);

    std::vector<Target> targets_;  // names first, then patterns, each sorted
    std::vector<Pattern> ignore_;
    std::vector<std::string> notes_;
    bool short_last_group_ = false, has_blocks_ = false;
    Fp8Blocks fp8_blocks_;
};

// Whether every package reads it as what it is: integers of 1, 2, 4 and 8 bits with scales of their own, FP8 per row, and MXFP4. Other programs refuse the rest
// by the format's name.
bool is_public_form(const Scheme& scheme);

// How a weight whose config has this scheme looks in the file. `columns` of each quantized module tell whether a group is cut short, which
// the package cannot read: then the config says so with "skiff_short_last_group".
struct QuantizedModule {
    Scheme scheme;
    std::int64_t n_columns = 0;
    bool is_linear = true;  // false: an embedding, which the target "Linear" does not cover
    bool is_sparse = false; // a form of our own, whatever the scheme
    // Of 8-bit integers: fixed, with a scale beside the weight (fixed_input_tensors); by_token, with one that is found for each token (token_input_tensors).
    enum class Inputs : std::uint8_t { floating, fixed, by_token } inputs = Inputs::floating;
};

// Loading elsewhere, tried with compressed-tensors 0.20.0 in transformers: symmetric schemes give the same logits in fp16 and fp32; a model loaded in
// bf16 rounds F16 scales to BF16 (choose BF16 scales for it). Asymmetric ones fail there, also those the package saved itself: its loader
// expects zeros that are not packed. They read here and, by the format, elsewhere.
// The quantization_config to write. `ignore` lists the linear modules that stay unquantized. Error: a floating scheme among the modules.
Result<Json> quantization_config_for(const std::map<std::string, QuantizedModule>& modules, const std::vector<std::string>& ignore);

// A tensor of a file, ready to be declared and written.
struct StoredTensor {
    std::string name;
    DType dtype = DType::f32;
    Shape shape;
    std::span<const std::byte> bytes;
    std::shared_ptr<const void> owner;
};

// The tensors that hold the codes of a weight of this shape, in the order in which weight_tensors() gives them.
std::vector<TensorDeclaration> code_tensors(const std::string& module, const Scheme& scheme, const Shape& shape);

// W8A8 with fixed scales (the format int-quantized): signed bytes, their scales, and the scale of the inputs. Of symmetric integers of 8 bits without
// relative scales, which can_fix_inputs() tells.
bool can_fix_inputs(const Scheme& scheme);
std::vector<TensorDeclaration> fixed_input_declarations(const std::string& module, const Scheme& scheme, const Shape& shape);
std::vector<StoredTensor> fixed_input_tensors(const std::string& module, const Weight& codes, float input_scale);
// The same without the scale of the inputs.
std::vector<TensorDeclaration> token_input_declarations(const std::string& module, const Scheme& scheme, const Shape& shape);
std::vector<StoredTensor> token_input_tensors(const std::string& module, const Weight& codes);

// The tensors of one weight: `<module>.weight` for plain numbers, the packed form for codes. Blocks of GGUF are refused.
Result<std::vector<StoredTensor>> weight_tensors(const std::string& module, const Weight& weight);

// Finds a tensor by its full name; nothing when absent.
using TensorLookup = std::function<Result<std::optional<FoundTensor>>(const std::string& name)>;
TensorLookup lookup_in(const CheckpointFiles& files);  // which must outlive it

// Reads the weight of a module, plain or packed (pack-quantized, int-quantized, mxfp4-pack-quantized, nvfp4-pack-quantized, ours), and checks every shape.
// `config` may be null.
Result<Weight> read_weight(const std::string& module, const TensorLookup& lookup, const QuantizationConfig* config,
                           std::string_view module_class = "Linear");

// The input that each column of such a weight belongs to, by `<module>.weight_g_idx`; empty: its own. // (n_columns) i32
Result<std::vector<std::int32_t>> weight_input_order(const std::string& module, const TensorLookup& lookup, const Scheme& scheme);

}  // namespace skiff
