#include "formats/gguf_writer.h"

#include <cmath>
#include <cstring>
#include <set>
#include <type_traits>

#include "base/checked.h"

namespace skiff {
namespace {

template <class T>
void put(std::string& out, T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    out.append(bytes, sizeof(T));
}

void put_string(std::string& out, std::string_view text) {
    put<std::uint64_t>(out, text.size());
    out.append(text);
}

void put_array(std::string& out, const GgufArray& array) {
    put<std::uint32_t>(out, static_cast<std::uint32_t>(array.index()));
    put<std::uint64_t>(out, gguf_array_size(array));
    std::visit(
        [&](const auto& items) {
            using T = std::decay_t<decltype(items)>;
            if constexpr (std::is_same_v<T, GgufStrings>) {
                for (std::size_t i = 0; i < items.size(); ++i) put_string(out, items[i]);
            } else if constexpr (std::is_same_v<T, GgufBools>) {
                for (auto item : items.values) put<std::uint8_t>(out, item != 0);
            } else if constexpr (!std::is_same_v<T, std::monostate>) {
                for (auto item : items) put(out, item);
            }
        },
        array);
}

void put_value(std::string& out, const GgufValue& value) {
    put<std::uint32_t>(out, static_cast<std::uint32_t>(value.index()));
    std::visit(
        [&](const auto& v) {
            using T = std::decay_t<decltype(v)>;
            if constexpr (std::is_same_v<T, std::string>) put_string(out, v);
            else if constexpr (std::is_same_v<T, GgufArray>) put_array(out, v);
            else if constexpr (std::is_same_v<T, bool>) put<std::uint8_t>(out, v);
            else put(out, v);
        },
        value);
}

Status check_value(const GgufValue& value) {
    const auto* array = std::get_if<GgufArray>(&value);
    if (array == nullptr) return {};
    if (array->index() == gguf_array_type) return usage_error("an array without a type cannot be written");
    if (gguf_array_size(*array) > GgufLimits::array_items) return usage_error("an array has more than 2^30 items");
    return {};
}

Status check_metadata(const GgufMetadata& metadata) {
    if (metadata.entries().size() > GgufLimits::keys) return usage_error("more than 65536 metadata entries");
    for (const auto& [key, value] : metadata.entries()) {
        SKIFF_CHECK(check_gguf_key(key));
        auto status = check_value(value);
        if (!status.ok()) return status.take_error().with_context("\"" + key + "\"");
    }
    return {};
}

std::string head_of(const GgufLayout& layout, std::uint64_t alignment, const std::vector<std::uint64_t>& sizes_bytes) {
    std::string head;
    put(head, gguf_magic);
    put(head, gguf_version);
    put<std::uint64_t>(head, layout.tensors.size());
    put<std::uint64_t>(head, layout.metadata.entries().size());
    for (const auto& [key, value] : layout.metadata.entries()) {
        put_string(head, key);
        put_value(head, value);
    }
    std::uint64_t offset = 0;
    for (std::size_t i = 0; i < layout.tensors.size(); ++i) {
        const GgufTensorSpec& spec = layout.tensors[i];
        put_string(head, spec.name);
        put<std::uint32_t>(head, static_cast<std::uint32_t>(spec.shape.size()));
        for (auto n = spec.shape.rbegin(); n != spec.shape.rend(); ++n) put<std::int64_t>(head, *n);
        put<std::uint32_t>(head, spec.type->id);
        put<std::uint64_t>(head, offset);
        offset = round_up(offset + sizes_bytes[i], alignment);
    }
    return head;
}

}  // namespace

GgufLayout gguf_layout_of(const GgufMetadata& metadata, const std::vector<GgufTensor>& tensors) {
    GgufLayout layout{metadata, {}};
    for (const GgufTensor& tensor : tensors) layout.tensors.push_back({tensor.name, tensor.type, tensor.shape});
    return layout;
}

Result<GgufWriter> GgufWriter::create(const std::string& path, const GgufLayout& layout) {
    SKIFF_CHECK(check_metadata(layout.metadata));
    SKIFF_TRY(const auto alignment, gguf_alignment(layout.metadata));
    if (layout.tensors.size() > GgufLimits::tensors) return usage_error("more than 131072 tensors cannot be written to GGUF");
    std::set<std::string_view> names;
    std::vector<Pending> pending;
    std::vector<std::uint64_t> sizes_bytes;
    for (const GgufTensorSpec& spec : layout.tensors) {
        SKIFF_CHECK(check_gguf_tensor_name(spec.name));
        if (!names.insert(spec.name).second) return usage_error("tensor \"" + spec.name + "\" is declared twice");
        auto size = gguf_tensor_bytes(*spec.type, spec.shape);
        if (!size.ok()) return size.take_error().with_context("tensor \"" + spec.name + "\"");
        pending.push_back({spec, *size});
        sizes_bytes.push_back(*size);
    }
    SKIFF_TRY(auto file, AtomicFile::create(path));
    SKIFF_CHECK(file.write(head_of(layout, alignment, sizes_bytes)));
    SKIFF_CHECK(file.pad_to(alignment));
    return GgufWriter(std::move(file), std::move(pending), alignment);
}

Status GgufWriter::begin(std::string_view name) {
    if (is_open()) return usage_error("tensor \"" + current().spec.name + "\" is not complete yet");
    if (n_begun_ == tensors_.size() || tensors_[n_begun_].spec.name != name)
        return usage_error("tensor \"" + std::string(name) + "\" is not the next in the file's order" +
                           (n_begun_ < tensors_.size() ? ", which is \"" + tensors_[n_begun_].spec.name + "\"" : ""));
    ++n_begun_;
    written_bytes_ = 0;
    return {};
}

Status GgufWriter::append_bytes(std::span<const std::byte> bytes) {
    if (bytes.empty()) return {};
    if (!is_open()) return usage_error("no tensor was begun that takes more bytes");
    if (bytes.size() > current().size_bytes - written_bytes_)
        return usage_error("tensor \"" + current().spec.name + "\" takes " + std::to_string(current().size_bytes - written_bytes_) +
                           " more bytes, got " + std::to_string(bytes.size()));
    SKIFF_CHECK(file_.write(bytes));
    written_bytes_ += bytes.size();
    return is_open() ? Status() : file_.pad_to(alignment_);
}

Status GgufWriter::append_blocks(std::span<const float> values, std::span<const float> importance) {
    const GgufTensorSpec& spec = current().spec;
    const BlockFormat& format = block_format(*spec.type->block);
    if (format.encode == nullptr)
        return unsupported("tensor \"" + spec.name + "\": quantizing to " + std::string(format.name) + " is not offered");
    const auto n_columns = static_cast<std::size_t>(spec.shape.back());
    std::vector<std::byte> row(n_columns / static_cast<std::size_t>(format.block_size) * static_cast<std::size_t>(format.block_bytes));
    for (std::size_t begin = 0; begin < values.size(); begin += n_columns) {
        for (std::size_t i = 0; i < n_columns; ++i) {
            if (!std::isfinite(values[begin + i]))
                return corrupt("tensor \"" + spec.name + "\": a weight in column " + std::to_string(i) +
                               " is not a finite number; it cannot be quantized");
        }
        format.encode(values.data() + begin, importance.empty() ? nullptr : importance.data(), static_cast<std::int64_t>(n_columns), row.data());
        SKIFF_CHECK(append_bytes(row));
    }
    return {};
}

Status GgufWriter::append_floats(std::span<const float> values, std::span<const float> importance) {
    if (values.empty()) return {};
    if (!is_open()) return usage_error("no tensor was begun that takes more numbers");
    const GgufTensorSpec& spec = current().spec;
    const auto n_columns = static_cast<std::size_t>(spec.shape.back());
    if (values.size() % n_columns != 0)
        return usage_error("tensor \"" + spec.name + "\" takes whole rows of " + std::to_string(n_columns) + " numbers");
    if (!importance.empty() && importance.size() != n_columns)
        return usage_error("tensor \"" + spec.name + "\": " + std::to_string(importance.size()) + " importances for " +
                           std::to_string(n_columns) + " columns");
    if (spec.type->block) return append_blocks(values, importance);
    if (!spec.type->dtype || dtype_info(*spec.type->dtype).from_float == nullptr)
        return unsupported("tensor \"" + spec.name + "\": writing " + std::string(spec.type->name) + " is not offered");
    std::vector<std::byte> bytes(values.size() * static_cast<std::size_t>(spec.type->block_bytes));
    dtype_info(*spec.type->dtype).from_float(values.data(), static_cast<std::int64_t>(values.size()), bytes.data());
    return append_bytes(bytes);
}

Status GgufWriter::commit() {
    if (is_open() || n_begun_ < tensors_.size())
        return usage_error("tensor \"" + (is_open() ? current() : tensors_[n_begun_]).spec.name + "\" was not written completely");
    return file_.commit();
}

}  // namespace skiff
