// Numbers and tables as people read them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace skiff {

std::string bytes_text(std::uint64_t bytes);  // "1.2 GiB"
std::string count_text(double count);         // "494 M"
std::string duration_text(double seconds);    // "3m40s"
std::string number_text(double value, int decimals);
std::string counted(std::int64_t n, std::string_view things);  // "1 token", "2 tokens", of "tokens"

// Columns aligned, numbers to the right; the first row is the header. Markdown has pipes, so that it can be pasted.
enum class TableStyle { plain, markdown };
std::string table_text(const std::vector<std::vector<std::string>>& rows, TableStyle style);

}  // namespace skiff
