#include "text/bpe_trainer.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>

#include "text/byte_level.h"
#include "text/flat_map.h"
#include "text/unicode.h"
#include "text/vocabulary.h"

namespace skiff {
namespace {

constexpr std::size_t max_special_bytes = 256;

using Pair = std::pair<std::uint32_t, std::uint32_t>;
std::uint64_t key_of(Pair pair) { return std::uint64_t{pair.first} << 32 | pair.second; }

// The tokens so far, and their ids.
class GrowingVocabulary {
public:
    // The id of a text, new or old: a merge may spell a special token.
    std::uint32_t add(const std::string& text) {
        const auto [entry, is_new] = ids_.try_emplace(text, static_cast<std::uint32_t>(tokens.size()));
        if (is_new) tokens.push_back(text);
        return entry->second;
    }
    bool has(const std::string& text) const { return ids_.contains(text); }
    std::vector<std::string> tokens;

private:
    std::unordered_map<std::string, std::uint32_t> ids_;
};

// A pair that may be merged, and words in which it stands.
struct Candidate {
    std::int64_t count;
    std::uint64_t key;     // of the pair
    std::uint32_t number;  // of the pair
    std::vector<std::uint32_t> words;
    Pair pair() const { return {static_cast<std::uint32_t>(key >> 32), static_cast<std::uint32_t>(key)}; }
    bool operator<(const Candidate& other) const { return count != other.count ? count < other.count : key > other.key; }
};

// The words as symbols, the count of every pair of neighbours, and a queue of pairs. A merge changes only the words where the pair stands. Counts in
// the queue can only be too large, as new pairs hold a new token: they are looked at again when they come to the front.
class Merger {
public:
    Merger(const WordCounts& words, const std::array<std::uint32_t, 256>& ids_of_bytes) {
        for (const CountedWord& word : words.words) {
            words_.push_back({symbols_.size(), word.bytes.size(), static_cast<std::int64_t>(word.count)});
            for (char byte : word.bytes) symbols_.push_back(ids_of_bytes[static_cast<unsigned char>(byte)]);
        }
        for (std::size_t i = 0; i < words_.size(); ++i) {
            const auto symbols = symbols_of(words_[i]);
            for (std::size_t at = 0; at + 1 < symbols.size(); ++at)
                change({symbols[at], symbols[at + 1]}, words_[i].count, static_cast<std::uint32_t>(i));
        }
        queue_fresh();
    }

    // The best pair, removed from the queue; nothing if none occurs `min_frequency` times.
    std::optional<Candidate> best(std::int64_t min_frequency) {
        while (!queue_.empty()) {
            std::pop_heap(queue_.begin(), queue_.end());
            if (const std::int64_t count = counts_[queue_.back().number]; queue_.back().count != count) {
                queue_.back().count = count;
                std::push_heap(queue_.begin(), queue_.end());
                continue;
            }
            Candidate top = std::move(queue_.back());
            queue_.pop_back();
            if (top.count < std::max<std::int64_t>(min_frequency, 1)) return std::nullopt;
            return top;
        }
        return std::nullopt;
    }
    void merge(const Candidate& candidate, std::uint32_t joined) {
        for (std::uint32_t word : candidate.words) merge_in_word(word, candidate.pair(), joined);
        queue_fresh();
    }
    std::uint64_t n_text_tokens() const {
        std::uint64_t sum = 0;
        for (const Word& word : words_) sum += word.length * static_cast<std::uint64_t>(word.count);
        return sum;
    }

private:
    struct Word {
        std::size_t begin, length;  // of its symbols
        std::int64_t count;
    };
    std::span<std::uint32_t> symbols_of(const Word& word) { return std::span(symbols_).subspan(word.begin, word.length); }

    void merge_in_word(std::uint32_t index, Pair pair, std::uint32_t joined) {
        Word& word = words_[index];
        const auto symbols = symbols_of(word);
        std::size_t n = 0;  // symbols written
        for (std::size_t at = 0; at < symbols.size();) {
            if (symbols[at] != pair.first || at + 1 == symbols.size() || symbols[at + 1] != pair.second) {
                symbols[n++] = symbols[at++];
                continue;
            }
            if (n > 0) {
                change({symbols[n - 1], pair.first}, -word.count, index);
                change({symbols[n - 1], joined}, word.count, index);
            }
            symbols[n++] = joined;
            at += 2;
            if (at < symbols.size()) {
                change({pair.second, symbols[at]}, -word.count, index);
                change({joined, symbols[at]}, word.count, index);
            }
        }
        word.length = n;
    }
    // The merged pair itself is left out of this: nothing looks at its count again.
    void change(Pair pair, std::int64_t by, std::uint32_t word) {
        const std::uint64_t key = key_of(pair);
        std::uint32_t number = numbers_.find(key);
        if (number == FlatMap::absent) {
            number = static_cast<std::uint32_t>(counts_.size());
            numbers_.insert(key, number);
            counts_.push_back(0);
            keys_.push_back(key);
            fresh_.emplace_back();
        }
        counts_[number] += by;
        if (by < 0) return;
        auto& words = fresh_[number];
        if (words.empty()) touched_.push_back(number);
        if (words.empty() || words.back() != word) words.push_back(word);  // words come in order
    }
    void queue_fresh() {
        for (std::uint32_t number : touched_) {
            std::vector<std::uint32_t> words = std::exchange(fresh_[number], {});
            if (counts_[number] <= 0) continue;
            queue_.push_back({counts_[number], keys_[number], number, std::move(words)});
            std::push_heap(queue_.begin(), queue_.end());
        }
        touched_.clear();
    }

