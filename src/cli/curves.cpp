// skiff curves: training runs beside each other, as one plot and a table.
#include "base/atomic_file.h"
#include "cli/format.h"
#include "cli/verbs.h"
#include "measure/training_curves.h"

namespace skiff {
namespace {

struct CurvesOptions {
    std::vector<std::string> curves;
    std::string output, title = "Validation loss";

    void fields(FieldVisitor& visitor) {
        visitor.positional("CURVE", curves, "NAME=RUN,RUN,...: a curve's name, and folders that training wrote, which differ in their seed: mean and range are shown", FieldVisitor::Need::required);
        visitor.option("-o,--output", output, "The plot: FILE.svg; default: only the table");
        visitor.option("--title", title, "Headline of the plot");
    }
};

Result<TrainingCurve> parsed_curve(const std::string& text) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) return usage_error(text + ": expected NAME=RUN or NAME=RUN,RUN,...");
    std::vector<std::string> folders;
    for (std::size_t at = equals + 1; at <= text.size();) {
        const std::size_t comma = std::min(text.find(',', at), text.size());
        if (comma > at) folders.push_back(text.substr(at, comma - at));
        at = comma + 1;
    }
    return read_training_curve(text.substr(0, equals), folders);
}

Status curves(CurvesOptions& options, Terminal& terminal) {
    std::vector<TrainingCurve> read;
    Json document = Json::array();
    for (const std::string& text : options.curves) {
        SKIFF_TRY(auto curve, parsed_curve(text));
        document.push_back(Json::object({{"name", curve.name},
                                         {"runs", static_cast<std::uint64_t>(curve.n_runs)},
                                         {"tokens", curve.tokens.back()},
                                         {"mean", curve.mean.back()},
                                         {"lowest", curve.lowest.back()},
                                         {"highest", curve.highest.back()}}));
        read.push_back(std::move(curve));
    }
    if (!options.output.empty()) SKIFF_CHECK(write_file_atomic(options.output, line_plot_svg(training_curves_plot(options.title, read))));
    terminal.print(training_curves_table(read));
    if (!options.output.empty()) terminal.print("wrote " + options.output);
    terminal.result(Json::object({{"curves", document}, {"output", options.output}}));
    return {};
}

}  // namespace

std::unique_ptr<Verb> curves_verb_row() {
    return make_verb<CurvesOptions>("curves", "Show training runs beside each other: their validation loss as a plot and a table", {"skiff curves distilled=kd1,kd2,kd3 alone=a1,a2,a3 -o curves.svg"}, curves);
}

}  // namespace skiff
