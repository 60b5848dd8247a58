// Tokens that the session chooses and feeds itself (Session::self_feeder): the program of one token ends with the choice, which writes the token and its position where the program's beginning
// reads them, so that its graph is launched again and again and nothing comes from the host but, now and then, pages and random numbers.
#include <cmath>
#include <cstring>

#include "backend/cuda/cuda_session.h"

namespace skiff::cuda {
namespace {

constexpr RunShape chain_shape = {1, 1, RunShape::Selection::all, RunShape::Attention::decode, 0, RunShape::Then::choose};

}  // namespace

bool CudaSession::Feeder::takes(const ChoiceRule& rule) const {
    return session_.profile_ == nullptr && (rule.temperature == 0 || (rule.top_k >= 1 && rule.top_k <= most_top));
}

Status CudaSession::Feeder::queue(std::int64_t sequence, std::optional<std::int32_t> token, const ChoiceRule& rule, std::int64_t n_steps, std::span<const double> uniforms) {
    CudaSession& session = session_;
    SKIFF_CHECK(session.device_->enter());
    if (!session.broken_.ok()) return Error(session.broken_.error());
    if (!takes(rule)) return usage_error("the device chooses the largest of a token's logits, or among at most " + std::to_string(most_top));
    if (sequence < 0 || sequence >= session.pages_->n_sequences()) return usage_error("sequence " + std::to_string(sequence) + " is not in this session");
    if (n_steps < 1 || n_steps > most_steps() || (rule.temperature > 0 && static_cast<std::int64_t>(uniforms.size()) != n_steps)) return usage_error("a chain of tokens grows by 1 to " + std::to_string(most_steps()) + " steps, with a random number for each");
    const std::int64_t length = session.pages_->length(sequence);
    if (length + n_steps > session.pages_->capacity()) return resource_error("the context of " + std::to_string(session.pages_->capacity()) + " tokens is full; start with a larger --ctx");
    if (token) SKIFF_CHECK(session.begin_chain(sequence, *token, rule));
    else if (session.feed_.sequence() != sequence || rule != session.feed_rule_) return usage_error("the chain of tokens has ended; begin it with a token");
    if (session.feed_.n_waiting() + n_steps > most_steps()) return usage_error("too many tokens of the chain were not read");
    Status status = session.queue_steps(token, n_steps, rule.temperature > 0 ? uniforms : std::span<const double>());
    if (status.ok()) return status;
    session.end_chain();
    session.pages_->truncate(sequence, length);
    return status;
}

Status CudaSession::begin_chain(std::int64_t sequence, std::int32_t token, const ChoiceRule& rule) {
    if (token < 0 || token >= plan_.spec.n_vocab) return usage_error("token " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(plan_.spec.n_vocab));
    end_chain();
    gathered_.clear();
    waiting_rows_ = host_row_count_ = 0;
    SKIFF_CHECK(make_sample_scratch());
    SKIFF_CHECK(feed_.open(*device_));
    if (feed_history_ == nullptr) {
        SKIFF_TRY(std::byte * history, device_->allocate(static_cast<std::size_t>(pages_->capacity() + 1) * sizeof(std::int32_t), "chosen tokens"));
        auto uniforms = device_->allocate(feed_ring * sizeof(double), "random numbers");
        if (!uniforms.ok()) {
            device_->release(history);
            return uniforms.take_error();
        }
        feed_history_ = reinterpret_cast<std::int32_t*>(history);
        feed_uniforms_ = reinterpret_cast<double*>(*uniforms);
    }
    if (rule != feed_rule_) {  // its numbers are in the program
        if (const auto found = programs_.find(chain_shape); found != programs_.end()) {
            SKIFF_CHECK(device_->wait());
            if (found->second.graph != nullptr) device_->table().destroy_graph(found->second.graph);
            if (last_ == &found->second.program) last_ = nullptr;
            programs_.erase(found);
        }
        feed_rule_ = rule;
    }
    feed_.begin(sequence);
    return {};
}

// Random numbers lie at their positions, all of one call in one copy, or two where the ring ends.
Status CudaSession::put_uniforms(std::int64_t position, std::span<const double> uniforms) {
    if (uniforms.empty()) return {};
    const Table& table = device_->table();
    SKIFF_TRY(Slot * slot, next_slot());
    std::memcpy(slot->memory, uniforms.data(), uniforms.size_bytes());
    for (std::size_t done = 0; done < uniforms.size();) {
        const std::int64_t at = (position + static_cast<std::int64_t>(done)) % feed_ring;
        const std::size_t n = std::min(uniforms.size() - done, static_cast<std::size_t>(feed_ring - at));
        SKIFF_CHECK(device_->check(table.copy_in(feed_uniforms_ + at, slot->memory + done * sizeof(double), n * sizeof(double), device_->stream()), "copying random numbers to the device"));
        done += n;
    }
    SKIFF_CHECK(device_->check(table.record(slot->free, device_->stream()), "recording an event"));
    slot->used = true;
    return {};
}

Status CudaSession::queue_steps(std::optional<std::int32_t> token, std::int64_t n_steps, std::span<const double> uniforms) {
    const std::int64_t sequence = feed_.sequence(), first = pages_->length(sequence);
    SKIFF_CHECK(put_uniforms(first, uniforms));
    SKIFF_CHECK(append(sequence, n_steps));
    // Only now: a program that finds no memory where it was measured is laid out again, and with it all others.
    SKIFF_TRY(Program * program, program_for(chain_shape));
    if (token) {
        const Chunk chunk{{*token}, {static_cast<std::int32_t>(first)}, {static_cast<std::int32_t>(sequence)}, {0}};
        SKIFF_CHECK(stage(chain_shape, chunk, {}));
    } else if (pages_->changed()) {
        SKIFF_TRY(Slot * slot, next_slot());
        SKIFF_CHECK(put_page_table(slot->memory));
        SKIFF_CHECK(device_->check(device_->table().record(slot->free, device_->stream()), "recording an event"));
        slot->used = true;
    }
    for (std::int64_t step = 0; step < n_steps; ++step) {
        SKIFF_CHECK(execute(chain_shape, *program));
        SKIFF_CHECK(feed_.put(feed_history_ + first + step + 1));
    }
    last_ = &program->program;
    waiting_rows_ = host_row_count_ = 1;
    return {};
}

Result<std::optional<std::int32_t>> CudaSession::next_chosen() {
    SKIFF_CHECK(device_->enter());
    if (feed_.sequence() < 0 || feed_.n_waiting() == 0) return usage_error("the chain of tokens has ended: none is on its way");
    auto token = feed_.take();
    if (!token.ok()) {
        end_chain();
        return token.take_error();
    }
    if (*token >= 0) return std::optional<std::int32_t>(*token);
    end_chain();
    return std::optional<std::int32_t>();
}

}  // namespace skiff::cuda
