#include "text/template_lexer.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "text/template_unicode.h"

namespace skiff::tmpl {

Error syntax_error(int line, std::string message) { return corrupt("template, line " + std::to_string(line) + ": " + std::move(message)); }

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || static_cast<unsigned char>(c) >= 0x80; }
bool is_name_part(char c) { return is_name_start(c) || is_digit(c); }

// Every kind of line end becomes "\n", and one at the very end of the template goes, as Jinja reads its sources.
std::string normalize_lines(std::string_view source) {
    std::string out;
    out.reserve(source.size());
    for (std::size_t i = 0; i < source.size(); ++i) {
        if (source[i] == '\r') {
            out += '\n';
            if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
        } else {
            out += source[i];
        }
    }
    if (!out.empty() && out.back() == '\n') out.pop_back();
    return out;
}

class Lexer {
public:
    explicit Lexer(std::string source) : source_(std::move(source)) {}

    Result<std::vector<Token>> run() {
        while (position_ < source_.size()) SKIFF_CHECK(lex_data());
        tokens_.push_back({TokenKind::end, line_, "end of template", 0, 0});
        return std::move(tokens_);
    }

private:
    enum class Tag { variable, block, comment };

    char at(std::size_t position) const { return position < source_.size() ? source_[position] : '\0'; }
    bool starts(std::size_t position, std::string_view what) const { return std::string_view(source_).substr(position, what.size()) == what; }

