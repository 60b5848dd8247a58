#include "tensor/vector_books.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace skiff {
namespace {

constexpr int lanes = 16;  // a book is a multiple of 16 entries
using Floats = float __attribute__((vector_size(4 * lanes)));
using Ints = std::int32_t __attribute__((vector_size(4 * lanes)));

// The search is nearly all of the time: compiled for each width of vectors, and chosen when the program starts. No sums are fused, so that the bits are the same.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SKIFF_EACH_WIDTH __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define SKIFF_EACH_WIDTH
#endif

constexpr int most_tried = 8;  // entries of the first book, where it has more than 16
constexpr int most_steps = 12;
constexpr double little = 2e-3;  // of the cost, below which another step is not worth it

struct Least {
    int level;
    float score;
};

// Scores are norm_k - 2 c_k . g; the best of every sixteenth entry goes to `each`, unless it is null. Returns the best, the first of several. // g: (vector); each: (lanes)
template <int Vector>
[[gnu::always_inline]] inline Least best_entry(const float* entries, const float* norms, const float* g, int n_levels, Least* each) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    Floats least = Floats{} + infinity;
    Ints place = {};
    for (int k = 0; k < n_levels; k += lanes) {
        Floats score, entry;
        __builtin_memcpy(&score, norms + k, sizeof score);
        for (int i = 0; i < Vector; ++i) {
            __builtin_memcpy(&entry, entries + i * n_levels + k, sizeof entry);
            score -= 2 * g[i] * entry;
        }
        const Ints better = score < least;
        place = better ? Ints{} + k : place;
        least = better ? score : least;
    }
    Least best{0, infinity};
    for (int lane = 0; lane < lanes; ++lane) {
        const int level = place[lane] + lane;
        if (each != nullptr) each[lane] = {level, least[lane]};
        if (least[lane] < best.score || (least[lane] == best.score && level < best.level)) best = {level, least[lane]};
    }
    return best;
}

SKIFF_EACH_WIDTH Least best_of_2(const float* entries, const float* norms, const float* g, int n_levels, Least* each) { return best_entry<2>(entries, norms, g, n_levels, each); }
SKIFF_EACH_WIDTH Least best_of_4(const float* entries, const float* norms, const float* g, int n_levels, Least* each) { return best_entry<4>(entries, norms, g, n_levels, each); }
SKIFF_EACH_WIDTH Least best_of_8(const float* entries, const float* norms, const float* g, int n_levels, Least* each) { return best_entry<8>(entries, norms, g, n_levels, each); }

Least score_entries(int vector, const float* entries, const float* norms, const float* g, int n_levels, Least* each) {
    return (vector == 2 ? best_of_2 : vector == 4 ? best_of_4 : best_of_8)(entries, norms, g, n_levels, each);
}

void take(const VectorBooks& books, ChosenVector& chosen) {
    for (int i = 0; i < books.vector; ++i) {
        chosen.value[i] = books.at(0, chosen.codes[0], i);
        if (books.n_books > 1) chosen.value[i] += books.at(1, chosen.codes[1], i);
    }
}

// The weights of a vector of the sample as a metric.
void diagonal(const VectorSample& sample, std::int64_t at, float* metric) {
    const int d = sample.vector;
    std::fill_n(metric, d * d, 0.0f);
    for (int i = 0; i < d; ++i) metric[i * d + i] = sample.weights[static_cast<std::size_t>(at * d + i)];
}

double cost_of(const VectorSample& sample, std::int64_t at, const float* value) {
    double cost = 0;
    for (int i = 0; i < sample.vector; ++i) {
        const auto index = static_cast<std::size_t>(at * sample.vector + i);
        const double e = static_cast<double>(sample.values[index]) - static_cast<double>(value[i]);
        cost += static_cast<double>(sample.weights[index]) * e * e;
    }
    return cost;
}

// The best entries of each vector of the sample, whose weights are its metric; threads share the vectors. // chosen: (n)
void choose_for_sample(const VectorSample& sample, const VectorBooks& books, ThreadPool* pool, std::vector<ChosenVector>& chosen) {
    const int d = sample.vector;
    const auto choose = [&](Range share) {
        std::vector<float> norms(static_cast<std::size_t>(books.n_books * books.n_levels));
        float metric[most_vector * most_vector], before[most_vector * most_vector] = {}, pull[most_vector];
        for (std::int64_t at = share.begin; at < share.end; ++at) {
            diagonal(sample, at, metric);
            if (at == share.begin || !std::equal(metric, metric + d * d, before)) entry_norms(books, metric, norms.data());
            std::copy_n(metric, d * d, before);
            times_metric(d, metric, sample.values.data() + at * d, pull);
            choose_vector(books, metric, norms.data(), pull, chosen[static_cast<std::size_t>(at)]);
        }
    };
    if (pool == nullptr) return choose({0, sample.n()});
    pool->run([&](int thread) { choose(share_of(sample.n(), thread, pool->n_threads())); });
}

