// Clusters in training: the levels of each table are parameters, and the weights behind them say which level is whose.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "tensor/codes_builder.h"
#include "tensor/grid_parts.h"
#include "train/fake_quant_forms.h"
#include "train/fused_rows.h"

namespace skiff::train {
namespace {

class ClusterQuant final : public FakeQuant {
public:
    ClusterQuant(const at::Tensor& weight, bool columns, const Scheme& scheme, Codes codes, Tables tables) : FakeQuant(weight, columns, scheme, codes, tables) {}

    // From the exact clusters of the weight. The scheme is theirs: levels that f16 does not hold are f32.
    Status begin() {
        const at::Tensor w = rows();
        SKIFF_TRY(const auto first, encode_nearest(make_float_weight({n_rows_, n_columns_}, {w.data_ptr<float>(), w.data_ptr<float>() + w.numel()}), scheme_, ScaleRule::search));
        scheme_ = first.codes()->scheme;
        levels_ = at::empty({n_tables() * scheme_.n_levels}, at::kFloat);
        dtype_info(scheme_.scale_dtype).to_float(first.codes()->scales.data.data(), levels_.numel(), levels_.data_ptr<float>());
        levels_.set_requires_grad(true);
        if (codes_ == Codes::follow) return {};
        kept_codes_.resize(static_cast<std::size_t>(n_rows_ * n_columns_));
        const std::int64_t row_bytes = packed_row_bytes(scheme_.bits, n_columns_);
        for (std::int64_t row = 0; row < n_rows_; ++row) unpack_codes(first.codes()->packed.data.data() + row * row_bytes, scheme_.bits, n_columns_, kept_codes_.data() + row * n_columns_);
        return {};
    }

    at::Tensor forward() override {
        store_levels();
        const at::Tensor w = rows();
        at::Tensor result = at::empty_like(w);
        codes_now_.resize(static_cast<std::size_t>(n_rows_ * n_columns_));
        for_rows(n_rows_, 4, [&](std::int64_t first, std::int64_t last) {
            std::vector<float> borders(static_cast<std::size_t>(scheme_.n_levels - 1));
            std::vector<std::uint8_t> place(static_cast<std::size_t>(scheme_.n_levels));
            for (std::int64_t row = first; row < last; ++row)
                for (std::int64_t group = 0; group < n_groups_; ++group) {
                    const Stretch at = stretch(row, group);
                    const float* level = computed_.data() + at.table * scheme_.n_levels;
                    const std::uint8_t* order = order_.data() + at.table * scheme_.n_levels;
                    for (std::size_t i = 0; i < borders.size(); ++i) borders[i] = level[i] + (level[i + 1] - level[i]) / 2;
                    for (std::int64_t i = 0; i < scheme_.n_levels; ++i) place[order[i]] = static_cast<std::uint8_t>(i);
                    for (std::int64_t i = at.begin; i < at.begin + at.n; ++i) {
                        std::uint8_t& code = codes_now_[static_cast<std::size_t>(i)];
                        code = codes_ == Codes::stay ? place[kept_codes_[static_cast<std::size_t>(i)]]
                                                     : static_cast<std::uint8_t>(std::lower_bound(borders.begin(), borders.end(), w.data_ptr<float>()[i]) - borders.begin());
                        result.data_ptr<float>()[i] = level[code];
                    }
                }
        });
        return columns_ ? result.t().contiguous() : result;
    }

    void backward(const at::Tensor& gradient) const override {
        const at::NoGradGuard no_grad;
        make_gradients();
        if (trained_.requires_grad()) trained_.mutable_grad().add_(gradient);
        if (!levels_.requires_grad()) return;
        // Sums of each row first, so that the bits do not depend on the threads.
        const at::Tensor g = (columns_ ? gradient.t() : gradient).contiguous();
        const std::int64_t per_row = n_groups_ * scheme_.n_levels;
        std::vector<double> sums(static_cast<std::size_t>(n_rows_ * per_row), 0.0);
        for_rows(n_rows_, 4, [&](std::int64_t first, std::int64_t last) {
            for (std::int64_t row = first; row < last; ++row)
                for (std::int64_t group = 0; group < n_groups_; ++group) {
                    const Stretch at = stretch(row, group);
                    const std::uint8_t* order = order_.data() + at.table * scheme_.n_levels;
                    double* sum = sums.data() + row * per_row + group * scheme_.n_levels;
                    for (std::int64_t i = at.begin; i < at.begin + at.n; ++i) sum[order[codes_now_[static_cast<std::size_t>(i)]]] += static_cast<double>(g.data_ptr<float>()[i]);
                }
        });
        const double scale = gradient_scale();
        float* target = levels_.mutable_grad().data_ptr<float>();
        if (!scheme_.one_table) {
            for (std::size_t i = 0; i < sums.size(); ++i) target[i] += static_cast<float>(sums[i] * scale);
            return;
        }
        for (std::int64_t level = 0; level < scheme_.n_levels; ++level) {
            double sum = 0;
            for (std::int64_t row = 0; row < n_rows_; ++row) sum += sums[static_cast<std::size_t>(row * per_row + level)];
            target[level] += static_cast<float>(sum * scale);
        }
    }

