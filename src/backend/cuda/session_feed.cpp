// Tokens that the session chooses and feeds itself (Session::self_feeder): the program of a token for each of some sequences ends with the choice, which writes tokens and positions where the
// program's beginning reads them, so that its graph is launched again and again and nothing comes from the host but, now and then, pages and random numbers.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cuda/cuda_session.h"

namespace skiff::cuda {
namespace {

RunShape chain_shape(std::size_t n_sequences) {
    const auto n = static_cast<std::int64_t>(n_sequences);
    return {n, n, RunShape::Selection::all, RunShape::Attention::decode, 0, RunShape::Then::choose, {}, n > 1 ? RunShape::Tokens::one_each : RunShape::Tokens::any};
}

}  // namespace

std::int64_t CudaSession::most_chain() const { return std::min({FeedQueue::most_wide, pages_->n_sequences(), most_tokens_, most_rows_}); }

bool CudaSession::Feeder::takes(const ChoiceRule& rule) const {
    return session_.profile_ == nullptr && (rule.temperature == 0 || (rule.top_k >= 1 && rule.top_k <= most_top));
}

Status CudaSession::Feeder::queue_together(std::span<const std::int64_t> sequences, std::span<const std::int32_t> tokens, const ChoiceRule& rule, std::int64_t n_steps, std::span<const double> uniforms) {
    CudaSession& session = session_;
    SKIFF_CHECK(session.device_->enter());
    if (!session.broken_.ok()) return Error(session.broken_.error());
    if (!takes(rule)) return usage_error("the device chooses the largest of a token's logits, or among at most " + std::to_string(most_top));
    const auto width = static_cast<std::int64_t>(sequences.size());
    if (width < 1 || width > most_sequences()) return usage_error("1 to " + std::to_string(most_sequences()) + " sequences go on together here");
    if (n_steps < 1 || n_steps > most_steps() || (rule.temperature > 0 && static_cast<std::int64_t>(uniforms.size()) != n_steps * width)) return usage_error("a chain of tokens grows by 1 to " + std::to_string(most_steps()) + " steps, with a random number for each token");
    std::vector<std::int64_t> lengths;
    for (auto each = sequences.begin(); each != sequences.end(); ++each) {
        if (*each < 0 || *each >= session.pages_->n_sequences()) return usage_error("sequence " + std::to_string(*each) + " is not in this session");
        if (std::find(sequences.begin(), each, *each) != each) return usage_error("sequence " + std::to_string(*each) + " is named twice");
        lengths.push_back(session.pages_->length(*each));
        if (lengths.back() + n_steps > session.pages_->capacity()) return resource_error("the context of " + std::to_string(session.pages_->capacity()) + " tokens is full; start with a larger --ctx");
    }
    const auto chain = session.feed_.sequences();
    if (!tokens.empty()) SKIFF_CHECK(session.begin_chain(sequences, tokens, rule));
    else if (!std::equal(chain.begin(), chain.end(), sequences.begin(), sequences.end()) || rule != session.feed_rule_) return usage_error("the chain of tokens has ended; begin it with a token");
    if (session.feed_.n_waiting() + n_steps > most_steps()) return usage_error("too many tokens of the chain were not read");
    const std::vector<std::int64_t> wanted(sequences.begin(), sequences.end());  // what is given may be the chain's own
    Status status = session.queue_steps(tokens, n_steps, rule.temperature > 0 ? uniforms : std::span<const double>());
    if (status.ok()) return status;
    session.end_chain();
    for (std::size_t i = 0; i < wanted.size(); ++i) session.pages_->truncate(wanted[i], lengths[i]);
    return status;
}

Status CudaSession::begin_chain(std::span<const std::int64_t> sequences, std::span<const std::int32_t> tokens, const ChoiceRule& rule) {
    if (tokens.size() != sequences.size()) return usage_error("a chain begins with a token for each of its sequences");
    for (const std::int32_t token : tokens)
        if (token < 0 || token >= plan_.spec.n_vocab) return usage_error("token " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(plan_.spec.n_vocab));
    end_chain();
    gathered_.clear();
    waiting_rows_ = host_row_count_ = 0;
    SKIFF_CHECK(make_sample_scratch());
    SKIFF_CHECK(feed_.open(*device_));
    if (feed_history_ == nullptr) {
        const auto most = static_cast<std::size_t>(most_chain());
        SKIFF_TRY(std::byte * history, device_->allocate(most * static_cast<std::size_t>(pages_->capacity() + 1) * sizeof(std::int32_t), "chosen tokens"));
        auto uniforms = device_->allocate(most * feed_ring * sizeof(double), "random numbers");
        if (!uniforms.ok()) {
            device_->release(history);
            return uniforms.take_error();
        }
        feed_history_ = reinterpret_cast<std::int32_t*>(history);
        feed_uniforms_ = reinterpret_cast<double*>(*uniforms);
    }
    if (rule != feed_rule_) {  // its numbers are in the programs
        SKIFF_CHECK(device_->wait());
        for (auto entry = programs_.begin(); entry != programs_.end();) {
            if (entry->first.then != RunShape::Then::choose) {
                ++entry;
                continue;
            }
            if (entry->second.graph != nullptr) device_->table().destroy_graph(entry->second.graph);
            if (last_ == &entry->second.program) last_ = nullptr;
            entry = programs_.erase(entry);
        }
        feed_rule_ = rule;
    }
    feed_.begin(sequences);
    return {};
}

// Random numbers lie at their positions: for each sequence one copy, or two where the ring ends.
Status CudaSession::put_uniforms(std::span<const std::int32_t> positions, std::int64_t n_steps, std::span<const double> uniforms) {
    if (uniforms.empty()) return {};
    const Table& table = device_->table();
    SKIFF_TRY(Slot * slot, next_slot());
    std::memcpy(slot->memory, uniforms.data(), uniforms.size_bytes());
    for (std::size_t sequence = 0; sequence < positions.size(); ++sequence)
        for (std::int64_t done = 0; done < n_steps;) {
            const std::int64_t at = (positions[sequence] + done) % feed_ring, n = std::min(n_steps - done, feed_ring - at);
            const std::byte* from = slot->memory + (static_cast<std::int64_t>(sequence) * n_steps + done) * static_cast<std::int64_t>(sizeof(double));
            SKIFF_CHECK(device_->check(table.copy_in(feed_uniforms_ + static_cast<std::int64_t>(sequence) * feed_ring + at, from, static_cast<std::size_t>(n) * sizeof(double), device_->stream()), "copying random numbers to the device"));
            done += n;
        }
    SKIFF_CHECK(device_->check(table.record(slot->free, device_->stream()), "recording an event"));
    slot->used = true;
    return {};
}

Status CudaSession::queue_steps(std::span<const std::int32_t> tokens, std::int64_t n_steps, std::span<const double> uniforms) {
    Chunk chunk;
    std::vector<std::int64_t> positions;  // that are fed next
    for (const std::int64_t sequence : feed_.sequences()) {
        chunk.sequences.push_back(static_cast<std::int32_t>(sequence));
        chunk.selected.push_back(static_cast<std::int32_t>(chunk.selected.size()));
        positions.push_back(pages_->length(sequence));
        chunk.positions.push_back(static_cast<std::int32_t>(positions.back()));
    }
    const RunShape shape = chain_shape(positions.size());
    SKIFF_CHECK(put_uniforms(chunk.positions, n_steps, uniforms));
    for (const std::int64_t sequence : feed_.sequences()) SKIFF_CHECK(append(sequence, n_steps));
    // Only now: a program that finds no memory where it was measured is laid out again, and with it all others.
    SKIFF_TRY(Program * program, program_for(shape));
    if (!tokens.empty()) {
        chunk.tokens.assign(tokens.begin(), tokens.end());
        SKIFF_CHECK(stage(shape, chunk, {}));
    } else if (pages_->changed()) {
        SKIFF_TRY(Slot * slot, next_slot());
        SKIFF_CHECK(put_page_table(slot->memory));
        SKIFF_CHECK(device_->check(device_->table().record(slot->free, device_->stream()), "recording an event"));
        slot->used = true;
    }
    for (std::int64_t step = 0; step < n_steps; ++step) {
        SKIFF_CHECK(execute(shape, *program));
        for (std::int64_t& position : positions) ++position;
        SKIFF_CHECK(feed_.put(feed_history_, positions));
    }
    last_ = &program->program;
    waiting_rows_ = host_row_count_ = shape.n_tokens;
    return {};
}

Result<std::span<const std::int32_t>> CudaSession::next_chosen() {
    SKIFF_CHECK(device_->enter());
    if (feed_.sequences().empty() || feed_.n_waiting() == 0) return usage_error("the chain of tokens has ended: none is on its way");
    auto tokens = feed_.take();
    if (!tokens.ok()) {
        end_chain();
        return tokens.take_error();
    }
    if (std::any_of(tokens->begin(), tokens->end(), [](std::int32_t token) { return token < 0; })) end_chain();
    return *tokens;
}

}  // namespace skiff::cuda
