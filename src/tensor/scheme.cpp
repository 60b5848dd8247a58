#include "tensor/scheme.h"

#include <charconv>

#include "base/checked.h"

namespace skiff {
namespace {

constexpr std::int64_t max_group_size = 65536;

std::string float_name(DType dtype) {
    if (dtype == DType::f16) return "fp16";
    if (dtype == DType::f32) return "fp32";
    std::string name;
    for (char letter : dtype_info(dtype).name) name += letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
    return name;
}

// A decimal number without sign or leading zero at the front of `text`, which loses it.
bool take_number(std::string_view& text, std::int64_t& value) {
    if (text.empty() || text[0] < '1' || text[0] > '9') return false;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc()) return false;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return true;
}

// "w4g32a": any number of bits from 1 to 8 and any group size, not only the presets.
bool parse_integer_scheme(std::string_view text, Scheme& scheme) {
    scheme = {};
    scheme.kind = NumberKind::integer;
    std::int64_t bits = 0;
    if (!text.starts_with('w')) return false;
    text.remove_prefix(1);
    if (!take_number(text, bits) || bits > 8) return false;
    scheme.bits = static_cast<int>(bits);
    if (text.starts_with('g')) {
        text.remove_prefix(1);
        if (!take_number(text, scheme.group_size) || scheme.group_size > max_group_size) return false;
    }
    if (text == "a") {
        scheme.symmetric = false;
        text.remove_prefix(1);
    }
    return text.empty();
}

}  // namespace

std::string Scheme::name() const {
    if (kind == NumberKind::floating) return float_name(dtype);
    std::string text = "w" + std::to_string(bits);
    if (group_size != 0) text += "g" + std::to_string(group_size);
    if (!symmetric) text += "a";
    return text;
}

double Scheme::bits_per_weight(std::int64_t n_columns) const {
    if (kind == NumberKind::floating) return dtype_info(dtype).bits;
    if (n_columns <= 0) return bits;
    double row_bits = static_cast<double>(ceil_div<std::int64_t>(n_columns * bits, 32) * 32);
    row_bits += static_cast<double>(n_groups(n_columns)) * (dtype_info(scale_dtype).bits + (symmetric ? 0 : bits));
    return row_bits / static_cast<double>(n_columns);
}

Result<Scheme> parse_scheme(std::string_view name) {
    for (const auto& preset : scheme_presets())
        if (preset.name == name) return preset.scheme;
    Scheme scheme;
    if (parse_integer_scheme(name, scheme)) return scheme;
    std::string known;
    for (const auto& preset : scheme_presets()) known += (known.empty() ? "" : ", ") + std::string(preset.name);
    return usage_error("no scheme is called \"" + std::string(name.substr(0, 64)) + "\"; the presets are " + known +
                       ", and any w<1-8 bits>[g<group size>][a]");
}

}  // namespace skiff
