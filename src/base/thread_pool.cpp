#include "base/thread_pool.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

namespace skiff {
namespace {

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// A number that threads wait on: spinning first, since the others mostly arrive within microseconds, then asleep in the kernel, so that a
// busy neighbour, or more threads than cores, do not collapse the speed.
class WaitWord {
public:
    std::uint32_t load() const { return value_.load(std::memory_order_acquire); }
    void store(std::uint32_t value) { value_.store(value); }
    // Adds and wakes whoever sleeps.
    std::uint32_t add_and_wake(std::uint32_t amount) {
        const std::uint32_t sum = value_.fetch_add(amount) + amount;
        if (n_sleeping_.load() > 0) ::syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
        return sum;
    }

    template <class Ready>
    void wait(Ready ready) {
        for (int spins = 0; spins < 2000; ++spins) {
            if (ready(load())) return;
            relax();
        }
        n_sleeping_.fetch_add(1);
        for (std::uint32_t seen = value_.load(); !ready(seen); seen = value_.load())
            ::syscall(SYS_futex, &value_, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
        n_sleeping_.fetch_sub(1);
    }

private:
    alignas(64) std::atomic<std::uint32_t> value_{0};
    std::atomic<std::uint32_t> n_sleeping_{0};
    static_assert(sizeof(std::atomic<std::uint32_t>) == 4 && std::atomic<std::uint32_t>::is_always_lock_free);
};

}  // namespace

struct ThreadPool::State {
    int n_threads = 1;
    std::vector<std::thread> workers;
    const std::function<void(int)>* task = nullptr;
    std::atomic<bool> stopping{false};
    WaitWord generation;  // one more for every run
    WaitWord n_done;      // workers that have finished this run
    WaitWord phase;       // one more for every barrier passed
    alignas(64) std::atomic<int> n_arrived{0};

    void work(int thread) noexcept {
        for (std::uint32_t seen = 0;;) {
            generation.wait([&](std::uint32_t value) { return value != seen; });
            seen = generation.load();
            if (stopping.load()) return;
            (*task)(thread);
            n_done.add_and_wake(1);
        }
    }
};

ThreadPool::ThreadPool(int n_threads) : state_(std::make_unique<State>()) {
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
    [&]() noexcept { task(0); }();  // must not leave while the others work
    state_->n_done.wait([&](std::uint32_t done) { return done == static_cast<std::uint32_t>(state_->n_threads - 1); });
}

void ThreadPool::barrier() {
    if (state_->n_threads == 1) return;
    const std::uint32_t phase = state_->phase.load();
    if (state_->n_arrived.fetch_add(1) + 1 == state_->n_threads) {
        state_->n_arrived.store(0);
        state_->phase.add_and_wake(1);
        return;
    }
    state_->phase.wait([&](std::uint32_t value) { return value != phase; });
}

Range share_of(std::int64_t n, int thread, int n_threads, std::int64_t unit) {
    std::int64_t n_units = (n + unit - 1) / unit;
    std::int64_t begin = n_units * thread / n_threads * unit;
    std::int64_t end = n_units * (thread + 1) / n_threads * unit;
    return {std::min(begin, n), std::min(end, n)};
}

}  // namespace skiff
