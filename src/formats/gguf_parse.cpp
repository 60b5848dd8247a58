#include "formats/gguf_parse.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "base/checked.h"
#include "base/span_reader.h"

namespace skiff {
namespace {

// What a record needs at least, so that counts can be compared with the bytes left before anything is allocated.
constexpr std::uint64_t min_entry_bytes = 8 + 1 + 4 + 1;               // key length, key, type, value
constexpr std::uint64_t min_tensor_bytes = 8 + 1 + 4 + 8 + 4 + 8;      // name length, name, rank, dimension, type, offset

std::uint64_t min_item_bytes(std::uint32_t type) {
    static constexpr std::uint64_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
    return sizes[type];
}

Error too_large(std::string_view what, std::uint64_t found, std::uint64_t limit) {
    return corrupt(std::string(what) + " is " + std::to_string(found) + ", at most " + std::to_string(limit) + " is allowed");
}

Result<std::string_view> read_string(SpanReader& reader, std::string_view what, std::uint64_t limit_bytes) {
    SKIFF_TRY(const auto length, reader.read<std::uint64_t>(std::string(what) + " length"));
    if (length > limit_bytes) return too_large(std::string(what) + " length", length, limit_bytes);
    return reader.take_string(length, what);
}

Result<bool> read_bool(SpanReader& reader) {
    SKIFF_TRY(const auto byte, reader.read<std::uint8_t>("bool"));
    if (byte > 1) return corrupt("a bool is " + std::to_string(byte) + ", expected 0 or 1");
    return byte == 1;
}

Result<GgufArray> read_strings(SpanReader& reader, std::uint64_t n) {
    GgufStrings strings;
    strings.reserve(static_cast<std::size_t>(n));
    for (std::uint64_t i = 0; i < n; ++i) {
        SKIFF_TRY(auto text, read_string(reader, "string", GgufLimits::string_bytes));
        strings.push_back(text);
    }
    return GgufArray(std::move(strings));
}

Result<GgufArray> read_bools(SpanReader& reader, std::uint64_t n) {
    SKIFF_TRY(auto bytes, reader.take(n, "array of bool"));
    GgufBools bools;
    for (std::byte byte : bytes) {
        if (byte > std::byte{1}) return corrupt("a bool in an array is " + std::to_string(static_cast<int>(byte)) + ", expected 0 or 1");
    }
    bools.values.resize(bytes.size());
    if (!bytes.empty()) std::memcpy(bools.values.data(), bytes.data(), bytes.size());
    return GgufArray(std::move(bools));
}

template <class T>
Result<GgufArray> read_numbers(SpanReader& reader, std::uint64_t n) {
    SKIFF_TRY(auto bytes, reader.take(n * sizeof(T), "array items"));
    std::vector<T> items(static_cast<std::size_t>(n));
    if (!bytes.empty()) std::memcpy(items.data(), bytes.data(), bytes.size());
    return GgufArray(std::move(items));
}

Result<GgufArray> read_array(SpanReader& reader) {
    SKIFF_TRY(const auto type, reader.read<std::uint32_t>("array item type"));
    if (type >= n_gguf_value_types) return corrupt("array item type " + std::to_string(type) + " is not known (0 to 12 are)");
    if (type == gguf_array_type) return corrupt("an array in an array; only flat arrays are read");
    SKIFF_TRY(const auto n, reader.read<std::uint64_t>("array length"));
    if (n > GgufLimits::array_items) return too_large("array length", n, GgufLimits::array_items);
    if (n > reader.remaining() / min_item_bytes(type))
        return corrupt("truncated: an array of " + std::to_string(n) + " " + std::string(gguf_value_type_name(type)) + " does not fit into the " +
                       std::to_string(reader.remaining()) + " bytes left");
    switch (type) {
        case 0: return read_numbers<std::uint8_t>(reader, n);
        case 1: return read_numbers<std::int8_t>(reader, n);
        case 2: return read_numbers<std::uint16_t>(reader, n);
        case 3: return read_numbers<std::int16_t>(reader, n);
        case 4: return read_numbers<std::uint32_t>(reader, n);
        case 5: return read_numbers<std::int32_t>(reader, n);
        case 6: return read_numbers<float>(reader, n);
        case 7: return read_bools(reader, n);
        case 8: return read_strings(reader, n);
        case 10: return read_numbers<std::uint64_t>(reader, n);
        case 11: return read_numbers<std::int64_t>(reader, n);
        default: return read_numbers<double>(reader, n);
    }
}

template <class T>
Result<GgufValue> read_scalar(SpanReader& reader) {
    SKIFF_TRY(const auto value, reader.read<T>("value"));
    return GgufValue(value);
}

Result<GgufValue> read_value(SpanReader& reader) {
    SKIFF_TRY(const auto type, reader.read<std::uint32_t>("value type"));
    switch (type) {
        case 0: return read_scalar<std::uint8_t>(reader);
        case 1: return read_scalar<std::int8_t>(reader);
        case 2: return read_scalar<std::uint16_t>(reader);
        case 3: return read_scalar<std::int16_t>(reader);
        case 4: return read_scalar<std::uint32_t>(reader);
        case 5: return read_scalar<std::int32_t>(reader);
        case 6: return read_scalar<float>(reader);
        case 7: {
            SKIFF_TRY(const bool value, read_bool(reader));
            return GgufValue(value);
        }
        case gguf_string_type: {
            SKIFF_TRY(auto text, read_string(reader, "string", GgufLimits::string_bytes));
            return GgufValue(std::string(text));
        }
        case gguf_array_type: {
            SKIFF_TRY(auto array, read_array(reader));
            return GgufValue(std::move(array));
        }
        case 10: return read_scalar<std::uint64_t>(reader);
        case 11: return read_scalar<std::int64_t>(reader);
        case 12: return read_scalar<double>(reader);
        default: return corrupt("value type " + std::to_string(type) + " is not known (0 to 12 are)");
    }
}

Status read_entry(SpanReader& reader, GgufMetadata& metadata) {
    SKIFF_TRY(auto key, read_string(reader, "key", GgufLimits::key_bytes));
    SKIFF_CHECK(check_gguf_key(key));
    auto value = read_value(reader);
    if (!value.ok()) return value.take_error().with_context("\"" + std::string(key) + "\"");
    return metadata.add(std::string(key), std::move(*value));
}

struct Counts {
    std::uint64_t tensors, keys;
};

Result<Counts> read_counts(SpanReader& reader) {
    SKIFF_TRY(const auto n_tensors, reader.read<std::uint64_t>("tensor count"));
    SKIFF_TRY(const auto n_keys, reader.read<std::uint64_t>("metadata count"));
    if (n_tensors > GgufLimits::tensors) return too_large("tensor count", n_tensors, GgufLimits::tensors);
    if (n_keys > GgufLimits::keys) return too_large("metadata count", n_keys, GgufLimits::keys);
    if (n_keys * min_entry_bytes + n_tensors * min_tensor_bytes > reader.remaining())
        return corrupt("truncated: " + std::to_string(n_keys) + " metadata entries and " + std::to_string(n_tensors) +
                       " tensors do not fit into the " + std::to_string(reader.remaining()) + " bytes left");
    return Counts{n_tensors, n_keys};
}

Result<std::uint32_t> read_version(SpanReader& reader) {
    SKIFF_TRY(const auto magic, reader.read<std::uint32_t>("magic"));
    if (magic != gguf_magic) return corrupt("not a GGUF file: it does not begin with \"GGUF\"");
    SKIFF_TRY(const auto version, reader.read<std::uint32_t>("version"));
    if ((version & 0xffff) == 0)
        return corrupt("version " + std::to_string(version) + ": the file seems to be big-endian; write it again on a little-endian machine");
    if (version != 2 && version != 3) return corrupt("version " + std::to_string(version) + ", versions 2 and 3 are read; convert the model again");
    return version;
}

Result<Shape> read_shape(SpanReader& reader) {
    SKIFF_TRY(const auto rank, reader.read<std::uint32_t>("rank"));
    if (rank < 1 || rank > GgufLimits::dimensions) return corrupt("rank " + std::to_string(rank) + ", expected 1 to 4");
    Shape shape(rank);
    for (std::uint32_t i = 0; i < rank; ++i) {
        SKIFF_TRY(shape[rank - 1 - i], reader.read<std::int64_t>("dimension"));
    }
    return shape;
}

struct TensorRecord {
    GgufTensor tensor;
    std::uint64_t offset_bytes = 0, size_bytes = 0;
};

Result<TensorRecord> read_tensor(SpanReader& reader) {
    TensorRecord record;
    SKIFF_TRY(auto name, read_string(reader, "tensor name", GgufLimits::tensor_name_bytes));
    SKIFF_CHECK(check_gguf_tensor_name(name));
    record.tensor.name = std::string(name);
    auto rest = [&]() -> Status {
        SKIFF_TRY(record.tensor.shape, read_shape(reader));
        SKIFF_TRY(const auto type_id, reader.read<std::uint32_t>("tensor type"));
        SKIFF_TRY(record.tensor.type, gguf_type(type_id));
        SKIFF_TRY(record.offset_bytes, reader.read<std::uint64_t>("offset"));
        SKIFF_TRY(record.size_bytes, gguf_tensor_bytes(*record.tensor.type, record.tensor.shape));
        return {};
    }();
    if (!rest.ok()) return rest.take_error().with_context("tensor \"" + record.tensor.name + "\"");
    return record;
}

// Tensors follow each other without gap or overlap, each at the next aligned offset, and all end within the file.
Status place_tensor(TensorRecord& record, std::uint64_t expected_offset, std::span<const std::byte> bytes, std::uint64_t data_start) {
    const std::string where = "tensor \"" + record.tensor.name + "\": ";
    if (record.offset_bytes != expected_offset)
        return corrupt(where + "offset " + std::to_string(record.offset_bytes) + ", expected " + std::to_string(expected_offset) +
                       " (tensors must follow each other, aligned)");
    auto begin = checked_add(data_start, record.offset_bytes);
    auto end = begin ? checked_add(*begin, record.size_bytes) : std::nullopt;
    if (!end || *end > bytes.size())
        return corrupt(where + "truncated: its " + std::to_string(record.size_bytes) + " bytes at offset " +
                       std::to_string(record.offset_bytes) + " of the data end beyond the file of " + std::to_string(bytes.size()) +
                       " bytes; download or convert it again");
    record.tensor.data = bytes.subspan(static_cast<std::size_t>(*begin), static_cast<std::size_t>(record.size_bytes));
    return {};
}

Status check_unique_names(const std::vector<GgufTensor>& tensors) {
    std::vector<std::string_view> names;
    names.reserve(tensors.size());
    for (const GgufTensor& tensor : tensors) names.push_back(tensor.name);
    std::sort(names.begin(), names.end());
    auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) return corrupt("tensor \"" + std::string(*twice) + "\" is there twice");
    return {};
}

Status read_tensors(SpanReader& reader, std::uint64_t n_tensors, std::span<const std::byte> bytes, GgufPart& part) {
    std::vector<TensorRecord> records;
    records.reserve(static_cast<std::size_t>(n_tensors));
    for (std::uint64_t i = 0; i < n_tensors; ++i) {
        SKIFF_TRY(auto record, read_tensor(reader));
        records.push_back(std::move(record));
    }
    const std::uint64_t data_start = round_up<std::uint64_t>(reader.position(), part.alignment);
    std::uint64_t offset = 0;
    part.tensors.reserve(records.size());
    for (TensorRecord& record : records) {
        SKIFF_CHECK(place_tensor(record, offset, bytes, data_start));
        offset = round_up(offset + record.size_bytes, part.alignment);  // both are below the file's size by now
        part.tensors.push_back(std::move(record.tensor));
    }
    return check_unique_names(part.tensors);
}

}  // namespace

