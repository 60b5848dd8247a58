#include <algorithm>
#include <cmath>
#include <set>

#include "compress/algebra/algebra.h"
#include "compress/net/changes.h"

namespace skiff::net {
namespace {

// A weight (outputs, taps, inputs), and what stands for it.
struct Kernel {
    std::int64_t outputs, taps, inputs;
    std::vector<float> w;
    double at(std::int64_t o, std::int64_t t, std::int64_t i) const { return static_cast<double>(w[static_cast<std::size_t>((o * taps + t) * inputs + i)]); }
    std::int64_t size() const { return outputs * taps * inputs; }
    double squares() const {
        double sum = 0;
        for (const float value : w) sum += static_cast<double>(value) * static_cast<double>(value);
        return sum;
    }
};

struct Part {
    std::string suffix;  // of the name; the last part keeps the name
    OpDetail detail;
    std::vector<float> weight;  // of a convolution
};
struct Chain {
    std::vector<Part> parts;  // in order; the last one takes the bias
    std::string form;         // "3x3 depthwise + pointwise"
    double squared_error = 0;
    std::int64_t size() const {
        std::int64_t sum = 0;
        for (const Part& part : parts) sum += static_cast<std::int64_t>(part.weight.size());
        return sum;
    }
};

Conv pointwise(std::int64_t channels) {
    Conv conv;
    conv.channels = channels;
    conv.bias = Conv::Bias::no;
    return conv;
}

// How many of the descending singular values stay.
std::int64_t rank_of(const NetFactorization& wish, const std::vector<double>& values) {
    const auto full = static_cast<std::int64_t>(values.size());
    if (wish.rule == NetFactorization::Rule::rank) return wish.amount >= static_cast<double>(full) ? full : static_cast<std::int64_t>(wish.amount);
    if (wish.rule == NetFactorization::Rule::share) return std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(wish.amount * static_cast<double>(full))), 1, full);
    double all = 0, sum = 0;
    for (const double value : values) all += value * value;
    for (std::int64_t rank = 1; rank <= full; ++rank) {
        sum += values[static_cast<std::size_t>(rank - 1)] * values[static_cast<std::size_t>(rank - 1)];
        if (sum >= wish.amount * all) return rank;
    }
    return full;
}

// For each input the best sum of `rank` products of a window and a column of outputs: its own matrix (taps, outputs) cut behind the rank-th singular value (Eckart and Young).
Result<Chain> depthwise_pair(const Conv& conv, const Kernel& kernel, const NetFactorization& wish) {
    std::vector<Svd> svds;
    std::int64_t rank = 1;
    for (std::int64_t i = 0; i < kernel.inputs; ++i) {
        std::vector<double> matrix;
        for (std::int64_t t = 0; t < kernel.taps; ++t)
            for (std::int64_t o = 0; o < kernel.outputs; ++o) matrix.push_back(kernel.at(o, t, i));
        SKIFF_TRY(auto svd, singular_values(std::move(matrix), kernel.taps, kernel.outputs));
        rank = std::max(rank, rank_of(wish, svd.s));  // one multiplier for all inputs
        svds.push_back(std::move(svd));
    }
    Chain chain;
    Conv windows = conv;
    windows.channels = kernel.inputs * rank;
    windows.groups = kernel.inputs;
    windows.bias = Conv::Bias::no;
    std::vector<float> depthwise(static_cast<std::size_t>(kernel.inputs * rank * kernel.taps)), mix(static_cast<std::size_t>(kernel.outputs * kernel.inputs * rank));
    double lost = 0;
    for (std::int64_t i = 0; i < kernel.inputs; ++i) {
        const Svd& svd = svds[static_cast<std::size_t>(i)];
        const auto full = static_cast<std::int64_t>(svd.s.size());
        for (std::int64_t r = 0; r < full; ++r) {
            const double s = svd.s[static_cast<std::size_t>(r)];
            if (r >= rank) {
                lost += s * s;
                continue;
            }
            const double root = std::sqrt(s);  // both factors get the same share of the magnitude, which training likes
            for (std::int64_t t = 0; t < kernel.taps; ++t) depthwise[static_cast<std::size_t>((i * rank + r) * kernel.taps + t)] = static_cast<float>(svd.u[static_cast<std::size_t>(t * full + r)] * root);
            for (std::int64_t o = 0; o < kernel.outputs; ++o) mix[static_cast<std::size_t>((o * kernel.inputs + i) * rank + r)] = static_cast<float>(svd.vt[static_cast<std::size_t>(r * kernel.outputs + o)] * root);
        }
    }
    chain.parts.push_back({".depthwise", windows, std::move(depthwise)});
    chain.parts.push_back({"", pointwise(kernel.outputs), std::move(mix)});
    chain.form = "depthwise x" + std::to_string(rank) + " + pointwise";
    chain.squared_error = lost / std::max(kernel.squares(), 1e-30);
    return chain;
}

