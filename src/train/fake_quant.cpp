#include "train/fake_quant_forms.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tensor/codes_builder.h"
#include "tensor/grid_parts.h"
#include "train/fused_rows.h"

namespace skiff::train {
namespace {

using grids::round_to;
using grids::rounding_magic;

// One group: where its weights are, and what they become.
struct GroupRow {
    const float* w;
    std::int64_t n;
    float scale;
    float zero;  // integer codes
};

// Levels of w / scale. A group without a scale has level 0 everywhere (integers and codebooks store that as scale 0).
void integer_levels(const GroupRow& group, float last, float* level) {
    if (group.scale == 0) {
        std::fill_n(level, group.n, 0.0f);
        return;
    }
    const float inverse = 1.0f / group.scale, low = -group.zero, high = last - group.zero;
    for (std::int64_t i = 0; i < group.n; ++i) {
        float x = group.w[i] * inverse;
        x = x < low ? low : x;
        x = x > high ? high : x;
        level[i] = (x + rounding_magic) - rounding_magic;
    }
}

// Indices of levels.
void nearest_indices(const GroupRow& group, const QuantRule& rule, std::int32_t* index) {
    const float inverse = group.scale == 0 ? 0.0f : 1.0f / group.scale;
    std::fill_n(index, group.n, 0);
    for (const float bound : rule.bounds)
        for (std::int64_t i = 0; i < group.n; ++i) index[i] += group.w[i] * inverse > bound ? 1 : 0;
}

// The window of w / scale in which gradients pass.
struct Window {
    float low, high;
};
Window window_of(const QuantRule& rule, float zero) {
    float low = -zero, high = rule.last - zero, below = 0.5f, above = 0.5f;
    if (rule.kind == QuantRule::Kind::levels) {
        const std::size_t n = rule.levels.size();
        low = rule.levels[0];
        high = rule.levels[n - 1];
        below = 0.5f * (rule.levels[1] - low);
        above = 0.5f * (high - rule.levels[n - 2]);
    }
    return rule.stretched ? Window{0.99f * (low - below), 0.99f * (high + above)} : Window{low, high};
}

}  // namespace

float QuantRule::gradient_scale(std::int64_t group_size) const {
    const float highest = kind == Kind::integer ? std::max(1.0f, std::floor(last / 2)) : std::max(std::fabs(levels.front()), std::fabs(levels.back()));
    return 1.0f / std::sqrt(static_cast<float>(group_size) * highest);
}

Status check_trainable_scheme(const Scheme& scheme) {
    if (!scheme.is_coded()) return usage_error("quantization-aware training is for schemes with codes, such as w4g32 or ternary; " + scheme.name() + " is trained by skiff train --dtype");
    if (scheme.kind == NumberKind::vectors) return unsupported("books of vectors (" + scheme.name() + ") are found by skiff quantize, not trained yet; take n2g32r");
    if (scheme.minimums) return unsupported("weights with minimums (" + scheme.name() + ") are read from GGUF files, not made; take a scheme with zeros, such as w4g32a");
    if (scheme.scale_book != nullptr) return unsupported("scales out of a table (" + scheme.name() + ") are chosen by skiff quantize, not trained yet; take " + std::string(scheme.codebook != nullptr ? scheme.codebook->name : "w4") + "g32r");
    return {};
}

Status check_zero_level(const Scheme& scheme) {
    const bool integer = scheme.kind == NumberKind::integer && !scheme.minimums;  // with a zero for each group, also asymmetric ones
    const bool in_table = scheme.kind == NumberKind::codebook && std::find(scheme.codebook->levels.begin(), scheme.codebook->levels.end(), 0.0f) != scheme.codebook->levels.end();
    if (integer || in_table) return {};
    return unsupported("the scheme " + scheme.name() + " has no level for zero, so that pruned weights would not stay zero; take one that has, such as w4g32r, nf4 or ternary, or leave the zeros out (no --sparsity; --zeros train of a pruned model)");
}

void round_to_bytes(std::span<float> levels, TableOf table) {
    if (levels.size() > 16) return;
    float low = 0, high = 0;
    bool integers = table == TableOf::all;
    for (const float level : levels) {
        low = std::min(low, level), high = std::max(high, level);
        integers = integers && level == std::nearbyint(level);
    }
    const float extreme = std::max(-low, high);
    if (extreme == 0 || (integers && high - low <= 255)) return;
    const float step = extreme / 127;
    for (float& level : levels) level = std::nearbyint(level / step) * step;
}

QuantRule quant_rule(const Scheme& scheme, Tables tables) {
    QuantRule rule;
    rule.stretched = scheme.bits <= 2;
    if (scheme.kind == NumberKind::integer) {
        rule.last = static_cast<float>((1 << scheme.bits) - 1);
        return rule;
    }
    std::vector<float>& levels = rule.of_code;
    levels.assign(scheme.codebook->levels.begin(), scheme.codebook->levels.end());
    if (tables == Tables::bytes) round_to_bytes(levels, TableOf::all);
    std::vector<std::size_t> order(levels.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return levels[a] < levels[b]; });
    for (const std::size_t code : order) {
        if (!rule.levels.empty() && rule.levels.back() == levels[code]) continue;  // E2M1 has two zeros
        rule.levels.push_back(levels[code]);
        rule.codes.push_back(static_cast<std::uint8_t>(code));
    }
    for (std::size_t i = 0; i + 1 < rule.levels.size(); ++i) rule.bounds.push_back((rule.levels[i] + rule.levels[i + 1]) / 2);
    rule.kind = scheme.bits == 1 ? QuantRule::Kind::sign : QuantRule::Kind::levels;
    return rule;
}

