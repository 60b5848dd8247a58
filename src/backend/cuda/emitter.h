// Writes a program down: what is alive where, and for each operator of a DeviceModel its launches. Its parts: the program and its values (emit.cpp), matrices (emit_linear.cpp), rotations and
// attention (emit_attention.cpp), what works on rows (emit_rows.cpp), mixtures of experts (emit_experts.cpp).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/emit.h"

namespace skiff::cuda {

class Emitter {
public:
    Emitter(const DeviceModel& model, const std::vector<StatePlace>& states, const RunShape& shape, const RunInputs& inputs, const EmitOptions& options, Scratch& scratch);
    DeviceProgram run();

private:
    // A value while it is alive.
    struct Live {
        float* floats = nullptr;
        std::int64_t stride = 0;
        bool owned = false;   // from the scratch memory
        Operand operand;
        PendingRms rms;       // of the operand
        float* square_sums = nullptr;
        void* codes = nullptr;  // the operand as 8-bit floats, once somebody multiplies it so
        float* code_scales = nullptr;
        int readers = 0;
    };

    // ---- values
    const DeviceValue& value(int v) const { return model_.values[static_cast<std::size_t>(v)]; }
    Live& root(int v) { return live_[static_cast<std::size_t>(model_.root(v))]; }
    std::int64_t offset(int v) const { return value(v).parent >= 0 ? value(v).offset : 0; }
    float* floats(int v) { return root(v).floats + offset(v); }
    std::int64_t stride(int v) { return root(v).stride; }
    template <class Args>
    void push(const char* kernel, const Args& args) {
        program_.steps.push_back({*name_, kernel, args});
    }
    float* make_floats(int v);
    // Rows one after another, for kernels that know no stride: the value itself, or a copy of it, which goes when the operator is written down.
    const float* dense(int v);
    void drop_copy() { scratch_.give(std::exchange(copy_, nullptr)); }
    // One reader less; the last one gives the memory back.
    void done(int v);
    void free_operand(int v);
    // `to` goes on in the memory of `from`, whose last reader is this operator.
    void take_over(int to, int from);

    // ---- operands
    OperandForm form() const { return operand_form(rows_, !library()); }
    bool library() const { return options_.matmul != Matmul::own && rows_ >= matmul_min_tokens && !in_head_; }  // few rows go through the head
    Operand make_operand(int v);
    // Numbers, an operand or both, as the value's readers want it. // Args: y, y_stride, operand
    template <class Args>
    void make_result(int v, Args& args) {
        if (value(v).as_floats || !value(v).as_operand) {
            args.y = make_floats(v);
            args.y_stride = value(v).width;
        }
        if (value(v).as_operand) args.operand = make_operand(v);
    }
    // What the producer of v writes beside it.
    NextNorm next_of(int v);
    bool select_reads(int v);
    // The operand of a matrix: as its producer left it, or made from the numbers now.
    const Live& operand_of(int v);
    // Columns of a product whose producer left all that is multiplied in one operand.
    bool is_part(int v) { return value(v).operand_first >= 0 && root(v).operand.data != nullptr; }
    void done_operand(int v);

    // ---- operators
    void add(const EmbedDevice& embed);
    // Positions are still to be added to it.
    bool adds_later(int v) const;
    void add(const NormDevice& norm);
    NormLaunchArgs norm_args(const NormDevice& norm);
    // The operator that comes next, where it is the norm of rows that are finished here and whose last block can do it.
    const NormDevice* norm_of_finished(int out);
    void add(const LinearDevice& linear);
    void add(const SparseDevice& sparse);
    // By cuBLASLt: rows of the matrix as bf16 or as the 8-bit floats that they are, as many as its workspace has room for, then the product.
    void multiply(const LinearDevice& linear, const MatrixDevice& matrix, const Live& x, float* y, const NextNorm& next);
    // The operand of a matrix as 8-bit floats; products that share it share them.
    const Live& codes_of(int v);
    void add(const RopeDevice& rope);
    void add(const AttentionDevice& attention);
    RopeWriteArgs rope_args(const RopeDevice& rope);
    // The attention that comes next, where it can do the rotation and the write of keys and values itself.
    const AttentionDevice* attention_behind(const RopeDevice& rope) const;
    // By cuDNN: queries as bf16, one sequence after another, the result as numbers and operand. What it leaves behind the tokens of a sequence, the next one writes over.
    void attend(const AttentionCommon& common, std::int64_t head_dim);
    void add(const ElementDevice& element);
    // From here on only the rows whose logits are wanted.
    void add(const SelectDevice& select);
    RouteLaunchArgs route_args(const RouteOp& op, std::int64_t n_experts, const float* logits) const;
    void add(const RouteDevice& route);
    void add(const ExpertsDevice& experts);
    void one_expert_after_another(const ExpertsDevice& experts);
    void add(const ConvDevice& conv);

    // Between the operators of one block whose weights are copied there and those of another.
    void stream(int block);
    // The embedding of the next run reads what is written here.
    void choose();

    const Table& scratch_table() const { return scratch_.table(); }
    static constexpr std::int64_t library_weight_bytes = std::int64_t{256} << 20;

    const DeviceModel& model_;
    const std::vector<StatePlace>& states_;
    const RunShape& shape_;
    const RunInputs& inputs_;
    const EmitOptions& options_;
    Scratch& scratch_;
    std::vector<Live> live_;
    DeviceProgram program_;
    TokenView tokens_;
    const std::string* name_ = nullptr;
    std::size_t at_ = 0;  // the operator that is written down
    std::size_t done_already_ = SIZE_MAX;
    const RopeDevice* rope_in_front_ = nullptr;  // which the attention that is written down next does
    std::int64_t rows_;
    float* copy_ = nullptr;  // of dense()
    bool looked_for_select_ = false, in_head_ = false;
    int select_in_ = -1, select_out_ = -1, streamed_ = -1;
};

}  // namespace skiff::cuda
