// The weight files of a folder once more with other coding: entropy coded, or as they are. No number changes.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/progress.h"
#include "base/result.h"
#include "formats/checkpoint_files.h"

namespace skiff {

struct RecodeOptions {
    enum class To : std::uint8_t { coded, plain } to = To::coded;
    int n_threads = 1;
    std::uint64_t keep_bytes = std::uint64_t{1} << 30;  // of code between finding its size and writing it; what exceeds it is coded twice
    ProgressSink progress;
};

struct RecodeReport {
    struct Row {
        std::size_t n_tensors = 0;
        std::uint64_t plain_bytes = 0, stored_bytes = 0;
    };
    std::map<std::string, Row> by_type;  // "BF16", "I32"
    Row total;
    std::size_t n_coded = 0;
    std::uint64_t coded_plain_bytes = 0;  // what the coded tensors decode to
    double encode_seconds = 0, decode_seconds = 0;  // of these tensors; everything that is coded is decoded and compared
};

// Writes files of the same names and shards into a folder that exists; nothing where `folder` is empty: only the report.
Result<RecodeReport> recode(const CheckpointFiles& files, const std::string& folder, const RecodeOptions& options);

// Seconds to decode all coded tensors once.
Result<double> decoding_seconds(const CheckpointFiles& files, int n_threads);

}  // namespace skiff
