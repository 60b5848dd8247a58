// cuda_sweep [--small] [--tuning FILE] [PART...] [NAME...]: kernels by themselves, one JSON line each, on stdout. Parts: limits, gemv, gemm, library, attention, prefill, convolution, statistics, tune;
// none: all but the last. Names: of schemes (of gemv, gemm and tune) and states (of attention and prefill); none: all. tune finds choices that change no sum, and writes them to FILE
// (backend/cuda/tuning_table.h). Prefill with a state of bf16 and convolution are also timed by cuDNN, where it is found ("row").
// Figures are medians of runs between two events; what is read (a matrix, keys and values of attention) is one of so many that take turns that the L2 cache cannot hold it.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <functional>
#include <set>
#include <string>

#include "backend/cuda/device.h"
#include "backend/cuda/device_net.h"
#include "backend/cuda/driver.h"
#include "backend/cuda/emit.h"
#include "backend/cuda/library.h"
#include "backend/cuda/tuning_table.h"
#include "base/atomic_file.h"
#include "base/cpu_features.h"
#include "base/json.h"
#include "base/rng.h"
#include "kernels/cuda/pack.h"
#include "tensor/prune_target.h"

namespace skiff::cuda {
namespace {

constexpr std::array<const char*, 17> gemv_schemes = {"bf16", "e4m3", "w8", "w4g128", "w4g32r", "n4g32r", "w3g32r", "w2g32r", "ternary", "nf4", "k256tensor", "v8k256", "v2k16", "bf16+2:4", "w8+2:4", "w4g128+2:4", "w4g32r+2:4"};
constexpr std::array<const char*, 7> gemm_schemes = {"bf16", "e4m3", "w8", "w4g128", "bf16+2:4", "w8+2:4", "w4g128+2:4"};
constexpr std::pair<std::int64_t, std::int64_t> layer_shapes[] = {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096}};  // of L8, rows and columns
constexpr std::pair<StateForm, const char*> forms[] = {{StateForm::bf16, "bf16"}, {StateForm::fp8, "fp8"}, {StateForm::int8, "int8"}, {StateForm::int4, "int4"}};

struct Sweep {
    Device& device;
    ThreadPool& pool;
    bool small;
    std::string tuning_file;
    std::string cudnn;  // its path; empty: not found, or it has no use for this device
    double read_gbps = 0, product_tflops = 0;

    void say(const Json& line) const {
        std::printf("%s\n", line.dump().c_str());
        std::fflush(stdout);
    }

    // Seconds of one call, the median; call(i) is the i-th of all. Calls are one CUDA graph where they can be captured, as a session's are, so that no launch waits for the host:
    // some milliseconds of them, of short ones enough for all copies to take turns.
    Result<double> time(const std::function<int(int)>& call, const std::string& what) const {
        const Table& table = device.table();
        Event begin = nullptr, end = nullptr;
        SKIFF_CHECK(device.check(table.make_event(&begin), "making an event"));
        SKIFF_CHECK(device.check(table.make_event(&end), "making an event"));
        int n_calls = small ? 1 : 10, turn = 0;
        Graph graph = nullptr;
        const auto seconds_of_run = [&]() -> Result<double> {
            SKIFF_CHECK(device.check(table.record(begin, device.stream()), what));
            if (graph != nullptr) {
                SKIFF_CHECK(device.check(table.launch_graph(graph, device.stream()), what));
            } else {
                for (int i = 0; i < n_calls; ++i) SKIFF_CHECK(device.check(call(turn++), what));
            }
            SKIFF_CHECK(device.check(table.record(end, device.stream()), what));
            SKIFF_CHECK(device.check(table.wait_event(end), what));
            float ms = 0;
            SKIFF_CHECK(device.check(table.elapsed_ms(begin, end, &ms), what));
            return ms * 1e-3 / n_calls;
        };
        SKIFF_CHECK(seconds_of_run());
        SKIFF_TRY(const double first, seconds_of_run());
        if (!small) {
            const int plain_calls = n_calls;
            n_calls = static_cast<int>(std::clamp(2e-3 / std::max(first, 1e-7), 10.0, 128.0));
            int error = table.begin_capture(device.stream());
            for (int i = 0; i < n_calls && error == 0; ++i) error = call(turn++);
            if (table.end_capture(device.stream(), &graph) != 0 || error != 0) {
                if (graph != nullptr) table.destroy_graph(graph);
                graph = nullptr;
                n_calls = plain_calls;
            }
        }
        std::vector<double> seconds;
        for (int run = -1; run < (small ? 2 : 15); ++run) {
            SKIFF_TRY(const double one, seconds_of_run());
            if (run >= 0) seconds.push_back(one);
        }
        if (graph != nullptr) table.destroy_graph(graph);
        table.destroy_event(begin);
        table.destroy_event(end);
        std::sort(seconds.begin(), seconds.end());
        return seconds[seconds.size() / 2];
    }

