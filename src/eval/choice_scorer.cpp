#include "eval/choice_scorer.h"

#include <algorithm>

#include "eval/task_text.h"
#include "measure/likelihood.h"

namespace skiff {
namespace {

std::size_t common_prefix(std::span<const std::int32_t> a, std::span<const std::int32_t> b) {
    return static_cast<std::size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

}  // namespace

// The continuation's tokens are those of the whole text behind as many as the prompt alone has; what comes before them is the prompt alone.
// Beyond max_length + 1 tokens, the first ones are dropped.
Result<ChoiceScorer::Request> ChoiceScorer::make_request(const std::vector<std::int32_t>& context, std::string_view prompt,
                                                         std::string_view continuation) const {
    SKIFF_TRY(const auto whole, tokenizer_.encode(std::string(prompt) + std::string(continuation)));
    if (whole.size() <= context.size()) return unsupported("the tokenizer gives no token of its own to the continuation '" + std::string(continuation) + "'");
    Request request;
    request.targets.assign(whole.begin() + static_cast<std::ptrdiff_t>(context.size()), whole.end());
    std::vector<std::int32_t> tokens = context;
    tokens.insert(tokens.end(), request.targets.begin(), request.targets.end());
    const auto limit = static_cast<std::size_t>(max_length_) + 1;
    if (tokens.size() > limit) tokens.erase(tokens.begin(), tokens.end() - static_cast<std::ptrdiff_t>(limit));
    tokens.pop_back();
    if (request.targets.size() > tokens.size())
        return unsupported("a continuation of " + std::to_string(request.targets.size()) + " tokens does not fit the model's " +
                           std::to_string(max_length_) + " positions");
    request.inputs = std::move(tokens);
    return request;
}

Status ChoiceScorer::run_prefix(std::span<const std::int32_t> prefix) {
    const std::size_t kept = common_prefix(held_, prefix);
    SKIFF_CHECK(session_.state().truncate(0, static_cast<std::int64_t>(kept)));
    held_.resize(kept);
    if (kept == prefix.size()) return {};
    SKIFF_CHECK(session_.forward(0, prefix.subspan(kept), BatchItem::Logits::none));
    held_.assign(prefix.begin(), prefix.end());
    tokens_fed_ += static_cast<std::int64_t>(prefix.size() - kept);
    return {};
}

Status ChoiceScorer::run_requests(std::span<const Request> requests, std::int64_t n_prefix, std::span<double> log_likelihoods) {
    struct RowUse {
        std::size_t request, target;
    };
    std::vector<BatchItem> items;
    std::vector<RowUse> uses;  // by row of logits
    for (std::size_t i = 0; i < requests.size(); ++i) {
        if (requests[i].same_as != i) continue;
        const auto sequence = static_cast<std::int64_t>(i) + 1;
        session_.state().fork(0, sequence);
        const auto& inputs = requests[i].inputs;
        const auto begin = inputs.begin() + n_prefix, scored = inputs.begin() + requests[i].first_scored();
        if (begin != scored) items.push_back({sequence, {begin, scored}, BatchItem::Logits::none});
        items.push_back({sequence, {scored, inputs.end()}, BatchItem::Logits::all});
        for (std::size_t target = 0; target < requests[i].targets.size(); ++target) uses.push_back({i, target});
        tokens_fed_ += static_cast<std::int64_t>(inputs.size()) - n_prefix;
    }
    const auto n_vocab = static_cast<std::size_t>(session_.plan().output_width);
    return session_.forward(items, [&](std::int64_t first_row, std::span<const float> rows) -> Status {
        const std::size_t n_rows = rows.size() / n_vocab;
        std::vector<RowSummary> summaries(n_rows);
        session_.pool().run([&](int thread) {
            const Range range = share_of(static_cast<std::int64_t>(n_rows), thread, session_.n_threads());
            for (auto r = static_cast<std::size_t>(range.begin); r < static_cast<std::size_t>(range.end); ++r)
                summaries[r] = summarize_row(rows.subspan(r * n_vocab, n_vocab));
        });
        for (std::size_t r = 0; r < n_rows; ++r) {
            const auto row = rows.subspan(r * n_vocab, n_vocab);
            const RowUse& use = uses[static_cast<std::size_t>(first_row) + r];
            if (!summaries[r].finite)
                return not_finite_error(row, static_cast<std::int64_t>(use.target)).with_context("continuation " + std::to_string(use.request));
            for (std::size_t i = use.request; i < requests.size(); ++i)
                if (requests[i].same_as == use.request)
                    log_likelihoods[i] += static_cast<double>(row[static_cast<std::size_t>(requests[i].targets[use.target])]) - summaries[r].log_sum_exp;
        }
        return {};
    });
}

Result<ChoiceScores> ChoiceScorer::score(const std::string& prompt, std::span<const std::string> continuations) {
    if (continuations.empty() || static_cast<std::int64_t>(continuations.size()) > max_choices)
        return unsupported("an item has " + std::to_string(continuations.size()) + " choices, expected 1 to " + std::to_string(max_choices));
    const std::string_view stripped = strip_end(prompt);
    const std::string_view moved = std::string_view(prompt).substr(stripped.size());
    SKIFF_TRY(const auto context, tokenizer_.encode(stripped));
    if (context.empty()) return unsupported("the prompt has no tokens");
    ChoiceScores scores;
    scores.context_tokens = static_cast<std::int64_t>(context.size());
    std::vector<Request> requests;
    for (const std::string& continuation : continuations) {
        SKIFF_TRY(auto request, make_request(context, stripped, std::string(moved) + continuation));
        scores.continuation_tokens.push_back(static_cast<std::int64_t>(request.targets.size()));
        request.same_as = requests.size();
        for (std::size_t i = requests.size(); i-- > 0;)
            if (requests[i].inputs == request.inputs && requests[i].targets.size() == request.targets.size()) request.same_as = i;
        requests.push_back(std::move(request));
    }
    // All rows that are scored lie behind the shared part.
    std::size_t shared = static_cast<std::size_t>(requests[0].first_scored());
    for (const Request& request : requests)
        shared = std::min({shared, static_cast<std::size_t>(request.first_scored()), common_prefix(requests[0].inputs, request.inputs)});
    SKIFF_CHECK(run_prefix(std::span(requests[0].inputs).first(shared)));
    scores.log_likelihoods.assign(requests.size(), 0.0);
    SKIFF_CHECK(run_requests(requests, static_cast<std::int64_t>(shared), scores.log_likelihoods));
    return scores;
}

}  // namespace skiff
