// A Hugging Face folder as a checkpoint: config.json, safetensors (plain or compressed-tensors), tokenizer files, our manifest.
#include <algorithm>

#include "base/file_identity.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "formats/checkpoint_files.h"
#include "formats/hashed_weights.h"
#include "formats/quantized_reader.h"
#include "formats/sparse_weights.h"
#include "model/arch/arch.h"
#include "model/checkpoint.h"
#include "model/extra_terms.h"

namespace skiff {
namespace {

// Some checkpoints name their tensors from one level further in or out ("transformer.h.0..." for "h.0...").
constexpr std::string_view optional_prefixes[] = {"transformer.", "model.", "gpt_neox.", "language_model.", "base_model."};

class FolderWeights final : public WeightSource {
public:
    FolderWeights(CheckpointFiles files, std::unique_ptr<QuantizedReader> reader, std::string quantization_text)
        : files_(std::move(files)), reader_(std::move(reader)), quantization_text_(std::move(quantization_text)) {}

    bool contains(const std::string& key) const override {
        if (is_order(key)) {
            const auto order = order_of(key);
            return !order.ok() || !order->empty();  // load() says what is wrong
        }
        if (key.ends_with(fixed_scale_end)) {
            const auto scale = fixed_scale(key);
            return !scale.ok() || *scale;
        }
        // In a quantized model, of one number: how a program may quantize the input, not a factor for each column.
        if (quantization_text_ != Json().dump() && key.ends_with(".input_scale") && files_.contains(key)) {
            const auto found = files_.tensor(key);
            return found.ok() && found->view.n_elements() > 1;
        }
        return !name_of(key).empty();
    }
    std::vector<std::string> keys() const override { return files_.names(); }