    void advance_to(std::size_t position) {
        line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(position_), source_.begin() + static_cast<std::ptrdiff_t>(position), '\n'));
        position_ = position;
    }
    std::size_t skip_spaces(std::size_t position) const {
        while (position < source_.size()) {
            std::size_t after = position;
            if (!is_python_space(next_point(source_, after))) break;
            position = after;
        }
        return position;
    }
    void push(TokenKind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text), 0, 0}); }

    // Text up to the next tag, shortened as the tag asks for; then the tag.
    Status lex_data() {
        std::size_t tag = position_;
        while (tag + 1 < source_.size() && !(source_[tag] == '{' && (source_[tag + 1] == '{' || source_[tag + 1] == '%' || source_[tag + 1] == '#'))) ++tag;
        if (tag + 1 >= source_.size()) {
            push(TokenKind::data, source_.substr(position_));
            advance_to(source_.size());
            return {};
        }
        Tag kind = source_[tag + 1] == '{' ? Tag::variable : source_[tag + 1] == '%' ? Tag::block : Tag::comment;
        std::size_t behind = tag + 2;
        char sign = at(behind) == '-' || at(behind) == '+' ? at(behind++) : '\0';
        push_text(std::string_view(source_).substr(position_, tag - position_), sign, kind != Tag::variable);
        if (kind == Tag::comment) return lex_comment(behind);
        if (kind == Tag::block) {
            std::size_t word = skip_spaces(behind);
            if (starts(word, "raw")) {
                std::size_t close = skip_spaces(word + 3);
                if (starts(close, "%}")) return lex_raw(close + 2);
                if (starts(close, "-%}")) return lex_raw(skip_spaces(close + 3));
            }
        }
        push(kind == Tag::variable ? TokenKind::variable_begin : TokenKind::block_begin, "");
        advance_to(behind);
        return lex_code(kind);
    }

    // `tag_may_strip`: lstrip_blocks removes the spaces between the start of a line and a block or comment.
    void push_text(std::string_view text, char sign, bool tag_may_strip) {
        if (sign == '-') {
            text = strip_spaces(text, Side::right);
        } else if (sign != '+' && tag_may_strip) {
            std::size_t newline = text.rfind('\n');
            std::size_t line_start = newline == std::string_view::npos ? 0 : newline + 1;
            if ((line_start > 0 || at_line_start_) && strip_spaces(text.substr(line_start), Side::left).empty()) text = text.substr(0, line_start);
        }
        if (!text.empty()) push(TokenKind::data, std::string(text));
    }

    // Behind a closing sign: "-" eats all spaces, "+" nothing, none eats one line end (trim_blocks) unless it closes a variable.
    void finish_tag(std::size_t close, Tag kind) {
        std::size_t end = close;
        if (at(close) == '-') {
            end = skip_spaces(close + 3);
        } else if (at(close) == '+') {
            end = close + 3;
        } else {
            end = close + 2;
            if (kind != Tag::variable && at(end) == '\n') ++end;
        }
        at_line_start_ = source_[end - 1] == '\n';
        advance_to(end);
    }

    Status lex_comment(std::size_t begin) {
        std::size_t close = source_.find("#}", begin);
        if (close == std::string::npos) return syntax_error(line_, "a comment is not closed; expected #}");
        if (close > begin && (source_[close - 1] == '-' || source_[close - 1] == '+')) --close;
        finish_tag(close, Tag::comment);
        return {};
    }

    Status lex_raw(std::size_t begin) {
        advance_to(begin);
        at_line_start_ = source_[begin - 1] == '\n';
        for (std::size_t tag = source_.find("{%", begin); tag != std::string::npos; tag = source_.find("{%", tag + 1)) {
            std::size_t word = tag + 2;
            char sign = at(word) == '-' || at(word) == '+' ? at(word++) : '\0';
            word = skip_spaces(word);
            if (!starts(word, "endraw")) continue;
            std::size_t close = skip_spaces(word + 6);
            if (!starts(close, "%}") && !starts(close, "-%}") && !starts(close, "+%}")) continue;
            push_text(std::string_view(source_).substr(begin, tag - begin), sign, true);
            finish_tag(close, Tag::block);
            return {};
        }
        return syntax_error(line_, "a raw block is not closed; expected {% endraw %}");
    }

    Status lex_code(Tag kind) {
        std::string brackets;
        int opened_at = line_;
        while (position_ < source_.size()) {
            std::size_t close = at(position_) == '-' || (at(position_) == '+' && kind == Tag::block) ? position_ + 1 : position_;
            if (brackets.empty() && starts(close, kind == Tag::variable ? "}}" : "%}")) {
                push(kind == Tag::variable ? TokenKind::variable_end : TokenKind::block_end, "");
                finish_tag(position_, kind);
                return {};
            }
            std::size_t after = skip_spaces(position_);
            if (after != position_) {
                advance_to(after);
                continue;
            }
            SKIFF_CHECK(lex_token(brackets));
        }
        return syntax_error(opened_at, kind == Tag::variable ? "an expression is not closed; expected }}" : "a block tag is not closed; expected %}");
    }

    Status lex_token(std::string& brackets) {
        char c = at(position_);
        if (is_digit(c)) return lex_number();
        if (c == '\'' || c == '"') return lex_string(c);
        if (is_name_start(c)) {
            std::size_t end = position_;
            while (end < source_.size() && is_name_part(source_[end])) ++end;
            push(TokenKind::name, source_.substr(position_, end - position_));
            position_ = end;
            return {};
        }
        static constexpr std::string_view symbols[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]",
                                                       "(",  ")",  "{",  "}",  ">",  "<",  "=", ".", ":", "|", ",", ";"};
        for (std::string_view symbol : symbols) {
            if (!starts(position_, symbol)) continue;
            SKIFF_CHECK(balance(symbol[0], brackets));
            push(TokenKind::symbol, std::string(symbol));
            position_ += symbol.size();
            return {};
        }
        return syntax_error(line_, std::string("unexpected character '") + c + "'");
    }

    Status balance(char symbol, std::string& brackets) {
        static constexpr std::string_view opening = "([{", closing = ")]}";
        if (opening.find(symbol) != std::string_view::npos) brackets += symbol;
        std::size_t kind = closing.find(symbol);
        if (kind == std::string_view::npos) return {};
        if (brackets.empty() || brackets.back() != opening[kind]) return syntax_error(line_, std::string("unexpected '") + symbol + "'");
        brackets.pop_back();
        return {};
    }

    Status lex_number() {
        std::size_t end = position_;
        auto digits = [&](std::size_t from) {
            while (is_digit(at(from)) || (at(from) == '_' && is_digit(at(from + 1)))) ++from;
            return from;
        };
        auto strip = [](std::string text) {
            std::erase(text, '_');
            return text;
        };
        char prefix = static_cast<char>(at(position_ + 1) | 0x20);
        int base = at(position_) != '0' ? 10 : prefix == 'x' ? 16 : prefix == 'o' ? 8 : prefix == 'b' ? 2 : 10;
        bool is_real = false;
        std::string text;
        if (base != 10) {
            end = position_ + 2;
            while (std::isxdigit(static_cast<unsigned char>(at(end))) || at(end) == '_') ++end;
            text = strip(source_.substr(position_ + 2, end - position_ - 2));
        } else {
            end = digits(position_);
            std::size_t whole_end = end;
            if (at(end) == '.' && is_digit(at(end + 1))) end = digits(end + 1);
            if ((at(end) | 0x20) == 'e') {
                std::size_t power = end + 1;
                if (at(power) == '+' || at(power) == '-') ++power;
                if (is_digit(at(power))) end = digits(power);
            }
            if (position_ > 0 && at(position_ - 1) == '.') end = whole_end;  // x.0.1 is two subscripts, not a number
            is_real = end != whole_end;
            text = strip(source_.substr(position_, end - position_));
        }
        Token token{is_real ? TokenKind::real : TokenKind::integer, line_, text, 0, 0};
        if (is_real) {
            token.real = std::strtod(text.c_str(), nullptr);
        } else {
            auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), token.integer, base);
            if (error != std::errc() || stop != text.data() + text.size()) return syntax_error(line_, "the number " + text + " is not valid or above 2^63-1");
        }
        tokens_.push_back(std::move(token));
        position_ = end;
        return {};
    }

    Status lex_string(char quote) {
        std::string text;
        int line = line_;
        std::size_t i = position_ + 1;
        while (i < source_.size() && source_[i] != quote) {
            if (source_[i] == '\\') {
                SKIFF_TRY(i, unescape(i + 1, text));
            } else {
                text += source_[i++];
            }
        }
        if (i >= source_.size()) return syntax_error(line_, "a string is not closed");
        advance_to(i + 1);
        tokens_.push_back({TokenKind::string, line, std::move(text), 0, 0});
        return {};
    }

    // Appends what the escape behind a backslash at `i` stands for; returns the position behind it.
    Result<std::size_t> unescape(std::size_t i, std::string& text) {
        static constexpr std::string_view letters = "abfnrtv\\'\"\n", meanings = "\a\b\f\n\r\t\v\\'\"";
        char c = at(i);
        std::size_t known = letters.find(c);
        if (i < source_.size() && known != std::string_view::npos) {
            if (c != '\n') text += meanings[known];
            return i + 1;
        }
        if (c >= '0' && c <= '7') {
            char32_t point = 0;
            std::size_t end = i;
            while (end < i + 3 && at(end) >= '0' && at(end) <= '7') point = point * 8 + static_cast<char32_t>(at(end++) - '0');
            append_point(text, point);
            return end;
        }
        std::size_t n_digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
        if (n_digits == 0) {
            if (c == 'N') return syntax_error(line_, "character names (\\N) are not supported");
            text += '\\';  // unknown escapes stay as they are
            return i;
        }
        std::uint32_t point = 0;
        const char* begin = source_.data() + std::min(source_.size(), i + 1);
        const char* stop = begin + std::min(n_digits, source_.size() - std::min(source_.size(), i + 1));
        auto result = std::from_chars(begin, stop, point, 16);
        if (result.ptr != begin + n_digits || point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF))
            return syntax_error(line_, std::string("the escape \\") + c + " does not name a character");
        append_point(text, point);
        return i + 1 + n_digits;
    }

    std::string source_;
    std::size_t position_ = 0;
    int line_ = 1;
    bool at_line_start_ = true;
    std::vector<Token> tokens_;
};

}  // namespace

Result<std::vector<Token>> tokenize(std::string_view source) { return Lexer(normalize_lines(source)).run(); }

}  // namespace skiff::tmpl
