#include "text/byte_trie.h"
#include "text/token_model.h"
#include "text/unicode.h"

namespace skiff {
namespace {

class WordPieceModel final : public TokenModel {
public:
    WordPieceModel(const Vocabulary& vocabulary, WordPieceOptions options) : options_(std::move(options)) {
        for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
            if (vocabulary.has(id)) trie_.insert(vocabulary.text(id), static_cast<std::uint32_t>(id));
        }
        first_node_ = trie_.walk(options_.word_prefix);
        next_node_ = trie_.walk(options_.continuing_subword_prefix);
    }

    void encode(std::string_view piece, std::vector<std::int32_t>& ids) const override {
        const std::size_t n_before = ids.size();
        bool covered = utf8_length(piece) <= options_.max_input_chars_per_word;
        for (std::size_t at = 0; at < piece.size() && covered;) {
            const std::uint32_t from = at == 0 ? first_node_ : next_node_;
            const auto match = from == FlatMap::absent ? ByteTrie::Match{} : trie_.longest(piece.substr(at), from);
            covered = match.n_bytes > 0;
            if (covered) ids.push_back(static_cast<std::int32_t>(match.value));
            at += match.n_bytes;
        }
        if (covered) return;
        ids.resize(n_before);
        if (options_.unk_id >= 0) ids.push_back(options_.unk_id);
    }

private:
    WordPieceOptions options_;
    ByteTrie trie_;
    std::uint32_t first_node_ = 0, next_node_ = 0;
};

}  // namespace

Result<std::unique_ptr<TokenModel>> make_wordpiece_model(const Vocabulary& vocabulary, const WordPieceOptions& options) {
    for (std::int32_t id = 0; id < vocabulary.size(); ++id) {
        if (vocabulary.has(id) && !is_valid_utf8(vocabulary.text(id))) return corrupt("token " + std::to_string(id) + " is not valid UTF-8");
    }
    return std::unique_ptr<TokenModel>(std::make_unique<WordPieceModel>(vocabulary, options));
}

}  // namespace skiff
