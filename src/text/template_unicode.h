// Strings as Python sees them: UTF-8 bytes read as code points, Python's white space, case mapping and repr.
// Bytes that are not UTF-8 count as one code point each and survive unchanged.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace skiff::tmpl {

// The code point that starts at `position`, which is moved behind it. A byte that is not UTF-8 yields 0xDC00 + byte.
char32_t next_point(std::string_view text, std::size_t& position);
// The start of the code point that ends before `position` (position > 0).
std::size_t previous_point(std::string_view text, std::size_t position);
void append_point(std::string& out, char32_t point);

std::size_t count_points(std::string_view text);
// Byte offset of the code point number `index`, text.size() when there are fewer.
std::size_t byte_offset(std::string_view text, std::size_t index);
std::vector<std::string_view> split_points(std::string_view text);

bool is_python_space(char32_t point);      // str.isspace
bool is_python_printable(char32_t point);  // str.isprintable
bool is_python_upper(char32_t point);
bool is_python_lower(char32_t point);
bool is_python_alpha(char32_t point);
bool is_python_digit(char32_t point);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);
std::string title(std::string_view text);     // str.title: every run of letters starts with a capital
std::string swap_case(std::string_view text);

enum class Side { left, right, both };
// str.strip, lstrip, rstrip without an argument, and with a set of characters.
std::string_view strip_spaces(std::string_view text, Side side);
std::string_view strip_points(std::string_view text, std::string_view points, Side side);

// str.splitlines; each line without its end, or with it where `keep_ends`.
enum class LineEnds { drop, keep };
std::vector<std::string_view> split_lines(std::string_view text, LineEnds ends);
// str.split() at runs of white space; at most `max_splits` cuts from the left, or any number where it is negative.
std::vector<std::string_view> split_spaces(std::string_view text, long long max_splits);

std::string python_repr(std::string_view text);

}  // namespace skiff::tmpl
