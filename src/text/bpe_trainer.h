// Learns a byte-level BPE vocabulary from word counts: Sennrich et al. 2016, with the alphabet of all bytes (Radford et al. 2019).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/progress.h"
#include "base/result.h"
#include "text/word_counts.h"

namespace skiff {

struct BpeTrainerOptions {
    std::int64_t vocab_size = 4096;                               // special tokens, 256 bytes and merged tokens together
    std::int64_t min_frequency = 2;                               // a pair that occurs less often is not merged
    std::vector<std::string> special_tokens = {"<|endoftext|>"};  // their ids are 0, 1, ...
    ProgressSink progress = nullptr;                              // in tokens of the vocabulary
};

struct TrainedBpe {
    std::vector<std::string> tokens;                             // by id, in the byte-level spelling; special ones as they are
    std::vector<std::pair<std::uint32_t, std::uint32_t>> merges;  // ids of left and right, best first
    std::size_t n_special = 0;
    std::uint64_t n_text_tokens = 0;                             // that the words have with this vocabulary
};

// The merges are those of Hugging Face's BpeTrainer, in its order: the most frequent pair first, of equal ones that with the smaller ids.
// Fewer tokens than asked for come out where no pair is frequent enough any more.
Result<TrainedBpe> train_bpe(const WordCounts& words, const BpeTrainerOptions& options);

}  // namespace skiff
