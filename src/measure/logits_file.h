// A parent's logits on disk, so that parent and child need not fit in memory together.
//
// Layout, little-endian: "SKIFFLOG", u32 version (1), u32 length of the JSON that follows; the JSON (LogitsHeader); zeros to a multiple of 4096;
// then one row of n_vocab f32 logits for each scored position. Raw float32 logits, not 16-bit log-probabilities: a model measured against its own
// file has KL 0 to the last bit, and no tail is cut off.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/atomic_file.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "measure/parent_logits.h"

namespace skiff {

struct LogitsHeader {
    std::string model_name, model_hash;
    std::string text_sha256;
    std::string tokens_hash;   // TextWindows::tokens_hash(): tokenizer, begin token and text in one
    std::string protocol;
    std::int64_t window = 0, n_windows = 0, n_scored = 0, n_vocab = 0;

    Json to_json() const;
    std::uint64_t file_bytes() const;
};
LogitsHeader logits_header(const TextWindows& windows, std::int64_t n_vocab);  // model and text are the caller's to fill in

// Writes rows in order. Nothing appears under the name before finish().
class LogitsWriter {
public:
    // Checks the free space first.
    static Result<LogitsWriter> create(const std::string& path, const LogitsHeader& header);
    Status add(std::span<const float> rows);  // (n_rows, n_vocab)
    Status finish();

private:
    explicit LogitsWriter(AtomicFile file) : file_(std::move(file)) {}
    AtomicFile file_;
    std::uint64_t expected_bytes_ = 0;
};

bool is_logits_file(const std::string& path);  // by its first bytes

// A file read back, checked for size and form.
class LogitsFile {
public:
    static Result<LogitsFile> open(const std::string& path);
    const LogitsHeader& header() const { return header_; }
    // Refuses a file that was made from other tokens, another protocol or vocabulary than `expected`; the message says which.
    Status check_matches(const LogitsHeader& expected) const;
    std::unique_ptr<ParentLogits> rows() const;

private:
    std::shared_ptr<const MappedFile> file_;
    LogitsHeader header_;
    std::size_t rows_at_ = 0;
};

}  // namespace skiff
