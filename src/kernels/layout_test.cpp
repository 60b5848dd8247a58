// Every layout gives back each row of each weight that it accepts, exactly, also for rows picked by a map.
#include <set>

#include "kernels/linear_testing.h"

namespace skiff {
namespace {

using testing::random_codes;
using testing::weights_of_all_kinds;

void expect_same_rows(const Layout& layout, const Weight& weight, const RowMap& rows) {
    const PackedWeight packed = pack_weight(layout, weight, rows);
    ASSERT_EQ(packed.n_rows, rows.n_rows());
    const auto n = static_cast<std::size_t>(weight.n_columns());
    std::vector<float> expected(n), row(n);
    for (std::int64_t r = 0; r < rows.n_rows(); ++r) {
        weight.row(rows.at(r), expected.data());
        packed.layout->row(packed, r, row.data());
        ASSERT_TRUE(testing::same_bits(row, expected)) << layout.name << ' ' << weight.encoding_name() << " row " << r << " width " << n;
    }
    EXPECT_GT(packed.read_bytes, 0u);
    if (layout.sections == nullptr) return;
    const auto sizes = layout.sections(packed);  // what the cache of packed weights keeps
    ASSERT_TRUE(sizes.has_value()) << layout.name << ' ' << weight.encoding_name() << " width " << n;
    EXPECT_GE(sizes->total(), packed.read_bytes) << layout.name;
    EXPECT_EQ(sizes->scales > 0, packed.scales != nullptr) << layout.name;
    EXPECT_EQ(sizes->zeros > 0, packed.zeros != nullptr) << layout.name;
    EXPECT_EQ(sizes->super_scales > 0, packed.super_scales != nullptr) << layout.name;
    EXPECT_EQ(sizes->minimums > 0, packed.minimums != nullptr) << layout.name;
    EXPECT_EQ(sizes->super_minimums > 0, packed.super_minimums != nullptr) << layout.name;
    if (packed.buffer.size_bytes() > 0) {
        EXPECT_LE(packed.data + sizes->data, packed.buffer.data() + packed.buffer.size_bytes()) << layout.name;
    }
}

TEST(Layout, rows_come_back_exactly) {
    std::set<std::string_view> seen;
    for (std::int64_t width : testing::odd_widths)
        for (const Weight& weight : weights_of_all_kinds(40, width))
            for (const Layout* layout : layout_table()) {
                if (!layout->accepts(weight)) continue;
                seen.insert(layout->name);
                expect_same_rows(*layout, weight, RowMap::all(40));
                expect_same_rows(*layout, weight, {3, 33, 33, 1});  // a part, and no multiple of any unit
                expect_same_rows(*layout, weight, {2, 5, 9, 4});    // q of an interleaved q, k, v
                expect_same_rows(*layout, weight, {39, 1, 1, 1});
            }
    EXPECT_EQ(seen.size(), layout_table().size());
}

// Threads share the rows of a weight while it is packed, and it has the same bytes.
TEST(Layout, packing_gives_the_same_bytes_on_any_number_of_threads) {
    std::set<std::string_view> shared;
    for (std::int64_t width : {33, 172})
        for (const Weight& weight : weights_of_all_kinds(100, width))
            for (const Layout* layout : layout_table()) {
                if (!layout->accepts(weight)) continue;
                EXPECT_EQ(layout->begin == nullptr, layout->fill == nullptr);
                for (const RowMap& rows : {RowMap::all(100), RowMap{2, 5, 9, 10}}) {
                    const PackedWeight alone = pack_weight(*layout, weight, rows);
                    for (int n_threads : {2, 3, 7}) {
                        ThreadPool pool(n_threads);
                        const PackedWeight together = pack_weight(*layout, weight, rows, &pool);
                        ASSERT_EQ(alone.buffer.size_bytes(), together.buffer.size_bytes());
                        ASSERT_EQ(std::memcmp(alone.buffer.data(), together.buffer.data(), alone.buffer.size_bytes()), 0) << layout->name << ' ' << weight.encoding_name();
                        EXPECT_EQ(alone.read_bytes, together.read_bytes);
                        EXPECT_EQ(alone.scales == nullptr, together.scales == nullptr);
                    }
                }
                if (layout->fill != nullptr) shared.insert(layout->name);
            }
    EXPECT_TRUE(shared.count("w4_r16") && shared.count("w8_r16"));
}

// A processor may have AVX-512 without AVX-VNNI (Cascade Lake, Zen 4).
TEST(Layout, rows_for_avx_vnni_are_chosen_for_it_alone) {
    int n = 0;
    for (const LinearKernel& kernel : linear_kernels())
        for (const Isa isa : all_isas) {
            if (!isa_of_this_build(isa) || isa < kernel.isa) continue;
            const LinearKernel* chosen = choose_linear_kernel(kernel.layout, isa, 1, KernelChoice::fastest);
            ASSERT_NE(chosen, nullptr) << kernel.name;
            EXPECT_TRUE(chosen->isa != Isa::avx2vnni || isa == Isa::avx2vnni) << kernel.name << " with " << isa_name(isa);
            n += kernel.isa == Isa::avx2vnni;
        }
    EXPECT_TRUE(n > 0 || !isa_of_this_build(Isa::avx2vnni));
}

TEST(Layout, choice_follows_the_instruction_set) {
    if (!isa_of_this_build(Isa::avx2)) GTEST_SKIP() << "the names of layouts below are those of x86-64";
    const Weight w4 = random_codes(16, 172, {NumberKind::integer, DType::bf16, 4, true, 32, DType::f16}, 1);
    EXPECT_EQ(choose_layout(w4, Isa::generic, KernelChoice::fastest)->name, "codes_rows");
    EXPECT_EQ(choose_layout(w4, Isa::avx2, KernelChoice::reference)->name, "codes_rows");
    EXPECT_EQ(choose_layout(w4, Isa::avx2, KernelChoice::fastest)->name, "w4_r16");
    const Weight w8 = random_codes(16, 172, {NumberKind::integer, DType::bf16, 8, true, 0, DType::f16}, 1);
    EXPECT_EQ(choose_layout(w8, Isa::avx2, KernelChoice::fastest)->name, "w8_r16");
    const Weight odd_group = random_codes(16, 172, {NumberKind::integer, DType::bf16, 4, true, 48, DType::f16}, 1);
    EXPECT_EQ(choose_layout(odd_group, Isa::avx2, KernelChoice::fastest)->name, "codes_rows");
    for (const Weight& weight : weights_of_all_kinds(4, 256))
        for (Isa isa : all_isas)
            for (KernelChoice choice : {KernelChoice::fastest, KernelChoice::reference}) {
                const Layout* layout = choose_layout(weight, isa, choice);
                ASSERT_NE(layout, nullptr) << weight.encoding_name();
                const LinearKernel* kernel = choose_linear_kernel(layout->name, isa, 1, choice);
                ASSERT_NE(kernel, nullptr);
                EXPECT_TRUE(isa_includes(isa, kernel->isa));
                if (choice == KernelChoice::reference) {
                    EXPECT_EQ(kernel, choose_linear_kernel(layout->name, Isa::generic, 1, choice));
                }
            }
}

}  // namespace
}  // namespace skiff
