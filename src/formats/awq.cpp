#include "formats/awq.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "formats/packed_inputs.h"

namespace skiff {
namespace {

constexpr int bits = 4, per_word = 8;
// GEMM: four bits number i of a word hold the output order[i] of its eight.
constexpr int order[per_word] = {0, 2, 4, 6, 1, 3, 5, 7};

Error wrong(const std::string& what) { return corrupt("quantization_config of AWQ: " + what); }

// Words (n, n_outputs / 8) to one code per byte (n_outputs, n): out[output * n + i].
void unpack_interleaved(std::span<const std::byte> words, std::int64_t n, std::int64_t n_outputs, std::uint8_t* out) {
    const std::int64_t n_words = n_outputs / per_word;
    constexpr std::int64_t tile = 64;  // so that both sides stay in the cache
    for (std::int64_t begin = 0; begin < n; begin += tile)
        for (std::int64_t w = 0; w < n_words; ++w)
            for (std::int64_t i = begin; i < std::min(n, begin + tile); ++i) {
                std::uint32_t word;
                std::memcpy(&word, words.data() + (i * n_words + w) * 4, 4);
                for (int k = 0; k < per_word; ++k) out[(w * per_word + order[k]) * n + i] = static_cast<std::uint8_t>(word >> (4 * k) & 15);
            }
}

// The inverse. // values: (n_outputs, n), one code per byte
std::vector<std::byte> pack_interleaved(const std::uint8_t* values, std::int64_t n, std::int64_t n_outputs) {
    const std::int64_t n_words = n_outputs / per_word;
    std::vector<std::byte> words(static_cast<std::size_t>(n * n_words * 4));
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t w = 0; w < n_words; ++w) {
            std::uint32_t word = 0;
            for (int k = 0; k < per_word; ++k) word |= static_cast<std::uint32_t>(values[(w * per_word + order[k]) * n + i] & 15) << (4 * k);
            std::memcpy(words.data() + (i * n_words + w) * 4, &word, 4);
        }
    return words;
}

class AwqReader final : public QuantizedReader {
public:
    static Result<std::unique_ptr<QuantizedReader>> make(const Json& config) {
        auto reader = std::make_unique<AwqReader>();
        const auto either = [&](const char* name, const char* older) -> const Json& { return config[name].is_null() ? config[older] : config[name]; };
        const Json &n_bits = either("bits", "w_bit"), &group_size = either("group_size", "q_group_size");
        if (!n_bits.is_integer() || !group_size.is_integer()) return wrong("bits and group_size must be integers");
        if (n_bits.int_or(0) != bits) return unsupported("quantization_config of AWQ: " + std::to_string(n_bits.int_or(0)) + " bits; 4 are read");
        reader->group_size_ = group_size.int_or(0);
        if (reader->group_size_ != -1 && (reader->group_size_ < 1 || reader->group_size_ > (1 << 24))) return wrong("group_size " + std::to_string(reader->group_size_) + " is not possible");
        if (reader->group_size_ == -1) reader->group_size_ = 0;
        std::string version = config["version"].is_string() ? config["version"].text() : config["format"].text();
        for (char& letter : version) letter = letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
        reader->is_gemv_ = version == "gemv";
        // The kernels of ExLlama and IPEX read what is stored for GEMM.
        const char* known[] = {"", "gemm", "gemv", "exllama", "ipex"};
        if (std::find(std::begin(known), std::end(known), version) == std::end(known))
            return unsupported("quantization_config of AWQ: version \"" + version.substr(0, 40) + "\" is not read; known: gemm, gemv");
        return std::unique_ptr<QuantizedReader>(std::move(reader));
    }

    std::string_view marker() const override { return ".qweight"; }

