// Hashing as a step: each block of the bank becomes what lies nearest to all blocks that it stands for: the mean of them with their signs, since a sum of squares
// (sign_i * bank - block_i)^2 is least at the mean of sign_i * block_i. Blocks have nothing in common, so this is a beginning for training and no model yet.
#include <algorithm>

#include "base/glob.h"
#include "base/hash.h"
#include "base/progress.h"
#include "compress/step_work.h"
#include "compress/structure/tensor_copies.h"
#include "compress/weight_state.h"
#include "formats/hashed_weights.h"
#include "model/axes.h"

namespace skiff {
namespace {

constexpr std::string_view weight_end = ".weight";

Weight means_of(const Weight& weight, const BlockHash& hash, ThreadPool& pool) {
    const std::int64_t n_bank_rows = hash.n_bank_rows(), n_bank_columns = hash.n_bank_columns(), block_rows = BlockHash::block_rows, block_columns = BlockHash::block_columns;
    std::vector<float> bank(static_cast<std::size_t>(n_bank_rows * n_bank_columns));
    pool.run([&](int thread) {
        const Range mine = share_of(n_bank_rows / block_rows, thread, pool.n_threads());
        std::vector<float> row(static_cast<std::size_t>(hash.n_columns));
        std::vector<double> sums(static_cast<std::size_t>(block_rows * n_bank_columns));
        std::vector<int> counts(sums.size());
        for (std::int64_t bank_row = mine.begin; bank_row < mine.end; ++bank_row) {
            std::fill(sums.begin(), sums.end(), 0.0);
            std::fill(counts.begin(), counts.end(), 0);
            for (std::int64_t block_row = bank_row * hash.shared; block_row < std::min(hash.n_block_rows(), (bank_row + 1) * hash.shared); ++block_row) {
                const auto blocks = bank_blocks(hash, block_row);
                for (std::int64_t lane = 0; lane < std::min(block_rows, hash.n_rows - block_row * block_rows); ++lane) {
                    weight.row(block_row * block_rows + lane, row.data());
                    for (std::int64_t column = 0; column < hash.n_columns; ++column) {
                        const BankBlock& block = blocks[static_cast<std::size_t>(column / block_columns)];
                        const auto at = static_cast<std::size_t>(lane * n_bank_columns + block.column * block_columns + column % block_columns);
                        const auto value = static_cast<double>(row[static_cast<std::size_t>(column)]);
                        sums[at] += block.negative ? -value : value;
                        ++counts[at];
                    }
                }
            }
            float* target = bank.data() + bank_row * block_rows * n_bank_columns;
            for (std::size_t i = 0; i < sums.size(); ++i) target[i] = counts[i] > 0 ? static_cast<float>(sums[i] / counts[i]) : 0.0f;
        }
    });
    return make_float_weight(hash.bank_shape(), std::move(bank));
}

class HashWork final : public StepWork {
public:
    HashWork(const Checkpoint& parent, const ShareStep& step) : parent_(parent), step_(step), uses_(tensor_uses(parent.spec)), columns_(keys_stored_as_columns(parent.spec)) {}

    Result<TensorPlan> plan(ThreadPool& pool, const ProgressSink&) override {
        TensorPlan plan;
        std::size_t n_whole = 0;
        for (const auto& [key, declared] : parent_.spec.tensors) {
            if (interrupt_requested()) return Error{ErrorCode::interrupted, "interrupted before any work was done", {}};
            if (!parent_.weights->contains(key) && declared.need == TensorDecl::Need::optional) continue;
            auto planned = plan_copy(parent_, key, key, parent_.spec.shape(declared), pool);
            if (!planned.ok()) return planned.take_error().with_context("tensor " + key);
            if (wanted(key)) {
                const BlockHash hash = hash_of(*planned);
                const bool saves = element_count(hash.bank_shape()) < hash.n_rows * hash.n_columns;  // a bank holds whole blocks
                if (!saves && step_.hash > 1) ++n_whole;
                Status status = saves || step_.hash == 1 ? make_hashed_plan(*planned, hash) : Status();
                if (!status.ok()) return status.take_error().with_context("tensor " + key);
            }
            add_tensor(plan, std::move(*planned));
        }
        const std::string whole = std::to_string(n_whole) + " weights are so small that banks, which hold whole blocks, would not be smaller; they stay whole";
        if (hashes_.empty() && n_whole > 0) return usage_error("nothing would change: " + whole);
        if (n_whole > 0) plan.remarks.push_back(whole);
        if (hashes_.empty()) return usage_error("nothing would change: no linear weight has a name that matches --tensors; names are such as " + example());
        for (const std::string& pattern : step_.hash_tensors)
            if (used_.count(pattern) == 0) return usage_error("--tensors " + pattern + ": no linear weight has such a name; names are such as " + example());
        if (step_.hash > 1)
            plan.remarks.push_back("blocks that share one have nothing in common: such a model is of no use before it is trained, for which this is the beginning: skiff recover HASHED --parent " + parent_.path + " --data TEXT -o TRAINED");
        return plan;
    }

