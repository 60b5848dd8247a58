#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "formats/gptq.h"
#include "formats/name_pattern.h"
#include "formats/packed_inputs.h"

namespace skiff {
namespace {

constexpr std::size_t max_overrides = 10'000;

Error wrong(const std::string& what) { return corrupt("quantization_config of GPTQ: " + what); }

struct ModuleSettings {
    std::int64_t bits = 0, group_size = 0;  // 0: the whole row
};

// "dynamic" of GPTQModel: patterns that change settings of modules, or leave modules out ("-:").
struct Override {
    NamePattern pattern;
    bool is_out = false;
    Json settings;
};

Result<ModuleSettings> read_settings(const Json& json, ModuleSettings settings) {
    if (const Json& bits = json["bits"]; !bits.is_null()) {
        SKIFF_TRY(settings.bits, bits.as_int("quantization_config.bits"));
    }
    if (const Json& size = json["group_size"]; !size.is_null()) {
        SKIFF_TRY(settings.group_size, size.as_int("quantization_config.group_size"));
        if (settings.group_size != -1 && (settings.group_size < 1 || settings.group_size > (1 << 24))) return wrong("group_size " + std::to_string(settings.group_size) + " is not possible");
        if (settings.group_size == -1) settings.group_size = 0;
    }
    if (settings.bits != 2 && settings.bits != 3 && settings.bits != 4 && settings.bits != 8)
        return unsupported("quantization_config of GPTQ: " + std::to_string(settings.bits) + " bits; 2, 3, 4 and 8 are read");
    return settings;
}

class GptqReader final : public QuantizedReader {
public:
    static Result<std::unique_ptr<QuantizedReader>> make(const Json& config) {
        auto reader = std::make_unique<GptqReader>();
        for (const char* key : {"bits", "group_size"})
            if (!config[key].is_integer()) return wrong(std::string(key) + " must be an integer");
        SKIFF_TRY(reader->settings_, read_settings(config, {}));
        SKIFF_TRY(reader->form_, read_form(config));
        if (const Json& type = config["pack_dtype"]; type.is_string() && type.text() != "int32") return unsupported("quantization_config of GPTQ: pack_dtype " + type.text().substr(0, 40) + "; int32 is read");
        const Json& dynamic = config["dynamic"];
        if (dynamic.is_null() || (dynamic.is_bool() && !dynamic.bool_or(true))) return std::unique_ptr<QuantizedReader>(std::move(reader));
        if (!dynamic.is_object() || dynamic.size() > max_overrides) return wrong("dynamic must be an object of at most " + std::to_string(max_overrides) + " patterns");
        for (const auto& [key, value] : dynamic.members()) {
            Override added;
            added.is_out = key.starts_with("-:");
            const std::string expression = added.is_out || key.starts_with("+:") ? key.substr(2) : key;
            SKIFF_TRY(added.pattern, NamePattern::compile(expression, "quantization_config.dynamic \"" + key.substr(0, 80) + "\""));
            if (!added.is_out && !value.is_object()) return wrong("dynamic \"" + key.substr(0, 80) + "\" must be an object");
            added.settings = value;
            if (!added.is_out) SKIFF_CHECK(read_settings(value, reader->settings_));
            reader->overrides_.push_back(std::move(added));
        }
        return std::unique_ptr<QuantizedReader>(std::move(reader));
    }

    std::string_view marker() const override { return ".qweight"; }

    Result<std::optional<Weight>> read(const std::string& module, const TensorLookup& lookup) const override {
        SKIFF_TRY(auto found, lookup(module + ".qweight"));
        if (!found) return std::optional<Weight>();
        SKIFF_TRY(const auto parts, parts_of(module, lookup));
        SKIFF_TRY(auto weight, read_parts(parts));
        return std::optional<Weight>(std::move(weight));
    }

    Result<std::vector<std::int32_t>> input_order(const std::string& module, const TensorLookup& lookup) const override {
        SKIFF_TRY(auto found, lookup(module + ".qweight"));
        if (!found) return std::vector<std::int32_t>();
        SKIFF_TRY(const auto parts, parts_of(module, lookup));
        return parts.order;
    }

private:
    struct Parts {
        std::string module;
        Scheme scheme;
        FoundTensor qweight, scales, qzeros;
        std::vector<std::int32_t> order;
        std::int64_t n_rows = 0, n_columns = 0, n_groups = 0;
    };

    static Result<GptqForm> read_form(const Json& config) {
        const Json& named = config["checkpoint_format"].is_string() ? config["checkpoint_format"] : config["format"];
        if (config["is_marlin_format"].bool_or(false)) return unsupported("quantization_config of GPTQ: weights laid out for the kernel Marlin are not read; convert them to the format \"gptq\" with GPTQModel");
        if (!named.is_string() || named.text() == "gptq") return GptqForm::v1;
        if (named.text() == "gptq_v2") return GptqForm::v2;
        return unsupported("quantization_config of GPTQ: checkpoint_format \"" + named.text().substr(0, 40) + "\" is not read; known: gptq, gptq_v2");
    }

    Result<ModuleSettings> settings_of(const std::string& module) const {
        for (const Override& each : overrides_) {
            SKIFF_TRY(const bool matched, each.pattern.matches(module));
            if (!matched) continue;
            if (each.is_out) return corrupt("module " + module + " is quantized, but quantization_config.dynamic says that it is not");
            return read_settings(each.settings, settings_);
        }
        return settings_;
    }

