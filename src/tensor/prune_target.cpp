#include "tensor/prune_target.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <numeric>

namespace skiff {
namespace {

constexpr std::int64_t largest_unit = 1 << 16;

Error no_target(std::string_view text) {
    return usage_error("\"" + std::string(text.substr(0, 64)) +
                       "\" is no pattern; there are: 50% (single weights), 2:4 (2 of every 4 inputs stay), 4x1:50% or block16x32:50% (blocks of rows x columns), 1xchannel:50% (rows), channelx1:50% (columns)");
}

bool take_count(std::string_view& text, std::int64_t& value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || value < 1 || value > largest_unit) return false;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return true;
}

bool take(std::string_view& text, std::string_view prefix) {
    if (!text.starts_with(prefix)) return false;
    text.remove_prefix(prefix.size());
    return true;
}

// "50%", "62.5%"
bool parse_share(std::string_view text, double& share) {
    if (text.size() < 2 || text.back() != '%') return false;
    double percent = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size() - 1, percent);
    if (error != std::errc() || end != text.data() + text.size() - 1 || !(percent >= 0 && percent <= 100)) return false;
    share = percent / 100;
    return true;
}

std::string share_text(double share) {
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, std::nearbyint(share * 1e8) / 1e6).ptr;
    return std::string(text, end) + "%";
}

// Units of a run that stay.
std::int64_t kept_of(std::int64_t n_units, double sparsity) { return n_units - static_cast<std::int64_t>(std::nearbyint(static_cast<double>(n_units) * sparsity)); }

// Marks the `n_kept` best of units first .. first + n.
void keep_best(std::span<const float> scores, std::int64_t first, std::int64_t n, std::int64_t n_kept, std::vector<std::int64_t>& order, const std::function<void(std::int64_t)>& keep) {
    order.resize(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), first);
    if (n_kept < n)
        std::nth_element(order.begin(), order.begin() + n_kept, order.end(), [&](std::int64_t a, std::int64_t b) {
            const float x = scores[static_cast<std::size_t>(a)], y = scores[static_cast<std::size_t>(b)];
            return x > y || (x == y && a < b);
        });
    for (std::int64_t i = 0; i < n_kept; ++i) keep(order[static_cast<std::size_t>(i)]);
}

void for_each_share(std::int64_t n, ThreadPool* pool, const std::function<void(Range)>& work) {
    if (pool == nullptr) return work({0, n});
    pool->run([&](int thread) { work(share_of(n, thread, pool->n_threads())); });
}

}  // namespace

std::string PruneTarget::name() const {
    if (pattern.m > 0) return pattern.name();
    if (pattern.unit_rows == 0) return "channelx1:" + share_text(sparsity);
    if (pattern.unit_columns == 0) return "1xchannel:" + share_text(sparsity);
    if (pattern.unit_rows == 1 && pattern.unit_columns == 1) return share_text(sparsity);
    return pattern.name() + ":" + share_text(sparsity);
}

PruneTarget PruneTarget::resolved(std::int64_t n_rows, std::int64_t n_columns) const {
    PruneTarget target = *this;
    if (pattern.unit_rows == 0) target.pattern.unit_rows = std::clamp<std::int64_t>(n_rows, 1, largest_unit);
    if (pattern.unit_columns == 0) target.pattern.unit_columns = std::clamp<std::int64_t>(n_columns, 1, largest_unit);
    if (target.pattern.n_unit_columns(n_columns) == 1) target.scope = Scope::layer;
    return target;
}

PruneTarget PruneTarget::with_sparsity(double share) const {
    PruneTarget target = *this;
    target.sparsity = share;
    return target;
}

std::int64_t PruneTarget::n_kept_units(std::int64_t n_rows, std::int64_t n_columns) const {
    const std::int64_t rows = pattern.n_unit_rows(n_rows), columns = pattern.n_unit_columns(n_columns);
    if (pattern.m > 0) return rows * (columns / pattern.m * pattern.n + std::min(columns % pattern.m, pattern.n));
    return scope == Scope::layer ? kept_of(rows * columns, sparsity) : rows * kept_of(columns, sparsity);
}

