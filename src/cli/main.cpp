#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <exception>
#include <new>
#include <string_view>

#include "base/progress.h"
#include "cli/parse.h"

namespace {

// The first Ctrl-C asks the work to stop at a safe place, the second ends the program.
void on_interrupt(int) {
    if (skiff::interrupt_requested()) ::_exit(130);
    skiff::request_interrupt();
}

void write_error(std::string_view message) { [[maybe_unused]] auto written = ::write(STDERR_FILENO, message.data(), message.size()); }

// A mapped model file that becomes shorter while it is read raises this; there is nothing left to read.
void on_bus_error(int) {
    write_error("skiff: error: a model file was truncated while it was being read; restore the file and start again\n");
    ::_exit(5);
}

// Memory that runs out on a worker thread cannot come back to the verb as an exception.
void on_terminate() {
    if (const std::exception_ptr current = std::current_exception()) {
        try {
            std::rethrow_exception(current);
        } catch (const std::bad_alloc&) {
            write_error("skiff: error: out of memory; close other programs, or take a smaller model, context or batch\n");
            ::_exit(4);
        } catch (const std::exception& error) {
            write_error("skiff: internal error: ");
            write_error(error.what());
            write_error("\n");
        } catch (...) {
        }
    }
    std::abort();
}

}  // namespace

int main(int argc, char** argv) {
    std::signal(SIGINT, on_interrupt);
    std::signal(SIGTERM, on_interrupt);
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);  // a file over its limit is then an error of write()
    std::signal(SIGBUS, on_bus_error);
    std::set_terminate(on_terminate);
    return skiff::run_command_line(argc, argv);
}
