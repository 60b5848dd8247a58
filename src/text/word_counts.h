// How often each word of a text occurs: what a vocabulary is learned from. A word is a piece of the pre-tokenizer, as bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "base/result.h"

namespace skiff {

struct CountedWord {
    std::string bytes;
    std::uint64_t count = 0;
};

struct WordCounts {
    std::vector<CountedWord> words;  // in the order of their bytes, each once
    std::uint64_t n_text_bytes = 0;  // of the documents, without separators
    std::uint64_t n_documents = 0;   // that are not empty
};

struct WordCountOptions {
    std::string pre = "llama-bpe";              // one of countable_pre_tokenizers()
    std::string separator = "<|endoftext|>";    // stands between documents and is no text; "": each file is one document
    std::string jsonl_field = "text";           // the member that holds the text, in files whose name ends in .jsonl
    int n_threads = 1;                          // the result does not depend on it
    ProgressSink progress = nullptr;            // in bytes of the files; one call at a time
};

// Pre-tokenizers for which a text may be cut into parts that are worked on side by side, by the names of text/pre_tokenizer_table.h.
std::span<const std::string_view> countable_pre_tokenizers();

// Invalid UTF-8 counts as U+FFFD, as in Tokenizer::encode(). Memory follows the number of different words, not the length of the files.
Result<WordCounts> count_words(std::string_view text, const WordCountOptions& options);
Result<WordCounts> count_words_in_files(std::span<const std::string> paths, const WordCountOptions& options);

}  // namespace skiff
