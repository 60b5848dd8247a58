// Every channel of every value gets a label; channels that must go together (the same channel further on, or two that are added) share one. A label that nothing
// holds is free to go, and then goes everywhere: as a filter where it is made, as inputs where it is read.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "compress/net/changes.h"

namespace skiff::net {
namespace {

class Sets {
public:
    std::size_t add() {
        parent_.push_back(parent_.size());
        return parent_.size() - 1;
    }
    std::size_t root(std::size_t i) {
        while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
        return i;
    }
    void join(std::size_t a, std::size_t b) { parent_[root(a)] = root(b); }
    std::size_t size() const { return parent_.size(); }

private:
    std::vector<std::size_t> parent_;
};

using Labels = std::vector<std::size_t>;  // of the channels of a value

bool is_standard(const Conv& conv) { return conv.groups == 1; }
bool is_depthwise(const Conv& conv, std::int64_t inputs) { return conv.groups == inputs && conv.groups > 1; }

class ChannelPruner {
public:
    ChannelPruner(const Net& net, const ChannelPruning& pruning, Resolved resolved) : net_(net), pruning_(pruning), resolved_(std::move(resolved)) {}

    Result<Changed> run() {
        label_values();
        choose();
        return rebuild();
    }

private:
    Labels fresh(std::int64_t n) {
        Labels labels;
        for (std::int64_t i = 0; i < n; ++i) labels.push_back(sets_.add());
        return labels;
    }
    void hold(const Labels& labels) { held_.insert(held_.end(), labels.begin(), labels.end()); }

    Labels after(const Conv& conv, const std::vector<Labels>& in, const ValueShape& out) {
        if (is_standard(conv)) return fresh(out.channels);
        Labels labels;
        if (is_depthwise(conv, static_cast<std::int64_t>(in[0].size()))) {
            const std::size_t multiplier = static_cast<std::size_t>(conv.channels) / in[0].size();
            for (std::size_t o = 0; o < static_cast<std::size_t>(conv.channels); ++o) labels.push_back(in[0][o / multiplier]);
            return labels;
        }
        hold(in[0]);  // groups would differ in size
        labels = fresh(out.channels);
        hold(labels);
        return labels;
    }
    Labels after(const Shuffle& shuffle, const std::vector<Labels>& in, const ValueShape&) {
        hold(in[0]);
        Labels labels(in[0].size());
        const auto groups = static_cast<std::size_t>(shuffle.groups), of_group = in[0].size() / groups;
        for (std::size_t c = 0; c < in[0].size(); ++c) labels[c % of_group * groups + c / of_group] = in[0][c];
        return labels;
    }
    Labels together(const std::vector<Labels>& in) {
        for (std::size_t c = 0; c < in[0].size(); ++c) sets_.join(in[0][c], in[1][c]);
        return in[0];
    }
    Labels after(const Add&, const std::vector<Labels>& in, const ValueShape&) { return together(in); }
    Labels after(const Multiply&, const std::vector<Labels>& in, const ValueShape&) { return together(in); }
    Labels after(const Concat&, const std::vector<Labels>& in, const ValueShape&) {
        Labels labels;
        for (const Labels& part : in) labels.insert(labels.end(), part.begin(), part.end());
        return labels;
    }
    Labels after(const Slice& slice, const std::vector<Labels>& in, const ValueShape&) { return Labels(in[0].begin() + slice.begin, in[0].begin() + slice.end); }
    Labels after(const Flatten&, const std::vector<Labels>& in, const ValueShape& out) {
        Labels labels;
        while (static_cast<std::int64_t>(labels.size()) < out.channels) labels.insert(labels.end(), in[0].begin(), in[0].end());
        return labels;
    }
    Labels after(const Fold&, const std::vector<Labels>& in, const ValueShape& out) {
        hold(in[0]);  // parts would differ in size
        const Labels labels = fresh(out.channels);
        hold(labels);
        return labels;
    }
    Labels after(const Norm&, const std::vector<Labels>& in, const ValueShape&) {
        hold(in[0]);  // its statistics go over all of them
        return in[0];
    }
    Labels after(const Attention&, const std::vector<Labels>& in, const ValueShape&) {
        for (const Labels& part : in) hold(part);  // heads are whole
        return in[2];
    }
    Labels after(const Pool&, const std::vector<Labels>& in, const ValueShape&) { return in[0]; }
    Labels after(const Activate&, const std::vector<Labels>& in, const ValueShape&) { return in[0]; }