FakeQuant::FakeQuant(const at::Tensor& weight, bool columns, const Scheme& scheme, Codes codes, Tables tables)
    : trained_(weight), columns_(columns), scheme_(scheme), codes_(codes), tables_(tables), n_rows_(columns ? weight.size(1) : weight.size(0)), n_columns_(columns ? weight.size(0) : weight.size(1)),
      n_groups_(scheme.n_groups(n_columns_)) {}

at::Tensor FakeQuant::rows() const { return (columns_ ? trained_.detach().t() : trained_.detach()).contiguous(); }

void FakeQuant::make_gradients() const {
    for (const at::Tensor* leaf : {&trained_, &ratio_, &levels_})
        if (leaf->defined() && leaf->requires_grad() && !leaf->grad().defined()) leaf->mutable_grad() = at::zeros_like(leaf->detach());
}

Result<std::shared_ptr<FakeQuant>> FakeQuant::create(const at::Tensor& weight, bool columns, const Scheme& scheme, Codes codes, Tables tables) {
    SKIFF_CHECK(check_trainable_scheme(scheme));
    return scheme.kind == NumberKind::clusters ? make_cluster_quant(weight, columns, scheme, codes, tables) : make_group_quant(weight, columns, scheme, codes, tables);
}

Result<std::shared_ptr<FakeQuant>> make_group_quant(const at::Tensor& weight, bool columns, const Scheme& scheme, FakeQuant::Codes codes, Tables tables) {
    std::shared_ptr<GroupQuant> quant(new GroupQuant(weight, columns, scheme, codes, tables));
    quant->begin();
    return std::shared_ptr<FakeQuant>(std::move(quant));
}

