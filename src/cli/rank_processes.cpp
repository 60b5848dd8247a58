#include "cli/rank_processes.h"

#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "cli/subprocess.h"

extern char** environ;

namespace skiff {
Result<std::unique_ptr<RankProcesses>> start_other_ranks(train::TrainOptions& options, std::int64_t rank, const std::vector<std::string>& more_arguments) {
    auto processes = std::make_unique<RankProcesses>();
    if (options.n_ranks <= 1 || rank >= 0) return processes;
    if (!options.meeting.empty()) return usage_error("--meeting is for ranks that are started by hand: give --rank too");
    std::string pattern = (getenv("TMPDIR") != nullptr ? std::string(getenv("TMPDIR")) : std::string("/tmp")) + "/skiff_ranks_XXXXXX";
    const int fd = ::mkstemp(pattern.data());
    if (fd < 0) return runtime_error(pattern + ": cannot be made: " + std::strerror(errno));
    ::close(fd);
    processes->meeting_file_ = options.meeting = pattern;
    options.rank = 0;
    std::vector<std::string> arguments = own_arguments();
    if (arguments.empty()) return runtime_error("the arguments of this process cannot be read; start the ranks by hand with --rank and --meeting");
    arguments.insert(arguments.end(), more_arguments.begin(), more_arguments.end());
    arguments.insert(arguments.end(), {"--meeting", options.meeting, "--rank", ""});
    for (int other = 1; other < options.n_ranks; ++other) {
        arguments.back() = std::to_string(other);
        std::vector<char*> pointers;
        for (std::string& argument : arguments) pointers.push_back(argument.data());
        pointers.push_back(nullptr);
        pid_t process = 0;
        if (const int error = ::posix_spawn(&process, "/proc/self/exe", nullptr, nullptr, pointers.data(), environ); error != 0)
            return runtime_error("rank " + std::to_string(other) + " cannot be started: " + std::strerror(error));
        processes->processes_.push_back(process);
    }
    processes->watcher_ = std::jthread([watched = processes.get()](const std::stop_token& stop) { watched->watch(stop); });
    return processes;
}

namespace {

constexpr int poll_ms = 100, grace_ms = 10'000;

// Ended, and neither well nor because the user interrupted all ranks. It stays to be waited for.
bool has_failed(int process) {
    siginfo_t info{};
    if (::waitid(P_PID, static_cast<id_t>(process), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) return false;
    return !(info.si_code == CLD_EXITED && (info.si_status == 0 || info.si_status == 130));
}

}  // namespace

void RankProcesses::watch(const std::stop_token& stop) const {
    for (int failed_ms = 0; !stop.stop_requested(); std::this_thread::sleep_for(std::chrono::milliseconds(poll_ms))) {
        if (failed_ms == 0 && std::none_of(processes_.begin(), processes_.end(), has_failed)) continue;
        failed_ms += poll_ms;
        if (failed_ms < grace_ms) continue;
        const char message[] = "skiff: error: another rank failed, and this one waits for it; its message is above. The same command goes on from the last saved state\n";
        [[maybe_unused]] const auto written = ::write(STDERR_FILENO, message, sizeof message - 1);
        end_others();
        ::_exit(1);
    }
}

Status RankProcesses::wait() {
    watcher_ = {};
    Status result;
    for (int& process : processes_) {
        int status = 0;
        while (::waitpid(process, &status, 0) < 0 && errno == EINTR) {}
        if (!(WIFEXITED(status) && WEXITSTATUS(status) == 0) && result.ok()) result = runtime_error("process " + std::to_string(process) + ", another rank, failed; its message is above");
        process = 0;
    }
    processes_.clear();
    return result;
}

RankProcesses::~RankProcesses() {
    watcher_ = {};
    end_others();
}

void RankProcesses::end_others() const {
    for (int process : processes_) {
        ::kill(process, SIGKILL);
        ::waitpid(process, nullptr, 0);
    }
    if (!meeting_file_.empty()) ::unlink(meeting_file_.c_str());
}

}  // namespace skiff