    // How many of `size_bytes` take turns: together twice the cache, so that each is gone from it when its turn comes again.
    std::size_t copies_beyond_cache(std::size_t size_bytes) const {
        return std::clamp<std::size_t>(2 * device.facts().l2_bytes / std::max<std::size_t>(1, size_bytes) + 1, 2, 1024);
    }

    Result<float*> floats(std::int64_t n, const std::string& what) const {
        Rng rng(7);
        std::vector<float> values(static_cast<std::size_t>(n));
        for (float& value : values) value = rng.normal();
        SKIFF_TRY(const float* address, device.upload_new(values, what));
        return const_cast<float*>(address);
    }
    Result<std::byte*> zeros(std::size_t size_bytes, const std::string& what) const {
        SKIFF_TRY(std::byte * address, device.allocate(size_bytes, what));
        SKIFF_CHECK(device.check(device.table().fill(address, 0, size_bytes, device.stream()), what));
        return address;
    }

    Result<std::byte*> noise(std::size_t size_bytes, const std::string& what) const {
        SKIFF_TRY(std::byte * address, device.allocate(size_bytes, what));
        SKIFF_CHECK(device.fill_with_noise(address, size_bytes));
        return address;
    }

    Status limits() {
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
        for (std::byte* address : {from, to, sink}) device.release(address);
        return products();
    }

    // The rate of matrix products: by cuBLASLt, a large one, and those of a prompt of 2048 tokens.
    Status products() {
        const Table& table = device.table();
        std::string path;
        for (const NamedLibrary& library : probe_cuda_libraries())
            if (library.what == "cuBLASLt") path = library.path;
        if (path.empty() || table.open_cublaslt(path.c_str()) != 0) {
            say(Json::object({{"part", "limits"}, {"what", "product, cuBLASLt"}, {"problem", path.empty() ? "libcublasLt was not found" : "libcublasLt cannot be opened"}}));
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
            for (std::byte* address : {weight, x, y}) device.release(address);
        }
        device.release(workspace);
        return {};
    }

    // A random matrix in a scheme, several times, together well beyond the L2 cache.
    Result<std::vector<GpuWeight>> matrices(const std::string& scheme, std::int64_t n_rows, std::int64_t n_columns, std::size_t& size_bytes) {
        Rng rng(3);
        std::vector<float> numbers(static_cast<std::size_t>(n_rows * n_columns));
        for (float& number : numbers) number = static_cast<float>(rng.uniform()) - 0.5f;
        const std::size_t plus = scheme.find('+');  // of a scheme and what stays
        const std::vector<float> scores = plus != std::string::npos ? numbers : std::vector<float>();
        Weight weight = make_float_weight({n_rows, n_columns}, std::move(numbers));
        SKIFF_TRY(const Scheme wanted, parse_scheme(scheme.substr(0, plus)));
        SKIFF_TRY(weight, encode_nearest(weight, wanted, ScaleRule::min_max, {}, &pool));
        if (plus != std::string::npos) {
            SKIFF_TRY(const PruneTarget target, parse_prune_target(scheme.substr(plus + 1)));
            const PruneTarget resolved = target.resolved(n_rows, n_columns);
            SKIFF_TRY(weight, make_sparse(weight, resolved.pattern, choose_units(resolved, scores, n_rows, n_columns, &pool)));
        }
        const RowSource source{&weight, RowMap::all(n_rows)};
        SKIFF_TRY(const auto packed, pack_gpu({&source, 1}, Interleave::none, &pool));
        size_bytes = packed.size_bytes();
        const std::size_t n = copies_beyond_cache(size_bytes);
        std::vector<GpuWeight> copies;
        for (std::size_t i = 0; i < n; ++i) {
            SKIFF_TRY(std::byte * address, device.allocate(size_bytes, "a matrix"));
            SKIFF_CHECK(device.upload(address, packed.blob.data(), size_bytes, &pool));
            copies.push_back(packed.at(address));
        }
        return copies;
    }

