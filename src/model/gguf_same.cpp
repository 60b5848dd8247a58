// Whether two specs compute the same: what a GGUF file about to be written would be read back as, against the model that it comes from.
#include <cmath>

#include "model/gguf_metadata.h"

namespace skiff {
namespace {

bool near(float a, float b) { return std::abs(a - b) <= 1e-5f * std::max(std::abs(a), std::abs(b)); }
bool near(const std::vector<float>& a, const std::vector<float>& b) {
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i)
        if (!near(a[i], b[i])) return false;
    return true;
}

// Two texts for a sequence that no session reaches are alike, so a second table counts only where it differs.
bool has_second_table(const RopeOp& rope) { return !rope.long_inv_freq.empty() && !near(rope.inv_freq, rope.long_inv_freq); }

bool same(const RopeOp& a, const RopeOp& b) {
    if (has_second_table(a) != has_second_table(b)) return false;
    const bool tables = !has_second_table(a) || (near(a.long_inv_freq, b.long_inv_freq) && a.long_above == b.long_above);
    return tables && a.n_heads_unit == b.n_heads_unit && a.style == b.style && near(a.magnitude, b.magnitude) && near(a.inv_freq, b.inv_freq);
}
bool same(const NormOp& a, const NormOp& b) {
    return a.kind == b.kind && a.weight == b.weight && a.bias == b.bias && near(a.eps, b.eps) && a.weight_offset == b.weight_offset &&
           a.group_width == b.group_width;
}
bool same(const EmbedOp& a, const EmbedOp& b) { return a.table == b.table && near(a.scale, b.scale) && a.index == b.index && a.offset == b.offset; }
bool same(const AttentionOp& a, const AttentionOp& b) {
    return a.n_heads == b.n_heads && a.n_kv_heads == b.n_kv_heads && a.head_dim == b.head_dim && near(a.scale, b.scale) &&
           near(a.softcap, b.softcap) && a.window == b.window;
}
bool same(const SoftcapOp& a, const SoftcapOp& b) { return near(a.cap, b.cap); }
bool same(const ScaleOp& a, const ScaleOp& b) { return near(a.factor, b.factor); }
template <class T>
bool same(const T& a, const T& b) {
    return a == b;
}

bool same_op(const Op& a, const Op& b) {
    if (a.in != b.in || a.out != b.out || a.detail.index() != b.detail.index()) return false;
    return std::visit([&](const auto& detail) { return same(detail, std::get<std::decay_t<decltype(detail)>>(b.detail)); }, a.detail);
}

}  // namespace

Status check_same_computation(const ModelSpec& expected, const ModelSpec& found) {
    auto differs = [](const std::string& what) { return unsupported(what + " would be read back differently"); };
    if (expected.n_vocab != found.n_vocab || expected.d_model != found.d_model || expected.blocks.size() != found.blocks.size())
        return differs("the model's size");
    for (std::size_t i = 0; i < expected.blocks.size(); ++i) {
        const auto &a = expected.blocks[i].ops, &b = found.blocks[i].ops;
        for (std::size_t j = 0; j < std::min(a.size(), b.size()); ++j)
            if (!same_op(a[j], b[j])) return differs("operator " + a[j].name + " (" + op_kind_name(a[j].detail) + ")");
        if (a.size() != b.size()) return differs(expected.blocks[i].name);
    }
    for (const auto& [key, tensor] : expected.tensors) {
        const auto other = found.tensors.find(key);
        if (other == found.tensors.end() || expected.shape(tensor) != found.shape(other->second)) return differs("tensor " + key);
    }
    return {};
}

}  // namespace skiff
