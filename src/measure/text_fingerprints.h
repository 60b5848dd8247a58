// Whether one text holds parts of another that is not at hand: hashes of stretches of it, small enough to keep. Runs of white space count as one space.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace skiff {

struct TextFingerprints {
    std::int64_t stretch_bytes = 64;
    std::vector<std::uint64_t> hashes;  // of stretches evenly spread over the text

    Json to_json() const;  // {"stretch_bytes", "hashes": ["16 digits", ...]}
    static Result<TextFingerprints> parse(const Json& json);
};

// Of a text that is shorter than a stretch: none.
TextFingerprints fingerprints_of(std::string_view text, std::int64_t n_stretches = 256);

// How many of the stretches stand somewhere in `text`. One pass, with a hash that rolls (Karp and Rabin 1987).
std::int64_t count_found(const TextFingerprints& fingerprints, std::string_view text);

}  // namespace skiff
