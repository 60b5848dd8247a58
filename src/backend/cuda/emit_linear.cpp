// The launches of matrices: by the own kernels, or by cuBLASLt or CUTLASS.
#include <algorithm>

#include "backend/cuda/emitter.h"

namespace skiff::cuda {

void Emitter::add(const LinearDevice& linear) {
    const Live x = operand_of(linear.x);
    float* y = nullptr;
    const bool one = linear.matrices.size() == 1;
    // Before anything is given back: the kernel writes its result's operand while it still reads x.
    NextNorm next;
    if (linear.write == GemvWrite::gate || linear.write == GemvWrite::activate) next.operand = make_operand(linear.out);
    else if (one && !library()) next = next_of(linear.out);
    if (linear.adds_to >= 0) {
        take_over(linear.out, linear.adds_to);
        y = floats(linear.out);
    } else if (linear.write == GemvWrite::replace) {
        y = make_floats(linear.out);
    }
    for (const MatrixDevice& matrix : linear.matrices) {
        if (library()) {
            multiply(linear, matrix, x, y, next);
            continue;
        }
        GemvArgs args;
        args.weight = matrix.weight;
        args.x = x.operand.data;
        args.n_tokens = rows_;
        args.rms = x.rms;
        args.bias = matrix.bias;
        args.write = linear.write;
        args.activation = linear.activation;
        if (y != nullptr) {
            args.y = y + matrix.offset;
            args.y_stride = stride(linear.out);
        }
        args.softcap = linear.softcap;
        args.factor = linear.factor;
        args.next = next;
        if (is_part(linear.x)) args.x_columns = x.operand.n_columns, args.x_first = value(linear.x).operand_first;
        if (rows_ <= max_gemv_tokens) {
            const NormDevice* norm = one && y != nullptr && next.square_sums == nullptr ? norm_of_finished(linear.out) : nullptr;
            if (norm == nullptr) {
                push("gemv", args);
                continue;
            }
            args.norms = norm_args(*norm);
            args.arrivals = options_.arrivals;
            done_already_ = at_ + 1;
            program_.steps.push_back({*name_ + " + " + model_.ops[done_already_].name, "gemv and norm", args});
            done(norm->x);
            done(norm->residual);
            continue;
        }
        GemmArgs many{args.weight, args.x, args.n_tokens, args.rms, args.bias, args.write, args.activation, args.y, args.y_stride, args.softcap, args.factor, args.next};
        many.x_columns = args.x_columns, many.x_first = args.x_first;
        const std::size_t partial_bytes = scratch_table().gemm_partial_bytes(args.weight, rows_, *options_.launch);
        if (partial_bytes > 0 && scratch_table().gemm_arrivals(args.weight, rows_) <= options_.n_arrivals) {
            many.partials = static_cast<float*>(scratch_.take(partial_bytes));
            many.arrivals = options_.arrivals;
        }
        push("gemm", many);
        scratch_.give(many.partials);
    }
    done_operand(linear.x);
}

const NormDevice* Emitter::norm_of_finished(int out) {
    if (options_.fuse == EmitOptions::Fuse::off || rows_ > max_last_norm_tokens || at_ + 1 >= model_.ops.size()) return nullptr;
    const auto* norm = std::get_if<NormDevice>(&model_.ops[at_ + 1].detail);
    const std::int64_t width = value(out).width;
    if (norm == nullptr || norm->x != out || norm->group_width != width || width % 4 != 0 || width > max_last_norm_width || stride(out) != width || (norm->residual >= 0 && stride(norm->residual) != width)) return nullptr;
    return norm;
}

void Emitter::add(const SparseDevice& sparse) {
    const Live x = operand_of(sparse.x);
    SparseRowsArgs args;
    args.entries = sparse.entries;
    args.begins = sparse.begins;
    args.values = sparse.values;
    args.n_rows = value(sparse.out).width;
    args.n_columns = value(sparse.x).width;
    args.x = x.operand.data;
    args.form = x.operand.form;
    args.n_tokens = rows_;
    args.rms = x.rms;
    if (sparse.adds_to >= 0) {
        take_over(sparse.out, sparse.adds_to);
    } else {
        args.write = SparseRowsArgs::Write::replace;
        make_floats(sparse.out);
    }
    args.y = floats(sparse.out);
    args.y_stride = stride(sparse.out);
    push("sparse rows", args);
    done(sparse.x);
}

namespace {

// The same product; what its epilogue activates is the operand of the next one, rows from `first` on.
CutlassProductArgs by_cutlass(const MatmulArgs& args, const LinearDevice& linear, const Operand& activated, std::int64_t first) {
    CutlassProductArgs product;
    product.weight = args.weight;
    product.x = args.x;
    product.bias = args.bias;
    product.n_tokens = args.n_tokens;
    product.n_rows = args.n_rows;
    product.n_columns = args.n_columns;
    product.weight_stride = args.weight_stride;
    product.x_stride = args.x_stride;
    product.factor = args.factor;
    if (linear.write == GemvWrite::activate) {
        product.write = CutlassProductArgs::Write::activate;
        product.activation = linear.activation;
        product.operand = activated;
        product.first_row = first;
    } else {
        product.write = args.write == MatmulArgs::Write::add ? CutlassProductArgs::Write::add : CutlassProductArgs::Write::replace;
        product.y = args.y;
        product.y_stride = args.y_stride;
    }
    return product;
}

}  // namespace

void Emitter::multiply(const LinearDevice& linear, const MatrixDevice& matrix, const Live& x, float* y, const NextNorm& next) {
    const GpuWeight& weight = matrix.weight;
    const bool gate = linear.write == GemvWrite::gate, activates = linear.write == GemvWrite::activate, fp8 = options_.matmul == Matmul::fp8 && takes_fp8(weight);
    const bool cutlass = options_.matmul == Matmul::cutlass, in_between = gate || fp8 || (activates && !cutlass);  // numbers that another launch finishes
    const std::int64_t n_columns = weight.n_columns, padded = fp8 ? fp8_columns(n_columns) : (n_columns + 7) / 8 * 8;
    const std::int64_t n_rows = gate || fp8 ? std::int64_t{weight.n_tiles} * 16 : weight.n_rows;  // pairs fill whole tiles
    float* target = in_between ? scratch_.take_floats(rows_ * n_rows) : activates ? nullptr : y + matrix.offset;
    const std::int64_t target_stride = in_between || activates ? n_rows : stride(linear.out), number_bytes = fp8 ? 1 : 2;
    const Live* coded = fp8 ? &codes_of(linear.x) : nullptr;
    const void* kept = nullptr;
    if (!fp8 && options_.kept_rows != nullptr)
        if (const auto found = options_.kept_rows->find(weight.codes); found != options_.kept_rows->end()) kept = found->second;
    const std::int64_t at_once = kept != nullptr ? n_rows : std::max<std::int64_t>(256, library_weight_bytes / (number_bytes * padded) / 256 * 256);
    for (std::int64_t first = 0; first < n_rows; first += at_once) {
        const std::int64_t n = std::min(at_once, n_rows - first);
        void* rows = kept != nullptr ? nullptr : scratch_.take(static_cast<std::size_t>(n * padded * number_bytes));
        MatmulArgs args;
        if (fp8) {
            push("rows of fp8", Fp8RowsArgs{weight, first, n, rows});
            args.numbers = MatmulArgs::Numbers::e4m3;
            args.x = coded->codes;
            args.x_stride = args.n_columns = padded;
        } else {
            if (kept == nullptr) push("dequantize", DequantizeArgs{weight, first, n, rows, padded});
            args.x = x.operand.data;
            args.x_stride = args.n_columns = n_columns;
            args.bias = gate || matrix.bias == nullptr ? nullptr : matrix.bias + first;
            args.factor = linear.factor;
            args.write = linear.write == GemvWrite::add ? MatmulArgs::Write::add : MatmulArgs::Write::replace;
        }
        args.weight = kept != nullptr ? kept : rows;
        args.weight_stride = padded;
        args.y = target == nullptr ? nullptr : target + first;
        args.y_stride = target_stride;
        args.n_tokens = rows_;
        args.n_rows = n;
        args.workspace = options_.workspace;
        args.workspace_bytes = options_.workspace_bytes;
        if (cutlass) push("cutlass", by_cutlass(args, linear, next.operand, first));
        else push(fp8 ? "cublaslt fp8" : "cublaslt", args);
        if (rows != nullptr) scratch_.give(rows);
    }
    if (fp8 && !gate) {
        Fp8ResultArgs args;
        args.x = target;
        args.x_stride = target_stride;
        args.token_scales = coded->code_scales;
        args.row_scales = weight.row_scales;
        args.bias = matrix.bias;
        args.n_tokens = rows_;
        args.n_rows = weight.n_rows;
        args.factor = linear.factor;
        args.softcap = linear.softcap;
        args.write = linear.write == GemvWrite::add ? Fp8ResultArgs::Write::add : Fp8ResultArgs::Write::replace;
        args.y = activates ? target : y + matrix.offset;
        args.y_stride = activates ? target_stride : stride(linear.out);
        push("scales of fp8", args);
    }
    if (gate) {
        PairsArgs pairs{target, matrix.bias};
        if (fp8) pairs.token_scales = coded->code_scales, pairs.row_scales = weight.row_scales;
        pairs.n_tokens = rows_;
        pairs.n_pairs = weight.n_rows / 2;
        pairs.activation = linear.activation;
        pairs.operand = next.operand;
        push("activation of pairs", pairs);
    } else if (activates && in_between) {
        ElementLaunchArgs args;
        args.kind = ElementKind::activation;
        args.activation = linear.activation;
        args.a = target;
        args.a_stride = target_stride;
        args.n_tokens = rows_;
        args.n_columns = weight.n_rows;
        args.operand = next.operand;
        push("activation", args);
    } else if (!fp8 && !activates && linear.softcap > 0) {
        ElementLaunchArgs args;
        args.kind = ElementKind::softcap;
        args.a = args.y = target;
        args.a_stride = args.y_stride = target_stride;
        args.n_tokens = rows_;
        args.n_columns = n_rows;
        args.factor = linear.softcap;
        push("softcap", args);
    }
    if (in_between) scratch_.give(target);
}

const Emitter::Live& Emitter::codes_of(int v) {
    Live& live = live_[static_cast<std::size_t>(v)];
    if (live.codes != nullptr) return live;
    live.codes = scratch_.take(static_cast<std::size_t>(rows_ * fp8_columns(value(v).width)));
    live.code_scales = scratch_.take_floats(rows_);
    push("inputs as fp8", QuantizeRowsArgs{live.operand.data, rows_, value(v).width, live.codes, live.code_scales});
    return live;
}

}  // namespace skiff::cuda