void GroupQuant::begin() {
    const std::size_t n = static_cast<std::size_t>(n_rows_ * n_groups_);
    first_scales_.resize(n);
    zeros_.resize(n);
    params_.resize(static_cast<std::size_t>(n_rows_));
    const at::Tensor w = rows();
    const auto grid = make_grid(scheme_, ScaleRule::search);
    for_rows(n_rows_, 1, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t row = first; row < last; ++row) {
            RowParams& params = params_[static_cast<std::size_t>(row)];
            fit_row(*grid, scheme_, std::span(w.data_ptr<float>() + row * n_columns_, static_cast<std::size_t>(n_columns_)), {}, params);
            for (std::int64_t group = 0; group < n_groups_; ++group) {
                const auto at = static_cast<std::size_t>(row * n_groups_ + group);
                first_scales_[at] = params.groups[static_cast<std::size_t>(group)].scale;
                zeros_[at] = params.groups[static_cast<std::size_t>(group)].zero;
            }
        }
    });
    if (codes_ == Codes::follow && rule_.kind != QuantRule::Kind::sign && check_zero_level(scheme_).ok()) wake_scales();
    if (rule_.kind != QuantRule::Kind::sign) ratio_ = at::ones({static_cast<std::int64_t>(n)}, at::kFloat).set_requires_grad(true);
    if (codes_ == Codes::stay) {
        codes_ = Codes::follow;
        (void)forward();
        const Weight now = weight();
        kept_codes_.resize(static_cast<std::size_t>(n_rows_ * n_columns_));
        for (std::int64_t row = 0; row < n_rows_; ++row)
            unpack_codes(now.codes()->packed.data.data() + row * packed_row_bytes(scheme_.bits, n_columns_), scheme_.bits, n_columns_, kept_codes_.data() + row * n_columns_);
        codes_ = Codes::stay;
    }
}

// A scale of 0, of a group of zeros, would be 0 for ever: what multiplies it has no gradient. It begins as scales are on average, of its row or of the weight,
// which leaves the zeros zero. Not where codes stay, whose zeros stay too, nor where the scheme has no level for zero, so that this would change them.
void GroupQuant::wake_scales() {
    const auto mean = [&](std::size_t begin, std::size_t n) {
        double sum = 0;
        std::size_t n_other = 0;
        for (std::size_t i = begin; i < begin + n; ++i) {
            sum += std::fabs(static_cast<double>(first_scales_[i]));
            n_other += first_scales_[i] != 0;
        }
        return n_other == 0 ? 0.0f : static_cast<float>(sum / static_cast<double>(n_other));
    };
    const auto n_groups = static_cast<std::size_t>(n_groups_);
    const float of_all = mean(0, first_scales_.size());
    for (std::size_t begin = 0; begin < first_scales_.size(); begin += n_groups) {
        const float of_row = mean(begin, n_groups), wakes = of_row != 0 ? of_row : of_all != 0 ? of_all : 1e-3f;
        for (std::size_t i = begin; i < begin + n_groups; ++i)
            if (first_scales_[i] == 0) {
                first_scales_[i] = wakes;
                if (scheme_.kind == NumberKind::integer) zeros_[i] = 1 << (scheme_.bits - 1);  // room on both sides
            }
    }
}

// What each group's scale is now, as it will be read back.
void GroupQuant::store_scales() {
    const at::Tensor rows_of_weight = rule_.kind == QuantRule::Kind::sign ? rows() : at::Tensor();
    const float* ratio = ratio_.defined() ? ratio_.data_ptr<float>() : nullptr;
    for_rows(n_rows_, 4, [&](std::int64_t first, std::int64_t last) {
        std::vector<float> wanted(static_cast<std::size_t>(n_groups_));
        for (std::int64_t row = first; row < last; ++row) {
            RowParams& params = params_[static_cast<std::size_t>(row)];
            for (std::int64_t group = 0; group < n_groups_; ++group) {
                const auto at = static_cast<std::size_t>(row * n_groups_ + group);
                float& scale = wanted[static_cast<std::size_t>(group)];
                if (ratio != nullptr) {
                    scale = first_scales_[at] * ratio[at];
                } else {
                    const std::int64_t begin = group * group_size(), n = std::min(group_size(), n_columns_ - begin);
                    double sum = 0;
                    for (std::int64_t i = 0; i < n; ++i) sum += std::fabs(static_cast<double>(rows_of_weight.data_ptr<float>()[row * n_columns_ + begin + i]));
                    scale = static_cast<float>(sum / static_cast<double>(n));
                }
                GroupParams& own = params.groups[static_cast<std::size_t>(group)];
                own.zero = zeros_[at];
                own.scale = scheme_.relative_scales() ? scale : round_to(scheme_.scale_dtype, scale);
            }
            if (!scheme_.relative_scales()) continue;
            std::fill(params.super_scales.begin(), params.super_scales.end(), 0.0f);
            for (std::int64_t group = 0; group < n_groups_; ++group) {
                float& largest = params.super_scales[static_cast<std::size_t>(scheme_.super_of(group * group_size()))];
                largest = std::max(largest, std::fabs(wanted[static_cast<std::size_t>(group)]));
            }
            for (float& super : params.super_scales) super = round_to(scheme_.super_dtype, super / static_cast<float>(largest_scale_code));
            for (std::int64_t group = 0; group < n_groups_; ++group) {
                GroupParams& own = params.groups[static_cast<std::size_t>(group)];
                const float super = params.super_scales[static_cast<std::size_t>(scheme_.super_of(group * group_size()))];
                const float code = super == 0 ? 0 : std::nearbyint(own.scale / super);
                own.scale_code = static_cast<std::int32_t>(std::clamp(code, -static_cast<float>(largest_scale_code), static_cast<float>(largest_scale_code)));
                own.scale = super * static_cast<float>(own.scale_code);
            }
        }
    });
}

