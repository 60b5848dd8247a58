#include "formats/name_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace skiff {
namespace {

constexpr std::size_t max_pattern_bytes = 4096;
constexpr std::uint32_t match_limit = 200'000, depth_limit = 1'000;

}  // namespace

Result<NamePattern> NamePattern::compile(std::string expression, std::string where) {
    NamePattern pattern;
    pattern.where_ = std::move(where);
    if (expression.size() > max_pattern_bytes) return corrupt(pattern.where_ + ": has more than " + std::to_string(max_pattern_bytes) + " bytes");
    int code = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code* compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                                         PCRE2_ANCHORED | PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &code, &offset, nullptr);
    if (compiled == nullptr) {
        unsigned char message[128] = {};
        pcre2_get_error_message(code, message, sizeof message);
        return corrupt(pattern.where_ + ": " + reinterpret_cast<const char*>(message));
    }
    pattern.compiled_ = std::shared_ptr<const void>(compiled, [](const void* data) { pcre2_code_free(const_cast<pcre2_code*>(static_cast<const pcre2_code*>(data))); });
    return pattern;
}

Result<bool> NamePattern::matches(std::string_view name) const {
    if (compiled_ == nullptr) return false;
    const auto* code = static_cast<const pcre2_code*>(compiled_.get());
    std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(pcre2_match_context_create(nullptr), pcre2_match_context_free);
    std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
    if (context == nullptr || data == nullptr) return resource_error("out of memory while matching " + where_);
    pcre2_set_match_limit(context.get(), match_limit);
    pcre2_set_depth_limit(context.get(), depth_limit);
    const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0, data.get(), context.get());
    if (found >= 0) return true;
    if (found == PCRE2_ERROR_NOMATCH) return false;
    return corrupt(where_ + ": takes too long to match or cannot be matched");
}

std::string pattern_of_name(std::string_view name) {
    std::string text = "^";
    for (const char letter : name) {
        const bool plain = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') || (letter >= '0' && letter <= '9') || letter == '_';
        if (!plain) text += '\\';
        text += letter;
    }
    return text + "$";
}

}  // namespace skiff