// The left singular vectors of an unfolding, (n, rank), and its rank.
struct Basis {
    std::int64_t rank;
    std::vector<double> u;  // (n, full) f64
    std::int64_t full;
    double at(std::int64_t row, std::int64_t column) const { return u[static_cast<std::size_t>(row * full + column)]; }
};
Result<Basis> basis_of(std::vector<double> unfolding, std::int64_t n, const NetFactorization& wish) {
    const std::int64_t columns = static_cast<std::int64_t>(unfolding.size()) / n;
    SKIFF_TRY(auto svd, singular_values(std::move(unfolding), n, columns));
    return Basis{rank_of(wish, svd.s), std::move(svd.u), std::min(n, columns)};
}

Result<Chain> tucker_chain(const Conv& conv, const Kernel& kernel, const NetFactorization& wish) {
    std::vector<double> by_output, by_input;
    for (std::int64_t o = 0; o < kernel.outputs; ++o)
        for (std::int64_t t = 0; t < kernel.taps; ++t)
            for (std::int64_t i = 0; i < kernel.inputs; ++i) by_output.push_back(kernel.at(o, t, i));
    for (std::int64_t i = 0; i < kernel.inputs; ++i)
        for (std::int64_t t = 0; t < kernel.taps; ++t)
            for (std::int64_t o = 0; o < kernel.outputs; ++o) by_input.push_back(kernel.at(o, t, i));
    SKIFF_TRY(const auto out, basis_of(std::move(by_output), kernel.outputs, wish));
    SKIFF_TRY(const auto in, basis_of(std::move(by_input), kernel.inputs, wish));
    // core[a, t, b] = sum over o, i of out[o, a] w[o, t, i] in[i, b]; both bases are orthonormal, so what is lost is what the core lacks.
    std::vector<double> half(static_cast<std::size_t>(kernel.outputs * kernel.taps * in.rank), 0);
    for (std::int64_t o = 0; o < kernel.outputs; ++o)
        for (std::int64_t t = 0; t < kernel.taps; ++t)
            for (std::int64_t i = 0; i < kernel.inputs; ++i)
                for (std::int64_t b = 0; b < in.rank; ++b) half[static_cast<std::size_t>((o * kernel.taps + t) * in.rank + b)] += kernel.at(o, t, i) * in.at(i, b);
    std::vector<float> core(static_cast<std::size_t>(out.rank * kernel.taps * in.rank));
    double kept = 0;
    for (std::int64_t a = 0; a < out.rank; ++a)
        for (std::int64_t j = 0; j < kernel.taps * in.rank; ++j) {
            double sum = 0;
            for (std::int64_t o = 0; o < kernel.outputs; ++o) sum += out.at(o, a) * half[static_cast<std::size_t>(o * kernel.taps * in.rank + j)];
            core[static_cast<std::size_t>(a * kernel.taps * in.rank + j)] = static_cast<float>(sum);
            kept += sum * sum;
        }
    std::vector<float> enter, leave;
    for (std::int64_t b = 0; b < in.rank; ++b)
        for (std::int64_t i = 0; i < kernel.inputs; ++i) enter.push_back(static_cast<float>(in.at(i, b)));
    for (std::int64_t o = 0; o < kernel.outputs; ++o)
        for (std::int64_t a = 0; a < out.rank; ++a) leave.push_back(static_cast<float>(out.at(o, a)));
    Conv windows = conv;
    windows.channels = out.rank;
    windows.bias = Conv::Bias::no;
    Chain chain;
    chain.parts.push_back({".enter", pointwise(in.rank), std::move(enter)});
    chain.parts.push_back({".core", windows, std::move(core)});
    chain.parts.push_back({"", pointwise(kernel.outputs), std::move(leave)});
    chain.form = std::to_string(kernel.inputs) + " -> " + std::to_string(in.rank) + " -> " + std::to_string(out.rank) + " -> " + std::to_string(kernel.outputs);
    chain.squared_error = std::max(0.0, 1 - kept / std::max(kernel.squares(), 1e-30));
    return chain;
}

// The divisor of n that is nearest to its root, and not above it.
std::int64_t middle_divisor(std::int64_t n) {
    std::int64_t best = 1;
    for (std::int64_t i = 1; i * i <= n; ++i)
        if (n % i == 0) best = i;
    return best;
}

