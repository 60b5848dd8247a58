#include "plan/pack_file.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <type_traits>

#include "base/checked.h"
#include "base/hash.h"
#include "base/span_reader.h"

namespace skiff {
namespace {

constexpr char magic[8] = {'S', 'K', 'I', 'F', 'P', 'A', 'C', 'K'};
constexpr std::uint64_t head_bytes = 64, trailer_bytes = 64;
constexpr std::uint64_t max_strings = 1 << 16;

class Writer {
public:
    std::vector<std::byte> bytes;
    template <class T>
        requires std::is_arithmetic_v<T> void operator()(const T& value) {
            const auto* begin = reinterpret_cast<const std::byte*>(&value);
            bytes.insert(bytes.end(), begin, begin + sizeof value);
        }
    void operator()(const bool& value) { (*this)(static_cast<std::uint8_t>(value)); }
    void operator()(const std::string& text) {
        (*this)(static_cast<std::uint32_t>(text.size()));
        const auto view = std::as_bytes(std::span(text));
        bytes.insert(bytes.end(), view.begin(), view.end());
    }
    template <class E>
        requires std::is_enum_v<E> void choice(const E& value, E) { (*this)(static_cast<std::uint8_t>(value)); }
    void operator()(const Codebook* const& codebook) { (*this)(codebook == nullptr ? std::string() : std::string(codebook->name)); }
    void scale_book(const Codebook* const& book) { (*this)(book); }
};

class Reader {
public:
    explicit Reader(std::span<const std::byte> bytes) : reader_(bytes) {}
    Status status;
    std::size_t remaining() const { return reader_.remaining(); }

    template <class T>
        requires std::is_arithmetic_v<T> void operator()(T& value) {
            if (!status.ok()) return;
            auto read = reader_.read<T>("a number");
            if (read.ok()) value = *read;
            else status = read.take_error();
        }
    void operator()(bool& value) {
        std::uint8_t byte = 0;
        (*this)(byte);
        if (byte > 1) fail("a flag is " + std::to_string(byte));
        value = byte == 1;
    }
    void operator()(std::string& text) {
        std::uint32_t size = 0;
        (*this)(size);
        if (size > max_strings) return fail("a text of " + std::to_string(size) + " bytes");
        if (!status.ok()) return;
        auto view = reader_.take_string(size, "a text");
        if (view.ok()) text = std::string(*view);
        else status = view.take_error();
    }
    // One of the values up to `last`.
    template <class E>
        requires std::is_enum_v<E> void choice(E& value, E last) {
            std::uint8_t byte = 0;
            (*this)(byte);
            if (byte > static_cast<std::uint8_t>(last)) return fail("a choice is " + std::to_string(byte));
            value = static_cast<E>(byte);
        }
    void operator()(const Codebook*& codebook) {
        std::string name;
        (*this)(name);
        codebook = find_codebook(name);
        if (codebook == nullptr && !name.empty()) fail("no codebook is called " + name.substr(0, 64));
    }
    void scale_book(const Codebook*& book) {
        std::string name;
        (*this)(name);
        book = find_scale_book(name);
        if (book == nullptr && !name.empty()) fail("no table of scales is called " + name.substr(0, 64));
    }
    void fail(std::string what) {
        if (status.ok()) status = corrupt(what + " in the index");
    }

private:
    SpanReader reader_;
};

// The fields of a packed weight, for reading and writing alike. A new field is one line here (and a new pack_file_version).
template <class Archive, class Packed>
void fields(Archive& archive, Packed& weight) {
    archive(weight.n_rows);
    archive(weight.n_columns);
    archive.choice(weight.scheme.kind, NumberKind::vectors);
    archive.choice(weight.scheme.dtype, DType::u64);
    archive(weight.scheme.bits);
    archive(weight.scheme.symmetric);
    archive(weight.scheme.group_size);
    archive.choice(weight.scheme.scale_dtype, DType::u64);
    archive(weight.scheme.codebook);
    archive(weight.scheme.minimums);
    archive(weight.scheme.super_size);
    archive.choice(weight.scheme.super_dtype, DType::u64);
    archive.scale_book(weight.scheme.scale_book);
    archive(weight.scheme.n_levels);
    archive(weight.scheme.one_table);
    archive(weight.scheme.vector);
    archive(weight.scheme.n_books);
    archive.choice(weight.dtype, DType::u64);
    archive.choice(weight.block_type, BlockType::tq2_0);
    archive.choice(weight.tiles, TileForm::hashed);
    archive(weight.mask_rows);
    archive(weight.read_bytes);
}

const Layout* layout_by_name(std::string_view name) {
    for (const Layout* layout : layout_table())
        if (layout->name == name) return layout;
    return nullptr;
}

std::uint64_t hash_of_block(std::span<const std::byte> file, std::uint64_t data_bytes, std::size_t block) {
    const std::uint64_t begin = block * pack_block_bytes, end = std::min(begin + pack_block_bytes, data_bytes);
    return hash64(file.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)), block);
}

