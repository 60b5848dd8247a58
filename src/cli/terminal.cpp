#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "cli/format.h"
#include "cli/verb.h"

namespace skiff {

void Terminal::print(std::string_view text) {
    if (json_) return;
    std::fwrite(text.data(), 1, text.size(), stdout);
    if (text.empty() || text.back() != '\n') std::fputc('\n', stdout);
}

void Terminal::print_raw(std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
}

void Terminal::remark(std::string_view text) {
    end_progress();
    std::fwrite(text.data(), 1, text.size(), stderr);
    if (text.empty() || text.back() != '\n') std::fputc('\n', stderr);
}

void Terminal::result(const Json& document) {
    if (!json_) return;
    std::string text = document.dump(2);
    std::fprintf(stdout, "%s\n", text.c_str());
}

ProgressSink Terminal::progress(std::string_view unit) {
    if (::isatty(STDERR_FILENO) == 0 && std::getenv("SKIFF_PROGRESS") == nullptr) return nullptr;
    progress_begin_ = monotonic_seconds();
    progress_last_ = 0;
    return [this, unit = std::string(unit)](const ProgressEvent& event) {
        const double now = monotonic_seconds(), elapsed = now - progress_begin_;
        if (now - progress_last_ < 0.1 && event.done < event.total) return;
        progress_last_ = now;
        progress_shown_ = true;
        const double share = event.total > 0 ? static_cast<double>(event.done) / static_cast<double>(event.total) : 0;
        const int cells = static_cast<int>(share * 24);
        std::string bar;
        for (int i = 0; i < 24; ++i) bar += i < cells ? "█" : " ";
        std::string eta = share > 0 && share < 1 ? "  ETA " + duration_text(elapsed / share * (1 - share)) : "  " + duration_text(elapsed);
        std::fprintf(stderr, "\r\033[K%s %3.0f%% ▕%s▏ %llu/%llu %s%s  %.40s", event.phase.c_str(), share * 100, bar.c_str(),
                     static_cast<unsigned long long>(event.done), static_cast<unsigned long long>(event.total), unit.c_str(), eta.c_str(),
                     event.item.c_str());
        std::fflush(stderr);
    };
}

void Terminal::end_progress() {
    if (!progress_shown_) return;
    std::fprintf(stderr, "\r\033[K");
    progress_shown_ = false;
}

}  // namespace skiff
