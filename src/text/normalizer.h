// What a tokenizer does to a text before it is cut: a chain of functions from text to text, all on valid UTF-8.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "text/charsmap.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace skiff {

using Normalizer = std::function<Result<std::string>(std::string)>;

Result<std::string> normalize_text(std::span<const Normalizer> chain, std::string text);

struct BertNormalizerOptions {
    bool clean_text = true, handle_chinese_chars = true, strip_accents = true, lowercase = true;
};
enum class StripSide { left, right, both, none };

Normalizer unicode_normalizer(NormalForm form);
Normalizer lowercase_normalizer();
Normalizer strip_accents_normalizer();
Normalizer bert_normalizer(const BertNormalizerOptions& options);
Normalizer strip_normalizer(StripSide side);
Normalizer nmt_normalizer();
Normalizer prepend_normalizer(std::string prefix);
Normalizer replace_normalizer(std::string literal, std::string content);
Normalizer replace_normalizer(Regex pattern, std::string content);
Normalizer byte_level_normalizer();
Normalizer charsmap_normalizer(std::shared_ptr<const Charsmap> map);

std::string replace_all(std::string_view text, std::string_view literal, std::string_view content);

}  // namespace skiff
