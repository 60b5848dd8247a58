// A device that is none: the plug-in's table with functions that compute on the host, by the reference kernels. What it is for is everything around the kernels:
// programs, addresses, pages, graphs and the order of copies are tested on any machine.
//
// It is stricter than a device. Memory comes filled with NaN; an address that no allocation holds is refused; work waits in the stream until somebody waits for
// it, so that host memory which changes too early shows; a capture refuses what CUDA refuses. Operands are f32 here, whatever their form: only the kernels' own
// tests know the fragments (kernels/cuda). SKIFF_FAKE_DEVICE_MIB is its memory; SKIFF_FAKE_CAPTURE_FAILS_AT the step of a capture that fails, SKIFF_FAKE_FAILS_AT the
// copy or launch that does, counted from when it was set.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "backend/cuda/table.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/state_format.h"
#include "kernels/cuda/tuning.h"
#include "kernels/ref/ref.h"

namespace skiff::cuda {
namespace {

enum FakeError : int { good = 0, bad_value = 1, out_of_memory = 2, not_ready = 600, in_capture = 900, wrong_form = 901, not_supported = 10015 };

using Task = std::function<int()>;
struct FakeGraph {
    std::vector<Task> tasks;
};
struct FakeStream {
    std::deque<Task> waiting;
    std::uint64_t n_put = 0, n_done = 0;
    int error = good;
    FakeGraph* capture = nullptr;
};
struct FakeEvent {
    FakeStream* stream = nullptr;
    std::uint64_t at = 0;
    std::chrono::steady_clock::time_point time;
};

std::map<const std::byte*, std::size_t>& device_memory() {
    static std::map<const std::byte*, std::size_t> memory;
    return memory;
}
std::map<const std::byte*, std::size_t>& pinned_memory() {
    static std::map<const std::byte*, std::size_t> memory;
    return memory;
}
int captures = 0;

std::uint64_t total_memory() {
    const char* given = std::getenv("SKIFF_FAKE_DEVICE_MIB");
    return (given != nullptr ? std::strtoull(given, nullptr, 10) : 4096) << 20;
}
std::uint64_t used_memory() {
    std::uint64_t used = 0;
    for (const auto& [address, size] : device_memory()) used += size;
    return used;
}

bool holds(const std::map<const std::byte*, std::size_t>& memory, const void* address, std::size_t size) {
    const auto* begin = static_cast<const std::byte*>(address);
    auto found = memory.upper_bound(begin);
    if (found == memory.begin()) return false;
    --found;
    return begin + size <= found->first + found->second;
}
bool here(const void* address, std::size_t size) { return holds(device_memory(), address, size); }
bool here_or_none(const void* address, std::size_t size) { return address == nullptr || here(address, size); }
template <class T>
bool floats(const T* address, std::int64_t n) {
    return here_or_none(address, static_cast<std::size_t>(std::max<std::int64_t>(n, 0)) * sizeof(T));
}
bool rows(const float* address, std::int64_t n, std::int64_t width, std::int64_t stride) { return address == nullptr || (stride >= width && floats(address, (n - 1) * stride + width)); }

// A grid has this many blocks in its second and third dimension, where kernels have a token for each.
bool grid(std::int64_t n) { return n <= 65535; }

int put(Stream stream, Task task) {
    auto* fake = static_cast<FakeStream*>(stream);
    if (fake == nullptr) return bad_value;
    if (fake->capture != nullptr) {
        if (const char* at = std::getenv("SKIFF_FAKE_CAPTURE_FAILS_AT"); at != nullptr && fake->capture->tasks.size() == std::strtoull(at, nullptr, 10)) return bad_value;
        fake->capture->tasks.push_back(std::move(task));
        return good;
    }
    static std::uint64_t n_since = 0;
    const char* at = std::getenv("SKIFF_FAKE_FAILS_AT");
    if (at == nullptr) n_since = 0;
    else if (n_since++ == std::strtoull(at, nullptr, 10)) return bad_value;
    fake->waiting.push_back(std::move(task));
    ++fake->n_put;
    return good;
}
int run_until(FakeStream& stream, std::uint64_t n) {
    while (stream.n_done < n && !stream.waiting.empty()) {
        Task task = std::move(stream.waiting.front());
        stream.waiting.pop_front();
        ++stream.n_done;
        const int error = task();
        if (stream.error == good) stream.error = error;
    }
    return stream.error;
}

// ---- devices and memory

int n_devices(int* n) {
    *n = 1;
    return good;
}
int describe(int device, DeviceFacts* facts) {
    if (device != 0) return bad_value;
    *facts = {};
    std::strcpy(facts->name, "fake device");
    facts->arch = 90;
    facts->n_multiprocessors = 4;
    facts->memory_bytes = total_memory();
    facts->l2_bytes = 1 << 20;
    return good;
}
int select_device(int device) { return device == 0 ? good : bad_value; }
int memory_of_device(std::uint64_t* free_bytes, std::uint64_t* total_bytes) {
    *total_bytes = total_memory();
    *free_bytes = *total_bytes - std::min(*total_bytes, used_memory());
    return good;
}
int allocate(std::size_t size, void** address) {
    if (captures > 0) return in_capture;
    if (used_memory() + size > total_memory()) return out_of_memory;
    auto* memory = static_cast<std::byte*>(std::aligned_alloc(256, (size + 255) / 256 * 256));
    if (memory == nullptr) return out_of_memory;
    std::memset(memory, 0xff, (size + 255) / 256 * 256);
    device_memory().emplace(memory, size);
    *address = memory;
    return good;
}
int release_from(std::map<const std::byte*, std::size_t>& memory, void* address) {
    if (memory.erase(static_cast<const std::byte*>(address)) == 0) return bad_value;
    std::free(address);
    return good;
}
int release(void* address) { return release_from(device_memory(), address); }
int allocate_pinned(std::size_t size, void** address) {
    if (captures > 0) return in_capture;
    auto* memory = static_cast<std::byte*>(std::aligned_alloc(256, (size + 255) / 256 * 256));
    if (memory == nullptr) return out_of_memory;
    pinned_memory().emplace(memory, size);
    *address = memory;
    return good;
}
int release_pinned(void* address) { return release_from(pinned_memory(), address); }
int copy(void* to, const void* from, std::size_t size, Stream stream) {
    return put(stream, [=] {
        std::memmove(to, from, size);
        return good;
    });
}
int copy_in(void* device, const void* pinned, std::size_t size, Stream stream) { return here(device, size) && holds(pinned_memory(), pinned, size) ? copy(device, pinned, size, stream) : bad_value; }
int copy_out(void* pinned, const void* device, std::size_t size, Stream stream) { return here(device, size) && holds(pinned_memory(), pinned, size) ? copy(pinned, device, size, stream) : bad_value; }
int copy_within(void* to, const void* from, std::size_t size, Stream stream) { return here(to, size) && here(from, size) ? copy(to, from, size, stream) : bad_value; }
int fill(void* device, int byte, std::size_t size, Stream stream) {
    if (!here(device, size)) return bad_value;
    return put(stream, [=] {
        std::memset(device, byte, size);
        return good;
    });
}
const char* error_text(int error) {
    switch (error) {
        case good: return "no error";
        case bad_value: return "invalid value or address";
        case out_of_memory: return "out of memory";
        case not_ready: return "not ready";
        case in_capture: return "not allowed in a capture";
        case wrong_form: return "operand of the wrong width";
        case not_supported: return "no algorithm";
        default: return "unknown error";
    }
}

// ---- order

int make_stream(Stream* stream) {
    *stream = new FakeStream();
    return good;
}
int destroy_stream(Stream stream) {
    delete static_cast<FakeStream*>(stream);
    return good;
}
int wait_stream(Stream stream) {
    auto& fake = *static_cast<FakeStream*>(stream);
    return fake.capture != nullptr ? static_cast<int>(in_capture) : run_until(fake, fake.n_put);
}
int make_event(Event* event) {
    *event = new FakeEvent();
    return good;
}
int destroy_event(Event event) {
    delete static_cast<FakeEvent*>(event);
    return good;
}
int record(Event event, Stream stream) {
    auto* fake = static_cast<FakeEvent*>(event);
    auto* on = static_cast<FakeStream*>(stream);
    if (on->capture != nullptr) return in_capture;
    const int error = put(stream, [fake] {
        fake->time = std::chrono::steady_clock::now();
        return static_cast<int>(good);
    });
    fake->stream = on;
    fake->at = on->n_put;
    return error;
}
int wait_event(Event event) {
    auto* fake = static_cast<FakeEvent*>(event);
    return fake->stream == nullptr ? static_cast<int>(good) : run_until(*fake->stream, fake->at);
}
int stream_waits(Stream, Event event) { return wait_event(event); }
int elapsed_ms(Event begin, Event end, float* ms) {
    const auto *a = static_cast<FakeEvent*>(begin), *b = static_cast<FakeEvent*>(end);
    if (b->stream == nullptr || b->stream->n_done < b->at) return not_ready;
    *ms = std::chrono::duration<float, std::milli>(b->time - a->time).count();
    return good;
}
int begin_capture(Stream stream) {
    auto* fake = static_cast<FakeStream*>(stream);
    if (fake->capture != nullptr) return in_capture;
    fake->capture = new FakeGraph();
    ++captures;
    return good;
}
int end_capture(Stream stream, Graph* graph) {
    auto* fake = static_cast<FakeStream*>(stream);
    if (fake->capture == nullptr) return in_capture;
    *graph = std::exchange(fake->capture, nullptr);
    --captures;
    return good;
}
int launch_graph(Graph graph, Stream stream) {
    for (const Task& task : static_cast<FakeGraph*>(graph)->tasks)
        if (const int error = put(stream, task); error != good) return error;
    return good;
}
int destroy_graph(Graph graph) {
    delete static_cast<FakeGraph*>(graph);
    return good;
}

// ---- what stands for cuBLASLt

// "broken" cannot be opened; "picky" has no algorithm for odd numbers of tokens.
bool picky = false;
int open_cublaslt(const char* path) {
    if (std::strcmp(path, "broken") == 0) return bad_value;
    picky = std::strcmp(path, "picky") == 0;
    return good;
}
int prepare_matmul(const MatmulArgs& args) {
    if (args.workspace == nullptr || !here(args.weight, 2) || !here(args.x, 2) || !here(args.y, 4)) return bad_value;
    return picky && args.n_tokens % 2 != 0 ? static_cast<int>(not_supported) : static_cast<int>(good);
}

#if defined(SKIFF_EMULATED_GPU)

// The launches themselves, when their turn in the stream comes.
template <auto function, class Args>
int later(const Args& args, const Launch& launch) {
    return put(launch.stream, [args, launch]() -> int { return function(args, launch); });
}
int select_later(const float* x, const std::int32_t* index, float* y, std::int64_t n_rows, std::int64_t n_columns, const Launch& launch) {
    return put(launch.stream, [=]() -> int { return launch_select_rows(x, index, y, n_rows, n_columns, launch); });
}
int read_later(const void* data, std::size_t size_bytes, float* sink, const Launch& launch) {
    return put(launch.stream, [=]() -> int { return launch_read_all(data, size_bytes, sink, launch); });
}
bool takes(std::int64_t head_dim, StateForm form) { return state_takes(form, head_dim); }
int library_product(const MatmulArgs& args, const Launch& launch) {
    const auto here_rows = [](const void* address, std::int64_t n, std::int64_t width, std::int64_t stride, std::size_t size) { return here(address, static_cast<std::size_t>((n - 1) * stride + width) * size); };
    if (!here_rows(args.weight, args.n_rows, args.n_columns, args.weight_stride, 2) || !here_rows(args.x, args.n_tokens, args.n_columns, args.x_stride, 2) ||
        !here_rows(args.y, args.n_tokens, args.n_rows, args.y_stride, 4) || args.workspace == nullptr)
        return bad_value;
    return put(launch.stream, [args]() -> int {
        const auto *weight = static_cast<const std::uint16_t*>(args.weight), *x = static_cast<const std::uint16_t*>(args.x);
        for (std::int64_t t = 0; t < args.n_tokens; ++t)
            for (std::int64_t r = 0; r < args.n_rows; ++r) {
                double sum = 0;
                for (std::int64_t c = 0; c < args.n_columns; ++c) sum += static_cast<double>(bf16_to_float(weight[r * args.weight_stride + c])) * bf16_to_float(x[t * args.x_stride + c]);
                const auto value = static_cast<float>(sum * args.factor) + (args.bias != nullptr ? args.bias[r] : 0.0f);
                float& y = args.y[t * args.y_stride + r];
                y = args.write == MatmulArgs::Write::add ? y + value : value;
            }
        return good;
    });
}

constexpr Table table = {
    table_version, table_layout(), "emulated",
    n_devices, describe, select_device, memory_of_device, allocate, release, allocate_pinned, release_pinned, copy_in, copy_out, copy_within, fill, error_text,
    make_stream, destroy_stream, wait_stream, make_event, destroy_event, record, wait_event, stream_waits, elapsed_ms, begin_capture, end_capture, launch_graph, destroy_graph,
    operand_bytes, state_page_bytes, gemm_partial_bytes, gemm_arrivals, decode_attention_splits, decode_partial_floats, takes, prefill_attention_takes, sample_scratch_bytes,
    later<launch_gemv, GemvArgs>, later<launch_gemm, GemmArgs>, later<launch_dequantize, DequantizeArgs>, later<launch_embed, EmbedArgs>, later<launch_norm, NormLaunchArgs>,
    later<launch_rope_write, RopeWriteArgs>, later<launch_decode_attention, DecodeAttentionArgs>, later<launch_prefill_attention, PrefillAttentionArgs>, later<launch_elements, ElementLaunchArgs>,
    select_later, later<launch_route, RouteLaunchArgs>, later<launch_causal_conv, ConvLaunchArgs>, later<launch_sample, SampleArgs>, later<launch_pairs, PairsArgs>, read_later,
    open_cublaslt, prepare_matmul, library_product,
};

#else

// ---- operands and matrices

std::size_t fake_operand_bytes(OperandForm, std::int64_t n_tokens, std::int64_t n_columns) { return static_cast<std::size_t>(n_tokens * n_columns) * sizeof(float); }
bool operand_here(const Operand& operand, std::int64_t n_tokens) { return operand.data == nullptr || here(operand.data, fake_operand_bytes(operand.form, n_tokens, operand.n_columns)); }
void write_operand(const Operand& operand, std::int64_t token, std::int64_t column, float value) {
    if (operand.data != nullptr) static_cast<float*>(operand.data)[token * operand.n_columns + column] = value;
}
void write_next(const NextNorm& next, std::int64_t token, const float* row, std::int64_t width) {
    for (std::int64_t c = 0; c < width; ++c) write_operand(next.operand, token, c, next.weight != nullptr ? row[c] * next.weight[c] : row[c]);
    if (next.square_sums == nullptr) return;
    float* sums = const_cast<float*>(next.square_sums) + token * pending_parts(width);
    for (std::int64_t part = 0; part < pending_parts(width); ++part) {
        double sum = 0;
        for (std::int64_t c = part * 16; c < std::min(width, part * 16 + 16); ++c) sum += static_cast<double>(row[c]) * row[c];
        sums[part] = static_cast<float>(sum);
    }
}
bool next_here(const NextNorm& next, std::int64_t n_tokens, std::int64_t width) {
    return floats(next.weight, width) && operand_here(next.operand, n_tokens) && floats(next.square_sums, n_tokens * pending_parts(width)) && (next.operand.data == nullptr || next.operand.n_columns == width);
}
float activated(Activation kind, float x) {
    float y = 0;
    activation_ref({&x, nullptr, &y, 1, kind}, {0, 1});
    return y;
}

template <class Args>
int multiply(const Args& args, const Launch& launch) {
    const std::int64_t n = args.n_tokens, n_rows = args.weight.n_rows, n_columns = args.weight.n_columns;
    const bool gate = args.write == GemvWrite::gate;
    if (n < 1 || !here(args.weight.codes, 1) || args.next.operand.data == args.x || !here(args.x, fake_operand_bytes({}, n, n_columns)) || (!gate && (args.y == nullptr || !rows(args.y, n, n_rows, args.y_stride))) ||
        !next_here(args.next, n, gate ? n_rows / 2 : n_rows) || !floats(args.bias, gate ? (n_rows / 2 + 7) / 8 * 16 : n_rows) || (args.rms.square_sums != nullptr && args.rms.width != n_columns))
        return bad_value;
    return put(launch.stream, [args, n, n_rows, n_columns, gate]() -> int {
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
                for (std::int64_t c = 0; c < n_columns; ++c) sum += static_cast<double>(row[static_cast<std::size_t>(c)]) * x[t * n_columns + c];
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
int gemv(const GemvArgs& args, const Launch& launch) { return args.n_tokens > max_gemv_tokens ? static_cast<int>(bad_value) : multiply(args, launch); }
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
    if (!here(args.weight, static_cast<std::size_t>((args.n_rows - 1) * args.weight_stride + args.n_columns) * 2) || !rows(args.y, args.n_tokens, args.n_rows, args.y_stride) || !floats(args.bias, args.n_rows) ||
        !here(args.x, static_cast<std::size_t>((args.n_tokens - 1) * args.x_stride + args.n_columns) * sizeof(float)) || args.workspace == nullptr)
        return bad_value;
    return put(launch.stream, [args]() -> int {
        for (std::int64_t t = 0; t < args.n_tokens; ++t)
            for (std::int64_t r = 0; r < args.n_rows; ++r) {
                double sum = 0;
                for (std::int64_t c = 0; c < args.n_columns; ++c)
                    sum += static_cast<double>(bf16_to_float(static_cast<const std::uint16_t*>(args.weight)[r * args.weight_stride + c])) * static_cast<const float*>(args.x)[t * args.x_stride + c];
                const auto value = static_cast<float>(sum * args.factor) + (args.bias != nullptr ? args.bias[r] : 0.0f);
                float& y = args.y[t * args.y_stride + r];
                y = args.write == MatmulArgs::Write::add ? y + value : value;
            }
        return good;
    });
}
int pairs(const PairsArgs& args, const Launch& launch) {
    const std::int64_t stride = (args.n_pairs + 7) / 8 * 16;
    if (!floats(args.x, args.n_tokens * stride) || !floats(args.bias, stride) || !operand_here(args.operand, args.n_tokens)) return bad_value;
    return put(launch.stream, [args, stride]() -> int {
        for (std::int64_t t = 0; t < args.n_tokens; ++t)
            for (std::int64_t j = 0; j < args.n_pairs; ++j) {
                const std::int64_t at = j / 8 * 16 + j % 8;
                const float* x = args.x + t * stride;
                const float gate = x[at] + (args.bias != nullptr ? args.bias[at] : 0.0f), up = x[at + 8] + (args.bias != nullptr ? args.bias[at + 8] : 0.0f);
                write_operand(args.operand, t, j, activated(args.activation, gate) * up);
            }
        return good;
    });
}
int read_all(const void* data, std::size_t size, float* sink, const Launch& launch) {
    if (!here(data, size) || !here(sink, 4)) return bad_value;
    return put(launch.stream, [data, size, sink]() -> int {
        unsigned sum = 0;
        for (std::size_t i = 0; i < size; i += 64) sum += static_cast<const unsigned char*>(data)[i];
        if (sum == 1) *sink = 1;
        return good;
    });
}

// ---- the rest

int embed(const EmbedArgs& args, const Launch& launch) {
    const std::int64_t width = args.table.n_columns;
    if (!here(args.table.codes, 1) || !floats(args.index, args.n_tokens) || args.x == nullptr || !floats(args.x, args.n_tokens * width) || !next_here(args.next, args.n_tokens, width)) return bad_value;
    return put(launch.stream, [args, width]() -> int {
        std::vector<float> row(static_cast<std::size_t>(width));
        for (std::int64_t t = 0; t < args.n_tokens; ++t) {
            const std::int64_t index = args.index[t] + args.offset;
            if (index < 0 || index >= args.table.n_rows) return bad_value;
            packed_row(args.table, index, row.data());
            float* x = args.x + t * width;
            for (std::int64_t c = 0; c < width; ++c) {
                const float value = row[static_cast<std::size_t>(c)] * args.scale;
                x[c] = args.write == EmbedArgs::Write::add ? x[c] + value : value;
            }
            write_next(args.next, t, x, width);
        }
        return good;
    });
}

int norm(const NormLaunchArgs& args, const Launch& launch) {
    const std::int64_t all = args.n_groups * args.width;
    if (args.x == nullptr || !rows(args.x, args.n_tokens, all, args.x_stride) || !rows(args.residual, args.n_tokens, all, args.x_stride) || !rows(args.sum, args.n_tokens, all, args.x_stride) ||
        !floats(args.weight, args.width) || !floats(args.bias, args.width) || !rows(args.y, args.n_tokens, all, args.y_stride) || !operand_here(args.operand, args.n_tokens))
        return bad_value;
    return put(launch.stream, [args, all]() -> int {
        std::vector<float> row(static_cast<std::size_t>(all));
        for (std::int64_t t = 0; t < args.n_tokens; ++t) {
            for (std::int64_t c = 0; c < all; ++c) {
                float& value = row[static_cast<std::size_t>(c)];
                value = args.x[t * args.x_stride + c];
                if (args.residual != nullptr) value += args.residual[t * args.x_stride + c];
                if (args.sum != nullptr) args.sum[t * args.x_stride + c] = value;
            }
            norm_ref({row.data(), args.weight, args.bias, row.data(), args.width, args.eps, args.kind}, {0, args.n_groups});
            for (std::int64_t c = 0; c < all; ++c) {
                if (args.y != nullptr) args.y[t * args.y_stride + c] = row[static_cast<std::size_t>(c)];
                write_operand(args.operand, t, c, row[static_cast<std::size_t>(c)]);
            }
        }
        return good;
    });
}

// A page of the form bf16 holds f32 here: that rounding is the kernels' business, and without it the whole session can be compared to the last digits.
std::size_t fake_page_bytes(StateForm form, std::int64_t n_kv_heads, std::int64_t head_dim) {
    return form == StateForm::bf16 ? static_cast<std::size_t>(n_kv_heads * page_positions * head_dim) * sizeof(float) : state_page_bytes(form, n_kv_heads, head_dim);
}

// Numbers of one position and head of a page.
class Page {
public:
    Page(const StateView& state, void* pool, std::int64_t sequence, std::int64_t position, std::int64_t head) : form_(state.form), head_dim_(state.head_dim) {
        const std::int32_t page = state.page_table[sequence * state.max_pages + position / page_positions];
        page_ = static_cast<std::byte*>(pool) + static_cast<std::size_t>(page) * fake_page_bytes(state.form, state.n_kv_heads, state.head_dim);
        row_ = head * page_positions + position % page_positions;
        const std::int64_t numbers = state.n_kv_heads * page_positions * state.head_dim;
        scales_ = reinterpret_cast<std::uint16_t*>(page_ + (form_ == StateForm::int4 ? numbers / 2 : numbers));
    }
    bool valid() const { return here(page_, 1); }
    void store(std::vector<float> x) {
        const std::int64_t groups = (head_dim_ + 31) / 32;
        auto* codes = reinterpret_cast<std::uint8_t*>(page_);
        if (form_ == StateForm::int4) rotate_head(x.data(), head_dim_);
        float largest = 0;
        for (float value : x) largest = std::max(largest, std::abs(value));
        const StateScale scale = state_scale_int8(largest);
        if (form_ == StateForm::int8) scales_[row_] = scale.bits;
        for (std::int64_t group = 0; group < groups && form_ == StateForm::int4; ++group) {
            const auto begin = x.begin() + group * 32, end = x.begin() + std::min(head_dim_, group * 32 + 32);
            const StateScale part = state_scale_int4(*std::max_element(begin, end), *std::min_element(begin, end));
            scales_[row_ * groups + group] = part.bits;
            for (auto at = begin; at != end; ++at) {
                const std::int64_t i = row_ * head_dim_ + (at - x.begin());
                const int code = std::clamp(static_cast<int>(std::nearbyint(*at * part.inverse)), -8, 7) + 8;
                codes[i / 2] = static_cast<std::uint8_t>(i % 2 != 0 ? (codes[i / 2] & 15) | code << 4 : (codes[i / 2] & 0xf0) | code);
            }
        }
        for (std::int64_t d = 0; d < head_dim_; ++d) {
            const float value = x[static_cast<std::size_t>(d)];
            const std::int64_t i = row_ * head_dim_ + d;
            if (form_ == StateForm::bf16) reinterpret_cast<float*>(page_)[i] = value;
            if (form_ == StateForm::fp8) codes[i] = float_to_f8_e4m3(value);
            if (form_ == StateForm::int8) codes[i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(std::clamp(static_cast<int>(std::nearbyint(value * scale.inverse)), -127, 127)));
        }
    }
    void load(std::vector<float>& x) const {
        const std::int64_t groups = (head_dim_ + 31) / 32;
        const auto* codes = reinterpret_cast<const std::uint8_t*>(page_);
        for (std::int64_t d = 0; d < head_dim_; ++d) {
            const std::int64_t i = row_ * head_dim_ + d;
            float& value = x[static_cast<std::size_t>(d)];
            switch (form_) {
                case StateForm::bf16: value = reinterpret_cast<const float*>(page_)[i]; break;
                case StateForm::fp8: value = f8_e4m3_to_float(codes[i]); break;
                case StateForm::int8: value = static_cast<float>(static_cast<std::int8_t>(codes[i])) * f16_to_float(scales_[row_]); break;
                case StateForm::int4: value = static_cast<float>((codes[i / 2] >> (i % 2 * 4) & 15) - 8) * f16_to_float(scales_[row_ * groups + d / 32]); break;
            }
        }
    }

private:
    StateForm form_;
    std::int64_t head_dim_, row_ = 0;
    std::byte* page_ = nullptr;
    std::uint16_t* scales_ = nullptr;
};

std::int64_t sequence_of(const TokenView& tokens, std::int64_t t) { return tokens.sequences != nullptr ? tokens.sequences[t] : t; }

// What the kernels take, but for the sizes of heads in the small models, which are few bytes as bf16.
bool fake_attention_takes(std::int64_t head_dim, StateForm form) { return form == StateForm::bf16 || state_takes(form, head_dim); }
int rope_write(const RopeWriteArgs& args, const Launch& launch) {
    const std::int64_t n = args.tokens.n_tokens, d = args.state.head_dim;
    const auto part_here = [&](std::int64_t offset, std::int64_t heads) { return offset < 0 || (offset + heads * d <= args.qkv_stride && floats(args.qkv, (n - 1) * args.qkv_stride + offset + heads * d)); };
    if (args.qkv == nullptr || d < 1 || !grid(n) || ((args.state.keys != nullptr || args.state.values != nullptr) && !fake_attention_takes(d, args.state.form)) || !part_here(args.n_heads > 0 ? args.q_offset : -1, args.n_heads) || !part_here(args.k_offset, args.state.n_kv_heads) || !part_here(args.v_offset, args.state.n_kv_heads) ||
        !floats(args.tokens.positions, n) || !floats(args.tokens.sequences, n) || !floats(args.inv_freq, args.rotary_dim / 2) || !floats(args.q_norm, d) || !floats(args.k_norm, d) ||
        (args.n_heads > 0 && (args.q == nullptr || !rows(args.q, n, args.n_heads * d, args.q_stride))) || !here_or_none(args.state.keys, 1) || !here_or_none(args.state.values, 1))
        return bad_value;
    return put(launch.stream, [args, n, d]() -> int {
        std::vector<float> row(static_cast<std::size_t>(d));
        const auto turn = [&](const float* x, const float* weight, std::int64_t t) {
            std::copy_n(x, d, row.data());
            if (weight != nullptr) norm_ref({row.data(), weight, nullptr, row.data(), d, args.norm_eps, NormKind::rms}, {0, 1});
            if (args.inv_freq != nullptr) rope_ref({row.data(), args.tokens.positions + t, args.inv_freq, 1, d, args.rotary_dim, args.magnitude, args.style}, {0, 1});
        };
        for (std::int64_t t = 0; t < n; ++t) {
            const float* x = args.qkv + t * args.qkv_stride;
            const std::int64_t sequence = sequence_of(args.tokens, t), position = args.tokens.positions[t];
            for (std::int64_t head = 0; head < args.n_heads; ++head) {
                turn(x + args.q_offset + head * d, args.q_norm, t);
                std::copy_n(row.data(), d, args.q + t * args.q_stride + head * d);
            }
            for (std::int64_t head = 0; head < args.state.n_kv_heads; ++head) {
                if (args.k_offset >= 0) {
                    turn(x + args.k_offset + head * d, args.k_norm, t);
                    if (args.k != nullptr) std::copy_n(row.data(), d, args.k + t * args.k_stride + head * d);
                    if (args.state.keys != nullptr) Page(args.state, args.state.keys, sequence, position, head).store(row);
                }
                if (args.v_offset >= 0 && args.state.values != nullptr) Page(args.state, args.state.values, sequence, position, head).store({x + args.v_offset + head * d, x + args.v_offset + (head + 1) * d});
            }
        }
        return good;
    });
}

void attend(const AttentionCommon& args, std::int64_t t, std::int64_t sequence, std::int64_t position) {
    const std::int64_t d = args.state.head_dim, group = args.n_heads / args.state.n_kv_heads;
    const std::int64_t first = args.window > 0 ? std::max<std::int64_t>(0, position - args.window + 1) : 0;
    const bool rotated = args.state.form == StateForm::int4;
    std::vector<float> row(static_cast<std::size_t>(d)), q(row.size());
    for (std::int64_t head = 0; head < args.n_heads; ++head) {
        std::copy_n(args.q + t * args.q_stride + head * d, d, q.data());
        if (rotated) rotate_head(q.data(), d);
        std::vector<double> scores, sum(row.size());
        double highest = -INFINITY, total = 0;
        for (std::int64_t p = first; p <= position; ++p) {
            Page(args.state, args.state.keys, sequence, p, head / group).load(row);
            double score = 0;
            for (std::size_t i = 0; i < row.size(); ++i) score += static_cast<double>(q[i]) * row[i];
            score *= args.scale;
            if (args.softcap > 0) score = args.softcap * std::tanh(score / args.softcap);
            highest = std::max(highest, score);
            scores.push_back(score);
        }
        for (std::int64_t p = first; p <= position; ++p) {
            const double weight = std::exp(scores[static_cast<std::size_t>(p - first)] - highest);
            total += weight;
            Page(args.state, args.state.values, sequence, p, head / group).load(row);
            for (std::size_t i = 0; i < row.size(); ++i) sum[i] += weight * row[i];
        }
        for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<float>(sum[i] / total);
        if (rotated) rotate_head(row.data(), d);
        for (std::int64_t i = 0; i < d; ++i) {
            if (args.y != nullptr) args.y[t * args.y_stride + head * d + i] = row[static_cast<std::size_t>(i)];
            write_operand(args.operand, t, head * d + i, row[static_cast<std::size_t>(i)]);
        }
    }
}
std::int64_t fake_partial_floats(std::int64_t n_tokens, std::int64_t n_heads, std::int64_t head_dim, std::int64_t n_splits) { return n_tokens * n_heads * n_splits * (head_dim + 2); }
bool attention_here(const AttentionCommon& args) {
    const std::int64_t n = args.tokens.n_tokens, width = args.n_heads * args.state.head_dim;
    return fake_attention_takes(args.state.head_dim, args.state.form) && args.q != nullptr && rows(args.q, n, width, args.q_stride) && here(args.state.keys, 1) && here(args.state.values, 1) && here(args.state.page_table, 4) && floats(args.tokens.positions, n) &&
           floats(args.tokens.sequences, n) && rows(args.y, n, width, args.y_stride) && operand_here(args.operand, n) && (args.operand.data == nullptr || args.operand.n_columns == width) && args.mask == AttentionMask::causal;
}
int decode_attention(const DecodeAttentionArgs& args, const Launch& launch) {
    const std::int64_t n = args.common.tokens.n_tokens;
    if (!attention_here(args.common) || !grid(n) || args.n_splits < 1 || args.n_splits > decode_attention_max_splits || !floats(args.partials, fake_partial_floats(n, args.common.n_heads, args.common.state.head_dim, args.n_splits)) || !floats(args.arrivals, n * args.common.state.n_kv_heads)) return bad_value;
    return put(launch.stream, [args, n]() -> int {
        for (std::int64_t i = 0; i < n * args.common.state.n_kv_heads; ++i)
            if (args.arrivals[i] != 0) return bad_value;
        for (std::int64_t t = 0; t < n; ++t) attend(args.common, t, sequence_of(args.common.tokens, t), args.common.tokens.positions[t]);
        return good;
    });
}
int prefill_attention(const PrefillAttentionArgs& args, const Launch& launch) {
    if (!attention_here(args.common) || !floats(args.tiles, args.n_tiles)) return bad_value;
    return put(launch.stream, [args]() -> int {
        std::int64_t done = 0;
        for (std::int64_t i = 0; i < args.n_tiles; ++i) {
            const PrefillTile& tile = args.tiles[i];
            if (tile.first_token != done || tile.n_tokens < 1 || tile.n_tokens > prefill_tile_tokens) return bad_value;
            for (std::int32_t t = 0; t < tile.n_tokens; ++t) attend(args.common, tile.first_token + t, tile.sequence, tile.first_position + t);
            done += tile.n_tokens;
        }
        return done == args.common.tokens.n_tokens ? good : bad_value;
    });
}

int elements(const ElementLaunchArgs& args, const Launch& launch) {
    const std::int64_t n = args.n_tokens, width = args.n_columns;
    const bool two = args.kind == ElementKind::activate_mul || args.kind == ElementKind::multiply || args.kind == ElementKind::add;
    if (args.a == nullptr || !grid(n) || !rows(args.a, n, width, args.a_stride) || (two && (args.b == nullptr || !rows(args.b, n, width, args.b_stride))) || !rows(args.y, n, width, args.y_stride) || !operand_here(args.operand, n) ||
        (args.kind == ElementKind::gate && !rows(args.b, n, 1, args.b_stride)) || (args.kind == ElementKind::permute && !floats(args.order, width)) || (args.kind == ElementKind::column_scale && !floats(args.b, width)))
        return bad_value;
    return put(launch.stream, [args, n, width]() -> int {
        for (std::int64_t t = 0; t < n; ++t) {
            std::vector<float> row(static_cast<std::size_t>(width));
            for (std::int64_t c = 0; c < width; ++c) {
                const float a = args.a[t * args.a_stride + c];
                float& y = row[static_cast<std::size_t>(c)];
                switch (args.kind) {
                    case ElementKind::activation: y = activated(args.activation, a); break;
                    case ElementKind::activate_mul: y = activated(args.activation, a) * args.b[t * args.b_stride + c]; break;
                    case ElementKind::multiply: y = a * args.b[t * args.b_stride + c]; break;
                    case ElementKind::add: y = a + args.b[t * args.b_stride + c]; break;
                    case ElementKind::scale: y = a * args.factor; break;
                    case ElementKind::softcap: y = args.factor * std::tanh(a / args.factor); break;
                    case ElementKind::column_scale: y = a * args.b[c]; break;
                    case ElementKind::gate: y = a * args.b[t * args.b_stride]; break;
                    case ElementKind::permute: y = args.a[t * args.a_stride + args.order[c]]; break;
                }
            }
            for (std::int64_t c = 0; c < width; ++c) {
                if (args.y != nullptr) args.y[t * args.y_stride + c] = row[static_cast<std::size_t>(c)];
                write_operand(args.operand, t, c, row[static_cast<std::size_t>(c)]);
            }
        }
        return good;
    });
}

int select_rows(const float* x, const std::int32_t* index, float* y, std::int64_t n_rows, std::int64_t n_columns, const Launch& launch) {
    if (x == nullptr || y == nullptr || !grid(n_rows) || !floats(index, n_rows) || !floats(y, n_rows * n_columns)) return bad_value;
    return put(launch.stream, [=]() -> int {
        for (std::int64_t r = 0; r < n_rows; ++r) {
            if (!here(x + index[r] * n_columns, static_cast<std::size_t>(n_columns) * 4)) return bad_value;
            std::copy_n(x + index[r] * n_columns, n_columns, y + r * n_columns);
        }
        return good;
    });
}

int route(const RouteLaunchArgs& args, const Launch& launch) {
    if (!floats(args.logits, args.n_tokens * args.n_experts) || !floats(args.y, args.n_tokens * args.n_experts)) return bad_value;
    return put(launch.stream, [args]() -> int {
        for (std::int64_t t = 0; t < args.n_tokens; ++t) {
            const float* logits = args.logits + t * args.n_experts;
            float* y = args.y + t * args.n_experts;
            std::vector<std::int64_t> order(static_cast<std::size_t>(args.n_experts));
            for (std::int64_t e = 0; e < args.n_experts; ++e) order[static_cast<std::size_t>(e)] = e, y[e] = 0;
            std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return logits[a] > logits[b]; });
            const std::int64_t counted = args.rule == RouteLaunchArgs::Rule::softmax_then_top ? args.n_experts : args.n_used;
            double total = 0, chosen = 0;
            for (std::int64_t i = 0; i < counted; ++i) total += std::exp(static_cast<double>(logits[order[static_cast<std::size_t>(i)]] - logits[order[0]]));
            for (std::int64_t i = 0; i < args.n_used; ++i) {
                const std::int64_t e = order[static_cast<std::size_t>(i)];
                y[e] = static_cast<float>(std::exp(static_cast<double>(logits[e] - logits[order[0]])) / total);
                chosen += y[e];
            }
            if (args.divide == RouteLaunchArgs::Divide::by_their_sum)
                for (std::int64_t e = 0; e < args.n_experts; ++e) y[e] = static_cast<float>(y[e] / chosen);
        }
        return good;
    });
}

int causal_conv(const ConvLaunchArgs& args, const Launch& launch) {
    const std::int64_t n = args.tokens.n_tokens, width = args.n_columns;
    if (!grid(n) || !floats(args.x, n * width) || !floats(args.y, n * width) || !floats(args.taps, args.n_taps * width) || !floats(args.bias, width) || !here(args.rings, 4)) return bad_value;
    return put(launch.stream, [args, n, width]() -> int {
        std::vector<std::int64_t> seen;  // a sequence's tokens are neighbours
        for (std::int64_t t = 0; t < n; ++t) {
            const std::int64_t sequence = sequence_of(args.tokens, t);
            if (!seen.empty() && seen.back() == sequence) continue;
            if (std::find(seen.begin(), seen.end(), sequence) != seen.end()) return bad_value;
            seen.push_back(sequence);
        }
        const std::int64_t ring = args.n_taps - 1;
        const auto ring_row = [&](std::int64_t sequence, std::int64_t position) { return args.rings + (sequence * ring + position % ring) * width; };
        for (std::int64_t t = 0; t < n; ++t) {
            const std::int64_t sequence = sequence_of(args.tokens, t), position = args.tokens.positions[t];
            for (std::int64_t c = 0; c < width; ++c) {
                double sum = args.bias != nullptr ? args.bias[c] : 0;
                for (std::int64_t j = 0; j < args.n_taps; ++j) {
                    const std::int64_t back = ring - j, at = position - back;
                    if (at < 0) continue;
                    const bool mine = t - back >= 0 && sequence_of(args.tokens, t - back) == sequence && args.tokens.positions[t - back] == at;
                    sum += static_cast<double>(args.taps[j * width + c]) * (mine ? args.x[(t - back) * width + c] : ring_row(sequence, at)[c]);
                }
                args.y[t * width + c] = static_cast<float>(sum);
            }
        }
        for (std::int64_t t = 0; t < n && ring > 0; ++t) std::copy_n(args.x + t * width, width, ring_row(sequence_of(args.tokens, t), args.tokens.positions[t]));
        return good;
    });
}

int sample(const SampleArgs& args, const Launch& launch) {
    if (!floats(args.logits, (args.n_tokens - 1) * args.stride + args.n_vocab) || !floats(args.ids, args.n_tokens) || !floats(args.positions, args.n_tokens) || args.top_k < 1 || args.top_k > 64 ||
        !floats(args.top_values, args.n_tokens * 64) || !floats(args.top_ids, args.n_tokens * 64) || !here(args.scratch, 4))
        return bad_value;
    return put(launch.stream, [args]() -> int {
        for (std::int64_t t = 0; t < args.n_tokens; ++t) {
            const float* logits = args.logits + t * args.stride;
            std::vector<std::int32_t> order(static_cast<std::size_t>(args.n_vocab));
            for (std::int32_t i = 0; i < args.n_vocab; ++i) order[static_cast<std::size_t>(i)] = i;
            std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return logits[a] > logits[b]; });
            for (std::int32_t i = 0; i < 64 && args.top_values != nullptr; ++i) {
                const bool is_there = i < args.top_k && i < args.n_vocab;
                args.top_values[t * 64 + i] = is_there ? logits[order[static_cast<std::size_t>(i)]] : -INFINITY;
                args.top_ids[t * 64 + i] = is_there ? order[static_cast<std::size_t>(i)] : -1;
            }
            if (args.ids == nullptr) continue;
            args.ids[t] = order[0];
            if (args.history != nullptr) args.history[t * args.history_stride + args.positions[t] + 1] = args.ids[t];
            if (args.feed == SampleArgs::Feed::advance) ++args.positions[t];
        }
        return good;
    });
}

