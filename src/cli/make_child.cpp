#include "cli/make_child.h"

#include <iterator>

#include "backend/device_blocks.h"
#include "base/thread_pool.h"
#include "cli/format.h"
#include "train/train.h"

namespace skiff {
namespace {

Json estimate_json(const WorkEstimate& estimate) {
    return Json::object({{"bytes_before", estimate.bytes_before},
                         {"bytes_after", estimate.bytes_after},
                         {"bits_per_weight", estimate.bits_per_weight},
                         {"memory_bytes", estimate.memory_bytes},
                         {"disk_bytes", estimate.disk_bytes},
                         {"free_disk_bytes", estimate.free_disk_bytes},
                         {"seconds", estimate.seconds}});
}

std::string estimate_text(const WorkEstimate& estimate) {
    return "weights " + bytes_text(estimate.bytes_before) + " -> " + bytes_text(estimate.bytes_after) + " · memory about " + bytes_text(estimate.memory_bytes) + " · disk " +
           bytes_text(estimate.disk_bytes) + " of " + bytes_text(estimate.free_disk_bytes) + " free · about " + duration_text(estimate.seconds);
}

// n_stored: of all numbers, those that stand in the files where zeros are left out; 0: all.
std::string table_of(const Manifest& manifest, std::uint64_t n_stored) {
    std::uint64_t n_elements = 0, bytes = 0, n_changed = 0;
    double largest = 0;
    std::string worst;
    for (const ManifestTensor& tensor : manifest.tensors) {
        n_elements += tensor.n_elements;
        bytes += tensor.bytes;
        n_changed += tensor.relative_squared_error > 0;
        if (tensor.relative_squared_error > largest) largest = tensor.relative_squared_error, worst = tensor.key;
    }
    const auto share = [](double part, double whole) { return number_text(whole > 0 ? 100 * part / whole : 0, 1) + " %"; };
    const auto n_before = static_cast<double>(manifest.parent.n_elements);
    const auto counts = [&](const char* what, std::uint64_t n) { return std::vector<std::string>{what, count_text(n_before), count_text(static_cast<double>(n)), share(static_cast<double>(n), n_before)}; };
    std::vector<std::vector<std::string>> rows = {{"", "before", "after", ""}, counts("parameters", n_elements)};
    if (n_stored != 0 && n_stored != n_elements) rows.push_back(counts("of them stored", n_stored));
    rows.push_back({"bytes", bytes_text(manifest.parent.bytes), bytes_text(bytes), share(static_cast<double>(bytes), static_cast<double>(manifest.parent.bytes))});
    return table_text(rows, TableStyle::plain) +
           counted(static_cast<std::int64_t>(manifest.tensors.size()), "tensors") + ", " + std::to_string(n_changed) + " changed" +
           (worst.empty() ? "" : "; largest squared error " + number_text(largest * 100, 2) + " % in " + worst);
}

}  // namespace

std::vector<std::string> text_options(const std::vector<std::string>& typed) {
    std::vector<std::string> names;
    std::copy_if(typed.begin(), typed.end(), std::back_inserter(names), [](const std::string& name) { return name.starts_with("--calibration"); });
    return names;
}

void ChildOptions::model_and_output(FieldVisitor& visitor) {
    visitor.typed(typed);
    visitor.positional("MODEL", model, "A Hugging Face folder, or random:CONFIG.json", FieldVisitor::Need::required);
    visitor.option("-o,--output", output, "Folder to write; it appears when it is complete");
}

void ChildOptions::calibration_fields(FieldVisitor& visitor) {
    visitor.option("--calibration", calibration, "Text that methods which look at the data are shown, .txt or .jsonl; default: a few pages that the program holds. Never the text of an evaluation");
    visitor.option("--calibration-samples", calibration_samples, "Stretches of that text");
    visitor.option("--calibration-tokens", calibration_tokens, "Tokens of each");
}

void ChildOptions::device_field(FieldVisitor& visitor) {
    visitor.choice("--device", device, {"cpu", "cuda"}, "What runs the model on the calibration text and adds up what its operators are fed; cuda: an NVIDIA GPU (skiff doctor), with its roundings");
}

Result<std::unique_ptr<BlockRunner>> calibration_device(const std::string& device) {
    if (device == "cpu") return std::unique_ptr<BlockRunner>();
    DeviceChoice choice;
    choice.kind = DeviceChoice::Kind::cuda;
    return make_device_blocks(choice);
}

void ChildOptions::run_fields(FieldVisitor& visitor) {
    visitor.flag("--force", force, "Replace the output folder if it exists; the old one stays until the new one is complete");
    visitor.flag("--restart", restart, "Drop an unfinished run of the same output instead of going on with it");
    visitor.flag("--dry-run", dry_run, "Say sizes, memory, disk and time, and stop; what is chosen by measuring is measured");
    visitor.option("-t,--threads", threads, "Threads; 0: the physical cores that this process may use. The result does not depend on it");
    visitor.option("--max-shard-mb", max_shard_mb, "Largest weight file, in millions of bytes");
    visitor.flag("-v,--verbose", verbose, "A line for each tensor");
}

Status ChildOptions::check() const {
    if (threads < 0 || threads > 1024) return usage_error("--threads " + std::to_string(threads) + ": expected 0 to 1024");
    if (max_shard_mb < 1 || max_shard_mb > 1'000'000) return usage_error("--max-shard-mb " + std::to_string(max_shard_mb) + ": expected 1 to 1000000");
    if (output.empty() && !dry_run) return usage_error("give the folder to write with -o");
    return {};
}

Status make_child(const ChildOptions& options, const Checkpoint& parent, const Recipe& recipe, Terminal& terminal) {
    std::vector<std::string> printed;  // before the work
    std::uint64_t n_stored = 0;
    CompressOptions compress;
    compress.output = options.output.empty() ? "." : options.output;
    compress.if_exists = options.force ? AtomicDirectory::IfExists::replace : AtomicDirectory::IfExists::refuse;
    compress.unfinished = options.restart ? CompressOptions::Unfinished::restart : CompressOptions::Unfinished::resume;
    compress.work = options.dry_run ? CompressOptions::Work::estimate_only : CompressOptions::Work::full;
    compress.n_threads = options.threads > 0 ? static_cast<int>(options.threads) : default_thread_count();
    compress.gradients = train::gradient_source();
    SKIFF_TRY(const auto blocks, calibration_device(options.device));
    compress.blocks = blocks.get();
    compress.max_shard_bytes = static_cast<std::uint64_t>(options.max_shard_mb) * 1'000'000;
    compress.text_options = text_options(options.typed);
    compress.progress = terminal.progress("");
    compress.on_plan = [&](const TensorPlan& plan, const WorkEstimate& estimate) {
        terminal.end_progress();
        compress.progress = terminal.progress(" MiB");  // the clock of the work itself
        for (const PlannedTensor& tensor : plan.tensors) n_stored += tensor.n_stored > 0 ? tensor.n_stored : tensor.n_elements;
        for (const std::string& remark : plan.remarks) terminal.remark("note: " + remark);
        printed.insert(printed.end(), plan.remarks.begin(), plan.remarks.end());
        if (options.dry_run) terminal.print(estimate_text(estimate));
        else terminal.remark(estimate_text(estimate));
    };
    if (options.verbose)
        compress.on_tensor = [&](const ManifestTensor& tensor) {
            terminal.remark(tensor.key + ": " + bytes_text(tensor.bytes) + ", squared error " + number_text(tensor.relative_squared_error * 100, 4) + " %");
        };
    SKIFF_TRY(const auto report, run_recipe(parent, recipe, compress));
    terminal.end_progress();
    for (const std::string& remark : report.remarks)
        if (std::find(printed.begin(), printed.end(), remark) == printed.end()) terminal.remark("note: " + remark);
    Json document = Json::object({{"estimate", estimate_json(report.estimate)}});
    if (!options.dry_run) {
        if (report.n_resumed > 0) terminal.remark("went on with an unfinished run: " + std::to_string(report.n_resumed) + " tensors were done");
        terminal.print(table_of(report.manifest, n_stored));
        terminal.print("wrote " + options.output + " in " + duration_text(report.seconds) + "; try: skiff run " + options.output);
        document.set("output", options.output);
        document.set("seconds", report.seconds);
        document.set("resumed_tensors", static_cast<std::uint64_t>(report.n_resumed));
        document.set("manifest", manifest_json(report.manifest));
    }
    Json remarks = Json::array();
    for (const std::string& remark : report.remarks) remarks.push_back(remark);
    document.set("remarks", remarks);
    terminal.result(document);
    return {};
}

}  // namespace skiff
