// skiff inspect: what a model is, what it weighs and costs, without running it.
#include <map>

#include "base/cpu_features.h"
#include "cli/format.h"
#include "cli/net_child.h"
#include "cli/verbs.h"
#include "formats/recode.h"
#include "model/checkpoint.h"
#include "model/shared_layers.h"
#include "plan/plan.h"

namespace skiff {
namespace {

struct InspectOptions {
    std::string model;
    std::int64_t context = 0;
    bool tensors = false, plan = false, hash = false;

    void fields(FieldVisitor& visitor) {
        visitor.positional("MODEL", model, "A Hugging Face folder, a .gguf file, random:CONFIG.json, or a network of convolutions (a folder or its spec)", FieldVisitor::Need::required);
        visitor.option("-c,--ctx", context, "Context length for the memory estimate; 0: what the model was trained for");
        visitor.flag("--tensors", tensors, "List every tensor");
        visitor.flag("--plan", plan, "Print the operators of the model and the steps that they become on this machine");
        visitor.flag("--hash", hash, "Compute the hash of all weights (reads them)");
    }
};

struct Encoding {
    std::int64_t n_tensors = 0, n_weights = 0;
    std::uint64_t bytes = 0;
};

struct Inventory {
    std::map<std::string, Encoding> by_encoding;
    std::vector<std::vector<std::string>> rows = {{"tensor", "shape", "type", "bytes"}};
    std::uint64_t bytes = 0;
    std::vector<Error> damaged;  // tensors that cannot be read, and why
    // Of hashed weights: what they would be with every block written out.
    std::int64_t n_hashed = 0, n_hashed_weights = 0, n_bank_weights = 0;
    std::uint64_t hashed_bytes = 0, written_out_bytes = 0;
    void note_hashed(const Hashed& hashed, std::uint64_t stored_bytes) {
        const std::int64_t n = hashed.hash.n_rows * hashed.hash.n_columns, n_bank = element_count(hashed.bank->shape);
        ++n_hashed, n_hashed_weights += n, n_bank_weights += n_bank, hashed_bytes += stored_bytes;
        written_out_bytes += static_cast<std::uint64_t>(static_cast<double>(hashed.bank->stored_bytes()) * static_cast<double>(n) / static_cast<double>(n_bank));
    }
};

Result<Inventory> take_inventory(const Checkpoint& checkpoint) {
    Inventory inventory;
    for (const auto& [key, tensor] : checkpoint.spec.tensors) {
        const Shape shape = checkpoint.spec.shape(tensor);
        std::string encoding = "BF16";
        std::uint64_t bytes = static_cast<std::uint64_t>(element_count(shape)) * 2;
        if (checkpoint.kind != Checkpoint::Kind::random) {
            auto loaded = checkpoint.weights->load(key);
            if (!loaded.ok() && loaded.error().code == ErrorCode::corrupt) {  // the others are worth knowing nevertheless
                inventory.damaged.push_back(loaded.take_error().with_context("tensor " + key));
                inventory.rows.push_back({key, shape_text(shape), "damaged", ""});
                continue;
            }
            if (!loaded.ok()) return loaded.take_error();
            const Weight weight = std::move(*loaded);
            encoding = weight.encoding_name();
            bytes = weight.stored_bytes();
            if (const Hashed* hashed = weight.hashed()) inventory.note_hashed(*hashed, bytes);
        }
        Encoding& entry = inventory.by_encoding[encoding];
        ++entry.n_tensors;
        entry.n_weights += element_count(shape);
        entry.bytes += bytes;
        inventory.bytes += bytes;
        inventory.rows.push_back({key, shape_text(shape), encoding, bytes_text(bytes)});
    }
    return inventory;
}

void print_operators(const ModelSpec& spec, Terminal& terminal) {
    for (const Block& block : spec.blocks) {
        terminal.print(block.name + ":");
        for (const Op& op : block.ops) {
            std::string line = "  " + spec.values[static_cast<std::size_t>(op.out)].name + " = " + op_kind_name(op.detail) + "(";
            for (std::size_t i = 0; i < op.in.size(); ++i) line += (i ? ", " : "") + spec.values[static_cast<std::size_t>(op.in[i])].name;
            terminal.print(line + ")  [" + std::to_string(spec.width(op.out)) + "]");
        }
    }
}

Status print_plan(const Checkpoint& checkpoint, Terminal& terminal) {
    print_operators(checkpoint.spec, terminal);
    SKIFF_TRY(auto plan, lower(checkpoint.spec, *checkpoint.weights, {}));
    for (const std::string& remark : plan->remarks) terminal.print("note: " + remark);
    for (const Program& program : plan->programs) {
        const std::string tokens = std::to_string(program.min_tokens) +
                                   (program.max_tokens == INT64_MAX ? " tokens and more" : " to " + std::to_string(program.max_tokens) + " tokens");
        terminal.print("\nplain steps for " + tokens + " (" + std::to_string(program.plain_steps.size()) + "):");
        for (const std::string& line : program.plain_steps) terminal.print("  " + line);
        terminal.print("\nfused steps for " + tokens + " (" + std::to_string(program.steps.size()) + ", a barrier behind each):");
        for (const std::string& line : describe(program.steps)) terminal.print("  " + line);
    }
    return {};
}

std::string tokenizer_text(const Checkpoint& checkpoint, Json& document) {
    auto tokenizer = checkpoint.load_tokenizer();
    document.set("tokenizer", tokenizer.ok() ? Json(tokenizer->kind()) : Json());
    document.set("chat_template", tokenizer.ok() && !tokenizer->chat_template().empty());
    if (!tokenizer.ok()) return tokenizer.error().code == ErrorCode::not_found ? "none" : tokenizer.error().to_string();
    return tokenizer->kind() + ", " + std::to_string(tokenizer->n_vocab()) + " tokens" +
           (tokenizer->chat_template().empty() ? ", no chat template" : ", with a chat template");
}

// What entropy coding saves in the files, and how fast it is undone here; an empty text where nothing is coded.
Result<std::string> coding_text(const Checkpoint& checkpoint, Json& document) {
    if (checkpoint.kind != Checkpoint::Kind::folder) return std::string();
    SKIFF_TRY(const auto files, CheckpointFiles::open(checkpoint.path));
    const CodedTotals totals = files.coded_totals();
    if (totals.n_tensors == 0) return std::string();
    const int n_threads = default_thread_count();
    SKIFF_TRY(const double seconds, decoding_seconds(files, n_threads));
    const double speed = seconds > 0 ? static_cast<double>(totals.plain_bytes) / seconds * 1e-9 : 0, share = static_cast<double>(totals.stored_bytes) / static_cast<double>(totals.plain_bytes);
    document.set("coded", Json::object({{"tensors", static_cast<std::uint64_t>(totals.n_tensors)},
                                        {"bytes", totals.plain_bytes},
                                        {"stored_bytes", totals.stored_bytes},
                                        {"file_bytes", files.tensor_bytes()},
                                        {"threads", n_threads},
                                        {"decode_gb_per_s", speed}}));
    return bytes_text(files.tensor_bytes()) + ", " + std::to_string(totals.n_tensors) + " tensors entropy coded to " + number_text(100 * share, 1) + " %, decoded at " + number_text(speed, 2) + " GB/s on " +
           counted(n_threads, "threads");
}

// Which layers use one set of weights: " (5 sets of weights: 3-4 share one)"; an empty text where each has its own.
Result<std::string> sharing_text(const Checkpoint& checkpoint, Json& document) {
    SKIFF_TRY(const auto weights_of, shared_layers(checkpoint.config));
    if (weights_of.empty()) return std::string();
    Json list = Json::array();
    std::string groups;
    std::size_t n_sets = 0;
    for (std::size_t first = 0, last; first < weights_of.size(); first = last + 1, ++n_sets) {
        for (last = first; last + 1 < weights_of.size() && weights_of[last + 1] == weights_of[first];) ++last;
        if (last > first) groups += (groups.empty() ? "" : ", ") + std::to_string(first) + "-" + std::to_string(last);
        for (std::size_t layer = first; layer <= last; ++layer) list.push_back(weights_of[layer]);
    }
    document.set("layer_weights", list);
    return groups.empty() ? std::string() : " (" + counted(static_cast<std::int64_t>(n_sets), "sets") + " of weights: layers " + groups + " share one)";
}

Status run_inspect(InspectOptions& options, Terminal& terminal) {
    if (net::is_net(options.model)) return inspect_net(options.model, terminal);
    SKIFF_TRY(auto checkpoint, Checkpoint::open(options.model));
    SKIFF_TRY(auto inventory, take_inventory(checkpoint));
    const ModelSpec& spec = checkpoint.spec;
    const double parameters = static_cast<double>(spec.n_parameters()), bits = static_cast<double>(inventory.bytes) * 8 / parameters;
    const std::int64_t context = options.context > 0 ? options.context : spec.max_positions;
    const std::uint64_t state_bytes = static_cast<std::uint64_t>(spec.state_elements_per_token()) * 2 * static_cast<std::uint64_t>(context);
    Json document = Json::object({{"path", options.model},
                                  {"architecture", spec.architecture},
                                  {"parameters", spec.n_parameters()},
                                  {"weight_bytes", inventory.bytes},
                                  {"bits_per_weight", bits},
                                  {"layers", spec.n_layers},
                                  {"d_model", spec.d_model},
                                  {"vocabulary", spec.n_vocab},
                                  {"context", spec.max_positions},
                                  {"multiply_adds_per_token", spec.multiply_adds_per_token()},
                                  {"state_bytes_f16", state_bytes},
                                  {"state_context", context}});
    Json kinds = Json::object();
    std::vector<std::vector<std::string>> rows = {{"type", "tensors", "weights", "bytes"}};
    for (const auto& [name, entry] : inventory.by_encoding) {
        rows.push_back({name, std::to_string(entry.n_tensors), count_text(static_cast<double>(entry.n_weights)), bytes_text(entry.bytes)});
        kinds.set(name, Json::object({{"tensors", entry.n_tensors}, {"weights", entry.n_weights}, {"bytes", entry.bytes}}));
    }
    document.set("by_type", kinds);
    std::string coding;
    if (inventory.damaged.empty()) {
        SKIFF_TRY(coding, coding_text(checkpoint, document));
    }
    SKIFF_TRY(const auto sharing, sharing_text(checkpoint, document));
    const std::string tokenizer = tokenizer_text(checkpoint, document);
    if (options.hash && inventory.damaged.empty()) {
        SKIFF_TRY(auto hash, checkpoint.content_hash());
        document.set("hash", hash);
    }
    terminal.print(checkpoint.name + ": " + spec.architecture + ", " + std::to_string(spec.n_layers) + " layers" + sharing + ", width " +
                   std::to_string(spec.d_model) + ", vocabulary " + std::to_string(spec.n_vocab) + ", context " + std::to_string(spec.max_positions));
    terminal.print("parameters       " + count_text(parameters) + " (" + std::to_string(spec.n_parameters()) + ")");
    terminal.print("weights          " + bytes_text(inventory.bytes) + ", " + number_text(bits, 2) + " bits per weight");
    if (inventory.n_hashed > 0) {
        document.set("hashed", Json::object({{"tensors", inventory.n_hashed}, {"weights", inventory.n_hashed_weights}, {"bank_weights", inventory.n_bank_weights}, {"bytes", inventory.hashed_bytes}, {"written_out_bytes", inventory.written_out_bytes}}));
        terminal.print("hashed           " + std::to_string(inventory.n_hashed) + " tensors, whose " + count_text(static_cast<double>(inventory.n_hashed_weights)) + " weights are " + count_text(static_cast<double>(inventory.n_bank_weights)) + " of banks, " + bytes_text(inventory.hashed_bytes) + " instead of " +
                       bytes_text(inventory.written_out_bytes));
    }
    if (!coding.empty()) terminal.print("in the files     " + coding);
    terminal.print("per token        " + count_text(static_cast<double>(spec.multiply_adds_per_token())) + " multiply-adds, " +
                   bytes_text(static_cast<std::uint64_t>(spec.state_elements_per_token()) * 2) + " of state in 16 bit");
    std::string at_context = "at context " + std::to_string(context);
    at_context.resize(std::max<std::size_t>(17, at_context.size() + 1), ' ');
    terminal.print(at_context + bytes_text(inventory.bytes + state_bytes) + " (state " + bytes_text(state_bytes) +
                   ")");
    terminal.print("tokenizer        " + tokenizer);
    if (options.hash) terminal.print("hash             " + document["hash"].text());
    terminal.print("");
    terminal.print(table_text(rows, TableStyle::plain));
    if (options.tensors) terminal.print(table_text(inventory.rows, TableStyle::plain));
    Json damaged = Json::array();
    for (const Error& error : inventory.damaged) {
        damaged.push_back(error.to_string());
        terminal.print("damaged: " + error.to_string());
    }
    if (damaged.size() > 0) document.set("damaged", damaged);
    if (options.plan && !terminal.json() && inventory.damaged.empty()) SKIFF_CHECK(print_plan(checkpoint, terminal));
    terminal.result(document);
    if (inventory.damaged.empty()) return {};
    return corrupt(checkpoint.name + ": " + std::to_string(inventory.damaged.size()) + " of " + std::to_string(checkpoint.spec.tensors.size()) + " tensors cannot be read, the first: " + inventory.damaged[0].to_string());
}

}  // namespace

std::unique_ptr<Verb> inspect_verb_row() {
    return make_verb<InspectOptions>("inspect", "Show what a model is made of, what it weighs and what a token costs",
                                     {"skiff inspect models/pocket", "skiff inspect MODEL --tensors --plan"}, run_inspect);
}

}  // namespace skiff