    Status linear(const std::string& part, const std::string& scheme, std::int64_t n_rows, std::int64_t n_columns, const std::vector<std::int64_t>& n_tokens) {
        const Table& table = device.table();
        std::size_t size_bytes = 0;
        SKIFF_TRY(const auto weights, matrices(scheme, n_rows, n_columns, size_bytes));
        for (const std::int64_t n : n_tokens) {
            const OperandForm form = operand_form(n, true);
            SKIFF_TRY(std::byte * x, zeros(table.operand_bytes(form, n, n_columns), "an operand"));
            SKIFF_TRY(float* numbers, floats(n * n_columns, "an activation"));
            SKIFF_TRY(std::byte * y, zeros(static_cast<std::size_t>(n * n_rows) * 4, "a product"));
            ElementLaunchArgs convert;
            convert.kind = ElementKind::scale;
            convert.a = numbers;
            convert.a_stride = convert.n_columns = n_columns;
            convert.n_tokens = n;
            convert.operand = {form, x, n_columns};
            SKIFF_CHECK(device.check(table.elements(convert, device.launch()), "making an operand"));
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
            for (std::byte* address : {x, reinterpret_cast<std::byte*>(numbers), y, partials, arrivals}) device.release(address);
        }
        for (const GpuWeight& weight : weights) device.release(const_cast<std::byte*>(static_cast<const std::byte*>(weight.codes)));
        return {};
    }

    // The blocks of an SM and the ring that read a large and a small matrix of the scheme fastest, both counted by what they take with the kernel's own; those stay where nothing is 2 % faster.
    Status tune(const std::string& scheme, Tuning& tuning) {
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
            for (std::byte* address : {x, y}) device.release(address);
            for (const GpuWeight& weight : weights) device.release(const_cast<std::byte*>(static_cast<const std::byte*>(weight.codes)));
        }
        const auto best = std::min_element(choices.begin(), choices.end(), [](const Choice& a, const Choice& b) { return a.cost < b.cost; });
        const bool is_first = tuning.gemv_blocks[form] == 0 && tuning.gemv_ring[form] == Tuning::Ring::longest;  // of several schemes of a form
        const bool taken = best->cost < 0.98 && is_first;
        if (taken) tuning.gemv_blocks[form] = static_cast<std::uint8_t>(best->blocks), tuning.gemv_ring[form] = best->ring;
        say(Json::object({{"part", "tune"}, {"scheme", scheme}, {"form", code_form_name(static_cast<CodeForm>(form))}, {"blocks_per_sm", best->blocks}, {"ring", best->ring == Tuning::Ring::longest ? "longest" : "shortest"},
                          {"time_of_own", best->cost}, {"taken", taken}}));
        return {};
    }