Status check_gguf_key(std::string_view key) {
    if (key.empty()) return corrupt("a metadata key is empty");
    if (key.size() > GgufLimits::key_bytes) return too_large("key length", key.size(), GgufLimits::key_bytes);
    for (unsigned char byte : key) {
        if (byte < 0x20 || byte > 0x7e) return corrupt("a metadata key has the byte " + std::to_string(byte) + ", expected printable ASCII");
    }
    return {};
}

Status check_gguf_tensor_name(std::string_view name) {
    if (name.empty()) return corrupt("a tensor name is empty");
    if (name.size() > GgufLimits::tensor_name_bytes) return too_large("tensor name length", name.size(), GgufLimits::tensor_name_bytes);
    for (unsigned char byte : name) {
        if (byte < 0x20 || byte == 0x7f) return corrupt("a tensor name has the control character " + std::to_string(byte));
    }
    return {};
}

Result<std::uint64_t> gguf_alignment(const GgufMetadata& metadata) {
    const GgufValue* value = metadata.find("general.alignment");
    if (value == nullptr) return gguf_default_alignment;
    const auto* alignment = std::get_if<std::uint32_t>(value);
    if (alignment == nullptr) return corrupt("general.alignment: expected u32, found " + gguf_value_description(*value));
    if (!std::has_single_bit(*alignment) || *alignment < 8 || *alignment > GgufLimits::alignment)
        return corrupt("general.alignment is " + std::to_string(*alignment) + ", expected a power of two from 8 to 65536");
    return *alignment;
}

