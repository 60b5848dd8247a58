#include "eval/task_text.h"

#include <utf8proc.h>

#include <optional>

#include "text/unicode.h"

namespace skiff {
namespace {

// str.isspace(): White_Space, and the separators U+001C to U+001F.
bool is_python_space(char32_t c) { return is_white_space(c) || (c >= 0x1c && c <= 0x1f); }

// Removes every "[...]": from an opening bracket to the first closing one, when no line end is between (the pattern \[.*?\]).
std::string without_brackets(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size();) {
        if (text[i] == '[') {
            const std::size_t close = text.find(']', i + 1), line_end = text.find('\n', i + 1);
            if (close != std::string_view::npos && close < line_end) {
                i = close + 1;
                continue;
            }
        }
        out += text[i++];
    }
    return out;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
    std::string out;
    std::size_t at = 0;
    for (std::size_t hit = text.find(from); hit != std::string_view::npos; hit = text.find(from, at)) {
        out.append(text.substr(at, hit - at)).append(to);
        at = hit + from.size();
    }
    return out.append(text.substr(at));
}

// One field in quotes, `at` behind the opening one. Nothing when the file ends inside it or text follows the closing quote.
std::optional<std::string> quoted_field(std::string_view text, std::size_t& at) {
    std::string field;
    while (at < text.size()) {
        if (text[at] != '"') {
            field += text[at++];
        } else if (at + 1 < text.size() && text[at + 1] == '"') {
            field += '"';
            at += 2;
        } else {
            ++at;
            if (at < text.size() && text[at] != ',' && text[at] != '\r' && text[at] != '\n') return std::nullopt;
            return field;
        }
    }
    return std::nullopt;
}

using Records = std::vector<std::vector<std::string>>;

// RFC 4180, with any of the three line ends; nothing when the file breaks a rule or a record has not six fields.
std::optional<Records> strict_records(std::string_view text) {
    Records records;
    for (std::size_t at = 0; at < text.size();) {
        std::vector<std::string> record;
        for (bool more = true; more;) {
            std::string field;
            if (at < text.size() && text[at] == '"') {
                auto quoted = quoted_field(text, ++at);
                if (!quoted) return std::nullopt;
                field = std::move(*quoted);
            } else {
                while (at < text.size() && text[at] != ',' && text[at] != '\r' && text[at] != '\n') field += text[at++];
            }
            record.push_back(std::move(field));
            more = at < text.size() && text[at] == ',';
            if (more) ++at;
        }
        if (at < text.size() && text[at] == '\r') ++at;
        if (at < text.size() && text[at] == '\n') ++at;
        if (record.size() != 6) return std::nullopt;
        records.push_back(std::move(record));
    }
    if (!records.empty()) records.erase(records.begin());  // the header
    return records;
}

// Where a record's five texts end when one begins at `begin`: at `",` digit, line end.
std::size_t loose_record_end(std::string_view text, std::size_t begin) {
    for (std::size_t at = text.find("\",", begin); at != std::string_view::npos; at = text.find("\",", at + 1)) {
        if (at + 2 >= text.size() || text[at + 2] < '0' || text[at + 2] > '3') continue;
        const std::size_t behind = at + 3;
        if (behind == text.size() || text[behind] == '\n' || (text[behind] == '\r' && (behind + 1 == text.size() || text[behind + 1] == '\n'))) return at;
    }
    return std::string_view::npos;
}

Result<Records> loose_records(std::string_view text) {
    Records records;
    std::size_t at = text.find('\n');
    while (at != std::string_view::npos && (at = text.find('"', at)) != std::string_view::npos) {
        const std::size_t end = loose_record_end(text, at + 1);
        if (end == std::string_view::npos) break;
        std::vector<std::string> record;
        std::string_view texts = text.substr(at + 1, end - at - 1);
        for (std::size_t cut = texts.find("\",\""); cut != std::string_view::npos; cut = texts.find("\",\"")) {
            record.emplace_back(texts.substr(0, cut));
            texts.remove_prefix(cut + 3);
        }
        record.emplace_back(texts);
        record.emplace_back(1, text[end + 2]);
        if (record.size() != 6)
            return corrupt("record " + std::to_string(records.size() + 1) + " has " + std::to_string(record.size()) +
                           " fields, expected 6: question, A, B, C, D, answer");
        records.push_back(std::move(record));
        at = end + 3;
    }
    return records;
}

}  // namespace

std::string_view strip_end(std::string_view text) {
    std::size_t keep = 0;
    for (std::size_t at = 0; at < text.size();) {
        const Utf8Step step = decode_utf8(text, at);
        at += static_cast<std::size_t>(step.n_bytes);
        if (!is_python_space(step.code_point)) keep = at;
    }
    return text.substr(0, keep);
}

std::string_view strip(std::string_view text) {
    text = strip_end(text);
    while (!text.empty()) {
        const Utf8Step step = decode_utf8(text, 0);
        if (!is_python_space(step.code_point)) break;
        text.remove_prefix(static_cast<std::size_t>(step.n_bytes));
    }
    return text;
}

std::string capitalize(std::string_view text) {
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
        const Utf8Step step = decode_utf8(text, at);
        if (at == 0) append_utf8(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(step.code_point))));
        else append_lowercase(out, step.code_point);
        at += static_cast<std::size_t>(step.n_bytes);
    }
    return out;
}

std::string clean_hellaswag(std::string_view text) {
    return replace_all(without_brackets(replace_all(strip(text), " [title]", ". ")), "  ", " ");
}

Result<std::vector<std::vector<std::string>>> read_six_field_csv(std::string_view text) {
    if (auto records = strict_records(text)) return std::move(*records);
    return loose_records(text);
}

std::vector<std::string_view> split_lines(std::string_view text) {
    std::vector<std::string_view> lines;
    for (std::size_t at = 0;;) {
        const std::size_t end = text.find('\n', at);
        lines.push_back(text.substr(at, end == std::string_view::npos ? end : end - at));
        if (end == std::string_view::npos) return lines;
        at = end + 1;
    }
}

}  // namespace skiff