std::size_t fake_gemm_bytes(const GpuWeight& weight, std::int64_t n_tokens, const Launch&) { return n_tokens < 32 ? static_cast<std::size_t>(weight.n_rows * n_tokens * 8) : 0; }
std::int64_t fake_gemm_arrivals(const GpuWeight& weight, std::int64_t) { return weight.n_tiles; }
std::int64_t fake_splits(std::int64_t capacity, std::int64_t, const Launch&) { return std::max<std::int64_t>(1, capacity / 256); }
bool fake_prefill_takes(std::int64_t head_dim, StateForm form) { return head_dim % 16 == 0 && form == StateForm::bf16; }  // so that both ways are tested
std::size_t fake_sample_bytes(std::int64_t n_tokens) { return static_cast<std::size_t>(n_tokens) * 1024; }

constexpr Table table = {
    table_version, table_layout(), "fake",
    n_devices, describe, select_device, memory_of_device, allocate, release, allocate_pinned, release_pinned, copy_in, copy_out, copy_within, fill, error_text,
    make_stream, destroy_stream, wait_stream, make_event, destroy_event, record, wait_event, stream_waits, elapsed_ms, begin_capture, end_capture, launch_graph, destroy_graph,
    fake_operand_bytes, fake_page_bytes, fake_gemm_bytes, fake_gemm_arrivals, fake_splits, fake_partial_floats, fake_attention_takes, fake_prefill_takes, fake_sample_bytes,
    gemv, gemm, dequantize, embed, norm, rope_write, decode_attention, prefill_attention, elements, select_rows, route, causal_conv, sample, pairs, read_all,
    open_cublaslt, prepare_matmul, matmul,
};

#endif


}  // namespace
}  // namespace skiff::cuda

extern "C" const skiff::cuda::Table* skiff_cuda_table_v1() { return &skiff::cuda::table; }
