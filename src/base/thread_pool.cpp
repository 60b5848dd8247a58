#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/cpu_features.h"
#include "base/topology.h"
#include "base/wait_word.h"

namespace skiff {
namespace {

// Longer than the steps of a plan differ between threads, and than waking a thread takes (about 20 us). While a thread spins, its core does nothing
// for whoever else wants it, so this also bounds what a busy neighbour costs; docs/performance.md has the measurements.
constexpr std::int64_t barrier_spin_ns = 50'000;
// Between two tokens lies the sampler. A worker that is still awake when the next token begins saves waking it.
constexpr std::int64_t idle_spin_ns = 100'000;

thread_local int thread_of_pool = 0;  // the number that run() gave this thread; a caller of run() is 0

}  // namespace

struct ThreadPool::State {
    int n_threads = 1;
    std::int64_t barrier_spin = barrier_spin_ns, idle_spin = idle_spin_ns;
    std::vector<std::thread> workers;
    std::vector<int> nodes;  // of memory, that each thread stays on; empty: the system may move them
    const std::function<void(int)>* task = nullptr;
    std::atomic<bool> stopping{false};
    WaitWord generation;  // one more for every run
    WaitWord n_done;      // workers that have finished this run
    WaitWord phase;       // one more for every barrier passed
    alignas(128) std::atomic<int> n_arrived{0};
    // The processor that each thread was last seen on. Looked at in every barrier, written when a thread has moved.
    std::vector<std::atomic<int>> processors;

    void note_processor(int thread) {
        std::atomic<int>& noted = processors[static_cast<std::size_t>(thread)];
        if (const int mine = ::sched_getcpu(); noted.load(std::memory_order_relaxed) != mine) noted.store(mine, std::memory_order_relaxed);
    }

    // How long `thread` may spin. Where another of the pool shares its processor, spinning would keep that one from running: asleep, whoever wakes us
    // also gets us a processor of our own, if one is free.
    std::int64_t spin(int thread, std::int64_t limit) const {
        const int mine = processors[static_cast<std::size_t>(thread)].load(std::memory_order_relaxed);
        for (std::size_t other = 0; other < processors.size(); ++other)
            if (other != static_cast<std::size_t>(thread) && processors[other].load(std::memory_order_relaxed) == mine) return 0;
        return limit;
    }

    void work(int thread) noexcept {
        thread_of_pool = thread;
        if (!nodes.empty()) stay_on_node(this_machine(), nodes[static_cast<std::size_t>(thread)]);
        for (std::uint32_t seen = 0;;) {
            note_processor(thread);
            generation.wait([&](std::uint32_t value) { return value != seen; }, spin(thread, idle_spin));
            seen = generation.load();
            if (stopping.load()) return;
            (*task)(thread);
            n_done.add_and_wake(1);
        }
    }
};

ThreadPool::ThreadPool(int n_threads) : state_(std::make_unique<State>()) {
    // With more threads than cores, whoever spins keeps the one it waits for from running.
    if (n_threads > usable_cpus()) state_->barrier_spin = state_->idle_spin = 0;
    if (n_threads > 1) state_->nodes = nodes_of_threads(this_machine(), n_threads);
    state_->processors = std::vector<std::atomic<int>>(static_cast<std::size_t>(std::max(1, n_threads)));
    for (auto& processor : state_->processors) processor.store(-1);
    state_->workers.reserve(static_cast<std::size_t>(std::max(1, n_threads)) - 1);
    try {
        for (int thread = 1; thread < n_threads; ++thread) state_->workers.emplace_back([this, thread] { state_->work(thread); });
    } catch (const std::system_error&) {
        // No room for another stack, or a limit on processes: go on with those that came, since results do not depend on their number.
    }
    state_->n_threads = static_cast<int>(state_->workers.size()) + 1;
}

ThreadPool::~ThreadPool() {
    state_->stopping.store(true);
    state_->generation.add_and_wake(1);
    for (auto& worker : state_->workers) worker.join();
}

int ThreadPool::n_threads() const { return state_->n_threads; }

void ThreadPool::run(const std::function<void(int)>& task) {
    if (state_->n_threads == 1) {
        task(0);
        return;
    }
    state_->n_done.store(0);
    state_->task = &task;
    state_->generation.add_and_wake(1);
    const int outer = std::exchange(thread_of_pool, 0);  // the caller may be a worker of another pool
    [&]() noexcept { task(0); }();                       // must not leave while the others work
    thread_of_pool = outer;
    state_->note_processor(0);
    state_->n_done.wait([&](std::uint32_t done) { return done == static_cast<std::uint32_t>(state_->n_threads - 1); }, state_->spin(0, state_->barrier_spin));
}

void ThreadPool::barrier() {
    if (state_->n_threads == 1) return;
    const std::uint32_t phase = state_->phase.load();
    state_->note_processor(thread_of_pool);
    if (state_->n_arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == state_->n_threads) {
        state_->n_arrived.store(0, std::memory_order_relaxed);  // the others see it before the phase
        state_->phase.add_and_wake(1);
        return;
    }
    state_->phase.wait([&](std::uint32_t value) { return value != phase; }, state_->spin(thread_of_pool, state_->barrier_spin));
}

Range share_of(std::int64_t n, int thread, int n_threads, std::int64_t unit) {
    std::int64_t n_units = (n + unit - 1) / unit;
    std::int64_t begin = n_units * thread / n_threads * unit;
    std::int64_t end = n_units * (thread + 1) / n_threads * unit;
    return {std::min(begin, n), std::min(end, n)};
}

}  // namespace skiff
