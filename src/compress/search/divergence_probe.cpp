#include "compress/search/divergence_probe.h"

#include <algorithm>
#include <cmath>

#include "measure/divergence.h"
#include "measure/measure_text.h"

namespace skiff {

Result<DivergenceProbe> DivergenceProbe::create(const ModelSpec& spec, const WeightSource& parent, const CalibrationText& text, int n_threads) {
    DivergenceProbe probe(spec, text, n_threads);
    CalibrationWalk walk(spec, text, n_threads);
    SKIFF_CHECK(walk.embed(parent));
    for (std::size_t block = 1; block + 1 < walk.n_blocks(); ++block) SKIFF_CHECK(walk.advance(block, parent));
    probe.before_head_.assign(walk.hidden().begin(), walk.hidden().end());
    SKIFF_TRY(probe.head_, probe.start(parent, spec.blocks.size() - 1));
    return probe;
}

Result<std::unique_ptr<Session>> DivergenceProbe::start(const WeightSource& weights, std::size_t first_block) const {
    PlanOptions plan_options;
    plan_options.first_block = first_block;
    plan_options.n_threads = plan_options.n_load_threads = n_threads_;
    SKIFF_TRY(auto plan, lower(*spec_, weights, plan_options));
    SessionOptions options;
    options.n_threads = n_threads_;
    options.n_context = text_->longest();
    options.max_batch = chunk_for_vocabulary(spec_->n_vocab);
    return Session::create(std::move(plan), options);
}

std::span<const float> DivergenceProbe::rows_of(std::span<const float> states, std::size_t sample) const {
    std::size_t begin = 0;
    const auto width = static_cast<std::size_t>(spec_->d_model);
    for (std::size_t i = 0; i < sample; ++i) begin += text_->samples[i].size() * width;
    return states.subspan(begin, text_->samples[sample].size() * width);
}

Result<double> DivergenceProbe::divergence(const WeightSource& weights, std::size_t first_block, std::span<const float> entering, std::span<const std::size_t> samples) const {
    SKIFF_TRY(const auto session, start(weights, first_block));
    const auto width = static_cast<std::size_t>(spec_->d_model), step = static_cast<std::size_t>(chunk_for_vocabulary(spec_->n_vocab));
    double sum = 0;
    std::size_t n_rows = 0;
    std::vector<float> parent_rows, child_rows;
    std::vector<TokenDivergence> rows;
    for (std::size_t sample : samples) {
        const std::vector<std::int32_t>& tokens = text_->samples[sample];
        for (std::size_t begin = 0; begin < tokens.size(); begin += step) {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
            const std::size_t size = std::min(step, tokens.size() - begin);
            SKIFF_CHECK(head_->forward_hidden(0, rows_of(before_head_, sample).subspan(begin * width, size * width), parent_rows));
            SKIFF_CHECK(head_->state().truncate(0, 0));
            std::span<const float> child;
            if (first_block == 0) {
                SKIFF_CHECK(session->forward(0, std::span(tokens).subspan(begin, size), BatchItem::Logits::all));
                child = session->logits();
            } else {
                SKIFF_CHECK(session->forward_hidden(0, rows_of(entering, sample).subspan(begin * width, size * width), child_rows));
                child = child_rows;
            }
            rows.resize(size);
            SKIFF_CHECK(compare_rows(session->pool(), parent_rows, child, std::span(tokens).subspan(begin, size), rows));
            for (const TokenDivergence& row : rows) sum += row.kl;
            n_rows += size;
        }
        SKIFF_CHECK(session->state().truncate(0, 0));
    }
    return n_rows > 0 ? sum / static_cast<double>(n_rows) : 0.0;
}

}  // namespace skiff