// Weighted means of what the other book lacks. // chosen: (n)
void move_means(const VectorSample& sample, const std::vector<ChosenVector>& chosen, int book, VectorBooks& books) {
    const int d = sample.vector;
    std::vector<double> sums(static_cast<std::size_t>(books.n_levels * d)), weights(sums.size());
    for (std::int64_t at = 0; at < sample.n(); ++at) {
        const ChosenVector& own = chosen[static_cast<std::size_t>(at)];
        for (int i = 0; i < d; ++i) {
            const auto index = static_cast<std::size_t>(at * d + i), level = static_cast<std::size_t>(own.codes[book] * d + i);
            const float other = books.n_books > 1 ? books.at(1 - book, own.codes[1 - book], i) : 0;
            const auto weight = static_cast<double>(sample.weights[index]);
            sums[level] += weight * static_cast<double>(sample.values[index] - other);
            weights[level] += weight;
        }
    }
    for (int level = 0; level < books.n_levels; ++level)
        for (int i = 0; i < d; ++i)
            if (weights[static_cast<std::size_t>(level * d + i)] > 0)
                books.at(book, level, i) = static_cast<float>(sums[static_cast<std::size_t>(level * d + i)] / weights[static_cast<std::size_t>(level * d + i)]);
}

}  // namespace

VectorBooks::VectorBooks(const Scheme& scheme)
    : vector(scheme.vector), n_books(scheme.n_books), n_levels(scheme.n_levels), entries(static_cast<std::size_t>(scheme.vector * scheme.n_books * scheme.n_levels)) {}

float VectorBooks::round_to_bytes() {
    float largest = 0;
    for (int i = 0; i < vector; ++i) {
        float low = 0, high = 0;
        for (int book = 0; book < n_books; ++book) {
            const auto begin = entries.begin() + (book * vector + i) * n_levels;
            const auto [least, most] = std::minmax_element(begin, begin + n_levels);
            low += *least, high += *most;
            largest = std::max({largest, -*least, *most});
        }
        largest = std::max({largest, -low, high});
    }
    if (!(largest > 0)) return 0;
    const float steps = (n_books > 1 ? 126.0f : 127.0f) / largest;  // of two roundings up by a half each the sum may be one more
    for (float& x : entries) x = std::nearbyint(x * steps);
    return 1 / steps;
}

std::vector<std::int8_t> VectorBooks::bytes() const {
    std::vector<std::int8_t> result;
    for (int book = 0; book < n_books; ++book)
        for (int level = 0; level < n_levels; ++level)
            for (int i = 0; i < vector; ++i) result.push_back(static_cast<std::int8_t>(at(book, level, i)));
    return result;
}

void times_metric(int vector, const float* metric, const float* x, float* y) {
    for (int i = 0; i < vector; ++i) {
        float sum = 0;
        for (int j = 0; j < vector; ++j) sum += metric[i * vector + j] * x[j];
        y[i] = sum;
    }
}

void entry_norms(const VectorBooks& books, const float* metric, float* norms) {
    const int d = books.vector, n = books.n_levels;
    for (int book = 0; book < books.n_books; ++book) {
        const float* entries = books.entries.data() + book * d * n;
        float* norm = norms + book * n;
        std::fill_n(norm, n, 0.0f);
        for (int i = 0; i < d; ++i)
            for (int j = i; j < d; ++j) {
                const float m = i == j ? metric[i * d + j] : metric[i * d + j] + metric[j * d + i];
                if (m == 0) continue;
                for (int k = 0; k < n; ++k) norm[k] += m * entries[i * n + k] * entries[j * n + k];
            }
    }
}

void choose_vector(const VectorBooks& books, const float* metric, const float* norms, const float* pull, ChosenVector& chosen) {
    const int d = books.vector, n = books.n_levels;
    const float *first = books.entries.data(), *second = first + d * n;
    if (books.n_books == 1) {
        chosen.codes[0] = static_cast<std::uint16_t>(score_entries(d, first, norms, pull, n, nullptr).level);
        return take(books, chosen);
    }
    Least first_best[lanes];
    score_entries(d, first, norms, pull, n, first_best);
    if (n > lanes)  // else all are looked at, in their order
        std::sort(first_best, first_best + lanes, [](const Least& a, const Least& b) { return a.score < b.score || (a.score == b.score && a.level < b.level); });
    const int n_tried = n == lanes ? lanes : most_tried;
    float least = std::numeric_limits<float>::infinity();
    for (int tried = 0; tried < n_tried; ++tried) {
        const int level = first_best[tried].level;
        float entry[most_vector], away[most_vector], rest[most_vector];
        for (int i = 0; i < d; ++i) entry[i] = books.at(0, level, i);
        times_metric(d, metric, entry, away);
        for (int i = 0; i < d; ++i) rest[i] = pull[i] - away[i];
        const Least best = score_entries(d, second, norms + n, rest, n, nullptr);
        const float score = first_best[tried].score + best.score;
        if (!(score < least)) continue;
        least = score;
        chosen.codes[0] = static_cast<std::uint16_t>(level), chosen.codes[1] = static_cast<std::uint16_t>(best.level);
    }
    take(books, chosen);
}

