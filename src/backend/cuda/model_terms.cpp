// Linear operators of several terms: a matrix, a product of two thin ones beside it or in its place, numbers kept aside. Of operators with one input the matrices stay one product, and the
// thin matrices that reduce the input are one, too.
#include <algorithm>

#include "backend/cuda/model_builder.h"

namespace skiff::cuda {

// What the terms are added up to.
struct ModelBuilder::Sum {
    std::string name;
    int x = -1;
    std::int64_t width = 0;
    std::vector<std::int64_t> offsets;       // of each operator's columns
    std::vector<std::vector<float>> biases;  // of each operator; empty: none, or added
    Tail tail;
    int place = -1;          // where the terms so far stand; -1: nothing is there
    std::size_t n_left = 0;  // launches that still come
};

// The next launch; the last one gives the operator's own value.
void ModelBuilder::push_term(LinearDevice linear, Sum& sum) {
    const bool last = --sum.n_left == 0;
    linear.adds_to = sum.place;
    linear.factor = sum.tail.factor;
    linear.softcap = sum.tail.softcap;
    if (sum.tail.activation != nullptr) linear.write = GemvWrite::activate, linear.activation = sum.tail.activation->kind;
    linear.out = last ? sum.tail.out : new_value(sum.name + ".part", sum.width);
    sum.place = linear.out;
    push(sum.name + (last ? sum.tail.name : ""), linear);
}

// False where the kernel has no form for them.
Result<bool> ModelBuilder::add_aside(const std::vector<std::size_t>& group, const Round& round, Sum& sum) {
    std::vector<WeightRows> parts;
    for (std::size_t g = 0; g < group.size(); ++g) parts.push_back({round[g] != nullptr ? round[g]->weight : TensorRef(), width(items_[group[g]].op->out), width(items_[group[g]].in[0])});
    SKIFF_TRY(const auto sparse, weights_.sparse(parts));
    if (!sparse) return false;
    SparseDevice device{sum.x, sparse->entries, sparse->begins, sparse->values, sum.place, new_value(sum.name + ".aside", sum.width)};
    --sum.n_left;
    sum.place = device.out;
    model_.decode_read_bytes += sparse->size_bytes;
    push("numbers kept aside of " + sum.name, device);
    return true;
}

Status ModelBuilder::add_low_rank(const std::vector<std::size_t>& group, const Round& round, Sum& sum) {
    // Operators that take rows of one tensor share its thin matrix.
    std::vector<WeightRows> downs;
    std::vector<std::size_t> down_of;
    for (std::size_t g = 0; g < group.size(); ++g) {
        const TensorRef& ref = round[g]->down;
        const auto declared = spec_.tensors.find(ref.key);
        if (declared == spec_.tensors.end()) return corrupt("tensor " + ref.key + " is not declared");
        const auto known = std::find_if(downs.begin(), downs.end(), [&](const WeightRows& each) { return each.ref == ref; });
        down_of.push_back(static_cast<std::size_t>(known - downs.begin()));
        if (known == downs.end()) downs.push_back({ref, spec_.shape(declared->second)[0], width(items_[group[g]].in[0])});
    }
    LinearDevice down;
    down.x = sum.x;
    SKIFF_TRY(const auto weights, weights_.matrices(downs));
    std::int64_t rank = 0;
    for (const GpuWeight& weight : weights) {
        down.matrices.push_back({weight, nullptr, rank});
        rank += weight.n_rows;
        count(weight);
    }
    down.out = new_value(sum.name + ".rank", rank);
    std::vector<int> inputs(downs.size(), down.out);
    std::int64_t offset = 0, first = 0;
    for (std::size_t d = 0; d < downs.size() && downs.size() > 1; ++d) {
        inputs[d] = new_value(sum.name + ".rank" + std::to_string(d), downs[d].n_rows);
        DeviceValue& part = value(inputs[d]);
        part.parent = down.out;
        part.offset = offset;
        if (weights.size() == 1 && downs.size() <= 3) {
            part.operand_first = first;
            Operand& operand = value(down.out).parts;
            if (d > 0) operand.cuts[d - 1] = static_cast<std::int32_t>(offset), operand.gaps[d - 1] = static_cast<std::int32_t>(first - offset);
            operand.n_columns = first + downs[d].n_rows;
        }
        offset += downs[d].n_rows;
        first = (first + downs[d].n_rows + operand_part_columns - 1) / operand_part_columns * operand_part_columns;
    }
    push("down of " + sum.name, down);
    const GemvWrite write = sum.place >= 0 ? GemvWrite::add : GemvWrite::replace;
    for (std::size_t g = 0; g < group.size(); ++g) {
        SKIFF_TRY(const auto up, weights_.matrices({{round[g]->weight, width(items_[group[g]].op->out), downs[down_of[g]].n_rows}}));
        LinearDevice linear;
        linear.x = inputs[down_of[g]];
        SKIFF_TRY(const float* bias, weights_.vector(sum.biases[g]));
        sum.biases[g].clear();
        linear.matrices = {{up[0], bias, sum.offsets[g]}};
        linear.write = write;
        count(up[0]);
        push_term(std::move(linear), sum);
    }
    return {};
}

Status ModelBuilder::add_packed(const std::vector<std::size_t>& group, const Round& round, Sum& sum) {
    std::vector<WeightRows> parts;
    std::vector<float> biases;
    bool any_bias = false;
    for (std::size_t g = 0; g < group.size(); ++g) {
        const std::int64_t n_rows = width(items_[group[g]].op->out);
        parts.push_back({round[g]->weight, n_rows, width(items_[group[g]].in[0])});
        any_bias |= !sum.biases[g].empty();
        sum.biases[g].resize(static_cast<std::size_t>(n_rows));
        biases.insert(biases.end(), sum.biases[g].begin(), sum.biases[g].end());
        sum.biases[g].clear();
    }
    SKIFF_TRY(const auto weights, weights_.matrices(parts));
    LinearDevice linear;
    linear.x = sum.x;
    linear.write = sum.place >= 0 ? GemvWrite::add : GemvWrite::replace;
    std::int64_t offset = 0;
    for (const GpuWeight& weight : weights) {
        const float* bias = nullptr;
        if (any_bias) {
            SKIFF_TRY(bias, weights_.vector({biases.begin() + offset, biases.begin() + offset + weight.n_rows}));
        }
        linear.matrices.push_back({weight, bias, offset});
        offset += weight.n_rows;
        count(weight);
    }
    push_term(std::move(linear), sum);
    return {};
}

Status ModelBuilder::add_terms(const std::vector<std::size_t>& group) {
    using Kind = LinearTerm::Kind;
    const auto& detail = std::get<LinearOp>(items_[group[0]].op->detail);
    if (detail.terms.empty()) return corrupt("a linear operator without terms");
    // What was kept aside first: the last launch, which prepares what follows, is to be a matrix.
    std::vector<std::pair<Kind, Round>> rounds;
    for (const Kind kind : {Kind::sparse, Kind::low_rank, Kind::packed}) {
        std::vector<Round> of_kind;
        for (std::size_t g = 0; g < group.size(); ++g) {
            std::size_t n = 0;
            for (const LinearTerm& term : std::get<LinearOp>(items_[group[g]].op->detail).terms) {
                if (term.kind != kind) continue;
                if (n == of_kind.size()) of_kind.emplace_back(group.size(), nullptr);
                of_kind[n++][g] = &term;
            }
        }
        for (Round& round : of_kind) rounds.emplace_back(kind, std::move(round));
    }
    Sum sum;
    SKIFF_TRY(sum.x, transformed(group[0], detail.transform));
    for (std::size_t i : group) {
        sum.name += (sum.name.empty() ? "" : " + ") + items_[i].op->name;
        sum.offsets.push_back(sum.width);
        sum.width += width(items_[i].op->out);
        SKIFF_TRY(auto bias, bias_of(i));
        sum.biases.push_back(std::move(bias));
        items_[i].done = true;
    }
    for (const auto& [kind, round] : rounds) sum.n_left += kind == Kind::low_rank ? group.size() : 1;
    if (group.size() == 1) {
        sum.tail = tail_of(items_[group[0]].op->out, sum.n_left == 1);
        sum.place = sum.tail.adds_to;
    } else {
        sum.tail.out = new_value(sum.name, sum.width);
        for (std::size_t g = 0; g < group.size(); ++g) {
            DeviceValue& member = value(items_[group[g]].op->out);
            member.parent = sum.tail.out;
            member.offset = sum.offsets[g];
        }
    }
    for (const auto& [kind, round] : rounds) {
        bool aside = false;
        if (kind == Kind::sparse && sum.n_left > 1) {
            SKIFF_TRY(aside, add_aside(group, round, sum));
        }
        if (aside) continue;
        if (kind == Kind::low_rank) SKIFF_CHECK(add_low_rank(group, round, sum));
        else SKIFF_CHECK(add_packed(group, round, sum));
    }
    return {};
}

}  // namespace skiff::cuda