at::Tensor GroupQuant::forward() {
    store_scales();
    const at::Tensor w = rows();
    at::Tensor result = at::empty_like(w);
    for_rows(n_rows_, 4, [&](std::int64_t first, std::int64_t last) {
        std::vector<std::int32_t> index(static_cast<std::size_t>(group_size()));
        for (std::int64_t row = first; row < last; ++row)
            for (std::int64_t group = 0; group < n_groups_; ++group) {
                const GroupParams& own = params_[static_cast<std::size_t>(row)].groups[static_cast<std::size_t>(group)];
                const std::int64_t begin = row * n_columns_ + group * group_size();
                const GroupRow part{w.data_ptr<float>() + begin, std::min(group_size(), n_columns_ - group * group_size()), own.scale, static_cast<float>(own.zero)};
                float* target = result.data_ptr<float>() + begin;
                if (codes_ == Codes::stay) {
                    for (std::int64_t i = 0; i < part.n; ++i) {
                        const std::uint8_t code = kept_codes_[static_cast<std::size_t>(begin + i)];
                        target[i] = rule_.kind == QuantRule::Kind::integer ? static_cast<float>(static_cast<std::int32_t>(code) - own.zero) : rule_.of_code[code];
                    }
                } else if (rule_.kind == QuantRule::Kind::integer) {
                    integer_levels(part, rule_.last, target);
                } else if (rule_.kind == QuantRule::Kind::sign) {
                    for (std::int64_t i = 0; i < part.n; ++i) target[i] = rule_.levels[part.w[i] > 0 ? 1 : 0];
                } else {
                    nearest_indices(part, rule_, index.data());
                    for (std::int64_t i = 0; i < part.n; ++i) target[i] = rule_.levels[static_cast<std::size_t>(index[static_cast<std::size_t>(i)])];
                }
                for (std::int64_t i = 0; i < part.n; ++i) target[i] *= own.scale;
            }
    });
    return columns_ ? result.t().contiguous() : result;
}