// W ~ sum over r of A_r x B_r with A (m1, n1) and B (m2, n2): the rearranged matrix, whose rows are the blocks of W, cut behind its r-th singular value (Van Loan
// and Pitsianis 1993). (A x B) x is B on each of the n1 parts of x, then A across the parts; all r share both operators.
Result<Chain> kronecker_chain(const Conv& conv, const Kernel& kernel, const NetFactorization& wish) {
    const std::int64_t m = kernel.outputs, n = kernel.inputs, m1 = middle_divisor(m), n1 = middle_divisor(n), m2 = m / m1, n2 = n / n1;
    std::vector<double> blocks;
    for (std::int64_t i1 = 0; i1 < m1; ++i1)
        for (std::int64_t j1 = 0; j1 < n1; ++j1)
            for (std::int64_t i2 = 0; i2 < m2; ++i2)
                for (std::int64_t j2 = 0; j2 < n2; ++j2) blocks.push_back(kernel.at(i1 * m2 + i2, 0, j1 * n2 + j2));
    SKIFF_TRY(const auto svd, singular_values(std::move(blocks), m1 * n1, m2 * n2));
    const std::int64_t rank = rank_of(wish, svd.s), full = static_cast<std::int64_t>(svd.s.size());
    double lost = 0;
    for (std::int64_t r = rank; r < full; ++r) lost += svd.s[static_cast<std::size_t>(r)] * svd.s[static_cast<std::size_t>(r)];
    // Rows of `inner` are (i2, r), so that folding behind the shuffle gives each i2 its (r, j1).
    std::vector<float> inner, outer(static_cast<std::size_t>(m1 * rank * n1));
    for (std::int64_t i2 = 0; i2 < m2; ++i2)
        for (std::int64_t r = 0; r < rank; ++r)
            for (std::int64_t j2 = 0; j2 < n2; ++j2) inner.push_back(static_cast<float>(svd.vt[static_cast<std::size_t>(r * m2 * n2 + i2 * n2 + j2)] * std::sqrt(svd.s[static_cast<std::size_t>(r)])));
    for (std::int64_t i1 = 0; i1 < m1; ++i1)
        for (std::int64_t r = 0; r < rank; ++r)
            for (std::int64_t j1 = 0; j1 < n1; ++j1)
                outer[static_cast<std::size_t>((i1 * rank + r) * n1 + j1)] = static_cast<float>(svd.u[static_cast<std::size_t>((i1 * n1 + j1) * full + r)] * std::sqrt(svd.s[static_cast<std::size_t>(r)]));
    Chain chain;
    chain.parts.push_back({".parts", Fold{n1, Fold::Way::to_positions}, {}});
    chain.parts.push_back({".inner", pointwise(m2 * rank), std::move(inner)});
    chain.parts.push_back({".joined", Fold{n1, Fold::Way::to_channels}, {}});  // (j1, i2, r)
    chain.parts.push_back({".turned", Shuffle{n1}, {}});                       // (i2, r, j1)
    chain.parts.push_back({".again", Fold{m2, Fold::Way::to_positions}, {}});
    chain.parts.push_back({".outer", pointwise(m1), std::move(outer)});
    chain.parts.push_back({".whole", Fold{m2, Fold::Way::to_channels}, {}});   // (i2, i1)
    chain.parts.push_back({conv.bias == Conv::Bias::yes ? ".back" : "", Shuffle{m2}, {}});
    if (conv.bias == Conv::Bias::yes) {  // added by a depthwise operator of ones
        Conv shift = pointwise(m);
        shift.groups = m;
        chain.parts.push_back({"", shift, std::vector<float>(static_cast<std::size_t>(m), 1.0f)});
    }
    chain.form = std::to_string(rank) + " x (" + std::to_string(m1) + "x" + std::to_string(n1) + " by " + std::to_string(m2) + "x" + std::to_string(n2) + ")";
    chain.squared_error = lost / std::max(kernel.squares(), 1e-30);
    return chain;
}

Result<Chain> thin_pair(const Conv&, const Kernel& kernel, const NetFactorization& wish) {
    SKIFF_TRY(auto svd, singular_values({kernel.w.begin(), kernel.w.end()}, kernel.outputs, kernel.inputs));
    const std::int64_t rank = rank_of(wish, svd.s);
    const auto full = static_cast<std::int64_t>(svd.s.size());
    std::vector<float> down, up;
    double lost = 0;
    for (std::int64_t r = rank; r < full; ++r) lost += svd.s[static_cast<std::size_t>(r)] * svd.s[static_cast<std::size_t>(r)];
    for (std::int64_t r = 0; r < rank; ++r)
        for (std::int64_t i = 0; i < kernel.inputs; ++i) down.push_back(static_cast<float>(svd.vt[static_cast<std::size_t>(r * kernel.inputs + i)] * std::sqrt(svd.s[static_cast<std::size_t>(r)])));
    for (std::int64_t o = 0; o < kernel.outputs; ++o)
        for (std::int64_t r = 0; r < rank; ++r) up.push_back(static_cast<float>(svd.u[static_cast<std::size_t>(o * full + r)] * std::sqrt(svd.s[static_cast<std::size_t>(r)])));
    Chain chain;
    chain.parts.push_back({".down", pointwise(rank), std::move(down)});
    chain.parts.push_back({"", pointwise(kernel.outputs), std::move(up)});
    chain.form = std::to_string(kernel.inputs) + " -> " + std::to_string(rank) + " -> " + std::to_string(kernel.outputs);
    chain.squared_error = lost / std::max(kernel.squares(), 1e-30);
    return chain;
}

