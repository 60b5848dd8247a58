// The device's limits: reading, copying, products of matrices; and the sums of a calibration.
#include "sweep.h"

#include "backend/cuda/driver.h"

namespace skiff::cuda {

Result<std::string> Sweep::cublaslt() const {
    std::string path;
    for (const NamedLibrary& library : probe_cuda_libraries())
        if (library.what == "cuBLASLt") path = library.path;
    if (path.empty()) return unsupported("libcublasLt was not found");
    if (device.table().open_cublaslt(path.c_str()) != 0) return unsupported("libcublasLt cannot be opened");
    return path;
}

Status Sweep::limits() {
    const Table& table = device.table();
    const std::size_t size = small ? std::size_t{1} << 20 : std::size_t{1} << 30;
    SKIFF_TRY(std::byte * from, zeros(size, "a buffer"));
    SKIFF_TRY(std::byte * to, zeros(size, "a buffer"));
    SKIFF_TRY(std::byte * sink, zeros(256, "a number"));
    SKIFF_TRY(const double read, time([&](int) { return table.read_all(from, size, reinterpret_cast<float*>(sink), device.launch()); }, "reading"));
    SKIFF_TRY(const double copy, time([&](int) { return table.copy_within(to, from, size, device.stream()); }, "copying"));
    read_gbps = static_cast<double>(size) / read * 1e-9;
    say(Json::object({{"part", "limits"}, {"what", "read"}, {"bytes", size}, {"us", read * 1e6}, {"gbps", read_gbps}}));
    say(Json::object({{"part", "limits"}, {"what", "copy (read and written)"}, {"bytes", size}, {"us", copy * 1e6}, {"gbps", 2 * static_cast<double>(size) / copy * 1e-9}}));
    SKIFF_TRY(std::byte * pinned, device.allocate_pinned(size, "the measurement of copies"));
    SKIFF_TRY(const double in, time([&](int) { return table.copy_in(to, pinned, size, device.stream()); }, "copying from the host"));
    say(Json::object({{"part", "limits"}, {"what", "copy from pinned host memory"}, {"bytes", size}, {"us", in * 1e6}, {"gbps", static_cast<double>(size) / in * 1e-9}}));
    release({from, to, sink});
    return products();
}

Status Sweep::products() {
    const Table& table = device.table();
    if (const auto opened = cublaslt(); !opened.ok()) {
        say(Json::object({{"part", "limits"}, {"what", "product, cuBLASLt"}, {"problem", opened.error().message}}));
        return {};
    }
    const std::size_t workspace_bytes = std::size_t{64} << 20;
    SKIFF_TRY(std::byte * workspace, zeros(workspace_bytes, "a workspace"));
    std::vector<std::array<std::int64_t, 3>> shapes = {{8192, 8192, 8192}};
    for (const auto& [rows, columns] : layer_shapes) shapes.push_back({rows, columns, 2048});
    if (small) shapes = {{64, 96, 40}};
    for (const auto& [rows, columns, tokens] : shapes) {
        SKIFF_TRY(std::byte * weight, noise(static_cast<std::size_t>(rows * columns) * 2, "a matrix"));
        SKIFF_TRY(std::byte * x, noise(table.operand_bytes(OperandForm::rows, tokens, columns), "an operand"));
        SKIFF_TRY(std::byte * y, zeros(static_cast<std::size_t>(rows * tokens) * 4, "a product"));
        MatmulArgs args;
        args.weight = weight, args.x = x, args.y = reinterpret_cast<float*>(y);
        args.n_tokens = tokens, args.n_rows = rows, args.n_columns = args.weight_stride = args.x_stride = columns, args.y_stride = rows;
        args.workspace = workspace, args.workspace_bytes = workspace_bytes;
        SKIFF_CHECK(device.check(table.prepare_matmul(args), "finding an algorithm"));
        SKIFF_TRY(const double seconds, time([&](int) { return table.matmul(args, device.launch()); }, "a product by cuBLASLt"));
        const double tflops = 2e-12 * static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(tokens) / seconds;
        if (product_tflops == 0) product_tflops = tflops;
        say(Json::object({{"part", "limits"}, {"what", "product, cuBLASLt"}, {"rows", rows}, {"columns", columns}, {"tokens", tokens}, {"us", seconds * 1e6}, {"tflops", tflops}, {"share_of_product", tflops / product_tflops}}));
        release({weight, x, y});
    }
    device.release(workspace);
    return {};
}

Status Sweep::statistics(std::int64_t n_tokens, std::int64_t n_columns) {
    const Table& table = device.table();
    SKIFF_TRY(float* x, floats(n_tokens * n_columns, "inputs"));
    SKIFF_TRY(std::byte * sums, zeros(static_cast<std::size_t>(n_columns) * 28, "sums"));
    SKIFF_TRY(std::byte * gram, zeros(static_cast<std::size_t>(n_columns * n_columns) * 4, "second moments"));
    auto* const largest = reinterpret_cast<float*>(sums + static_cast<std::size_t>(n_columns) * 24);
    SKIFF_TRY(const double columns, time([&](int) { return table.column_sums({x, n_columns, n_tokens, n_columns, reinterpret_cast<double*>(sums), largest}, device.launch()); }, "sums of columns"));
    SKIFF_TRY(const double pairs, time([&](int) { return table.gram({x, n_columns, n_tokens, n_columns, reinterpret_cast<float*>(gram)}, device.launch()); }, "second moments"));
    const double bytes = 4.0 * static_cast<double>(n_tokens) * static_cast<double>(n_columns), flops = static_cast<double>(n_tokens) * static_cast<double>(n_columns) * static_cast<double>(n_columns);
    say(Json::object({{"part", "statistics"}, {"what", "sums of columns"}, {"tokens", n_tokens}, {"columns", n_columns}, {"us", columns * 1e6}, {"gbps", bytes / columns * 1e-9}}));
    say(Json::object({{"part", "statistics"}, {"what", "second moments"}, {"tokens", n_tokens}, {"columns", n_columns}, {"us", pairs * 1e6}, {"tflops", flops / pairs * 1e-12}}));  // of one triangle, in one pass
    release({x, sums, gram});
    return {};
}

}  // namespace skiff::cuda
