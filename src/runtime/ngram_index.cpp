#include "runtime/ngram_index.h"

#include <algorithm>

namespace skiff {

void NgramIndex::clear() {
    tokens_.clear();
    for (auto& table : places_) std::fill(table.begin(), table.end(), 0);
}

std::size_t NgramIndex::slot(std::size_t end, std::size_t length) const {
    std::uint64_t hash = length;
    for (std::size_t i = end - length; i < end; ++i) {
        hash = (hash ^ static_cast<std::uint32_t>(tokens_[i])) * 0x9e3779b97f4a7c15ULL;
        hash ^= hash >> 29;
    }
    return static_cast<std::size_t>(hash) & mask_;
}

void NgramIndex::enter(std::size_t end) {
    for (std::size_t length = shortest; length <= std::min(longest, end); ++length)
        places_[length - shortest][slot(end, length)] = static_cast<std::int32_t>(end);
}

// Four slots per token: about one entry in five is lost to another that hashes alike.
void NgramIndex::grow() {
    const std::size_t size = std::max<std::size_t>(1024, 2 * (mask_ + 1));
    mask_ = size - 1;
    for (auto& table : places_) table.assign(size, 0);
    for (std::size_t end = shortest; end < tokens_.size(); ++end) enter(end);
}

void NgramIndex::push(std::int32_t token) {
    if (4 * (tokens_.size() + 1) > mask_) grow();
    enter(tokens_.size());  // only now does something follow them
    tokens_.push_back(token);
}

std::optional<NgramIndex::Match> NgramIndex::find() const {
    const std::size_t end = tokens_.size();
    for (std::size_t length = std::min(longest, end); length >= shortest; --length) {
        const auto next = static_cast<std::size_t>(places_[length - shortest][slot(end, length)]);
        if (next < length) continue;
        std::size_t same = 0;
        while (same < std::min(next, longest_match) && tokens_[next - 1 - same] == tokens_[end - 1 - same]) ++same;
        if (same >= length) return Match{same, next};
    }
    return std::nullopt;
}

void NgramIndex::follow(const Match& match, std::size_t n_tokens, std::vector<std::int32_t>& target) const {
    const std::size_t first = target.size();
    for (std::size_t i = match.next; i < match.next + n_tokens; ++i)
        target.push_back(i < tokens_.size() ? tokens_[i] : target[first + (i - tokens_.size())]);
}

}  // namespace skiff
