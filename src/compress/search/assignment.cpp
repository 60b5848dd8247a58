#include "compress/search/assignment.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace skiff {
namespace {

// Each unit takes the choice with the least cost + price * bytes. For any price, no assignment within the budget costs less than `bound`
// (Everett 1963); the price with the largest bound comes closest.
struct Priced {
    double price = 0, bound = 0;
    std::vector<std::size_t> chosen;
};

class Solver {
public:
    Solver(std::span<const UnitChoices> units, std::uint64_t budget) : units_(units), budget_(budget) {}

    Result<std::vector<std::size_t>> run(std::size_t max_states) {
        std::uint64_t smallest = 0;
        for (const UnitChoices& unit : units_) smallest += least_bytes(unit);
        if (smallest > budget_) return usage_error(std::to_string(budget_) + " bytes are too few: the smallest choices take " + std::to_string(smallest));
        const Priced priced = best_price();
        best_ = repaired(priced.chosen);
        price_ = priced.price;
        search(max_states);
        return best_;
    }

private:
    // A partial assignment, its last choice, and the one before it.
    struct State {
        std::uint64_t bytes;
        double cost;
        std::uint32_t before;
        std::uint16_t choice;
    };

    static std::uint64_t least_bytes(const UnitChoices& unit) {
        return std::min_element(unit.begin(), unit.end(), [](const UnitChoice& a, const UnitChoice& b) { return a.bytes < b.bytes; })->bytes;
    }

    static std::size_t best_at(const UnitChoices& unit, double price) {
        std::size_t best = 0;
        double least = std::numeric_limits<double>::infinity();
        for (std::size_t i = 0; i < unit.size(); ++i) {
            const double value = unit[i].cost + price * static_cast<double>(unit[i].bytes);
            if (value < least || (value == least && unit[i].bytes < unit[best].bytes)) {
                least = value;
                best = i;
            }
        }
        return best;
    }

    Priced at_price(double price) const {
        Priced result{price, -price * static_cast<double>(budget_), {}};
        for (const UnitChoices& unit : units_) {
            result.chosen.push_back(best_at(unit, price));
            const UnitChoice& choice = unit[result.chosen.back()];
            result.bound += choice.cost + price * static_cast<double>(choice.bytes);
        }
        return result;
    }

    // The lowest price at which the choices keep the budget.
    Priced best_price() const {
        Priced low = at_price(0);
        if (bytes_of(units_, low.chosen) <= budget_) return low;
        double high_price = 1e-12;
        Priced high = at_price(high_price);
        while (bytes_of(units_, high.chosen) > budget_ && high_price < 1e12) high = at_price(high_price *= 4);
        for (int i = 0; i < 100; ++i) {
            Priced middle = at_price((low.price + high.price) / 2);
            (bytes_of(units_, middle.chosen) <= budget_ ? high : low) = std::move(middle);
        }
        return high;
    }

    // Within the budget, whatever it was given; then the bytes that are left go where they save most.
    std::vector<std::size_t> repaired(std::vector<std::size_t> chosen) const {
        if (bytes_of(units_, chosen) > budget_)
            for (std::size_t u = 0; u < units_.size(); ++u)
                for (std::size_t i = 0; i < units_[u].size(); ++i)
                    if (units_[u][i].bytes < units_[u][chosen[u]].bytes) chosen[u] = i;
        while (true) {
            const std::uint64_t left = budget_ - bytes_of(units_, chosen);
            double most = 0;
            std::size_t unit = units_.size(), choice = 0;
            for (std::size_t u = 0; u < units_.size(); ++u)
                for (std::size_t i = 0; i < units_[u].size(); ++i) {
                    const UnitChoice &now = units_[u][chosen[u]], &other = units_[u][i];
                    const double saved = now.cost - other.cost;
                    if (saved <= most || other.bytes > now.bytes + left) continue;
                    most = saved;
                    unit = u;
                    choice = i;
                }
            if (unit == units_.size()) return chosen;
            chosen[unit] = choice;
        }
    }