    // Prefill by cuDNN: with the queries as bf16 in front, and its result as numbers behind. Nothing where it has no plan, which a line says.
    Result<double> by_cudnn(const AttentionCommon& common, std::int64_t n_new, std::int64_t length, std::int64_t n_pages, std::string& refused) {
        const Table& table = device.table();
        const std::int64_t width = common.n_heads * common.state.head_dim;
        SequenceAttentionArgs args;
        args.n_rows = segment_rows(n_new), args.n_heads = common.n_heads, args.state = common.state;
        args.n_pages = segment_pages(length, n_pages), args.n_pool_pages = n_pages;
        args.scale = common.scale, args.softcap = common.softcap, args.window = common.window;
        args.workspace_bytes = std::size_t{64} << 20;
        const std::size_t row_bytes = table.operand_bytes(OperandForm::rows, args.n_rows, width);
        SKIFF_TRY(std::byte * q, zeros(row_bytes, "queries"));
        SKIFF_TRY(std::byte * y, zeros(row_bytes, "a result"));
        SKIFF_TRY(std::byte * workspace, zeros(args.workspace_bytes, "a workspace"));
        const std::vector<std::int32_t> numbers = {static_cast<std::int32_t>(n_new), 0, 0, 0, static_cast<std::int32_t>(length)};
        SKIFF_TRY(const std::int32_t* lengths, device.upload_new(numbers, "lengths"));
        args.q = q, args.y = y, args.workspace = workspace;
        args.n_tokens = lengths, args.n_positions = lengths + 4;
        double seconds = 0;
        if (const int error = table.prepare_sequence_attention(args); error != 0) {
            refused = table.error_text(error);
        } else {
            ElementLaunchArgs narrow;
            narrow.kind = ElementKind::scale;
            narrow.a = common.q, narrow.a_stride = common.q_stride, narrow.n_tokens = n_new, narrow.n_columns = width;
            narrow.operand = {OperandForm::rows, q, width};
            const WidenArgs widen = {y, n_new, width, common.y, common.y_stride, {}};
            const auto call = [&](int) {
                if (const int failed = table.elements(narrow, device.launch()); failed != 0) return failed;
                if (const int failed = table.sequence_attention(args, device.launch()); failed != 0) return failed;
                return table.widen(widen, device.launch());
            };
            SKIFF_TRY(seconds, time(call, "prefill attention by cuDNN"));
        }
        for (std::byte* address : {q, y, workspace, reinterpret_cast<std::byte*>(const_cast<std::int32_t*>(lengths))}) device.release(address);
        return seconds;
    }

