// What is put right after a block's weights were rounded, without a bit in their codes:
//   norm: each row's scale, and the gains of the norms in front, take the values with which the outputs lose least (E ||W x - Q (t x)||^2 is quadratic in
//         the gains t, so that the best ones solve a linear system; as Norm Tweaking, Li et al. 2023, but in closed form);
//   bias: the outputs' mean error over the calibration text, E[(W - Q) x], goes into the bias (Nagel et al. 2019).
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
    bool bias = false, norm = false;
    bool any() const { return bias || norm; }
    StatisticsNeed needs() const { return norm ? StatisticsNeed::gram : bias ? StatisticsNeed::moments : StatisticsNeed::none; }
    bool operator==(const RoundingCorrections&) const = default;
};
Result<RoundingCorrections> parse_corrections(const std::vector<std::string>& names);  // "bias", "norm", with commas or one by one

// The checkpoint with biases of zeros for the operators that have none, where config.json can say that they have them, so that other programs read
// them too; nothing: there are no such operators. `parent` must outlive it.
Result<std::optional<Checkpoint>> with_new_biases(const Checkpoint& parent);

// The scales of each row times the factor with which its output loses least; rows and schemes where no stored scale loses less stay. // codes: (n_rows, n_columns)
Weight with_corrected_rows(const Weight& original, const Weight& codes, const InputStatistics& inputs, ThreadPool& pool);

// Collects what a block's weights were and became, and gives the tensors that make up for it.
class BlockCorrections {
public:
    BlockCorrections(const ModelSpec& spec, const RoundingCorrections& wanted);

    // Keys that settle() will give another value in some block: they are made after all others.
    std::set<std::string> keys() const;

    std::vector<std::string> left_out() const;  // operators whose bias is to be corrected and that have none

    // What the scales of a weight's rows are to lose least of: the errors, or what is left of them once a bias has taken their mean. // as `inputs`
    InputStatistics judged_by(const std::string& key, const InputStatistics& inputs) const;

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
        std::vector<float> original, result;  // (n_rows, n_columns)
        std::int64_t n_rows = 0, n_columns = 0;
    };
    Status correct_norm(const InputCoupling& coupling, const WeightSource& weights, ThreadPool& pool);
    Status correct_biases(const WeightSource& weights);

    const ModelSpec& spec_;
    const RoundingCorrections wanted_;
    std::set<std::string> with_bias_;  // weights whose errors' mean a bias takes
    std::size_t block_ = 0;
    bool settled_ = false;
    std::map<std::string, Noted> noted_;
    std::map<std::string, Weight> values_;
};

}  // namespace skiff
