// A SentencePiece .model file: a protocol buffer of pieces, training and normalization settings, read by hand.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/vocab_data.h"

namespace skiff {

struct SentencePiece {
    std::string text;
    float score = 0;
    GgufTokenType type = GgufTokenType::normal;  // the numbers are the same in both formats
};

struct SentencePieceModel {
    enum class Algorithm : std::int64_t { unigram = 1, bpe = 2, word = 3, character = 4 };
    std::vector<SentencePiece> pieces;
    Algorithm algorithm = Algorithm::unigram;
    bool byte_fallback = false;
    bool space_as_suffix = false;  // treat_whitespace_as_suffix
    std::int64_t unk_id = 0, bos_id = 1, eos_id = 2, pad_id = -1;
    std::string precompiled_charsmap;
    bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
};

Result<SentencePieceModel> parse_sentencepiece_model(std::string_view bytes);

}  // namespace skiff
