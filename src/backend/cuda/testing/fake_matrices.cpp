// Operands and products of the fake device.
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/cuda/testing/fake_kernels.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/tuning.h"
#include "kernels/ref/ref.h"

namespace skiff::cuda::fake {

std::size_t fake_operand_bytes(OperandForm, std::int64_t n_tokens, std::int64_t n_columns) { return static_cast<std::size_t>(n_tokens * n_columns) * sizeof(float); }
bool operand_here(const Operand& operand, std::int64_t n_tokens) { return operand.data == nullptr || here(operand.data, fake_operand_bytes(operand.form, n_tokens, operand.n_columns)); }
void write_operand(const Operand& operand, std::int64_t token, std::int64_t column, float value) {
    if (operand.data != nullptr) static_cast<float*>(operand.data)[token * operand.n_columns + column] = value;
}
void write_next(const NextNorm& next, std::int64_t token, const float* row, std::int64_t width) {
    const auto place = [&](std::int64_t c) {
        for (const int i : {1, 0})
            if (next.operand.cuts[i] > 0 && c >= next.operand.cuts[i]) return c + next.operand.gaps[i];
        return c;
    };
    for (std::int64_t c = 0; c < width; ++c) write_operand(next.operand, token, place(c), next.weight != nullptr ? row[c] * next.weight[c] : row[c]);
    if (next.square_sums == nullptr) return;
    float* sums = const_cast<float*>(next.square_sums) + token * pending_parts(width);
    for (std::int64_t part = 0; part < pending_parts(width); ++part) {
        double sum = 0;
        for (std::int64_t c = part * 16; c < std::min(width, part * 16 + 16); ++c) sum += static_cast<double>(row[c]) * row[c];
        sums[part] = static_cast<float>(sum);
    }
}
bool next_here(const NextNorm& next, std::int64_t n_tokens, std::int64_t width) {
    return floats(next.weight, width) && operand_here(next.operand, n_tokens) && floats(next.square_sums, n_tokens * pending_parts(width)) && (next.operand.data == nullptr || (next.operand.cuts[0] > 0 ? next.operand.n_columns >= width : next.operand.n_columns == width));
}
float activated(Activation kind, float x) {
    float y = 0;
    activation_ref({&x, nullptr, &y, 1, kind}, {0, 1});
    return y;
}

namespace {

template <class Args>
int multiply(const Args& args, const Launch& launch) {
    const std::int64_t n = args.n_tokens, n_rows = args.weight.n_rows, n_columns = args.weight.n_columns;
    const bool gate = args.write == GemvWrite::gate, activates = args.write == GemvWrite::activate;
    const std::int64_t x_columns = args.x_columns > 0 ? args.x_columns : n_columns, x_first = args.x_first;
    if (x_first % operand_part_columns != 0 || x_first + n_columns > x_columns) return bad_value;
    if (n < 1 || !here(args.weight.codes, 1) || args.next.operand.data == args.x || !here(args.x, fake_operand_bytes({}, n, x_columns)) || (!gate && !activates && (args.y == nullptr || !rows(args.y, n, n_rows, args.y_stride))) ||
        !next_here(args.next, n, gate ? n_rows / 2 : n_rows) || !floats(args.bias, gate ? (n_rows / 2 + 7) / 8 * 16 : n_rows) || (args.rms.square_sums != nullptr && args.rms.width != n_columns))
        return bad_value;
    return put(launch.stream, [args, n, n_rows, n_columns, gate, activates, x_columns, x_first]() -> int {
        const auto* x = static_cast<const float*>(args.x);
        std::vector<double> scale(static_cast<std::size_t>(n), 1.0);
        for (std::int64_t t = 0; t < n && args.rms.square_sums != nullptr; ++t) {
            double sum = 0;
            for (std::int64_t part = 0; part < args.rms.n_parts; ++part) sum += args.rms.square_sums[t * args.rms.n_parts + part];
            scale[static_cast<std::size_t>(t)] = 1.0 / std::sqrt(sum / static_cast<double>(args.rms.width) + args.rms.eps);
        }
        std::vector<float> row(static_cast<std::size_t>(n_columns));
        const std::int64_t n_packed = gate ? (n_rows / 2 + 7) / 8 * 16 : n_rows;
        std::vector<float> product(static_cast<std::size_t>(n * n_packed));
        for (std::int64_t r = 0; r < n_packed; ++r) {
            packed_row(args.weight, r, row.data());
            for (std::int64_t t = 0; t < n; ++t) {
                double sum = 0;
                for (std::int64_t c = 0; c < n_columns; ++c) sum += static_cast<double>(row[static_cast<std::size_t>(c)]) * x[t * x_columns + x_first + c];
                auto value = static_cast<float>(sum * scale[static_cast<std::size_t>(t)]);
                if (args.bias != nullptr) value += args.bias[r];
                product[static_cast<std::size_t>(t * n_packed + r)] = value;
            }
        }
        std::vector<float> result(static_cast<std::size_t>(gate ? n_rows / 2 : n_rows));
        for (std::int64_t t = 0; t < n; ++t) {
            const float* from = product.data() + t * n_packed;
            if (gate) {
                for (std::int64_t j = 0; j < n_rows / 2; ++j) {
                    const std::int64_t at = j / 8 * 16 + j % 8;
                    write_operand(args.next.operand, t, j, activated(args.activation, from[at]) * from[at + 8]);
                }
                continue;
            }
            if (activates) {
                for (std::int64_t r = 0; r < n_rows; ++r) write_operand(args.next.operand, t, r, activated(args.activation, from[r] * args.factor));
                continue;
            }
            float* y = args.y + t * args.y_stride;
            for (std::int64_t r = 0; r < n_rows; ++r) {
                float value = from[r] * args.factor;
                if (args.softcap > 0) value = args.softcap * std::tanh(value / args.softcap);
                y[r] = args.write == GemvWrite::add ? y[r] + value : value;
            }
            write_next(args.next, t, y, n_rows);
        }
        return good;
    });
}
int gemv(const GemvArgs& args, const Launch& launch) {
    if (args.n_tokens > max_gemv_tokens) return bad_value;
    if (args.arrivals == nullptr) return multiply(args, launch);
    if (args.n_tokens > max_last_norm_tokens || args.norms.x != args.y || args.norms.width != args.weight.n_rows || args.norms.n_groups != 1 || !floats(args.arrivals, 1)) return bad_value;
    if (const int error = multiply(args, launch); error != good) return error;
    return norm(args.norms, launch);
}
int gemm(const GemmArgs& args, const Launch& launch) {
    if (args.partials != nullptr) {
        if (!here(args.partials, static_cast<std::size_t>(args.weight.n_rows * args.n_tokens * 8)) || !floats(args.arrivals, args.weight.n_tiles)) return bad_value;
        if (const int error = put(launch.stream, [args]() -> int {
                for (std::int64_t i = 0; i < args.weight.n_tiles; ++i)
                    if (args.arrivals[i] != 0) return bad_value;
                std::memset(args.partials, 0xff, static_cast<std::size_t>(args.weight.n_rows * args.n_tokens * 8));  // nothing else may lie there
                return good;
            });
            error != good)
            return error;
    }
    return multiply(args, launch);
}

int sparse_rows(const SparseRowsArgs& args, const Launch& launch) {
    if (args.n_tokens < 1 || !grid((args.n_tokens + 7) / 8) || args.begins == nullptr || !floats(args.begins, args.n_rows + 1) || !here(args.x, fake_operand_bytes({}, args.n_tokens, args.n_columns)) || args.y == nullptr ||
        !rows(args.y, args.n_tokens, args.n_rows, args.y_stride) || (args.rms.square_sums != nullptr && args.rms.width != args.n_columns))
        return bad_value;
    return put(launch.stream, [args]() -> int {
        if (args.begins[args.n_rows] > 0 && !floats(args.entries, args.begins[args.n_rows])) return bad_value;
        for (std::int64_t t = 0; t < args.n_tokens; ++t) {
            double squares = 0;
            for (std::int64_t part = 0; args.rms.square_sums != nullptr && part < args.rms.n_parts; ++part) squares += args.rms.square_sums[t * args.rms.n_parts + part];
            const double scale = args.rms.square_sums != nullptr ? 1.0 / std::sqrt(squares / static_cast<double>(args.rms.width) + args.rms.eps) : 1.0;
            for (std::int64_t r = 0; r < args.n_rows; ++r) {
                double sum = 0;
                for (std::int32_t i = args.begins[r]; i < args.begins[r + 1]; ++i) {
                    const std::uint32_t entry = args.entries[i];
                    const auto half = static_cast<std::uint16_t>(entry >> 16);
                    sum += static_cast<double>(args.values == Float16Form::f16 ? f16_to_float(half) : bf16_to_float(half)) * static_cast<const float*>(args.x)[t * args.n_columns + (entry & 0xffffu)];
                }
                float& y = args.y[t * args.y_stride + r];
                const auto value = static_cast<float>(sum * scale);
                y = args.write == SparseRowsArgs::Write::add ? y + value : value;
            }
        }
        return good;
    });
}

int dequantize(const DequantizeArgs& args, const Launch& launch) {
    if (!here(args.target, static_cast<std::size_t>((args.n_rows - 1) * args.target_stride + args.weight.n_columns) * 2)) return bad_value;
    return put(launch.stream, [args]() -> int {
        std::vector<float> row(static_cast<std::size_t>(args.weight.n_columns));
        for (std::int64_t r = 0; r < args.n_rows; ++r) {
            packed_row(args.weight, args.first_row + r, row.data());
            for (std::int64_t c = 0; c < args.weight.n_columns; ++c) static_cast<std::uint16_t*>(args.target)[r * args.target_stride + c] = float_to_bf16(row[static_cast<std::size_t>(c)]);
        }
        return good;
    });
}
int matmul(const MatmulArgs& args, const Launch& launch) {
    const bool bytes = args.numbers == MatmulArgs::Numbers::e4m3;
    if (!here(args.weight, static_cast<std::size_t>((args.n_rows - 1) * args.weight_stride + args.n_columns) * (bytes ? 1 : 2)) || !rows(args.y, args.n_tokens, args.n_rows, args.y_stride) || !floats(args.bias, args.n_rows) ||
        !here(args.x, static_cast<std::size_t>((args.n_tokens - 1) * args.x_stride + args.n_columns) * (bytes ? 1 : sizeof(float))) || args.workspace == nullptr || (bytes && !fp8_product_can_be(args)))
        return bad_value;
    return put(launch.stream, [args, bytes]() -> int {
        const auto weight = [&](std::int64_t at) { return bytes ? f8_e4m3_to_float(static_cast<const std::uint8_t*>(args.weight)[at]) : bf16_to_float(static_cast<const std::uint16_t*>(args.weight)[at]); };
        const auto x = [&](std::int64_t at) { return bytes ? f8_e4m3_to_float(static_cast<const std::uint8_t*>(args.x)[at]) : static_cast<const float*>(args.x)[at]; };
        for (std::int64_t t = 0; t < args.n_tokens; ++t)
            for (std::int64_t r = 0; r < args.n_rows; ++r) {
                double sum = 0;
                for (std::int64_t c = 0; c < args.n_columns; ++c) sum += static_cast<double>(weight(r * args.weight_stride + c)) * x(t * args.x_stride + c);
                const auto value = static_cast<float>(sum * args.factor) + (args.bias != nullptr ? args.bias[r] : 0.0f);
                float& y = args.y[t * args.y_stride + r];
                y = args.write == MatmulArgs::Write::add ? y + value : value;
            }
        return good;
    });
}
int cutlass(const CutlassProductArgs& args, const Launch& launch) {
    const bool activates = args.write == CutlassProductArgs::Write::activate;
    const auto whole = [](std::int64_t n, std::int64_t of) { return n % of == 0; };
    if (!here(args.weight, static_cast<std::size_t>((args.n_rows - 1) * args.weight_stride + args.n_columns) * 2) || !here(args.x, static_cast<std::size_t>((args.n_tokens - 1) * args.x_stride + args.n_columns) * sizeof(float)) ||
        !floats(args.bias, args.n_rows) || !rows(args.y, args.n_tokens, args.n_rows, args.y_stride) || !operand_here(args.operand, args.n_tokens))
        return bad_value;
    if ((activates ? args.operand.data : args.y) == nullptr || (activates && (args.operand.form != OperandForm::rows || args.first_row + args.n_rows > args.operand.n_columns))) return bad_value;
    if (!whole(args.n_columns, 8) || !whole(args.weight_stride, 8) || !whole(args.x_stride, 8) || !whole(args.n_rows, activates ? 8 : 4) || !whole(activates ? args.operand.n_columns : args.y_stride, activates ? 8 : 4)) return bad_value;
    return put(launch.stream, [args, activates]() -> int {
        for (std::int64_t t = 0; t < args.n_tokens; ++t)
            for (std::int64_t r = 0; r < args.n_rows; ++r) {
                double sum = 0;
                for (std::int64_t c = 0; c < args.n_columns; ++c)
                    sum += static_cast<double>(bf16_to_float(static_cast<const std::uint16_t*>(args.weight)[r * args.weight_stride + c])) * static_cast<const float*>(args.x)[t * args.x_stride + c];
                const auto value = static_cast<float>(sum * args.factor) + (args.bias != nullptr ? args.bias[r] : 0.0f);
                if (activates) write_operand(args.operand, t, args.first_row + r, activated(args.activation, value));
                else args.y[t * args.y_stride + r] = args.write == CutlassProductArgs::Write::add ? args.y[t * args.y_stride + r] + value : value;
            }
        return good;
    });
}
int pairs(const PairsArgs& args, const Launch& launch) {
    const std::int64_t stride = (args.n_pairs + 7) / 8 * 16;
    if (!floats(args.x, args.n_tokens * stride) || !floats(args.bias, stride) || !operand_here(args.operand, args.n_tokens) || !floats(args.token_scales, args.n_tokens) || !floats(args.row_scales, stride)) return bad_value;
    return put(launch.stream, [args, stride]() -> int {
        for (std::int64_t t = 0; t < args.n_tokens; ++t)
            for (std::int64_t j = 0; j < args.n_pairs; ++j) {
                const std::int64_t at = j / 8 * 16 + j % 8;
                const float* x = args.x + t * stride;
                const auto number = [&](std::int64_t i) { return x[i] * (args.token_scales != nullptr ? args.token_scales[t] * args.row_scales[i] : 1.0f) + (args.bias != nullptr ? args.bias[i] : 0.0f); };
                const float gate = number(at), up = number(at + 8);
                write_operand(args.operand, t, j, activated(args.activation, gate) * up);
            }
        return good;
    });
}

int quantize_rows(const QuantizeRowsArgs& args, const Launch& launch) {
    const std::int64_t width = fp8_columns(args.n_columns);
    if (!here(args.x, fake_operand_bytes({}, args.n_tokens, args.n_columns)) || !here(args.codes, static_cast<std::size_t>(args.n_tokens * width)) || !rows(args.scales, args.n_tokens, 1, 1)) return bad_value;
    return put(launch.stream, [args, width]() -> int {
        for (std::int64_t t = 0; t < args.n_tokens; ++t) {
            const float* x = static_cast<const float*>(args.x) + t * args.n_columns;
            float largest = 0;
            for (std::int64_t c = 0; c < args.n_columns; ++c) largest = std::max(largest, std::fabs(x[c]));
            args.scales[t] = largest / largest_e4m3;
            for (std::int64_t c = 0; c < width; ++c) static_cast<std::uint8_t*>(args.codes)[t * width + c] = c < args.n_columns && largest > 0 ? float_to_f8_e4m3(x[c] / largest * largest_e4m3) : std::uint8_t{0};
        }
        return good;
    });
}
int fp8_rows(const Fp8RowsArgs& args, const Launch& launch) {
    const std::int64_t width = fp8_columns(args.weight.n_columns);
    if (!takes_fp8(args.weight) || !here(args.target, static_cast<std::size_t>(args.n_rows * width))) return bad_value;
    return put(launch.stream, [args, width]() -> int {
        GpuWeight codes = args.weight;
        codes.row_scales = nullptr;
        std::vector<float> row(static_cast<std::size_t>(width));
        for (std::int64_t r = 0; r < args.n_rows; ++r) {
            packed_row(codes, args.first_row + r, row.data());
            for (std::int64_t c = 0; c < width; ++c) static_cast<std::uint8_t*>(args.target)[r * width + c] = float_to_f8_e4m3(row[static_cast<std::size_t>(c)]);
        }
        return good;
    });
}
int fp8_result(const Fp8ResultArgs& args, const Launch& launch) {
    if (!rows(args.x, args.n_tokens, args.n_rows, args.x_stride) || !rows(args.y, args.n_tokens, args.n_rows, args.y_stride) || args.token_scales == nullptr || !floats(args.token_scales, args.n_tokens) ||
        args.row_scales == nullptr || !floats(args.row_scales, args.n_rows) || !floats(args.bias, args.n_rows))
        return bad_value;
    return put(launch.stream, [args]() -> int {
        for (std::int64_t t = 0; t < args.n_tokens; ++t)
            for (std::int64_t r = 0; r < args.n_rows; ++r) {
                float value = args.x[t * args.x_stride + r] * args.token_scales[t] * args.row_scales[r] * args.factor + (args.bias != nullptr ? args.bias[r] : 0.0f);
                if (args.softcap > 0) value = args.softcap * std::tanh(value / args.softcap);
                float& y = args.y[t * args.y_stride + r];
                y = args.write == Fp8ResultArgs::Write::add ? y + value : value;
            }
        return good;
    });
}

std::size_t fake_gemm_bytes(const GpuWeight& weight, std::int64_t n_tokens, const Launch&) { return n_tokens < 32 ? static_cast<std::size_t>(weight.n_rows * n_tokens * 8) : 0; }
std::int64_t fake_gemm_arrivals(const GpuWeight& weight, std::int64_t) { return weight.n_tiles; }

}  // namespace

void add_matrices(Table& table) {
    table.operand_bytes = fake_operand_bytes;
    table.gemm_partial_bytes = fake_gemm_bytes;
    table.gemm_arrivals = fake_gemm_arrivals;
    table.gemv = gemv;
    table.gemm = gemm;
    table.sparse_rows = sparse_rows;
    table.dequantize = dequantize;
    table.matmul = matmul;
    table.cutlass = cutlass;
    table.pairs = pairs;
    table.quantize_rows = quantize_rows;
    table.fp8_rows = fp8_rows;
    table.fp8_result = fp8_result;
}

}  // namespace skiff::cuda::fake
