// skiff train-tokenizer: a vocabulary learned from texts, in the files that models come with.
#include <algorithm>

#include "base/cpu_features.h"
#include "base/mapped_file.h"
#include "cli/format.h"
#include "cli/verbs.h"
#include "text/tokenizer_writer.h"

namespace skiff {
namespace {

struct TrainTokenizerOptions {
    std::vector<std::string> texts, special = {"<|endoftext|>"};
    std::string output, pre = "llama-bpe", separator = "<|endoftext|>", jsonl_field = "text", bos = "<|endoftext|>", eos = "<|endoftext|>";
    std::int64_t vocab_size = 4096, min_frequency = 2, max_length = 0, threads = 0;
    bool force = false;

    void fields(FieldVisitor& visitor) {
        std::vector<std::string> names;
        for (std::string_view name : countable_pre_tokenizers()) names.emplace_back(name);
        visitor.positional("TEXT", texts, "Text files in UTF-8; of a .jsonl file, one member of each line", FieldVisitor::Need::required);
        visitor.option("-o,--output", output, "Folder to write; it appears when it is complete");
        visitor.option("--vocab-size", vocab_size, "Tokens: the special ones, 256 bytes, and as many merges as fit");
        visitor.choice("--pre", pre, names, "How a text is cut into words, within which merges happen: the rules of Llama 3, GPT-2 or Qwen 2");
        visitor.option("--special", special, "A special token; may be repeated, ids are 0, 1, ... in this order [<|endoftext|>]");
        visitor.option("--bos", bos, "The special token that a text begins with; \"\": none");
        visitor.option("--eos", eos, "The special token that ends a text; \"\": none");
        visitor.option("--min-frequency", min_frequency, "A pair that occurs less often is not merged");
        visitor.option("--separator", separator, "What stands between documents in the texts; it is not learned from. \"\": nothing does");
        visitor.option("--jsonl-field", jsonl_field, "The member of a .jsonl line that holds the text");
        visitor.option("--max-length", max_length, "Tokens that the model will take, for model_max_length; 0: not known");
        visitor.flag("--force", force, "Replace the output folder if it exists; the old one stays until the new one is complete");
        visitor.option("-t,--threads", threads, "Threads; 0: the physical cores that this process may use. The result does not depend on it");
    }
};

Status check(const TrainTokenizerOptions& options) {
    if (options.output.empty()) return usage_error("give the folder to write with -o");
    if (options.threads < 0 || options.threads > 1024) return usage_error("--threads " + std::to_string(options.threads) + ": expected 0 to 1024");
    if (options.min_frequency < 1) return usage_error("--min-frequency " + std::to_string(options.min_frequency) + ": expected 1 or more");
    if (options.max_length < 0) return usage_error("--max-length " + std::to_string(options.max_length) + ": expected 0 or more");
    // Found here, and not after minutes of work.
    if (!options.force && (is_directory(options.output) || file_exists(options.output)))
        return usage_error(options.output + ": already exists; give another -o, remove it, or add --force");
    for (const auto& [flag, token] : {std::pair{"--bos", options.bos}, {"--eos", options.eos}})
        if (!token.empty() && std::find(options.special.begin(), options.special.end(), token) == options.special.end())
            return usage_error(std::string(flag) + " " + token + ": give the token with --special too");
    return {};
}

Status train_tokenizer(TrainTokenizerOptions& options, Terminal& terminal) {
    SKIFF_CHECK(check(options));
    const double begin = monotonic_seconds();
    WordCountOptions counting;
    counting.pre = options.pre;
    counting.separator = options.separator;
    counting.jsonl_field = options.jsonl_field;
    counting.n_threads = options.threads > 0 ? static_cast<int>(options.threads) : default_thread_count();
    counting.progress = terminal.progress("bytes");
    SKIFF_TRY(const auto words, count_words_in_files(options.texts, counting));
    const double counted = monotonic_seconds();
    terminal.end_progress();

    BpeTrainerOptions training;
    training.vocab_size = options.vocab_size;
    training.min_frequency = options.min_frequency;
    training.special_tokens = options.special;
    training.progress = terminal.progress("tokens");
    SKIFF_TRY(const auto trained, train_bpe(words, training));
    terminal.end_progress();
    const TokenizerFileOptions files{options.pre, options.bos, options.eos, options.max_length};
    const auto if_exists = options.force ? AtomicDirectory::IfExists::replace : AtomicDirectory::IfExists::refuse;
    SKIFF_CHECK(write_tokenizer_folder(options.output, if_exists, trained, files));

    const auto n_tokens = static_cast<std::int64_t>(trained.tokens.size());
    if (n_tokens < options.vocab_size)
        terminal.remark("note: " + std::to_string(n_tokens) + " tokens, not " + std::to_string(options.vocab_size) + ": no pair is left that occurs " +
                        std::to_string(options.min_frequency) + " times");
    const double bytes_per_token = static_cast<double>(words.n_text_bytes) / static_cast<double>(trained.n_text_tokens);
    const double seconds = monotonic_seconds() - begin;
    terminal.print(bytes_text(words.n_text_bytes) + " of text in " + count_text(static_cast<double>(words.n_documents)) + (words.n_documents == 1 ? " document, " : " documents, ") +
                   count_text(static_cast<double>(words.words.size())) + " different words: " + std::to_string(n_tokens) + " tokens, " +
                   std::to_string(trained.merges.size()) + " merges, " + number_text(bytes_per_token, 3) + " bytes per token");
    terminal.print("wrote " + options.output + " in " + duration_text(seconds) + " (" + duration_text(counted - begin) + " to count words)");
    terminal.result(Json::object({{"output", options.output},
                                  {"vocab_size", n_tokens},
                                  {"merges", trained.merges.size()},
                                  {"special_tokens", trained.n_special},
                                  {"text_bytes", words.n_text_bytes},
                                  {"documents", words.n_documents},
                                  {"distinct_words", words.words.size()},
                                  {"text_tokens", trained.n_text_tokens},
                                  {"bytes_per_token", bytes_per_token},
                                  {"seconds", seconds}}));
    return {};
}

}  // namespace

std::unique_ptr<Verb> train_tokenizer_verb_row() {
    return make_verb<TrainTokenizerOptions>("train-tokenizer", "Learn a vocabulary from texts: a byte-level BPE as tokenizer.json",
                                            {"skiff train-tokenizer models/pocket/calib.txt -o my-tokenizer --vocab-size 1024",
                                             "skiff train-tokenizer books.txt stories.jsonl -o my-tokenizer --vocab-size 8192 --max-length 2048",
                                             "skiff train-tokenizer chats.jsonl -o my-tokenizer --special '<|endoftext|>' --special '<|user|>'"},
                                            train_tokenizer);
}

}  // namespace skiff
