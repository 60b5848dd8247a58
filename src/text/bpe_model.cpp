#include <algorithm>
#include <numeric>
#include <unordered_map>

#include "text/bpe_merger.h"
#include "text/byte_trie.h"
#include "text/token_model.h"
#include "text/unicode.h"

namespace skiff {
namespace {

constexpr char32_t n_direct_characters = 0x3100;  // looked up by a table; the others by a map

// Ids of single characters.
class CharacterIds {
public:
    void set(char32_t c, std::int32_t id) {
        if (c < n_direct_characters) {
            if (direct_.empty()) direct_.assign(n_direct_characters, -1);
            direct_[c] = id;
        } else {
            others_.insert(c, static_cast<std::uint32_t>(id));
        }
    }
    std::int32_t find(char32_t c) const {
        if (c < n_direct_characters) return direct_.empty() ? -1 : direct_[c];
        const std::uint32_t id = others_.find(c);
        return id == FlatMap::absent ? -1 : static_cast<std::int32_t>(id);
    }

private:
    std::vector<std::int32_t> direct_;
    FlatMap others_;
};

CharacterIds single_characters(const Vocabulary& vocabulary) {
    CharacterIds ids;
    for (std::int32_t id = vocabulary.size() - 1; id >= 0; --id) {
        if (!vocabulary.has(id) || vocabulary.text(id).empty() || vocabulary.find(vocabulary.text(id)) != id) continue;
        const Utf8Step step = decode_utf8(vocabulary.text(id), 0);
        if (step.valid && static_cast<std::size_t>(step.n_bytes) == vocabulary.text(id).size()) ids.set(step.code_point, id);
    }
    return ids;
}

class BpeModel final : public TokenModel {
public:
    BpeModel(std::shared_ptr<const Vocabulary> vocabulary, BpeOptions options)
        : vocabulary_(std::move(vocabulary)), n_own_(vocabulary_->size()), options_(std::move(options)),
          characters_(single_characters(*vocabulary_)), byte_ids_(byte_token_ids(*vocabulary_)) {
        own_.resize(static_cast<std::size_t>(n_own_));
        for (std::int32_t id = 0; id < n_own_; ++id) own_[static_cast<std::size_t>(id)] = vocabulary_->has(id);
        has_affixes_ = !options_.continuing_subword_prefix.empty() || !options_.end_of_word_suffix.empty();
    }

    void encode(std::string_view piece, std::vector<std::int32_t>& ids) const override {
        if (options_.ignore_merges) {
            if (const std::int32_t whole = find_own(piece); whole >= 0) {
                ids.push_back(whole);
                return;
            }
        }
        thread_local std::vector<std::int32_t> symbols;
        symbols.clear();
        split(piece, symbols);
        merges_.apply(symbols);
        finish(symbols, ids);
        if (symbols.capacity() > (1u << 20)) std::vector<std::int32_t>().swap(symbols);
    }

    MergeTable merges_;
    ByteTrie user_defined_;
    CharacterIds virtual_characters_;          // characters that are no token but stand within one: ids after the vocabulary's
    std::vector<std::string> virtual_texts_;
    std::unordered_map<std::int32_t, std::pair<std::int32_t, std::int32_t>> unused_parts_;

private:
    static std::int32_t frozen(std::uint32_t id) { return -2 - static_cast<std::int32_t>(id); }