    // A convolution with its bias and ReLU, by the own kernels and by cuDNN.
    Status convolution(std::int64_t side, std::int64_t channels, std::int64_t out_channels, std::int64_t groups, std::int64_t kernel) {
        const std::int64_t n_images = small ? 2 : 64;
        const auto number = [](std::int64_t n) { return std::to_string(n); };
        SKIFF_TRY(const Json config, Json::parse(R"({"model_type": "skiff-net", "input": {"height": )" + number(side) + R"(, "width": )" + number(side) + R"(, "channels": )" + number(channels) + R"(}, "ops": [
            {"name": "c", "op": "conv", "channels": )" + number(out_channels) + R"(, "kernel": )" + number(kernel) + R"(, "padding": )" + number(kernel / 2) + R"(, "groups": )" + number(groups) + R"(},
            {"name": "r", "op": "activation", "kind": "relu"}]})"));
        SKIFF_TRY(const net::NetSpec spec, net::parse_net(config));
        const net::Net net = net::random_net(spec, 1);
        for (const bool by_cudnn : {false, true}) {
            if (by_cudnn && cudnn.empty()) continue;
            DeviceNetOptions options;
            if (by_cudnn) options = {DeviceNetOptions::Convolution::cudnn, cudnn};
            SKIFF_TRY(const auto one, DeviceNet::create(device.table(), net, n_images, options));
            const std::vector<float> x(static_cast<std::size_t>(n_images * side * side * channels), 0.5f);
            std::vector<float> y(static_cast<std::size_t>(n_images * one->output().n_elements()));
            SKIFF_CHECK(one->run(x.data(), n_images, y.data()));
            SKIFF_TRY(const double seconds, (Sweep{one->device(), pool, small, tuning_file, cudnn}.time([&](int) { return one->launch(n_images); }, "a convolution")));
            const double flops = 2.0 * static_cast<double>(n_images * side * side * out_channels) * static_cast<double>(kernel * kernel * channels / groups);
            say(Json::object({{"part", "convolution"}, {"row", by_cudnn && one->remarks().empty() ? "cudnn" : "own"}, {"images", n_images}, {"side", side}, {"channels", channels}, {"out_channels", out_channels}, {"groups", groups},
                              {"kernel", kernel}, {"launches", one->steps().size()}, {"us", seconds * 1e6}, {"tflops", flops / seconds * 1e-12}, {"refused", one->remarks().empty() ? Json() : Json(one->remarks().front())}}));
        }
        return {};
    }

    struct Heads {
        std::int64_t n_heads = 32, n_kv_heads = 8, head_dim = 128, window = 0;
        float softcap = 0;
    };
    Status attention(StateForm form, const char* form_name, const Heads& heads, std::int64_t length, std::int64_t n_new) {
        const auto& [n_heads, n_kv_heads, head_dim, window, softcap] = heads;
        const Table& table = device.table();
        if (!table.attention_takes(head_dim, form)) return {};
        const bool prefill = n_new > max_gemv_tokens;
        if (prefill && !table.prefill_attention_takes(head_dim, form)) return {};
        const std::int64_t n_pages = (length + page_positions - 1) / page_positions;
        const std::size_t page = table.state_page_bytes(form, n_kv_heads, head_dim), pool_bytes = page * static_cast<std::size_t>(n_pages);
        const std::size_t n_pools = prefill ? 1 : copies_beyond_cache(2 * pool_bytes);  // prompts are bound by arithmetic
        AttentionCommon common;
        SKIFF_TRY(std::byte * keys, zeros(n_pools * pool_bytes, "keys"));
        SKIFF_TRY(std::byte * values, zeros(n_pools * pool_bytes, "values"));
        std::vector<std::int32_t> pages, positions, sequences;
        for (std::int64_t i = 0; i < n_pages; ++i) pages.push_back(static_cast<std::int32_t>(i));
        for (std::int64_t t = 0; t < n_new; ++t) positions.push_back(static_cast<std::int32_t>(length - n_new + t)), sequences.push_back(0);
        SKIFF_TRY(const std::int32_t* page_table, device.upload_new(pages, "pages"));
        SKIFF_TRY(const std::int32_t* position_row, device.upload_new(positions, "positions"));
        SKIFF_TRY(const std::int32_t* sequence_row, device.upload_new(sequences, "sequences"));
        const std::int64_t width = n_heads * head_dim;
        SKIFF_TRY(float* q, floats(n_new * width, "queries"));
        SKIFF_TRY(std::byte * y, zeros(static_cast<std::size_t>(n_new * width) * 4, "a result"));
        common.q = q;
        common.q_stride = common.y_stride = width;
        common.n_heads = n_heads;
        common.state = {form, keys, values, page_table, n_pages, n_kv_heads, head_dim};
        common.tokens = {n_new, position_row, sequence_row};
        common.scale = 0.1f;
        common.window = window;
        common.softcap = softcap;
        common.y = reinterpret_cast<float*>(y);
        double seconds = 0;
        std::int64_t n_splits = 0;
        std::byte *partials = nullptr, *arrivals = nullptr, *tile_memory = nullptr;
        if (prefill) {
            std::vector<PrefillTile> tiles;
            for (std::int64_t t = 0; t < n_new; t += prefill_tile_tokens)
                tiles.push_back({static_cast<std::int32_t>(t), static_cast<std::int32_t>(std::min(prefill_tile_tokens, n_new - t)), 0, static_cast<std::int32_t>(length - n_new + t)});
            SKIFF_TRY(const PrefillTile* on_device, device.upload_new(tiles, "tiles"));
            tile_memory = reinterpret_cast<std::byte*>(const_cast<PrefillTile*>(on_device));
            SKIFF_TRY(seconds, time([&](int) { return table.prefill_attention({common, on_device, static_cast<std::int64_t>(tiles.size())}, device.launch()); }, "prefill attention"));
        } else {
            n_splits = table.decode_attention_splits(length, n_kv_heads, device.launch());
            SKIFF_TRY(partials, zeros(static_cast<std::size_t>(table.decode_partial_floats(n_new, n_heads, head_dim, n_splits)) * 4, "partial results"));
            SKIFF_TRY(arrivals, zeros(static_cast<std::size_t>(n_new * n_kv_heads) * 4, "counters"));
            DecodeAttentionArgs args{common, n_splits, reinterpret_cast<float*>(partials), reinterpret_cast<std::int32_t*>(arrivals)};
            const auto call = [&](int i) {
                args.common.state.keys = keys + static_cast<std::size_t>(i) % n_pools * pool_bytes;
                args.common.state.values = values + static_cast<std::size_t>(i) % n_pools * pool_bytes;
                return table.decode_attention(args, device.launch());
            };
            SKIFF_TRY(seconds, time(call, "decode attention"));
        }
        const double seen = window > 0 ? std::min(1.0, static_cast<double>(window) / static_cast<double>(length)) : 1;  // of the positions
        const double bytes = 2.0 * seen * static_cast<double>(pool_bytes), gbps = bytes / seconds * 1e-9;
        const double flops = 4.0 * static_cast<double>(width) * static_cast<double>(n_new) * (window > 0 ? static_cast<double>(std::min(window, length)) : static_cast<double>(length) - static_cast<double>(n_new - 1) / 2);
        say(Json::object({{"part", prefill ? "prefill" : "attention"}, {"row", "own"}, {"state", form_name}, {"heads", n_heads}, {"kv_heads", n_kv_heads}, {"head_dim", head_dim}, {"window", window}, {"softcap", softcap}, {"length", length}, {"tokens", n_new}, {"splits", n_splits}, {"copies", n_pools},
                          {"us", seconds * 1e6}, {"gbps", prefill ? Json() : Json(gbps)}, {"share_of_read", !prefill && read_gbps > 0 ? Json(gbps / read_gbps) : Json()}, {"tflops", flops / seconds * 1e-12}}));
        if (prefill && form == StateForm::bf16 && !cudnn.empty()) {
            std::string refused;
            SKIFF_TRY(const double theirs, by_cudnn(common, n_new, length, n_pages, refused));
            say(Json::object({{"part", "prefill"}, {"row", "cudnn"}, {"state", form_name}, {"heads", n_heads}, {"kv_heads", n_kv_heads}, {"head_dim", head_dim}, {"window", window}, {"softcap", softcap}, {"length", length}, {"tokens", n_new},
                              {"us", refused.empty() ? Json(theirs * 1e6) : Json()}, {"tflops", refused.empty() ? Json(flops / theirs * 1e-12) : Json()}, {"refused", refused.empty() ? Json() : Json(refused)}}));
        }
        for (const void* address : {static_cast<const void*>(keys), static_cast<const void*>(values), static_cast<const void*>(page_table), static_cast<const void*>(position_row), static_cast<const void*>(sequence_row),
                                    static_cast<const void*>(q), static_cast<const void*>(y), static_cast<const void*>(partials), static_cast<const void*>(arrivals), static_cast<const void*>(tile_memory)})
            device.release(static_cast<std::byte*>(const_cast<void*>(address)));
        return {};
    }

    // What a calibration adds up: sums of columns, second moments.
    Status statistics(std::int64_t n_tokens, std::int64_t n_columns) {
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
        for (std::byte* address : {reinterpret_cast<std::byte*>(x), sums, gram}) device.release(address);
        return {};
    }

    // A matrix of 8-bit floats by cuBLASLt: as bf16, and as it is with rounded inputs; the product alone, and with what stands around it.
    Status library(std::int64_t n_rows, std::int64_t n_columns, std::int64_t n_tokens) {
        const Table& table = device.table();
        std::string path;
        for (const NamedLibrary& found : probe_cuda_libraries())
            if (found.what == "cuBLASLt") path = found.path;
        if (path.empty() || table.open_cublaslt(path.c_str()) != 0) {
            say(Json::object({{"part", "library"}, {"what", path.empty() ? "cuBLASLt was not found" : "cuBLASLt cannot be opened"}}));
            return {};
        }
        std::size_t size_bytes = 0;
        const std::size_t workspace_bytes = std::size_t{32} << 20;
        SKIFF_TRY(const auto weights, matrices("e4m3", n_rows, n_columns, size_bytes));
        SKIFF_TRY(std::byte * workspace, zeros(workspace_bytes, "cuBLASLt's workspace"));
        SKIFF_TRY(float* numbers, floats(n_tokens * n_columns, "an activation"));
        SKIFF_TRY(std::byte * x, zeros(table.operand_bytes(OperandForm::rows, n_tokens, n_columns), "an operand"));
        SKIFF_TRY(std::byte * rows, zeros(static_cast<std::size_t>(n_rows * n_columns) * 2, "rows"));
        SKIFF_TRY(std::byte * codes, zeros(static_cast<std::size_t>(n_tokens * n_columns), "codes"));
        SKIFF_TRY(std::byte * scales, zeros(static_cast<std::size_t>(n_tokens) * 4, "scales"));
        SKIFF_TRY(std::byte * y, zeros(static_cast<std::size_t>(n_tokens * n_rows) * 4, "a product"));
        ElementLaunchArgs convert;
        convert.kind = ElementKind::scale;
        convert.a = numbers;
        convert.a_stride = convert.n_columns = n_columns;
        convert.n_tokens = n_tokens;
        convert.operand = {OperandForm::rows, x, n_columns};
        SKIFF_CHECK(device.check(table.elements(convert, device.launch()), "making an operand"));
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
        for (std::byte* address : {workspace, reinterpret_cast<std::byte*>(numbers), x, rows, codes, scales, y}) device.release(address);
        for (const GpuWeight& weight : weights) device.release(const_cast<std::byte*>(static_cast<const std::byte*>(weight.codes)));
        return {};
    }

    Status run(const std::set<std::string>& parts, const std::set<std::string>& names) {
        const auto wanted = [&](const char* part) { return parts.empty() || parts.count(part) != 0; };
        const auto named = [&](const std::string& name) { return names.empty() || names.count(name) != 0; };
        say(Json::object({{"part", "device"}, {"name", device.facts().name}, {"arch", device.facts().arch}, {"multiprocessors", device.facts().n_multiprocessors}, {"memory_bytes", device.facts().memory_bytes},
                          {"l2_bytes", device.facts().l2_bytes}, {"plug_in", device.table().name}}));
        SKIFF_CHECK(limits());  // the denominator of all that follows
        const std::vector<std::string> schemes = small ? std::vector<std::string>{"bf16", "w4g32", "w4g32r+2:4"} : std::vector<std::string>{gemv_schemes.begin(), gemv_schemes.end()};
        const std::vector<std::pair<std::int64_t, std::int64_t>> shapes = small ? std::vector<std::pair<std::int64_t, std::int64_t>>{{64, 96}} : std::vector<std::pair<std::int64_t, std::int64_t>>{std::begin(layer_shapes), std::end(layer_shapes)};
        if (wanted("gemv"))
            for (const auto& scheme : schemes)
                for (const auto& [rows, columns] : shapes)
                    if (named(scheme)) SKIFF_CHECK(linear("gemv", scheme, rows, columns, small ? std::vector<std::int64_t>{1, 3} : std::vector<std::int64_t>{1, 2, 4, 8}));
        if (wanted("gemm"))
            for (const std::string& scheme : small ? schemes : std::vector<std::string>{gemm_schemes.begin(), gemm_schemes.end()})
                if (named(scheme)) SKIFF_CHECK(linear("gemm", scheme, small ? 64 : 14336, small ? 96 : 4096, small ? std::vector<std::int64_t>{9} : std::vector<std::int64_t>{16, 32, 64, 256, 1024, 2048}));
        if (wanted("library"))
            for (const std::int64_t n : small ? std::vector<std::int64_t>{70} : std::vector<std::int64_t>{256, 1024, 2048}) SKIFF_CHECK(library(small ? 64 : 14336, small ? 96 : 4096, n));
        const Heads plain = small ? Heads{4, 2, 32} : Heads{};
        // Other heads, all keys for themselves (no groups), a window, a soft cap: of one length each.
        const std::vector<Heads> others = small ? std::vector<Heads>{{4, 4, 64}, {4, 2, 32, 20}, {4, 2, 32, 0, 30.0f}} : std::vector<Heads>{{32, 8, 64}, {16, 4, 256}, {32, 32, 128}, {32, 8, 128, 4096}, {32, 8, 128, 0, 50.0f}};
        if (wanted("attention"))
            for (const auto& [form, name] : forms)
                for (const std::int64_t length : small ? std::vector<std::int64_t>{70} : std::vector<std::int64_t>{1024, 8192, 32768, 131072})
                    for (const std::int64_t n : {1, 4})
                        if (named(name)) SKIFF_CHECK(attention(form, name, plain, length, n));
        if (wanted("attention"))
            for (const auto& [form, name] : forms)
                for (const Heads& heads : others)
                    if (named(name)) SKIFF_CHECK(attention(form, name, heads, small ? 70 : 8192, 1));
        if (wanted("prefill"))
            for (const auto& [form, name] : forms)
                for (const std::int64_t length : small ? std::vector<std::int64_t>{70} : std::vector<std::int64_t>{2048, 8192})
                    if (named(name)) SKIFF_CHECK(attention(form, name, plain, length, small ? 20 : 2048));
        if (wanted("prefill"))
            for (const auto& [form, name] : forms)
                for (const Heads& heads : others)
                    if (named(name)) SKIFF_CHECK(attention(form, name, heads, small ? 70 : 8192, small ? 20 : 2048));
        if (wanted("convolution")) {
            struct Shape {
                std::int64_t side, channels, out_channels, groups, kernel;
            };
            const std::vector<Shape> convolutions = small ? std::vector<Shape>{{6, 8, 12, 1, 3}, {5, 8, 8, 8, 3}} : std::vector<Shape>{{56, 64, 64, 1, 3}, {28, 128, 128, 1, 3}, {14, 256, 256, 1, 3}, {56, 256, 64, 1, 1}, {28, 128, 128, 4, 3}, {56, 144, 144, 144, 3}};
            for (const Shape& shape : convolutions) SKIFF_CHECK(convolution(shape.side, shape.channels, shape.out_channels, shape.groups, shape.kernel));
        }
        if (parts.count("tune") != 0) {
            Tuning tuning;
            for (const auto& scheme : schemes)
                if (named(scheme) && scheme.find('+') == std::string::npos) SKIFF_CHECK(tune(scheme, tuning));
            if (!tuning_file.empty()) SKIFF_CHECK(write_file_atomic(tuning_file, tuning_json(tuning, device.facts().name).dump(2) + "\n"));
        }
        if (wanted("statistics"))
            for (const std::int64_t columns : small ? std::vector<std::int64_t>{70} : std::vector<std::int64_t>{4096, 14336}) SKIFF_CHECK(statistics(small ? 40 : 2048, columns));
        return {};
    }
};

