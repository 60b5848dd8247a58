// Progress of long work, told to whoever listens (the command line draws a bar on stderr; the library itself prints nothing).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace skiff {

struct ProgressEvent {
    std::string phase;       // "quantize", "evaluate"
    std::string item;        // what was just done, such as a tensor's name
    std::uint64_t done = 0;  // in units of work
    std::uint64_t total = 0;
};
using ProgressSink = std::function<void(const ProgressEvent&)>;

// Seconds on a clock that never goes back.
double monotonic_seconds();

// Set by the signal handler of the command line, asked by long loops, which then return ErrorCode::interrupted.
bool interrupt_requested();
void request_interrupt();

}  // namespace skiff