    void split(std::string_view piece, std::vector<std::int32_t>& symbols) const {
        std::optional<std::int32_t> pending_unk;
        for (std::size_t at = 0; at < piece.size();) {
            if (!user_defined_.empty()) {
                const auto match = user_defined_.longest(piece.substr(at));
                if (match.n_bytes > 0) {
                    if (pending_unk) symbols.push_back(*std::exchange(pending_unk, std::nullopt));
                    symbols.push_back(frozen(match.value));
                    at += match.n_bytes;
                    continue;
                }
            }
            const Utf8Step step = decode_utf8(piece, at);
            const auto n_bytes = static_cast<std::size_t>(step.n_bytes);
            const std::string_view text = piece.substr(at, n_bytes);
            const std::int32_t id = has_affixes_ ? find_affixed(text, at == 0, at + n_bytes == piece.size()) : find_character(step.code_point);
            if (id >= 0) {
                if (pending_unk) symbols.push_back(*std::exchange(pending_unk, std::nullopt));
                symbols.push_back(id);
            } else if (!options_.byte_fallback || !append_bytes(affixed(text, at == 0, at + n_bytes == piece.size()), symbols)) {
                if (pending_unk && !options_.fuse_unk) symbols.push_back(*pending_unk);
                pending_unk = options_.unk_id;
            }
            at += n_bytes;
        }
        if (pending_unk) symbols.push_back(*pending_unk);
    }
    std::int32_t find_character(char32_t c) const {
        const std::int32_t id = characters_.find(c);
        return id >= 0 ? id : virtual_characters_.find(c);
    }
    std::string affixed(std::string_view text, bool is_first, bool is_last) const {
        return (is_first ? "" : options_.continuing_subword_prefix) + std::string(text) + (is_last ? options_.end_of_word_suffix : "");
    }
    std::int32_t find_affixed(std::string_view text, bool is_first, bool is_last) const {
        return find_own(affixed(text, is_first, is_last));
    }
    std::int32_t find_own(std::string_view text) const {
        const auto id = vocabulary_->find(text);
        return id && *id < n_own_ && own_[static_cast<std::size_t>(*id)] ? *id : -1;
    }
    bool append_bytes(std::string_view text, std::vector<std::int32_t>& symbols) const {
        for (char c : text)
            if (byte_ids_[static_cast<unsigned char>(c)] < 0) return false;
        for (char c : text) symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
        return true;
    }
    // Symbols to ids: frozen and virtual ones find what they stand for, unused ones fall apart again.
    void finish(const std::vector<std::int32_t>& symbols, std::vector<std::int32_t>& ids) const {
        if (virtual_texts_.empty() && unused_parts_.empty() && user_defined_.empty()) {
            ids.insert(ids.end(), symbols.begin(), symbols.end());
            return;
        }
        bool after_unk = false;
        for (std::int32_t symbol : symbols) {
            const bool known = symbol < n_own_;
            if (known || !append_unknown(symbol, ids, after_unk)) append_known(symbol < 0 ? -2 - symbol : symbol, ids);
            after_unk = !known && !ids.empty() && options_.unk_id && ids.back() == *options_.unk_id;
        }
    }
    bool append_unknown(std::int32_t symbol, std::vector<std::int32_t>& ids, bool after_unk) const {
        const std::string& text = virtual_texts_[static_cast<std::size_t>(symbol - n_own_)];
        if (options_.byte_fallback && append_bytes(text, ids)) return true;
        if (options_.unk_id && !(after_unk && options_.fuse_unk)) ids.push_back(*options_.unk_id);
        return true;
    }
    void append_known(std::int32_t id, std::vector<std::int32_t>& ids) const {
        std::vector<std::int32_t> stack = {id};
        while (!stack.empty()) {
            const std::int32_t top = stack.back();
            stack.pop_back();
            auto parts = unused_parts_.find(top);
            if (parts == unused_parts_.end()) {
                if (top < n_own_) {
                    ids.push_back(top);
                } else {
                    append_unknown(top, ids, false);
                }
                continue;
            }
            stack.push_back(parts->second.second);
            stack.push_back(parts->second.first);
        }
    }

    std::shared_ptr<const Vocabulary> vocabulary_;
    std::int32_t n_own_;
    std::vector<bool> own_;
    BpeOptions options_;
    CharacterIds characters_;
    std::array<std::int32_t, 256> byte_ids_;
    bool has_affixes_ = false;
};

// Gives every character of the mergeable tokens an id, so that a token can grow through characters that are none themselves.
void add_virtual_characters(BpeModel& model, const Vocabulary& vocabulary, const std::vector<bool>& mergeable) {
    const CharacterIds real = single_characters(vocabulary);
    for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
        if (!vocabulary.has(id) || !mergeable[static_cast<std::size_t>(id)]) continue;
        const std::string& text = vocabulary.text(id);
        for (std::size_t at = 0; at < text.size();) {
            const Utf8Step step = decode_utf8(text, at);
            if (step.valid && real.find(step.code_point) < 0 && model.virtual_characters_.find(step.code_point) < 0) {
                model.virtual_characters_.set(step.code_point, vocabulary.size() + static_cast<std::int32_t>(model.virtual_texts_.size()));
                model.virtual_texts_.emplace_back(text.substr(at, static_cast<std::size_t>(step.n_bytes)));
            }
            at += static_cast<std::size_t>(step.n_bytes);
        }
    }
}

// Ranks from 0 for the highest priority; equal priorities share a rank.
std::vector<std::uint32_t> ranks_of(const std::vector<float>& priority) {
    std::vector<std::uint32_t> order(priority.size());
    std::iota(order.begin(), order.end(), 0u);
    auto value = [&](std::uint32_t i) { return priority[i] == priority[i] ? priority[i] : -3.0e38f; };
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return value(a) > value(b); });
    std::vector<std::uint32_t> ranks(priority.size());
    for (std::size_t i = 0, rank = 0; i < order.size(); ++i) {
        if (i > 0 && value(order[i]) != value(order[i - 1])) rank = i;
        ranks[order[i]] = static_cast<std::uint32_t>(rank);
    }
    return ranks;
}

}  // namespace

