// The byte-level pre-tokenizers that vocabularies were trained with, by the names that GGUF gives them (tokenizer.ggml.pre).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/pre_tokenizer.h"
#include "text/token_model.h"

namespace skiff {

struct NamedPreTokenizer {
    std::vector<PreTokenizer> chain;    // ends with the byte-level spelling
    std::vector<std::string> patterns;  // the regular expressions before it, each isolates its matches
    bool ignore_merges = false;
    bool add_bos = false;               // where the file does not say
};
Result<NamedPreTokenizer> named_pre_tokenizer(std::string_view name);

// The first name whose pieces equal `chain`'s on texts that tell all rows apart; failing that, the first whose pieces give the same ids
// (a trained vocabulary may hide a difference: Falcon's). An error if there is none.
Result<std::string> name_of_pre_tokenizer(std::span<const PreTokenizer> chain, const TokenModel& model);

}  // namespace skiff
