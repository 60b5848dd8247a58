// Linear kernel in float over hashed weights of plain numbers (bank_rows): rows of the bank are read once for all rows of the weight that are made of them.
//
// An output is the sum of eight lanes; lane j takes the columns j, j+8, j+16 and j+24 of a block, block after block in the order of the bank, one fused
// multiply-add each, and the lanes are added by a fixed tree: the same bits for any number of tokens, rows or threads. A token lies in this thread's scratch
// twice, as it is and negated, in whole blocks: so a block with its sign is an address.
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/hash_tiles.h"

namespace skiff {
namespace {

using Byte = std::uint8_t;

constexpr std::int64_t tokens_at_once = 16;      // 16 x 2 x 2048 floats are 256 KiB
constexpr int bank_rows_at_once = 4, users_at_once = 2;  // 8 sums, 4 weights and 1 activation in 16 registers
constexpr std::int64_t most_users = 8;           // whose places are worked out together

enum class Number { f32, f16, bf16 };

template <Number type>
inline __m256 load_numbers(const Byte* p) {
    if constexpr (type == Number::f32) return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
    if constexpr (type == Number::f16) return f16_to_f32(p);
    return bf16_to_f32(p);
}

inline void write_output(const LinearArgs& args, std::int64_t row, std::int64_t token, float value) {
    if (args.bias != nullptr) value += args.bias[row];
    float* y = args.y + token * args.y_stride + row;
    *y = args.write == LinearArgs::Write::add ? *y + value : value;
}

// Four rows of the bank times U rows of blocks of one token. places: of each user, n_blocks floats into `x` // sums: (U, 4)
template <Number type, int U>
inline void multiply(const Byte* rows, std::int64_t row_bytes, std::int64_t n_blocks, const float* x, const std::int32_t* const (&places)[U], float (&sums)[U][bank_rows_at_once]) {
    constexpr std::int64_t size = type == Number::f32 ? 4 : 2;
    __m256 sum[U][bank_rows_at_once];
    SKIFF_UNROLL
    for (int u = 0; u < U; ++u) {
        SKIFF_UNROLL
        for (int r = 0; r < bank_rows_at_once; ++r) sum[u][r] = _mm256_setzero_ps();
    }
    for (std::int64_t block = 0; block < n_blocks; ++block) {
        SKIFF_UNROLL
        for (std::int64_t v = 0; v < tile_block; v += 8) {
            __m256 w[bank_rows_at_once];
            SKIFF_UNROLL
            for (int r = 0; r < bank_rows_at_once; ++r) w[r] = load_numbers<type>(rows + r * row_bytes + (block * tile_block + v) * size);
            SKIFF_UNROLL
            for (int u = 0; u < U; ++u) {
                const __m256 a = _mm256_loadu_ps(x + places[u][block] + v);
                SKIFF_UNROLL
                for (int r = 0; r < bank_rows_at_once; ++r) sum[u][r] = _mm256_fmadd_ps(w[r], a, sum[u][r]);
            }
        }
    }
    SKIFF_UNROLL
    for (int u = 0; u < U; ++u) {
        SKIFF_UNROLL
        for (int r = 0; r < bank_rows_at_once; ++r) sums[u][r] = sum_lanes(sum[u][r]);
    }
}

struct Bank {
    const Byte* data;
    HashTiles parts;
    std::int64_t padded, row_bytes;
};

// Tiles first .. first + n_tiles of the weight, all of one tile of the bank.
template <Number type>
void tiles_of_bank(const LinearArgs& args, Range rows, const Bank& bank, std::int64_t first, std::int64_t n_tiles, const float* x, std::int64_t token, std::int64_t n_tokens, std::int32_t* places) {
    const std::int64_t n_blocks = bank.parts.n_blocks;
    for (std::int64_t i = 0; i < n_tiles; ++i) {
        const Byte* turns = bank.data + bank.parts.turns_at + (first + i) * bank.parts.turn_bytes;
        const auto* of_block = reinterpret_cast<const std::uint16_t*>(turns);
        for (std::int64_t block = 0; block < n_blocks; ++block) places[i * n_blocks + block] = static_cast<std::int32_t>(of_block[block] * tile_block + (turns[n_blocks * 2 + block] != 0 ? bank.padded : 0));
    }
    const Byte* tile = bank.data + bank.parts.bank_at + reinterpret_cast<const std::uint32_t*>(bank.data)[first] * tile_rows * bank.row_bytes;
    const auto write = [&](std::int64_t user, std::int64_t lane, std::int64_t t, const float (&sums)[bank_rows_at_once]) {
        for (int r = 0; r < bank_rows_at_once; ++r)
            if (const std::int64_t row = (first + user) * tile_rows + lane + r; row < rows.end) write_output(args, row, token + t, sums[r]);
    };
    for (std::int64_t lane = 0; lane < tile_rows; lane += bank_rows_at_once) {
        const Byte* of_lane = tile + lane * bank.row_bytes;
        for (std::int64_t t = 0; t < n_tokens; ++t) {
            const float* of_token = x + t * 2 * bank.padded;
            std::int64_t i = 0;
            for (; i + users_at_once <= n_tiles; i += users_at_once) {
                float sums[users_at_once][bank_rows_at_once];
                multiply<type, users_at_once>(of_lane, bank.row_bytes, n_blocks, of_token, {places + i * n_blocks, places + (i + 1) * n_blocks}, sums);
                for (int u = 0; u < users_at_once; ++u) write(i + u, lane, t, sums[u]);
            }
            if (i == n_tiles) continue;
            float sums[1][bank_rows_at_once];
            multiply<type, 1>(of_lane, bank.row_bytes, n_blocks, of_token, {places + i * n_blocks}, sums);
            write(i, lane, t, sums[0]);
        }
    }
}

// A token in whole blocks, and its negative behind it.
void lay_out(const float* x, std::int64_t n, std::int64_t padded, float* target) {
    for (std::int64_t c = 0; c < n; ++c) target[c] = x[c], target[padded + c] = -x[c];
    for (std::int64_t c = n; c < padded; ++c) target[c] = target[padded + c] = 0;
}

template <Number type>
void linear(const LinearArgs& args, Range rows) {
    const PackedWeight& weight = *args.weight;
    const std::int64_t n = weight.n_columns, n_blocks = (n + tile_block - 1) / tile_block, padded = n_blocks * tile_block;
    const Bank bank = {reinterpret_cast<const Byte*>(weight.data), hash_tiles(weight.n_rows, n_blocks), padded, padded * (type == Number::f32 ? 4 : 2)};
    const auto* banks = reinterpret_cast<const std::uint32_t*>(bank.data);
    float* x = thread_scratch(tokens_at_once * 2 * padded + most_users * n_blocks);
    auto* places = reinterpret_cast<std::int32_t*>(x + tokens_at_once * 2 * padded);
    for (std::int64_t token = 0; token < args.n_tokens; token += tokens_at_once) {
        const std::int64_t n_tokens = args.n_tokens - token < tokens_at_once ? args.n_tokens - token : tokens_at_once;
        for (std::int64_t t = 0; t < n_tokens; ++t) lay_out(args.x.f32 + (token + t) * n, n, padded, x + t * 2 * padded);
        for (std::int64_t row = rows.begin, n_tiles = 0; row < rows.end; row += n_tiles * tile_rows) {
            const std::int64_t first = row / tile_rows, left = (rows.end - row + tile_rows - 1) / tile_rows;
            n_tiles = 1;
            while (n_tiles < left && n_tiles < most_users && banks[first + n_tiles] == banks[first]) ++n_tiles;
            tiles_of_bank<type>(args, rows, bank, first, n_tiles, x, token, n_tokens, places);
        }
    }
}

}  // namespace

void linear_bank_avx2(const LinearArgs& args, Range rows) {
    switch (args.weight->dtype) {
        case DType::f16: return linear<Number::f16>(args, rows);
        case DType::bf16: return linear<Number::bf16>(args, rows);
        default: return linear<Number::f32>(args, rows);
    }
}

}  // namespace skiff
