// What a model thinks comes next: a plan and a session without the engine, and the five most likely tokens.
//   example_02_next_token models/pocket "The king said"
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "model/checkpoint.h"
#include "plan/session.h"

namespace {

skiff::Status show(const std::string& model, const std::string& text) {
    SKIFF_TRY(auto checkpoint, skiff::Checkpoint::open(model));                                   // spec and mapped files
    SKIFF_TRY(auto tokenizer, checkpoint.load_tokenizer());
    SKIFF_TRY(auto plan, skiff::lower(checkpoint.spec, *checkpoint.weights, skiff::PlanOptions{}));  // steps with their kernels, packed weights
    SKIFF_TRY(auto session, skiff::Session::create(plan, skiff::SessionOptions{}));               // buffers, state, threads

    SKIFF_TRY(auto tokens, tokenizer.encode(text));
    SKIFF_CHECK(session->forward(0, tokens, skiff::BatchItem::Logits::last));
    const std::span<const float> logits = session->logits();  // (n_vocab)

    std::vector<std::int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    const auto likelier = [&](std::int32_t a, std::int32_t b) { return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)]; };
    std::partial_sort(order.begin(), order.begin() + 5, order.end(), likelier);
    const float largest = logits[static_cast<std::size_t>(order[0])];
    double sum = 0;
    for (float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
    for (int i = 0; i < 5; ++i)
        std::printf("%5.1f %%  \"%s\"\n", 100 * std::exp(static_cast<double>(logits[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])]) - largest) / sum,
                    tokenizer.token_bytes(order[static_cast<std::size_t>(i)]).c_str());
    return {};
}

}  // namespace

int main(int argc, char** argv) {
    skiff::Status status = show(argc > 1 ? argv[1] : "models/pocket", argc > 2 ? argv[2] : "The king said");
    if (status.ok()) return 0;
    std::fprintf(stderr, "%s\n", status.error().to_string().c_str());
    return skiff::exit_code(status.error().code);
}
