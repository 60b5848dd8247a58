// The tokens that training reads: several files as one long row of tokens, and its windows in the order of training.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "corpus/token_file.h"
#include "corpus/window_sampler.h"
#include "train/train.h"

namespace skiff::train {

class Batches {
public:
    // Texts are packed into `folder` first (once: a file that is there already is taken). `n_vocab` is the model's.
    struct Settings {
        std::vector<std::string> files;
        std::string packed_path;  // where texts are packed to
        std::int64_t window = 512, n_vocab = 0;
        std::uint64_t seed = 1;
    };
    static Result<Batches> open(const Settings& settings, const Tokenizer* tokenizer, const DataOptions& data, const TrainObserver& observer, int n_threads);

    std::uint64_t n_tokens() const { return n_tokens_; }
    std::uint64_t first_token(std::uint64_t window) { return sampler_.first_token(window); }
    // Windows first .. first + n - 1 of the training order. // (n, window + 1) i64
    at::Tensor shuffled(std::uint64_t first, std::int64_t n);
    // Windows side by side from the beginning; fewer than n where the text ends. // (at most n, window + 1) i64
    at::Tensor in_order(std::uint64_t first, std::int64_t n) const;
    void read(std::uint64_t first, std::int64_t* target, std::int64_t n) const;  // precondition: first + n <= n_tokens()
    std::uint64_t n_in_order() const { return n_tokens_ <= 1 ? 0 : (n_tokens_ - 1) / static_cast<std::uint64_t>(window_); }

private:
    Batches(std::vector<TokenFile> files, std::int64_t window, std::uint64_t seed);
    std::vector<TokenFile> files_;
    std::vector<std::uint64_t> begins_;  // of each file in the long row
    std::uint64_t n_tokens_ = 0;
    std::int64_t window_;
    WindowSampler sampler_;
    mutable std::string hash_;  // of all tokens, once it was asked for
    friend std::string hash_of_tokens(const Batches& batches);
};

// Of all tokens, so that another text of the same length is noticed.
std::string hash_of_tokens(const Batches& batches);

}  // namespace skiff::train
