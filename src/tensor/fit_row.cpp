// The scales of a row: each group its own, or all under super scales, which are then chosen too.
#include <algorithm>

#include "tensor/grid_parts.h"

namespace skiff {
namespace {

using namespace grids;

// A row, its importance (or none) and the groups that they fall into.
struct RowOfGroups {
    const Scheme& scheme;
    std::span<const float> row, importance;
    std::int64_t group_size;

    std::span<const float> part(std::span<const float> whole, std::int64_t group) const {
        const std::int64_t begin = group * group_size, end = std::min<std::int64_t>(begin + group_size, static_cast<std::int64_t>(row.size()));
        return whole.empty() ? whole : whole.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    }
    GroupUnder fit_under(const Grid& grid, float super_scale, const GroupParams& wanted, std::int64_t group) const {
        return grid.fit_under(super_scale, wanted, part(row, group), part(importance, group));
    }
};

// The super scale under which the groups begin .. end lose least in a table of scales, whose ends are but a factor of three apart: a scan over those that suit anything
// from the middle group to the largest, refined twice. Of many groups some speak for all, and the largest for itself.
float search_super_scale(const Grid& grid, const RowOfGroups& row, const std::vector<GroupParams>& wanted, std::int64_t begin, std::int64_t end) {
    constexpr std::int64_t most_groups = 64;
    constexpr float first_step = 1.1f;
    std::vector<float> sizes;
    std::int64_t largest = begin;
    for (std::int64_t group = begin; group < end; ++group) {
        const float size = std::fabs(wanted[static_cast<std::size_t>(group)].scale);
        if (size > std::fabs(wanted[static_cast<std::size_t>(largest)].scale)) largest = group;
        if (size > 0) sizes.push_back(size);
    }
    if (sizes.empty()) return 0;
    std::nth_element(sizes.begin(), sizes.begin() + static_cast<std::ptrdiff_t>(sizes.size() / 2), sizes.end());
    const float middle = sizes[sizes.size() / 2], highest = 1.2f * std::fabs(wanted[static_cast<std::size_t>(largest)].scale);
    const std::int64_t stride = (end - begin + most_groups - 1) / most_groups;
    const auto error_of = [&](float super_scale) {
        super_scale = round_to(row.scheme.super_dtype, super_scale);
        double error = row.fit_under(grid, super_scale, wanted[static_cast<std::size_t>(largest)], largest).error;
        for (std::int64_t group = begin; group < end; group += stride)
            if (group != largest) error += static_cast<double>(stride) * row.fit_under(grid, super_scale, wanted[static_cast<std::size_t>(group)], group).error;
        return error;
    };
    float best = highest;
    double least = std::numeric_limits<double>::infinity();
    const auto look_at = [&](float super_scale) {
        const double error = error_of(super_scale);
        if (!(error < least)) return;
        least = error;
        best = super_scale;
    };
    int n = 0;
    for (float super_scale = middle; super_scale <= highest * first_step && n < 40; super_scale *= first_step, ++n) look_at(super_scale);
    for (float step : {1.045f, 1.02f}) {
        const float centre = best;
        look_at(centre / step);
        look_at(centre * step);
    }
    return round_to(row.scheme.super_dtype, best);
}

}  // namespace

void fit_row(const Grid& grid, const Scheme& scheme, std::span<const float> row, std::span<const float> importance, RowParams& params) {
    const auto n_columns = static_cast<std::int64_t>(row.size()), n_groups = scheme.n_groups(n_columns), n_supers = scheme.n_supers(n_columns);
    const RowOfGroups parts = {scheme, row, importance, scheme.group_size == 0 ? n_columns : scheme.group_size};
    const auto super_of = [&](std::int64_t group) -> float& { return params.super_scales[static_cast<std::size_t>(scheme.super_of(group * parts.group_size))]; };
    params.groups.resize(static_cast<std::size_t>(n_groups));
    params.super_scales.assign(static_cast<std::size_t>(scheme.relative_scales() ? n_supers : 0), 0.0f);
    for (std::int64_t group = 0; group < n_groups; ++group) {
        GroupParams& own = params.groups[static_cast<std::size_t>(group)];
        own = grid.fit(parts.part(row, group), parts.part(importance, group));
        if (scheme.relative_scales()) super_of(group) = std::max(super_of(group), std::fabs(own.scale));
    }
    if (!scheme.relative_scales()) return;
    for (std::int64_t super = 0; super < n_supers; ++super) {
        float& super_scale = params.super_scales[static_cast<std::size_t>(super)];
        const std::int64_t per_super = scheme.super_size == 0 ? n_groups : scheme.super_size / parts.group_size;
        if (scheme.scale_book != nullptr) super_scale = search_super_scale(grid, parts, params.groups, super * per_super, std::min(n_groups, (super + 1) * per_super));
        else super_scale = round_to(scheme.super_dtype, super_scale / static_cast<float>(largest_scale_code));
    }
    for (std::int64_t group = 0; group < n_groups; ++group) {
        GroupParams& own = params.groups[static_cast<std::size_t>(group)];
        own = parts.fit_under(grid, super_of(group), own, group).params;
    }
}

}  // namespace skiff
