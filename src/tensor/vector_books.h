// Books of vectors and the nearest of their entries: what every way of choosing codes of vectors shares.
//
// An error e of a vector costs e^T M e, with M the same for all rows: the identity, weights of its columns, or a block of second moments. Then the best
// entry c for the target t (the vector over its scale) is that with the least c^T M c - 2 c . (M t), and c^T M c is known before any row is looked at.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/rng.h"
#include "base/thread_pool.h"
#include "tensor/scheme.h"

namespace skiff {

inline constexpr int most_vector = 8;

// Entries component by component, so that loops run over entries. A whole number once rounded.
struct VectorBooks {
    int vector = 0, n_books = 0, n_levels = 0;
    std::vector<float> entries;  // (n_books, vector, n_levels)

    VectorBooks() = default;
    explicit VectorBooks(const Scheme& scheme);  // all zero
    float& at(int book, int level, int i) { return entries[static_cast<std::size_t>((book * vector + i) * n_levels + level)]; }
    float at(int book, int level, int i) const { return entries[static_cast<std::size_t>((book * vector + i) * n_levels + level)]; }
    // To whole numbers such that every sum of an entry of each book is within -127..127: what a scale must be multiplied by. 0: all entries are zero.
    float round_to_bytes();
    std::vector<std::int8_t> bytes() const;  // (n_books * n_levels, vector), of rounded books
};

// The entries chosen for a vector, and their sum.
struct ChosenVector {
    std::uint16_t codes[2] = {0, 0};
    float value[most_vector] = {};
};

// c^T M c of every entry. // metric: (vector, vector); norms: (n_books, n_levels)
void entry_norms(const VectorBooks& books, const float* metric, float* norms);

void times_metric(int vector, const float* metric, const float* x, float* y);  // y = M x // (vector) each

// The best entry for the target t, or the best sum of two: of books of 16 all sums are looked at, of larger ones those of eight entries of the first book that are
// best alone (each the best of its place modulo 16). // pull: M t (vector)
void choose_vector(const VectorBooks& books, const float* metric, const float* norms, const float* pull, ChosenVector& chosen);

// e^T M e // (vector)
double vector_cost(int vector, const float* metric, const float* error);

// Vectors to make books for, each component with its weight.
struct VectorSample {
    int vector = 0;
    std::vector<float> values, weights;  // (n, vector)
    std::int64_t n() const { return vector == 0 ? 0 : static_cast<std::int64_t>(values.size()) / vector; }
};

// k-means++ (Arthur & Vassilvitskii 2007): entries are vectors of the sample, each drawn with the chance of what it costs under those before. Fills book `book`; the
// other one counts as zero.
void start_book(const VectorSample& sample, Rng& rng, int book, VectorBooks& books);
// One step of Lloyd's iteration over all books: each vector takes its best entries, then each entry is the weighted mean of what the vectors that took it lack (of two
// books one after the other). An entry that none took becomes the vector that costs most. Returns the cost before the means moved. The bits are the same for any pool, and for none.
double lloyd_step(const VectorSample& sample, VectorBooks& books, ThreadPool* pool = nullptr);
// Start and steps until little changes.
VectorBooks make_books(const VectorSample& sample, const Scheme& scheme, std::uint64_t seed, ThreadPool* pool = nullptr);

}  // namespace skiff