// What the fields say must be what the layout packs, in exactly the bytes that are there: a kernel trusts it.
Status check_record(PackRecord& record, const std::string& layout_name, std::uint64_t data_bytes) {
    PackedWeight& weight = record.weight;
    const std::string where = "weight " + record.key.substr(0, 200);
    weight.layout = layout_by_name(layout_name);
    if (weight.layout == nullptr) return corrupt(where + ": no layout is called " + layout_name.substr(0, 64));
    if (weight.layout->sections == nullptr) return corrupt(where + ": layout " + layout_name + " is never cached");
    const auto area = checked_mul(weight.n_rows, weight.n_columns);
    // 2^40 weights at 8 bytes each, and the layout's own padding, stay far below 2^63.
    if (weight.n_rows < 1 || weight.n_columns < 1 || !area || *area > (std::int64_t{1} << 40) || weight.n_rows > (1 << 30) || weight.n_columns > (1 << 30))
        return corrupt(where + ": its shape is " + std::to_string(weight.n_rows) + " x " + std::to_string(weight.n_columns));
    const Scheme& scheme = weight.scheme;
    const bool sound = (scheme.is_coded() ? decodes(scheme) : scheme.codebook == nullptr) && scheme.group_size <= (1 << 30) && scheme.super_size <= (1 << 30);
    if (!sound) return corrupt(where + ": its scheme is none");
    const auto wanted = weight.layout->sections(weight);
    if (!wanted) return corrupt(where + ": layout " + layout_name + " packs no such weight");
    if (weight.read_bytes > wanted->total()) return corrupt(where + ": one pass reads more than there is");
    for (std::size_t i = 0; i < n_pack_sections; ++i) {
        const std::uint64_t size = record.sizes.*pack_sections[i].size, offset = record.offsets[i];
        if (size != (*wanted).*pack_sections[i].size)
            return corrupt(where + ": its " + pack_sections[i].name + " have " + std::to_string(size) + " bytes");
        const auto end = checked_add(offset, size);
        if (size > 0 && (offset < head_bytes || offset % pack_section_alignment != 0 || !end || *end > data_bytes))
            return corrupt(where + ": its " + pack_sections[i].name + " lie outside of the file's data");
    }
    return {};
}

template <class Archive>
void sections(Archive& archive, std::conditional_t<std::is_same_v<Archive, Writer>, const PackRecord, PackRecord>& record) {
    for (std::size_t i = 0; i < n_pack_sections; ++i) {
        archive(record.offsets[i]);
        archive(record.sizes.*pack_sections[i].size);
    }
}

}  // namespace

void copy_packed_fields(const PackedWeight& from, PackedWeight& to) {
    Writer writer;
    fields(writer, from);
    Reader reader(writer.bytes);
    fields(reader, to);
    to.layout = from.layout;
    to.levels = to.scheme.codebook == nullptr ? nullptr : to.scheme.codebook->levels.data();
}

std::vector<std::byte> pack_file_head() {
    Writer writer;
    for (char letter : magic) writer(letter);
    writer(pack_file_version);
    writer.bytes.resize(head_bytes);
    return writer.bytes;
}

void place_sections(PackIndex& index) {
    std::uint64_t at = head_bytes;
    for (PackRecord& record : index.records)
        for (std::size_t i = 0; i < n_pack_sections; ++i) {
            const std::uint64_t size = record.sizes.*pack_sections[i].size;
            if (size == 0) continue;
            record.offsets[i] = at = round_up(at, pack_section_alignment);
            at += size;
        }
    index.data_bytes = round_up(at, pack_section_alignment);
}

std::vector<std::byte> pack_index_bytes(const PackIndex& index) {
    Writer writer;
    writer(index.source);
    writer(static_cast<std::uint32_t>(index.records.size()));
    for (const PackRecord& record : index.records) {
        writer(record.key);
        writer.choice(record.form, PackRecord::Form::as_stored);
        if (record.form == PackRecord::Form::as_stored) continue;
        writer(std::string(record.weight.layout->name));
        writer(record.layout_version);
        writer(record.fingerprint);
        fields(writer, record.weight);
        sections(writer, record);
    }
    for (std::uint64_t hash : index.block_hashes) writer(hash);
    const std::vector<std::byte> trailer = pack_trailer(index.data_bytes, writer.bytes);
    writer.bytes.insert(writer.bytes.end(), trailer.begin(), trailer.end());
    return writer.bytes;
}