    Json found() const override { return Json::object({{"hashed_tensors", static_cast<std::uint64_t>(hashes_.size())}}); }
    Result<Json> config(const TensorPlan&) const override { return parent_.config; }
    Result<double> seconds(const TensorPlan& plan, ThreadPool&) override { return static_cast<double>(plan.n_elements_before) * 1e-8; }

    Result<MadeTensor> make(const PlannedTensor& planned, const WeightSource& weights, const InputStatistics*, ThreadPool& pool, std::vector<std::string>&) override {
        SKIFF_TRY(const auto own, weights.load(planned.key));
        const auto found = hashes_.find(planned.key);
        if (found == hashes_.end()) return make_copy(planned, own);
        const bool turned = columns_.count(planned.key) != 0;
        const Weight means = means_of(turned ? transposed(own) : own, found->second, pool);
        SKIFF_TRY(auto bank, encode_nearest(means, floating_scheme(own.plain()->dtype), ScaleRule::min_max, {}, &pool));
        SKIFF_TRY(const auto hashed, make_hashed(found->second, std::move(bank)));
        MadeTensor made{{}, turned ? transposed(written_out(hashed)) : hashed, true};
        SKIFF_TRY(made.parts, hashed_weight_tensors(module_of_key(planned.key), hashed));
        release_pages(own);
        return made;
    }

private:
    bool can_be(const std::string& key) const {
        const TensorUse use = uses_.at(key);
        return key.ends_with(weight_end) && (use == TensorUse::linear || (use == TensorUse::head && !step_.hash_tensors.empty()));
    }
    bool wanted(const std::string& key) {
        if (!can_be(key)) return false;
        if (step_.hash_tensors.empty()) return true;
        bool any = false;
        for (const std::string& pattern : step_.hash_tensors)
            if (glob_matches(pattern, key) || glob_matches(pattern, module_of_key(key))) used_.insert(pattern), any = true;
        return any;
    }
    std::string example() const {
        for (const auto& [key, use] : uses_)
            if (use == TensorUse::linear) return key;
        return "none: the model has no linear weights";
    }

    BlockHash hash_of(const PlannedTensor& planned) const {
        BlockHash hash = {planned.shape[0], planned.shape[1], 1, hash64(std::as_bytes(std::span(planned.key)), step_.hash_seed)};
        if (columns_.count(planned.key) != 0) std::swap(hash.n_rows, hash.n_columns);  // held as codes are: (outputs, inputs)
        hash.shared = std::min(step_.hash, hash.n_block_rows());
        return hash;
    }

    Status make_hashed_plan(PlannedTensor& planned, const BlockHash& hash) {
        SKIFF_TRY(const auto weight, parent_.weights->load(planned.key));
        if (weight.plain() == nullptr) return unsupported("is quantized (" + planned.from + "); hash the model that it was made from, train it, and quantize it then" + or_write_out);
        SKIFF_CHECK(check_block_hash(hash));
        const DType dtype = weight.plain()->dtype;
        planned.shape = {hash.n_rows, hash.n_columns};
        planned.declarations = hashed_tensors(module_of_key(planned.key), hash, dtype);
        planned.n_elements_before = planned.n_elements;
        planned.n_elements = static_cast<std::uint64_t>(element_count(hash.bank_shape()));
        planned.bytes_after = planned.n_elements * static_cast<std::uint64_t>(dtype_info(dtype).bits / 8) + 32;
        planned.form = planned.from + " hashed 1:" + std::to_string(hash.shared);
        hashes_.emplace(planned.key, hash);
        return {};
    }

    const Checkpoint& parent_;
    const ShareStep& step_;
    std::map<std::string, TensorUse> uses_;
    std::set<std::string> columns_, used_;  // keys; patterns
    std::map<std::string, BlockHash> hashes_;
};

}  // namespace

Result<std::unique_ptr<StepWork>> begin_hash(const Checkpoint& parent, const ShareStep& step) {
    if (step.hash < 1 || step.hash > BlockHash::most_shared) return usage_error("--hash " + std::to_string(step.hash) + ": expected 1 to " + std::to_string(BlockHash::most_shared));
    return std::unique_ptr<StepWork>(new HashWork(parent, step));
}

}  // namespace skiff