    Weight weight() const override {
        CodesBuilder builder(scheme_, n_rows_, n_columns_);
        const std::size_t per_row = static_cast<std::size_t>(n_groups_ * scheme_.n_levels), n = static_cast<std::size_t>(n_columns_);
        if (scheme_.one_table) builder.set_levels_of_all(stored_);
        for (std::int64_t row = 0; row < n_rows_; ++row) {
            const auto at = static_cast<std::size_t>(row);
            const std::span<const float> levels = scheme_.one_table ? std::span<const float>() : std::span<const float>(stored_).subspan(at * per_row, per_row);
            builder.set_row(row, std::span<const std::uint8_t>(codes_now_).subspan(at * n, n), levels);
        }
        return builder.finish();
    }

private:
    // A row's columns that share a table.
    struct Stretch {
        std::int64_t begin, n, table;
    };
    Stretch stretch(std::int64_t row, std::int64_t group) const {
        return {row * n_columns_ + group * group_size(), std::min(group_size(), n_columns_ - group * group_size()), scheme_.one_table ? 0 : row * n_groups_ + group};
    }
    std::int64_t n_tables() const { return scheme_.one_table ? 1 : n_rows_ * n_groups_; }
    // Of the sum over a level's members, so that levels do not decide the norm of all gradients (as LSQ's for scales): 1 / sqrt(members of a level on average).
    double gradient_scale() const {
        const double members = static_cast<double>(scheme_.one_table ? n_rows_ * n_columns_ : group_size()) / static_cast<double>(scheme_.n_levels);
        return 1 / std::sqrt(std::max(1.0, members));
    }

    // As they will be read back, rising.
    void store_levels() {
        const auto n = static_cast<std::size_t>(scheme_.n_levels);
        stored_.resize(static_cast<std::size_t>(levels_.numel()));
        order_.resize(stored_.size());
        const float* now = levels_.data_ptr<float>();
        for (std::size_t begin = 0; begin < stored_.size(); begin += n) {
            const auto order = order_.begin() + static_cast<std::ptrdiff_t>(begin);
            std::iota(order, order + static_cast<std::ptrdiff_t>(n), std::uint8_t{0});
            std::stable_sort(order, order + static_cast<std::ptrdiff_t>(n), [&](std::uint8_t a, std::uint8_t b) { return now[begin + a] < now[begin + b]; });
            for (std::size_t i = 0; i < n; ++i) stored_[begin + i] = grids::round_to(scheme_.scale_dtype, now[begin + order_[begin + i]]);
        }
        computed_ = stored_;
        if (tables_ == Tables::exact || scheme_.group_size != 0) return;
        for (std::size_t begin = 0; begin < computed_.size(); begin += n) round_to_bytes(std::span(computed_).subspan(begin, n), scheme_.one_table ? TableOf::all : TableOf::row);
    }

    std::vector<float> stored_, computed_;  // of the checkpoint; of the forward pass // (n_tables * n_levels)
    std::vector<std::uint8_t> order_;       // of each stored level: which of the table's trained ones it is
    std::vector<std::uint8_t> codes_now_;   // of the last forward(), by stored level // (n_rows * n_columns)
};

}  // namespace

Result<std::shared_ptr<FakeQuant>> make_cluster_quant(const at::Tensor& weight, bool columns, const Scheme& scheme, FakeQuant::Codes codes, Tables tables) {
    auto quant = std::make_shared<ClusterQuant>(weight, columns, scheme, codes, tables);
    SKIFF_CHECK(quant->begin());
    return std::shared_ptr<FakeQuant>(std::move(quant));
}

}  // namespace skiff::train
