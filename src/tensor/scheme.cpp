#include "tensor/scheme.h"

#include <bit>
#include <charconv>
#include <cmath>

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

// The group size behind a `g`. Codebooks always have one ("g0": the whole row), so that their bare names are free for presets.
bool take_group_size(std::string_view& text, Scheme& scheme) {
    const bool codebook = scheme.kind == NumberKind::codebook;
    if (!text.starts_with('g')) return !codebook;
    text.remove_prefix(1);
    if (codebook && text.starts_with('0')) {
        text.remove_prefix(1);
        return true;
    }
    return take_number(text, scheme.group_size) && scheme.group_size <= max_group_size;
}

bool take_letter(std::string_view& text, char letter) {
    if (!text.starts_with(letter)) return false;
    text.remove_prefix(1);
    return true;
}

// "4", "4g128", "4tensor"
bool parse_clusters(std::string_view text, Scheme& scheme) {
    std::int64_t n_levels = 0;
    if (!take_number(text, n_levels) || n_levels < 2 || n_levels > 256) return false;
    scheme.kind = NumberKind::clusters;
    scheme.n_levels = static_cast<int>(n_levels);
    scheme.bits = static_cast<int>(std::bit_width(static_cast<unsigned>(n_levels - 1)));
    scheme.one_table = text == "tensor";
    return scheme.one_table || (take_group_size(text, scheme) && text.empty());
}

// "4k256", "8k256x2": what stands before the scales.
bool take_vectors(std::string_view& text, Scheme& scheme) {
    std::int64_t vector = 0, n_levels = 0, n_books = 1;
    if (!take_number(text, vector) || (vector != 2 && vector != 4 && vector != 8)) return false;
    if (!take_letter(text, 'k') || !take_number(text, n_levels) || n_levels < 16 || n_levels > 4096 || !std::has_single_bit(static_cast<std::uint64_t>(n_levels))) return false;
    if (take_letter(text, 'x') && (!take_number(text, n_books) || n_books != 2)) return false;
    scheme.kind = NumberKind::vectors;
    scheme.vector = static_cast<int>(vector);
    scheme.n_levels = static_cast<int>(n_levels);
    scheme.n_books = static_cast<int>(n_books);
    scheme.bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(n_levels - 1)));
    return true;
}

// What Scheme::name() writes: any number of bits from 1 to 8 or any codebook, and any group size, not only the presets.
bool parse_coded_scheme(std::string_view text, Scheme& scheme) {
    scheme = {};
    if (text == "mxfp4") {
        scheme = {NumberKind::codebook, DType::bf16, 4, true, 32, DType::f8_e8m0};
        scheme.codebook = find_codebook("e2m1");
        return true;
    }
    if (text.starts_with('k')) return parse_clusters(text.substr(1), scheme);
    for (const Codebook& codebook : codebooks()) {
        if (!text.starts_with(std::string(codebook.name) + "g")) continue;
        scheme.kind = NumberKind::codebook;
        scheme.codebook = &codebook;
        scheme.bits = codebook.bits;
        text.remove_prefix(codebook.name.size());
        break;
    }
    if (scheme.kind != NumberKind::codebook && take_letter(text, 'v')) {
        if (!take_vectors(text, scheme)) return false;
    } else if (scheme.kind != NumberKind::codebook) {
        scheme.kind = NumberKind::integer;
        std::int64_t bits = 0;
        if (!take_letter(text, 'w') || !take_number(text, bits) || bits > 8) return false;
        scheme.bits = static_cast<int>(bits);
    }
    if (!take_group_size(text, scheme) || (scheme.kind == NumberKind::vectors && scheme.group_size % scheme.vector != 0)) return false;
    if (scheme.kind == NumberKind::integer) {
        scheme.minimums = take_letter(text, 'm');
        scheme.symmetric = !scheme.minimums && !take_letter(text, 'a');
    }
    if (take_letter(text, 't')) {
        scheme.scale_dtype = DType::u8;
        scheme.scale_book = find_scale_book("t");
        scheme.super_dtype = DType::bf16;  // 8 bits suffice: the codes are chosen under the rounded one
        if (scheme.minimums) return false;
    }
    if (scheme.scale_book != nullptr || take_letter(text, 'r')) {
        if (scheme.scale_book == nullptr) scheme.scale_dtype = DType::i8;
        if (scheme.group_size == 0) return false;
        if (take_letter(text, 's') && (!take_number(text, scheme.super_size) || scheme.super_size > max_group_size || scheme.super_size % scheme.group_size != 0)) return false;
    }
    return text.empty();
}

}  // namespace

