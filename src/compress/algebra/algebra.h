// Dense linear algebra that methods need, by OpenBLAS. All matrices are row-major. Each call runs on the thread that makes it and gives the same bits
// whoever else is calling: what goes over several threads is cut by the caller into shares that do not depend on their number.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"

namespace skiff {

// Opens OpenBLAS; an error that says what to install where it cannot be opened. Everything below is a bug to call then.
Status algebra_available();

// c = factor * op(a) * op(b) + keep * c, with op(a) (m, k), op(b) (k, n), c (m, n). The strides are those of the matrices as stored.
struct Product {
    enum class As : std::uint8_t { stored, transposed };
    std::int64_t m, n, k;
    const float* a;
    std::int64_t a_stride;
    As a_as = As::stored;
    const float* b;
    std::int64_t b_stride;
    As b_as = As::stored;
    float* c;
    std::int64_t c_stride;
    float factor = 1, keep = 0;
};
void multiply(const Product& product);
// The same, cut into tiles of c that the pool's threads share.
void multiply(const Product& product, ThreadPool& pool);

// gram += x^T x, upper triangle in whole tiles; mirror_upper() fills the rest. // x: (n_tokens, n) f32; gram: (n, n) f32
void add_gram(const float* x, std::int64_t n_tokens, std::int64_t n, float* gram, ThreadPool& pool);
void mirror_upper(float* matrix, std::int64_t n);

// In place, of a symmetric matrix of which the upper triangle is read. False: it is not positive definite (the matrix is spoilt).
bool cholesky_upper(double* matrix, std::int64_t n);  // U of matrix = U^T U; below the diagonal: zeros
bool invert_positive(double* matrix, std::int64_t n);  // the inverse, both triangles
void solve_upper_transposed(const double* upper, std::int64_t n, double* x, std::int64_t n_right);  // U^T y = x in place // x: (n, n_right) f64
void solve_upper(const double* upper, std::int64_t n, double* x, std::int64_t n_right);             // U y = x in place // x: (n, n_right) f64

// a = u * diag(s) * vt, thin, singular values descending. // a: (m, n) f64; u: (m, k), s: (k), vt: (k, n), k = min(m, n)
struct Svd {
    std::vector<double> u, s, vt;
};
Result<Svd> singular_values(std::vector<double> a, std::int64_t m, std::int64_t n);

// Of a symmetric matrix: values descending, the vectors in the rows of `vectors`. // (n), (n, n) f64
struct Eigen {
    std::vector<double> values, vectors;
};
Result<Eigen> symmetric_eigen(std::vector<double> matrix, std::int64_t n);

}  // namespace skiff
