// skiff run: chat through the model's template, or complete a text, streaming.
#include <unistd.h>

#include <iostream>

#include "base/mapped_file.h"
#include "cli/chat_loop.h"
#include "cli/format.h"
#include "cli/model_options.h"
#include "cli/verbs.h"

namespace skiff {
namespace {

struct RunOptions {
    ModelOptions model;
    SpeculateOptions speculate;
    GenerateOptions generate;
    std::string prompt, prompt_file, system;
    bool raw = false, ignore_eos = false, quiet = false, special = false;
    std::int64_t max_tokens = -1;

    void fields(FieldVisitor& visitor) {
        model.fields(visitor);
        speculate.source = "ngram";  // cost at most 1 % where nothing repeats (docs/performance.md)
        speculate.fields(visitor);
        visitor.option("-p,--prompt", prompt, "What to say or to continue; without it: standard input, or a chat on a terminal");
        visitor.option("-f,--file", prompt_file, "Read the prompt from a file");
        visitor.flag("--raw", raw, "Continue the text as it is, without the model's chat template");
        visitor.option("--system", system, "System message of the chat");
        visitor.option("-n,--tokens", max_tokens, "Tokens to make at most; -1: until the model ends or the context is full");
        visitor.option("--temp", generate.sampling.temperature, "Temperature; 0: always the most likely token");
        visitor.option("--top-k", generate.sampling.top_k, "Keep the k most likely tokens; 0: all");
        visitor.option("--top-p", generate.sampling.top_p, "Keep the most likely tokens of this much probability; 1: all");
        visitor.option("--min-p", generate.sampling.min_p, "Drop tokens below this share of the most likely one; 0: none");
        visitor.option("--repeat-penalty", generate.sampling.repetition_penalty, "Divide the logits of recent tokens by this; 1: off");
        visitor.option("--presence-penalty", generate.sampling.presence_penalty, "Subtract from tokens that occurred");
        visitor.option("--frequency-penalty", generate.sampling.frequency_penalty, "Subtract per occurrence");
        visitor.option("--penalty-window", generate.sampling.penalty_window, "Tokens that the penalties look back; -1: all");
        visitor.option("-s,--seed", generate.sampling.seed, "Seed of the random choices; the same seed gives the same text");
        visitor.option("--stop", generate.stop, "End when this text appears (may be given several times)");
        visitor.flag("--ignore-eos", ignore_eos, "Go on behind the end of the text");
        visitor.flag("-q,--quiet", quiet, "No speed report at the end");
    }
};

void report_speed(const GenerateResult& result, Terminal& terminal) {
    const auto n = static_cast<double>(result.tokens.size());
    const auto n_prompt = static_cast<double>(result.n_prompt_tokens - result.n_reused_tokens);
    const auto tokens = [](double count) { return count_text(count) + (count == 1 ? " token" : " tokens"); };
    std::string line = "\n[prompt " + tokens(n_prompt);
    if (result.prompt_seconds > 0) line += ", " + number_text(n_prompt / result.prompt_seconds, 1) + " tokens/s";
    line += " · generated " + tokens(n);
    // The first token comes from the prompt's run, so n - 1 runs were timed.
    if (result.decode_seconds > 0 && n > 1) line += ", " + number_text((n - 1) / result.decode_seconds, 1) + " tokens/s";
    const SpeculationStats& guessed = result.speculation;
    if (guessed.proposed > 0) {
        line += " · " + std::to_string(guessed.accepted) + " of " + std::to_string(guessed.proposed) + " guesses right, " +
                number_text(guessed.tokens_per_pass(), 2) + " tokens a pass";
        if (guessed.speed_up() > 0) line += ", about " + number_text(guessed.speed_up(), 2) + " times as fast";
    }
    line += "]";
    terminal.remark(line);
}

Json result_json(const GenerateResult& result) {
    static constexpr const char* finish[] = {"stop", "length", "context_full", "interrupted"};
    Json tokens = Json::array();
    for (std::int32_t token : result.tokens) tokens.push_back(token);
    return Json::object({{"text", result.text},
                         {"finish_reason", finish[static_cast<int>(result.finish)]},
                         {"tokens", tokens},
                         {"prompt_tokens", result.n_prompt_tokens},
                         {"prompt_seconds", result.prompt_seconds},
                         {"decode_seconds", result.decode_seconds},
                         {"speculation", Json::object({{"passes", result.speculation.passes},
                                                       {"proposed", result.speculation.proposed},
                                                       {"accepted", result.speculation.accepted},
                                                       {"tokens_per_pass", result.speculation.tokens_per_pass()},
                                                       {"speed_up", result.speculation.speed_up() > 0 ? Json(result.speculation.speed_up()) : Json()}})}});
}

Result<std::string> read_prompt(const RunOptions& options) {
    if (!options.prompt_file.empty()) return read_text_file(options.prompt_file, std::size_t{64} << 20);
    if (!options.prompt.empty() || ::isatty(STDIN_FILENO)) return options.prompt;
    std::string text((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
    if (!text.empty() && text.back() == '\n') text.pop_back();  // echo's, not the writer's
    return text;
}

Status run_model(RunOptions& options, Terminal& terminal) {
    SKIFF_TRY(auto engine_options, options.model.engine_options());
    SKIFF_CHECK(options.speculate.apply(engine_options));
    SKIFF_CHECK(check(options.generate.sampling));
    engine_options.progress = terminal.progress("blocks");
    const auto no_tokenizer = [&] { return usage_error(options.model.model + ": has no tokenizer, so it cannot make text; try skiff bench " + options.model.model); };
    SKIFF_TRY(auto checkpoint, Checkpoint::open(options.model.model));
    // Before the weights are read, where that costs nothing: most folders have this file.
    const bool surely_has_one = checkpoint.kind != Checkpoint::Kind::random && (checkpoint.kind != Checkpoint::Kind::folder || file_exists(join_path(checkpoint.path, "tokenizer.json")));
    if (!surely_has_one) {
        const auto tokenizer = checkpoint.load_tokenizer();
        if (!tokenizer.ok() && tokenizer.error().code == ErrorCode::not_found) return no_tokenizer();
    }
    SKIFF_TRY(auto engine, Engine::load(std::move(checkpoint), engine_options));
    terminal.end_progress();
    remark_on_cache(*engine, options.model, terminal);
    if (engine->tokenizer() == nullptr) return no_tokenizer();
    options.generate.max_tokens = options.max_tokens;
    if (options.ignore_eos) options.generate.end_of_text = GenerateOptions::EndOfText::ignore;

    const bool has_template = !engine->tokenizer()->chat_template().empty();
    if (!options.raw && !has_template) {
        terminal.remark("note: the model has no chat template; completing the text as with --raw");
        options.raw = true;
    }
    const bool interactive = options.prompt.empty() && options.prompt_file.empty() && ::isatty(STDIN_FILENO) != 0;
    if (interactive && !options.raw) return chat_loop(*engine, options.generate, options.system, terminal);

    SKIFF_TRY(auto prompt, read_prompt(options));
    std::vector<std::int32_t> tokens;
    if (options.raw) {
        SKIFF_TRY(tokens, engine->tokenizer()->encode(prompt));
    } else {
        Json messages = Json::array();
        if (!options.system.empty()) messages.push_back(Json::object({{"role", "system"}, {"content", options.system}}));
        messages.push_back(Json::object({{"role", "user"}, {"content", prompt}}));
        SKIFF_TRY(tokens, chat_tokens(*engine, messages));
    }
    SKIFF_TRY(auto result, engine->generate(tokens, options.generate, [&](std::string_view piece) {
        if (!terminal.json()) terminal.print_raw(piece);
        return true;
    }));
    if (terminal.json()) terminal.result(result_json(result));
    else if (!options.quiet) report_speed(result, terminal);
    else terminal.print_raw("\n");
    if (result.finish == GenerateResult::Finish::interrupted) return Error{ErrorCode::interrupted, "interrupted", {}};
    return {};
}

}  // namespace

std::unique_ptr<Verb> run_verb_row() {
    return make_verb<RunOptions>("run", "Chat with a model or let it continue a text",
                                 {"skiff run models/pocket --raw -p \"Once upon a time\" -n 100", "skiff run MODEL",
                                  "echo \"Why is the sky blue?\" | skiff run MODEL --temp 0"},
                                 run_model);
}

}  // namespace skiff