    void label_values() {
        labels_.push_back(fresh(net_.spec.input.channels));
        hold(labels_[0]);
        for (std::size_t i = 0; i < net_.spec.ops.size(); ++i) {
            std::vector<Labels> in;
            for (const std::size_t value : resolved_.inputs[i]) in.push_back(labels_[value]);
            labels_.push_back(std::visit([&](const auto& detail) { return after(detail, in, resolved_.shapes[i + 1]); }, net_.spec.ops[i].detail));
        }
        hold(labels_.back());
    }

    // The importance of each root, by what makes it or by what reads it.
    std::vector<double> judge() {
        std::vector<double> importance(sets_.size(), 0);
        for (std::size_t i = 0; i < net_.spec.ops.size(); ++i) {
            const auto* conv = std::get_if<Conv>(&net_.spec.ops[i].detail);
            if (conv == nullptr || !is_standard(*conv)) continue;
            const std::vector<float> weight = net_.floats(net_.spec.ops[i].name + ".weight");
            const Labels &out = labels_[i + 1], &in = labels_[resolved_.inputs[i][0]];
            const std::size_t n_columns = weight.size() / out.size();
            for (std::size_t row = 0; row < out.size(); ++row)
                for (std::size_t column = 0; column < n_columns; ++column) {
                    const double w = static_cast<double>(weight[row * n_columns + column]);
                    const std::size_t label = pruning_.judge == ChannelPruning::Judge::readers ? in[column % in.size()] : out[row];
                    importance[sets_.root(label)] += pruning_.judge == ChannelPruning::Judge::l1 ? std::fabs(w) : w * w;
                }
        }
        return importance;
    }

    void choose() {
        dropped_.assign(sets_.size(), false);
        std::set<std::size_t> held;
        for (const std::size_t label : held_) held.insert(sets_.root(label));
        // Layers whose filters share labels lose the same channels.
        Sets layers;
        std::vector<std::size_t> maker(sets_.size(), SIZE_MAX);
        for (std::size_t i = 0; i < net_.spec.ops.size(); ++i) {
            const std::size_t layer = layers.add();
            const auto* conv = std::get_if<Conv>(&net_.spec.ops[i].detail);
            if (conv == nullptr || !is_standard(*conv)) continue;
            for (const std::size_t label : labels_[i + 1]) {
                std::size_t& first = maker[sets_.root(label)];
                if (first == SIZE_MAX) first = layer;
                else layers.join(layer, first);
                if (!concerns(pruning_.layers, net_.spec.ops[i].name)) held.insert(sets_.root(label));
            }
        }
        const std::vector<double> importance = judge();
        for (std::size_t layer = 0; layer < layers.size(); ++layer) {
            std::vector<std::size_t> roots;
            for (std::size_t label = 0; label < sets_.size(); ++label)
                if (sets_.root(label) == label && maker[label] != SIZE_MAX && layers.root(maker[label]) == layer && held.count(label) == 0) roots.push_back(label);
            std::stable_sort(roots.begin(), roots.end(), [&](std::size_t a, std::size_t b) { return importance[a] < importance[b]; });
            const auto n = static_cast<std::int64_t>(roots.size());
            std::int64_t n_kept = n - static_cast<std::int64_t>(pruning_.share * static_cast<double>(n));
            n_kept = std::min(n, (n_kept + pruning_.multiple_of - 1) / pruning_.multiple_of * pruning_.multiple_of);
            for (std::int64_t i = 0; i < n - std::max<std::int64_t>(1, n_kept); ++i) dropped_[roots[static_cast<std::size_t>(i)]] = true;
        }
    }