Result<PruneTarget> parse_prune_target(std::string_view text) {
    PruneTarget target;
    if (parse_share(text, target.sparsity)) return target;
    std::string_view rest = text;
    if (take(rest, "1xchannel")) {
        target.pattern.unit_columns = 0;
    } else if (take(rest, "channelx1")) {
        target.pattern.unit_rows = 0;
    } else {
        const bool block = take(rest, "block");
        std::int64_t first = 0, second = 0;
        if (!take_count(rest, first)) return no_target(text);
        if (!block && take(rest, ":")) {
            if (!take_count(rest, second) || !rest.empty() || first > second) return no_target(text);
            target.pattern.n = first;
            target.pattern.m = second;
            target.sparsity = 1 - static_cast<double>(first) / static_cast<double>(second);
            return target;
        }
        if (!take(rest, "x") || !take_count(rest, second)) return no_target(text);
        target.pattern.unit_rows = first;
        target.pattern.unit_columns = second;
    }
    if (rest.empty()) return target;
    if (!take(rest, ":") || !parse_share(rest, target.sparsity)) return no_target(text);
    return target;
}

std::vector<float> unit_means(const SparsePattern& pattern, std::span<const float> scores, std::int64_t n_rows, std::int64_t n_columns, ThreadPool* pool) {
    const std::int64_t rows = pattern.n_unit_rows(n_rows), columns = pattern.n_unit_columns(n_columns);
    std::vector<float> means(static_cast<std::size_t>(rows * columns));
    for_each_share(rows, pool, [&](Range share) {
        for (std::int64_t row = share.begin; row < share.end; ++row)
            for (std::int64_t column = 0; column < columns; ++column) {
                const std::int64_t row_end = std::min(n_rows, (row + 1) * pattern.unit_rows), column_end = std::min(n_columns, (column + 1) * pattern.unit_columns);
                double sum = 0;
                for (std::int64_t r = row * pattern.unit_rows; r < row_end; ++r)
                    for (std::int64_t c = column * pattern.unit_columns; c < column_end; ++c) sum += static_cast<double>(scores[static_cast<std::size_t>(r * n_columns + c)]);
                const std::int64_t n = (row_end - row * pattern.unit_rows) * (column_end - column * pattern.unit_columns);
                means[static_cast<std::size_t>(row * columns + column)] = static_cast<float>(sum / static_cast<double>(n));
            }
    });
    return means;
}

std::vector<std::byte> choose_units(const PruneTarget& target, std::span<const float> scores, std::int64_t n_rows, std::int64_t n_columns, ThreadPool* pool) {
    const SparsePattern& pattern = target.pattern;
    const std::int64_t rows = pattern.n_unit_rows(n_rows), columns = pattern.n_unit_columns(n_columns), row_bytes = pattern.mask_row_bytes(n_columns);
    std::vector<std::byte> bitmask(static_cast<std::size_t>(rows * row_bytes));
    const auto keep = [&](std::int64_t unit) {
        const std::int64_t row = unit / columns, column = unit % columns;
        bitmask[static_cast<std::size_t>(row * row_bytes + column / 8)] |= static_cast<std::byte>(1u << (column % 8));
    };
    const bool single = pattern.unit_values() == 1, whole = pattern.m == 0 && target.scope == PruneTarget::Scope::layer;
    const std::vector<float> means = single ? std::vector<float>() : unit_means(pattern, scores, n_rows, n_columns, pool);
    for_each_share(rows, pool, [&](Range share) {
        std::vector<std::int64_t> order;
        for (std::int64_t row = share.begin; row < share.end; ++row) {
            if (whole) continue;
            const std::int64_t run = pattern.m > 0 ? pattern.m : columns;
            for (std::int64_t first = 0; first < columns; first += run) {
                const std::int64_t n = std::min(run, columns - first), n_kept = pattern.m > 0 ? std::min(n, pattern.n) : kept_of(n, target.sparsity);
                keep_best(single ? scores : std::span<const float>(means), row * columns + first, n, n_kept, order, keep);
            }
        }
    });
    if (whole) {
        std::vector<std::int64_t> order;
        keep_best(single ? scores : std::span<const float>(means), 0, rows * columns, kept_of(rows * columns, target.sparsity), order, keep);
    }
    return bitmask;
}

}  // namespace skiff
