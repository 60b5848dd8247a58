// The text that methods may look at: cut into samples that the model is fed one by one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "measure/text_fingerprints.h"
#include "model/checkpoint.h"

namespace skiff {

struct CalibrationOptions {
    std::string file;                 // .txt or .jsonl (its "text" fields); "": the built-in text
    std::int64_t n_samples = 32;
    std::int64_t sample_tokens = 512;  // no more than the model has positions for
    bool operator==(const CalibrationOptions&) const = default;
};

struct CalibrationText {
    std::vector<std::vector<std::int32_t>> samples;
    std::string name;      // the file's name, or "built-in"
    std::string sha256;    // over all ids: names the text in the manifest
    TextFingerprints fingerprints;  // of the whole text, so that an evaluation can tell whether it was seen here
    std::vector<std::string> remarks;  // less text than asked for, no tokenizer

    std::int64_t n_tokens() const;
    std::int64_t longest() const;
    Json json() const;  // {"name", "sha256", "samples", "tokens", "fingerprints"}
};

// Samples of equal length, spread evenly over the whole text, each with the begin token in front where the tokenizer puts one before texts. A model
// without a tokenizer (random:) is fed random ids, which serve to time a method and not to judge it.
Result<CalibrationText> load_calibration(const Checkpoint& model, const CalibrationOptions& options);

// A few pages of public-domain English, part of the program.
std::string_view built_in_calibration_text();

}  // namespace skiff
