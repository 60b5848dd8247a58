// Runs a network on this machine's kernels: each operator becomes one or two steps, shared by all threads, with a barrier behind each.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "net/net.h"

namespace skiff::net {

struct SessionOptions {
    int n_threads = 1;
    Isa isa = best_isa();
    KernelChoice kernels = KernelChoice::fastest;  // reference: plain code with float activations
    std::int64_t batch = 16;                       // images at a time; the result does not depend on it
};

struct StepContext {
    int thread, n_threads;
    std::int64_t n_images;
    std::byte* scratch;  // of this thread
    Range share(std::int64_t n, std::int64_t unit = 1) const { return share_of(n, thread, n_threads, unit); }
};
struct Step {
    std::string name, kernel;
    std::function<void(const StepContext&)> run;
};

class Session {
public:
    static Result<std::unique_ptr<Session>> create(const Net& net, const SessionOptions& options);
    ~Session();

    const ValueShape& input() const { return resolved_.shapes.front(); }
    const SessionOptions& options() const { return options_; }  // its batch: fewer images than asked for where so many would take more than 16 GiB
    const ValueShape& output() const { return resolved_.shapes.back(); }
    // x: (n_images, height, width, channels) f32; y: (n_images, output) f32
    void run(const float* x, std::int64_t n_images, float* y);

    const std::vector<Step>& steps() const { return steps_; }
    // Of the last run(), added up over its batches. // seconds of each step
    const std::vector<double>& seconds() const { return seconds_; }
    // The value of an operator in the last batch of run(). // (n_images of that batch, height, width, channels) f32
    const float* value(std::size_t op) const { return values_[op + 1]; }

private:
    Session(const Net& net, const SessionOptions& options, Resolved resolved);
    friend class Lowering;

    SessionOptions options_;
    Resolved resolved_;
    std::map<std::string, Weight> weights_;  // their owners
    std::vector<AlignedBuffer> buffers_;     // of a batch; of values that are an earlier one's numbers: empty
    std::vector<float*> values_;             // (batch, height, width, channels) f32
    std::vector<AlignedBuffer> scratch_;     // of each thread
    std::vector<Step> steps_;
    std::vector<double> seconds_;
    ThreadPool pool_;
};

}  // namespace skiff::net
