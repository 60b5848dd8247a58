#include "model/checkpoint.h"

#include "base/hash.h"
#include "base/mapped_file.h"
#include "formats/gguf.h"
#include "model/arch/arch.h"

namespace skiff {

Result<Checkpoint> Checkpoint::open(const std::string& model) {
    constexpr std::string_view random = "random:";
    if (model.compare(0, random.size(), random) == 0) return open_random_checkpoint(model.substr(random.size()));
    if (is_directory(model)) return open_folder_checkpoint(model);
    if (!file_exists(model)) return not_found(model + ": no such folder or file; give a Hugging Face folder, a .gguf file or random:CONFIG.json");
    if (GgufFile::is_gguf(model)) return open_gguf_checkpoint(model);
    std::string name = base_name(model);
    auto ends_with = [&](std::string_view end) { return name.size() > end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0; };
    if (ends_with(".safetensors") || name == "config.json") return open_folder_checkpoint(parent_path(model));
    if (ends_with(".bin") || ends_with(".pt") || ends_with(".pth") || ends_with(".ckpt") || ends_with(".pkl"))
        return unsupported(model +
                           ": is a pickle, which can run code when it is read; convert it to safetensors first (transformers: save_pretrained(..., "
                           "safe_serialization=True))");
    return corrupt(model + ": is neither a model folder nor a GGUF file");
}

Result<Checkpoint> open_random_checkpoint(const std::string& config_path) {
    Checkpoint checkpoint;
    checkpoint.kind = Checkpoint::Kind::random;
    checkpoint.path = "random:" + config_path;
    std::string file = is_directory(config_path) ? join_path(config_path, "config.json") : config_path;
    std::string base = base_name(config_path);
    checkpoint.name = "random:" + base.substr(0, base.rfind('.'));
    SKIFF_TRY(checkpoint.config, read_json_file(file));
    checkpoint.config.erase("quantization_config");
    auto spec = build_spec(checkpoint.config);
    if (!spec.ok()) return spec.take_error().with_context(file);
    checkpoint.spec = std::move(*spec);
    checkpoint.weights = random_weights(checkpoint.spec, DType::bf16, 1);
    return checkpoint;
}

Result<Tokenizer> Checkpoint::load_tokenizer() const {
    if (kind == Kind::folder) return skiff::load_tokenizer(path);
    if (kind == Kind::gguf) return load_gguf_tokenizer(path);
    return not_found(path + ": a random model has no tokenizer");
}

Result<std::string> Checkpoint::chat_template() const {
    SKIFF_TRY(auto tokenizer, load_tokenizer());
    if (tokenizer.chat_template().empty()) return not_found(path + ": the model has no chat template; use --raw");
    return tokenizer.chat_template();
}

std::uint64_t Checkpoint::weight_bytes() const {
    std::uint64_t total = 0;
    for (const auto& [key, tensor] : spec.tensors) {
        if (kind == Kind::random) {
            total += static_cast<std::uint64_t>(element_count(spec.shape(tensor))) * 2;
            continue;
        }
        auto weight = weights->load(key);
        if (weight.ok()) total += weight->stored_bytes();
    }
    return total;
}

Result<std::string> Checkpoint::content_hash() const {
    Sha256 hash;
    auto add = [&](std::span<const std::byte> bytes) { hash.update(bytes); };
    for (const auto& [key, tensor] : spec.tensors) {
        SKIFF_TRY(auto weight, weights->load(key));
        std::string head = key + " " + weight.encoding_name() + " " + shape_text(weight.shape) + "\n";
        add(std::as_bytes(std::span(head)));
        if (auto* plain = weight.plain()) add(plain->data);
        if (auto* blocks = weight.blocks()) add(blocks->data);
        if (auto* codes = weight.codes()) {
            add(codes->packed.data);
            add(codes->scales.data);
            add(codes->zeros.data);
        }
        if (auto* sparse = weight.sparse())
            for (const TensorView* part : {&sparse->bitmask, &sparse->values, &sparse->scales, &sparse->super_scales}) add(part->data);
        if (auto* outliers = weight.outliers())
            for (const TensorView* part : {&outliers->values, &outliers->columns, &outliers->rows}) add(part->data);
        if (auto* hashed = weight.hashed()) {
            add(std::as_bytes(std::span(&hashed->hash.seed, 1)));
            if (auto* plain = hashed->bank->plain()) add(plain->data);
            if (auto* codes = hashed->bank->codes())
                for (const TensorView* part : {&codes->packed, &codes->scales, &codes->super_scales}) add(part->data);
        }
        release_pages(weight);
    }
    return hash.hex();
}

}  // namespace skiff
