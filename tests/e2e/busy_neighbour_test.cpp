// Threads that meet at barriers keep their fair share of a machine on which others work too, and of one with fewer cores than threads.
// timeout: 300
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <thread>
#include <vector>

#include "base/cpu_features.h"
#include "base/progress.h"
#include "base/thread_pool.h"

namespace skiff {
namespace {

void work(std::int64_t n) {
    std::uint32_t x = 1;
    for (std::int64_t i = 0; i < n; ++i) {
        x = x * 1664525u + 1013904223u;
        asm volatile("" ::"r"(x));  // so that it stays a loop
    }
}

// Rounds per second of `n_threads` that each do `amount` of work between two barriers.
double rounds_per_second(int n_threads, std::int64_t amount, double seconds) {
    ThreadPool pool(n_threads);
    std::atomic<bool> stop{false};
    std::int64_t rounds = 0;
    const double begin = monotonic_seconds();
    pool.run([&](int thread) {
        for (;;) {
            work(amount);
            if (thread == 0 && monotonic_seconds() - begin > seconds) stop = true;
            pool.barrier();
            if (stop) break;
            if (thread == 0) ++rounds;
            pool.barrier();
        }
    });
    return static_cast<double>(rounds) / (monotonic_seconds() - begin);
}

class Neighbours {
public:
    explicit Neighbours(int n) {
        for (int i = 0; i < n; ++i)
            if (const pid_t child = ::fork(); child == 0)
                for (volatile std::uint64_t spins = 0;; spins = spins + 1) {
                }
            else if (child > 0) children_.push_back(child);
    }
    ~Neighbours() {
        for (pid_t child : children_) {
            ::kill(child, SIGKILL);
            ::waitpid(child, nullptr, 0);
        }
    }

private:
    std::vector<pid_t> children_;
};

std::int64_t amount_of(double microseconds) {
    const double begin = monotonic_seconds();
    work(4'000'000);
    return static_cast<std::int64_t>(4e6 * microseconds * 1e-6 / (monotonic_seconds() - begin));
}

// Best of three, since the machine that runs this may have neighbours of its own.
double best_share(const std::function<double(double quiet)>& busy, int n_threads, std::int64_t amount) {
    double best = 0;
    for (int round = 0; round < 3; ++round) {
        const double quiet = rounds_per_second(n_threads, amount, 0.3);
        best = std::max(best, busy(quiet));
    }
    return best;
}

TEST(BusyNeighbour, one_more_process_per_core_leaves_a_quarter_at_least) {
    const int n = default_thread_count();
    if (n < 2) GTEST_SKIP() << "one core";
    for (double microseconds : {10.0, 40.0, 200.0}) {
        const std::int64_t amount = amount_of(microseconds);
        const double share = best_share(
            [&](double quiet) {
                Neighbours neighbours(usable_cpus());
                std::this_thread::sleep_for(std::chrono::milliseconds(20));
                return rounds_per_second(n, amount, 1) / quiet;
            },
            n, amount);
        std::printf("steps of %.0f us: %.2f of quiet\n", microseconds, share);
        EXPECT_GE(share, 0.25) << "steps of " << microseconds << " us";
    }
}

TEST(BusyNeighbour, more_threads_than_cores_do_not_collapse) {
    const int n = default_thread_count();
    const std::int64_t amount = amount_of(40);
    // Three times the threads have three times the work in a round.
    const double share = best_share([&](double quiet) { return 3 * rounds_per_second(3 * std::max(n, usable_cpus()), amount, 0.5) / quiet; }, std::max(n, usable_cpus()), amount);
    std::printf("three threads per processor: %.2f of the work\n", share);
    EXPECT_GE(share, 0.25);
}

TEST(BusyNeighbour, the_next_run_finds_threads_awake_or_wakes_them) {
    ThreadPool pool(std::max(2, default_thread_count()));
    for (int gap_us : {0, 20, 300, 3000})
        for (int round = 0; round < 50; ++round) {
            std::this_thread::sleep_for(std::chrono::microseconds(gap_us));
            std::atomic<int> n_ran{0};
            pool.run([&](int) {
                pool.barrier();
                ++n_ran;
            });
            ASSERT_EQ(n_ran.load(), pool.n_threads());
        }
}

}  // namespace
}  // namespace skiff
