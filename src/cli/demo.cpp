// skiff demo: the main job on one model, from parent to proof, in one table. What `make run` shows.
#include <algorithm>

#include "base/atomic_file.h"
#include "base/mapped_file.h"
#include "cli/format.h"
#include "cli/subprocess.h"
#include "cli/verbs.h"

namespace skiff {
namespace {

struct DemoOptions {
    std::string model = "models/pocket", out = "out/demo", text, shape = "bench/shapes/S.json", prompt = "Once upon a time";
    std::vector<std::string> schemes;
    std::int64_t threads = 0, max_windows = 0;

    void fields(FieldVisitor& visitor) {
        visitor.positional("MODEL", model, "The parent, in 16 or 32 bit", FieldVisitor::Need::optional);
        visitor.option("-o,--out", out, "Folder for the children");
        visitor.option("--text", text, "Text for the evaluation; default: heldout.txt in the model's folder");
        visitor.option("--scheme", schemes, "Schemes of the children (may be given several times); default: w8 and w4g32");
        visitor.option("--shape", shape, "Config for the row with random weights, larger than the cache; empty: no such row");
        visitor.option("--prompt", prompt, "Beginning of the text that the last child writes");
        visitor.option("-t,--threads", threads, "Threads; 0: the physical cores");
        visitor.option("--max-windows", max_windows, "Windows of the evaluation; 0: the whole text");
    }
};

struct Row {
    std::string name;
    Json inspect, eval, bench;
};

std::vector<std::string> with_threads(std::vector<std::string> arguments, const DemoOptions& options) {
    if (options.threads > 0) {
        arguments.push_back("--threads");
        arguments.push_back(std::to_string(options.threads));
    }
    return arguments;
}

const Json& result_of(const Json& bench, std::string_view kind) {
    static const Json none;
    for (const Json& result : bench["results"].items())
        if (result["test"].text().compare(0, 2, kind) == 0) return result;
    return none;
}

std::string speed_text(const Json& result) { return number_text(result["tokens_per_s"]["median"].number_or(0), 1); }

std::vector<std::string> cells(const Row& row) {
    const Json& decode = result_of(row.bench, "tg");
    const Json& perplexity = row.eval["perplexity"];
    const Json& against = row.eval["against"];
    const bool random = row.eval.is_null();
    // As stored for models on disk; as packed for random weights, which are nowhere stored.
    const Json& sizes = random ? row.bench["model"] : row.inspect;
    const double parameters = sizes["parameters"].number_or(1), bytes = sizes["weight_bytes"].number_or(0);
    return {row.name,
            bytes_text(static_cast<std::uint64_t>(bytes)),
            number_text(bytes * 8 / parameters, 2),
            random ? "" : number_text(perplexity["value"].number_or(0), 3) + " ± " + number_text(perplexity["stderr"].number_or(0), 3),
            against["mean_kl"].is_number() ? number_text(against["mean_kl"].number_or(0), 5) : "",
            against["top1_agreement"].is_number() ? number_text(100 * against["top1_agreement"].number_or(0), 2) + " %" : "",
            speed_text(result_of(row.bench, "pp")),
            speed_text(decode),
            decode["in_cache"].bool_or(false) ? "in cache" : number_text(100 * decode["share_of_bandwidth"].number_or(0), 0) + " %",
            bytes_text(static_cast<std::uint64_t>(row.bench["peak_memory_bytes"].number_or(0)))};
}

Result<Row> measure(const std::string& name, const std::string& path, const std::vector<std::string>& eval_extra, const DemoOptions& options,
                    Terminal& terminal) {
    Row row{name, {}, {}, {}};
    SKIFF_TRY(row.inspect, run_self_json({"inspect", path}));
    terminal.remark("· " + name + ": evaluating");
    std::vector<std::string> eval = {"eval", path, "--text", options.text};
    eval.insert(eval.end(), eval_extra.begin(), eval_extra.end());
    if (options.max_windows > 0) eval.insert(eval.end(), {"--max-windows", std::to_string(options.max_windows)});
    SKIFF_TRY(row.eval, run_self_json(with_threads(eval, options)));
    terminal.remark("· " + name + ": measuring speed");
    SKIFF_TRY(row.bench, run_self_json(with_threads({"bench", path, "-p", "128", "-n", "64", "-r", "5"}, options)));
    return row;
}

Status print_table(const std::vector<Row>& rows, const Json& parent, const DemoOptions& options, Terminal& terminal) {
    std::vector<std::vector<std::string>> table = {
        {"model", "weights", "bits/weight", "perplexity", "mean KL", "same top-1", "prefill t/s", "decode t/s", "of memory", "peak memory"}};
    Json list = Json::array();
    for (const Row& row : rows) {
        table.push_back(cells(row));
        list.push_back(Json::object({{"name", row.name}, {"inspect", row.inspect}, {"eval", row.eval}, {"bench", row.bench}}));
    }
    const std::string protocol = rows[0].eval["perplexity"]["protocol"].text();
    terminal.print("");
    terminal.print(table_text(table, TableStyle::markdown));
    terminal.print("parent " + parent["hash"].text().substr(0, 16) + " · text " + options.text + " · " + protocol + " · " +
                   std::to_string(rows[0].eval["perplexity"]["tokens"].int_or(0)) + " tokens scored");
    terminal.print("of memory: share of the measured read bandwidth of " + number_text(rows.back().bench["machine"]["read_gbps"].number_or(0), 1) +
                   " GB/s that decoding reaches; \"in cache\" where the weights fit the last-level cache");
    terminal.result(Json::object({{"parent", parent}, {"text", options.text}, {"rows", list}}));
    return {};
}

Status run_demo(DemoOptions& options, Terminal& terminal) {
    if (options.schemes.empty()) options.schemes = {"w8", "w4g32"};
    if (options.text.empty()) options.text = join_path(options.model, "heldout.txt");
    if (!file_exists(options.text)) return not_found(options.text + ": no such text; give --text FILE");
    SKIFF_CHECK(make_directories(options.out));
    SKIFF_TRY(auto parent, run_self_json({"inspect", options.model, "--hash"}));
    if (!terminal.json()) SKIFF_CHECK(run_self({"inspect", options.model}));

    const std::string name = base_name(options.model);
    std::vector<Row> rows;
    SKIFF_TRY(auto first, measure(name, options.model, {}, options, terminal));
    rows.push_back(std::move(first));
    std::string child;
    for (const std::string& scheme : options.schemes) {
        child = join_path(options.out, name + "-" + scheme);
        terminal.remark("· " + name + "-" + scheme + ": quantizing");
        SKIFF_TRY(auto made, run_self_json(with_threads({"quantize", options.model, "-o", child, "--scheme", scheme, "--force"}, options)));
        SKIFF_TRY(auto row, measure(name + "-" + scheme, child, {"--against", options.model}, options, terminal));
        rows.push_back(std::move(row));
    }
    if (!options.shape.empty() && file_exists(options.shape)) {
        const std::string& scheme = options.schemes.back();
        terminal.remark("· random weights of " + options.shape + ": measuring speed");
        Row row{"random:" + base_name(options.shape) + " " + scheme, {}, {}, {}};
        SKIFF_TRY(row.bench,
                  run_self_json(with_threads({"bench", "random:" + options.shape, "--scheme", scheme, "-p", "128", "-n", "32", "-r", "3"}, options)));
        rows.push_back(std::move(row));
    }
    SKIFF_CHECK(print_table(rows, parent, options, terminal));
    if (terminal.json()) return {};
    terminal.print("\n" + child + " writes:\n");
    SKIFF_CHECK(run_self(with_threads({"run", child, "--raw", "-p", options.prompt, "-n", "100", "--temp", "0.7", "--seed", "7"}, options)));
    const std::string program = own_program_path();
    terminal.print("\nnext:");
    terminal.print(table_text({{"  " + program + " run " + child + " --raw -p \"The king said\"", "another text"},
                               {"  " + program + " quantize MODEL -o OUT --scheme w4g32", "a model of yours: a Hugging Face folder"},
                               {"  " + program + " convert " + child + " --to gguf -o child.gguf", "for other programs"},
                               {"  " + program + " --help", "all verbs"}},
                              TableStyle::plain));
    return {};
}

}  // namespace

std::unique_ptr<Verb> demo_verb_row() {
    return make_verb<DemoOptions>("demo", "Quantize a model to 8 and 4 bits, evaluate and measure parent and children, print one table",
                                  {"skiff demo", "skiff demo MODEL --text heldout.txt --scheme w8 --scheme w4g128"}, run_demo);
}

}  // namespace skiff
