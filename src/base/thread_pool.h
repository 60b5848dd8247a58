// Persistent worker threads that all run the same function (single program, multiple data), with a barrier among them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace skiff {

class ThreadPool {
public:
    // The calling thread is one of them; workers wait awake for the next run for 0.1 ms, then sleep. Where the system gives fewer threads, n_threads() is less.
    explicit ThreadPool(int n_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int n_threads() const;
    // Runs task(thread) for thread = 0 .. n_threads-1, thread 0 on the caller; returns when all are done. Not reentrant. What task throws
    // ends the program, unless n_threads() is 1.
    void run(const std::function<void(int)>& task);
    // Only inside run(): returns when every thread has arrived. Spins briefly, then sleeps.
    void barrier();

private:
    struct State;
    std::unique_ptr<State> state_;
};

// Half-open share of [0, n) for one of `n_threads`, in multiples of `unit` but for the end.
struct Range {
    std::int64_t begin, end;
};
Range share_of(std::int64_t n, int thread, int n_threads, std::int64_t unit = 1);

}  // namespace skiff
