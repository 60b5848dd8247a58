#include "measure/text_fingerprints.h"

#include <algorithm>
#include <charconv>
#include <unordered_map>

#include "base/hash.h"

namespace skiff {
namespace {

constexpr std::uint64_t base = 0x9e3779b97f4a7c15;  // odd, so that no byte is ever multiplied away
constexpr std::int64_t largest_stretch = 4096;
constexpr std::size_t most_hashes = 65'536;

// Texts that differ in how their lines are broken are the same text.
std::string normalized(std::string_view text) {
    std::string result;
    result.reserve(text.size());
    for (char c : text) {
        const bool is_space = c == ' ' || c == '\n' || c == '\r' || c == '\t';
        if (!is_space) result += c;
        else if (!result.empty() && result.back() != ' ') result += ' ';
    }
    return result;
}

// Calls visit(offset, hash) for every stretch of a text.
template <class Visit>
void roll(const std::string& text, std::size_t size, Visit visit) {
    if (size == 0 || text.size() < size) return;
    std::uint64_t hash = 0, leaving = 1;
    for (std::size_t i = 0; i + 1 < size; ++i) leaving *= base;
    auto byte = [&](std::size_t i) { return static_cast<std::uint64_t>(static_cast<unsigned char>(text[i])) + 1; };
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (i >= size) hash -= byte(i - size) * leaving;
        hash = hash * base + byte(i);
        if (i + 1 >= size) visit(i + 1 - size, hash);
    }
}

}  // namespace

Json TextFingerprints::to_json() const {
    Json::Array texts;
    for (std::uint64_t hash : hashes) texts.emplace_back(hex64(hash));
    return Json::object({{"stretch_bytes", stretch_bytes}, {"hashes", std::move(texts)}});
}

Result<TextFingerprints> TextFingerprints::parse(const Json& json) {
    TextFingerprints result;
    SKIFF_TRY(result.stretch_bytes, json["stretch_bytes"].as_int("fingerprints.stretch_bytes"));
    if (result.stretch_bytes < 1 || result.stretch_bytes > largest_stretch || !json["hashes"].is_array() || json["hashes"].size() > most_hashes)
        return corrupt("fingerprints: expected stretches of 1 to " + std::to_string(largest_stretch) + " bytes and a list of hashes");
    for (const Json& item : json["hashes"].items()) {
        const std::string& text = item.text();
        std::uint64_t hash = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), hash, 16);
        if (text.size() != 16 || error != std::errc() || end != text.data() + text.size()) return corrupt("fingerprints: \"" + text.substr(0, 40) + "\" is no hash of 16 hexadecimal digits");
        result.hashes.push_back(hash);
    }
    return result;
}

TextFingerprints fingerprints_of(std::string_view text, std::int64_t n_stretches) {
    TextFingerprints result;
    const std::string words = normalized(text);
    const auto size = static_cast<std::size_t>(result.stretch_bytes);
    if (words.size() < size || n_stretches < 1) return result;
    const std::size_t n_offsets = words.size() - size + 1, n = std::min(static_cast<std::size_t>(n_stretches), n_offsets);
    std::size_t next = 0;
    roll(words, size, [&](std::size_t offset, std::uint64_t hash) {
        const std::size_t wanted = n == 1 ? 0 : next * (n_offsets - 1) / (n - 1);
        if (next == n || offset != wanted) return;
        result.hashes.push_back(hash);
        ++next;
    });
    return result;
}

std::int64_t count_found(const TextFingerprints& fingerprints, std::string_view text) {
    std::unordered_map<std::uint64_t, std::int64_t> wanted;  // hash: stretches that have it and were not found yet
    for (std::uint64_t hash : fingerprints.hashes) ++wanted[hash];
    std::int64_t n = 0;
    roll(normalized(text), static_cast<std::size_t>(fingerprints.stretch_bytes), [&](std::size_t, std::uint64_t hash) {
        const auto found = wanted.find(hash);
        if (found == wanted.end()) return;
        n += found->second;
        wanted.erase(found);
    });
    return n;
}

}  // namespace skiff
