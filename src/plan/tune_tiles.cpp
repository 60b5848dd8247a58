#include "plan/tune_tiles.h"

#include <algorithm>
#include <map>

#include "base/rng.h"
#include "base/thread_pool.h"
#include "plan/fused_step.h"
#include "plan/steps.h"

namespace skiff {
namespace {

// A choice must be this much faster than the kernel's rule, or the rule stays: noise is no reason.
constexpr double worth_it = 1.01;
constexpr int most_rounds = 9, fewest_rounds = 3, confirming_rounds = 8;

std::int64_t share_rows(const LinearSegment& segment, int n_threads) {
    const Range first = share_of(segment.weight->n_rows, 0, n_threads, segment.weight->layout->row_unit);
    return first.end - first.begin;
}

// One shape with inputs of its own, to be multiplied again and again as the plan does: each thread its share, in slabs of `rows`.
class Trial {
public:
    Trial(const LinearSegment& segment, std::int64_t rows, std::int64_t n_tokens, Isa isa, ThreadPool& pool)
        : segment_(segment), rows_(rows), n_tokens_(n_tokens), pool_(pool), weight_(*segment.weight) {
        const std::int64_t padded = padded_for_codes(weight_.n_columns);
        const auto size = static_cast<std::size_t>(n_tokens * padded);
        codes_ = AlignedBuffer(size), scales_ = AlignedBuffer(size / 8), sums_ = AlignedBuffer(size / 4);
        y_ = AlignedBuffer(static_cast<std::size_t>(n_tokens * weight_.n_rows) * sizeof(float));
        AlignedBuffer x(static_cast<std::size_t>(n_tokens * weight_.n_columns) * sizeof(float));
        Rng rng(3);
        for (std::int64_t i = 0; i < n_tokens * weight_.n_columns; ++i) x.as<float>()[i] = static_cast<float>(rng.uniform()) - 0.5f;
        choose_kernel(quantize_kernels(), isa).fn({x.as<float>(), codes_.as<std::int8_t>(), scales_.as<float>(), sums_.as<std::int16_t>(), weight_.n_columns, padded}, {0, n_tokens});
        view_ = {nullptr, codes_.as<std::int8_t>(), scales_.as<float>(), sums_.as<std::int16_t>(), weight_.n_columns, padded};
    }

