#include "backend/cuda/testing/fake_memory.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "backend/cuda/cudnn/rows.h"

namespace skiff::cuda::fake {
namespace {

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
std::set<FakeStream*>& streams() {
    static std::set<FakeStream*> all;
    return all;
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

}  // namespace

bool here(const void* address, std::size_t size) { return holds(device_memory(), address, size); }

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

namespace {

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
// As on a device, memory goes when all work that was queued is done.
int release_from(std::map<const std::byte*, std::size_t>& memory, void* address) {
    for (FakeStream* stream : streams())
        if (stream->capture == nullptr) run_until(*stream, stream->n_put);  // an error stays the stream's
    if (memory.erase(static_cast<const std::byte*>(address)) == 0) return bad_value;
    std::free(address);
    return good;
}
int release(void* address) { return release_from(device_memory(), address); }
int allocate_pinned(std::size_t size, void** address) {
    if (captures > 0) return in_capture;
    std::uint64_t used = size;
    for (const auto& [address_of, size_of] : pinned_memory()) used += size_of;
    const char* most = std::getenv("SKIFF_FAKE_PINNED_MIB");
    if (most != nullptr && used > std::strtoull(most, nullptr, 10) << 20) return out_of_memory;
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
        default: break;
    }
    const char* said = cudnn::error_text(error);
    return said != nullptr ? said : "unknown error";
}

// ---- order

int make_stream(Stream* stream) {
    auto* made = new FakeStream();
    streams().insert(made);
    *stream = made;
    return good;
}
int destroy_stream(Stream stream) {
    streams().erase(static_cast<FakeStream*>(stream));
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
// For what the event stands for now: it may be recorded again.
int stream_waits(Stream stream, Event event) {
    const auto* fake = static_cast<FakeEvent*>(event);
    if (fake->stream == nullptr) return good;
    return put(stream, [on = fake->stream, at = fake->at] { return run_until(*on, at); });
}
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

}  // namespace

void add_runtime(Table& table) {
    table.n_devices = n_devices;
    table.describe = describe;
    table.select = select_device;
    table.memory = memory_of_device;
    table.allocate = allocate;
    table.release = release;
    table.allocate_pinned = allocate_pinned;
    table.release_pinned = release_pinned;
    table.copy_in = copy_in;
    table.copy_out = copy_out;
    table.copy_within = copy_within;
    table.fill = fill;
    table.error_text = error_text;
    table.make_stream = make_stream;
    table.destroy_stream = destroy_stream;
    table.wait_stream = wait_stream;
    table.make_event = make_event;
    table.destroy_event = destroy_event;
    table.record = record;
    table.wait_event = wait_event;
    table.stream_waits = stream_waits;
    table.elapsed_ms = elapsed_ms;
    table.begin_capture = begin_capture;
    table.end_capture = end_capture;
    table.launch_graph = launch_graph;
    table.destroy_graph = destroy_graph;
    table.open_cublaslt = open_cublaslt;
    table.prepare_matmul = prepare_matmul;
}

}  // namespace skiff::cuda::fake
