#include "cli/format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace skiff {
namespace {

std::string formatted(const char* format, double value) {
    char buffer[64];
    std::snprintf(buffer, sizeof buffer, format, value);
    return buffer;
}

// Width on a terminal: code points, two cells for CJK.
std::size_t text_width(const std::string& text) {
    std::size_t width = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        if ((byte & 0xc0) == 0x80) continue;
        width += byte >= 0xe3 && byte <= 0xed ? 2 : 1;
    }
    return width;
}

bool is_number(const std::string& text) { return !text.empty() && (text[0] == '-' || text[0] == '+' || (text[0] >= '0' && text[0] <= '9')); }

}  // namespace

std::string counted(std::int64_t n, std::string_view things) { return std::to_string(n) + " " + std::string(n == 1 ? things.substr(0, things.size() - 1) : things); }

std::string number_text(double value, int decimals) {
    char buffer[64];
    std::snprintf(buffer, sizeof buffer, "%.*f", decimals, value);
    if (buffer[0] == '-' && std::strpbrk(buffer, "123456789") == nullptr && std::isfinite(value)) return buffer + 1;  // no -0.00
    return buffer;
}

std::string bytes_text(std::uint64_t bytes) {
    const auto value = static_cast<double>(bytes);
    if (bytes < 1024) return std::to_string(bytes) + " B";
    if (bytes < (1u << 20)) return formatted("%.1f KiB", value / 1024);
    if (bytes < (1u << 30)) return formatted("%.1f MiB", value / (1 << 20));
    return formatted("%.2f GiB", value / (1 << 30));
}

std::string count_text(double count) {
    if (count < 1e4) return formatted("%.0f", count);
    if (count < 1e6) return formatted("%.1f k", count / 1e3);
    if (count < 1e9) return formatted("%.1f M", count / 1e6);
    return formatted("%.2f G", count / 1e9);
}

std::string duration_text(double seconds) {
    if (seconds < 60) return formatted("%.1fs", seconds);
    const auto whole = static_cast<long>(std::lround(seconds));
    if (whole < 3600) return std::to_string(whole / 60) + "m" + std::to_string(whole % 60) + "s";
    if (whole < 360000) return std::to_string(whole / 3600) + "h" + std::to_string(whole % 3600 / 60) + "m";
    return "99h+";
}

std::string table_text(const std::vector<std::vector<std::string>>& rows, TableStyle style) {
    std::size_t n_columns = 0;
    for (const auto& row : rows) n_columns = std::max(n_columns, row.size());
    std::vector<std::size_t> widths(n_columns, 0);
    std::vector<bool> right(n_columns, true);
    for (std::size_t r = 0; r < rows.size(); ++r)
        for (std::size_t c = 0; c < rows[r].size(); ++c) {
            widths[c] = std::max(widths[c], text_width(rows[r][c]));
            if (r > 0 && !rows[r][c].empty() && !is_number(rows[r][c])) right[c] = false;
        }
    std::string out;
    for (std::size_t r = 0; r < rows.size(); ++r) {
        std::string line = style == TableStyle::markdown ? "|" : "";
        for (std::size_t c = 0; c < n_columns; ++c) {
            const std::string cell = c < rows[r].size() ? rows[r][c] : "";
            const std::string pad(widths[c] - text_width(cell), ' ');
            line += style == TableStyle::markdown ? " " : c > 0 ? "  " : "";
            line += right[c] ? pad + cell : cell + pad;
            if (style == TableStyle::markdown) line += " |";
        }
        while (style == TableStyle::plain && !line.empty() && line.back() == ' ') line.pop_back();
        out += line + "\n";
        if (r == 0 && style == TableStyle::markdown) {
            out += "|";
            for (std::size_t c = 0; c < n_columns; ++c)
                out += right[c] ? std::string(widths[c] + 1, '-') + ":|" : std::string(widths[c] + 2, '-') + "|";
            out += "\n";
        }
    }
    return out;
}

}  // namespace skiff
