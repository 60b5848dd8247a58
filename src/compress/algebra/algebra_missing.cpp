// For builds without a BLAS: methods that need one say so before they begin.
#include <cstdlib>

#include "compress/algebra/algebra.h"

namespace skiff {

Status algebra_available() { return unsupported("this program was built without OpenBLAS, which the method computes with; install libopenblas-openmp-dev (or OpenBLAS of another kind) and build again"); }

void multiply(const Product&) { std::abort(); }
void multiply(const Product&, ThreadPool&) { std::abort(); }
void add_gram(const float*, std::int64_t, std::int64_t, float*, ThreadPool&) { std::abort(); }
void mirror_upper(float*, std::int64_t) { std::abort(); }
bool cholesky_upper(double*, std::int64_t) { std::abort(); }
bool invert_positive(double*, std::int64_t) { std::abort(); }
void solve_upper_transposed(const double*, std::int64_t, double*, std::int64_t) { std::abort(); }
void solve_upper(const double*, std::int64_t, double*, std::int64_t) { std::abort(); }
Result<Svd> singular_values(std::vector<double>, std::int64_t, std::int64_t) { return algebra_available().take_error(); }
Result<Eigen> symmetric_eigen(std::vector<double>, std::int64_t) { return algebra_available().take_error(); }

}  // namespace skiff
