// Products by the own kernels: a few tokens (gemv), many (gemm), and the choices that are tuned.
#include "sweep.h"

#include <algorithm>

#include "backend/cuda/tuning_table.h"

namespace skiff::cuda {

Status Sweep::linear(const std::string& part, const std::string& scheme, std::int64_t n_rows, std::int64_t n_columns, const std::vector<std::int64_t>& n_tokens) {
    const Table& table = device.table();
    std::size_t size_bytes = 0;
    SKIFF_TRY(const auto weights, matrices(scheme, n_rows, n_columns, size_bytes));
    for (const std::int64_t n : n_tokens) {
        const OperandForm form = operand_form(n, true);
        SKIFF_TRY(float* numbers, floats(n * n_columns, "an activation"));
        SKIFF_TRY(std::byte * x, operand(form, numbers, n, n_columns));
        SKIFF_TRY(std::byte * y, zeros(static_cast<std::size_t>(n * n_rows) * 4, "a product"));
        std::byte* partials = nullptr;
        std::byte* arrivals = nullptr;
        if (n > max_gemv_tokens) {
            SKIFF_TRY(partials, zeros(std::max<std::size_t>(256, table.gemm_partial_bytes(weights[0], n, device.launch())), "partial sums"));
            SKIFF_TRY(arrivals, zeros(static_cast<std::size_t>(table.gemm_arrivals(weights[0], n)) * 4, "counters"));
        }
        const auto call = [&](int i) {
            const GpuWeight& weight = weights[static_cast<std::size_t>(i) % weights.size()];
            if (n <= max_gemv_tokens) {
                GemvArgs args;
                args.weight = weight;
                args.x = x;
                args.n_tokens = n;
                args.y = reinterpret_cast<float*>(y);
                args.y_stride = n_rows;
                return table.gemv(args, device.launch());
            }
            GemmArgs args;
            args.weight = weight;
            args.x = x;
            args.n_tokens = n;
            args.y = reinterpret_cast<float*>(y);
            args.y_stride = n_rows;
            if (table.gemm_partial_bytes(weight, n, device.launch()) > 0) {
                args.partials = reinterpret_cast<float*>(partials);
                args.arrivals = reinterpret_cast<std::int32_t*>(arrivals);
            }
            return table.gemm(args, device.launch());
        };
        SKIFF_TRY(const double seconds, time(call, part + " " + scheme));
        const double gbps = static_cast<double>(size_bytes) / seconds * 1e-9, tflops = 2e-12 * static_cast<double>(n_rows * n_columns * n) / seconds;
        say(Json::object({{"part", part}, {"scheme", scheme}, {"rows", n_rows}, {"columns", n_columns}, {"tokens", n}, {"bytes", size_bytes}, {"copies", weights.size()}, {"us", seconds * 1e6}, {"gbps", gbps},
                          {"share_of_read", read_gbps > 0 ? Json(gbps / read_gbps) : Json()}, {"tflops", tflops}, {"share_of_product", product_tflops > 0 ? Json(tflops / product_tflops) : Json()}}));
        release({x, numbers, y, partials, arrivals});
    }
    release(weights);
    return {};
}

Status Sweep::tune(const std::string& scheme, Tuning& tuning) {
    const Table& table = device.table();
    std::vector<std::pair<std::int64_t, std::int64_t>> shapes = {{28672, 4096}, {4096, 4096}};
    if (small) shapes = {{64, 96}, {32, 96}};
    struct Choice {
        int blocks;
        Tuning::Ring ring;
        double cost = 0;
    };
    std::vector<Choice> choices;
    for (const auto ring : {Tuning::Ring::longest, Tuning::Ring::shortest})
        for (const int blocks : {0, 1, 2, 3, 4}) choices.push_back({blocks, ring});
    int form = 0;
    for (const auto& [rows, columns] : shapes) {
        std::size_t size_bytes = 0;
        SKIFF_TRY(const auto weights, matrices(scheme, rows, columns, size_bytes));
        form = static_cast<int>(weights[0].form);
        SKIFF_TRY(std::byte * x, zeros(table.operand_bytes(OperandForm::split, 1, columns), "an operand"));
        SKIFF_TRY(std::byte * y, zeros(static_cast<std::size_t>(rows) * 4, "a product"));
        double own = 0;
        for (Choice& choice : choices) {
            Launch launch = device.launch();
            launch.tuning.gemv_blocks[form] = static_cast<std::uint8_t>(choice.blocks);
            launch.tuning.gemv_ring[form] = choice.ring;
            const auto call = [&](int i) {
                GemvArgs args;
                args.weight = weights[static_cast<std::size_t>(i) % weights.size()];
                args.x = x;
                args.n_tokens = 1;
                args.y = reinterpret_cast<float*>(y);
                args.y_stride = args.weight.n_rows;
                return table.gemv(args, launch);
            };
            SKIFF_TRY(const double seconds, time(call, "tuning " + scheme));
            if (own == 0) own = seconds;
            choice.cost += seconds / own / static_cast<double>(shapes.size());
        }
        release({x, y});
        release(weights);
    }
    const auto best = std::min_element(choices.begin(), choices.end(), [](const Choice& a, const Choice& b) { return a.cost < b.cost; });
    const bool is_first = tuning.gemv_blocks[form] == 0 && tuning.gemv_ring[form] == Tuning::Ring::longest;  // of several schemes of a form
    const bool taken = best->cost < 0.98 && is_first;
    if (taken) tuning.gemv_blocks[form] = static_cast<std::uint8_t>(best->blocks), tuning.gemv_ring[form] = best->ring;
    say(Json::object({{"part", "tune"}, {"scheme", scheme}, {"form", code_form_name(static_cast<CodeForm>(form))}, {"blocks_per_sm", best->blocks}, {"ring", best->ring == Tuning::Ring::longest ? "longest" : "shortest"},
                      {"time_of_own", best->cost}, {"taken", taken}}));
    return {};
}

}  // namespace skiff::cuda
