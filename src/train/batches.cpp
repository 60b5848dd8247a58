#include "train/batches.h"

#include <algorithm>

#include "base/hash.h"
#include "base/mapped_file.h"

namespace skiff::train {
namespace {

bool is_packed(const std::string& path) { return path.ends_with(".tokens"); }

std::uint64_t sum_of_tokens(const std::vector<TokenFile>& files) {
    std::uint64_t n = 0;
    for (const TokenFile& file : files) n += file.n_tokens();
    return n;
}

}  // namespace

Batches::Batches(std::vector<TokenFile> files, std::int64_t window, std::uint64_t seed)
    : files_(std::move(files)), n_tokens_(sum_of_tokens(files_)), window_(window), sampler_(n_tokens_, window, seed) {
    std::uint64_t begin = 0;
    for (const TokenFile& file : files_) {
        begins_.push_back(begin);
        begin += file.n_tokens();
    }
}

Result<Batches> Batches::open(const Settings& settings, const Tokenizer* tokenizer, const DataOptions& data, const TrainObserver& observer, int n_threads) {
    std::vector<std::string> packed, texts;
    for (const std::string& file : settings.files) (is_packed(file) ? packed : texts).push_back(file);
    if (!texts.empty()) {
        if (tokenizer == nullptr) return usage_error("texts need a tokenizer: give --tokenizer FOLDER (skiff train-tokenizer makes one)");
        if (!file_exists(settings.packed_path)) {
            const PackOptions pack{texts, data.separator, data.jsonl_field, n_threads, observer.progress};
            SKIFF_TRY(const auto report, pack_tokens(*tokenizer, pack, settings.packed_path));
            if (observer.on_remark)
                observer.on_remark("packed " + std::to_string(report.n_documents) + " documents, " + std::to_string(report.n_tokens) + " tokens, from " +
                                   std::to_string(report.n_bytes) + " bytes of text");
        }
        packed.insert(packed.begin(), settings.packed_path);
    }
    std::vector<TokenFile> files;
    for (const std::string& path : packed) {
        SKIFF_TRY(auto file, TokenFile::open(path));
        SKIFF_CHECK(file.check_tokens());
        if (file.n_vocab() > settings.n_vocab)
            return usage_error(path + " has tokens of a vocabulary of " + std::to_string(file.n_vocab()) + ", the model knows " + std::to_string(settings.n_vocab));
        if (tokenizer != nullptr && file.tokenizer_hash() != tokenizer_hash(*tokenizer))
            return usage_error(path + " was packed with another tokenizer than the model's; pack the text again");
        files.push_back(std::move(file));
    }
    if (sum_of_tokens(files) <= static_cast<std::uint64_t>(settings.window))
        return usage_error("the texts have " + std::to_string(sum_of_tokens(files)) + " tokens, fewer than one window of " + std::to_string(settings.window) + " and its target");
    return Batches(std::move(files), settings.window, settings.seed);
}

void Batches::read(std::uint64_t first, std::int64_t* target, std::int64_t n) const {
    std::vector<std::int32_t> part;
    while (n > 0) {
        const auto file = static_cast<std::size_t>(std::upper_bound(begins_.begin(), begins_.end(), first) - begins_.begin() - 1);
        const std::uint64_t offset = first - begins_[file];
        const auto count = static_cast<std::int64_t>(std::min<std::uint64_t>(static_cast<std::uint64_t>(n), files_[file].n_tokens() - offset));
        part.resize(static_cast<std::size_t>(count));
        files_[file].read(offset, part);
        std::copy(part.begin(), part.end(), target);
        target += count;
        first += static_cast<std::uint64_t>(count);
        n -= count;
    }
}

std::string hash_of_tokens(const Batches& batches) {
    if (!batches.hash_.empty()) return batches.hash_;
    // A million at a time, each part's hash the seed of the next one's.
    std::vector<std::int64_t> tokens;
    std::uint64_t hash = 0;
    for (std::uint64_t begin = 0; begin < batches.n_tokens(); begin += tokens.size()) {
        tokens.resize(static_cast<std::size_t>(std::min<std::uint64_t>(batches.n_tokens() - begin, 1'000'000)));
        batches.read(begin, tokens.data(), static_cast<std::int64_t>(tokens.size()));
        hash = hash64(std::as_bytes(std::span(tokens)), hash);
    }
    return batches.hash_ = hex64(hash);
}

at::Tensor Batches::shuffled(std::uint64_t first, std::int64_t n) {
    at::Tensor tokens = at::empty({n, window_ + 1}, at::kLong);
    for (std::int64_t i = 0; i < n; ++i) read(sampler_.first_token(first + static_cast<std::uint64_t>(i)), tokens.data_ptr<std::int64_t>() + i * (window_ + 1), window_ + 1);
    return tokens;
}

at::Tensor Batches::in_order(std::uint64_t first, std::int64_t n) const {
    const std::uint64_t end = std::min(n_in_order(), first + static_cast<std::uint64_t>(n));
    at::Tensor tokens = at::empty({static_cast<std::int64_t>(end - std::min(first, end)), window_ + 1}, at::kLong);
    for (std::int64_t i = 0; i < tokens.size(0); ++i)
        read((first + static_cast<std::uint64_t>(i)) * static_cast<std::uint64_t>(window_), tokens.data_ptr<std::int64_t>() + i * (window_ + 1), window_ + 1);
    return tokens;
}

}  // namespace skiff::train
