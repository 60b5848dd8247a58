// Cuts a template into tokens, with Jinja's white space rules applied (trim_blocks, lstrip_blocks, the signs - and + at tags).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace skiff::tmpl {

enum class TokenKind { data, variable_begin, variable_end, block_begin, block_end, name, string, integer, real, symbol, end };

struct Token {
    TokenKind kind = TokenKind::end;
    int line = 1;
    std::string text;          // data, names, symbols as written, strings with their escapes resolved
    std::int64_t integer = 0;
    double real = 0;

    bool is_symbol(std::string_view symbol) const { return kind == TokenKind::symbol && text == symbol; }
    bool is_name(std::string_view name) const { return kind == TokenKind::name && text == name; }
};

// The tokens of a template, an `end` token last. Comments and raw tags are gone.
Result<std::vector<Token>> tokenize(std::string_view source);

// What every syntax error looks like.
Error syntax_error(int line, std::string message);

}  // namespace skiff::tmpl
