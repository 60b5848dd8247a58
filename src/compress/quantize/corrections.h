// What is put right after a block's weights were rounded, without a bit in their codes:
//   scale: each row's scale takes the value with which its output y' = Q x keeps its size beside y = W x: E[y y'] = E[y^2]. Rounding that loses least gives a
//          projection of y, which is smaller by the share that is lost (8 % at two bits, some 19 % in ternary), layer after layer (docs/adr/0024-size-of-outputs.md);
//   norm:  the gains of the norms in front take the values with which the outputs lose least at the size that they have (E ||W x - Q (t x)||^2 is quadratic in
//          the gains t, so that the best ones solve a linear system; as Norm Tweaking, Li et al. 2023, but in closed form);
//   bias:  the outputs' mean error over the calibration text, E[(W - Q) x], goes into the bias (Nagel et al. 2019). Of outputs that have become smaller the
//          mean alone would be whole again, and weigh more than it did: it wants `scale` as well.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "compress/quantize/couplings.h"
#include "model/checkpoint.h"

namespace skiff {

struct RoundingCorrections {
    bool scale = false, norm = false, bias = false;
    bool any() const { return scale || norm || bias; }
    StatisticsNeed needs() const { return scale || norm ? StatisticsNeed::gram : bias ? StatisticsNeed::moments : StatisticsNeed::none; }
    std::string names() const;  // as parse_corrections() reads them; empty: none
    bool operator==(const RoundingCorrections&) const = default;
};
Result<RoundingCorrections> parse_corrections(const std::vector<std::string>& names);  // "scale", "norm", "bias", with commas or one by one; "none" alone

// The checkpoint with biases of zeros for the operators that have none, where config.json can say that they have them, so that other programs read
// them too; nothing: there are no such operators. `parent` must outlive it.
Result<std::optional<Checkpoint>> with_new_biases(const Checkpoint& parent);

// Collects what a block's weights were and became, and gives the tensors that make up for it.
class BlockCorrections {
public:
    BlockCorrections(const ModelSpec& spec, const RoundingCorrections& wanted);

    // Keys that settle() will give another value in some block: they are made after all others.
    std::set<std::string> keys() const;

    std::uint64_t memory_bytes(const std::map<std::string, std::uint64_t>& n_elements) const;  // held beside the weights, whose sizes these are, while the heaviest block is made

    std::vector<std::string> left_out() const;  // operators whose bias is to be corrected and that have none

    // The inputs by which a weight's rows are to keep their size: as they are, or about their mean where a bias takes that. // as `inputs`
    InputStatistics judged_by(const std::string& key, const InputStatistics& inputs) const;

    // `reduced` with outputs of the size that the original's have, where that is wanted and its inputs were seen (null: they were not). // both (n_rows, n_columns)
    Weight with_sizes_kept(const std::string& key, const Weight& original, Weight reduced, const InputStatistics* inputs, ThreadPool& pool) const;

    void begin_block(std::size_t block);
    // A weight of the block as it was and as it has become, both (outputs, inputs); its inputs as the rounding saw them, or null.
    void note(const std::string& key, const Weight& original, const Weight& result, const InputStatistics* inputs);
    // When all weights are done: the corrected norms and biases, from those in `weights`. Once per block; the values stay until the next.
    Status settle(const WeightSource& weights, ThreadPool& pool);
    bool settled() const { return settled_; }
    const Weight* value(const std::string& key) const;  // f32; null: it stays as it is

private:
    struct Noted {
        const InputStatistics* inputs = nullptr;
        std::int64_t n_rows = 0;
        std::vector<float> original, result;  // (n_rows, n_columns); empty where no norm stands in front, whose gains want them
        std::vector<double> lost_means;       // else: E[(W - Q) x], by row
    };
    Status correct_norm(const InputCoupling& coupling, const WeightSource& weights, ThreadPool& pool);
    Status correct_biases(const WeightSource& weights);

    const ModelSpec& spec_;
    const RoundingCorrections wanted_;
    std::set<std::string> with_bias_;     // weights whose errors' mean a bias takes
    std::set<std::string> behind_norms_;  // weights whose inputs come from a norm with gains to find
    std::size_t block_ = 0;
    bool settled_ = false;
    std::map<std::string, Noted> noted_;
    std::map<std::string, Weight> values_;
};

}  // namespace skiff
