#include "measure/measure_text.h"

#include <algorithm>

namespace skiff {
namespace {

// A part of a window, small enough that its logits fit the head's buffer.
struct Chunk {
    std::int64_t window;
    std::span<const std::int32_t> inputs;
    std::int64_t n_scored;                  // the last ones of the inputs
    std::int64_t scored_row;                // of the window, of the first that is scored
    std::span<const std::int32_t> targets;  // (n_scored)
    std::int64_t scored_before;             // positions scored in earlier chunks
};

Status check_fit(const Session& session, std::int64_t capacity, const TextWindows& windows) {
    if (session.plan().input_buffer >= 0) return usage_error("a stretch of blocks has no logits; measure the whole model");
    if (capacity < windows.window() - 1)
        return usage_error("the session has room for " + std::to_string(capacity) + " tokens, a window needs " + std::to_string(windows.window() - 1));
    return {};
}

// The words of an error in a chunk say where in the text it happened.
Error located(Error error, const Chunk& chunk, const TextWindows& windows) {
    const std::int64_t first = windows.text_position(chunk.window, chunk.scored_row);
    return std::move(error).with_context("window " + std::to_string(chunk.window) + ", rows that predict the text's tokens " + std::to_string(first) + " to " +
                                         std::to_string(first + chunk.n_scored - 1) + " (row 0 is the first)");
}

// Calls start(window) and visit(chunk) for all windows in order.
template <class Start, class Visit>
Status for_each_chunk(const TextWindows& windows, const MeasureOptions& options, Start start, Visit visit) {
    const std::int64_t inputs_per_window = windows.window() - 1, skipped = windows.first_scored();
    const std::int64_t step = std::max<std::int64_t>(1, options.chunk_tokens);
    std::int64_t scored_before = 0;
    for (std::int64_t window = 0; window < windows.n_windows(); ++window) {
        SKIFF_CHECK(start(window));
        const std::vector<std::int32_t> inputs = windows.inputs(window);
        const auto targets = windows.targets(window);
        for (std::int64_t begin = 0; begin < inputs_per_window; begin += step) {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "the evaluation was interrupted", {}};
            const std::int64_t end = std::min(inputs_per_window, begin + step);
            const std::int64_t n_scored = std::max<std::int64_t>(0, end - std::max(begin, skipped));
            const std::int64_t scored_row = std::max(begin, skipped) - skipped;
            const Chunk chunk{window,
                              std::span(inputs).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)),
                              n_scored,
                              scored_row,
                              n_scored > 0 ? targets.subspan(static_cast<std::size_t>(scored_row), static_cast<std::size_t>(n_scored))
                                           : std::span<const std::int32_t>{},
                              scored_before};
            if (Status status = visit(chunk); !status.ok()) return located(status.take_error(), chunk, windows);
            scored_before += n_scored;
            if (options.progress)
                options.progress({"evaluate", "window " + std::to_string(window), static_cast<std::uint64_t>(window * inputs_per_window + end),
                                  static_cast<std::uint64_t>(windows.n_windows() * inputs_per_window)});
        }
    }
    return {};
}

}  // namespace

std::int64_t chunk_for_vocabulary(std::int64_t n_vocab) {
    const std::int64_t rows = (std::int64_t{64} << 20) / (4 * std::max<std::int64_t>(1, n_vocab));
    return std::clamp<std::int64_t>(rows, 16, 256);
}

Status feed_chunk(Session& session, std::span<const std::int32_t> inputs, std::int64_t n_scored) {
    const auto n_before = inputs.size() - static_cast<std::size_t>(n_scored);
    const BatchItem items[] = {{0, {inputs.begin(), inputs.begin() + static_cast<std::ptrdiff_t>(n_before)}, BatchItem::Logits::none},
                               {0, {inputs.begin() + static_cast<std::ptrdiff_t>(n_before), inputs.end()}, BatchItem::Logits::all}};
    return session.forward(items);
}

Result<std::vector<TokenScore>> score_text(Session& session, const TextWindows& windows, const MeasureOptions& options) {
    SKIFF_CHECK(check_fit(session, session.state().capacity(), windows));
    std::vector<TokenScore> scores(static_cast<std::size_t>(windows.n_scored()));
    auto start = [&](std::int64_t) { return session.state().truncate(0, 0); };
    auto visit = [&](const Chunk& chunk) -> Status {
        SKIFF_CHECK(feed_chunk(session, chunk.inputs, chunk.n_scored));
        if (options.keep_logits) SKIFF_CHECK(options.keep_logits(session.logits()));
        return score_rows(session.pool(), session.logits(), chunk.targets,
                          std::span(scores).subspan(static_cast<std::size_t>(chunk.scored_before), chunk.targets.size()));
    };
    SKIFF_CHECK(for_each_chunk(windows, options, start, visit));
    return scores;
}

Result<std::vector<TokenDivergence>> compare_text(Session& child, ParentLogits& parent, const TextWindows& windows, const MeasureOptions& options) {
    SKIFF_CHECK(check_fit(child, child.state().capacity(), windows));
    if (parent.n_vocab() != child.plan().output_width)
        return usage_error("the parent predicts " + std::to_string(parent.n_vocab()) + " tokens, the child " + std::to_string(child.plan().output_width) +
                           "; only models with the same vocabulary can be compared");
    std::vector<TokenDivergence> result(static_cast<std::size_t>(windows.n_scored()));
    auto start = [&](std::int64_t window) -> Status {
        SKIFF_CHECK(parent.begin_window(window));
        return child.state().truncate(0, 0);
    };
    auto visit = [&](const Chunk& chunk) -> Status {
        SKIFF_TRY(const auto parent_rows, parent.chunk(chunk.inputs, chunk.n_scored));
        SKIFF_CHECK(feed_chunk(child, chunk.inputs, chunk.n_scored));
        if (options.keep_logits) SKIFF_CHECK(options.keep_logits(child.logits()));
        return compare_rows(child.pool(), parent_rows, child.logits(), chunk.targets,
                            std::span(result).subspan(static_cast<std::size_t>(chunk.scored_before), chunk.targets.size()));
    };
    SKIFF_CHECK(for_each_chunk(windows, options, start, visit));
    return result;
}

}  // namespace skiff
