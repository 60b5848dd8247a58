#include "compress/quantize/orthogonal.h"

#include <cmath>

#include "base/rng.h"
#include "compress/algebra/algebra.h"

namespace skiff {
namespace {

bool is_prime(std::int64_t n) {
    for (std::int64_t i = 2; i * i <= n; ++i)
        if (n % i == 0) return false;
    return n > 1;
}

using Signs = std::vector<std::vector<int>>;

// 1 where a is a square modulo q, -1 where not, 0 at 0.
std::vector<int> quadratic_character(std::int64_t q) {
    std::vector<int> character(static_cast<std::size_t>(q), -1);
    character[0] = 0;
    for (std::int64_t i = 1; i < q; ++i) character[static_cast<std::size_t>(i * i % q)] = 1;
    return character;
}

// The bordered matrix of the character of differences: skew for q = 3 modulo 4, symmetric for q = 1. // (q + 1, q + 1)
Signs conference(std::int64_t q, int below) {
    const auto character = quadratic_character(q);
    const auto n = static_cast<std::size_t>(q + 1);
    Signs c(n, std::vector<int>(n, 0));
    for (std::size_t i = 1; i < n; ++i) {
        c[0][i] = 1;
        c[i][0] = below;
        for (std::size_t j = 1; j < n; ++j) c[i][j] = character[static_cast<std::size_t>((static_cast<std::int64_t>(j) - static_cast<std::int64_t>(i) + q) % q)];
    }
    return c;
}

// A Hadamard matrix of this very order by Paley (1933), or nothing.
std::optional<Signs> core(std::int64_t n) {
    if (n == 1) return Signs{{1}};
    if (is_prime(n - 1) && (n - 1) % 4 == 3) {
        Signs h = conference(n - 1, -1);
        for (std::size_t i = 0; i < h.size(); ++i) h[i][i] += 1;
        return h;
    }
    const std::int64_t q = n / 2 - 1;
    if (n % 4 != 0 || !is_prime(q) || q % 4 != 1) return std::nullopt;
    const Signs c = conference(q, 1);
    Signs h(static_cast<std::size_t>(n), std::vector<int>(static_cast<std::size_t>(n)));
    constexpr int on[2][2] = {{1, 1}, {1, -1}}, diagonal[2][2] = {{1, -1}, {-1, -1}};
    for (std::size_t i = 0; i < h.size(); ++i)
        for (std::size_t j = 0; j < h.size(); ++j) h[i][j] = i / 2 == j / 2 ? diagonal[i % 2][j % 2] : c[i / 2][j / 2] * on[i % 2][j % 2];
    return h;
}

}  // namespace

std::optional<std::vector<float>> hadamard_matrix(std::int64_t n) {
    std::int64_t power = 1;
    while (n % (2 * power) == 0) power *= 2;
    std::optional<Signs> found;
    for (; power >= 1 && !(found = core(n / power)); power /= 2) {
    }
    if (!found) return std::nullopt;
    const std::int64_t m = n / power;
    std::vector<float> h(static_cast<std::size_t>(n * n));
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < n; ++j) {
            const bool odd = __builtin_parityll(static_cast<unsigned long long>((i / m) & (j / m)));
            h[static_cast<std::size_t>(i * n + j)] = static_cast<float>((*found)[static_cast<std::size_t>(i % m)][static_cast<std::size_t>(j % m)] * (odd ? -1 : 1));
        }
    return h;
}

Result<Orthogonal> random_orthogonal(std::int64_t n, std::uint64_t seed) {
    Rng rng(seed);
    if (auto h = hadamard_matrix(n)) {
        const double length = std::sqrt(static_cast<double>(n));
        for (std::int64_t i = 0; i < n; ++i) {
            const float factor = static_cast<float>((rng.next() >> 63 ? 1.0 : -1.0) / length);
            for (std::int64_t j = 0; j < n; ++j) (*h)[static_cast<std::size_t>(i * n + j)] *= factor;
        }
        return Orthogonal{std::move(*h), "hadamard"};
    }
    // A = Q R with R the Cholesky factor of A^T A; once more, because the first loses what A's condition costs.
    std::vector<double> q(static_cast<std::size_t>(n * n)), gram(q.size());  // q holds Q^T
    for (double& entry : q) entry = static_cast<double>(rng.normal());
    for (int round = 0; round < 2; ++round) {
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t j = i; j < n; ++j) {
                double sum = 0;
                for (std::int64_t k = 0; k < n; ++k) sum += q[static_cast<std::size_t>(i * n + k)] * q[static_cast<std::size_t>(j * n + k)];
                gram[static_cast<std::size_t>(i * n + j)] = gram[static_cast<std::size_t>(j * n + i)] = sum;
            }
        if (!cholesky_upper(gram.data(), n)) return runtime_error("a random matrix of order " + std::to_string(n) + " is singular; take another --seed");
        solve_upper_transposed(gram.data(), n, q.data(), n);
    }
    return Orthogonal{std::vector<float>(q.begin(), q.end()), "random"};
}

}  // namespace skiff
