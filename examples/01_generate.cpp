// Loads a model and lets it continue a text, piece by piece.
//   example_01_generate models/pocket "Once upon a time"
#include <cstdio>

#include "runtime/engine.h"

namespace {

skiff::Status generate(const std::string& model, const std::string& prompt) {
    SKIFF_TRY(auto engine, skiff::Engine::load(model, skiff::EngineOptions{}));
    if (engine->tokenizer() == nullptr) return skiff::usage_error(model + ": has no tokenizer");
    SKIFF_TRY(auto tokens, engine->tokenizer()->encode(prompt));

    skiff::GenerateOptions options;
    options.max_tokens = 40;
    options.sampling.temperature = 0.7;
    options.sampling.seed = 7;
    std::printf("%s", prompt.c_str());
    SKIFF_TRY(auto result, engine->generate(tokens, options, [](std::string_view piece) {
        std::fwrite(piece.data(), 1, piece.size(), stdout);
        std::fflush(stdout);
        return true;  // false would end the text here
    }));
    std::printf("\n%zu tokens\n", result.tokens.size());
    return {};
}

}  // namespace

int main(int argc, char** argv) {
    skiff::Status status = generate(argc > 1 ? argv[1] : "models/pocket", argc > 2 ? argv[2] : "Once upon a time");
    if (status.ok()) return 0;
    std::fprintf(stderr, "%s\n", status.error().to_string().c_str());
    return skiff::exit_code(status.error().code);
}
