// skiff convert: a model in another file format.
#include <map>

#include "base/atomic_file.h"
#include "base/cpu_features.h"
#include "base/mapped_file.h"
#include "base/output_place.h"
#include "cli/format.h"
#include "cli/net_child.h"
#include "cli/verbs.h"
#include "compress/export_coded.h"
#include "compress/export_gguf.h"
#include "compress/export_hf.h"
#include "compress/export_quantized.h"
#include "compress/onnx/onnx_net.h"
#include "model/dense_weights.h"
#include "model/input_order.h"
#include "model/shared_layers.h"
#include "net/images.h"

namespace skiff {
namespace {

struct ConvertOptions {
    std::string model, output, to = "gguf", type = "auto", head_type = "auto", embedding_type = "auto";
    std::string form = "auto", activations = "real", data;
    std::int64_t threads = 0, context = 0;
    bool force = false, dry_run = false, densify = false;
    std::vector<std::string> typed;

    void fields(FieldVisitor& visitor) {
        visitor.typed(typed);
        visitor.positional("MODEL", model, "A Hugging Face folder, a .gguf file, random:CONFIG.json, or (--to onnx) a network of convolutions", FieldVisitor::Need::required);
        visitor.choice("--to", to, {"gguf", "hf", "onnx", "gptq", "awq", "coded", "uncoded"},
                       "gguf: one file for llama.cpp and its relatives; hf: a Hugging Face folder of plain weights; onnx: a graph with keys and values in and "
                       "out, for onnxruntime and what is built on it; gptq, awq: a folder of integer codes as they are, for a model that is quantized already; coded: "
                       "the same folder with its weight files entropy coded, without loss, decoded when the model is opened; uncoded: back again");
        visitor.option("-o,--output", output, "The file or folder to write; it appears when it is complete");
        visitor.option("--type", type,
                       "Type of the weights: auto (as they are, where the format can), F32, F16, BF16; GGUF also Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, "
                       "Q5_K, Q6_K, IQ4_NL; ONNX: F32 (auto) or F16, of floats and of all arithmetic");
        visitor.option("--head-type", head_type,
                       "GGUF: type of the head and of an embedding tied to it; auto: as --type, but at least 8 bits (Q6_K with K types)");
        visitor.option("--embedding-type", embedding_type, "GGUF: type of the embedding, by the same rule");
        visitor.choice("--form", form, {"auto", "nbits", "qdq", "qonnx", "float"},
                       "ONNX: what quantized weights become. nbits: MatMulNBits, or DequantizeLinear where a row has one scale; qdq: DequantizeLinear, "
                       "blocked; qonnx: QONNX's Quant; float: plain numbers. auto: nbits, of networks of convolutions qdq");
        visitor.choice("--activations", activations, {"real", "int8"},
                       "ONNX. int8: inputs of matrices and convolutions in 8 bits too. Decoders, --form qonnx: a scale for 32 of them, computed as they come; "
                       "networks of convolutions, qdq or qonnx: one fixed scale for each input, from --data");
        visitor.option("--data", data, "Networks of convolutions, --activations int8: images to find ranges with. IMAGES,LABELS: two IDX files; digits:N[:SEED]: drawn ones");
        visitor.flag("--densify", densify, "Write what has no form there instead of refusing it. GGUF: zeros of pruned weights, and one matrix for low-rank factors and outliers; ONNX: floats");
        visitor.option("--context", context, "ONNX: tokens that a sequence may have (rows of the rope tables); 0: as many as the model's");
        visitor.option("-t,--threads", threads, "Threads; 0: the physical cores that this process may use");
        visitor.flag("--force", force, "Replace an output that exists");
        visitor.flag("--dry-run", dry_run, "Say what would be written, and write nothing");
    }
};

// What was or would be written, for people and for --json.
struct Outcome {
    std::string output;
    std::uint64_t bytes = 0;
    std::vector<std::vector<std::string>> rows = {{"type", "tensors", "weights", "bytes"}};
    Json types = Json::object();
    std::vector<std::string> notes;
};

struct Count {
    std::int64_t tensors = 0, weights = 0;
    std::uint64_t bytes = 0;
};

void fill(Outcome& outcome, const std::map<std::string, Count>& counts) {
    for (const auto& [name, count] : counts) {
        outcome.rows.push_back({name, std::to_string(count.tensors), count_text(static_cast<double>(count.weights)), bytes_text(count.bytes)});
        outcome.types.set(name, Json::object({{"tensors", count.tensors}, {"weights", count.weights}, {"bytes", count.bytes}}));
        outcome.bytes += count.bytes;
    }
}

void report(const ConvertOptions& options, const Outcome& outcome, Terminal& terminal) {
    const std::string where = outcome.output.empty() ? "" : outcome.output + ", ";
    terminal.print((options.dry_run ? "would write " : "wrote ") + where + bytes_text(outcome.bytes) + " of weights");
    terminal.print(table_text(outcome.rows, TableStyle::plain));
    for (const std::string& note : outcome.notes) terminal.print("note: " + note);
    Json notes = Json::array();
    for (const std::string& note : outcome.notes) notes.push_back(note);
    terminal.result(Json::object({{"output", outcome.output},
                                  {"format", options.to},
                                  {"dry_run", options.dry_run},
                                  {"weight_bytes", outcome.bytes},
                                  {"by_type", outcome.types},
                                  {"notes", notes}}));
}

// Runs `write` on a working folder that becomes options.output.
template <class Write>
Status write_folder(const ConvertOptions& options, Terminal& terminal, Write&& write) {
    SKIFF_TRY(auto folder, AtomicDirectory::create(options.output, options.force ? AtomicDirectory::IfExists::replace : AtomicDirectory::IfExists::refuse));
    auto status = write(folder.working_path());
    terminal.end_progress();
    if (!status.ok()) {
        SKIFF_CHECK(folder.discard());
        return status;
    }
    return folder.commit();
}

// Types that add an offset, or have no level for zero.
bool moves_zeros(const GgufType& type) {
    constexpr std::string_view names[] = {"Q4_1", "Q5_1", "Q4_K", "Q5_K", "IQ4_NL"};
    return std::find(std::begin(names), std::end(names), type.name) != std::end(names);
}

// notes: of what was done to the checkpoint before
Status to_gguf(const ConvertOptions& options, const Checkpoint& checkpoint, std::vector<std::string> notes, Terminal& terminal) {
    SKIFF_TRY(const auto plan, plan_gguf_export(checkpoint, {options.type, options.head_type, options.embedding_type}));
    Outcome outcome;
    outcome.output = options.output;
    outcome.notes = std::move(notes);
    const bool zeros = !outcome.notes.empty() && std::any_of(plan.layout.tensors.begin(), plan.layout.tensors.end(), [](const GgufTensorSpec& tensor) { return moves_zeros(*tensor.type); });
    if (zeros) outcome.notes.push_back("blocks with an offset round zeros as any other number: what was pruned need not stay zero");
    outcome.notes.insert(outcome.notes.end(), plan.notes.begin(), plan.notes.end());
    std::map<std::string, Count> counts;
    for (const GgufTensorSpec& tensor : plan.layout.tensors) {
        Count& count = counts[std::string(tensor.type->name)];
        ++count.tensors;
        count.weights += element_count(tensor.shape);
        SKIFF_TRY(const auto bytes, gguf_tensor_bytes(*tensor.type, tensor.shape));
        count.bytes += bytes;
    }
    fill(outcome, counts);
    if (!options.dry_run) {
        const int n_threads = options.threads > 0 ? static_cast<int>(options.threads) : default_thread_count();
        SKIFF_CHECK(write_gguf_export(checkpoint, plan, options.output, n_threads, terminal.progress("bytes")));
        terminal.end_progress();
    }
    report(options, outcome, terminal);
    return {};
}

Status to_quantized(const ConvertOptions& options, const Checkpoint& checkpoint, Terminal& terminal) {
    if (options.type != "auto") return usage_error("--type is not for --to " + options.to + ": codes are written as they are");
    SKIFF_TRY(const auto plan, plan_quantized_export(checkpoint, options.to));
    Outcome outcome;
    outcome.output = options.output;
    outcome.notes = plan.notes;
    std::map<std::string, Count> counts;
    for (const auto& [key, dtype] : plan.plain) {
        const std::int64_t n = element_count(checkpoint.spec.shape(checkpoint.spec.tensors.at(key)));
        Count& count = counts[std::string(dtype_info(dtype).name)];
        ++count.tensors;
        count.weights += n;
        count.bytes += static_cast<std::uint64_t>(dtype_bytes(dtype, n).value_or(0));
    }
    for (const auto& [module, scheme] : plan.modules) {
        Count& count = counts[scheme.name()];
        ++count.tensors;
        count.weights += element_count(checkpoint.spec.shape(checkpoint.spec.tensors.at(module + ".weight")));
        count.bytes += plan.module_bytes.at(module);
    }
    fill(outcome, counts);
    if (!options.dry_run)
        SKIFF_CHECK(write_folder(options, terminal, [&](const std::string& folder) { return write_quantized_export(checkpoint, plan, folder, terminal.progress("bytes")); }));
    report(options, outcome, terminal);
    return {};
}

Status to_hf(const ConvertOptions& options, const Checkpoint& checkpoint, Terminal& terminal) {
    SKIFF_TRY(const auto plan, plan_hf_export(checkpoint, {options.type}));
    Outcome outcome;
    outcome.output = options.output;
    outcome.notes = plan.notes;
    std::map<std::string, Count> counts;
    for (const TensorDeclaration& tensor : plan.tensors) {
        Count& count = counts[std::string(dtype_info(tensor.dtype).name)];
        ++count.tensors;
        count.weights += element_count(tensor.shape);
        count.bytes += static_cast<std::uint64_t>(dtype_bytes(tensor.dtype, element_count(tensor.shape)).value_or(0));
    }
    fill(outcome, counts);
    if (!options.dry_run)
        SKIFF_CHECK(write_folder(options, terminal, [&](const std::string& folder) { return write_hf_export(checkpoint, plan, folder, terminal.progress("bytes")); }));
    report(options, outcome, terminal);
    return {};
}

Status to_recoded(const ConvertOptions& options, const Checkpoint& checkpoint, Terminal& terminal) {
    if (options.type != "auto") return usage_error("--type is not for --to " + options.to + ": no number changes");
    RecodeOptions recoding;
    recoding.to = options.to == "coded" ? RecodeOptions::To::coded : RecodeOptions::To::plain;
    recoding.n_threads = options.threads > 0 ? static_cast<int>(options.threads) : default_thread_count();
    recoding.progress = terminal.progress("bytes");
    RecodeReport made;
    const auto write = [&](const std::string& folder) -> Status {
        SKIFF_TRY(made, write_recoded(checkpoint, folder, recoding));
        return {};
    };
    SKIFF_CHECK(options.dry_run ? write("") : write_folder(options, terminal, write));
    terminal.end_progress();
    const auto percent = [](const RecodeReport::Row& row) { return number_text(100 * static_cast<double>(row.stored_bytes) / static_cast<double>(std::max<std::uint64_t>(1, row.plain_bytes)), 1) + " %"; };
    std::vector<std::vector<std::string>> rows = {{"type", "tensors", "bytes", "in the file", ""}};
    Json types = Json::object();
    for (const auto& [name, row] : made.by_type) {
        rows.push_back({name, std::to_string(row.n_tensors), bytes_text(row.plain_bytes), bytes_text(row.stored_bytes), percent(row)});
        types.set(name, Json::object({{"tensors", static_cast<std::uint64_t>(row.n_tensors)}, {"bytes", row.plain_bytes}, {"stored_bytes", row.stored_bytes}}));
    }
    terminal.print((options.dry_run ? "would write " : "wrote " + options.output + ", ") + bytes_text(made.total.stored_bytes) + " for " + bytes_text(made.total.plain_bytes) + " of weights (" + percent(made.total) + ")");
    terminal.print(table_text(rows, TableStyle::plain));
    const auto speed = [&](double seconds) { return seconds > 0 ? static_cast<double>(made.coded_plain_bytes) / seconds * 1e-9 : 0; };
    if (made.n_coded > 0)
        terminal.print(std::to_string(made.n_coded) + " tensors coded at " + number_text(speed(made.encode_seconds), 2) + " GB/s, decoded and compared at " + number_text(speed(made.decode_seconds), 2) +
                       " GB/s on " + counted(recoding.n_threads, "threads"));
    terminal.result(Json::object({{"output", options.dry_run ? "" : options.output},
                                  {"format", options.to},
                                  {"dry_run", options.dry_run},
                                  {"weight_bytes", made.total.plain_bytes},
                                  {"stored_bytes", made.total.stored_bytes},
                                  {"coded_tensors", static_cast<std::uint64_t>(made.n_coded)},
                                  {"threads", recoding.n_threads},
                                  {"encode_gb_per_s", speed(made.encode_seconds)},
                                  {"decode_gb_per_s", speed(made.decode_seconds)},
                                  {"by_type", types}}));
    return {};
}

Result<OnnxExportOptions::Densify> densify_of(const ConvertOptions& options) {
    if (options.form == "float" && options.densify) return usage_error("--densify has nothing to do: --form float writes every weight as floats");
    return options.densify ? OnnxExportOptions::Densify::yes : OnnxExportOptions::Densify::no;
}

Result<OnnxExportOptions> onnx_options(const ConvertOptions& options) {
    OnnxExportOptions chosen;
    if (options.type != "auto" && options.type != "F32" && options.type != "F16")
        return usage_error("--type " + options.type + " is none of ONNX graphs here; known: auto (F32), F32, F16");
    if (options.type == "F16") chosen.real = OnnxType::float16;
    if (options.form == "qdq") chosen.form = OnnxForm::qdq;
    if (options.form == "qonnx") chosen.form = OnnxForm::qonnx;
    if (options.form == "float") chosen.form = OnnxForm::floats;
    SKIFF_TRY(chosen.densify, densify_of(options));
    if (options.activations == "int8") chosen.activations = OnnxExportOptions::Activations::int8;
    if (options.activations == "int8" && options.form != "qonnx") return usage_error("--activations int8 is for --form qonnx");
    if (options.form == "qonnx" && options.type == "F16") return usage_error("--form qonnx computes in F32; leave --type F16 away");
    if (options.context < 0 || options.context > (std::int64_t{1} << 31))
        return usage_error("--context " + std::to_string(options.context) + ": expected 0 (the model's) to 2147483648");
    chosen.context = options.context;
    return chosen;
}

// `write` fills a folder.
template <class Write>
Status to_onnx(const ConvertOptions& options, const OnnxExport& plan, Terminal& terminal, Write&& write) {
    Outcome outcome;
    outcome.output = options.output;
    outcome.notes = plan.notes;
    std::map<std::string, Count> counts;
    Count others{0, 0, plan.data_bytes};
    others.tensors = static_cast<std::int64_t>(plan.initializers.size());
    for (const auto& [what, count] : plan.counts) {
        counts[what] = {count.tensors, count.weights, count.bytes};
        others.bytes -= count.bytes;
        others.tensors -= count.tensors;
    }
    fill(outcome, counts);
    outcome.notes.push_back("besides, " + bytes_text(others.bytes) + " of norms, biases, tables and constants");
    if (!options.dry_run)
        SKIFF_CHECK(write_folder(options, terminal, write));
    report(options, outcome, terminal);
    return {};
}

Status decoder_to_onnx(const ConvertOptions& options, const OnnxExportOptions& chosen, const Checkpoint& checkpoint, Terminal& terminal) {
    SKIFF_TRY(const auto plan, plan_onnx_export(checkpoint, chosen));
    return to_onnx(options, plan, terminal, [&](const std::string& folder) { return write_onnx_export(checkpoint, plan, folder, terminal.progress("bytes")); });
}

Status convert_net(const ConvertOptions& options, Terminal& terminal) {
    if (options.to != "onnx") return usage_error(options.model + " is a network of convolutions, which has one other form: --to onnx");
    SKIFF_CHECK(only_for_nets(options.typed, {"--to", "--form", "--densify", "--activations", "--data", "--output", "--force", "--dry-run", "--threads"}));
    if (options.form == "nbits") return usage_error("--form nbits: MatMulNBits multiplies the matrices of language models; networks of convolutions have qdq, qonnx and float");
    const bool int8 = options.activations == "int8";
    if (int8 && options.form == "float") return usage_error("--activations int8 is for --form qdq and qonnx");
    if (int8 == options.data.empty()) return usage_error(int8 ? "--activations int8 needs images that show what values reach: --data IMAGES,LABELS or --data digits:200" : "--data is for --activations int8");
    if (options.threads != 0 && !int8) return usage_error("--threads is for --activations int8: without it nothing runs");
    OnnxExportOptions chosen;
    chosen.form = options.form == "qonnx" ? OnnxForm::qonnx : options.form == "float" ? OnnxForm::floats : OnnxForm::qdq;
    SKIFF_TRY(chosen.densify, densify_of(options));
    SKIFF_TRY(const auto network, net::open_net(options.model));
    std::vector<net::ValueRange> ranges;
    if (int8) {
        chosen.activations = OnnxExportOptions::Activations::int8;
        SKIFF_TRY(const auto images, net::load_images(options.data));
        if (images.shape != network.spec.input) return usage_error("--data " + options.data + ": its images have another size than the input of " + options.model);
        SKIFF_TRY(const auto session, net_session_options(options.threads));
        SKIFF_TRY(ranges, net::value_ranges(network, images.pixels, session));
    }
    auto plan = plan_onnx_net(network, chosen, ranges);
    if (!plan.ok()) return plan.take_error().with_context(options.model);
    return to_onnx(options, *plan, terminal, [&](const std::string& folder) { return write_onnx_graph(*plan, folder, terminal.progress("bytes")); });
}

// Options of one format are refused for another, not ignored.
Status check_formats(const ConvertOptions& options) {
    const bool any = options.form != "auto" || options.activations != "real" || options.context != 0 || !options.data.empty();
    if (options.to != "onnx" && any) return usage_error("--form, --activations, --data and --context are for --to onnx");
    if (options.densify && options.to != "onnx" && options.to != "gguf") return usage_error("--densify is for --to gguf and --to onnx" + std::string(options.to == "hf" ? "; zeros are always written out in a folder of plain weights" : ""));
    if (options.to != "gguf" && (options.head_type != "auto" || options.embedding_type != "auto"))
        return usage_error("--head-type and --embedding-type are for --to gguf");
    return {};
}

Status run_convert(ConvertOptions& options, Terminal& terminal) {
    if (options.output.empty() && !options.dry_run) return usage_error("-o OUT is missing: the file or folder to write");
    if (options.threads < 0 || options.threads > 1024) return usage_error("--threads " + std::to_string(options.threads) + ": expected 0 to 1024");
    SKIFF_CHECK(check_formats(options));
    while (options.output.size() > 1 && options.output.back() == '/') options.output.pop_back();
    const bool is_folder = is_directory(options.output), exists = is_folder || file_exists(options.output);
    if (exists && !options.force && !options.dry_run) return usage_error(options.output + " exists; --force replaces it");
    if (exists && is_folder != (options.to != "gguf"))
        return usage_error(options.output + (is_folder ? " is a folder, but a file is to be written" : " is a file, but a folder is to be written"));
    if (!options.dry_run) SKIFF_CHECK(check_output_apart(options.output, options.model));
    if (net::is_net(options.model)) return convert_net(options, terminal);
    if (!options.data.empty()) return usage_error("--data is for networks of convolutions, and " + options.model + " is none");
    OnnxExportOptions onnx;
    if (options.to == "onnx") {
        SKIFF_TRY(onnx, onnx_options(options));
    }
    SKIFF_TRY(auto checkpoint, Checkpoint::open(options.model));
    if (options.to == "coded" || options.to == "uncoded") return to_recoded(options, checkpoint, terminal);
    if (checkpoint.config.contains(shared_layers_key)) {
        SKIFF_TRY(checkpoint, without_sharing(checkpoint));
        terminal.remark("note: layers that share their weights get copies of them");
    }
    if (find_quantized_form(options.to) != nullptr) return to_quantized(options, checkpoint, terminal);
    if (options.to == "onnx") return decoder_to_onnx(options, onnx, checkpoint, terminal);  // a graph reorders inputs, so that codes stay codes
    checkpoint = with_inputs_in_order(std::move(checkpoint));
    if (options.to == "hf") return to_hf(options, checkpoint, terminal);
    std::vector<std::string> notes;
    if (options.densify) {
        SKIFF_TRY(checkpoint, with_dense_weights(std::move(checkpoint), notes));
        if (notes.empty()) terminal.remark("note: nothing to densify: every weight is one dense matrix");
    }
    return to_gguf(options, checkpoint, std::move(notes), terminal);
}

}  // namespace

std::unique_ptr<Verb> convert_verb_row() {
    return make_verb<ConvertOptions>(
        "convert", "Write a model in another file format",
        {"skiff convert models/pocket --to gguf --type Q4_K -o pocket-q4k.gguf", "skiff convert MODEL.gguf --to hf -o FOLDER",
         "skiff convert MODEL --to onnx -o FOLDER", "skiff convert NETWORK --to onnx --form qonnx -o FOLDER", "skiff convert QUANTIZED --to gptq -o FOLDER", "skiff convert MODEL --to coded -o FOLDER"}, run_convert);
}

}  // namespace skiff
