// Every rule a header must keep before anything in it is believed. Nothing is allocated on the header's word alone.
#include <algorithm>

#include "base/checked.h"
#include "base/json.h"
#include "base/span_reader.h"
#include "formats/safetensors.h"

namespace skiff {
namespace {

constexpr std::uint64_t max_header_bytes = 100'000'000;  // as the reference implementation
constexpr std::size_t max_tensors = 1'000'000, max_rank = 8, max_name_bytes = 1024;

std::string quoted(std::string_view name) { return "\"" + std::string(name.substr(0, 80)) + "\""; }

Status check_name(std::string_view name) {
    if (name.size() > max_name_bytes)
        return corrupt("a tensor's name has " + std::to_string(name.size()) + " bytes; at most " + std::to_string(max_name_bytes) + " are allowed");
    for (char letter : name)
        if (static_cast<unsigned char>(letter) < 0x20 || letter == 0x7f) return corrupt("a tensor's name holds a control character");
    return {};
}

Result<Shape> read_shape(const Json& value, const std::string& where) {
    if (!value.is_array()) return corrupt(where + ": shape must be an array, found " + std::string(value.type_name()));
    if (value.size() > max_rank)
        return corrupt(where + ": has " + std::to_string(value.size()) + " dimensions; at most " + std::to_string(max_rank) + " are allowed");
    Shape shape;
    for (const Json& item : value.items()) {
        auto size = item.as_int("a dimension");
        if (!size.ok() || *size < 0) return corrupt(where + ": each dimension must be an integer of 0 or more");
        shape.push_back(*size);
    }
    return shape;
}

Status read_offsets(const Json& value, TensorEntry& entry, const std::string& where) {
    std::int64_t offsets[2] = {-1, -1};
    bool good = value.is_array() && value.size() == 2;
    for (std::size_t i = 0; good && i < 2; ++i) {
        auto offset = value.items()[i].as_int("an offset");
        if (offset.ok()) offsets[i] = *offset;
        good = offsets[i] >= 0;
    }
    if (!good) return corrupt(where + ": data_offsets must be two integers of 0 or more");
    entry.begin = static_cast<std::uint64_t>(offsets[0]);
    entry.end = static_cast<std::uint64_t>(offsets[1]);
    if (entry.end < entry.begin) return corrupt(where + ": data_offsets end before they begin");
    return {};
}

Result<TensorEntry> read_entry(const std::string& name, const Json& value) {
    SKIFF_CHECK(check_name(name));
    const std::string where = "tensor " + quoted(name);
    if (!value.is_object()) return corrupt(where + ": expected an object, found " + std::string(value.type_name()));
    for (const char* field : {"dtype", "shape", "data_offsets"})
        if (!value.contains(field)) return corrupt(where + ": has no " + field);
    if (value.size() != 3) return corrupt(where + ": has fields other than dtype, shape and data_offsets");
    TensorEntry entry;
    entry.name = name;
    auto dtype = dtype_from_name(value["dtype"].text());
    if (!dtype) return corrupt(where + ": unknown dtype " + quoted(value["dtype"].text()));
    entry.dtype = *dtype;
    SKIFF_TRY(entry.shape, read_shape(value["shape"], where));
    SKIFF_CHECK(read_offsets(value["data_offsets"], entry, where));
    auto n_elements = checked_product(entry.shape);
    auto size = n_elements ? dtype_bytes(entry.dtype, *n_elements) : std::nullopt;
    if (!size)
        return corrupt(where + ": " + shape_text(entry.shape) + " of " + std::string(dtype_info(entry.dtype).name) +
                       " is too large or does not fill whole bytes");
    if (static_cast<std::uint64_t>(*size) != entry.end - entry.begin)
        return corrupt(where + ": " + shape_text(entry.shape) + " of " + std::string(dtype_info(entry.dtype).name) + " takes " +
                       std::to_string(*size) + " bytes, but data_offsets span " + std::to_string(entry.end - entry.begin));
    return entry;
}

Result<SafetensorsMetadata> read_metadata(const Json& value) {
    if (!value.is_object()) return corrupt("__metadata__ must be an object of strings, found " + std::string(value.type_name()));
    SafetensorsMetadata metadata;
    for (const auto& [key, text] : value.members()) {
        if (!text.is_string()) return corrupt("__metadata__ " + quoted(key) + " must be a string, found " + std::string(text.type_name()));
        metadata.emplace_back(key, text.text());
    }
    return metadata;
}

// The tensors cover the data part exactly once, from its first byte to the end of the file.
Status check_coverage(std::vector<TensorEntry>& entries, std::uint64_t data_bytes) {
    std::stable_sort(entries.begin(), entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
        return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
    });
    std::uint64_t expected = 0;
    for (const auto& entry : entries) {
        if (entry.begin != expected)
            return corrupt("tensor " + quoted(entry.name) + ": begins at byte " + std::to_string(entry.begin) + " of the data, but the one before ends at " +
                           std::to_string(expected) + "; tensors must follow each other without gap or overlap");
        expected = entry.end;
    }
    if (expected != data_bytes)
        return corrupt("the tensors end at byte " + std::to_string(expected) + " of the data, but the file holds " + std::to_string(data_bytes) +
                       " bytes of data" + (expected > data_bytes ? "; it is truncated" : ""));
    return {};
}

// Magic numbers of what is often mistaken for this format.
std::string_view mistaken_for(std::span<const std::byte> bytes) {
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 32));
    if (text.starts_with("GGUF")) return "; this looks like a GGUF file";
    if (text.starts_with("PK\x03\x04") || text.starts_with("\x80\x02")) return "; this looks like a pickle of PyTorch, which skiff does not read";
    if (text.starts_with("version https://git-lfs")) return "; this is a Git LFS pointer, fetch the file itself";
    if (text.starts_with("<!DOCTYPE") || text.starts_with("<html")) return "; this is a web page, the download failed";
    return "";
}

