// One matrix of a model, rounded to several schemes: bits per weight and squared error, with and without the search for scales.
//   example_03_round_a_weight models/pocket model.layers.0.mlp.down_proj.weight
#include <cstdio>

#include "model/checkpoint.h"
#include "tensor/weight.h"

namespace {

// Squared error of `rounded` over the sum of squares of `original`.
double relative_error(const skiff::Weight& original, const skiff::Weight& rounded) {
    const auto n = static_cast<std::size_t>(original.n_columns());
    std::vector<float> a(n), b(n);
    double error = 0, square = 0;
    for (std::int64_t row = 0; row < original.n_rows(); ++row) {
        original.row(row, a.data());
        rounded.row(row, b.data());
        for (std::size_t i = 0; i < n; ++i) {
            error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
            square += static_cast<double>(a[i]) * a[i];
        }
    }
    return error / square;
}

skiff::Status show(const std::string& model, const std::string& key) {
    SKIFF_TRY(auto checkpoint, skiff::Checkpoint::open(model));
    SKIFF_TRY(auto weight, checkpoint.weights->load(key));
    std::printf("%s %s %s\n%-10s %12s %12s %12s\n", key.c_str(), skiff::shape_text(weight.shape).c_str(), weight.encoding_name().c_str(), "scheme", "bits/weight", "min-max", "search");
    for (const char* name : {"w8", "w4g32", "w4g32a", "w4g128", "w4g128a", "w3g32a", "w2g32a"}) {
        SKIFF_TRY(auto scheme, skiff::parse_scheme(name));
        SKIFF_TRY(auto plain, skiff::encode_nearest(weight, scheme, skiff::ScaleRule::min_max));
        SKIFF_TRY(auto searched, skiff::encode_nearest(weight, scheme, skiff::ScaleRule::search));
        std::printf("%-10s %12.2f %12.6f %12.6f\n", name, scheme.bits_per_weight(weight.n_columns()), relative_error(weight, plain), relative_error(weight, searched));
    }
    return {};
}

}  // namespace

int main(int argc, char** argv) {
    skiff::Status status = show(argc > 1 ? argv[1] : "models/pocket", argc > 2 ? argv[2] : "model.layers.0.mlp.down_proj.weight");
    if (status.ok()) return 0;
    std::fprintf(stderr, "%s\n", status.error().to_string().c_str());
    return skiff::exit_code(status.error().code);
}