void GroupQuant::backward(const at::Tensor& gradient) const {
    const at::NoGradGuard no_grad;
    const at::Tensor g = (columns_ ? gradient.t() : gradient).contiguous(), w = rows();
    const bool wants_weight = trained_.requires_grad(), wants_scale = ratio_.defined() && ratio_.requires_grad();
    make_gradients();
    if (rule_.kind == QuantRule::Kind::sign) {
        if (wants_weight) trained_.mutable_grad().add_(gradient);
        return;
    }
    at::Tensor weight_gradient = wants_weight ? at::empty_like(w) : at::Tensor();
    const float factor = rule_.gradient_scale(group_size());
    float* ratio_gradient = wants_scale ? ratio_.mutable_grad().data_ptr<float>() : nullptr;
    for_rows(n_rows_, 4, [&](std::int64_t first, std::int64_t last) {
        std::vector<std::int32_t> index(static_cast<std::size_t>(group_size()));
        std::vector<float> level(static_cast<std::size_t>(group_size()));
        for (std::int64_t row = first; row < last; ++row)
            for (std::int64_t group = 0; group < n_groups_; ++group) {
                const GroupParams& own = params_[static_cast<std::size_t>(row)].groups[static_cast<std::size_t>(group)];
                const std::int64_t begin = row * n_columns_ + group * group_size();
                const GroupRow part{w.data_ptr<float>() + begin, std::min(group_size(), n_columns_ - group * group_size()), own.scale, static_cast<float>(own.zero)};
                const float* dy = g.data_ptr<float>() + begin;
                if (codes_ == Codes::stay) {
                    for (std::int64_t i = 0; i < part.n; ++i) {
                        const std::uint8_t code = kept_codes_[static_cast<std::size_t>(begin + i)];
                        level[static_cast<std::size_t>(i)] = rule_.kind == QuantRule::Kind::integer ? static_cast<float>(static_cast<std::int32_t>(code) - own.zero) : rule_.of_code[code];
                    }
                } else if (rule_.kind == QuantRule::Kind::integer) {
                    integer_levels(part, rule_.last, level.data());
                } else {
                    nearest_indices(part, rule_, index.data());
                    for (std::int64_t i = 0; i < part.n; ++i) level[static_cast<std::size_t>(i)] = rule_.levels[static_cast<std::size_t>(index[static_cast<std::size_t>(i)])];
                }
                const Window window = window_of(rule_, part.zero);
                const float inverse = part.scale == 0 ? 0.0f : 1.0f / part.scale, follows = codes_ == Codes::follow ? 1.0f : 0.0f;
                float sum = 0;
                float* dw = wants_weight ? weight_gradient.data_ptr<float>() + begin : nullptr;
                for (std::int64_t i = 0; i < part.n; ++i) {
                    const float x = part.w[i] * inverse, inside = x >= window.low && x <= window.high ? follows : 0.0f;
                    sum += dy[i] * (level[static_cast<std::size_t>(i)] - inside * x);
                    if (dw != nullptr) dw[i] = dy[i] * inside;
                }
                if (ratio_gradient != nullptr) {
                    const auto at = static_cast<std::size_t>(row * n_groups_ + group);
                    ratio_gradient[at] += sum * first_scales_[at] * factor;
                }
            }
    });
    if (wants_weight) trained_.mutable_grad().add_(columns_ ? weight_gradient.t() : weight_gradient);
}

Weight GroupQuant::weight() const {
    CodesBuilder builder(scheme_, n_rows_, n_columns_);
    const at::Tensor w = rows();
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(n_columns_));
    std::vector<std::int32_t> index(static_cast<std::size_t>(group_size()));
    std::vector<float> level(static_cast<std::size_t>(group_size()));
    for (std::int64_t row = 0; row < n_rows_; ++row) {
        const RowParams& params = params_[static_cast<std::size_t>(row)];
        for (std::int64_t group = 0; group < n_groups_; ++group) {
            const GroupParams& own = params.groups[static_cast<std::size_t>(group)];
            const std::int64_t begin = group * group_size();
            const GroupRow part{w.data_ptr<float>() + row * n_columns_ + begin, std::min(group_size(), n_columns_ - begin), own.scale, static_cast<float>(own.zero)};
            std::uint8_t* target = codes.data() + begin;
            if (codes_ == Codes::stay) {
                std::copy_n(kept_codes_.data() + row * n_columns_ + begin, part.n, target);
            } else if (rule_.kind == QuantRule::Kind::integer) {
                integer_levels(part, rule_.last, level.data());
                for (std::int64_t i = 0; i < part.n; ++i) target[i] = static_cast<std::uint8_t>(static_cast<std::int32_t>(level[static_cast<std::size_t>(i)]) + own.zero);
            } else if (rule_.kind == QuantRule::Kind::sign) {
                for (std::int64_t i = 0; i < part.n; ++i) target[i] = rule_.codes[part.w[i] > 0 ? 1 : 0];
            } else {
                nearest_indices(part, rule_, index.data());
                for (std::int64_t i = 0; i < part.n; ++i) target[i] = rule_.codes[static_cast<std::size_t>(index[static_cast<std::size_t>(i)])];
            }
        }
        builder.set_row(row, codes, params);
    }
    return builder.finish();
}

}  // namespace skiff::train