Result<std::unique_ptr<TokenModel>> make_bpe_model(std::shared_ptr<const Vocabulary> shared_vocabulary, const std::vector<TextMerge>& merges,
                                                   const BpeOptions& options) {
    const Vocabulary& vocabulary = *shared_vocabulary;
    auto model = std::make_unique<BpeModel>(shared_vocabulary, options);
    model->merges_.reserve(merges.size());
    const std::size_t prefix_bytes = options.continuing_subword_prefix.size();
    for (const TextMerge& merge : merges) {
        const auto left = vocabulary.find(merge.left), right = vocabulary.find(merge.right);
        const bool short_right = merge.right.size() < prefix_bytes;
        const auto joined = short_right ? std::nullopt : vocabulary.find(merge.left + merge.right.substr(prefix_bytes));
        if (!left || !right || !joined) {
            const std::string missing = !left ? merge.left : !right ? merge.right : merge.left + merge.right;
            return corrupt("merge " + std::to_string(merge.rank) + " (\"" + merge.left.substr(0, 80) + "\" + \"" + merge.right.substr(0, 80) +
                           "\"): \"" + missing.substr(0, 160) + "\" is not in the vocabulary");
        }
        model->merges_.add({*left, *right, *joined, merge.rank});
    }
    return std::unique_ptr<TokenModel>(std::move(model));
}

Result<std::unique_ptr<TokenModel>> make_implied_bpe_model(std::shared_ptr<const Vocabulary> shared_vocabulary, const std::vector<float>& priority,
                                                           const std::vector<bool>& mergeable, const ImpliedBpeOptions& options) {
    const Vocabulary& vocabulary = *shared_vocabulary;
    auto model = std::make_unique<BpeModel>(shared_vocabulary, options.bpe);
    add_virtual_characters(*model, vocabulary, mergeable);
    const std::vector<std::uint32_t> ranks = ranks_of(priority);
    auto symbol_of = [&](std::string_view text) -> std::int32_t {
        if (auto id = vocabulary.find(text); id && mergeable[static_cast<std::size_t>(*id)]) return *id;
        const Utf8Step step = decode_utf8(text, 0);
        if (static_cast<std::size_t>(step.n_bytes) != text.size()) return -1;
        if (auto id = vocabulary.find(text)) return *id;
        return model->virtual_characters_.find(step.code_point);
    };
    std::vector<bool> is_unused(static_cast<std::size_t>(vocabulary.size()));
    for (std::int32_t id : options.unused) is_unused[static_cast<std::size_t>(id)] = true;
    for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
        const auto at_id = static_cast<std::size_t>(id);
        if (!vocabulary.has(id) || !mergeable[at_id]) continue;
        const std::string_view text = vocabulary.text(id);
        if (!is_valid_utf8(text)) return corrupt("token " + std::to_string(id) + " is not valid UTF-8");
        if (vocabulary.find(text) != id) continue;
        std::pair<std::int32_t, std::int32_t> best_parts{-1, -1};
        for (std::size_t cut = 1; cut < text.size(); ++cut) {
            if ((text[cut] & 0xC0) == 0x80) continue;
            const std::int32_t left = symbol_of(text.substr(0, cut));
            if (left < 0) continue;
            const std::int32_t right = symbol_of(text.substr(cut));
            if (right < 0) continue;
            model->merges_.add({left, right, id, ranks[at_id]});
            best_parts = {left, right};
        }
        if (is_unused[at_id] && best_parts.first >= 0) model->unused_parts_[id] = best_parts;
    }
    for (std::string_view text : options.user_defined) {
        if (auto id = vocabulary.find(text)) model->user_defined_.insert(text, static_cast<std::uint32_t>(*id));
    }
    return std::unique_ptr<TokenModel>(std::move(model));
}

}  // namespace skiff
