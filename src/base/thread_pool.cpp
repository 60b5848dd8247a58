#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace skiff {
namespace {

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

// Spin for some microseconds, then give the core away: a busy neighbour must not collapse the speed.
template <class Ready>
void wait_until(Ready ready) {
    for (int spins = 0; !ready(); ++spins) {
        if (spins < 2000) relax();
        else ::sched_yield();
    }
}

}  // namespace

struct ThreadPool::State {
    int n_threads = 1;
    std::vector<std::thread> workers;
    std::mutex mutex;
    std::condition_variable wake;
    const std::function<void(int)>* task = nullptr;
    std::atomic<std::uint64_t> generation{0};
    std::atomic<bool> stopping{false};
    alignas(64) std::atomic<int> n_running{0};
    alignas(64) std::atomic<int> n_arrived{0};
    alignas(64) std::atomic<std::uint32_t> phase{0};

    void work(int thread) {
        std::uint64_t seen = 0;
        for (;;) {
            // A short spin keeps back-to-back runs (one per token) off the futex path.
            for (int spins = 0; spins < 4000 && generation.load(std::memory_order_acquire) == seen && !stopping.load(); ++spins) relax();
            if (generation.load(std::memory_order_acquire) == seen) {
                std::unique_lock lock(mutex);
                wake.wait(lock, [&] { return generation.load() != seen || stopping.load(); });
            }
            if (stopping.load()) return;
            seen = generation.load(std::memory_order_acquire);
            (*task)(thread);
            n_running.fetch_sub(1, std::memory_order_acq_rel);
        }
    }
};

ThreadPool::ThreadPool(int n_threads) : state_(std::make_unique<State>()) {
    state_->n_threads = std::max(1, n_threads);
    for (int thread = 1; thread < state_->n_threads; ++thread) state_->workers.emplace_back([this, thread] { state_->work(thread); });
}

ThreadPool::~ThreadPool() {
    {
        std::lock_guard lock(state_->mutex);
        state_->stopping.store(true);
    }
    state_->wake.notify_all();
    for (auto& worker : state_->workers) worker.join();
}

int ThreadPool::n_threads() const { return state_->n_threads; }

void ThreadPool::run(const std::function<void(int)>& task) {
    if (state_->n_threads == 1) {
        task(0);
        return;
    }
    state_->n_running.store(state_->n_threads - 1, std::memory_order_relaxed);
    {
        std::lock_guard lock(state_->mutex);
        state_->task = &task;
        state_->generation.fetch_add(1, std::memory_order_release);
    }
    state_->wake.notify_all();
    task(0);
    wait_until([&] { return state_->n_running.load(std::memory_order_acquire) == 0; });
}

void ThreadPool::barrier() {
    if (state_->n_threads == 1) return;
    std::uint32_t phase = state_->phase.load(std::memory_order_acquire);
    if (state_->n_arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == state_->n_threads) {
        state_->n_arrived.store(0, std::memory_order_relaxed);
        state_->phase.fetch_add(1, std::memory_order_release);
        return;
    }
    wait_until([&] { return state_->phase.load(std::memory_order_acquire) != phase; });
}

Range share_of(std::int64_t n, int thread, int n_threads, std::int64_t unit) {
    std::int64_t n_units = (n + unit - 1) / unit;
    std::int64_t begin = n_units * thread / n_threads * unit;
    std::int64_t end = n_units * (thread + 1) / n_threads * unit;
    return {std::min(begin, n), std::min(end, n)};
}

}  // namespace skiff
