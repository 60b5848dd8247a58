// How keys and values are kept, layer by layer: "int8", or "int8,0-1=bf16,*block5*=f16".
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "plan/plan.h"

namespace skiff {

struct StateRule {
    std::string where;  // a layer's number from 0, a range "0-3", or a pattern for the name of the operator ("*block0*", base/glob.h)
    StateScheme scheme = StateScheme::f32;
    bool operator==(const StateRule&) const = default;
};

struct StateChoice {
    StateScheme scheme = StateScheme::f32;
    std::vector<StateRule> rules;  // go before `scheme`; of several that match, the last
    std::string name() const;      // as it is parsed
};
Result<StateChoice> parse_state_choice(std::string_view text);

// The scheme of each state. Error: a rule that names none of them.
Result<std::vector<StateScheme>> schemes_of_states(const StateChoice& choice, const std::vector<StateNeed>& states);

}  // namespace skiff
