// The one file that knows of BLAS and LAPACK. OpenBLAS is opened by name when a method first computes with it: it takes address space and time at its start,
// which a program that only runs models should not pay. LAPACK counts columns first: an upper triangle here is a lower one there.
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "compress/algebra/algebra.h"

namespace skiff {
namespace {

constexpr std::int64_t tile = 256;

// The numbers of cblas.h, and the functions with its and LAPACK's interfaces (32-bit sizes).
enum : int { row_major = 101, no_transpose = 111, transpose = 112, upper_triangle = 121, non_unit = 131, left_side = 141 };

struct Blas {
    void (*set_num_threads)(int n_threads);
    void (*sgemm)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a, int lda, const float* b, int ldb, float beta, float* c, int ldc);
    void (*dtrsm)(int order, int side, int uplo, int trans_a, int diag, int m, int n, double alpha, const double* a, int lda, double* b, int ldb);
    void (*dpotrf)(const char* uplo, const int* n, double* a, const int* lda, int* info);
    void (*dpotri)(const char* uplo, const int* n, double* a, const int* lda, int* info);
    void (*dgesdd)(const char* jobz, const int* m, const int* n, double* a, const int* lda, double* s, double* u, const int* ldu, double* vt, const int* ldvt, double* work, const int* lwork, int* iwork, int* info);
    void (*dsyevd)(const char* jobz, const char* uplo, const int* n, double* a, const int* lda, double* w, double* work, const int* lwork, int* iwork, const int* liwork, int* info);
};

struct OpenedBlas {
    Blas functions{};
    std::string problem;  // empty: every function was found
};

template <class Function>
void find(void* library, const char* name, Function& function, std::string& problem) {
    function = reinterpret_cast<Function>(::dlsym(library, name));
    if (!function && problem.empty()) problem = std::string("it has no function ") + name;
}

OpenedBlas open_blas() {
    OpenedBlas opened;
    void* library = ::dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);  // stays loaded: it may keep threads
    if (!library) {
        const char* why = ::dlerror();
        opened.problem = why ? why : "it was not found";
        return opened;
    }
    Blas& f = opened.functions;
    find(library, "openblas_set_num_threads", f.set_num_threads, opened.problem);
    find(library, "cblas_sgemm", f.sgemm, opened.problem);
    find(library, "cblas_dtrsm", f.dtrsm, opened.problem);
    find(library, "dpotrf_", f.dpotrf, opened.problem);
    find(library, "dpotri_", f.dpotri, opened.problem);
    find(library, "dgesdd_", f.dgesdd, opened.problem);
    find(library, "dsyevd_", f.dsyevd, opened.problem);
    return opened;
}

const OpenedBlas& opened_blas() {
    static const OpenedBlas opened = open_blas();
    return opened;
}

// OpenBLAS must not start threads of its own beside ours. Built on OpenMP, it keeps that number for each calling thread.
const Blas& one_thread_per_call() {
    const OpenedBlas& opened = opened_blas();
    if (!opened.problem.empty()) std::abort();  // the caller did not ask algebra_available()
    thread_local const bool done = [&] {
        opened.functions.set_num_threads(1);
        return true;
    }();
    (void)done;
    return opened.functions;
}

int narrow(std::int64_t size) { return static_cast<int>(size); }

}  // namespace

Status algebra_available() {
    const std::string& problem = opened_blas().problem;
    if (problem.empty()) return {};
    return unsupported("OpenBLAS, which the method computes with, could not be opened (" + problem + "); install the package libopenblas0-openmp, or OpenBLAS of another kind");
}

void multiply(const Product& p) {
    const Blas& blas = one_thread_per_call();
    if (p.m == 0 || p.n == 0) return;
    const auto form = [](Product::As as) { return as == Product::As::stored ? no_transpose : transpose; };
    blas.sgemm(row_major, form(p.a_as), form(p.b_as), narrow(p.m), narrow(p.n), narrow(p.k), p.factor, p.a, narrow(p.a_stride), p.b, narrow(p.b_stride), p.keep, p.c, narrow(p.c_stride));
}

void multiply(const Product& p, ThreadPool& pool) {
    const std::int64_t across = (p.n + tile - 1) / tile, n_tiles = (p.m + tile - 1) / tile * across;
    pool.run([&](int thread) {
        for (std::int64_t i = thread; i < n_tiles; i += pool.n_threads()) {
            const std::int64_t row = i / across * tile, column = i % across * tile;
            Product part = p;
            part.m = std::min(tile, p.m - row);
            part.n = std::min(tile, p.n - column);
            part.a += p.a_as == Product::As::stored ? row * p.a_stride : row;
            part.b += p.b_as == Product::As::stored ? column : column * p.b_stride;
            part.c += row * p.c_stride + column;
            multiply(part);
        }
    });
}

void add_gram(const float* x, std::int64_t n_tokens, std::int64_t n, float* gram, ThreadPool& pool) {
    const std::int64_t across = (n + tile - 1) / tile;
    std::vector<std::int64_t> upper;  // tiles on and above the diagonal
    for (std::int64_t i = 0; i < across * across; ++i)
        if (i % across >= i / across) upper.push_back(i);
    pool.run([&](int thread) {
        for (std::size_t i = static_cast<std::size_t>(thread); i < upper.size(); i += static_cast<std::size_t>(pool.n_threads())) {
            const std::int64_t row = upper[i] / across * tile, column = upper[i] % across * tile;
            multiply({.m = std::min(tile, n - row), .n = std::min(tile, n - column), .k = n_tokens, .a = x + row, .a_stride = n, .a_as = Product::As::transposed, .b = x + column,
                      .b_stride = n, .c = gram + row * n + column, .c_stride = n, .keep = 1});
        }
    });
}

