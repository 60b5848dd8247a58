// Weights that keep two of every four columns: where their positions lie, and that codes, positions and operand meet as PTX defines the sparse product. What PTX says is written down
// here once more (PTX ISA, "Matrix fragments for sparse mma.m16n8k32 with .f16 and .bf16 types"), from its tables, and not taken from two_of_four.h.
#include "kernels/cuda/two_of_four.h"

#include "kernels/cuda/decoders.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/pack.h"
#include "kernels/linear_testing.h"

namespace skiff::cuda {
namespace {

using namespace skiff::testing;

// The table of the metadata operand: "Tk: [m..n] in cell [x][y..z]": bits m to n of thread k hold the indices of chunks [x][y] to [x][z] of A, for selector 0 (threads 0 and 1 of four) and
// 1 (threads 2 and 3).
struct Cell {
    int first_bit, row, first_column;  // 16 bits, 16 columns
};
Cell cell_of(int selector, int lane, int half) { return {16 * half, lane / 4 + 8 * half, 16 * (lane % 4 - 2 * selector)}; }

TEST(TwoOfFour, positions_lie_where_the_instruction_reads_them) {
    for (int step = 0; step < 4; ++step)
        for (int lane = 0; lane < 32; ++lane) {
            if (lane % 4 / 2 != step % 2) continue;  // the kernels select threads 0 and 1 for even steps, 2 and 3 for odd ones
            for (int half = 0; half < 2; ++half) {
                const Cell cell = cell_of(step % 2, lane, half);
                for (int chunk = 0; chunk < 4; ++chunk) {
                    const PositionPlace place = position_place(cell.row, step, cell.first_column / 4 + chunk);
                    EXPECT_EQ(place.lane, lane);
                    EXPECT_EQ(place.word, step / 2);
                    EXPECT_EQ(place.bit, cell.first_bit + 4 * chunk);
                }
            }
        }
}

// One sparse product of a warp. A's compressed fragment is that of m16n8k16: register j of lane 4 g + t has the two kept values of columns 4 t + 16 (j / 2) .. of row g + 8 (j % 2). B: register j has
// rows 2 t + 8 j and the next of column g.
void multiply(const std::uint32_t (&a)[32][4], const std::uint32_t (&b)[32][4], const std::uint32_t (&metadata)[32], int selector, double (&c)[16][8]) {
    float full_a[16][32] = {}, full_b[32][8];
    for (int lane = 0; lane < 32; ++lane)
        for (int j = 0; j < 4; ++j)
            for (int h = 0; h < 2; ++h) full_b[2 * (lane % 4) + 8 * j + h][lane / 4] = bf16_float(b[lane][j] >> 16 * h & 0xffffu);
    for (int lane = 0; lane < 32; ++lane) {
        if (lane % 4 / 2 != selector) continue;
        for (int half = 0; half < 2; ++half) {
            const Cell cell = cell_of(selector, lane, half);
            for (int chunk = 0; chunk < 4; ++chunk) {
                const std::uint32_t nibble = metadata[lane] >> (cell.first_bit + 4 * chunk) & 15u;
                ASSERT_LT(nibble & 3u, nibble >> 2) << "positions must ascend";
                const int column = cell.first_column + 4 * chunk, t = column % 16 / 4, j = 2 * (column / 16) + cell.row / 8;
                const std::uint32_t values = a[cell.row % 8 * 4 + t][j];
                full_a[cell.row][column + static_cast<int>(nibble & 3u)] = bf16_float(values & 0xffffu);
                full_a[cell.row][column + static_cast<int>(nibble >> 2)] = bf16_float(values >> 16);
            }
        }
    }
    for (int row = 0; row < 16; ++row)
        for (int n = 0; n < 8; ++n)
            for (int k = 0; k < 32; ++k) c[row][n] += static_cast<double>(full_a[row][k]) * full_b[k][n];
}

template <class Decoder, int s = 0>
void multiply_steps(const Decoder& decoder, const std::uint32_t (&words)[32][unit_words(Decoder::form)], const std::uint32_t* positions, const std::byte* slabs, double (&c)[4][16][8]) {
    if constexpr (s < 4) {
        std::uint32_t a[32][4], b[32][4], metadata[32];
        for (int lane = 0; lane < 32; ++lane) {
            std::uint32_t parts[1][4];
            decoder.template step<s>(words[lane], parts);
            std::memcpy(a[lane], parts[0], 16);
            std::memcpy(b[lane], slabs + s / 2 * 1024 + s % 2 * 512 + lane * 16, 16);
            metadata[lane] = positions[lane * 2 + s / 2];
        }
        multiply(a, b, metadata, s % 2, c[s]);
        multiply_steps<Decoder, s + 1>(decoder, words, positions, slabs, c);
    }
}

constexpr SparseCase cases[] = {{"2:4", "bf16"}, {"2:4", "w8"}, {"2:4", "w8g32"}, {"2:4", "w4"}, {"2:4", "w4g32"}, {"2:4", "w4g32r"}, {"2:4", "w4g128"}, {"1:2", "w7g32"}, {"1:4", "w4g64"}, {"2:4", "w8g32rs256"}, {"1:2", "bf16"}};

TEST(TwoOfFour, codes_and_operands_meet) {
    for (const std::int64_t n_columns : {128, 600})
        for (const SparseCase& each : cases) {
            SCOPED_TRACE(std::string(each.target) + " " + each.scheme + " " + std::to_string(n_columns));
            const Weight weight = random_sparse(11, n_columns, each.target, *parse_scheme(each.scheme), 3);  // five rows of padding
            const RowSource source = {&weight, RowMap::all(11)};
            const PackedGpu packed = *pack_gpu({&source, 1});
            const GpuWeight view = packed.at(packed.blob.data());
            ASSERT_TRUE(view.two_of_four);
            const auto x = normal_values(4 * n_columns, 9);
            std::vector<std::byte> operand(operand_bytes(OperandForm::split, 4, n_columns));
            host_operand(static_cast<int>(OperandForm::split), x.data(), 4, n_columns, operand.data());
            double y[16][8] = {};
            with_decoder(view, [&]<class Decoder>(Decoder decoder) {
                if constexpr (Decoder::two_of_four) {
                    constexpr int n_words = unit_words(Decoder::form);
                    const ParamLayout params = param_layout(view, unit_columns(Decoder::form));
                    for (int u = 0; u < view.n_units; ++u) {
                        std::uint32_t words[32][n_words];
                        for (int lane = 0; lane < 32; ++lane)
                            for (int piece = 0; piece < n_words / 4; ++piece)
                                std::memcpy(words[lane] + piece * 4, static_cast<const std::uint32_t*>(view.codes) + static_cast<std::int64_t>(u) * n_words * 32 + (piece * 32 + lane) * 4, 16);
                        double c[4][16][8] = {};
                        multiply_steps(decoder, words, view.positions + u * position_unit_words, operand.data() + std::int64_t{u} * 2 * 1024, c);
                        for (int s = 0; s < 4; ++s)
                            for (int row = 0; row < 16; ++row) {
                                GroupScale scale = {view.row_scales != nullptr ? view.row_scales[row] : 1.0f, 0};
                                if (view.params != ParamForm::none) {
                                    const std::int64_t column = std::int64_t{u} * 64 + s * 16, super = view.super_log2 >= 31 ? 0 : column >> view.super_log2;
                                    const auto* unit_params = static_cast<const unsigned char*>(view.group_params) + params.index(u) * param_unit_bytes(view.params, params);
                                    scale = read_record(view, unit_params + record_offset(view.params, params, row, params.in(s * 16)), {view.super_scales != nullptr ? view.super_scales[super * 16 + row] : 0, 0});
                                }
                                for (int n = 0; n < 8; ++n) y[row][n] += c[s][row][n] * scale.scale;
                            }
                    }
                }
            });
            std::vector<float> values(static_cast<std::size_t>(n_columns));
            for (std::int64_t row = 0; row < 16; ++row) {
                std::fill(values.begin(), values.end(), 0.0f);
                if (row < 11) weight.row(row, values.data());
                for (std::int64_t token = 0; token < 4; ++token) {
                    double wanted = 0, size = 0;
                    for (std::int64_t c = 0; c < n_columns; ++c) {
                        const double product = static_cast<double>(values[static_cast<std::size_t>(c)]) * x[static_cast<std::size_t>(token * n_columns + c)];
                        wanted += product, size += std::fabs(product);
                    }
                    ASSERT_NEAR(y[row][2 * token] + y[row][2 * token + 1], wanted, size * 0x1p-15 + 1e-30) << "row " << row << " token " << token;
                }
            }
        }
}

// Codes of half the columns and a bit for each column.
TEST(TwoOfFour, takes_fewer_bytes) {
    for (const SparseCase& each : cases) {
        SCOPED_TRACE(std::string(each.target) + " " + each.scheme);
        const Weight weight = random_sparse(64, 4096, each.target, *parse_scheme(each.scheme), 3), dense = densified(weight);
        const RowSource source = {&weight, RowMap::all(64)}, dense_source = {&dense, RowMap::all(64)};
        const PackedGpu packed = *pack_gpu({&source, 1}), dense_packed = *pack_gpu({&dense_source, 1});
        const int bits = code_bits(packed.shape.form);
        EXPECT_EQ(packed.shape.form, dense_packed.shape.form);
        EXPECT_FALSE(dense_packed.shape.two_of_four);
        EXPECT_EQ(dense_packed.size_bytes() - packed.size_bytes(), static_cast<std::size_t>(64 * 4096 * (bits - bits / 2 - 1) / 8));
        EXPECT_FALSE(can_merge(std::vector<RowSource>{source, dense_source}));
    }
    for (const SparseCase& each : {SparseCase{"4:8", "w4g32"}, SparseCase{"2:4", "w8g16"}, SparseCase{"50%", "w8g32"}, SparseCase{"2:4", "fp32"}, SparseCase{"2:4", "nf4"}}) {  // written out
        const Weight weight = random_sparse(16, 512, each.target, *parse_scheme(each.scheme), 3);
        EXPECT_FALSE(gpu_form(weight).two_of_four) << each.target << " " << each.scheme;
    }
}

}  // namespace
}  // namespace skiff::cuda