Status sweep(int argc, char** argv) {
    bool small = false;
    std::string tuning_file;
    std::set<std::string> parts, names;
    const auto is_state = [](const std::string& word) { return std::any_of(std::begin(forms), std::end(forms), [&](const auto& form) { return word == form.second; }); };
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        if (word == "--small") small = true;
        else if (word == "--tuning" && i + 1 < argc) tuning_file = argv[++i];
        else if (word == "limits" || word == "gemv" || word == "gemm" || word == "library" || word == "attention" || word == "prefill" || word == "convolution" || word == "statistics" || word == "tune") parts.insert(word);
        else if (is_state(word) || std::find(gemv_schemes.begin(), gemv_schemes.end(), word) != gemv_schemes.end() || (small && word == "w4g32")) names.insert(word);
        else return usage_error("cuda_sweep [--small] [--tuning FILE] [limits|gemv|gemm|library|attention|prefill|convolution|statistics|tune ...] [SCHEME|STATE ...]");
    }
    SKIFF_TRY(const auto plug_in, open_plug_in());
    SKIFF_TRY(const auto device, Device::open(*plug_in.table));
    ThreadPool pool(default_thread_count());
    std::string cudnn = find_cudnn();
    if (!cudnn.empty() && plug_in.table->open_cudnn(cudnn.c_str()) != 0) cudnn.clear();
    return Sweep{*device, pool, small, tuning_file, cudnn}.run(parts, names);
}

}  // namespace
}  // namespace skiff::cuda

int main(int argc, char** argv) {
    const skiff::Status status = skiff::cuda::sweep(argc, argv);
    if (status.ok()) return 0;
    std::fprintf(stderr, "cuda_sweep: %s\n", status.error().to_string().c_str());
    return skiff::exit_code(status.error().code);
}