double vector_cost(int vector, const float* metric, const float* error) {
    float weighted[most_vector];
    times_metric(vector, metric, error, weighted);
    double cost = 0;
    for (int i = 0; i < vector; ++i) cost += static_cast<double>(error[i]) * static_cast<double>(weighted[i]);
    return cost;
}

void start_book(const VectorSample& sample, Rng& rng, int book, VectorBooks& books) {
    const std::int64_t n = sample.n();
    if (n == 0) return;
    const float zero[most_vector] = {};
    std::vector<double> costs(static_cast<std::size_t>(n));
    for (std::int64_t at = 0; at < n; ++at) costs[static_cast<std::size_t>(at)] = cost_of(sample, at, zero);  // the first entry too: far ones are rarely lost
    for (int level = 0; level < books.n_levels; ++level) {
        double sum = 0;
        for (double cost : costs) sum += cost;
        std::int64_t drawn = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(n)));
        if (sum > 0) {
            double left = rng.uniform() * sum;
            for (drawn = 0; drawn + 1 < n && left >= costs[static_cast<std::size_t>(drawn)]; ++drawn) left -= costs[static_cast<std::size_t>(drawn)];
        }
        const float* value = sample.values.data() + drawn * sample.vector;
        for (int i = 0; i < sample.vector; ++i) books.at(book, level, i) = value[i];
        for (std::int64_t at = 0; at < n; ++at) {
            double& cost = costs[static_cast<std::size_t>(at)];
            if (cost > 0) cost = std::min(cost, cost_of(sample, at, value));
        }
    }
}

double lloyd_step(const VectorSample& sample, VectorBooks& books, ThreadPool* pool) {
    const std::int64_t n = sample.n();
    const int d = sample.vector;
    std::vector<ChosenVector> chosen(static_cast<std::size_t>(n));
    std::vector<double> costs(static_cast<std::size_t>(n));
    std::vector<bool> taken(static_cast<std::size_t>(books.n_books * books.n_levels));
    choose_for_sample(sample, books, pool, chosen);
    double total = 0;
    for (std::int64_t at = 0; at < n; ++at) {
        const ChosenVector& own = chosen[static_cast<std::size_t>(at)];
        total += costs[static_cast<std::size_t>(at)] = cost_of(sample, at, own.value);
        for (int book = 0; book < books.n_books; ++book) taken[static_cast<std::size_t>(book * books.n_levels + own.codes[book])] = true;
    }
    for (int book = 0; book < books.n_books; ++book) {
        move_means(sample, chosen, book, books);
        for (int level = 0; level < books.n_levels; ++level) {
            if (taken[static_cast<std::size_t>(book * books.n_levels + level)] || n == 0) continue;
            const auto worst = std::max_element(costs.begin(), costs.end());
            if (!(*worst > 0)) break;
            const std::int64_t at = worst - costs.begin();
            for (int i = 0; i < d; ++i) {
                const float other = books.n_books > 1 ? books.at(1 - book, chosen[static_cast<std::size_t>(at)].codes[1 - book], i) : 0;
                books.at(book, level, i) = sample.values[static_cast<std::size_t>(at * d + i)] - other;
            }
            *worst = 0;
        }
    }
    return total;
}

VectorBooks make_books(const VectorSample& sample, const Scheme& scheme, std::uint64_t seed, ThreadPool* pool) {
    VectorBooks books(scheme);
    Rng rng(seed);
    Scheme alone = scheme;
    alone.n_books = 1;
    VectorSample rest = sample;
    for (int book = 0; book < scheme.n_books; ++book) {  // the second on what the first leaves
        VectorBooks one(alone);
        start_book(rest, rng, 0, one);
        double before = std::numeric_limits<double>::infinity();
        for (int step = 0; step < most_steps; ++step) {
            const double cost = lloyd_step(rest, one, pool);
            if (!(cost < before * (1 - little))) break;
            before = cost;
        }
        std::copy(one.entries.begin(), one.entries.end(), books.entries.begin() + book * static_cast<std::ptrdiff_t>(one.entries.size()));
        if (book + 1 == scheme.n_books) break;
        std::vector<ChosenVector> chosen(static_cast<std::size_t>(rest.n()));
        choose_for_sample(rest, one, pool, chosen);
        for (std::size_t at = 0; at < chosen.size(); ++at)
            for (int i = 0; i < rest.vector; ++i) rest.values[at * static_cast<std::size_t>(rest.vector) + static_cast<std::size_t>(i)] -= chosen[at].value[i];
    }
    for (int step = 0; step < (scheme.n_books > 1 ? 6 : 0); ++step) lloyd_step(sample, books, pool);
    return books;
}

}  // namespace skiff
