#include <cstring>
#include <limits>

#include "kernels/cuda/pack.h"

namespace skiff::cuda {

std::optional<SparseRows> pack_sparse_rows(std::span<const RowSource> sources) {
    SparseRows packed;
    packed.begins.push_back(0);
    const Outliers* first = nullptr;
    for (const RowSource& source : sources) {
        const Outliers* outliers = source.weight != nullptr ? source.weight->outliers() : nullptr;
        if (source.weight != nullptr) {
            if (outliers == nullptr || (outliers->values.dtype != DType::f16 && outliers->values.dtype != DType::bf16)) return std::nullopt;
            if (source.weight->n_columns() > 65536 || (first != nullptr && (first->values.dtype != outliers->values.dtype || packed.n_columns != source.weight->n_columns()))) return std::nullopt;
            first = outliers;
            packed.n_columns = source.weight->n_columns();
            packed.values = outliers->values.dtype == DType::f16 ? Float16Form::f16 : Float16Form::bf16;
        }
        for (std::int64_t i = 0; i < source.rows.n_rows(); ++i) {
            if (outliers != nullptr) {
                std::int64_t range[2];
                std::memcpy(range, outliers->rows.data.data() + source.rows.at(i) * 8, sizeof range);
                for (std::int64_t at = range[0]; at < range[1]; ++at) {
                    std::int32_t column;
                    std::uint16_t value;
                    std::memcpy(&column, outliers->columns.data.data() + at * 4, sizeof column);
                    std::memcpy(&value, outliers->values.data.data() + at * 2, sizeof value);
                    packed.entries.push_back(static_cast<std::uint32_t>(column) | static_cast<std::uint32_t>(value) << 16);
                }
            }
            if (packed.entries.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) return std::nullopt;
            packed.begins.push_back(static_cast<std::int32_t>(packed.entries.size()));
            ++packed.n_rows;
        }
    }
    if (first == nullptr) return std::nullopt;
    return packed;
}

}  // namespace skiff::cuda
