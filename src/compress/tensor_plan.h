// What becomes of each tensor, known before the work: scheme, place, size. The same for the same model and step, so that a resumed run agrees.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "compress/calibrate/statistics.h"
#include "compress/recipe.h"
#include "formats/compressed_tensors.h"
#include "formats/safetensors.h"
#include "model/checkpoint.h"

namespace skiff {

struct PlannedTensor {
    std::string key;
    TensorUse use = TensorUse::other;
    std::string from;               // how the parent holds it: "BF16", "Q8_0"
    std::optional<Scheme> scheme;   // nothing: copied as it is
    bool stored_as_columns = false; // the parent holds (inputs, outputs); codes are (outputs, inputs)
    Shape shape;                    // of the result
    std::uint64_t n_elements = 0, bytes_before = 0, bytes_after = 0;
    std::uint64_t n_stored = 0;  // numbers that stand for them where zeros are left out; 0: all
    std::uint64_t n_elements_before = 0;  // where a step changes shapes; 0: as many as of the result
    std::string stored_as;          // its name in the result; "": its key
    std::vector<TensorDeclaration> declarations;
    bool parent_is_plain = true;
    std::optional<std::size_t> block;  // of the spec, where a method that looks at the data works block by block: the first that reads the tensor
    std::optional<SparsePattern> sparse;  // of what is stored of it
    std::optional<BlockHash> hash;        // `scheme` is that of the bank
    std::string form;                     // what it becomes, where the scheme alone does not say it
    QuantizedModule::Inputs inputs = QuantizedModule::Inputs::floating;
    std::string name() const { return !form.empty() ? form : scheme ? scheme->name() : from; }
    bool becomes_codes() const { return scheme && scheme->is_coded(); }
    // Which side must be turned. Shapes do not tell: a matrix may be square.
    bool turn_source() const { return stored_as_columns && parent_is_plain && becomes_codes(); }
    bool turn_result() const { return stored_as_columns && !parent_is_plain && !becomes_codes() && !sparse; }
};

struct TensorPlan {
    std::vector<PlannedTensor> tensors;  // in order of their keys, within each block
    std::vector<std::string> remarks;    // what was done otherwise than asked, and why
    std::uint64_t bytes_before = 0, bytes_after = 0, n_elements = 0;
    std::uint64_t n_elements_before = 0;          // of the parent; 0: as many
    std::uint64_t largest_working_set_bytes = 0;  // source and result of one tensor
};

// What becomes of zeros: pruned weights are refused where they would have to be written out as codes; or they stay pruned, and a plain matrix whose zeros
// take markedly fewer bytes so becomes one.
enum class Zeros : std::uint8_t { write_out, keep };

// Reads every weight once: finds numbers that are not finite or do not fit, and the type that scales need. Errors name the tensor.
Result<TensorPlan> plan_tensors(const Checkpoint& parent, const QuantizeStep& step, ThreadPool& pool, const ProgressSink& progress, Zeros zeros = Zeros::write_out);

// Groups the tensors by the block that reads them first, in the order of the blocks; those that nothing reads come last.
void order_by_block(const ModelSpec& spec, TensorPlan& plan);

// The tensor that the plan describes, from the parent's weights or edited ones. // as shape of `planned`
struct MakeOptions {
    const QuantizeStep& step;
    const InputStatistics* inputs = nullptr;      // of the operators that read it; null: not measured
    ThreadPool& pool;
    std::vector<std::string>* remarks = nullptr;  // the method's
    const WeightSource* parent = nullptr;         // whose zeros stay, where `weights` are edited ones; null: `weights` are the parent's
    std::span<const float> squared_gradients = {};  // of the weight as rows; empty: not measured
};
Result<Weight> make_planned(const WeightSource& weights, const PlannedTensor& planned, const MakeOptions& options);
// A weight with the rows that the method works on; those of the result too, unless that is turned afterwards.
Result<Weight> load_as_rows(const WeightSource& weights, const PlannedTensor& planned);

// The parent's config.json with what the plan changes: quantization_config, or the type of the weights.
Result<Json> planned_config(const Checkpoint& parent, const TensorPlan& plan, const QuantizeStep& step);

// "bf16", "fp16" or "fp32".
Scheme floating_scheme(DType dtype);

// "model.layers.0.mlp.down_proj" of "....weight"; the key itself when it names no module's weight.
std::string module_of_key(const std::string& key);

}  // namespace skiff