    // Everything but the numbers is checked here.
    Result<Parts> parts_of(const std::string& module, const TensorLookup& lookup) const {
        Parts parts;
        parts.module = module;
        SKIFF_TRY(const auto settings, settings_of(module));
        parts.scheme.kind = NumberKind::integer;
        parts.scheme.bits = static_cast<int>(settings.bits);
        parts.scheme.symmetric = false;
        parts.scheme.group_size = settings.group_size;
        SKIFF_TRY(parts.qweight, required_tensor(lookup, module, "qweight", {DType::i32}));
        const Shape& packed = parts.qweight.view.shape;
        if (packed.size() != 2) return tensor_mismatch(module, "qweight", parts.qweight.view, "a matrix");
        parts.n_rows = packed[1];
        parts.n_columns = packed[0] * 32 / settings.bits;
        SKIFF_TRY(auto g_idx, lookup(module + ".g_idx"));
        if (g_idx) {
            SKIFF_TRY(g_idx, required_tensor(lookup, module, "g_idx", {DType::i32}));
            if (g_idx->view.shape.size() != 1) return tensor_mismatch(module, "g_idx", g_idx->view, "I32 [" + std::to_string(parts.n_columns) + "]");
            parts.n_columns = g_idx->view.shape[0];
        }
        if (packed_row_bytes(parts.scheme.bits, parts.n_columns) / 4 != packed[0])
            return tensor_mismatch(module, "qweight", parts.qweight.view, std::to_string(packed_row_bytes(parts.scheme.bits, parts.n_columns) / 4) + " rows for " + std::to_string(parts.n_columns) + " inputs");
        if (parts.scheme.group_size >= parts.n_columns) parts.scheme.group_size = 0;
        parts.n_groups = parts.scheme.n_groups(parts.n_columns);
        if (g_idx) {
            SKIFF_TRY(parts.order, order_by_group(module, g_idx->view, parts.scheme.group_size));
        }
        SKIFF_TRY(parts.scales, required_tensor(lookup, module, "scales", {DType::f16, DType::bf16, DType::f32}, Shape{parts.n_groups, parts.n_rows}));
        SKIFF_CHECK(check_finite(module, "scales", parts.scales.view));
        SKIFF_TRY(parts.qzeros, required_tensor(lookup, module, "qzeros", {DType::i32}, Shape{parts.n_groups, packed_row_bytes(parts.scheme.bits, parts.n_rows) / 4}));
        return parts;
    }

    Result<Weight> read_parts(const Parts& parts) const {
        CodeBytes bytes;
        const int bits = parts.scheme.bits;
        // A column of words is one row's stream of codes, lowest bits first: just ours, turned.
        bytes.packed = transposed_bytes(parts.qweight.view.data, parts.qweight.view.shape[0], parts.n_rows, 4);
        if (!parts.order.empty()) take_columns(parts.order, bits, parts.n_rows, bytes.packed);
        Scheme scheme = parts.scheme;
        scheme.scale_dtype = parts.scales.view.dtype;
        bytes.scales = transposed_bytes(parts.scales.view.data, parts.n_groups, parts.n_rows, dtype_info(scheme.scale_dtype).bits / 8);
        bytes.zeros = read_zeros(parts);
        return make_code_weight(scheme, parts.n_rows, parts.n_columns, std::move(bytes));
    }

    // (n_rows, n_groups), one byte each.
    std::vector<std::byte> read_zeros(const Parts& parts) const {
        const int bits = parts.scheme.bits;
        const std::int64_t n_words = parts.qzeros.view.shape[1];
        std::vector<std::byte> zeros(static_cast<std::size_t>(parts.n_rows * parts.n_groups));
        std::vector<std::byte> words(static_cast<std::size_t>(n_words) * 4);
        std::vector<std::uint8_t> values(static_cast<std::size_t>(parts.n_rows));
        for (std::int64_t group = 0; group < parts.n_groups; ++group) {
            std::memcpy(words.data(), parts.qzeros.view.data.data() + group * n_words * 4, words.size());
            if (form_ == GptqForm::v1 && bits != 3) add_ones(bits, words);
            unpack_codes(words.data(), bits, parts.n_rows, values.data());
            for (std::int64_t row = 0; row < parts.n_rows; ++row) {
                int zero = values[static_cast<std::size_t>(row)];
                if (form_ == GptqForm::v1 && bits == 3) zero = (zero + 1) & 7;
                zeros[static_cast<std::size_t>(row * parts.n_groups + group)] = static_cast<std::byte>(zero);
            }
        }
        return zeros;
    }

    // To whole words, as GPTQModel does it: it subtracts so when it writes, and a borrow of a zero that is 0 comes back in the carry.
    static void add_ones(int bits, std::vector<std::byte>& words) {
        const std::uint32_t ones = bits == 2 ? 0x55555555u : bits == 4 ? 0x11111111u : 0x01010101u;
        for (std::size_t at = 0; at < words.size(); at += 4) {
            std::uint32_t word;
            std::memcpy(&word, words.data() + at, 4);
            word += ones;
            std::memcpy(words.data() + at, &word, 4);
        }
    }

    ModuleSettings settings_;
    GptqForm form_ = GptqForm::v1;
    std::vector<Override> overrides_;
};

}  // namespace

Result<std::unique_ptr<QuantizedReader>> make_gptq_reader(const Json& config) { return GptqReader::make(config); }

}  // namespace skiff
