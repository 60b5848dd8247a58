// What compression does to small networks (src/net), and what each step says about it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/scheme_choice.h"
#include "net/net.h"
#include "tensor/weight.h"

namespace skiff::net {

// One operator's way: "16 filters" -> "12", and the share of its weights' squares that went (or the squared error of what replaces them, relative to them).
struct Change {
    std::string op, from, to;
    double squared_error = 0;
};

struct Changed {
    Net net;
    std::vector<Change> changes;
    std::vector<std::string> remarks;
};

// Which operators a step concerns; empty: all that it can.
using OpNames = std::vector<std::string>;
// An error names the first that the network does not have.
Status check_names(const Net& net, const OpNames& names);
// An error if a weight is codes: what is cut or factorized are numbers.
Status check_plain(const Net& net);
bool concerns(const OpNames& names, const std::string& op);

// ---- channels: output filters go together with the inputs that read them, through everything in between.
struct ChannelPruning {
    double share = 0.25;            // of the channels of each layer
    enum class Judge : std::uint8_t {
        l1, l2,   // the norm of the filter that makes a channel (filter pruning, Li et al. 2017)
        readers,  // the norm of the weights that read it (channel pruning)
    } judge = Judge::l2;
    std::int64_t multiple_of = 1;   // of what stays
    OpNames layers;
};
Result<Changed> prune_channels(const Net& net, const ChannelPruning& pruning);

// ---- positions inside kernels: those that carry least, for all filters of a layer alike, so that windows have less to gather and multiply.
struct TapPruning {
    std::int64_t keep = 0;  // positions of each kernel; 0: by share
    double share = 0;       // of the positions that go
    OpNames layers;
};
Result<Changed> prune_taps(const Net& net, const TapPruning& pruning);

// ---- convolutions as chains of smaller ones
struct NetFactorization {
    enum class Method : std::uint8_t {
        depthwise,  // each input's windows by `rank` depthwise kernels, then pointwise: the closest such pair, by singular values for each input
        tucker,     // pointwise to fewer inputs, a small core, pointwise to all outputs (Kim et al. 2016; HOSVD)
        svd,        // of pointwise convolutions and linear operators: two thin ones
        kronecker,  // of the same: a sum of `rank` Kronecker products A x B, run as B over parts of a position and A over what that gives
    } method = Method::depthwise;
    enum class Rule : std::uint8_t { rank, share, energy } rule = Rule::rank;
    double amount = 1;  // the rank; its share of the full rank; or the share of the squares that stays
    OpNames layers;
};
Result<Changed> factorize_net(const Net& net, const NetFactorization& factorization);

// ---- weights as codes. Depthwise kernels stay as they are: they are few, and read with the images.
Result<Changed> quantize_net(const Net& net, const SchemeWish& schemes, ScaleRule rule, ThreadPool& pool);

}  // namespace skiff::net
