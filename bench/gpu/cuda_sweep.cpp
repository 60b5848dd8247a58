// cuda_sweep [--small] [--tuning FILE] [PART...] [NAME...]: kernels by themselves, one JSON line each, on stdout. Parts: limits, gemv, gemm, library, patterns, attention, prefill, convolution, statistics, tune;
// none: all but the last. Names: of schemes (of gemv, gemm and tune) and states (of attention and prefill); none: all. tune finds choices that change no sum, and writes them to FILE
// (backend/cuda/tuning_table.h). Prefill with a state of bf16 and convolution are also timed by cuDNN, where it is found ("row").
// Figures are medians of runs between two events; what is read (a matrix, keys and values of attention) is one of so many that take turns that the L2 cache cannot hold it.
#include <algorithm>
#include <array>
#include <cstdio>
#include <set>
#include <string>
#include <string_view>

#include "backend/cuda/driver.h"
#include "backend/cuda/library.h"
#include "backend/cuda/tuning_table.h"
#include "base/atomic_file.h"
#include "base/cpu_features.h"
#include "sweep.h"

namespace skiff::cuda {
namespace {

constexpr std::array<std::string_view, 10> all_parts = {"limits", "gemv", "gemm", "library", "patterns", "attention", "prefill", "convolution", "statistics", "tune"};
constexpr std::array<const char*, 17> gemv_schemes = {"bf16", "e4m3", "w8", "w4g128", "w4g32r", "n4g32r", "w3g32r", "w2g32r", "ternary", "nf4", "k256tensor", "v8k256", "v2k16", "bf16+2:4", "w8+2:4", "w4g128+2:4", "w4g32r+2:4"};
constexpr std::array<const char*, 7> gemm_schemes = {"bf16", "e4m3", "w8", "w4g128", "bf16+2:4", "w8+2:4", "w4g128+2:4"};
constexpr std::pair<StateForm, const char*> forms[] = {{StateForm::bf16, "bf16"}, {StateForm::fp8, "fp8"}, {StateForm::int8, "int8"}, {StateForm::int4, "int4"}};

Status run(Sweep& sweep, const std::set<std::string>& parts, const std::set<std::string>& names, const std::string& tuning_file) {
    const auto wanted = [&](const char* part) { return parts.empty() || parts.count(part) != 0; };
    const auto named = [&](const std::string& name) { return names.empty() || names.count(name) != 0; };
    sweep.say(Json::object({{"part", "device"}, {"name", sweep.device.facts().name}, {"arch", sweep.device.facts().arch}, {"multiprocessors", sweep.device.facts().n_multiprocessors}, {"memory_bytes", sweep.device.facts().memory_bytes},
                      {"l2_bytes", sweep.device.facts().l2_bytes}, {"plug_in", sweep.device.table().name}}));
    SKIFF_CHECK(sweep.limits());  // the denominator of all that follows
    const std::vector<std::string> schemes = sweep.small ? std::vector<std::string>{"bf16", "w4g32", "w4g32r+2:4"} : std::vector<std::string>{gemv_schemes.begin(), gemv_schemes.end()};
    const std::vector<std::pair<std::int64_t, std::int64_t>> shapes = sweep.small ? std::vector<std::pair<std::int64_t, std::int64_t>>{{64, 96}} : std::vector<std::pair<std::int64_t, std::int64_t>>{std::begin(layer_shapes), std::end(layer_shapes)};
    if (wanted("gemv"))
        for (const auto& scheme : schemes)
            for (const auto& [rows, columns] : shapes)
                if (named(scheme)) SKIFF_CHECK(sweep.linear("gemv", scheme, rows, columns, sweep.small ? std::vector<std::int64_t>{1, 3} : std::vector<std::int64_t>{1, 2, 4, 8}));
    if (wanted("gemm"))
        for (const std::string& scheme : sweep.small ? schemes : std::vector<std::string>{gemm_schemes.begin(), gemm_schemes.end()})
            if (named(scheme)) SKIFF_CHECK(sweep.linear("gemm", scheme, sweep.small ? 64 : 14336, sweep.small ? 96 : 4096, sweep.small ? std::vector<std::int64_t>{9} : std::vector<std::int64_t>{16, 32, 64, 256, 1024, 2048}));
    if (wanted("library"))
        for (const std::int64_t n : sweep.small ? std::vector<std::int64_t>{70} : std::vector<std::int64_t>{256, 1024, 2048}) SKIFF_CHECK(sweep.library(sweep.small ? 64 : 14336, sweep.small ? 96 : 4096, n));
    if (wanted("patterns"))
        for (const std::int64_t n : sweep.small ? std::vector<std::int64_t>{70} : std::vector<std::int64_t>{128, 512, 2048}) SKIFF_CHECK(sweep.patterns(sweep.small ? 64 : 14336, sweep.small ? 96 : 4096, n));
    const Sweep::Heads plain = sweep.small ? Sweep::Heads{4, 2, 32} : Sweep::Heads{};
    // Other heads, all keys for themselves (no groups), a window, a soft cap: of one length each.
    const std::vector<Sweep::Heads> others = sweep.small ? std::vector<Sweep::Heads>{{4, 4, 64}, {4, 2, 32, 20}, {4, 2, 32, 0, 30.0f}} : std::vector<Sweep::Heads>{{32, 8, 64}, {16, 4, 256}, {32, 32, 128}, {32, 8, 128, 4096}, {32, 8, 128, 0, 50.0f}};
    if (wanted("attention"))
        for (const auto& [form, name] : forms)
            for (const std::int64_t length : sweep.small ? std::vector<std::int64_t>{70} : std::vector<std::int64_t>{1024, 8192, 32768, 131072})
                for (const std::int64_t n : {1, 4})
                    if (named(name)) SKIFF_CHECK(sweep.attention(form, name, plain, length, n));
    if (wanted("attention"))
        for (const auto& [form, name] : forms)
            for (const Sweep::Heads& heads : others)
                if (named(name)) SKIFF_CHECK(sweep.attention(form, name, heads, sweep.small ? 70 : 8192, 1));
    if (wanted("prefill"))
        for (const auto& [form, name] : forms)
            for (const std::int64_t length : sweep.small ? std::vector<std::int64_t>{70} : std::vector<std::int64_t>{2048, 8192})
                if (named(name)) SKIFF_CHECK(sweep.attention(form, name, plain, length, sweep.small ? 20 : 2048));
    if (wanted("prefill"))
        for (const auto& [form, name] : forms)
            for (const Sweep::Heads& heads : others)
                if (named(name)) SKIFF_CHECK(sweep.attention(form, name, heads, sweep.small ? 70 : 8192, sweep.small ? 20 : 2048));
    if (wanted("convolution")) {
        struct Shape {
            std::int64_t side, channels, out_channels, groups, kernel;
        };
        const std::vector<Shape> convolutions = sweep.small ? std::vector<Shape>{{6, 8, 12, 1, 3}, {5, 8, 8, 8, 3}} : std::vector<Shape>{{56, 64, 64, 1, 3}, {28, 128, 128, 1, 3}, {14, 256, 256, 1, 3}, {56, 256, 64, 1, 1}, {28, 128, 128, 4, 3}, {56, 144, 144, 144, 3}};
        for (const Shape& shape : convolutions) SKIFF_CHECK(sweep.convolution(shape.side, shape.channels, shape.out_channels, shape.groups, shape.kernel));
    }
    if (parts.count("tune") != 0) {
        Tuning tuning;
        for (const auto& scheme : schemes)
            if (named(scheme) && scheme.find('+') == std::string::npos) SKIFF_CHECK(sweep.tune(scheme, tuning));
        if (!tuning_file.empty()) SKIFF_CHECK(write_file_atomic(tuning_file, tuning_json(tuning, sweep.device.facts().name).dump(2) + "\n"));
    }
    if (wanted("statistics"))
        for (const std::int64_t columns : sweep.small ? std::vector<std::int64_t>{70} : std::vector<std::int64_t>{4096, 14336}) SKIFF_CHECK(sweep.statistics(sweep.small ? 40 : 2048, columns));
    return {};
}

Status sweep_as_told(int argc, char** argv) {
    bool small = false;
    std::string tuning_file;
    std::set<std::string> parts, names;
    const auto is_state = [](const std::string& word) { return std::any_of(std::begin(forms), std::end(forms), [&](const auto& form) { return word == form.second; }); };
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        if (word == "--small") small = true;
        else if (word == "--tuning" && i + 1 < argc) tuning_file = argv[++i];
        else if (std::find(all_parts.begin(), all_parts.end(), word) != all_parts.end()) parts.insert(word);
        else if (is_state(word) || std::find(gemv_schemes.begin(), gemv_schemes.end(), word) != gemv_schemes.end() || (small && word == "w4g32")) names.insert(word);
        else return usage_error("cuda_sweep [--small] [--tuning FILE] [limits|gemv|gemm|library|patterns|attention|prefill|convolution|statistics|tune ...] [SCHEME|STATE ...]");
    }
    SKIFF_TRY(const auto plug_in, open_plug_in());
    SKIFF_TRY(const auto device, Device::open(*plug_in.table));
    ThreadPool pool(default_thread_count());
    std::string cudnn = find_cudnn();
    if (!cudnn.empty() && plug_in.table->open_cudnn(cudnn.c_str()) != 0) cudnn.clear();
    Sweep sweep{*device, pool, small, cudnn};
    return run(sweep, parts, names, tuning_file);
}

}  // namespace
}  // namespace skiff::cuda

int main(int argc, char** argv) {
    const skiff::Status status = skiff::cuda::sweep_as_told(argc, argv);
    if (status.ok()) return 0;
    std::fprintf(stderr, "cuda_sweep: %s\n", status.error().to_string().c_str());
    return skiff::exit_code(status.error().code);
}
