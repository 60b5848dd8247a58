// Importance matrices of llama.cpp: for each weight the mean square of every input, gathered over a text. Both forms of the file: GGUF, and the older
// binary one. docs/formats/imatrix.md.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace skiff {

struct Imatrix {
    struct Entry {
        std::vector<float> importance;  // (n_matrices, n_inputs): the mean of the squares of each input
        std::int64_t n_matrices = 1;    // experts in one tensor
        std::vector<double> counts;     // (n_matrices) tokens (GGUF) or runs (older form) behind the means; 0: never used, and its importance is 0
        std::int64_t n_inputs() const { return n_matrices == 0 ? 0 : static_cast<std::int64_t>(importance.size()) / n_matrices; }
    };
    std::map<std::string, Entry, std::less<>> entries;  // by GGUF's name of the tensor: "blk.0.attn_q.weight"
    std::vector<std::string> datasets;                  // names of the texts, where the file says
    bool counts_runs = false;                           // the older form
    std::int64_t n_chunks = 0;                          // of text that were run; 0: not said

    // A file of either form, told apart by its first four bytes.
    static Result<Imatrix> open(const std::string& path);
    static Result<Imatrix> parse(std::span<const std::byte> bytes);

    // In the GGUF form: sums of squares and counts, which its readers divide. `chunk_tokens`: of each chunk of text.
    Status write(const std::string& path, std::int64_t chunk_tokens) const;

    // The importance of each input of a weight, by GGUF's name; not_found where it has none, corrupt where its length is another.
    Result<std::span<const float>> importance(std::string_view gguf_name, std::int64_t n_inputs, std::int64_t matrix = 0) const;
};

}  // namespace skiff