void mirror_upper(float* matrix, std::int64_t n) {
    constexpr std::int64_t block = 64;
    for (std::int64_t at = 0; at < n; at += block)
        for (std::int64_t row = 0; row < std::min(n, at + block); ++row)
            for (std::int64_t column = std::max(at, row + 1); column < std::min(n, at + block); ++column) matrix[column * n + row] = matrix[row * n + column];
}

bool cholesky_upper(double* matrix, std::int64_t n) {
    const Blas& blas = one_thread_per_call();
    const int size = static_cast<int>(n);
    int info = 0;
    blas.dpotrf("L", &size, matrix, &size, &info);
    for (std::int64_t row = 0; row < n; ++row) std::fill_n(matrix + row * n, row, 0.0);
    return info == 0;
}

bool invert_positive(double* matrix, std::int64_t n) {
    const Blas& blas = one_thread_per_call();
    const int size = static_cast<int>(n);
    int info = 0;
    blas.dpotrf("L", &size, matrix, &size, &info);
    if (info == 0) blas.dpotri("L", &size, matrix, &size, &info);
    for (std::int64_t row = 0; row < n; ++row)
        for (std::int64_t column = row + 1; column < n; ++column) matrix[column * n + row] = matrix[row * n + column];
    return info == 0;
}

void solve_upper_transposed(const double* upper, std::int64_t n, double* x, std::int64_t n_right) {
    one_thread_per_call().dtrsm(row_major, left_side, upper_triangle, transpose, non_unit, narrow(n), narrow(n_right), 1, upper, narrow(n), x, narrow(n_right));
}

void solve_upper(const double* upper, std::int64_t n, double* x, std::int64_t n_right) {
    one_thread_per_call().dtrsm(row_major, left_side, upper_triangle, no_transpose, non_unit, narrow(n), narrow(n_right), 1, upper, narrow(n), x, narrow(n_right));
}

Result<Svd> singular_values(std::vector<double> a, std::int64_t m, std::int64_t n) {
    const Blas& blas = one_thread_per_call();
    // Row-major a is LAPACK's transposed a, (n, m): its left vectors are our vt, its right ones our u.
    const int rows = static_cast<int>(n), columns = static_cast<int>(m), k = std::min(rows, columns);
    Svd svd;
    svd.s.resize(static_cast<std::size_t>(k));
    svd.vt.resize(static_cast<std::size_t>(k) * static_cast<std::size_t>(n));
    svd.u.resize(static_cast<std::size_t>(m) * static_cast<std::size_t>(k));
    std::vector<int> integers(static_cast<std::size_t>(8 * k));
    double wanted = 0;
    int size = -1, info = 0;
    blas.dgesdd("S", &rows, &columns, a.data(), &rows, svd.s.data(), svd.vt.data(), &rows, svd.u.data(), &k, &wanted, &size, integers.data(), &info);
    std::vector<double> work(static_cast<std::size_t>(wanted));
    size = static_cast<int>(work.size());
    blas.dgesdd("S", &rows, &columns, a.data(), &rows, svd.s.data(), svd.vt.data(), &rows, svd.u.data(), &k, work.data(), &size, integers.data(), &info);
    if (info != 0) return runtime_error("the singular values of a matrix of " + std::to_string(m) + " x " + std::to_string(n) + " were not found (dgesdd: " + std::to_string(info) + "); are its numbers finite?");
    return svd;
}

Result<Eigen> symmetric_eigen(std::vector<double> matrix, std::int64_t n) {
    const Blas& blas = one_thread_per_call();
    const int order = static_cast<int>(n);
    std::vector<double> ascending(static_cast<std::size_t>(n));
    double wanted = 0;
    int wanted_integers = 0, size = -1, integer_size = -1, info = 0;
    blas.dsyevd("V", "L", &order, matrix.data(), &order, ascending.data(), &wanted, &size, &wanted_integers, &integer_size, &info);
    std::vector<double> work(static_cast<std::size_t>(wanted));
    std::vector<int> integers(static_cast<std::size_t>(wanted_integers));
    size = static_cast<int>(work.size());
    integer_size = static_cast<int>(integers.size());
    blas.dsyevd("V", "L", &order, matrix.data(), &order, ascending.data(), work.data(), &size, integers.data(), &integer_size, &info);
    if (info != 0) return runtime_error("the eigenvalues of a matrix of order " + std::to_string(n) + " were not found (dsyevd: " + std::to_string(info) + "); are its numbers finite?");
    Eigen eigen;
    for (std::int64_t i = n; i-- > 0;) {  // LAPACK's columns are our rows
        eigen.values.push_back(ascending[static_cast<std::size_t>(i)]);
        eigen.vectors.insert(eigen.vectors.end(), matrix.begin() + i * n, matrix.begin() + (i + 1) * n);
    }
    return eigen;
}

}  // namespace skiff
