// Text rules of the task sets: what lm-evaluation-harness does in Python, with the same results.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace skiff {

std::string_view strip_end(std::string_view text);   // str.rstrip(): all that str.isspace() takes for white space
std::string_view strip(std::string_view text);       // str.strip()
std::string capitalize(std::string_view text);       // str.capitalize(): first character to title case, all others to lower case

// HellaSwag: strips; " [title]" becomes ". "; "[...]" goes (shortest, within a line); two spaces become one, in one pass.
std::string clean_hellaswag(std::string_view text);

// Records of six fields behind a header line. By RFC 4180 if the whole file keeps to it; else by the form that copies of MMLU have in which quotes
// inside fields are not doubled: five texts in quotes, separated by `","`, then a digit 0 to 3.
Result<std::vector<std::vector<std::string>>> read_six_field_csv(std::string_view text);

std::vector<std::string_view> split_lines(std::string_view text);  // at "\n"; the last may be empty

}  // namespace skiff
