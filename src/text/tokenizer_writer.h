// A trained vocabulary as the files that Hugging Face programs (and load_tokenizer) read.
#pragma once

#include <cstdint>
#include <string>

#include "base/atomic_file.h"
#include "base/result.h"
#include "text/bpe_trainer.h"

namespace skiff {

struct TokenizerFileOptions {
    std::string pre = "llama-bpe";              // the pre-tokenizer that the words were counted with
    std::string bos_token = "<|endoftext|>";    // the special token that a text begins with; "": none
    std::string eos_token = "<|endoftext|>";    // the one that ends a generation; "": none
    std::int64_t model_max_length = 0;          // tokens that the model takes; 0: not known
};

// The texts of tokenizer.json and tokenizer_config.json.
Result<std::string> tokenizer_json_text(const TrainedBpe& trained, const TokenizerFileOptions& options);
std::string tokenizer_config_text(const TokenizerFileOptions& options);

// Both in a folder that appears when it is complete.
Status write_tokenizer_folder(const std::string& path, AtomicDirectory::IfExists if_exists, const TrainedBpe& trained,
                              const TokenizerFileOptions& options);

}  // namespace skiff
