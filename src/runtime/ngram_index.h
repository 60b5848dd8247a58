// Where in a text its last few tokens stood before, and what followed there: a table of the latest place of every pair, triple and quadruple.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace skiff {

class NgramIndex {
public:
    static constexpr std::size_t shortest = 2, longest = 4;  // tokens that are looked up
    static constexpr std::size_t longest_match = 32;         // a match is followed back no further than this

    void clear();
    void push(std::int32_t token);  // constant time on average
    const std::vector<std::int32_t>& tokens() const { return tokens_; }

    struct Match {
        std::size_t length;  // tokens before `next` that equal the last ones
        std::size_t next;    // place of the token that followed
    };
    // The latest earlier place where the last four tokens stood, else the last three, else the last two.
    std::optional<Match> find() const;
    // What followed the match, `n_tokens` of it. Where the text ends, its own continuation goes on: "a b a b" is followed by "a b a b".
    void follow(const Match& match, std::size_t n_tokens, std::vector<std::int32_t>& target) const;

private:
    std::size_t slot(std::size_t end, std::size_t length) const;
    void enter(std::size_t end);
    void grow();

    std::vector<std::int32_t> tokens_;
    // By length: the place behind the latest such tokens. A place that hashes alike overwrites it; find() compares the tokens themselves.
    std::array<std::vector<std::int32_t>, longest - shortest + 1> places_;
    std::size_t mask_ = 0;
};

}  // namespace skiff
