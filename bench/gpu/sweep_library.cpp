// Products of 8-bit floats by cuBLASLt.
#include "sweep.h"

namespace skiff::cuda {

Status Sweep::library(std::int64_t n_rows, std::int64_t n_columns, std::int64_t n_tokens) {
    const Table& table = device.table();
    if (const auto opened = cublaslt(); !opened.ok()) {
        say(Json::object({{"part", "library"}, {"what", opened.error().message}}));
        return {};
    }
    std::size_t size_bytes = 0;
    const std::size_t workspace_bytes = std::size_t{32} << 20;
    SKIFF_TRY(const auto weights, matrices("e4m3", n_rows, n_columns, size_bytes));
    SKIFF_TRY(std::byte * workspace, zeros(workspace_bytes, "cuBLASLt's workspace"));
    SKIFF_TRY(float* numbers, floats(n_tokens * n_columns, "an activation"));
    SKIFF_TRY(std::byte * x, operand(OperandForm::rows, numbers, n_tokens, n_columns));
    SKIFF_TRY(std::byte * rows, zeros(static_cast<std::size_t>(n_rows * n_columns) * 2, "rows"));
    SKIFF_TRY(std::byte * codes, zeros(static_cast<std::size_t>(n_tokens * n_columns), "codes"));
    SKIFF_TRY(std::byte * scales, zeros(static_cast<std::size_t>(n_tokens) * 4, "scales"));
    SKIFF_TRY(std::byte * y, zeros(static_cast<std::size_t>(n_tokens * n_rows) * 4, "a product"));
    for (const auto form : {MatmulArgs::Numbers::bf16, MatmulArgs::Numbers::e4m3}) {
        const bool fp8 = form == MatmulArgs::Numbers::e4m3;
        if (fp8 && device.facts().arch < 89) continue;
        MatmulArgs product;
        product.numbers = form;
        product.weight = rows;
        product.x = fp8 ? codes : x;
        product.y = reinterpret_cast<float*>(y);
        product.n_tokens = n_tokens;
        product.n_rows = product.y_stride = n_rows;
        product.n_columns = product.weight_stride = product.x_stride = n_columns;
        product.workspace = workspace;
        product.workspace_bytes = workspace_bytes;
        Fp8ResultArgs result;
        result.x = result.y = reinterpret_cast<float*>(y);
        result.x_stride = result.y_stride = result.n_rows = n_rows;
        result.token_scales = reinterpret_cast<const float*>(scales);
        result.n_tokens = n_tokens;
        const auto whole = [&](int i) {
            const GpuWeight& weight = weights[static_cast<std::size_t>(i) % weights.size()];
            result.row_scales = weight.row_scales;
            int error = fp8 ? table.quantize_rows({x, n_tokens, n_columns, codes, reinterpret_cast<float*>(scales)}, device.launch()) : 0;
            if (error == 0) error = fp8 ? table.fp8_rows({weight, 0, n_rows, rows}, device.launch()) : table.dequantize({weight, 0, n_rows, rows, n_columns}, device.launch());
            if (error == 0) error = table.matmul(product, device.launch());
            return error != 0 || !fp8 ? error : table.fp8_result(result, device.launch());
        };
        if (const int error = table.prepare_matmul(product); error != 0) {
            say(Json::object({{"part", "library"}, {"numbers", fp8 ? "e4m3" : "bf16"}, {"tokens", n_tokens}, {"what", device.check(error, "cuBLASLt").error().message}}));
            continue;
        }
        SKIFF_TRY(const double all, time(whole, "a product and what stands around it"));
        SKIFF_TRY(const double alone, time([&](int) { return table.matmul(product, device.launch()); }, "a product"));
        const double tera = 2e-12 * static_cast<double>(n_rows * n_columns * n_tokens);
        say(Json::object({{"part", "library"}, {"numbers", fp8 ? "e4m3" : "bf16"}, {"rows", n_rows}, {"columns", n_columns}, {"tokens", n_tokens}, {"us", alone * 1e6}, {"tflops", tera / alone}, {"whole_us", all * 1e6}, {"whole_tflops", tera / all}}));
    }
    release({workspace, numbers, x, rows, codes, scales, y});
    release(weights);
    return {};
}

}  // namespace skiff::cuda
