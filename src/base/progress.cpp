#include "base/progress.h"

#include <atomic>
#include <chrono>

namespace skiff {
namespace {
std::atomic<bool> interrupted{false};
}

double monotonic_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

bool interrupt_requested() { return interrupted.load(std::memory_order_relaxed); }
void request_interrupt() { interrupted.store(true, std::memory_order_relaxed); }

}  // namespace skiff
