// Packing for the GPU, on the CPU: every stored kind of weight gives back its numbers by the kernels' own lane arithmetic, and the fragments of weight and
// operand meet as the tensor core multiplies them.
#include "kernels/cuda/pack.h"

#include "base/rng.h"
#include "kernels/cuda/decoders.h"
#include "kernels/cuda/launch.h"
#include "kernels/linear_testing.h"

namespace skiff::cuda {
namespace {

using namespace skiff::testing;

std::vector<float> stored_row(const Weight& weight, std::int64_t row) {
    std::vector<float> values(static_cast<std::size_t>(weight.n_columns()));
    weight.row(row, values.data());
    return values;
}

// Offsets are subtracted behind the product and tables of any levels have 16 bits, so those differ in the last places; all others are exact.
void expect_row(const GpuWeight& view, std::int64_t packed, const std::vector<float>& wanted) {
    std::vector<float> values(wanted.size(), NAN);
    packed_row(view, packed, values.data());
    const bool wide = view.form == CodeForm::f32 || (is_table(view.form) && !view.table_exact);
    if (!wide && !has_offset(view.params)) {
        for (std::size_t c = 0; c < wanted.size(); ++c) ASSERT_EQ(values[c], wanted[c]) << "column " << c;
        return;
    }
    float largest = 0;
    for (float x : wanted) largest = std::max(largest, std::fabs(x));
    for (std::size_t c = 0; c < wanted.size(); ++c) ASSERT_NEAR(values[c], wanted[c], wide ? std::fabs(wanted[c]) * 0x1p-16 + 1e-30f : largest * 0x1p-18f) << "column " << c;
}

std::vector<Weight> all_weights(std::int64_t n_rows, std::int64_t n_columns) {
    std::vector<Weight> weights = weights_of_all_kinds(n_rows, n_columns);
    for (const SchemePreset& preset : scheme_presets())
        weights.push_back(preset.scheme.is_coded() ? random_codes(n_rows, n_columns, preset.scheme, 70) : random_plain(n_rows, n_columns, preset.scheme.dtype, 70));
    for (const BlockFormat& format : block_format_table())
        if (format.encode != nullptr) weights.push_back(random_blocks(n_rows, n_columns, format.type, 71));
    return weights;
}

TEST(CudaPack, gives_back_the_numbers) {
    constexpr std::int64_t shapes[][2] = {{1, 1}, {5, 33}, {16, 64}, {19, 172}, {40, 300}, {16, 520}, {3, 1000}};
    for (const auto& shape : shapes)
        for (const Weight& weight : all_weights(shape[0], shape[1])) {
            SCOPED_TRACE(weight.encoding_name() + " " + shape_text(weight.shape));
            const RowSource source = {&weight, RowMap::all(weight.n_rows())};
            const PackedGpu packed = *pack_gpu({&source, 1});
            const GpuWeight view = packed.at(packed.blob.data());
            for (std::int64_t row = 0; row < weight.n_rows(); ++row) ASSERT_NO_FATAL_FAILURE(expect_row(view, row, stored_row(weight, row)));
            std::vector<float> padding(static_cast<std::size_t>(weight.n_columns()));
            if (view.n_rows % 16 != 0 && (!is_table(view.form) || view.params != ParamForm::none || view.row_scales != nullptr)) {  // rows behind the last are zero; of learnt levels nobody asks
                packed_row(view, view.n_tiles * 16 - 1, padding.data());
                for (float x : padding) ASSERT_EQ(x, 0.0f);
            }
        }
}

TEST(CudaPack, presets_keep_their_codes) {  // else a scheme costs the bytes of another
    for (const SchemePreset& preset : scheme_presets()) {
        if (!preset.scheme.is_coded()) continue;
        SCOPED_TRACE(preset.name);
        const Weight weight = random_codes(16, 2048, preset.scheme, 5);
        const RowSource source = {&weight, RowMap::all(16)};
        const PackedGpu packed = *pack_gpu({&source, 1});
        EXPECT_GT(packed.shape.form, CodeForm::bf16);
        const double bits = 8.0 * static_cast<double>(packed.size_bytes()) / (16 * 2048);
        if (preset.scheme.kind == NumberKind::vectors) {  // a byte for each weight, and the scales
            EXPECT_LT(bits, 8 + 2.2) << bits;
            continue;
        }
        EXPECT_LT(bits, preset.scheme.bits_per_weight(2048) + (preset.name == "k16" || preset.name == "k4" || preset.name == "k256tensor" || preset.name == "k64tensor" ? 2.3 : 0.6)) << bits;
    }
}

// Steps from `s` on of a unit whose codes are random: the bytes of rows g and g + 8, in the decoder's order of columns, times its unit are the numbers of the codes.
template <class Decoder, int s, class ValueOf>
void expect_bytes(const Decoder& decoder, const std::uint32_t* words, const std::uint32_t (*codes)[8], ValueOf&& value_of) {
    if constexpr (s < unit_columns(Decoder::form) / 16) {
        std::uint32_t rows[2];
        decoder.template bytes<s>(words, rows[0], rows[1]);
        constexpr int order[2][4] = {{0, 2, 1, 3}, {0, 1, 2, 3}};
        for (int row = 0; row < 2; ++row)
            for (int place = 0; place < 4; ++place) {
                const int column = order[Decoder::bytes_in_order ? 1 : 0][place], e = column % 2 + 2 * row + 4 * (column / 2);
                EXPECT_EQ(static_cast<float>(static_cast<std::int8_t>(rows[row] >> 8 * place)) * decoder.byte_unit(), value_of(codes[s][e])) << "step " << s << " element " << e;
            }
        expect_bytes<Decoder, s + 1>(decoder, words, codes, value_of);
    }
}
template <class Decoder, class ValueOf>
void expect_bytes_of(const Decoder& decoder, ValueOf&& value_of) {
    SCOPED_TRACE("form " + std::to_string(static_cast<int>(Decoder::form)));
    Rng rng(static_cast<std::uint64_t>(Decoder::form) + 1);
    std::uint32_t words[32] = {}, codes[16][8];
    for (int step = 0; step < unit_columns(Decoder::form) / 16; ++step)
        for (int e = 0; e < 8; ++e) {
            codes[step][e] = static_cast<std::uint32_t>(rng.below(1u << code_bits(Decoder::form)));
            put_code(Decoder::form, words, step, e, codes[step][e]);
        }
    expect_bytes<Decoder, 0>(decoder, words, codes, value_of);
}
template <CodeForm form>
void expect_linear_bytes() {
    expect_bytes_of(LinearDecoder<form>{}, [](std::uint32_t code) { return static_cast<float>(static_cast<int>(code)) - static_cast<float>(1 << (code_bits(form) - 1)); });
}
template <CodeForm form>
void expect_table_bytes(float step) {
    std::vector<std::uint32_t> table;
    for (int code = 0; code < 1 << code_bits(form); ++code) table.push_back(split_bf16(static_cast<float>(code % 2 == 0 ? -7 * code : 8 * code + 1) * step));
    GpuWeight weight;
    weight.form = form, weight.table = table.data(), weight.table_step = step;
    ByteTableDecoder<form> decoder;
    decoder.load_bytes(weight);
    expect_bytes_of(decoder, [&](std::uint32_t code) { return bf16_float(table[code] & 0xffffu); });
}

TEST(CudaPack, codes_as_bytes) {
    expect_bytes_of(Linear8Decoder{}, [](std::uint32_t code) { return static_cast<float>(static_cast<std::int8_t>(code)); });
    expect_linear_bytes<CodeForm::linear6>();
    expect_linear_bytes<CodeForm::linear5>();
    expect_linear_bytes<CodeForm::linear4>();
    expect_linear_bytes<CodeForm::linear3>();
    expect_linear_bytes<CodeForm::linear2>();
    expect_linear_bytes<CodeForm::linear1>();
    expect_table_bytes<CodeForm::table4>(0.5f);
    expect_table_bytes<CodeForm::table3>(1);
    expect_table_bytes<CodeForm::table2>(0.125f);
    expect_table_bytes<CodeForm::table1>(1);
}

TEST(CudaPack, tables_of_whole_numbers_say_so) {
    const auto step_of = [](const char* name) {
        const Weight weight = random_codes(16, 256, *parse_scheme(name), 5);
        const RowSource source = {&weight, RowMap::all(16)};
        return pack_gpu({&source, 1})->shape.table_step;
    };
    EXPECT_EQ(step_of("n4g32r"), 1.0f);
    EXPECT_EQ(step_of("mxfp4"), 1.0f);  // its table is doubled
    EXPECT_EQ(step_of("nf4"), 0.0f);
    EXPECT_EQ(step_of("k16"), 0.0f);
}

TEST(CudaPack, merges_and_pairs_rows) {
    const Scheme scheme = *parse_scheme("w4g32");
    const Weight q = random_codes(40, 172, scheme, 1), k = random_codes(8, 172, scheme, 2), other = random_codes(8, 172, *parse_scheme("w4g64"), 3);
    const RowSource sources[] = {{&q, {3, 5, 10, 3}}, {&k, RowMap::all(8)}};
    const PackedGpu packed = *pack_gpu(sources);
    const GpuWeight view = packed.at(packed.blob.data());
    EXPECT_EQ(view.n_rows, 23);
    for (std::size_t s = 0; s < 2; ++s)
        for (std::int64_t row = 0; row < sources[s].rows.n_rows(); ++row)
            expect_row(view, packed_index(sources, Interleave::none, s, row), stored_row(*sources[s].weight, sources[s].rows.at(row)));
    const RowSource unlike[] = {{&q, RowMap::all(40)}, {&other, RowMap::all(8)}};
    EXPECT_FALSE(can_merge(unlike));
    EXPECT_FALSE(pack_gpu(unlike).ok());

    const Weight gate = random_codes(21, 172, scheme, 4), up = random_codes(21, 172, scheme, 5);
    const RowSource pair[] = {{&gate, RowMap::all(21)}, {&up, RowMap::all(21)}};
    ThreadPool pool(2);
    const PackedGpu paired = *pack_gpu(pair, Interleave::gate_up, &pool);
    const GpuWeight pair_view = paired.at(paired.blob.data());
    EXPECT_EQ(pair_view.n_tiles, 3);
    for (std::size_t s = 0; s < 2; ++s)
        for (std::int64_t row = 0; row < 21; ++row) expect_row(pair_view, packed_index(pair, Interleave::gate_up, s, row), stored_row(*pair[s].weight, row));
}

// The product of one warp as PTX defines mma.m16n8k16: lane l has A[l/4 (+8)][2(l%4), +1 (+8)], B[2(l%4), +1 (+8)][l/4] and C[l/4 (+8)][2(l%4), +1].
struct Warp {
    std::uint32_t a[32][4], b[32][2];
    void multiply(double c[16][8]) const {
        float full_a[16][16], full_b[16][8];
        for (int lane = 0; lane < 32; ++lane) {
            const int g = lane / 4, t = lane % 4;
            for (int j = 0; j < 4; ++j)
                for (int h = 0; h < 2; ++h) full_a[g + 8 * (j % 2)][2 * t + h + 8 * (j / 2)] = bf16_float(a[lane][j] >> 16 * h & 0xffffu);
            for (int j = 0; j < 2; ++j)
                for (int h = 0; h < 2; ++h) full_b[2 * t + h + 8 * j][g] = bf16_float(b[lane][j] >> 16 * h & 0xffffu);
        }
        for (int row = 0; row < 16; ++row)
            for (int n = 0; n < 8; ++n)
                for (int k = 0; k < 16; ++k) c[row][n] += static_cast<double>(full_a[row][k]) * full_b[k][n];
    }
};

template <class Decoder, int s = 0>
void multiply_steps(const std::uint32_t (&words)[32][32], const Decoder (&decoders)[32], const std::byte* slabs, double (&c)[unit_columns(Decoder::form) / 16][16][8]) {
    if constexpr (s < unit_columns(Decoder::form) / 16) {
        std::uint32_t a[32][Decoder::n_parts][4];
        for (int lane = 0; lane < 32; ++lane) decoders[lane].template step<s>(words[lane], a[lane]);
        for (int part = 0; part < Decoder::n_parts; ++part) {
            Warp warp;
            for (int lane = 0; lane < 32; ++lane) {
                std::memcpy(warp.a[lane], a[lane][part], 16);
                std::memcpy(warp.b[lane], slabs + s / 4 * 1024 + s / 2 % 2 * 512 + lane * 16 + s % 2 * 8, 8);
            }
            warp.multiply(c[s]);
        }
        multiply_steps<Decoder, s + 1>(words, decoders, slabs, c);
    }
}

// A tile times an operand, unit by unit and lane by lane; every step scaled by itself, which needs no offsets for schemes without them.
TEST(CudaPack, fragments_meet) {
    constexpr std::int64_t n_columns = 600;
    for (const Weight& weight : all_weights(16, n_columns)) {
        SCOPED_TRACE(weight.encoding_name());
        const std::int64_t columns = weight.n_columns();
        const RowSource source = {&weight, RowMap::all(16)};
        const PackedGpu packed = *pack_gpu({&source, 1});
        const GpuWeight view = packed.at(packed.blob.data());
        if (has_offset(view.params) || view.two_of_four) continue;  // two_of_four_test.cpp
        const auto x = normal_values(4 * columns, 9);
        std::vector<std::byte> operand(operand_bytes(OperandForm::split, 4, columns));
        host_operand(static_cast<int>(OperandForm::split), x.data(), 4, columns, operand.data());
        double y[16][8] = {};
        with_decoder(view, [&]<class Decoder>(Decoder) {
            constexpr int unit = unit_columns(Decoder::form), n_words = unit_words(Decoder::form);
            const ParamLayout params = param_layout(view, unit);
            Decoder decoders[32];
            for (int lane = 0; lane < 32; ++lane) decoders[lane].load_tables(view, 0, lane);
            for (int u = 0; u < view.n_units; ++u) {
                std::uint32_t words[32][32];
                for (int lane = 0; lane < 32; ++lane)
                    for (int piece = 0; piece < n_words / 4; ++piece)
                        std::memcpy(words[lane] + piece * 4, static_cast<const std::uint32_t*>(view.codes) + static_cast<std::int64_t>(u) * n_words * 32 + (piece * 32 + lane) * 4, 16);
                double c[unit / 16][16][8] = {};
                multiply_steps(words, decoders, operand.data() + static_cast<std::int64_t>(u) * unit / 64 * 1024, c);
                for (int s = 0; s < unit / 16; ++s)
                    for (int row = 0; row < 16; ++row) {
                        GroupScale scale = {view.row_scales != nullptr ? view.row_scales[row] : 1.0f, 0};
                        if (view.params != ParamForm::none) {
                            const std::int64_t column = std::int64_t{u} * unit + s * 16, super = view.super_log2 >= 31 ? 0 : column >> view.super_log2;
                            const auto* unit_params = static_cast<const unsigned char*>(view.group_params) + params.index(u) * param_unit_bytes(view.params, params);
                            scale = read_record(view, unit_params + record_offset(view.params, params, row, params.in(s * 16)), {view.super_scales != nullptr ? view.super_scales[super * 16 + row] : 0, 0});
                        }
                        for (int n = 0; n < 8; ++n) y[row][n] += c[s][row][n] * scale.scale;
                    }
            }
        });
        for (std::int64_t row = 0; row < 16; ++row) {
            const auto values = stored_row(weight, row);
            for (std::int64_t token = 0; token < 4; ++token) {
                double wanted = 0, size = 0;
                for (std::int64_t c = 0; c < columns; ++c) {
                    const double product = static_cast<double>(values[static_cast<std::size_t>(c)]) * x[static_cast<std::size_t>(token * columns + c)];
                    wanted += product, size += std::fabs(product);
                }
                ASSERT_NEAR(y[row][2 * token] + y[row][2 * token + 1], wanted, size * 0x1p-15 + 1e-30) << "row " << row << " token " << token;
            }
        }
    }
}

// Experts: each begins a tile of its own, and is a weight by itself.
TEST(CudaPack, parts_of_a_weight) {
    constexpr std::int64_t n_experts = 3, n_rows = 21, n_columns = 300;
    for (const char* name : {"bf16", "w4g32a", "w8", "w4g16", "nf4g64"}) {
        const Scheme scheme = *parse_scheme(name);
        std::vector<Weight> weights;
        for (unsigned i = 0; i < 2 * n_experts; ++i)
            weights.push_back(scheme.is_coded() ? random_codes(n_rows, n_columns, scheme, 90 + i) : random_plain(n_rows, n_columns, scheme.dtype, 90 + i));
        std::vector<RowSource> sources;
        for (const Weight& weight : weights) sources.push_back({&weight, RowMap::all(n_rows)});
        for (const Interleave interleave : {Interleave::gate_up, Interleave::tiles}) {
            SCOPED_TRACE(name);
            const std::int64_t n_parts = interleave == Interleave::tiles ? 2 * n_experts : n_experts, of_part = 2 * n_experts / n_parts;
            const PackedGpu packed = *pack_gpu(sources, interleave);
            const GpuWeight view = packed.at(packed.blob.data());
            EXPECT_EQ(view.n_tiles, n_parts * (interleave == Interleave::tiles ? 2 : 3));
            for (std::int64_t part = 0; part < n_parts; ++part) {
                const GpuWeight one = part_of(view, part, n_parts);
                EXPECT_EQ(one.n_rows, n_rows * of_part);
                for (std::int64_t i = 0; i < of_part; ++i)
                    for (std::int64_t row = 0; row < n_rows; ++row) {
                        const auto source = static_cast<std::size_t>(part * of_part + i);
                        const auto wanted = stored_row(weights[source], row);
                        expect_row(view, packed_index(sources, interleave, source, row), wanted);
                        expect_row(one, interleave == Interleave::tiles ? row : row / 8 * 16 + row % 8 + 8 * i, wanted);
                    }
            }
        }
    }
    const std::vector<Weight> uneven = {random_plain(16, 64, DType::bf16, 1), random_plain(17, 64, DType::bf16, 2)};
    const std::vector<RowSource> sources = {{&uneven[0], RowMap::all(16)}, {&uneven[1], RowMap::all(17)}};
    EXPECT_FALSE(pack_gpu(sources, Interleave::tiles).ok());
}

TEST(CudaPack, every_code_of_fp8) {
    for (const bool e4m3 : {true, false}) {
        const std::uint32_t skip = e4m3 ? 0x7f : 0x7c;
        for (std::uint32_t code = 0; code < 256; ++code) {
            if ((code & 0x7f) >= skip) continue;
            const std::uint32_t both = e4m3 ? ByteDecoder<CodeForm::e4m3>::pair(code | code << 16) : ByteDecoder<CodeForm::e5m2>::pair(code | code << 16);
            const float wanted = e4m3 ? f8_e4m3_to_float(static_cast<std::uint8_t>(code)) : f8_e5m2_to_float(static_cast<std::uint8_t>(code));
            EXPECT_EQ(bf16_float(both & 0xffffu), wanted);
            EXPECT_EQ(bf16_float(both >> 16), wanted);
        }
    }
}

TEST(CudaPack, operand_places_are_distinct) {
    std::vector<int> seen(operand_bytes(OperandForm::fragments, 16, 300));
    const std::int64_t slabs = operand_columns(300) / slab_columns;
    for (std::int64_t token = 0; token < 16; ++token)
        for (std::int64_t column = 0; column < slabs * 64; ++column) {
            const std::int64_t byte = fragment_byte(token / 8, static_cast<int>(token % 8), column, slabs);
            ASSERT_LT(byte + 1, static_cast<std::int64_t>(seen.size()));
            EXPECT_EQ(seen[static_cast<std::size_t>(byte)]++, 0);
        }
    std::size_t used = 0;
    for (int count : seen) used += static_cast<std::size_t>(count);
    EXPECT_EQ(used * 2, seen.size());
}

}  // namespace
}  // namespace skiff::cuda