    double seconds(const LinearTiles& tiles) {
        const LinearFn fn = segment_.kernels[n_buckets - 1]->fn;
        ++epoch_;
        const double begin = monotonic_seconds();
        pool_.run([&](int thread) {
            const Range mine = share_of(weight_.n_rows, thread, pool_.n_threads(), weight_.layout->row_unit);
            LinearArgs args{&weight_, view_, nullptr, y_.as<float>(), weight_.n_rows, n_tokens_, LinearArgs::Write::replace, tiles, epoch_};
            for (std::int64_t row = mine.begin; row < mine.end; row += rows_) fn(args, {row, std::min(row + rows_, mine.end)});
        });
        return monotonic_seconds() - begin;
    }

private:
    const LinearSegment& segment_;
    std::int64_t rows_, n_tokens_;
    ThreadPool& pool_;
    const PackedWeight& weight_;
    AlignedBuffer codes_, scales_, sums_, y_;
    PreparedActivation view_;
    std::uint64_t epoch_ = std::uint64_t{1} << 63;  // no session's
};

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

// In turns, so that what else the machine does meets all alike; each is compared with the rule of its own round.
TileEntry best_of(Trial& trial, const std::vector<LinearTiles>& candidates, double seconds) {
    std::vector<std::vector<double>> ratios(candidates.size());
    const double begin = monotonic_seconds();
    for (int round = -1; round < most_rounds; ++round) {
        if (round >= fewest_rounds && monotonic_seconds() - begin > seconds) break;
        if (interrupt_requested()) return {candidates[0], 1};  // the caller asks as well
        const double rule = trial.seconds(candidates[0]);
        for (std::size_t i = 0; i < candidates.size(); ++i) {
            const double mine = i == 0 ? rule : trial.seconds(candidates[i]);
            if (round >= 0) ratios[i].push_back(rule / mine);
        }
    }
    TileEntry best{candidates[0], 1};
    for (std::size_t i = 1; i < candidates.size(); ++i)
        if (const double gain = median(ratios[i]); gain > worth_it && gain > best.gain) best = {candidates[i], gain};
    if (best.tiles == candidates[0]) return best;
    // The best of many is often the luckiest: it has to win again, by itself, in three rounds of four.
    std::vector<double> again;
    for (int round = 0; round < confirming_rounds; ++round) {
        const double first = trial.seconds(round % 2 == 0 ? candidates[0] : best.tiles), second = trial.seconds(round % 2 == 0 ? best.tiles : candidates[0]);
        again.push_back(round % 2 == 0 ? first / second : second / first);
    }
    std::sort(again.begin(), again.end());
    if (again[again.size() / 4] <= worth_it) return {candidates[0], 1};
    best.gain = median(again);
    return best;
}

struct TunedShape {
    const LinearSegment* segment;
    std::int64_t rows;
};

}  // namespace

void for_each_tiled_segment(Step& step, int n_threads, const std::function<void(LinearSegment& segment, std::int64_t rows)>& body) {
    const auto visit = [&](Step& part, std::int64_t rows) {
        auto* linear = dynamic_cast<LinearStep*>(&part);
        if (linear == nullptr) return;
        for (LinearSegment& segment : linear->segments) {
            const std::int64_t share = share_rows(segment, n_threads);
            if (segment.kernels[n_buckets - 1]->form == ActivationForm::i8_b32) body(segment, rows > 0 ? std::min(rows, share) : share);
        }
    };
    visit(step, 0);
    auto* fused = dynamic_cast<FusedStep*>(&step);
    if (fused == nullptr) return;
    for (FusedStage& stage : fused->stages) {
        for (auto& part : stage.steps) visit(*part, 0);
        for (ColumnChain& chain : stage.chains)
            for (ColumnChain::Part& part : chain.parts) visit(*part.step, std::min(chain.units_at_once, chain.n_units) * part.unit_columns);
    }
}

TileKey tile_key(const LinearSegment& segment, std::int64_t rows, std::size_t bucket, int n_threads) {
    return {std::string(segment.kernels[n_buckets - 1]->name), rows, segment.weight->n_columns, tile_tokens_of(bucket), n_threads};
}

void apply_tiles(const TileTable& table, std::vector<std::unique_ptr<Step>>& steps, int n_threads) {
    if (table.empty()) return;
    for (auto& step : steps)
        for_each_tiled_segment(*step, n_threads, [&](LinearSegment& segment, std::int64_t rows) {
            for (std::size_t bucket = 0; bucket < n_tile_buckets; ++bucket)
                if (const TileEntry* entry = table.find(tile_key(segment, rows, bucket, n_threads))) segment.tiles[bucket] = entry->tiles;
        });
}

std::vector<LinearTiles> tile_candidates(std::int64_t n_tokens, std::int64_t rows) {
    std::vector<LinearTiles> candidates = {{}};
    for (std::int64_t tokens : {32, 48, 64, 96, 128, 192, 256, 512}) {
        if (tokens > n_tokens) break;
        candidates.push_back({tokens, 0, 0});
        if (tokens < 64) continue;
        candidates.push_back({tokens, 0, 256});
        if (tokens >= n_tokens) continue;  // with one pass over the tokens there is no order to choose
        for (std::int64_t at_once : {32, 64, 128})
            if (at_once < rows) candidates.push_back({tokens, at_once, 0});
    }
    return candidates;
}

Result<TileTable> tune_tiles(const Plan& plan, const TuneOptions& options) {
    std::map<TileKey, TunedShape> shapes;
    const std::size_t last = tile_bucket_of(std::max(options.max_tokens, least_tiled_tokens));
    for (const auto& step : plan.programs[n_buckets - 1].steps) {
        if (step->tokens != StepTokens::all) continue;  // of the head few tokens are wanted
        for_each_tiled_segment(*step, options.n_threads, [&](LinearSegment& segment, std::int64_t rows) {
            for (std::size_t bucket = 0; bucket <= last; ++bucket) shapes.emplace(tile_key(segment, rows, bucket, options.n_threads), TunedShape{&segment, rows});
        });
    }
    TileTable table;
    ThreadPool pool(options.n_threads);
    const double end = monotonic_seconds() + options.seconds;
    std::size_t done = 0;
    for (const auto& [key, shape] : shapes) {
        Trial trial(*shape.segment, shape.rows, std::min(key.tokens, options.max_tokens), plan.isa, pool);
        const double share = std::max(0.0, end - monotonic_seconds()) / static_cast<double>(shapes.size() - done);
        table.set(key, best_of(trial, tile_candidates(key.tokens, shape.rows), share));
        if (options.progress) options.progress({"tune", key.kernel, ++done, shapes.size()});
        if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted while tuning", {}};
    }
    return table;
}

}  // namespace skiff
