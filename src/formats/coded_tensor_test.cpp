#include "formats/coded_tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "base/rng.h"
#include "tensor/weight.h"

namespace skiff {
namespace {

std::vector<std::byte> random_bytes(std::size_t n, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<std::byte> bytes(n);
    for (std::byte& each : bytes) each = static_cast<std::byte>(rng.next());
    return bytes;
}

// Bell-shaped floats of a type, or codes of so many bits with a bell-shaped histogram in a dense stream.
std::vector<std::byte> bell_floats(DType dtype, std::int64_t n, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<float> values(static_cast<std::size_t>(n));
    for (float& value : values) value = 0.02f * (rng.uniform() + rng.uniform() + rng.uniform() + rng.uniform() - 2);
    std::vector<std::byte> bytes(static_cast<std::size_t>(*dtype_bytes(dtype, n)));
    dtype_info(dtype).from_float(values.data(), n, bytes.data());
    return bytes;
}
std::vector<std::byte> bell_codes(int bits, std::int64_t n, std::uint64_t seed) {
    Rng rng(seed);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(n));
    for (auto& code : codes) code = static_cast<std::uint8_t>((rng.uniform() + rng.uniform() + rng.uniform() + rng.uniform()) / 4 * static_cast<float>(1 << bits));
    std::vector<std::byte> bytes(static_cast<std::size_t>(packed_row_bytes(bits, n)));
    pack_codes(codes.data(), bits, n, bytes.data());
    return bytes;
}

TensorView view_of(DType dtype, Shape shape, const std::vector<std::byte>& bytes) { return {dtype, std::move(shape), bytes}; }

std::optional<std::vector<std::byte>> encoded(const TensorView& view, int n_threads = 1) {
    ThreadPool pool(n_threads);
    return encode_tensor(view, pool);
}

void expect_round_trip(const TensorView& view, const std::vector<std::byte>& code) {
    auto parsed = parse_coded_tensor(code);
    ASSERT_TRUE(parsed.ok()) << parsed.error().to_string();
    EXPECT_EQ(parsed->dtype, view.dtype);
    EXPECT_EQ(parsed->shape, view.shape);
    ASSERT_EQ(parsed->plain_bytes, view.data.size());
    for (const int n_threads : {1, 3}) {
        std::vector<std::byte> bytes(view.data.size(), std::byte{0x5a});
        const auto status = decode_tensor(*parsed, bytes, n_threads);
        ASSERT_TRUE(status.ok()) << status.error().to_string();
        EXPECT_EQ(std::memcmp(bytes.data(), view.data.data(), bytes.size()), 0);
    }
}

// Every form gives back every byte, for sizes around its groups and blocks.
TEST(BytePlanes, JoinUndoesSplit) {
    std::vector<std::byte> room(max_planes * (plane_symbols + plane_padding));
    std::byte* planes[max_planes];
    for (std::size_t p = 0; p < max_planes; ++p) planes[p] = room.data() + p * (plane_symbols + plane_padding);
    for (const PlaneForm& form : plane_forms()) {
        EXPECT_EQ(find_plane_form(form.id), &form);
        const std::size_t block = form.block_bytes(), unit = form.whole_bytes();
        EXPECT_EQ(form.n_symbols(block), plane_symbols) << form.name;
        for (std::size_t n : {unit, 2 * unit, 3 * unit, 8 * unit, 12 * unit, 20 * unit, 100 * unit, 1012 * unit, block - unit, block}) {
            const auto source = random_bytes(n, n);
            std::fill(room.begin(), room.end(), std::byte{0xff});
            form.split(source.data(), n, planes);
            // Exactly what join may read, so that a sanitizer sees more.
            std::vector<std::vector<std::byte>> exact;
            const std::byte* read[max_planes] = {};
            for (std::size_t p = 0; p < static_cast<std::size_t>(form.n_planes); ++p) read[p] = exact.emplace_back(planes[p], planes[p] + form.n_symbols(n)).data();
            std::vector<std::byte> target(n + 8, std::byte{0x77});
            form.join(read, n, target.data());
            EXPECT_EQ(std::memcmp(target.data(), source.data(), n), 0) << form.name << " of " << n;
            for (std::size_t i = n; i < n + 8; ++i) EXPECT_EQ(target[i], std::byte{0x77}) << form.name << " of " << n << " wrote behind its end";
        }
    }
}

// The first plane of floats is their exponent alone.
TEST(BytePlanes, TheFirstPlaneOfFloatsIsTheirExponent) {
    const std::uint16_t values[] = {0x3f80, 0xbf80, 0x0000, 0x7f80, 0x4049};  // 1, -1, 0, infinity, pi in BF16
    std::byte first[8], second[8];
    std::byte* planes[] = {first, second};
    find_plane_form(1)->split(reinterpret_cast<const std::byte*>(values), sizeof values, planes);
    const int exponents[] = {127, 127, 0, 255, 128}, others[] = {0, 1, 0, 0, 0x49 << 1};
    for (int i = 0; i < 5; ++i) {
        EXPECT_EQ(std::to_integer<int>(first[i]), exponents[i]);
        EXPECT_EQ(std::to_integer<int>(second[i]), others[i]);
    }
}

TEST(CodedTensor, EveryTypeComesBackToTheBit) {
    int n_coded = 0;
    for (const DTypeInfo& info : dtype_table()) {
        for (const std::int64_t n : {120, 4096, 5000, 300'000}) {
            const auto size = dtype_bytes(info.dtype, n);
            if (!size) continue;
            // Bytes of few values, which every type can be made smaller of, and noise, which none can.
            auto bytes = random_bytes(static_cast<std::size_t>(*size), static_cast<std::uint64_t>(n));
            EXPECT_FALSE(encoded(view_of(info.dtype, {n}, bytes))) << info.name << ": noise was coded";
            for (std::byte& each : bytes) each &= std::byte{0x13};
            const auto view = view_of(info.dtype, {n / 4, 4}, bytes);
            const auto code = encoded(view);
            EXPECT_EQ(code.has_value(), *size >= 4096) << info.name << " of " << n;
            if (!code) continue;
            ++n_coded;
            EXPECT_LT(code->size(), bytes.size());
            EXPECT_TRUE(code == encoded(view, 3)) << "other bytes with more threads";
            expect_round_trip(view, *code);
        }
    }
    EXPECT_GE(n_coded, 30);
}

double entropy_bits(const std::vector<int>& symbols) {
    std::map<int, double> counts;
    for (const int symbol : symbols) ++counts[symbol];
    double bits = 0;
    for (const auto& [symbol, count] : counts) bits -= count * std::log2(count / static_cast<double>(symbols.size()));
    return bits / static_cast<double>(symbols.size());
}

// What coding is for: floats cost their mantissas, signs and the entropy of their exponents; codes cost their entropy. No code costs less; a Huffman code
// costs a little more.
TEST(CodedTensor, FloatsAndCodesBecomeAsSmallAsTheirEntropySays) {
    struct Case {
        DType dtype;
        int bits;        // of a float's exponent, or of a code
        int form;        // -1: any
    };
    const Case cases[] = {{DType::bf16, 8, 1}, {DType::f32, 8, 2}, {DType::i32, 2, -1}, {DType::i32, 3, 4}, {DType::i32, 4, 0}, {DType::i32, 5, 3}, {DType::i32, 6, 4}, {DType::i32, 7, 5}, {DType::i32, 8, 0}};
    const std::int64_t n = 960'000;
    for (const Case& each : cases) {
        const bool is_code = each.dtype == DType::i32;
        const int width = is_code ? each.bits : dtype_info(each.dtype).bits;
        const auto bytes = is_code ? bell_codes(each.bits, n, 2) : bell_floats(each.dtype, n, 1);
        std::vector<int> symbols(static_cast<std::size_t>(n));
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(n));
        if (is_code) unpack_codes(bytes.data(), each.bits, n, codes.data());
        for (std::size_t i = 0; i < symbols.size(); ++i) {
            const std::byte* last = bytes.data() + (i + 1) * static_cast<std::size_t>(width) / 8;
            symbols[i] = is_code ? codes[i] : std::to_integer<int>(last[-1] & std::byte{0x7f}) * 2 + std::to_integer<int>(last[-2] >> 7);
        }
        const double ideal = (entropy_bits(symbols) + (is_code ? 0 : width - each.bits)) / width;
        const std::string name = std::string(dtype_info(each.dtype).name) + " of " + std::to_string(each.bits);
        const TensorView view = view_of(each.dtype, {static_cast<std::int64_t>(bytes.size()) * 8 / dtype_info(each.dtype).bits}, bytes);
        const auto code = encoded(view);
        ASSERT_TRUE(code) << name;
        const double share = static_cast<double>(code->size()) / static_cast<double>(bytes.size());
        EXPECT_GE(share, ideal - 0.001) << name;
        EXPECT_LE(share, ideal + 0.02) << name;
        EXPECT_LE(share, 0.95) << name;
        expect_round_trip(view, *code);
        auto parsed = parse_coded_tensor(*code);
        ASSERT_TRUE(parsed.ok());
        EXPECT_TRUE(each.form < 0 || parsed->form->id == each.form) << name << " as " << parsed->form->name;
    }
}

// Zeros would become so small that a tiny file could ask for all memory: they stay as they are.
TEST(CodedTensor, WhatWouldExpandTooMuchIsNotCoded) {
    const std::vector<std::byte> zeros(4'000'000);
    EXPECT_FALSE(encoded(view_of(DType::f32, {1'000'000}, zeros)));
    EXPECT_FALSE(encoded(view_of(DType::f32, {0, 4}, {})));
    EXPECT_FALSE(encoded(view_of(DType::f32, {}, std::vector<std::byte>(4))));
}

class CodedBytes : public ::testing::Test {
protected:
    const std::vector<std::byte> bytes_ = bell_floats(DType::bf16, 300'000, 9);
    const std::vector<std::byte> code_ = *encoded(view_of(DType::bf16, {3000, 100}, bytes_));
    static constexpr std::size_t shape_at = 32, blocks_at = 48;

    template <class T>
    std::vector<std::byte> with(std::size_t at, T value) const {
        auto changed = code_;
        std::memcpy(changed.data() + at, &value, sizeof value);
        return changed;
    }
    static std::string refusal(const std::vector<std::byte>& code) {
        auto parsed = parse_coded_tensor(code);
        if (!parsed.ok()) return parsed.error().to_string();
        std::vector<std::byte> target(static_cast<std::size_t>(parsed->plain_bytes));
        auto status = decode_tensor(*parsed, target, 1);
        return status.ok() ? "" : status.error().to_string();
    }
    static void expect_refused(const std::vector<std::byte>& code, const std::string& words) {
        const std::string said = refusal(code);
        EXPECT_FALSE(said.empty()) << "accepted";
        EXPECT_NE(said.find(words), std::string::npos) << words << ": " << said;
    }
};

TEST_F(CodedBytes, WhatIsWrongIsNamed) {
    ASSERT_EQ(refusal(code_), "");
    expect_refused({}, "truncated");
    expect_refused(with<char>(0, 'S'), "does not begin as a coded tensor");
    expect_refused(with<char>(8, 'Q'), "its type is none");
    expect_refused(with<std::uint8_t>(24, 9), "9 dimensions");
    expect_refused(with<std::uint8_t>(25, 77), "form 77");
    expect_refused(with<std::uint8_t>(25, 2), "blocks take");           // planes of floats: another list of blocks
    expect_refused(with<std::uint8_t>(28, 1), "none that is known");    // a byte that must be zero
    expect_refused(with<std::int64_t>(shape_at, -1), "negative");
    expect_refused(with<std::int64_t>(shape_at, 0), "cannot hold");
    expect_refused(with<std::int64_t>(shape_at, std::int64_t{1} << 40), "cannot hold");
    expect_refused(with<std::int64_t>(shape_at, std::int64_t{1} << 62), "cannot hold");
    expect_refused(with<std::int64_t>(shape_at, 30'000), "blocks take");  // fits the rule of expansion, but not its blocks
    expect_refused(with<std::uint32_t>(blocks_at, 0), "block 0 of 3 is damaged");
    expect_refused(with<std::uint32_t>(blocks_at + 4, 0xffffffff), "blocks take");
    expect_refused(with<std::uint8_t>(code_.size() - 1, std::to_integer<std::uint8_t>(code_.back()) ^ 1), "block 2 of 3 is damaged");
    auto shorter = code_;
    shorter.pop_back();
    expect_refused(shorter, "blocks take");
    expect_refused({code_.begin(), code_.begin() + 60}, "cannot hold");
}

// Any damage is found, and nothing outside of the target is written (a sanitizer build sees that).
TEST_F(CodedBytes, DamageIsAlwaysFound) {
    Rng rng(3);
    int n_found = 0;
    for (int turn = 0; turn < 3000; ++turn) {
        auto changed = code_;
        const bool in_head = turn % 3 == 0;
        for (std::uint64_t n = 1 + rng.next() % 4; n > 0; --n) {
            const std::size_t at = static_cast<std::size_t>(rng.next() % (in_head ? 120 : changed.size()));
            changed[at] ^= static_cast<std::byte>(1 + rng.next() % 255);
        }
        if (turn % 7 == 0) changed.resize(static_cast<std::size_t>(rng.next() % changed.size()));
        auto parsed = parse_coded_tensor(changed);
        if (!parsed.ok()) {
            ++n_found;
            continue;
        }
        EXPECT_LE(parsed->plain_bytes, changed.size() * max_expansion);
        std::vector<std::byte> target(static_cast<std::size_t>(parsed->plain_bytes));
        if (!decode_tensor(*parsed, target, 1).ok()) ++n_found;
        // A change of the shape or the type alone leaves the bytes what they are.
        else EXPECT_TRUE(target == bytes_) << "turn " << turn;
    }
    EXPECT_GE(n_found, 2500);
}

}  // namespace
}  // namespace skiff
