#include "cli/subprocess.h"

#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

extern char** environ;

namespace skiff {
namespace {

constexpr const char* own_path = "/proc/self/exe";

std::string resolved_own_path() {
    char buffer[4096];
    const ssize_t n = ::readlink(own_path, buffer, sizeof buffer);
    return n > 0 ? std::string(buffer, static_cast<std::size_t>(n)) : std::string("skiff");
}

// Starts the program; stdout goes to `out_fd` unless that is negative.
Result<pid_t> start(std::string program, const std::vector<std::string>& arguments, int out_fd) {
    std::fflush(stdout);  // what we printed comes before what it prints
    std::vector<char*> argv = {program.data()};
    std::vector<std::string> copies = arguments;
    for (std::string& argument : copies) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    if (out_fd >= 0) ::posix_spawn_file_actions_adddup2(&actions, out_fd, STDOUT_FILENO);
    pid_t pid = 0;
    const int rc = ::posix_spawn(&pid, program.c_str(), &actions, nullptr, argv.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (rc != 0) return runtime_error("cannot start " + program + ": " + std::strerror(rc));
    return pid;
}

Status wait_for(pid_t pid, const std::vector<std::string>& arguments) {
    int state = 0;
    while (::waitpid(pid, &state, 0) < 0) {
        if (errno != EINTR) return runtime_error(std::string("waiting for a part of the work: ") + std::strerror(errno));
    }
    if (WIFEXITED(state) && WEXITSTATUS(state) == 0) return {};
    std::string command = "skiff";
    for (const std::string& argument : arguments) command += " " + argument;
    if (WIFEXITED(state) && WEXITSTATUS(state) == 130) return Error{ErrorCode::interrupted, "interrupted", {}};
    const std::string how =
        WIFSIGNALED(state) ? "was ended by signal " + std::to_string(WTERMSIG(state)) : "ended with exit code " + std::to_string(WEXITSTATUS(state));
    return runtime_error("`" + command + "` " + how);
}

Result<Json> run_json(const std::string& program, const std::vector<std::string>& arguments) {
    std::vector<std::string> all = arguments;
    all.push_back("--json");
    int pipe_fds[2];
    if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return runtime_error(std::string("pipe: ") + std::strerror(errno));
    auto started = start(program, all, pipe_fds[1]);
    ::close(pipe_fds[1]);
    std::string text;
    char buffer[65536];
    for (;;) {
        const ssize_t n = ::read(pipe_fds[0], buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        text.append(buffer, static_cast<std::size_t>(n));
    }
    ::close(pipe_fds[0]);
    if (!started.ok()) return started.take_error();
    SKIFF_CHECK(wait_for(*started, all));
    return Json::parse(text);
}

// A link to this program, or a copy of it under that name, is no sibling: it would look for one in turn, without end.
Result<std::string> find_sibling(const std::string& name) {
    const std::string own = resolved_own_path(), program = own.substr(0, own.rfind('/') + 1) + name;
    char real[PATH_MAX];
    if (::access(program.c_str(), X_OK) != 0 || ::realpath(program.c_str(), real) == nullptr || own == real) return not_found(program + ": no such program");
    return program;
}

}  // namespace

Result<Json> run_self_json(const std::vector<std::string>& arguments) { return run_json(resolved_own_path(), arguments); }

Result<Json> run_sibling_json(const std::string& name, const std::vector<std::string>& arguments) {
    SKIFF_TRY(const auto program, find_sibling(name));
    return run_json(program, arguments);
}

std::string own_program_path() {
    std::string path = resolved_own_path();
    char folder[4096];
    if (::getcwd(folder, sizeof folder) == nullptr) return path;
    const std::string below = std::string(folder) + "/";
    return path.compare(0, below.size(), below) == 0 ? path.substr(below.size()) : path;
}

Status run_self(const std::vector<std::string>& arguments) {
    SKIFF_TRY(auto pid, start(resolved_own_path(), arguments, -1));
    return wait_for(pid, arguments);
}

std::vector<std::string> own_arguments() {
    std::ifstream file("/proc/self/cmdline", std::ios::binary);
    std::vector<std::string> arguments;
    for (std::string argument; std::getline(file, argument, '\0');) arguments.push_back(argument);
    return arguments;
}

Status become_sibling(const std::string& name) {
    SKIFF_TRY(const auto program, find_sibling(name));
    std::vector<std::string> arguments = own_arguments();
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    std::fflush(stdout);
    ::execv(program.c_str(), pointers.data());
    return runtime_error("cannot start " + program + ": " + std::strerror(errno));
}

}  // namespace skiff
