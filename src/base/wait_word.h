// A number that threads wait on: spinning first, since the others mostly arrive within microseconds, then asleep in the kernel, so that a busy
// neighbour, or more threads than cores, do not collapse the speed.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace skiff {

inline void relax_processor() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb" ::: "memory");  // `yield` does nothing on most cores
#endif
}

inline std::int64_t monotonic_ns() {
    timespec now;
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

class WaitWord {
public:
    std::uint32_t load() const { return value_.load(std::memory_order_acquire); }
    void store(std::uint32_t value) { value_.store(value, std::memory_order_relaxed); }
    // Adds and wakes whoever sleeps. Sleepers count themselves before they look once more, and we count before we look for them.
    std::uint32_t add_and_wake(std::uint32_t amount) {
        const std::uint32_t sum = value_.fetch_add(amount) + amount;
        if (n_sleeping_.load() > 0) ::syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
        return sum;
    }

    // Returns when ready(value). A pause takes 5 to 50 ns depending on the processor, so the limit of the spinning is a time, not a count.
    template <class Ready>
    void wait(Ready ready, std::int64_t spin_ns) {
        if (ready(load())) return;
        if (spin_ns > 0) {
            const std::int64_t end = monotonic_ns() + spin_ns;
            do {
                for (int spins = 0; spins < 32; ++spins) {
                    relax_processor();
                    if (ready(load())) return;
                }
            } while (monotonic_ns() < end);
        }
        n_sleeping_.fetch_add(1);
        for (std::uint32_t seen = value_.load(); !ready(seen); seen = value_.load())
            ::syscall(SYS_futex, &value_, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
        n_sleeping_.fetch_sub(1);
    }

private:
    // Two lines, since processors fetch pairs of them: the value is polled, the count is read only by whoever wakes.
    alignas(128) std::atomic<std::uint32_t> value_{0};
    alignas(128) std::atomic<std::uint32_t> n_sleeping_{0};
    static_assert(sizeof(std::atomic<std::uint32_t>) == 4 && std::atomic<std::uint32_t>::is_always_lock_free);
};

}  // namespace skiff
