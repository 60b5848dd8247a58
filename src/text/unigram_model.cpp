#include <algorithm>
#include <limits>

#include "text/byte_trie.h"
#include "text/token_model.h"
#include "text/unicode.h"

namespace skiff {
namespace {

constexpr double unk_penalty = 10.0;  // below the worst token; the value both reference programs use

template <class Score>
class UnigramModel final : public TokenModel {
public:
    UnigramModel(const Vocabulary& vocabulary, const std::vector<double>& scores, UnigramOptions options)
        : options_(std::move(options)), byte_ids_(byte_token_ids(vocabulary)) {
        std::vector<bool> skip(scores.size());
        for (std::int32_t id : options_.excluded) skip[static_cast<std::size_t>(id)] = true;
        std::vector<bool> user_defined(scores.size());
        for (std::int32_t id : options_.user_defined) user_defined[static_cast<std::size_t>(id)] = true;
        double low = std::numeric_limits<double>::infinity(), high = -low;
        scores_.resize(scores.size());
        for (std::size_t i = 0; i < scores.size(); ++i) {
            scores_[i] = static_cast<Score>(scores[i]);
            if (options_.single_precision && (skip[i] || user_defined[i])) continue;  // tokenizer.json counts every score
            low = std::min(low, scores[i]);
            high = std::max(high, scores[i]);
        }
        if (low > high) low = high = 0;
        unk_score_ = static_cast<Score>(static_cast<Score>(low) - static_cast<Score>(unk_penalty));
        for (std::int32_t id : options_.user_defined) {
            const auto n_bytes = static_cast<double>(vocabulary.text(id).size());
            scores_[static_cast<std::size_t>(id)] = static_cast<Score>(n_bytes * high - 0.1);
        }
        for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
            if (vocabulary.has(id) && !skip[static_cast<std::size_t>(id)]) trie_.insert(vocabulary.text(id), static_cast<std::uint32_t>(id));
        }
    }

    void encode(std::string_view piece, std::vector<std::int32_t>& ids) const override {
        thread_local std::vector<Node> best;
        best.assign(piece.size() + 1, Node{});
        for (std::size_t at = 0; at < piece.size();) at = extend(piece, at, best);
        backtrack(piece, best, ids);
        if (best.capacity() > (1u << 20)) std::vector<Node>().swap(best);
    }

private:
    struct Node {  // the best path that ends here
        Score score = 0;
        std::int32_t id = -1;
        std::uint32_t start = none;
    };
    static constexpr std::uint32_t none = 0xFFFFFFFF;
    static constexpr std::int32_t unknown = -1;

    std::size_t extend(std::string_view piece, std::size_t at, std::vector<Node>& best) const {
        const Score here = best[at].score;
        const auto n_bytes = static_cast<std::size_t>(utf8_lead_length(static_cast<unsigned char>(piece[at])));
        auto offer = [&](std::size_t end, Score score, std::int32_t id) {
            Node& node = best[end];
            if (node.start == none || score > node.score) node = {score, id, static_cast<std::uint32_t>(at)};
        };
        bool has_single = false;
        std::uint32_t node = ByteTrie::root;
        for (std::size_t i = at; i < piece.size(); ++i) {
            node = trie_.step(node, piece[i]);
            if (node == FlatMap::absent) break;
            const std::uint32_t id = trie_.value(node);
            if (id == FlatMap::absent) continue;
            offer(i + 1, static_cast<Score>(scores_[id] + here), static_cast<std::int32_t>(id));
            has_single = has_single || i + 1 - at == n_bytes;
        }
        if (!has_single) offer(at + n_bytes, static_cast<Score>(unk_score_ + here), unknown);
        return at + n_bytes;
    }
    void backtrack(std::string_view piece, const std::vector<Node>& best, std::vector<std::int32_t>& ids) const {
        std::vector<std::uint32_t> ends;
        for (std::size_t end = piece.size(); end > 0; end = best[end].start) ends.push_back(static_cast<std::uint32_t>(end));
        std::reverse(ends.begin(), ends.end());
        std::uint32_t begin = 0;
        for (std::size_t i = 0; i < ends.size(); ++i) {
            if (best[ends[i]].id != unknown) {
                ids.push_back(best[ends[i]].id);
            } else {  // a run of unknown characters is one unknown
                while (i + 1 < ends.size() && best[ends[i + 1]].id == unknown) ++i;
                append_unknown(piece.substr(begin, ends[i] - begin), ids);
            }
            begin = ends[i];
        }
    }
    void append_unknown(std::string_view text, std::vector<std::int32_t>& ids) const {
        const bool all_bytes = options_.byte_fallback && std::all_of(text.begin(), text.end(), [&](char c) {
            return byte_ids_[static_cast<unsigned char>(c)] >= 0;
        });
        if (all_bytes) {
            for (char c : text) ids.push_back(byte_ids_[static_cast<unsigned char>(c)]);
        } else if (options_.unk_id >= 0) {
            ids.push_back(options_.unk_id);
        }
    }

    UnigramOptions options_;
    std::array<std::int32_t, 256> byte_ids_;
    std::vector<Score> scores_;
    Score unk_score_ = 0;
    ByteTrie trie_;
};

}  // namespace

Result<std::unique_ptr<TokenModel>> make_unigram_model(const Vocabulary& vocabulary, const std::vector<double>& scores, const UnigramOptions& options) {
    if (scores.size() != static_cast<std::size_t>(vocabulary.size())) {
        return corrupt("unigram model with " + std::to_string(scores.size()) + " scores for " + std::to_string(vocabulary.size()) + " tokens");
    }
    for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
        if (vocabulary.has(id) && !is_valid_utf8(vocabulary.text(id))) return corrupt("token " + std::to_string(id) + " is not valid UTF-8");
    }
    if (options.single_precision) return std::unique_ptr<TokenModel>(std::make_unique<UnigramModel<float>>(vocabulary, scores, options));
    return std::unique_ptr<TokenModel>(std::make_unique<UnigramModel<double>>(vocabulary, scores, options));
}

}  // namespace skiff
