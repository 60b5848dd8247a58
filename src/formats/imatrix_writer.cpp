// The GGUF form of an importance matrix, as llama.cpp's tools read and write it.
#include <cstring>

#include "formats/gguf_types.h"
#include "formats/gguf_writer.h"
#include "formats/imatrix.h"

namespace skiff {

Status Imatrix::write(const std::string& path, std::int64_t chunk_tokens) const {
    GgufLayout layout;
    GgufStrings names;
    for (const std::string& name : datasets) names.push_back(name);
    layout.metadata.set("general.type", std::string("imatrix"));
    layout.metadata.set("imatrix.datasets", GgufArray(std::move(names)));
    layout.metadata.set("imatrix.chunk_count", static_cast<std::uint32_t>(n_chunks));
    layout.metadata.set("imatrix.chunk_size", static_cast<std::uint32_t>(chunk_tokens));
    const GgufType* f32 = gguf_type_by_name("F32");
    for (const auto& [name, entry] : entries) {
        layout.tensors.push_back({name + ".in_sum2", f32, {entry.n_matrices, entry.n_inputs()}});
        layout.tensors.push_back({name + ".counts", f32, {entry.n_matrices, 1}});
    }
    SKIFF_TRY(auto writer, GgufWriter::create(path, layout));
    for (const auto& [name, entry] : entries) {
        std::vector<float> sums(entry.importance), counts;
        for (std::int64_t matrix = 0; matrix < entry.n_matrices; ++matrix) {
            const auto count = static_cast<float>(entry.counts[static_cast<std::size_t>(matrix)]);
            counts.push_back(count);
            for (std::int64_t i = 0; i < entry.n_inputs(); ++i) sums[static_cast<std::size_t>(matrix * entry.n_inputs() + i)] *= count;
        }
        SKIFF_CHECK(writer.begin(name + ".in_sum2"));
        SKIFF_CHECK(writer.append_bytes(std::as_bytes(std::span<const float>(sums))));
        SKIFF_CHECK(writer.begin(name + ".counts"));
        SKIFF_CHECK(writer.append_bytes(std::as_bytes(std::span<const float>(counts))));
    }
    return writer.commit();
}

}  // namespace skiff
