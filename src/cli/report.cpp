// skiff report: models beside their parent, measured by the other verbs, as tables and plots.
#include <map>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "base/progress.h"
#include "cli/format.h"
#include "cli/subprocess.h"
#include "cli/verbs.h"
#include "compress/manifest.h"
#include "eval/compression_report.h"

namespace skiff {
namespace {

struct ReportOptions {
    std::vector<std::string> models;
    std::string parent, text, output, title = "Compression report";
    std::int64_t max_windows = 0, prompt = 512, generate = 64, repeats = 3, threads = 0;
    bool no_quality = false, no_speed = false;

    void fields(FieldVisitor& visitor) {
        visitor.positional("DIR", models, "Compressed models; those of earlier reports in the same folder are not measured again", FieldVisitor::Need::required);
        visitor.option("--against", parent, "The parent of them all; it stands in the first row");
        visitor.option("-o,--output", output, "Folder for report.md, report.html, the plots and report.json, which holds every measurement");
        visitor.option("--text", text, "Text to predict; default: heldout.txt in the parent's folder");
        visitor.option("--max-windows", max_windows, "Take only the first windows of the text; 0: all");
        visitor.option("-p,--prompt", prompt, "Tokens of the prefill test; 0: none");
        visitor.option("-n,--generate", generate, "Tokens of the decode test; 0: none");
        visitor.option("-r,--repeats", repeats, "Repetitions of each speed test");
        visitor.option("-t,--threads", threads, "Threads; 0: the physical cores that this process may use");
        visitor.option("--title", title, "Headline of the page");
        visitor.flag("--no-quality", no_quality, "No perplexity and no KL");
        visitor.flag("--no-speed", no_speed, "No speed tests");
    }
};

// Measurements by command line and by the bytes of the model, so that a report that grows measures only what is new.
class Measurements {
public:
    static Result<Measurements> open(const std::string& path) {
        Measurements measurements;
        measurements.path_ = path;
        if (file_exists(path)) {
            SKIFF_TRY(measurements.known_, read_json_file(path));
        }
        if (!measurements.known_.is_object()) measurements.known_ = Json::object();
        return measurements;
    }
    Result<Json> get(const std::vector<std::string>& arguments, const std::string& model_hash) {
        std::string key = model_hash;
        for (const std::string& argument : arguments) key += " " + argument;
        if (const Json* found = known_.find(key)) return *found;
        SKIFF_TRY(auto document, run_self_json(arguments));
        known_.set(key, document);
        SKIFF_CHECK(write_file_atomic(path_, known_.dump(1) + "\n"));
        return document;
    }

private:
    std::string path_;
    Json known_;
};

std::string machine_of(const Json& bench) {
    if (bench.is_null()) return {};
    const Json& machine = bench["machine"];
    return machine["cpu"].text() + ", " + machine["isa"].text() + ", " + counted(machine["threads"].int_or(0), "threads") + ", read bandwidth " + number_text(machine["read_gbps"].number_or(0), 1) + " GB/s";
}

std::vector<std::string> plus(std::vector<std::string> arguments, const std::string& option, const std::string& value) {
    if (!value.empty() && value != "0") arguments.insert(arguments.end(), {option, value});
    return arguments;
}

Status report(ReportOptions& options, Terminal& terminal) {
    if (options.output.empty()) return usage_error("give the folder to write with -o");
    if (options.parent.empty() && !options.no_quality) return usage_error("give the parent with --against, or add --no-quality");
    std::string text = options.text;
    if (text.empty() && !options.no_quality) text = join_path(options.parent, "heldout.txt");
    if (!options.no_quality && !file_exists(text)) return not_found(text + ": no such text; give one with --text, or add --no-quality");
    SKIFF_CHECK(make_directories(options.output));
    SKIFF_TRY(auto measurements, Measurements::open(join_path(options.output, "report.json")));
    std::vector<std::string> models = options.models;
    if (!options.parent.empty()) models.insert(models.begin(), options.parent);

    CompressionReport page;
    page.title = options.title;
    page.tool = std::string("skiff ") + SKIFF_VERSION;
    for (const std::string& path : models) {
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted; what was measured is kept: run the same command again to go on", {}};
        SKIFF_TRY(const Json inspect, run_self_json({"inspect", path, "--hash"}));
        const std::string hash = inspect["hash"].text();
        terminal.remark(path);
        Json eval, bench, manifest;
        if (!options.no_quality) {
            auto arguments = plus(plus({"eval", path, "--text", text}, "--max-windows", std::to_string(options.max_windows)), "-t", std::to_string(options.threads));
            if (path != options.parent) arguments = plus(arguments, "--against", options.parent);
            SKIFF_TRY(eval, measurements.get(arguments, hash));
            page.text = base_name(text) + ", sha256 " + eval["text"]["sha256"].text().substr(0, 12) + ", " + counted(eval["perplexity"]["windows"].int_or(0), "windows") + " of " + std::to_string(eval["perplexity"]["window"].int_or(0)) + " tokens";
        }
        if (!options.no_speed) {
            const auto arguments = plus({"bench", path, "-p", std::to_string(options.prompt), "-n", std::to_string(options.generate), "-r", std::to_string(options.repeats)}, "-t", std::to_string(options.threads));
            SKIFF_TRY(bench, measurements.get(arguments, hash));
            page.machine = machine_of(bench);
        }
        const std::string manifest_path = join_path(path, manifest_file_name);
        if (file_exists(manifest_path)) {
            SKIFF_TRY(manifest, read_json_file(manifest_path));
        }
        page.models.push_back(reported_model(base_name(path), inspect, eval, bench, path == options.parent ? Json() : manifest));
    }
    const auto plots = report_plots(page);
    for (const ReportPlot& plot : plots) SKIFF_CHECK(write_file_atomic(join_path(options.output, plot.file_name), plot.svg));
    SKIFF_CHECK(write_file_atomic(join_path(options.output, "report.md"), report_markdown(page, plots)));
    SKIFF_CHECK(write_file_atomic(join_path(options.output, "report.html"), report_html(page, plots)));
    terminal.print("wrote " + join_path(options.output, "report.html") + " and report.md: " + counted(static_cast<std::int64_t>(page.models.size()), "models") + ", " + counted(static_cast<std::int64_t>(plots.size()), "plots"));
    terminal.result(Json::object({{"output", options.output}, {"models", static_cast<std::uint64_t>(page.models.size())}, {"plots", static_cast<std::uint64_t>(plots.size())}}));
    return {};
}

}  // namespace

std::unique_ptr<Verb> report_verb_row() {
    return make_verb<ReportOptions>("report", "Compare models with their parent on one page: tables and plots", {"skiff report pocket-w8 pocket-w4 --against models/pocket -o report"}, report);
}

}  // namespace skiff
