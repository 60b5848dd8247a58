#include "text/token_decoder.h"

#include <algorithm>
#include <array>

#include "text/byte_level.h"
#include "text/normalizer.h"
#include "text/unicode.h"
#include "text/vocabulary.h"

namespace skiff {
namespace {

template <class OnToken>
TokenDecoder each_token(OnToken on_token) {
    return [on_token = std::move(on_token)](TokenTexts tokens) {
        for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = on_token(std::move(tokens[i]), i, tokens.size());
        return tokens;
    };
}

}  // namespace

TokenDecoder byte_level_decoder() {
    return [](TokenTexts tokens) {
        std::string bytes;
        for (const std::string& token : tokens) bytes += from_byte_level(token).value_or(token);
        return TokenTexts{make_valid_utf8(bytes)};
    };
}

TokenDecoder byte_fallback_decoder() {
    return [](TokenTexts tokens) {
        TokenTexts out;
        std::string run;
        auto flush = [&] {
            if (run.empty()) return;
            if (is_valid_utf8(run)) {
                out.push_back(std::move(run));
            } else {
                for (std::size_t i = 0; i < run.size(); ++i) out.push_back("\xEF\xBF\xBD");
            }
            run.clear();
        };
        for (std::string& token : tokens) {
            if (auto byte = parse_byte_token(token)) {
                run += static_cast<char>(*byte);
                continue;
            }
            flush();
            out.push_back(std::move(token));
        }
        flush();
        return out;
    };
}

TokenDecoder fuse_decoder() {
    return [](TokenTexts tokens) {
        std::string text;
        for (const std::string& token : tokens) text += token;
        return TokenTexts{std::move(text)};
    };
}

TokenDecoder replace_decoder(std::string literal, std::string content) {
    return each_token([literal = std::move(literal), content = std::move(content)](std::string token, std::size_t, std::size_t) {
        return replace_all(token, literal, content);
    });
}

TokenDecoder replace_decoder(Regex pattern, std::string content) {
    return each_token([replace = replace_normalizer(std::move(pattern), std::move(content))](std::string token, std::size_t, std::size_t) {
        auto replaced = replace(token);
        return replaced.ok() ? std::move(replaced).value() : token;  // a match beyond the limits leaves the token as it is
    });
}

TokenDecoder strip_decoder(std::string character, StripCount count) {
    return each_token([character = std::move(character), count](std::string token, std::size_t, std::size_t) {
        std::string_view rest = token;
        if (character.empty()) return token;
        for (std::size_t i = 0; i < count.start && rest.starts_with(character); ++i) rest.remove_prefix(character.size());
        for (std::size_t i = 0; i < count.stop && rest.ends_with(character); ++i) rest.remove_suffix(character.size());
        return std::string(rest);
    });
}

TokenDecoder metaspace_decoder(std::string replacement, PrependScheme prepend) {
    return each_token([replacement = std::move(replacement), prepend](std::string token, std::size_t i, std::size_t) {
        return replace_all(token, replacement, i == 0 && prepend != PrependScheme::never ? "" : " ");
    });
}

std::string clean_up_english(std::string text) {
    static constexpr std::array<std::pair<std::string_view, std::string_view>, 11> rules = {{{" .", "."},
                                                                                           {" ?", "?"},
                                                                                           {" !", "!"},
                                                                                           {" ,", ","},
                                                                                           {" ' ", "'"},
                                                                                           {" n't", "n't"},
                                                                                           {" 'm", "'m"},
                                                                                           {" do not", " don't"},
                                                                                           {" 's", "'s"},
                                                                                           {" 've", "'ve"},
                                                                                           {" 're", "'re"}}};
    for (const auto& [from, to] : rules) text = replace_all(text, from, to);
    return text;
}

TokenDecoder wordpiece_decoder(std::string prefix, Cleanup cleanup) {
    return each_token([prefix = std::move(prefix), cleanup](std::string token, std::size_t i, std::size_t) {
        if (i > 0) {
            if (!prefix.empty() && token.starts_with(prefix)) {
                token.erase(0, prefix.size());
            } else {
                token.insert(0, " ");
            }
        }
        return cleanup == Cleanup::english ? clean_up_english(std::move(token)) : token;
    });
}

TokenDecoder leading_space_decoder(std::string space) {
    return [space = std::move(space)](TokenTexts tokens) {
        for (std::string& token : tokens) {
            if (token.starts_with(space)) token.erase(0, space.size());
            if (!token.empty()) break;
        }
        return tokens;
    };
}

TokenDecoder suffix_decoder(std::string suffix) {
    return each_token([suffix = std::move(suffix)](std::string token, std::size_t i, std::size_t n) {
        return replace_all(token, suffix, i + 1 == n ? "" : " ");
    });
}

}  // namespace skiff