Result<Json> read_header_json(std::string_view text) {
    if (text.empty() || text[0] != '{') return corrupt("the header must begin with '{'");
    const std::size_t last = text.find_last_not_of(' ');
    text = text.substr(0, last + 1);
    if (text.back() != '}') return corrupt("only spaces may follow the JSON header");
    JsonLimits limits;
    limits.max_depth = 4;
    limits.max_bytes = max_header_bytes;
    limits.max_values = text.size() / 4 + 16;  // the shortest entries have more bytes than this per value; bounds memory
    limits.allow_trailing_spaces = false;
    auto json = Json::parse(text, limits);
    if (!json.ok()) return corrupt("the header is not valid JSON: " + json.error().message);
    return json;
}

}  // namespace

Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> bytes, std::uint64_t file_size_bytes) {
    SpanReader reader(bytes);
    if (file_size_bytes < 8 || bytes.size() < 8)
        return corrupt("not a safetensors file: it has " + std::to_string(std::min<std::uint64_t>(file_size_bytes, bytes.size())) +
                       " bytes, but the header's length alone takes 8");
    SKIFF_TRY(const auto header_bytes, reader.read<std::uint64_t>("the header's length"));
    if (header_bytes > max_header_bytes)
        return corrupt("not a safetensors file: it claims a header of " + std::to_string(header_bytes) + " bytes, at most " +
                       std::to_string(max_header_bytes) + " are allowed" + std::string(mistaken_for(bytes)));
    if (header_bytes > file_size_bytes - 8)
        return corrupt("it claims a header of " + std::to_string(header_bytes) + " bytes, but only " + std::to_string(file_size_bytes - 8) +
                       " follow; it is truncated or not a safetensors file" + std::string(mistaken_for(bytes)));
    SKIFF_TRY(const auto text, reader.take_string(header_bytes, "the header"));
    SKIFF_TRY(const auto json, read_header_json(text));

    SafetensorsHeader header;
    header.data_begin = 8 + header_bytes;
    if (json.size() > max_tensors + 1)
        return corrupt("the header names " + std::to_string(json.size()) + " tensors; at most " + std::to_string(max_tensors) + " are allowed");
    for (const auto& [name, value] : json.members()) {
        if (name == "__metadata__") {
            SKIFF_TRY(header.metadata, read_metadata(value));
            continue;
        }
        SKIFF_TRY(auto entry, read_entry(name, value));
        header.entries.push_back(std::move(entry));
    }
    SKIFF_CHECK(check_coverage(header.entries, file_size_bytes - header.data_begin));
    return header;
}

}  // namespace skiff
