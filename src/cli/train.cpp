// skiff train: a model from texts, or a better one from a model.
#include <fmt/format.h>

#include "base/mapped_file.h"
#include "cli/format.h"
#include "cli/train_options.h"
#include "cli/verbs.h"
#include "corpus/token_file.h"

namespace skiff {
namespace {

struct TrainVerb : TrainVerbOptions {
    std::string pack;

    void fields(FieldVisitor& visitor) {
        train.schedule.peak = 1e-3;
        visitor.positional("MODEL", model, "A checkpoint to go on from, or random:CONFIG.json for fresh weights in that shape", FieldVisitor::Need::required);
        data_fields(visitor);
        visitor.option("--pack", pack, "Write the tokens of --data to this file (NAME.tokens), for later runs, and stop");
        training_fields(visitor);
    }
};

Result<Tokenizer> load_pack_tokenizer(const TrainVerb& given) {
    if (!given.train.data.tokenizer.empty()) return load_tokenizer(given.train.data.tokenizer);
    SKIFF_TRY(const auto parent, Checkpoint::open(given.model));
    if (parent.kind == Checkpoint::Kind::random) return usage_error("texts need a tokenizer: give --tokenizer FOLDER (skiff train-tokenizer makes one)");
    return parent.load_tokenizer();
}

// Texts to a token file, once for many runs. Needs no LibTorch.
Status pack_texts(const TrainVerb& given, Terminal& terminal) {
    const train::DataOptions& data = given.train.data;
    if (data.texts.empty()) return usage_error("give the text to pack with --data");
    for (const std::string& text : data.texts)
        if (text.ends_with(".tokens")) return usage_error(text + " is packed already");
    if (!given.pack.ends_with(".tokens")) return usage_error("--pack " + given.pack + ": the name must end in .tokens, by which packed files are known");
    if (file_exists(given.pack) && !given.force) return usage_error(given.pack + " already exists; give --force to replace it");
    SKIFF_TRY(const auto tokenizer, load_pack_tokenizer(given));
    const PackOptions options{data.texts, data.separator, data.jsonl_field, given.train.n_threads, terminal.progress(" MiB")};
    SKIFF_TRY(const auto report, pack_tokens(tokenizer, options, given.pack));
    terminal.end_progress();
    terminal.print(fmt::format("packed {} documents, {} of text, as {} tokens in {}", report.n_documents, bytes_text(report.n_bytes), report.n_tokens, duration_text(report.seconds)));
    terminal.print("wrote " + given.pack);
    terminal.result(Json::object({{"output", given.pack}, {"documents", report.n_documents}, {"text_bytes", report.n_bytes}, {"tokens", report.n_tokens}, {"seconds", report.seconds}}));
    return {};
}

Status run_train(TrainVerb& options, Terminal& terminal) {
    if (options.pack.empty() && !train::training_available()) return become_training_program();
    SKIFF_CHECK(options.resolve());
    if (!options.pack.empty()) return pack_texts(options, terminal);
    SKIFF_TRY(const auto parent, Checkpoint::open(options.model));
    return run_training_verb(parent, options, terminal);
}

}  // namespace

std::unique_ptr<Verb> train_verb_row() {
    return make_verb<TrainVerb>("train", "Train a model from fresh weights, or go on with one; also LoRA, and several processes",
                                       {"skiff train random:CONFIG.json --tokenizer TOK --data books.txt --valid other.txt -o OUT --steps 2000",
                                        "skiff train MODEL --data mine.jsonl -o OUT --lora 8 --lr 2e-4 --steps 300", "skiff train MODEL --data mine.txt -o OUT --ranks 2",
                                        "skiff train MODEL --data mine.txt --pack mine.tokens"},
                                       run_train);
}

}  // namespace skiff
