// What may be said of how a method goes about its work. Each method reads what concerns it; a recipe holds all of it.
#pragma once

#include <cstdint>

namespace skiff {

struct MethodOptions {
    // Of the columns, when each makes up for the errors of those before it. None costs anything at run time: groups of columns stay where they are stored.
    //   by_groups: groups whose inputs are largest first, and the columns of each in that order; scales are fitted when their group begins.
    //   by_inputs: GPTQ's "act-order" with "static groups": columns whose inputs are largest first; scales are fitted before.
    //   as_stored: as they lie; scales are fitted when their group begins.
    enum class Order : std::uint8_t { by_groups, by_inputs, as_stored } order = Order::by_groups;
    double damping = 0.01;          // added to the diagonal of the second moments, times its mean
    std::int64_t refine_passes = 4;  // over codes and scales of a group with all others held, after they were chosen; 0: none
    std::int64_t n_iterations = 200;  // of learnt rounding
    // Of learnt rounding: by what each operator's own output loses, or by what the whole block's output loses, which its other operators may make up for.
    enum class Learning : std::uint8_t { by_operator, by_block } learning = Learning::by_block;
    enum class Clip : std::uint8_t { none, search } clip = Clip::search;  // of AWQ: the largest weights of a group, where that lowers the output's error
    double smooth_alpha = 0.5;        // of SmoothQuant: how much of the inputs' spread goes into the weights
    bool operator==(const MethodOptions&) const = default;
};
inline const MethodOptions default_method_options;

}  // namespace skiff
