// Where values lie while a program runs. Programs are laid out one after another on one stream, so memory is given out and taken back as the operators are
// written down; the same addresses serve all programs. Nothing is allocated while anything runs.
#pragma once

#include <cstddef>
#include <map>
#include <tuple>
#include <vector>

#include "backend/cuda/device.h"

namespace skiff::cuda {

class Scratch {
public:
    // Without a device: addresses mean nothing, but how much is needed can be asked for.
    Scratch(const Table& table, std::int64_t max_tokens) : table_(table), max_tokens_(max_tokens) {}

    void begin();  // of a program: nothing is taken
    void* take(std::size_t size_bytes);
    float* take_floats(std::int64_t n) { return static_cast<float*>(take(static_cast<std::size_t>(n) * sizeof(float))); }
    void give(const void* address);
    // An operand's buffer. Its padding must stay zero, so it is shared only by operands of the same form, width and cuts.
    Operand take_operand(OperandForm form, std::int64_t n_columns) { return take_operand(Operand{form, nullptr, n_columns}); }
    Operand take_operand(Operand like);  // of that form, width and cuts
    void give(const Operand& operand);

    const Table& table() const { return table_; }
    std::size_t peak_bytes() const { return peak_; }
    std::size_t bytes() const { return size_; }      // of the arena
    std::size_t operand_bytes() const;
    bool fits() const { return base_ != nullptr && peak_ <= size_ && unplaced_ == 0; }
    // Makes what the programs laid out so far asked for. Addresses change: they must be laid out again. If that is too much, what was asked for is forgotten, so that a
    // smaller program finds memory afterwards.
    Status place(Device& device);

private:
    struct Slot {
        std::byte* address = nullptr;
        std::size_t size_bytes = 0;
        bool used = false, placed = false;
        bool is_new = true;  // since the last place()
    };
    Status place_all(Device& device);
    std::int64_t operand_tokens(OperandForm form) const { return form == OperandForm::split ? max_gemv_tokens : max_tokens_; }
    const Table& table_;
    std::int64_t max_tokens_;
    std::byte* base_ = nullptr;
    std::size_t size_ = 0, peak_ = 0;
    std::map<std::size_t, std::size_t> taken_;  // offset -> bytes
    using OperandKey = std::tuple<OperandForm, std::int64_t, std::int32_t, std::int32_t, std::int32_t, std::int32_t>;
    static OperandKey key_of(const Operand& operand) { return {operand.form, operand.n_columns, operand.cuts[0], operand.gaps[0], operand.cuts[1], operand.gaps[1]}; }
    std::map<OperandKey, std::vector<Slot>> operands_;
    std::size_t unplaced_ = 0;  // operands without memory
};

}  // namespace skiff::cuda