    std::vector<std::size_t> kept(std::size_t value) {
        std::vector<std::size_t> channels;
        for (std::size_t c = 0; c < labels_[value].size(); ++c)
            if (!dropped_[sets_.root(labels_[value][c])]) channels.push_back(c);
        return channels;
    }

    // Rows and, for each tap, columns of a weight.
    static std::vector<float> cut(const std::vector<float>& weight, std::size_t n_rows, const std::vector<std::size_t>& rows, std::size_t n_inputs, const std::vector<std::size_t>& inputs) {
        const std::size_t n_columns = weight.size() / n_rows;
        std::vector<float> small;
        for (const std::size_t row : rows)
            for (std::size_t tap = 0; tap < n_columns / n_inputs; ++tap)
                for (const std::size_t input : inputs) small.push_back(weight[row * n_columns + tap * n_inputs + input]);
        return small;
    }
    static double squares(const std::vector<float>& values) {
        double sum = 0;
        for (const float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
        return sum;
    }

    Result<Changed> rebuild() {
        Changed result{net_, {}, {}};
        for (std::size_t i = 0; i < net_.spec.ops.size(); ++i) {
            Op& op = result.net.spec.ops[i];
            const std::vector<std::size_t> rows = kept(i + 1), inputs = kept(resolved_.inputs[i][0]);
            if (rows.empty()) return unsupported("nothing would be left of " + op.name + "; prune less, or leave it out with --layers");
            const std::size_t n_rows = labels_[i + 1].size(), n_inputs = labels_[resolved_.inputs[i][0]].size();
            if (rows.size() == n_rows && inputs.size() == n_inputs) continue;
            if (auto* slice = std::get_if<Slice>(&op.detail)) {
                const auto before = [&](std::int64_t end) { return std::count_if(inputs.begin(), inputs.end(), [&](std::size_t c) { return static_cast<std::int64_t>(c) < end; }); };
                *slice = {before(slice->begin), before(slice->end)};
            }
            auto* conv = std::get_if<Conv>(&op.detail);
            if (conv == nullptr) continue;
            const std::vector<float> weight = net_.floats(op.name + ".weight");
            const bool standard = is_standard(*conv);
            std::vector<float> small = standard ? cut(weight, n_rows, rows, n_inputs, inputs) : cut(weight, n_rows, rows, 1, {0});
            conv->channels = static_cast<std::int64_t>(rows.size());
            if (!standard) conv->groups = static_cast<std::int64_t>(inputs.size());
            result.changes.push_back({op.name, std::to_string(n_inputs) + " -> " + std::to_string(n_rows), std::to_string(inputs.size()) + " -> " + std::to_string(rows.size()), 1 - squares(small) / std::max(squares(weight), 1e-30)});
            const auto n_columns = static_cast<std::int64_t>(small.size() / rows.size());
            result.net.set_floats(op.name + ".weight", {conv->channels, n_columns}, std::move(small));
            if (conv->bias == Conv::Bias::yes) result.net.set_floats(op.name + ".bias", {conv->channels}, cut(net_.floats(op.name + ".bias"), n_rows, rows, 1, {0}));
        }
        if (result.changes.empty()) result.remarks.push_back("no channel is free to go at this strength; the result is a copy");
        SKIFF_TRY(const auto resolved, resolve(result.net.spec));
        (void)resolved;
        return result;
    }

    const Net& net_;
    const ChannelPruning& pruning_;
    Resolved resolved_;
    Sets sets_;
    std::vector<Labels> labels_;     // of each value
    std::vector<std::size_t> held_;  // labels that must stay
    std::vector<bool> dropped_;      // by root
};

}  // namespace

Result<Changed> prune_channels(const Net& net, const ChannelPruning& pruning) {
    if (!(pruning.share >= 0 && pruning.share < 1) || pruning.multiple_of < 1) return usage_error("the share of channels that go is at least 0% and less than 100%");
    SKIFF_CHECK(check_names(net, pruning.layers));
    SKIFF_CHECK(check_plain(net));
    SKIFF_TRY(auto resolved, resolve(net.spec));
    return ChannelPruner(net, pruning, std::move(resolved)).run();
}

}  // namespace skiff::net