std::string Scheme::name() const {
    if (kind == NumberKind::floating) return float_name(dtype);
    if (kind == NumberKind::clusters) return "k" + std::to_string(n_levels) + (one_table ? "tensor" : group_size != 0 ? "g" + std::to_string(group_size) : "");
    if (kind == NumberKind::codebook && codebook->name == "e2m1" && group_size == 32 && scale_dtype == DType::f8_e8m0) return "mxfp4";
    std::string text = kind == NumberKind::codebook ? std::string(codebook->name) : "w" + std::to_string(bits);
    if (kind == NumberKind::vectors) text = "v" + std::to_string(vector) + "k" + std::to_string(n_levels) + (n_books > 1 ? "x" + std::to_string(n_books) : "");
    if (group_size != 0 || kind == NumberKind::codebook) text += "g" + std::to_string(group_size);
    if (minimums) text += "m";
    if (stores_zeros()) text += "a";
    if (relative_scales()) text += scale_book != nullptr ? std::string(scale_book->name) : "r";
    if (relative_scales() && super_size != 0) text += "s" + std::to_string(super_size);
    return text;
}

double Scheme::bits_per_weight(std::int64_t n_columns) const {
    if (kind == NumberKind::floating) return dtype_info(dtype).bits;
    if (n_columns <= 0) return bits;
    const auto groups = static_cast<double>(n_groups(n_columns)), supers = static_cast<double>(n_supers(n_columns));
    double row_bits = static_cast<double>(ceil_div<std::int64_t>(n_codes(n_columns) * bits, 32) * 32);
    const double numbers = kind != NumberKind::clusters ? groups : one_table ? 0 : groups * n_levels;
    row_bits += std::ceil(numbers * scale_bits() / 8) * 8 + groups * ((minimums ? dtype_info(minimum_dtype()).bits : stores_zeros() ? bits : 0));
    if (relative_scales()) row_bits += supers * dtype_info(super_dtype).bits * (minimums ? 2 : 1);
    return row_bits / static_cast<double>(n_columns);
}

std::optional<Scheme> scheme_of_content(std::string_view name) {
    Scheme scheme;
    return parse_coded_scheme(name, scheme) ? std::optional<Scheme>(scheme) : std::nullopt;
}

Result<Scheme> parse_scheme(std::string_view name) {
    for (const auto& preset : scheme_presets())
        if (preset.name == name) return preset.scheme;
    if (const auto scheme = scheme_of_content(name)) return *scheme;
    std::string known, books;
    for (const auto& preset : scheme_presets()) known += (known.empty() ? "" : ", ") + std::string(preset.name);
    for (const auto& codebook : codebooks()) books += (books.empty() ? "" : "|") + std::string(codebook.name);
    return usage_error("no scheme is called \"" + std::string(name.substr(0, 64)) + "\"; the presets are " + known + "; any w<1-8 bits>[g<group size>][a|m][r|t] and any <" +
                       books + ">g<group size>[r|t] and k<2-256 levels>[g<group size>|tensor] and v<2|4|8 columns>k<16-4096 entries, a power of two>[x2][g<a multiple of the columns>[r|t]] may be named too");
}

}  // namespace skiff
