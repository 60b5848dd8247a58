#include "compress/calibrate/walk.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/atomic_file.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "base/progress.h"
#include "compress/calibrate/observe_inputs.h"

namespace skiff {
namespace {

constexpr char hidden_magic[8] = {'s', 'k', 'i', 'f', 'f', 'h', 'i', 'd'};

struct HiddenHeader {
    char magic[8];
    std::uint64_t n_floats, text_hash, data_hash;
};

std::uint64_t hash_of(const std::string& text) { return hash64(std::as_bytes(std::span(text))); }

}  // namespace

std::map<std::string, ValueId> linear_inputs(const Block& block) {
    std::map<std::string, ValueId> inputs;
    for (const Op& op : block.ops) {
        const auto* linear = std::get_if<LinearOp>(&op.detail);
        if (linear == nullptr || linear->transform.kind != InputTransform::Kind::none) continue;
        for (const LinearTerm& term : linear->terms) {
            if (term.kind == LinearTerm::Kind::packed) inputs.emplace(term.weight.key, op.in[0]);
            else if (term.kind == LinearTerm::Kind::low_rank) inputs.emplace(term.down.key, op.in[0]);
        }
    }
    return inputs;
}

Result<Weight> EditedWeights::load(const std::string& key) const {
    const auto edited = edits_.find(key);
    if (edited != edits_.end()) return edited->second;
    return base_->load(key);
}

Weight as_floats(const Weight& weight, ThreadPool& pool) {
    std::vector<float> values(static_cast<std::size_t>(element_count(weight.shape)));
    pool.run([&](int thread) {
        const Range rows = share_of(weight.n_rows(), thread, pool.n_threads());
        for (std::int64_t row = rows.begin; row < rows.end; ++row) weight.row(row, values.data() + row * weight.n_columns());
    });
    return make_float_weight(weight.shape, std::move(values));
}

Status CalibrationWalk::embed(const WeightSource& weights) {
    hidden_.clear();
    return run(0, weights, {}, Outputs::kept);
}

Status CalibrationWalk::advance(std::size_t block, const WeightSource& weights) { return run(block, weights, {}, Outputs::kept); }

Status CalibrationWalk::watch(std::size_t block, const WeightSource& weights, std::span<const ValueId> ids, const ValueSink& sink) {
    return run(block, weights, {ids, sink, {}}, Outputs::dropped);
}

Result<std::unique_ptr<Session>> CalibrationWalk::open(std::size_t block, const WeightSource& weights, std::span<const ValueId> ids) const {
    std::vector<std::string> taps;
    for (ValueId id : ids)
        if (id != spec_.blocks.at(block).in) taps.push_back(spec_.values[static_cast<std::size_t>(id)].name);
    if (runner_ != nullptr) return runner_->open(spec_, weights, {block, std::move(taps), text_.longest(), n_threads_});
    PlanOptions plan_options;
    plan_options.first_block = plan_options.last_block = block;
    plan_options.n_threads = plan_options.n_load_threads = n_threads_;
    plan_options.taps = std::move(taps);
    SKIFF_TRY(auto plan, lower(spec_, weights, plan_options));
    SessionOptions session_options;
    session_options.n_threads = n_threads_;
    session_options.n_context = session_options.max_batch = text_.longest();
    return Session::create(plan, session_options);
}

// Sums are added up where the values are, if that can be; what enters the block is here.
Status CalibrationWalk::observe_run(const Look& look, const Block& stretch, std::span<const float> input, Session& session) const {
    TapSums* sums = session.tap_sums();
    for (std::size_t i = 0; i < look.ids.size(); ++i) {
        const std::string& name = spec_.values[static_cast<std::size_t>(look.ids[i])].name;
        const auto before = look.ids.begin() + static_cast<std::ptrdiff_t>(i);
        if (sums != nullptr && look.ids[i] != stretch.in && std::find(look.ids.begin(), before, look.ids[i]) != before) continue;  // two observers of one value
        if (look.ids[i] == stretch.in) look.observers[i]->add(input, session.pool());
        else if (sums == nullptr) look.observers[i]->add(session.tap(name), session.pool());
        else SKIFF_CHECK(sums->add(name, look.observers[i]->need() == StatisticsNeed::gram ? TapSums::Pairs::added : TapSums::Pairs::left_out));
    }
    return {};
}

Status CalibrationWalk::run(std::size_t block, const WeightSource& weights, const Look& look, Outputs outputs) {
    const Block& stretch = spec_.blocks.at(block);
    SKIFF_TRY(const auto session, open(block, weights, look.ids));
    const Plan& plan = session->plan();

    const bool keep = outputs == Outputs::kept;
    if (keep && block == 0) hidden_.resize(static_cast<std::size_t>(text_.n_tokens() * plan.output_width));
    float* at = hidden_.data();
    const std::int64_t most = runner_ != nullptr ? runner_->most_tokens() : INT64_MAX;
    std::vector<std::span<const float>> values(look.ids.size());
    for (std::size_t sample = 0; sample < text_.samples.size(); ++sample) {
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted", {}};
        const auto& tokens = text_.samples[sample];
        const std::span<float> input{at, tokens.size() * static_cast<std::size_t>(block == 0 ? plan.output_width : plan.input_width)};
        const auto n_tokens = static_cast<std::int64_t>(tokens.size());
        std::vector<float> output;
        std::vector<std::vector<float>> gathered(look.ids.size());  // of a text in parts
        for (std::int64_t first = 0; first == 0 || first < n_tokens; first += most) {
            const auto n = static_cast<std::size_t>(std::min(most, n_tokens - first)), width = tokens.empty() ? 0 : input.size() / tokens.size();
            const std::span<float> part = input.subspan(static_cast<std::size_t>(first) * width, n * width);
            if (block == 0) {
                SKIFF_CHECK(session->forward(0, std::span(tokens).subspan(static_cast<std::size_t>(first), n), BatchItem::Logits::all));
                std::copy(session->logits().begin(), session->logits().end(), part.begin());
            } else if (n_tokens <= most) {
                SKIFF_CHECK(session->forward_hidden(0, part, output));
            } else {
                std::vector<float> more;
                SKIFF_CHECK(session->forward_hidden(0, part, more));
                output.insert(output.end(), more.begin(), more.end());
            }
            if (!look.observers.empty() && !tokens.empty()) SKIFF_CHECK(observe_run(look, stretch, part, *session));
            for (std::size_t i = 0; i < look.ids.size() && look.sink && n_tokens > most; ++i) {
                if (look.ids[i] == stretch.in) continue;
                const auto seen = session->tap(spec_.values[static_cast<std::size_t>(look.ids[i])].name);
                gathered[i].insert(gathered[i].end(), seen.begin(), seen.end());
            }
            if (n_tokens - first <= most) break;
        }
        if (look.sink) {
            for (std::size_t i = 0; i < look.ids.size(); ++i) {
                values[i] = look.ids[i] == stretch.in ? std::span<const float>(input) : n_tokens > most ? std::span<const float>(gathered[i]) : session->tap(spec_.values[static_cast<std::size_t>(look.ids[i])].name);
                if (values[i].empty() && !tokens.empty()) return runtime_error("the value " + spec_.values[static_cast<std::size_t>(look.ids[i])].name + " of " + stretch.name + " did not come from " + session->where());
            }
            SKIFF_CHECK(look.sink(static_cast<std::int64_t>(sample), values, session->pool()));
        }
        if (keep && block > 0) {
            for (float x : output)
                if (!std::isfinite(x)) return runtime_error(stretch.name + " gives numbers that are not finite on sample " + std::to_string(sample) + " of the calibration text; the weights before it overflow");
            std::copy(output.begin(), output.end(), input.begin());
        }
        at += input.size();
        SKIFF_CHECK(session->state().truncate(0, 0));
    }
    TapSums* sums = session->tap_sums();
    std::map<ValueId, ColumnSums> found;
    for (std::size_t i = 0; sums != nullptr && i < look.observers.size(); ++i) {
        const ValueId id = look.ids[i];
        if (id == stretch.in) continue;
        if (found.count(id) == 0) {
            SKIFF_TRY(found[id], sums->take(spec_.values[static_cast<std::size_t>(id)].name));
        }
        look.observers[i]->add(found[id]);
    }
    return {};
}

std::size_t CalibrationWalk::last_sharing(std::size_t block) const {
    const auto readers = linear_inputs(spec_.blocks.at(block));
    std::size_t last = block;
    while (last + 2 < spec_.blocks.size()) {
        const auto next = linear_inputs(spec_.blocks[last + 1]);
        if (std::none_of(next.begin(), next.end(), [&](const auto& reader) { return readers.count(reader.first) != 0; })) break;
        ++last;
    }
    return last;
}

Result<BlockInputs> CalibrationWalk::observe(std::size_t block, std::size_t last, const WeightSource& weights, StatisticsNeed need) {
    const auto readers = linear_inputs(spec_.blocks.at(block));
    // Of each value that is read, and a weight that reads it.
    std::vector<std::pair<std::string, std::shared_ptr<InputObserver>>> observers;
    std::map<ValueId, std::size_t> place;
    for (const auto& [key, id] : readers)
        if (place.emplace(id, observers.size()).second) observers.emplace_back(key, std::make_shared<InputObserver>(spec_.width(id), need));
    const std::vector<float> before = last > block ? hidden_ : std::vector<float>();
    for (std::size_t at = block; at <= last; ++at) {
        const auto mine = linear_inputs(spec_.blocks.at(at));
        std::vector<ValueId> ids;
        std::vector<InputObserver*> fed;
        for (const auto& [key, observer] : observers)
            if (const auto reader = mine.find(key); reader != mine.end()) {
                ids.push_back(reader->second);
                fed.push_back(observer.get());
            }
        SKIFF_CHECK(run(at, weights, {ids, nullptr, fed}, Outputs::dropped));
        if (at < last) SKIFF_CHECK(advance(at, weights));
    }
    if (last > block) hidden_ = before;
    std::vector<std::shared_ptr<const InputStatistics>> finished;
    for (const auto& [key, observer] : observers) finished.push_back(std::make_shared<InputStatistics>(observer->finish()));
    BlockInputs inputs;
    for (const auto& [key, id] : readers) inputs[key] = finished[place.at(id)];
    return inputs;
}

Status CalibrationWalk::save(const std::string& path) const {
    HiddenHeader header{};
    std::memcpy(header.magic, hidden_magic, sizeof hidden_magic);
    header.n_floats = hidden_.size();
    header.text_hash = hash_of(text_.sha256);
    header.data_hash = hash64(std::as_bytes(std::span(hidden_)));
    SKIFF_TRY(auto file, AtomicFile::create(path));
    SKIFF_CHECK(file.write(std::as_bytes(std::span(&header, 1))));
    SKIFF_CHECK(file.write(std::as_bytes(std::span(hidden_))));
    return file.commit();
}

Status CalibrationWalk::restore(const std::string& path) {
    SKIFF_TRY(const auto file, MappedFile::open(path));
    HiddenHeader header{};
    if (file->bytes().size() < sizeof header) return corrupt(path + ": too short for hidden states; add --restart");
    std::memcpy(&header, file->bytes().data(), sizeof header);
    const auto data = file->bytes().subspan(sizeof header);
    const bool is_ours = std::memcmp(header.magic, hidden_magic, sizeof hidden_magic) == 0 && header.text_hash == hash_of(text_.sha256) &&
                         header.n_floats == static_cast<std::uint64_t>(text_.n_tokens() * spec_.d_model) && data.size() == header.n_floats * sizeof(float) && header.data_hash == hash64(data);
    if (!is_ours) return corrupt(path + ": not the hidden states of this model on this calibration text; add --restart");
    hidden_.resize(header.n_floats);
    std::memcpy(hidden_.data(), data.data(), data.size());
    return {};
}

}  // namespace skiff
