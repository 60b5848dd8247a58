#include <csignal>
#include <unistd.h>

#include "base/progress.h"
#include "cli/parse.h"

namespace {

// The first Ctrl-C asks the work to stop at a safe place, the second ends the program.
void on_interrupt(int) {
    if (skiff::interrupt_requested()) ::_exit(130);
    skiff::request_interrupt();
}

// A mapped model file that becomes shorter while it is read raises this; there is nothing left to read.
void on_bus_error(int) {
    constexpr char message[] = "skiff: error: a model file was truncated while it was being read; restore the file and start again\n";
    [[maybe_unused]] auto written = ::write(STDERR_FILENO, message, sizeof message - 1);
    ::_exit(5);
}

}  // namespace

int main(int argc, char** argv) {
    std::signal(SIGINT, on_interrupt);
    std::signal(SIGTERM, on_interrupt);
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);  // a file over its limit is then an error of write()
    std::signal(SIGBUS, on_bus_error);
    return skiff::run_command_line(argc, argv);
}
