#include "train/training_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "measure/line_plot.h"

namespace skiff::train {
namespace {

constexpr const char* steps_header = "step,tokens,loss,learning_rate,gradient_norm,seconds\n";
constexpr const char* validation_header = "step,tokens,loss\n";

// The complete lines of a file whose first column is at most `step`, the header among them.
Result<std::string> kept_lines(const std::string& path, const char* header, std::int64_t step) {
    std::string kept = header;
    if (!file_exists(path) || step == 0) return kept;
    SKIFF_TRY(const auto text, read_text_file(path, std::size_t{1} << 30));
    std::size_t at = text.find('\n');
    while (at != std::string::npos) {
        const std::size_t begin = at + 1, end = text.find('\n', begin);
        if (end == std::string::npos) break;
        std::int64_t row_step = 0;
        if (std::from_chars(text.data() + begin, text.data() + end, row_step).ec != std::errc() || row_step > step) break;
        kept.append(text, begin, end + 1 - begin);
        at = end;
    }
    return kept;
}

// The digits that a file keeps.
double as_written(double loss) { return std::strtod(fmt::format("{:.9g}", loss).c_str(), nullptr); }

}  // namespace

Status append_line(const std::string& path, const std::string& line) {
    std::FILE* file = std::fopen(path.c_str(), "ab");
    const bool written = file != nullptr && std::fwrite(line.data(), 1, line.size(), file) == line.size();
    const bool closed = file != nullptr && std::fclose(file) == 0;
    if (written && closed) return {};
    const int reason = errno;
    if (reason == ENOSPC || reason == EDQUOT) return resource_error(path + ": cannot write: " + std::strerror(reason) + "; free some disk space");
    return runtime_error(path + ": cannot write: " + std::strerror(reason));
}

Result<TrainingLog> TrainingLog::open(const std::string& folder, std::int64_t step) {
    TrainingLog log(folder);
    auto take_over = [&](const char* name, const char* header, std::vector<Row>& rows) -> Status {
        const std::string path = join_path(folder, name);
        SKIFF_TRY(const auto lines, kept_lines(path, header, step));
        SKIFF_CHECK(write_file_atomic(path, lines));
        for (std::size_t at = lines.find('\n') + 1; at < lines.size(); at = lines.find('\n', at) + 1) {
            Row row{};
            long long row_step = 0, n_tokens = 0;
            if (std::sscanf(lines.c_str() + at, "%lld,%lld,%lf", &row_step, &n_tokens, &row.loss) != 3) return corrupt(path + ": a line is not a row of numbers; give --restart");
            row.step = row_step;
            row.n_tokens = n_tokens;
            rows.push_back(row);
        }
        return {};
    };
    SKIFF_CHECK(take_over("train.csv", steps_header, log.steps_));
    SKIFF_CHECK(take_over("validation.csv", validation_header, log.validations_));
    return log;
}

Status TrainingLog::add_step(const StepReport& report, std::int64_t n_tokens) {
    steps_.push_back({report.step, n_tokens, as_written(report.loss)});
    return append_line(join_path(folder_, "train.csv"), fmt::format("{},{},{:.9g},{:.6g},{:.6g},{:.3f}\n", report.step, n_tokens, report.loss, report.learning_rate,
                                                                    report.gradient_norm, report.seconds));
}

Status TrainingLog::add_validation(std::int64_t step, std::int64_t n_tokens, double loss) {
    validations_.push_back({step, n_tokens, as_written(loss)});
    return append_line(join_path(folder_, "validation.csv"), fmt::format("{},{},{:.9g}\n", step, n_tokens, loss));
}

Status TrainingLog::write_plot(const std::string& title, const std::string& y_label) const {
    LinePlot plot;
    plot.title = title;
    plot.x_label = "million tokens";
    plot.y_label = y_label;
    auto add = [&](const char* name, LineStyle style, const std::vector<Row>& rows, auto&& value_at) {
        LineSeries line;
        line.name = name;
        line.style = style;
        for (std::size_t i = 0; i < rows.size(); ++i) {
            line.xs.push_back(static_cast<double>(rows[i].n_tokens) / 1e6);
            line.ys.push_back(value_at(i));
        }
        if (!rows.empty()) plot.series.push_back(std::move(line));
    };
    // The mean over a hundredth of the run before each step.
    const std::size_t span = std::max<std::size_t>(1, steps_.size() / 100);
    std::vector<double> sums = {0};
    for (const Row& row : steps_) sums.push_back(sums.back() + row.loss);
    add("one step", LineStyle::pale, steps_, [&](std::size_t i) { return steps_[i].loss; });
    add("training", LineStyle::normal, steps_, [&](std::size_t i) {
        const std::size_t begin = i + 1 > span ? i + 1 - span : 0;
        return (sums[i + 1] - sums[begin]) / static_cast<double>(i + 1 - begin);
    });
    add("validation", LineStyle::normal, validations_, [&](std::size_t i) { return validations_[i].loss; });
    return write_file_atomic(join_path(folder_, "loss.svg"), line_plot_svg(plot));
}

}  // namespace skiff::train