    Result<std::optional<Weight>> read(const std::string& module, const TensorLookup& lookup) const override {
        SKIFF_TRY(const auto found, lookup(module + ".qweight"));
        if (!found) return std::optional<Weight>();
        SKIFF_TRY(const auto qweight, required_tensor(lookup, module, "qweight", {DType::i32}));
        if (qweight.view.shape.size() != 2) return tensor_mismatch(module, "qweight", qweight.view, "a matrix");
        SKIFF_TRY(auto weight, is_gemv_ ? read_gemv(module, qweight.view, lookup) : read_gemm(module, qweight.view, lookup));
        return std::optional<Weight>(std::move(weight));
    }

private:
    Scheme scheme_for_columns(std::int64_t n_columns, DType scale_dtype) const {
        Scheme scheme;
        scheme.kind = NumberKind::integer;
        scheme.bits = bits;
        scheme.symmetric = false;
        scheme.group_size = group_size_ >= n_columns ? 0 : group_size_;
        scheme.scale_dtype = scale_dtype;
        return scheme;
    }
    Status check_groups(const std::string& module, std::int64_t n_columns) const {
        if (group_size_ == 0 || group_size_ >= n_columns || n_columns % group_size_ == 0) return {};
        return corrupt("module " + module + ": " + std::to_string(n_columns) + " inputs are no multiple of the group size " + std::to_string(group_size_));
    }

    Result<Weight> read_gemm(const std::string& module, const TensorView& qweight, const TensorLookup& lookup) const {
        const std::int64_t n_columns = qweight.shape[0], n_rows = qweight.shape[1] * per_word;
        SKIFF_CHECK(check_groups(module, n_columns));
        Scheme scheme = scheme_for_columns(n_columns, DType::f16);
        const std::int64_t n_groups = scheme.n_groups(n_columns);
        SKIFF_TRY(const auto scales, required_tensor(lookup, module, "scales", {DType::f16, DType::bf16, DType::f32}, Shape{n_groups, n_rows}));
        SKIFF_CHECK(check_finite(module, "scales", scales.view));
        SKIFF_TRY(const auto qzeros, required_tensor(lookup, module, "qzeros", {DType::i32}, Shape{n_groups, n_rows / per_word}));
        scheme.scale_dtype = scales.view.dtype;
        CodeBytes bytes;
        bytes.scales = transposed_bytes(scales.view.data, n_groups, n_rows, dtype_info(scheme.scale_dtype).bits / 8);
        bytes.zeros.resize(static_cast<std::size_t>(n_rows * n_groups));
        unpack_interleaved(qzeros.view.data, n_groups, n_rows, reinterpret_cast<std::uint8_t*>(bytes.zeros.data()));
        const std::int64_t row_bytes = packed_row_bytes(bits, n_columns);
        bytes.packed.resize(static_cast<std::size_t>(n_rows * row_bytes));
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(n_rows * n_columns));
        unpack_interleaved(qweight.data, n_columns, n_rows, codes.data());
        for (std::int64_t row = 0; row < n_rows; ++row) pack_codes(codes.data() + row * n_columns, bits, n_columns, bytes.packed.data() + row * row_bytes);
        return make_code_weight(scheme, n_rows, n_columns, std::move(bytes));
    }

    // Rows of outputs with eight codes to a word, in order; zeros and scales padded to whole words.
    Result<Weight> read_gemv(const std::string& module, const TensorView& qweight, const TensorLookup& lookup) const {
        const std::int64_t n_rows = qweight.shape[0], n_columns = qweight.shape[1] * per_word;
        SKIFF_CHECK(check_groups(module, n_columns));
        Scheme scheme = scheme_for_columns(n_columns, DType::f16);
        const std::int64_t n_groups = scheme.n_groups(n_columns);
        SKIFF_TRY(const auto qzeros, required_tensor(lookup, module, "qzeros", {DType::i32}));
        const Shape& padded = qzeros.view.shape;
        if (padded.size() != 2 || padded[0] != n_rows || padded[1] * per_word < n_groups)
            return tensor_mismatch(module, "qzeros", qzeros.view, "I32 [" + std::to_string(n_rows) + ", " + std::to_string(ceil_div<std::int64_t>(n_groups, per_word)) + " or more]");
        const std::int64_t n_padded = padded[1] * per_word;
        SKIFF_TRY(const auto scales, required_tensor(lookup, module, "scales", {DType::f16, DType::bf16, DType::f32}, Shape{n_rows, n_padded}));
        scheme.scale_dtype = scales.view.dtype;
        const std::int64_t size = dtype_info(scheme.scale_dtype).bits / 8;
        CodeBytes bytes;
        bytes.packed.assign(qweight.data.begin(), qweight.data.end());
        bytes.zeros.resize(static_cast<std::size_t>(n_rows * n_groups));
        for (std::int64_t row = 0; row < n_rows; ++row) {
            const std::byte* first = scales.view.data.data() + row * n_padded * size;
            bytes.scales.insert(bytes.scales.end(), first, first + n_groups * size);
            unpack_codes(qzeros.view.data.data() + row * padded[1] * 4, bits, n_groups, reinterpret_cast<std::uint8_t*>(bytes.zeros.data()) + row * n_groups);
        }
        SKIFF_CHECK(check_finite(module, "scales", {scheme.scale_dtype, {n_rows, n_groups}, bytes.scales}));
        return make_code_weight(scheme, n_rows, n_columns, std::move(bytes));
    }

