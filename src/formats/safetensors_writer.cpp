#include <algorithm>

#include "base/checked.h"
#include "base/json.h"
#include "formats/safetensors.h"

namespace skiff {
namespace {

std::string quoted(std::string_view text) { return Json(text).dump(); }

// Without spaces between the parts, as the reference implementation writes.
std::string header_text(const std::vector<TensorEntry>& entries, const SafetensorsMetadata& metadata) {
    std::string text = "{";
    if (!metadata.empty()) {
        text += "\"__metadata__\":{";
        for (const auto& [key, value] : metadata) text += (text.back() == '{' ? "" : ",") + quoted(key) + ":" + quoted(value);
        text += "}";
    }
    for (const auto& entry : entries) {
        if (text.size() > 1) text += ",";
        text += quoted(entry.name) + ":{\"dtype\":" + quoted(dtype_info(entry.dtype).name) + ",\"shape\":[";
        for (std::size_t i = 0; i < entry.shape.size(); ++i) text += (i ? "," : "") + std::to_string(entry.shape[i]);
        text += "],\"data_offsets\":[" + std::to_string(entry.begin) + "," + std::to_string(entry.end) + "]}";
    }
    text += "}";
    text.append((8 - text.size() % 8) % 8, ' ');
    return text;
}

}  // namespace

Result<SafetensorsHead> safetensors_head(const std::string& path, std::vector<TensorDeclaration> tensors, const SafetensorsMetadata& metadata) {
    // dtypes are declared in order of their width
    std::sort(tensors.begin(), tensors.end(),
              [](const auto& a, const auto& b) { return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name; });
    SafetensorsHead head;
    std::uint64_t position = 0;
    for (auto& tensor : tensors) {
        if (!head.entries.empty() && head.entries.back().name == tensor.name && head.entries.back().dtype == tensor.dtype)
            return usage_error(path + ": tensor \"" + tensor.name + "\" is declared twice");
        auto n_elements = checked_product(tensor.shape);
        auto size = n_elements ? dtype_bytes(tensor.dtype, *n_elements) : std::nullopt;
        auto end = size ? checked_add<std::uint64_t>(position, static_cast<std::uint64_t>(*size)) : std::nullopt;
        if (!end) return usage_error(path + ": tensor \"" + tensor.name + "\" " + shape_text(tensor.shape) + " has no size in bytes");
        head.entries.push_back({std::move(tensor.name), tensor.dtype, std::move(tensor.shape), position, *end});
        position = *end;
    }
    const std::string text = header_text(head.entries, metadata);
    const std::uint64_t header_bytes = text.size();
    head.bytes.resize(8 + text.size());
    std::memcpy(head.bytes.data(), &header_bytes, 8);
    std::memcpy(head.bytes.data() + 8, text.data(), text.size());
    // What is written must be readable: the reader's own rules are the check (names, ranks, duplicates, size of the header).
    auto readable = parse_safetensors_header(head.bytes, head.bytes.size() + position);
    if (!readable.ok()) return usage_error("these tensors cannot be written: " + readable.error().message).with_context(path);
    return head;
}

SafetensorsWriter::SafetensorsWriter(AtomicFile file, std::vector<TensorEntry> entries, std::uint64_t data_begin)
    : file_(std::move(file)), entries_(std::move(entries)), written_(entries_.size()), data_begin_(data_begin) {
    for (std::size_t i = 0; i < entries_.size(); ++i) index_.emplace(entries_[i].name, i);
}

Result<SafetensorsWriter> SafetensorsWriter::create(const std::string& path, std::vector<TensorDeclaration> tensors,
                                                    const SafetensorsMetadata& metadata) {
    SKIFF_TRY(auto head, safetensors_head(path, std::move(tensors), metadata));
    SKIFF_TRY(auto file, AtomicFile::create(path));
    SKIFF_CHECK(file.write(head.bytes));
    return SafetensorsWriter(std::move(file), std::move(head.entries), head.bytes.size());
}

Status SafetensorsWriter::write(std::string_view name, std::span<const std::byte> bytes) {
    auto place = index_.find(name);
    if (place == index_.end()) return usage_error("tensor \"" + std::string(name) + "\" was not declared");
    const TensorEntry& entry = entries_[place->second];
    std::uint64_t& written = written_[place->second];
    if (bytes.size() > entry.end - entry.begin - written)
        return usage_error("tensor \"" + entry.name + "\" has " + std::to_string(entry.end - entry.begin) + " bytes; more were given");
    SKIFF_CHECK(file_.write_at(data_begin_ + entry.begin + written, bytes));
    written += bytes.size();
    return {};
}

Status SafetensorsWriter::commit() {
    for (std::size_t i = 0; i < entries_.size(); ++i)
        if (written_[i] != entries_[i].end - entries_[i].begin)
            return usage_error("tensor \"" + entries_[i].name + "\" has " + std::to_string(entries_[i].end - entries_[i].begin) + " bytes; " +
                               std::to_string(written_[i]) + " were written");
    return file_.commit();
}

}  // namespace skiff
