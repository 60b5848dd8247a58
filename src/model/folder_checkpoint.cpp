// A Hugging Face folder as a checkpoint: config.json, safetensors (plain or compressed-tensors), tokenizer files, our manifest.
#include <algorithm>

#include "base/file_identity.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "formats/checkpoint_files.h"
#include "formats/compressed_tensors.h"
#include "model/arch/arch.h"
#include "model/checkpoint.h"
#include "model/extra_terms.h"

namespace skiff {
namespace {

// Some checkpoints name their tensors from one level further in or out ("transformer.h.0..." for "h.0...").
constexpr std::string_view optional_prefixes[] = {"transformer.", "model.", "gpt_neox.", "language_model.", "base_model."};

class FolderWeights final : public WeightSource {
public:
    FolderWeights(CheckpointFiles files, std::optional<QuantizationConfig> quantization, std::string quantization_text)
        : files_(std::move(files)), quantization_(std::move(quantization)), quantization_text_(std::move(quantization_text)) {}

    bool contains(const std::string& key) const override { return !name_of(key).empty(); }
    std::vector<std::string> keys() const override { return files_.names(); }

    Result<Weight> load(const std::string& key) const override {
        const std::string name = name_of(key);
        if (name.empty()) return not_found("tensor " + key + " is not in the checkpoint, though config.json implies it");
        if (files_.contains(name)) {
            SKIFF_TRY(auto found, files_.tensor(name));
            const std::string module = module_of(name);
            if (dtype_info(found.view.dtype).bits == 8 && dtype_info(found.view.dtype).is_float && module != name &&
                (files_.contains(module + ".weight_scale") || files_.contains(module + ".weight_scale_inv")))
                return unsupported("tensor " + name + " is FP8 with scales beside it, a form that is not read yet; give the 16 bit checkpoint");
            // An int8 weight with scales beside it is a quantized one, not plain integers.
            if (found.view.dtype != DType::i8 || !files_.contains(module_of(name) + ".weight_scale")) {
                Weight weight;
                weight.shape = found.view.shape;
                weight.store = found.view;
                weight.owner = found.owner;
                weight.file_backed = true;
                return weight;
            }
        }
        SKIFF_TRY(auto weight, read_weight(module_of(name), lookup_in(files_), quantization_ ? &*quantization_ : nullptr));
        if (const Codes* codes = weight.codes()) weight.file_backed = in_files(codes->packed.data) && in_files(codes->scales.data);
        return weight;
    }

    std::string identity() const override {
        std::string text = "safetensors";
        for (const SafetensorsFile& file : files_.files()) text += " " + file_identity(*file.owner());
        return text + " quantization " + hex64(hash64(std::as_bytes(std::span(quantization_text_))));
    }

private:
    static std::string module_of(const std::string& name) {
        constexpr std::string_view end = ".weight";
        const bool is_weight = name.size() > end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
        return is_weight ? name.substr(0, name.size() - end.size()) : name;
    }
    bool in_files(std::span<const std::byte> bytes) const {
        return std::any_of(files_.files().begin(), files_.files().end(), [&](const SafetensorsFile& file) {
            const auto mapped = file.owner()->bytes();
            return bytes.data() >= mapped.data() && bytes.data() + bytes.size() <= mapped.data() + mapped.size();
        });
    }
    bool has(const std::string& name) const {
        return files_.contains(name) || (module_of(name) != name && files_.contains(module_of(name) + ".weight_packed"));
    }
    // The name in the files, or an empty one.
    std::string name_of(const std::string& key) const {
        if (has(key)) return key;
        for (std::string_view prefix : optional_prefixes) {
            if (key.compare(0, prefix.size(), prefix) == 0 && has(key.substr(prefix.size()))) return key.substr(prefix.size());
            std::string longer = std::string(prefix) + key;
            if (has(longer)) return longer;
        }
        return {};
    }
    CheckpointFiles files_;
    std::optional<QuantizationConfig> quantization_;
    std::string quantization_text_;  // as config.json has it
};

Result<Json> read_optional_json(const std::string& path) {
    if (!file_exists(path)) return Json();
    return read_json_file(path);
}

}  // namespace

Result<Checkpoint> open_folder_checkpoint(const std::string& path) {
    Checkpoint checkpoint;
    checkpoint.kind = Checkpoint::Kind::folder;
    checkpoint.path = path;
    checkpoint.name = base_name(path);
    const std::string config_path = join_path(path, "config.json");
    if (!file_exists(config_path)) return not_found(path + ": has no config.json; a model folder is what Hugging Face's save_pretrained writes");
    SKIFF_TRY(checkpoint.config, read_json_file(config_path));
    SKIFF_TRY(checkpoint.generation, read_optional_json(join_path(path, "generation_config.json")));
    SKIFF_TRY(checkpoint.manifest, read_optional_json(join_path(path, "skiff.json")));
    auto spec = build_spec(checkpoint.config);
    if (!spec.ok()) return spec.take_error().with_context(path);
    std::optional<QuantizationConfig> quantization;
    if (const Json& config = checkpoint.config["quantization_config"]; !config.is_null()) {
        SKIFF_TRY(quantization, QuantizationConfig::parse(config));
    }
    SKIFF_TRY(auto files, CheckpointFiles::open(path));
    checkpoint.weights =
        std::make_shared<FolderWeights>(std::move(files), std::move(quantization), checkpoint.config["quantization_config"].dump());
    checkpoint.spec = std::move(*spec);
    SKIFF_CHECK(attach_extra_terms(checkpoint.spec, *checkpoint.weights));
    return checkpoint;
}

}  // namespace skiff