    std::vector<std::uint32_t> symbols_;
    std::vector<Word> words_;
    FlatMap numbers_;                                // of pairs, by key
    std::vector<std::int64_t> counts_;               // by number
    std::vector<std::uint64_t> keys_;
    std::vector<std::vector<std::uint32_t>> fresh_;  // words in which a pair appeared since the last queue_fresh()
    std::vector<std::uint32_t> touched_;             // pairs with such words
    std::vector<Candidate> queue_;                   // a heap
};

Status add_special_tokens(const std::vector<std::string>& special_tokens, GrowingVocabulary& vocabulary) {
    for (const std::string& text : special_tokens) {
        if (text.empty() || text.size() > max_special_bytes || !is_valid_utf8(text)) {
            return usage_error("the special token \"" + make_valid_utf8(text.substr(0, 80)) + "\" is not 1 to " + std::to_string(max_special_bytes) +
                               " bytes of UTF-8");
        }
        if (vocabulary.has(text)) return usage_error("the special token \"" + text + "\" is given twice");
        vocabulary.add(text);
    }
    return {};
}

// The bytes in the order of their spellings, as every trainer of this kind numbers them.
Result<std::array<std::uint32_t, 256>> add_bytes(GrowingVocabulary& vocabulary) {
    std::vector<std::pair<std::string, std::size_t>> spellings(256);
    for (std::size_t byte = 0; byte < 256; ++byte) {
        const char c = static_cast<char>(byte);
        append_byte_level(spellings[byte].first, {&c, 1});
        spellings[byte].second = byte;
    }
    std::sort(spellings.begin(), spellings.end());
    std::array<std::uint32_t, 256> ids{};
    for (const auto& [spelling, byte] : spellings) {
        if (vocabulary.has(spelling)) return usage_error("the special token \"" + spelling + "\" is the spelling of a byte; give a longer one");
        ids[byte] = vocabulary.add(spelling);
    }
    return ids;
}

}  // namespace

Result<TrainedBpe> train_bpe(const WordCounts& words, const BpeTrainerOptions& options) {
    const auto least = static_cast<std::int64_t>(options.special_tokens.size()) + 256;
    if (options.vocab_size < least || options.vocab_size > static_cast<std::int64_t>(max_vocabulary_size)) {
        return usage_error("a vocabulary of " + std::to_string(options.vocab_size) + " tokens; expected " + std::to_string(least) + " (" +
                           std::to_string(options.special_tokens.size()) + " special tokens and 256 bytes) to " + std::to_string(max_vocabulary_size));
    }
    if (words.words.empty()) return runtime_error("there is no text to learn a vocabulary from");
    if (words.words.size() >= FlatMap::absent) return resource_error(std::to_string(words.words.size()) + " different words; at most 4294967294");
    GrowingVocabulary vocabulary;
    SKIFF_CHECK(add_special_tokens(options.special_tokens, vocabulary));
    SKIFF_TRY(const auto ids_of_bytes, add_bytes(vocabulary));
    const auto wanted = static_cast<std::size_t>(options.vocab_size);
    Merger merger(words, ids_of_bytes);
    std::vector<Pair> merges;
    while (vocabulary.tokens.size() < wanted) {
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
        const auto candidate = merger.best(options.min_frequency);
        if (!candidate) break;
        const Pair pair = candidate->pair();
        const std::uint32_t joined = vocabulary.add(vocabulary.tokens[pair.first] + vocabulary.tokens[pair.second]);
        merges.push_back(pair);
        merger.merge(*candidate, joined);
        if (options.progress) options.progress({"merge pairs", "", vocabulary.tokens.size(), wanted});
    }
    return TrainedBpe{std::move(vocabulary.tokens), std::move(merges), options.special_tokens.size(), merger.n_text_tokens()};
}

}  // namespace skiff
