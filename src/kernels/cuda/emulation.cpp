#if defined(SKIFF_EMULATED_GPU)

#include "kernels/cuda/emulation.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "tensor/dtype.h"

namespace skiff::cuda {

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {
namespace {

constexpr std::size_t stack_bytes = 256 * 1024;

struct Copy {
    std::uint32_t shared;
    const void* global;
    int bytes;
};

struct Thread {
    ucontext_t context;   // where it begins
    jmp_buf place;        // where it goes on: unlike swapcontext, a jump costs no system call
    bool has_begun = false;
    std::unique_ptr<unsigned char[]> stack;
    dim3 index;
    bool is_done = false, has_waited = false;
    std::vector<std::vector<Copy>> groups = std::vector<std::vector<Copy>>(1);  // the last is not committed yet
};

struct Warp {
    int arrived = 0;
    std::uint64_t generation = 0;
    Meeting kind = Meeting::shuffle;
    unsigned char inputs[32][64], outputs[32][64];
};

Mode mode = Mode::late_copies_forward;
jmp_buf scheduler;
std::map<const void*, std::size_t> allowed_shared;
std::vector<Thread> threads;
std::vector<Warp> warps;
std::vector<unsigned char> shared;
Thread* current = nullptr;
int n_alive = 0, block_arrived = 0;
std::uint64_t block_generation = 0;
struct Barrier {
    int arrived = 0, expected = 0;
    std::uint64_t generation = 0;
};
Barrier barriers[16];
const std::function<void()>* body = nullptr;
std::function<void(bool)> predecessor;
int n_waiting = 0;

[[noreturn]] void stop(const char* what) {
    std::fprintf(stderr, "emulated GPU: %s (block %u %u %u, thread %u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x);
    std::abort();
}

void leave() {
    if (_setjmp(current->place) == 0) _longjmp(scheduler, 1);
}
void resume(Thread& thread) {
    if (_setjmp(scheduler) != 0) return;
    if (thread.has_begun) _longjmp(thread.place, 1);
    thread.has_begun = true;
    setcontext(&thread.context);
}

void enter() {
    (*body)();
    current->is_done = true;
    for (const auto& group : current->groups)
        if (!group.empty()) stop("a thread ended before its copies");
    --n_alive;
    if (n_alive > 0 && block_arrived == n_alive) block_arrived = 0, ++block_generation;
    leave();
    stop("an ended thread went on");
}

void land(const Copy& copy) {
    unsigned char* target = shared.data() + copy.shared;
    if (copy.shared % 16 != 0 || reinterpret_cast<std::uintptr_t>(copy.global) % 16 != 0) stop("a copy that is not aligned to 16 bytes");
    if (copy.shared + 16 > shared.size()) stop("a copy beyond shared memory");
    std::memcpy(target, copy.global, static_cast<std::size_t>(copy.bytes));
    std::memset(target + copy.bytes, 0, static_cast<std::size_t>(16 - copy.bytes));
}

void run_block() {
    const unsigned n = blockDim.x;
    if (n % 32 != 0) stop("a block of no whole warps");
    n_alive = static_cast<int>(n);
    block_arrived = 0;
    std::fill(std::begin(barriers), std::end(barriers), Barrier{});
    warps.assign(n / 32, Warp{});
    std::fill(shared.begin(), shared.end(), static_cast<unsigned char>(0xff));
    if (threads.size() < n) threads.resize(n);
    for (unsigned i = 0; i < n; ++i) {
        Thread& thread = threads[i];
        thread.index = dim3(i, 0, 0);
        thread.is_done = thread.has_begun = thread.has_waited = false;
        thread.groups.assign(1, {});
        if (thread.stack == nullptr) thread.stack = std::make_unique<unsigned char[]>(stack_bytes);
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.get();
        thread.context.uc_stack.ss_size = stack_bytes;
        thread.context.uc_link = nullptr;
        makecontext(&thread.context, enter, 0);
    }
    n_waiting = 0;
    if (predecessor) predecessor(false);
    int idle_rounds = 0;
    while (n_alive > 0) {
        const auto progress = [&] {
            std::uint64_t sum = block_generation + static_cast<std::uint64_t>(n_waiting) + static_cast<std::uint64_t>(n - static_cast<unsigned>(n_alive)) + static_cast<std::uint64_t>(block_arrived);
            for (const Barrier& barrier : barriers) sum += barrier.generation * 2048 + static_cast<std::uint64_t>(barrier.arrived);
            for (const Warp& warp : warps) sum += warp.generation * 64 + static_cast<std::uint64_t>(warp.arrived);
            return sum;
        };
        const std::uint64_t before = progress();
        for (unsigned i = 0; i < n; ++i) {
            Thread& thread = threads[mode == Mode::late_copies_forward ? i : n - 1 - i];
            if (thread.is_done) continue;
            current = &thread;
            threadIdx = thread.index;
            resume(thread);
        }
        idle_rounds = progress() == before ? idle_rounds + 1 : 0;
        if (idle_rounds > 2) stop("threads wait for each other");
    }
}

}  // namespace

void set_mode(Mode next) { mode = next; }
void set_predecessor(std::function<void(bool has_ended)> next) { predecessor = std::move(next); }
void predecessor_ends() {
    if (!predecessor || std::exchange(current->has_waited, true)) return;
    if (++n_waiting == static_cast<int>(blockDim.x)) predecessor(true);
    while (n_waiting < static_cast<int>(blockDim.x)) leave();
}
unsigned char* shared_memory() { return shared.data(); }

void allow_shared(const void* kernel, std::size_t shared_bytes) {
    std::size_t& most = allowed_shared[kernel];
    if (shared_bytes > most) most = shared_bytes;
}
bool can_launch(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes, std::size_t declared_bytes) {
    constexpr std::size_t without_asking = 48 * 1024, most = 99 * 1024;
    const auto allowed = allowed_shared.find(kernel);
    if (grid.y > 65535 || grid.z > 65535 || block.x * block.y * block.z > 1024) return false;
    if (shared_bytes == 0) return true;  // what it declares fits, or it would not have been compiled
    return shared_bytes + declared_bytes <= without_asking || (allowed != allowed_shared.end() && shared_bytes <= allowed->second && shared_bytes + declared_bytes <= most);
}

void run(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel) {
    gridDim = grid;
    blockDim = block;
    shared.assign((shared_bytes + 127) / 128 * 128 + 128, 0);
    body = &kernel;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = mode == Mode::late_copies_forward ? dim3(x, y, z) : dim3(grid.x - 1 - x, grid.y - 1 - y, grid.z - 1 - z);
                run_block();
            }
}

void meet(Meeting kind, const void* input, std::size_t input_bytes, void* output, std::size_t output_bytes, void (*work)(const unsigned char (*)[64], unsigned char (*)[64], int), int argument) {
    Warp& warp = warps[threadIdx.x / 32];
    const unsigned lane = threadIdx.x % 32;
    if (warp.arrived > 0 && warp.kind != kind) stop("lanes of a warp meet at different places");
    warp.kind = kind;
    if (input_bytes > 0) std::memcpy(warp.inputs[lane], input, input_bytes);
    const std::uint64_t generation = warp.generation;
    if (++warp.arrived == 32) {
        work(warp.inputs, warp.outputs, argument);
        warp.arrived = 0;
        ++warp.generation;
    } else {
        while (warp.generation == generation) leave();
    }
    // The next meeting cannot end, and so outputs cannot change, before this lane has come to it.
    if (output_bytes > 0) std::memcpy(output, warp.outputs[lane], output_bytes);
}

void meet_block() {
    const std::uint64_t generation = block_generation;
    if (++block_arrived == n_alive) {
        block_arrived = 0;
        ++block_generation;
        return;
    }
    while (block_generation == generation) leave();
}

void meet_some(int number, int n_threads) {
    if (number < 1 || number > 15 || n_threads % 32 != 0) stop("a barrier that there is not");
    Barrier& barrier = barriers[number];
    if (barrier.arrived > 0 && barrier.expected != n_threads) stop("threads that do not agree how many a barrier is for");
    barrier.expected = n_threads;
    const std::uint64_t generation = barrier.generation;
    if (++barrier.arrived == n_threads) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    while (barrier.generation == generation) leave();
}

void copy_async(std::uint32_t target, const void* global, int bytes) {
    const Copy copy = {target, global, bytes};
    if (mode == Mode::early_copies_backward) land(copy);
    else current->groups.back().push_back(copy);
}
void commit() { current->groups.emplace_back(); }
void wait(int n_pending) {
    auto& groups = current->groups;
    if (n_pending == 0) {  // the uncommitted ones stay
        for (std::size_t i = 0; i + 1 < groups.size(); ++i)
            for (const Copy& copy : groups[i]) land(copy);
        groups.erase(groups.begin(), groups.end() - 1);
        return;
    }
    while (static_cast<int>(groups.size()) - 1 > n_pending) {
        for (const Copy& copy : groups.front()) land(copy);
        groups.erase(groups.begin());
    }
}

}  // namespace emulation

namespace {

struct Product {
    std::uint32_t a[4], b[2];
    float c[4];
};
struct ByteProduct {
    std::uint32_t a[4], b[2];
    int c[4];
};
struct SparseProduct {
    std::uint32_t a[4], b[4], positions;
    float c[4];
};
struct Rows {
    std::uint32_t row;
};

// As PTX defines the fragments of mma.m16n8k16 and ldmatrix.
void product(const unsigned char (*inputs)[64], unsigned char (*outputs)[64], int) {
    float a[16][16], b[16][8];
    Product lanes[32];
    for (int lane = 0; lane < 32; ++lane) {
        std::memcpy(&lanes[lane], inputs[lane], sizeof(Product));
        const int g = lane / 4, t = lane % 4;
        for (int j = 0; j < 4; ++j)
            for (int h = 0; h < 2; ++h) a[g + 8 * (j % 2)][2 * t + h + 8 * (j / 2)] = bf16_to_float(static_cast<std::uint16_t>(lanes[lane].a[j] >> 16 * h));
        for (int j = 0; j < 2; ++j)
            for (int h = 0; h < 2; ++h) b[2 * t + h + 8 * j][g] = bf16_to_float(static_cast<std::uint16_t>(lanes[lane].b[j] >> 16 * h));
    }
    for (int lane = 0; lane < 32; ++lane) {
        float c[4];
        for (int i = 0; i < 4; ++i) {
            double sum = lanes[lane].c[i];
            for (int k = 0; k < 16; ++k) sum += static_cast<double>(a[lane / 4 + 8 * (i / 2)][k]) * b[k][lane % 4 * 2 + i % 2];
            c[i] = static_cast<float>(sum);
        }
        std::memcpy(outputs[lane], c, sizeof c);
    }
}

// As PTX defines the fragments of mma.m16n8k32 of bytes.
void byte_product(const unsigned char (*inputs)[64], unsigned char (*outputs)[64], int) {
    int a[16][32], b[32][8];
    ByteProduct lanes[32];
    for (int lane = 0; lane < 32; ++lane) {
        std::memcpy(&lanes[lane], inputs[lane], sizeof(ByteProduct));
        const int g = lane / 4, t = lane % 4;
        for (int j = 0; j < 4; ++j)
            for (int h = 0; h < 4; ++h) a[g + 8 * (j % 2)][4 * t + h + 16 * (j / 2)] = static_cast<std::int8_t>(lanes[lane].a[j] >> 8 * h);
        for (int j = 0; j < 2; ++j)
            for (int h = 0; h < 4; ++h) b[4 * t + h + 16 * j][g] = static_cast<std::int8_t>(lanes[lane].b[j] >> 8 * h);
    }
    for (int lane = 0; lane < 32; ++lane) {
        int c[4];
        for (int i = 0; i < 4; ++i) {
            c[i] = lanes[lane].c[i];
            for (int k = 0; k < 32; ++k) c[i] += a[lane / 4 + 8 * (i / 2)][k] * b[k][lane % 4 * 2 + i % 2];
        }
        std::memcpy(outputs[lane], c, sizeof c);
    }
}

// As PTX defines the fragments of mma.sp.m16n8k32: `a` and `c` are those of m16n8k16; of `b` register j has rows 8 j + 2 t and the next; a position's word has row g in its low
// half and row g + 8 in its high one, the first pair of four lanes that the selector names has columns 0 to 15 in its first lane and 16 to 31 in its second.
void sparse_product(const unsigned char (*inputs)[64], unsigned char (*outputs)[64], int selector) {
    static_assert(sizeof(SparseProduct) <= 64);
    float a[16][32] = {}, b[32][8];
    SparseProduct lanes[32];
    for (int lane = 0; lane < 32; ++lane) std::memcpy(&lanes[lane], inputs[lane], sizeof(SparseProduct));
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        for (int j = 0; j < 4; ++j) {
            const int chunk = t + 4 * (j / 2);  // of four columns
            const std::uint32_t word = lanes[4 * g + 2 * selector + chunk / 4].positions, nibble = word >> (16 * (j % 2) + 4 * (chunk % 4)) & 15u, first = nibble & 3u, second = nibble >> 2;
            if (first >= second) emulation::stop("positions of a sparse product that do not ascend");
            for (int h = 0; h < 2; ++h) a[g + 8 * (j % 2)][4 * chunk + static_cast<int>(h == 0 ? first : second)] = bf16_to_float(static_cast<std::uint16_t>(lanes[lane].a[j] >> 16 * h));
            for (int h = 0; h < 2; ++h) b[8 * j + 2 * t + h][g] = bf16_to_float(static_cast<std::uint16_t>(lanes[lane].b[j] >> 16 * h));
        }
    }
    for (int lane = 0; lane < 32; ++lane) {
        float c[4];
        for (int i = 0; i < 4; ++i) {
            double sum = lanes[lane].c[i];
            for (int k = 0; k < 32; ++k) sum += static_cast<double>(a[lane / 4 + 8 * (i / 2)][k]) * b[k][lane % 4 * 2 + i % 2];
            c[i] = static_cast<float>(sum);
        }
        std::memcpy(outputs[lane], c, sizeof c);
    }
}

void matrices(const unsigned char (*inputs)[64], unsigned char (*outputs)[64], int transposed) {
    std::uint16_t m[4][8][8];
    for (int lane = 0; lane < 32; ++lane) {
        Rows rows;
        std::memcpy(&rows, inputs[lane], sizeof rows);
        std::memcpy(m[lane / 8][lane % 8], emulation::shared_memory() + rows.row, 16);
    }
    for (int lane = 0; lane < 32; ++lane) {
        std::uint32_t r[4];
        for (int i = 0; i < 4; ++i) {
            const int g = lane / 4, t = lane % 4;
            const std::uint32_t first = transposed != 0 ? m[i][2 * t][g] : m[i][g][2 * t], second = transposed != 0 ? m[i][2 * t + 1][g] : m[i][g][2 * t + 1];
            r[i] = first | second << 16;
        }
        std::memcpy(outputs[lane], r, sizeof r);
    }
}

}  // namespace

void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    const Product mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}};
    emulation::meet(emulation::Meeting::product, &mine, sizeof mine, c, sizeof c, product, 0);
}
void multiply_add_bytes(int (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    const ByteProduct mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}};
    emulation::meet(emulation::Meeting::byte_product, &mine, sizeof mine, c, sizeof c, byte_product, 0);
}
void multiply_add_sparse(float (&c)[4], const std::uint32_t (&a)[4], const uint4& b, std::uint32_t positions, int selector) {
    const SparseProduct mine = {{a[0], a[1], a[2], a[3]}, {b.x, b.y, b.z, b.w}, positions, {c[0], c[1], c[2], c[3]}};
    emulation::meet(emulation::Meeting::sparse_product, &mine, sizeof mine, c, sizeof c, sparse_product, selector);
}
void load_matrices(std::uint32_t (&r)[4], std::uint32_t row) {
    const Rows mine = {row};
    emulation::meet(emulation::Meeting::matrices, &mine, sizeof mine, r, sizeof r, matrices, 0);
}
void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t row) {
    const Rows mine = {row};
    emulation::meet(emulation::Meeting::matrices, &mine, sizeof mine, r, sizeof r, matrices, 1);
}

}  // namespace skiff::cuda

#endif
