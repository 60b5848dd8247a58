#include "formats/imatrix.h"

#include <cmath>
#include <cstring>

#include "base/mapped_file.h"
#include "base/span_reader.h"
#include "formats/gguf_parse.h"
#include "tensor/weight.h"

namespace skiff {
namespace {

constexpr std::int64_t max_entries = 1'000'000, max_name_bytes = 1024, max_inputs = std::int64_t{1} << 28;

Error wrong(const std::string& name, const std::string& what) { return corrupt("imatrix entry \"" + name.substr(0, 80) + "\": " + what); }

// Squares are never negative, and a mean that is not finite would make every choice that it weighs a lottery.
Status check_sums(const std::string& name, const std::vector<float>& sums) {
    for (std::size_t i = 0; i < sums.size(); ++i)
        if (!std::isfinite(sums[i]) || sums[i] < 0) return wrong(name, "input " + std::to_string(i) + " has the sum of squares " + std::to_string(sums[i]));
    return {};
}

Status add(Imatrix& imatrix, const std::string& name, Imatrix::Entry entry) {
    const auto [place, is_new] = imatrix.entries.emplace(name, std::move(entry));
    return is_new ? Status() : Status(wrong(place->first, "is there twice"));
}

// ---- the older form: number of entries; each: length and bytes of the name, runs, number of values, means of squares times runs; then, in newer
// files of it, the number of the last run and the name of the text.
Result<Imatrix> parse_binary(std::span<const std::byte> bytes) {
    SpanReader reader(bytes);
    Imatrix imatrix;
    imatrix.counts_runs = true;
    SKIFF_TRY(const auto n_entries, reader.read<std::int32_t>("the number of entries"));
    if (n_entries < 1 || n_entries > max_entries) return corrupt("imatrix: " + std::to_string(n_entries) + " entries; is this an imatrix file?");
    for (std::int32_t i = 0; i < n_entries; ++i) {
        SKIFF_TRY(const auto n_name, reader.read<std::int32_t>("the length of a name"));
        if (n_name < 1 || n_name > max_name_bytes) return corrupt("imatrix entry " + std::to_string(i) + ": a name of " + std::to_string(n_name) + " bytes");
        SKIFF_TRY(const auto text, reader.take_string(static_cast<std::uint64_t>(n_name), "a name"));
        const std::string name(text);
        SKIFF_TRY(const auto n_runs, reader.read<std::int32_t>("the number of runs"));
        SKIFF_TRY(const auto n_values, reader.read<std::int32_t>("the number of values"));
        if (n_runs < 0 || n_values < 1 || n_values > max_inputs) return wrong(name, std::to_string(n_values) + " values of " + std::to_string(n_runs) + " runs");
        SKIFF_TRY(const auto data, reader.take(static_cast<std::uint64_t>(n_values) * 4, "the values of " + name));
        Imatrix::Entry entry;
        entry.importance.resize(static_cast<std::size_t>(n_values));
        std::memcpy(entry.importance.data(), data.data(), data.size());
        SKIFF_CHECK(check_sums(name, entry.importance));
        if (n_runs > 0)
            for (float& value : entry.importance) value /= static_cast<float>(n_runs);
        entry.counts = {static_cast<double>(n_runs)};
        SKIFF_CHECK(add(imatrix, name, std::move(entry)));
    }
    if (reader.remaining() == 0) return imatrix;
    SKIFF_TRY(const auto n_chunks, reader.read<std::int32_t>("the number of the last run"));
    SKIFF_TRY(const auto n_text, reader.read<std::int32_t>("the length of the text's name"));
    if (n_chunks < 0 || n_text < 0) return corrupt("imatrix: " + std::to_string(n_chunks) + " runs over a text with a name of " + std::to_string(n_text) + " bytes");
    SKIFF_TRY(const auto text, reader.take_string(static_cast<std::uint64_t>(n_text), "the text's name"));
    imatrix.n_chunks = n_chunks;
    if (n_text > 0) imatrix.datasets.emplace_back(text);
    if (reader.remaining() != 0) return corrupt("imatrix: " + std::to_string(reader.remaining()) + " bytes behind its end");
    return imatrix;
}

// ---- GGUF: tensors NAME.in_sum2 (n_matrices, n_inputs) f32 and NAME.counts (n_matrices, 1) f32.
constexpr std::string_view sums_end = ".in_sum2", counts_end = ".counts";

Result<std::vector<float>> floats_of(const GgufTensor& tensor) {
    if (tensor.type->dtype != DType::f32 || tensor.shape.empty()) return wrong(tensor.name, "is " + std::string(tensor.type->name) + ", expected F32");
    std::vector<float> values(tensor.data.size() / 4);
    if (!values.empty()) std::memcpy(values.data(), tensor.data.data(), values.size() * 4);
    return values;
}

Result<Imatrix> parse_gguf_form(std::span<const std::byte> bytes) {
    SKIFF_TRY(const auto part, parse_gguf(bytes));
    SKIFF_TRY(const auto type, part.metadata.text_or("general.type", ""));
    if (type != "imatrix") return corrupt("this GGUF file is of the type \"" + type.substr(0, 40) + "\", not \"imatrix\"");
    Imatrix imatrix;
    SKIFF_TRY(imatrix.n_chunks, part.metadata.integer_or("imatrix.chunk_count", 0));
    if (part.metadata.contains("imatrix.datasets")) {
        SKIFF_TRY(const GgufStrings* names, part.metadata.strings("imatrix.datasets"));
        for (std::size_t i = 0; i < names->size(); ++i) imatrix.datasets.emplace_back((*names)[i]);
    }
    std::map<std::string, const GgufTensor*, std::less<>> counts;
    for (const GgufTensor& tensor : part.tensors)
        if (tensor.name.ends_with(counts_end)) counts[tensor.name.substr(0, tensor.name.size() - counts_end.size())] = &tensor;
    for (const GgufTensor& tensor : part.tensors) {
        if (!tensor.name.ends_with(sums_end)) continue;
        const std::string name = tensor.name.substr(0, tensor.name.size() - sums_end.size());
        const auto found = counts.find(name);
        if (found == counts.end()) return wrong(name, "has no counts");
        Imatrix::Entry entry;
        SKIFF_TRY(entry.importance, floats_of(tensor));
        SKIFF_TRY(const auto n_tokens, floats_of(*found->second));
        SKIFF_CHECK(check_sums(name, entry.importance));
        const std::int64_t n_inputs = tensor.shape.back();
        entry.n_matrices = n_inputs == 0 ? 0 : static_cast<std::int64_t>(entry.importance.size()) / n_inputs;
        if (n_inputs < 1 || n_inputs > max_inputs || static_cast<std::int64_t>(n_tokens.size()) != entry.n_matrices)
            return wrong(name, std::to_string(n_tokens.size()) + " counts for sums " + shape_text(tensor.shape));
        for (std::int64_t matrix = 0; matrix < entry.n_matrices; ++matrix) {
            const float count = n_tokens[static_cast<std::size_t>(matrix)];
            if (!std::isfinite(count) || count < 0) return wrong(name, "a count of " + std::to_string(count));
            entry.counts.push_back(count);
            for (std::int64_t i = 0; i < n_inputs; ++i) {
                float& value = entry.importance[static_cast<std::size_t>(matrix * n_inputs + i)];
                value = count > 0 ? value / count : 0;
                if (!std::isfinite(value)) return wrong(name, "a count of " + std::to_string(count) + " makes a mean that is not finite");
            }
        }
        SKIFF_CHECK(add(imatrix, name, std::move(entry)));
    }
    if (imatrix.entries.empty()) return corrupt("imatrix: the file holds no sums of squares (tensors that end in .in_sum2)");
    return imatrix;
}

}  // namespace

Result<Imatrix> Imatrix::parse(std::span<const std::byte> bytes) {
    const bool is_gguf = bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0;
    return is_gguf ? parse_gguf_form(bytes) : parse_binary(bytes);
}

Result<Imatrix> Imatrix::open(const std::string& path) {
    SKIFF_TRY(const auto file, MappedFile::open(path));
    auto imatrix = parse(file->bytes());
    if (!imatrix.ok()) return imatrix.take_error().with_context(path);
    return imatrix;
}

Result<std::span<const float>> Imatrix::importance(std::string_view gguf_name, std::int64_t n_inputs, std::int64_t matrix) const {
    const auto found = entries.find(gguf_name);
    if (found == entries.end()) return not_found("the imatrix has nothing for " + std::string(gguf_name));
    const Entry& entry = found->second;
    // The older form keeps the experts of a tensor one behind the other, and does not say so.
    const auto n = static_cast<std::int64_t>(entry.importance.size());
    if (n_inputs < 1 || matrix < 0 || n % n_inputs != 0 || (entry.n_matrices > 1 && entry.n_inputs() != n_inputs) || matrix >= n / n_inputs)
        return corrupt("the imatrix has " + std::to_string(n) + " values for " + std::string(gguf_name) + ", which has " + std::to_string(n_inputs) + " inputs");
    return std::span<const float>(entry.importance).subspan(static_cast<std::size_t>(matrix * n_inputs), static_cast<std::size_t>(n_inputs));
}

}  // namespace skiff
