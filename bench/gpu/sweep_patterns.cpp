// What follows a product, by each library that there is.
#include "sweep.h"

#include <algorithm>
#include <tuple>

#include "base/rng.h"

namespace skiff::cuda {
namespace {

// One way to do a pattern: its launches, one after another.
struct Row {
    const char* library;
    std::vector<std::function<int()>> launches;
};

}  // namespace

Status Sweep::patterns(std::int64_t n_rows, std::int64_t n_columns, std::int64_t n_tokens) {
    const Table& table = device.table();
    const bool has_cublaslt = cublaslt().ok();
    const std::size_t workspace_bytes = std::size_t{32} << 20;
    const std::int64_t n_pairs = n_rows / 2;
    Rng rng(3);
    std::vector<float> numbers(static_cast<std::size_t>(n_rows * n_columns));
    for (float& number : numbers) number = static_cast<float>(rng.uniform()) - 0.5f;
    SKIFF_TRY(const Scheme bf16, parse_scheme("bf16"));
    SKIFF_TRY(const Weight weight, encode_nearest(make_float_weight({n_rows, n_columns}, std::move(numbers)), bf16, ScaleRule::min_max, {}, &pool));
    const RowSource all{&weight, RowMap::all(n_rows)}, halves[2] = {{&weight, RowMap{0, n_pairs, n_pairs, 1}}, {&weight, RowMap{n_pairs, n_pairs, n_pairs, 1}}};
    const auto on_device = [&](std::span<const RowSource> sources, Interleave interleave) -> Result<GpuWeight> {
        SKIFF_TRY(const auto packed, pack_gpu(sources, interleave, &pool));
        SKIFF_TRY(std::byte * address, device.allocate(packed.size_bytes(), "a matrix"));
        SKIFF_CHECK(device.upload(address, packed.blob.data(), packed.size_bytes(), &pool));
        return packed.at(address);
    };
    SKIFF_TRY(const GpuWeight plain, on_device({&all, 1}, Interleave::none));
    SKIFF_TRY(const GpuWeight pairs, on_device(halves, Interleave::gate_up));
    SKIFF_TRY(float* x, floats(n_tokens * n_columns, "an activation"));
    SKIFF_TRY(float* bias, floats(n_rows, "a bias"));
    SKIFF_TRY(std::byte * fragments, operand(OperandForm::fragments, x, n_tokens, n_columns));
    SKIFF_TRY(std::byte * x_rows, operand(OperandForm::rows, x, n_tokens, n_columns));
    SKIFF_TRY(std::byte * weight_rows, zeros(static_cast<std::size_t>(n_rows * n_columns) * 2, "a matrix"));
    SKIFF_CHECK(device.check(table.dequantize({plain, 0, n_rows, weight_rows, n_columns}, device.launch()), "writing out a matrix"));
    SKIFF_TRY(std::byte * y, zeros(static_cast<std::size_t>(n_tokens * n_rows) * 4, "a product"));
    SKIFF_TRY(std::byte * next, zeros(std::max(table.operand_bytes(OperandForm::fragments, n_tokens, n_rows), table.operand_bytes(OperandForm::rows, n_tokens, n_rows)), "an operand"));
    SKIFF_TRY(std::byte * workspace, zeros(workspace_bytes, "a workspace"));
    std::byte *partials = nullptr, *arrivals = nullptr;
    if (table.gemm_partial_bytes(plain, n_tokens, device.launch()) > 0) {
        SKIFF_TRY(partials, zeros(table.gemm_partial_bytes(plain, n_tokens, device.launch()), "partial sums"));
        SKIFF_TRY(arrivals, zeros(static_cast<std::size_t>(table.gemm_arrivals(plain, n_tokens)) * 4, "counters"));
    }
    for (const auto& [pattern, write, activation] : {std::tuple{"product + bias", GemvWrite::replace, Activation::silu}, {"product + bias + residual", GemvWrite::add, Activation::silu},
                                                     {"product + bias + activation", GemvWrite::activate, Activation::gelu_tanh}, {"product + activation of gate and up", GemvWrite::gate, Activation::silu}}) {
        const bool gate = write == GemvWrite::gate, activates = write == GemvWrite::activate;
        const std::int64_t width = gate ? n_pairs : n_rows;
        std::vector<Row> rows;
        GemmArgs own;
        own.weight = gate ? pairs : plain, own.x = fragments, own.n_tokens = n_tokens, own.bias = gate ? nullptr : bias, own.write = write, own.activation = activation;
        if (gate || activates) own.next.operand = {OperandForm::fragments, next, width};
        else own.y = reinterpret_cast<float*>(y), own.y_stride = n_rows;
        own.partials = reinterpret_cast<float*>(partials), own.arrivals = reinterpret_cast<std::int32_t*>(arrivals);
        rows.push_back({"own", {[&table, this, own] { return table.gemm(own, device.launch()); }}});

        const Operand after = {OperandForm::rows, next, width};
        PairsArgs pair;
        pair.x = reinterpret_cast<const float*>(y), pair.n_tokens = n_tokens, pair.n_pairs = n_pairs, pair.activation = activation, pair.operand = after;
        const auto activate_pairs = [&table, this, pair] { return table.pairs(pair, device.launch()); };
        if (has_cublaslt) {
            MatmulArgs product;
            product.weight = weight_rows, product.x = x_rows, product.bias = gate ? nullptr : bias, product.y = reinterpret_cast<float*>(y);
            product.n_tokens = n_tokens, product.n_rows = product.y_stride = n_rows, product.n_columns = product.weight_stride = product.x_stride = n_columns;
            product.write = write == GemvWrite::add ? MatmulArgs::Write::add : MatmulArgs::Write::replace;
            product.workspace = workspace, product.workspace_bytes = workspace_bytes;
            SKIFF_CHECK(device.check(table.prepare_matmul(product), "finding an algorithm"));
            Row row{"cublaslt", {[&table, this, product] { return table.matmul(product, device.launch()); }}};
            ElementLaunchArgs element;
            element.kind = ElementKind::activation, element.activation = activation, element.a = reinterpret_cast<const float*>(y), element.a_stride = element.n_columns = n_rows, element.n_tokens = n_tokens, element.operand = after;
            if (activates) row.launches.emplace_back([&table, this, element] { return table.elements(element, device.launch()); });
            if (gate) row.launches.emplace_back(activate_pairs);
            rows.push_back(std::move(row));
        }
        if (table.cutlass != nullptr) {
            CutlassProductArgs product;
            product.weight = weight_rows, product.x = x_rows, product.bias = gate ? nullptr : bias;
            product.n_tokens = n_tokens, product.n_rows = n_rows, product.n_columns = product.weight_stride = product.x_stride = n_columns;
            product.write = activates ? CutlassProductArgs::Write::activate : write == GemvWrite::add ? CutlassProductArgs::Write::add : CutlassProductArgs::Write::replace;
            product.activation = activation;
            if (activates) product.operand = after;
            else product.y = reinterpret_cast<float*>(y), product.y_stride = n_rows;
            Row row{"cutlass", {[&table, this, product] { return table.cutlass(product, device.launch()); }}};
            if (gate) row.launches.emplace_back(activate_pairs);
            rows.push_back(std::move(row));
        }
        for (const Row& row : rows) {
            const auto call = [&](int) {
                int error = 0;
                for (const auto& launch : row.launches)
                    if (error == 0) error = launch();
                return error;
            };
            SKIFF_TRY(const double seconds, time(call, std::string(pattern) + " by " + row.library));
            const double tflops = 2e-12 * static_cast<double>(n_rows * n_columns * n_tokens) / seconds;
            say(Json::object({{"part", "patterns"}, {"pattern", pattern}, {"row", row.library}, {"rows", n_rows}, {"columns", n_columns}, {"tokens", n_tokens}, {"launches", row.launches.size()}, {"us", seconds * 1e6}, {"tflops", tflops}}));
        }
    }
    release({plain.codes, pairs.codes, x, bias, fragments, x_rows, weight_rows, y, next, workspace, partials, arrivals});
    return {};
}

}  // namespace skiff::cuda
