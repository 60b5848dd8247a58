// A model on disk, or a random one: its spec, its weights, what it says about itself. Nothing is loaded until a plan asks.
#pragma once

#include <memory>
#include <string>

#include "base/json.h"
#include "model/spec.h"
#include "model/weight_source.h"
#include "text/tokenizer.h"

namespace skiff {

struct Checkpoint {
    enum class Kind : std::uint8_t { folder, gguf, random } kind = Kind::folder;
    std::string path;      // as given
    std::string name;      // the folder's or file's name, without its extension
    Json config;           // config.json, or what a GGUF file's metadata say in its words
    Json generation;       // generation_config.json, or null
    Json manifest;         // skiff.json of a compressed model: the steps that made it and the evidence; or null
    ModelSpec spec;
    std::shared_ptr<WeightSource> weights;

    // MODEL as users write it: a Hugging Face folder, a .gguf file, or random:CONFIG.json.
    static Result<Checkpoint> open(const std::string& model);

    Result<Tokenizer> load_tokenizer() const;          // not_found for random models
    Result<std::string> chat_template() const;         // its source; not_found when the model has none
    std::uint64_t weight_bytes() const;                // as stored, each tensor once
    // Names the model in tables: SHA-256 over names, shapes and bytes of all tensors in order of their keys.
    Result<std::string> content_hash() const;
};

// Parts of open(), one file each.
Result<Checkpoint> open_folder_checkpoint(const std::string& path);
Result<Checkpoint> open_gguf_checkpoint(const std::string& path);
Result<Checkpoint> open_random_checkpoint(const std::string& config_path);
Result<Tokenizer> load_gguf_tokenizer(const std::string& path);

}  // namespace skiff