Result<std::uint64_t> gguf_tensor_bytes(const GgufType& type, const Shape& shape) {
    if (shape.empty() || shape.size() > GgufLimits::dimensions) return corrupt("rank " + std::to_string(shape.size()) + ", expected 1 to 4");
    for (std::int64_t n : shape) {
        if (n < 1) return corrupt("a dimension is " + std::to_string(n) + ", expected at least 1");
    }
    auto n_elements = checked_product(shape);
    if (!n_elements) return corrupt("shape " + shape_text(shape) + " has more than 2^63 elements");
    if (shape.back() % type.block_size != 0)
        return corrupt("rows of " + std::to_string(shape.back()) + " elements do not fill " + std::string(type.name) + " blocks of " +
                       std::to_string(type.block_size));
    const auto n_blocks = static_cast<std::uint64_t>(*n_elements / type.block_size);
    auto n_bytes = checked_mul(n_blocks, static_cast<std::uint64_t>(type.block_bytes));
    // No room to pad the next tensor's offset: as good as an overflow.
    if (!n_bytes || !checked_add<std::uint64_t>(*n_bytes, GgufLimits::alignment))
        return corrupt("shape " + shape_text(shape) + " needs more than 2^64 bytes");
    return *n_bytes;
}

Result<GgufPart> parse_gguf(std::span<const std::byte> bytes) {
    SpanReader reader(bytes);
    GgufPart part;
    SKIFF_TRY(part.version, read_version(reader));
    SKIFF_TRY(const Counts counts, read_counts(reader));
    for (std::uint64_t i = 0; i < counts.keys; ++i) {
        auto status = read_entry(reader, part.metadata);
        if (!status.ok()) return status.take_error().with_context("metadata entry " + std::to_string(i));
    }
    SKIFF_TRY(part.alignment, gguf_alignment(part.metadata));
    SKIFF_CHECK(read_tensors(reader, counts.tensors, bytes, part));
    return part;
}

}  // namespace skiff
