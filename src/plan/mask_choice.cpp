#include "plan/mask_choice.h"

#include <algorithm>

namespace skiff {
namespace {

// pruned_bench, medians while memory gave two threads 50 GB/s (faster memory makes dense tiles of 4 bits faster than masks, docs/performance.md); by instruction set, bits, rows
// and rising shares. With 256-bit vectors there is no instruction that expands bytes by a mask.
constexpr MaskMeasurement rows[] = {
    {Isa::avx2, 4, 1, 0.30, 0.29},
    {Isa::avx2, 4, 1, 1.00, 0.19},
    {Isa::avx2, 4, 4, 0.30, 0.28},
    {Isa::avx2, 4, 4, 1.00, 0.22},
    {Isa::avx2, 4, 16, 1.00, 0.22},
    {Isa::avx2, 8, 1, 0.30, 0.43},
    {Isa::avx2, 8, 1, 1.00, 0.42},
    {Isa::avx2, 8, 4, 0.30, 0.44},
    {Isa::avx2, 8, 4, 1.00, 0.45},
    {Isa::avx2, 8, 16, 1.00, 0.46},
    {Isa::avx512vbmi, 4, 1, 0.30, 1.13},
    {Isa::avx512vbmi, 4, 1, 0.60, 1.24},
    {Isa::avx512vbmi, 4, 4, 0.30, 1.20},
    {Isa::avx512vbmi, 4, 4, 0.60, 1.09},
    {Isa::avx512vbmi, 4, 4, 1.00, 1.22},
    {Isa::avx512vbmi, 4, 16, 0.60, 1.08},
    {Isa::avx512vbmi, 8, 1, 0.30, 2.04},
    {Isa::avx512vbmi, 8, 1, 0.60, 1.45},
    {Isa::avx512vbmi, 8, 1, 1.00, 1.00},
    {Isa::avx512vbmi, 8, 4, 0.30, 2.40},
    {Isa::avx512vbmi, 8, 4, 0.60, 1.70},
    {Isa::avx512vbmi, 8, 4, 1.00, 1.24},
    {Isa::avx512vbmi, 8, 16, 0.60, 1.78},
};

}  // namespace

std::span<const MaskMeasurement> mask_measurements() { return rows; }

const MaskMeasurement* measured_masks(const Weight& weight, Isa isa) {
    const Sparse* sparse = weight.sparse();
    if (sparse == nullptr || isa > Isa::amx) return nullptr;  // on arm64 nothing was measured
    const double kept = static_cast<double>(sparse->n_values()) / static_cast<double>(std::max<std::int64_t>(1, element_count(weight.shape)));
    const int bits = sparse->scheme.bits == 7 ? 8 : sparse->scheme.bits, shared = sparse->pattern.unit_rows % 16 == 0 ? 16 : sparse->pattern.unit_rows % 4 == 0 ? 4 : 1;
    Isa measured = Isa::generic;  // the highest that has rows of this form: what a lower one reached says nothing about it
    for (const MaskMeasurement& row : rows)
        if (isa_includes(isa, row.isa) && row.bits == bits && row.rows == shared) measured = std::max(measured, row.isa);
    const MaskMeasurement* found = nullptr;
    for (const MaskMeasurement& row : rows)
        if (row.isa == measured && row.bits == bits && row.rows == shared && kept <= row.most_kept && (found == nullptr || row.most_kept < found->most_kept)) found = &row;
    return found;
}

}  // namespace skiff