    Result<Weight> load(const std::string& key) const override {
        if (is_order(key)) {
            SKIFF_TRY(const auto order, order_of(key));
            const auto bytes = std::as_bytes(std::span<const std::int32_t>(order));
            return make_plain_weight({static_cast<std::int64_t>(order.size())}, DType::i32, {bytes.begin(), bytes.end()});
        }
        if (key.ends_with(fixed_scale_end)) {
            SKIFF_TRY(const auto scale, fixed_scale(key));
            if (!scale) return not_found("tensor " + key + " is not in the checkpoint");
            return make_float_weight({1}, {*scale});
        }
        const std::string name = name_of(key), module = module_of(name);
        if (name.empty()) {
            const std::string bank = bank_without_map(key);
            if (bank.empty()) return not_found("tensor " + key + " is not in the checkpoint, though config.json implies it");
            return corrupt("tensor " + key + " is hashed: " + bank + " is there, but not " + module_of(key) + std::string(hash_map_end) + ", which says where each of its blocks goes; take both from the folder that skiff share wrote, or make the model again");
        }
        if (const std::string outliers = outliers_of(name); !outliers.empty()) return read_outliers(outliers, lookup_in(files_));
        if (is_hashed(name)) {
            if (files_.contains(name)) return corrupt("both " + name + " and " + module + std::string(hash_map_end) + " are in the files, so that it is unclear which one holds; remove one, or make the model again");
            SKIFF_TRY(auto hashed, read_hashed_weight(module, lookup_in(files_), *reader_));
            return with_pages(std::move(hashed));
        }
        if (module != name || (is_factor(name) && !files_.contains(name))) {
            SKIFF_TRY(auto quantized, reader_->read(module, lookup_in(files_)));
            if (quantized) {
                if (const Codes* codes = quantized->codes()) quantized->file_backed = in_files(codes->packed.data) && in_files(codes->scales.data);
                return std::move(*quantized);
            }
        }
        SKIFF_TRY(auto found, files_.tensor(name));
        Weight weight;
        weight.shape = found.view.shape;
        weight.store = found.view;
        weight.owner = found.owner;
        weight.file_backed = in_files(found.view.data);
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
    // The module of "x.outliers", or an empty name.
    static std::string outliers_of(const std::string& name) {
        constexpr std::string_view end = ".outliers";
        return name.size() > end.size() && name.ends_with(end) ? name.substr(0, name.size() - end.size()) : std::string();
    }
    // Factors of a weight may be codes, as modules of their own names.
    static bool is_factor(const std::string& name) { return name.ends_with(".low_rank_up") || name.ends_with(".low_rank_down"); }
    // The bank of a hashed weight in the files, whether its map is or not; or an empty name.
    std::string bank_without_map(const std::string& key) const {
        if (module_of(key) == key) return {};
        const std::string bank = module_of(key) + std::string(hash_bank_end);
        for (const std::string& name : {bank, bank + std::string(reader_->marker())})
            if (files_.contains(name)) return bank;
        return {};
    }
    bool is_hashed(const std::string& name) const { return module_of(name) != name && files_.contains(module_of(name) + std::string(hash_map_end)); }
    // Says of a bank whose bytes are those of the files that its pages may be given back.
    Weight with_pages(Weight weight) const {
        Hashed hashed = *weight.hashed();
        Weight bank = *hashed.bank;
        if (const Codes* codes = bank.codes()) bank.file_backed = in_files(codes->packed.data) && in_files(codes->scales.data);
        else if (const TensorView* plain = bank.plain()) bank.file_backed = in_files(plain->data);
        hashed.bank = std::make_shared<const Weight>(std::move(bank));
        weight.store = std::move(hashed);
        return weight;
    }
    bool in_files(std::span<const std::byte> bytes) const {
        return std::any_of(files_.files().begin(), files_.files().end(), [&](const SafetensorsFile& file) {
            const auto mapped = file.owner()->bytes();
            return bytes.data() >= mapped.data() && bytes.data() + bytes.size() <= mapped.data() + mapped.size();
        });
    }
    bool has(const std::string& name) const {
        if (files_.contains(name) || is_hashed(name)) return true;
        if (const std::string module = outliers_of(name); !module.empty()) return files_.contains(module + ".outliers_values");
        return (module_of(name) != name || is_factor(name)) && (files_.contains(module_of(name) + std::string(reader_->marker())) || files_.contains(module_of(name) + ".weight_bitmask"));
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
    static bool is_order(const std::string& key) { return key.ends_with(input_permutation_end); }
    Result<std::vector<std::int32_t>> order_of(const std::string& key) const {
        const std::string name = name_of(key.substr(0, key.size() - input_permutation_end.size()) + ".weight");
        if (name.empty()) return std::vector<std::int32_t>();
        return reader_->input_order(module_of(name), lookup_in(files_));
    }
    Result<std::optional<float>> fixed_scale(const std::string& key) const {
        const std::string name = name_of(key.substr(0, key.size() - fixed_scale_end.size()) + ".weight");
        return name.empty() ? Result<std::optional<float>>(std::optional<float>()) : reader_->fixed_input_scale(module_of(name), lookup_in(files_));
    }
    CheckpointFiles files_;
    std::unique_ptr<QuantizedReader> reader_;
    std::string quantization_text_;  // as config.json has it
};

Result<Json> read_optional_json(const std::string& path) {
    if (!file_exists(path)) return Json();
    return read_json_file(path);
}

// What config.json says of quantization; or the file that AutoGPTQ or AutoAWQ wrote beside it before transformers knew them.
Result<Json> find_quantization(const Json& config, const std::string& folder) {
    if (const Json& quantization = config["quantization_config"]; !quantization.is_null()) return quantization;
    for (const auto& [file, method] : {std::pair{"quantize_config.json", "gptq"}, std::pair{"quant_config.json", "awq"}}) {
        SKIFF_TRY(auto quantization, read_optional_json(join_path(folder, file)));
        if (!quantization.is_object()) continue;
        if (!quantization["quant_method"].is_string()) quantization.set("quant_method", method);
        return quantization;
    }
    return Json();
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
    SKIFF_TRY(const auto quantization, find_quantization(checkpoint.config, path));
    SKIFF_TRY(auto reader, make_quantized_reader(quantization));
    SKIFF_TRY(auto files, CheckpointFiles::open(path));
    checkpoint.weights = std::make_shared<FolderWeights>(std::move(files), std::move(reader), quantization.dump());
    checkpoint.spec = std::move(*spec);
    SKIFF_CHECK(attach_extra_terms(checkpoint.spec, *checkpoint.weights));
    return checkpoint;
}

}  // namespace skiff