    std::int64_t group_size_ = 0;
    bool is_gemv_ = false;
};

}  // namespace

Result<std::unique_ptr<QuantizedReader>> make_awq_reader(const Json& config) { return AwqReader::make(config); }

Status check_awq(const Scheme& scheme, const Shape& shape) {
    const std::string name = scheme.name();
    if (scheme.kind != NumberKind::integer || scheme.bits != bits || scheme.relative_scales() || scheme.minimums || scheme.scale_dtype == DType::f8_e8m0)
        return unsupported("AWQ has no words for " + name + ", only for 4 bit integers with a scale of their own per group; quantize the 16 bit model with --scheme w4g128a");
    if (shape[0] % per_word != 0) return unsupported("AWQ stores eight outputs to a word, " + std::to_string(shape[0]) + " are no multiple of 8");
    if (scheme.group_size != 0 && shape[1] % scheme.group_size != 0)
        return unsupported("AWQ's groups are whole: " + std::to_string(shape[1]) + " inputs are no multiple of " + std::to_string(scheme.group_size) + "; choose a smaller group");
    return {};
}

std::vector<TensorDeclaration> awq_declarations(const std::string& module, const Scheme& scheme, const Shape& shape) {
    const std::int64_t n_rows = shape[0], n_columns = shape[1], n_groups = scheme.n_groups(n_columns);
    return {{module + ".qweight", DType::i32, {n_columns, n_rows / per_word}},
            {module + ".qzeros", DType::i32, {n_groups, n_rows / per_word}},
            {module + ".scales", DType::f16, {n_groups, n_rows}}};
}

Result<std::vector<StoredTensor>> awq_tensors(const std::string& module, const Weight& weight) {
    if (weight.codes() == nullptr) return unsupported("module " + module + ": " + weight.encoding_name() + " is not made of codes");
    const Codes& codes = *weight.codes();
    if (auto status = check_awq(codes.scheme, weight.shape); !status.ok()) return status.take_error().with_context("module " + module);
    SKIFF_TRY(const auto scales, scales_as_f16(codes));
    const std::int64_t n_rows = weight.n_rows(), n_columns = weight.n_columns(), n_groups = codes.scheme.n_groups(n_columns);
    auto bytes = std::make_shared<CodeBytes>();
    std::vector<std::uint8_t> values(static_cast<std::size_t>(n_rows * n_columns));
    for (std::int64_t row = 0; row < n_rows; ++row)
        unpack_codes(codes.packed.data.data() + row * packed_row_bytes(bits, n_columns), bits, n_columns, values.data() + row * n_columns);
    bytes->packed = pack_interleaved(values.data(), n_columns, n_rows);
    const std::vector<std::uint8_t> middle(codes.scheme.symmetric ? static_cast<std::size_t>(n_rows * n_groups) : 0, 1 << (bits - 1));
    bytes->zeros = pack_interleaved(codes.scheme.symmetric ? middle.data() : reinterpret_cast<const std::uint8_t*>(codes.zeros.data.data()), n_groups, n_rows);
    bytes->scales = transposed_bytes(scales, n_rows, n_groups, 2);
    std::vector<StoredTensor> tensors;
    const std::span<const std::byte> data[] = {bytes->packed, bytes->zeros, bytes->scales};
    for (TensorDeclaration& declared : awq_declarations(module, codes.scheme, weight.shape))
        tensors.push_back({declared.name, declared.dtype, declared.shape, data[tensors.size()], bytes});
    return tensors;
}

Json awq_config(std::int64_t group_size, const std::vector<std::string>& plain) {
    Json config = Json::object({{"quant_method", "awq"}, {"bits", bits}, {"group_size", group_size == 0 ? -1 : group_size}, {"zero_point", true}, {"version", "gemm"}});
    Json names = Json::array();
    for (const std::string& name : plain) names.push_back(name);
    config.set("modules_to_not_convert", plain.empty() ? Json() : std::move(names));
    return config;
}

}  // namespace skiff