std::vector<std::byte> pack_trailer(std::uint64_t data_bytes, std::span<const std::byte> index) {
    Writer trailer;
    for (char letter : magic) trailer(letter);
    trailer(pack_file_version);
    trailer(std::uint32_t{0});
    trailer(data_bytes);
    trailer(std::uint64_t{index.size()});
    trailer(hash64(index));
    trailer.bytes.resize(trailer_bytes - 8);
    trailer(hash64(trailer.bytes));
    return trailer.bytes;
}

Result<PackIndex> parse_pack_file(std::span<const std::byte> file) {
    if (file.size() < head_bytes + trailer_bytes) return corrupt("too short");
    if (std::memcmp(file.data(), magic, sizeof magic) != 0) return corrupt("no packed weights");
    const auto trailer = file.last(trailer_bytes);
    SpanReader reader(trailer.subspan(sizeof magic));
    SKIFF_TRY(auto version, reader.read<std::uint32_t>("version"));
    SKIFF_TRY(auto reserved, reader.read<std::uint32_t>("reserved"));
    SKIFF_TRY(auto data_bytes, reader.read<std::uint64_t>("data bytes"));
    SKIFF_TRY(auto index_bytes, reader.read<std::uint64_t>("index bytes"));
    SKIFF_TRY(auto index_hash, reader.read<std::uint64_t>("index hash"));
    std::uint64_t trailer_hash;
    std::memcpy(&trailer_hash, trailer.data() + trailer_bytes - 8, 8);
    if (std::memcmp(trailer.data(), magic, sizeof magic) != 0 || trailer_hash != hash64(trailer.first(trailer_bytes - 8)))
        return corrupt("its end is missing or damaged");
    if (version != pack_file_version || reserved != 0) return corrupt("version " + std::to_string(version) + ", expected " + std::to_string(pack_file_version));
    const auto index_end = checked_add(data_bytes, index_bytes);
    if (data_bytes < head_bytes || !index_end || *index_end != file.size() - trailer_bytes) return corrupt("its parts do not fill it");
    const auto index_part = file.subspan(static_cast<std::size_t>(data_bytes), static_cast<std::size_t>(index_bytes));
    if (hash64(index_part) != index_hash) return corrupt("its index is damaged");

    PackIndex index;
    index.data_bytes = data_bytes;
    Reader archive(index_part);
    archive(index.source);
    std::uint32_t n_records = 0;
    archive(n_records);
    SKIFF_CHECK(archive.status);
    for (std::uint32_t i = 0; i < n_records; ++i) {
        PackRecord record;
        archive(record.key);
        archive.choice(record.form, PackRecord::Form::as_stored);
        if (record.form == PackRecord::Form::packed) {
            std::string layout_name;
            archive(layout_name);
            archive(record.layout_version);
            archive(record.fingerprint);
            fields(archive, record.weight);
            sections(archive, record);
            SKIFF_CHECK(archive.status);
            SKIFF_CHECK(check_record(record, layout_name, data_bytes));
        }
        SKIFF_CHECK(archive.status);
        index.records.push_back(std::move(record));
    }
    const std::uint64_t n_blocks = ceil_div(data_bytes, pack_block_bytes);
    if (archive.remaining() != n_blocks * sizeof(std::uint64_t)) return corrupt("its index has no checksum for each block");
    index.block_hashes.resize(static_cast<std::size_t>(n_blocks));
    for (std::uint64_t& hash : index.block_hashes) archive(hash);
    return index;
}

Status verify_blocks(std::span<const std::byte> file, const PackIndex& index, ThreadPool& pool) {
    std::atomic<std::size_t> next{0}, bad{SIZE_MAX};
    pool.run([&](int) {
        for (std::size_t block = next.fetch_add(1); block < index.block_hashes.size(); block = next.fetch_add(1))
            if (hash_of_block(file, index.data_bytes, block) != index.block_hashes[block]) bad.store(block);
    });
    if (bad.load() == SIZE_MAX) return {};
    return corrupt("damaged within the 4 MiB from byte " + std::to_string(bad.load() * pack_block_bytes));
}

}  // namespace skiff