struct MethodRow {
    NetFactorization::Method method;
    Result<Chain> (*make)(const Conv& conv, const Kernel& kernel, const NetFactorization& wish);
    bool (*applies)(const Conv& conv);
    const char* to_what;
};
const MethodRow methods[] = {
    {NetFactorization::Method::depthwise, depthwise_pair, [](const Conv& conv) { return conv.groups == 1 && conv.window.n_taps() > 1; }, "standard convolutions"},
    {NetFactorization::Method::tucker, tucker_chain, [](const Conv& conv) { return conv.groups == 1 && conv.window.n_taps() > 1; }, "standard convolutions"},
    {NetFactorization::Method::svd, thin_pair, [](const Conv& conv) { return conv.groups == 1 && conv.window.looks_at_one(); }, "pointwise convolutions and linear operators"},
    {NetFactorization::Method::kronecker, kronecker_chain, [](const Conv& conv) { return conv.groups == 1 && conv.window.looks_at_one(); }, "pointwise convolutions and linear operators"},
};

}  // namespace

Result<Changed> factorize_net(const Net& net, const NetFactorization& wish) {
    SKIFF_CHECK(algebra_available());
    if (!(wish.amount > 0) || (wish.rule != NetFactorization::Rule::rank && wish.amount > 1) || (wish.rule == NetFactorization::Rule::rank && wish.amount < 1)) return usage_error("the rank is a number from 1, or a share above 0% up to 100%");
    SKIFF_CHECK(check_names(net, wish.layers));
    SKIFF_CHECK(check_plain(net));
    SKIFF_TRY(const auto resolved, resolve(net.spec));
    std::set<std::string> taken;
    for (const Op& op : net.spec.ops) taken.insert(op.name);
    const MethodRow& row = methods[static_cast<std::size_t>(wish.method)];
    Changed result{net, {}, {}};
    result.net.spec.ops.clear();
    std::int64_t n_fit = 0;
    for (std::size_t i = 0; i < net.spec.ops.size(); ++i) {
        const Op& op = net.spec.ops[i];
        const auto* conv = std::get_if<Conv>(&op.detail);
        result.net.spec.ops.push_back(op);
        if (conv == nullptr || !row.applies(*conv) || !concerns(wish.layers, op.name)) continue;
        ++n_fit;
        const Kernel kernel{conv->channels, static_cast<std::int64_t>(conv->kept_taps().size()), resolved.shapes[resolved.inputs[i][0]].channels, net.floats(op.name + ".weight")};
        SKIFF_TRY(Chain chain, row.make(*conv, kernel, wish));
        if (chain.size() >= kernel.size()) {
            result.remarks.push_back(op.name + " stays whole: " + chain.form + " would take " + std::to_string(chain.size()) + " weights, it has " + std::to_string(kernel.size()));
            continue;
        }
        result.changes.push_back({op.name, std::to_string(kernel.size()) + " weights", std::to_string(chain.size()) + " (" + chain.form + ")", chain.squared_error});
        result.net.spec.ops.pop_back();
        result.net.weights.erase(op.name + ".weight");
        std::string from = op.in[0];
        for (std::size_t part = 0; part < chain.parts.size(); ++part) {
            Part& made = chain.parts[part];
            const bool is_last = part + 1 == chain.parts.size();
            std::string name = is_last ? op.name : op.name + made.suffix;  // readers of the operator find what they read
            for (int n = 2; !is_last && !taken.insert(name).second; ++n) name = op.name + made.suffix + std::to_string(n);  // it may be a part itself
            if (auto* part_conv = std::get_if<Conv>(&made.detail)) {
                if (is_last) part_conv->bias = conv->bias;
                const auto columns = static_cast<std::int64_t>(made.weight.size()) / part_conv->channels;
                result.net.set_floats(name + ".weight", {part_conv->channels, columns}, std::move(made.weight));
            }
            result.net.spec.ops.push_back({name, {from}, made.detail});
            from = name;
        }
    }
    if (n_fit == 0) result.remarks.push_back(std::string("the method is for ") + row.to_what + ", of which there are none here; the result is a copy");
    SKIFF_TRY(const auto again, resolve(result.net.spec));
    (void)again;
    return result;
}

}  // namespace skiff::net
