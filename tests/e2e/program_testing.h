// Runs the program under test as a shell would.
#pragma once

#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace skiff {

struct ProgramOutput {
    int exit = -1;     // 128 + the signal's number when a signal ended it
    std::string text;  // standard output
};

// The command line `before` SKIFF `arguments`; before may feed its standard input ("echo hi | ").
inline ProgramOutput run_program(const std::string& before, const std::string& arguments) {
    const char* program = std::getenv("SKIFF");
    const std::string command = before + std::string(program ? program : "skiff") + " " + arguments;
    ProgramOutput output;
    FILE* pipe = ::popen(command.c_str(), "r");
    char buffer[4096];
    for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) output.text.append(buffer, n);
    const int state = ::pclose(pipe);
    output.exit = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
    return output;
}

}  // namespace skiff