    // Unit by unit all sums that may still become better than the best known: those that another neither undercuts in bytes nor in cost.
    void search(std::size_t max_states) {
        const std::size_t n = units_.size();
        std::vector<std::uint64_t> bytes_behind(n + 1, 0);  // that the units from here on take at least
        std::vector<double> value_behind(n + 1, 0);         // and what they are worth at the price
        for (std::size_t u = n; u-- > 0;) {
            const UnitChoice& choice = units_[u][best_at(units_[u], price_)];
            bytes_behind[u] = bytes_behind[u + 1] + least_bytes(units_[u]);
            value_behind[u] = value_behind[u + 1] + choice.cost + price_ * static_cast<double>(choice.bytes);
        }
        const double known = cost_of(units_, best_);
        std::vector<std::vector<State>> levels(1, {{0, 0, 0, 0}});
        for (std::size_t u = 0; u < n; ++u) {
            std::vector<State> next;
            for (std::uint32_t s = 0; s < levels[u].size(); ++s)
                for (std::size_t i = 0; i < units_[u].size(); ++i) {
                    const State& before = levels[u][s];
                    const State state{before.bytes + units_[u][i].bytes, before.cost + units_[u][i].cost, s, static_cast<std::uint16_t>(i)};
                    if (state.bytes + bytes_behind[u + 1] > budget_) continue;
                    const double bound = state.cost + value_behind[u + 1] - price_ * static_cast<double>(budget_ - state.bytes);
                    if (bound < known) next.push_back(state);
                }
            keep_undominated(next);
            if (next.size() > max_states) thin(next, max_states);
            levels.push_back(std::move(next));
        }
        const std::vector<State>& last = levels.back();
        const auto best = std::min_element(last.begin(), last.end(), [](const State& a, const State& b) { return a.cost < b.cost; });
        if (best == last.end() || best->cost >= known) return;
        std::uint32_t at = static_cast<std::uint32_t>(best - last.begin());
        for (std::size_t u = n; u-- > 0;) {
            best_[u] = levels[u + 1][at].choice;
            at = levels[u + 1][at].before;
        }
    }

    static void keep_undominated(std::vector<State>& states) {
        std::sort(states.begin(), states.end(), [](const State& a, const State& b) { return a.bytes != b.bytes ? a.bytes < b.bytes : a.cost < b.cost; });
        double least = std::numeric_limits<double>::infinity();
        std::erase_if(states, [&](const State& state) {
            if (state.cost >= least) return true;
            least = state.cost;
            return false;
        });
    }

    // Of neighbours in bytes the first: none grows, so all keep the budget.
    static void thin(std::vector<State>& states, std::size_t max_states) {
        std::vector<State> kept;
        const std::size_t step = (states.size() + max_states - 1) / max_states;
        for (std::size_t i = 0; i < states.size(); i += step) kept.push_back(states[i]);
        states = std::move(kept);
    }

    const std::span<const UnitChoices> units_;
    const std::uint64_t budget_;
    double price_ = 0;
    std::vector<std::size_t> best_;
};

}  // namespace

std::uint64_t bytes_of(std::span<const UnitChoices> units, std::span<const std::size_t> chosen) {
    std::uint64_t bytes = 0;
    for (std::size_t u = 0; u < units.size(); ++u) bytes += units[u][chosen[u]].bytes;
    return bytes;
}

double cost_of(std::span<const UnitChoices> units, std::span<const std::size_t> chosen) {
    double cost = 0;
    for (std::size_t u = 0; u < units.size(); ++u) cost += units[u][chosen[u]].cost;
    return cost;
}

Result<std::vector<std::size_t>> cheapest_choices(std::span<const UnitChoices> units, std::uint64_t budget_bytes, std::size_t max_states) {
    return Solver(units, budget_bytes).run(max_states);
}

}  // namespace skiff
