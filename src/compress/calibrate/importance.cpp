#include "compress/calibrate/importance.h"

#include <algorithm>

#include "base/atomic_file.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "compress/quantize/coded_rows.h"
#include "model/gguf_maps.h"
#include "model/shared_layers.h"

namespace skiff {
namespace {

Result<const GgufMap*> map_of(const Checkpoint& model) {
    const GgufMap* map = find_gguf_map(model.spec.architecture);
    if (map == nullptr) return unsupported("importance matrices name tensors as GGUF does, which has no names for " + model.spec.architecture + " here; it has: " + gguf_architecture_names());
    return map;
}

// The width of what a weight is multiplied with, by key.
std::map<std::string, std::int64_t> input_widths(const ModelSpec& spec) {
    std::map<std::string, std::int64_t> widths;
    for (const Block& block : spec.blocks)
        for (const auto& [key, id] : linear_inputs(block)) widths[key] = spec.width(id);
    return widths;
}

}  // namespace

Result<ImportanceFile> ImportanceFile::open(const std::string& path, const Checkpoint& model) {
    SKIFF_TRY(const GgufMap* map, map_of(model));
    SKIFF_TRY(const auto imatrix, Imatrix::open(path));
    ImportanceFile file;
    std::string example;
    for (const auto& [key, width] : input_widths(model.spec)) {
        const auto place = gguf_place_of(*map, key);
        if (!place) continue;
        if (example.empty()) example = place->name;
        const auto found = imatrix.entries.find(place->name);
        if (found == imatrix.entries.end()) continue;
        const std::int64_t matrix = std::max<std::int64_t>(0, place->expert);
        auto values = imatrix.importance(place->name, width, matrix);
        if (!values.ok()) return values.take_error().with_context(path + ", for " + key);
        const auto& counts = found->second.counts;
        const double count = counts.empty() ? 0 : counts[std::min<std::size_t>(static_cast<std::size_t>(matrix), counts.size() - 1)];
        InputStatistics statistics;
        // The older form counts runs, of some hundred tokens each.
        statistics.n_tokens = imatrix.counts_runs && count > 0 ? std::max<std::int64_t>(fewest_tokens, static_cast<std::int64_t>(count)) : static_cast<std::int64_t>(count);
        statistics.mean_square.assign(values->begin(), values->end());
        file.statistics_[key] = std::move(statistics);
    }
    if (file.statistics_.empty())
        return usage_error(path + ": has nothing for this model: it names tensors such as " + imatrix.entries.begin()->first + ", and the model's are such as " + (example.empty() ? "none that GGUF names" : example));
    SKIFF_TRY(const auto mapped, MappedFile::open(path));
    Sha256 hash;
    hash.update(mapped->bytes());
    Json datasets = Json::array();
    for (const std::string& name : imatrix.datasets) datasets.push_back(base_name(name));
    file.json_ = Json::object({{"name", base_name(path)}, {"sha256", hash.hex()}, {"datasets", std::move(datasets)}, {"chunks", imatrix.n_chunks}, {"tensors", static_cast<std::uint64_t>(file.statistics_.size())}});
    return file;
}

const InputStatistics* ImportanceFile::find(const std::string& key) const {
    const auto found = statistics_.find(key);
    return found == statistics_.end() ? nullptr : &found->second;
}

Json ImportanceFile::json() const { return json_; }

Result<Imatrix> measure_importance(const Checkpoint& model, const CalibrationText& text, int n_threads, const ProgressSink& progress) {
    if (model.config.contains(shared_layers_key)) {  // a GGUF file of it has copies, and an entry for each
        SKIFF_TRY(const auto copied, without_sharing(model));
        return measure_importance(copied, text, n_threads, progress);
    }
    SKIFF_TRY(const GgufMap* map, map_of(model));
    CalibrationWalk walk(model.spec, text, n_threads);
    SKIFF_CHECK(walk.embed(*model.weights));
    Imatrix imatrix;
    imatrix.datasets = {text.name};
    imatrix.n_chunks = static_cast<std::int64_t>(text.samples.size());
    for (std::size_t block = 1; block + 1 < walk.n_blocks(); ++block) {
        SKIFF_TRY(const auto inputs, walk.observe(block, *model.weights, StatisticsNeed::moments));
        for (const auto& [key, seen] : inputs) {
            const auto place = gguf_place_of(*map, key);
            if (!place) continue;
            Imatrix::Entry& entry = imatrix.entries[place->name];
            const auto matrix = static_cast<std::size_t>(std::max<std::int64_t>(0, place->expert)), n = seen->mean_square.size();
            if (entry.counts.size() <= matrix) {
                entry.counts.resize(matrix + 1);
                entry.importance.resize((matrix + 1) * n);
                entry.n_matrices = static_cast<std::int64_t>(matrix + 1);
            }
            entry.counts[matrix] = static_cast<double>(seen->n_tokens);
            std::copy(seen->mean_square.begin(), seen->mean_square.end(), entry.importance.begin() + static_cast<std::ptrdiff_t>(matrix * n));
        }
        SKIFF_CHECK(walk.advance(block, *model.weights));
        if (progress) progress({"calibrate", model.spec.blocks[block].name, block, walk.n_blocks() - 2});
    }
    if (imatrix.entries.empty()) return usage_error("the model has no matrix whose inputs are measured: its linear weights are products of factors; calibrate the model that it was made from");
    return imatrix;
}

}  // namespace skiff
