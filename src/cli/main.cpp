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

}  // namespace

int main(int argc, char** argv) {
    std::signal(SIGINT, on_interrupt);
    std::signal(SIGPIPE, SIG_IGN);
    return skiff::run_command_line(argc, argv);
}
