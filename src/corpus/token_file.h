// Tokens of many documents in one file: what training reads. Written by pack_tokens(), read by mapping it into memory.
//
//   byte   0  "SKIFFTOK"                      24  u64 n_documents
//          8  u32 version = 1                 32  u64 n_vocab: every id is less
//         12  u32 bytes per token, 2 or 4     40  u64 hash of the tokenizer's vocabulary
//         16  u64 n_tokens                    48  16 bytes of zero
//         64  n_tokens ids, unsigned, and the end of the file; everything little endian
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "base/progress.h"
#include "base/result.h"
#include "text/tokenizer.h"

namespace skiff {

class TokenFile {
public:
    // Checks the header and that the file has the size which it tells. The ids are looked at by check_tokens() only, a pass over the whole file.
    static Result<TokenFile> open(const std::string& path);

    std::uint64_t n_tokens() const { return n_tokens_; }
    std::uint64_t n_documents() const { return n_documents_; }
    std::int64_t n_vocab() const { return n_vocab_; }
    std::uint64_t tokenizer_hash() const { return tokenizer_hash_; }
    const std::string& path() const { return file_->path(); }

    // Precondition: first + target.size() <= n_tokens().
    void read(std::uint64_t first, std::span<std::int32_t> target) const;
    // Every id is below n_vocab(); else an error that names the first that is not.
    Status check_tokens() const;

private:
    std::shared_ptr<const MappedFile> file_;
    std::uint64_t bytes_per_token_ = 2;
    std::uint64_t n_tokens_ = 0, n_documents_ = 0, tokenizer_hash_ = 0;
    std::int64_t n_vocab_ = 0;
};

// Of the texts of all tokens in the order of their ids: files made with one vocabulary are not read with another, whatever form it is loaded from.
std::uint64_t tokenizer_hash(const Tokenizer& tokenizer);

struct PackOptions {
    std::vector<std::string> inputs;              // .jsonl: a document a line; anything else: text
    std::string separator = "<|endoftext|>";      // between the documents of a text; "": each file is one document
    std::string jsonl_field = "text";
    int n_threads = 1;
    ProgressSink progress;                        // may be empty
};
struct PackReport {
    std::uint64_t n_tokens = 0, n_documents = 0;
    std::uint64_t n_bytes = 0;  // of the documents' texts
    double seconds = 0;
};

// Writes the tokens of all documents in the order of the inputs: the begin token if the tokenizer has one, those of the text, and the end token unless it is
// the same as the begin token. Control tokens that a text spells are text. The line break before and behind a separator and at the end of a file
// is not part of a document; documents of white space alone are left out. The bytes written do not depend on the number of threads.
//
// Memory is bounded for texts and tokenizers of byte-level BPE: long documents are encoded in pieces where the pre-tokenizer cuts anyway. Other tokenizers
// (a space before the text, merges across words) get each document whole; so does a line of .jsonl, which may be 256 MiB long.
Result<PackReport> pack_tokens(const Tokenizer& tokenizer, const PackOptions& options, const std::string& path);

}  // namespace skiff
