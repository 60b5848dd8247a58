#include "formats/coded_tensor.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>

#include "base/checked.h"
#include "base/hash.h"
#include "base/span_reader.h"
#include "formats/byte_coder.h"

namespace skiff {
namespace {

constexpr std::string_view magic = "skiffec1";
constexpr std::size_t dtype_name_bytes = 16, max_rank = 8;
constexpr double least_saving = 0.01;
constexpr std::size_t least_bytes = 4096;  // of a tensor: what norms and biases would save is not worth unpacking them

std::uint32_t check_sum(std::span<const std::byte> bytes) { return static_cast<std::uint32_t>(hash64(bytes)); }

std::size_t block_head_bytes(const PlaneForm& form) { return 4 * (1 + static_cast<std::size_t>(form.n_planes)); }

std::uint32_t u32_at(std::span<const std::byte> bytes, std::size_t index) {
    std::uint32_t value;
    std::memcpy(&value, bytes.data() + 4 * index, 4);
    return value;
}

// Room for the planes of a block of so many bytes or fewer.
class Planes {
public:
    Planes(const PlaneForm& form, std::size_t n_bytes) : stride_(form.n_symbols(std::min(n_bytes, form.block_bytes())) + plane_padding), bytes_(std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(form.n_planes) * stride_)) {
        for (std::size_t p = 0; p < static_cast<std::size_t>(form.n_planes); ++p) planes_[p] = bytes_.get() + p * stride_;
    }
    std::byte* const* data() const { return planes_.data(); }
    std::byte* operator[](std::size_t p) const { return planes_[p]; }

private:
    std::size_t stride_;
    std::unique_ptr<std::byte[]> bytes_;
    std::array<std::byte*, max_planes> planes_{};
};

// A block's head and its planes.
struct CodedBlock {
    std::vector<std::byte> head, planes;
    std::size_t size_bytes() const { return head.size() + planes.size(); }
};

CodedBlock encode_block(const PlaneForm& form, std::span<const std::byte> source, ByteEncoder& encoder, const Planes& planes) {
    CodedBlock block;
    const auto put = [&](std::uint32_t value) {
        const auto bytes = std::as_bytes(std::span(&value, 1));
        block.head.insert(block.head.end(), bytes.begin(), bytes.end());
    };
    put(check_sum(source));
    form.split(source.data(), source.size(), planes.data());
    const std::size_t n = form.n_symbols(source.size());
    for (int p = 0; p < form.n_planes; ++p) {
        const std::span<const std::byte> plane(planes[static_cast<std::size_t>(p)], n);
        const auto code = encoder.encode(plane);
        const auto bytes = code.empty() ? plane : std::span<const std::byte>(code);
        put(static_cast<std::uint32_t>(bytes.size()));
        block.planes.insert(block.planes.end(), bytes.begin(), bytes.end());
    }
    return block;
}

std::span<const std::byte> block_of(std::span<const std::byte> bytes, const PlaneForm& form, std::size_t block) {
    const std::size_t begin = block * form.block_bytes();
    return bytes.subspan(begin, std::min(form.block_bytes(), bytes.size() - begin));
}

// The form in which the beginnings of a few blocks, spread over the tensor, become smallest.
const PlaneForm& choose_form(const TensorView& tensor) {
    constexpr std::size_t n_samples = 4;
    ByteEncoder encoder;
    const PlaneForm* best = find_plane_form(0);  // bytes: fits all
    double least = 2;
    for (const PlaneForm& form : plane_forms()) {
        if (!form.fits(tensor.dtype) || tensor.data.size() % form.whole_bytes() != 0) continue;
        const std::size_t n_blocks = ceil_div(tensor.data.size(), form.block_bytes()), step = std::max<std::size_t>(1, n_blocks / n_samples);
        const Planes planes(form, tensor.data.size());
        std::size_t before = 0, after = 0;
        for (std::size_t block = 0; block < n_blocks; block += step) {
            auto source = block_of(tensor.data, form, block);
            source = source.first(std::min(source.size(), form.block_bytes() / 4));
            before += source.size();
            after += encode_block(form, source, encoder, planes).size_bytes();
        }
        const double share = static_cast<double>(after) / static_cast<double>(before);
        if (share < least) best = &form, least = share;
    }
    return *best;
}

std::vector<std::byte> head_of(const TensorView& tensor, const PlaneForm& form) {
    std::vector<std::byte> head;
    const auto put = [&](std::span<const std::byte> bytes) { head.insert(head.end(), bytes.begin(), bytes.end()); };
    put(std::as_bytes(std::span(magic)));
    const std::string_view name = dtype_info(tensor.dtype).name;
    put(std::as_bytes(std::span(name)));
    head.resize(magic.size() + dtype_name_bytes);
    head.push_back(static_cast<std::byte>(tensor.shape.size()));
    head.push_back(static_cast<std::byte>(form.id));
    head.resize(head.size() + 6);
    put(std::as_bytes(std::span(tensor.shape)));
    return head;
}

Result<DType> parse_dtype(std::string_view name) {
    name = name.substr(0, std::min(name.find('\0'), name.size()));
    const auto dtype = dtype_from_name(name);
    if (!dtype) return corrupt("its type is none that is known");
    return *dtype;
}

}  // namespace

Result<CodedTensor> parse_coded_tensor(std::span<const std::byte> bytes) {
    SpanReader reader(bytes);
    SKIFF_TRY(const auto found, reader.take_string(magic.size(), "the beginning of a coded tensor"));
    if (found != magic) return corrupt("it does not begin as a coded tensor does");
    CodedTensor tensor;
    SKIFF_TRY(const auto type_name, reader.take_string(dtype_name_bytes, "the type"));
    SKIFF_TRY(tensor.dtype, parse_dtype(type_name));
    SKIFF_TRY(const auto rank, reader.read<std::uint8_t>("the rank"));
    SKIFF_TRY(const auto form, reader.read<std::uint8_t>("the form"));
    SKIFF_TRY(const auto zeros, reader.take(6, "the form"));
    tensor.form = find_plane_form(form);
    if (tensor.form == nullptr || std::any_of(zeros.begin(), zeros.end(), [](std::byte each) { return each != std::byte{0}; }))
        return corrupt("its form " + std::to_string(form) + " is none that is known; a newer skiff may have written it");
    if (rank > max_rank) return corrupt("it has " + std::to_string(rank) + " dimensions; at most " + std::to_string(max_rank) + " are allowed");
    for (int i = 0; i < rank; ++i) {
        SKIFF_TRY(const auto size, reader.read<std::int64_t>("the shape"));
        if (size < 0) return corrupt("a dimension is negative");
        tensor.shape.push_back(size);
    }
    const auto n_elements = checked_product(tensor.shape);
    const auto size = n_elements ? dtype_bytes(tensor.dtype, *n_elements) : std::nullopt;
    const auto allowed = checked_mul<std::uint64_t>(bytes.size(), max_expansion);
    if (!size || *size <= 0 || !allowed || static_cast<std::uint64_t>(*size) > *allowed)
        return corrupt("it claims the shape " + shape_text(tensor.shape) + " of " + std::string(dtype_info(tensor.dtype).name) + ", which its " + std::to_string(bytes.size()) +
                       " bytes cannot hold");
    tensor.plain_bytes = static_cast<std::uint64_t>(*size);
    if (tensor.plain_bytes % tensor.form->whole_bytes() != 0) return corrupt("its form is not for " + std::string(dtype_info(tensor.dtype).name));
    tensor.n_blocks = ceil_div<std::uint64_t>(tensor.plain_bytes, tensor.form->block_bytes());
    SKIFF_TRY(tensor.blocks, reader.take(tensor.n_blocks * block_head_bytes(*tensor.form), "the list of blocks"));
    tensor.payload = bytes.subspan(reader.position());
    return tensor;
}

std::optional<std::vector<std::byte>> encode_tensor(const TensorView& tensor, ThreadPool& pool) {
    if (tensor.data.size() < least_bytes || tensor.shape.size() > max_rank) return std::nullopt;
    const PlaneForm& form = choose_form(tensor);
    std::vector<CodedBlock> blocks(ceil_div(tensor.data.size(), form.block_bytes()));
    std::atomic<std::size_t> next{0};
    pool.run([&](int) {
        ByteEncoder encoder;
        const Planes planes(form, tensor.data.size());
        for (std::size_t block = next++; block < blocks.size(); block = next++) blocks[block] = encode_block(form, block_of(tensor.data, form, block), encoder, planes);
    });
    std::vector<std::byte> bytes = head_of(tensor, form);
    for (const CodedBlock& block : blocks) bytes.insert(bytes.end(), block.head.begin(), block.head.end());
    for (const CodedBlock& block : blocks) bytes.insert(bytes.end(), block.planes.begin(), block.planes.end());
    const double share = static_cast<double>(bytes.size()) / static_cast<double>(tensor.data.size());
    if (share > 1 - least_saving || bytes.size() * max_expansion < tensor.data.size()) return std::nullopt;
    return bytes;
}

Status decode_tensor(const CodedTensor& tensor, std::span<std::byte> target, int n_threads) {
    const PlaneForm& form = *tensor.form;
    const auto n_blocks = static_cast<std::size_t>(tensor.n_blocks), n_planes = static_cast<std::size_t>(form.n_planes);
    std::vector<std::uint64_t> begins(n_blocks + 1);
    for (std::size_t block = 0; block < n_blocks; ++block) {
        begins[block + 1] = begins[block];
        for (std::size_t p = 0; p < n_planes; ++p) begins[block + 1] += u32_at(tensor.blocks, block * (1 + n_planes) + 1 + p);
    }
    if (begins[n_blocks] != tensor.payload.size())
        return corrupt("its blocks take " + std::to_string(begins[n_blocks]) + " bytes, but " + std::to_string(tensor.payload.size()) + " are there");
    const auto decode_block = [&](std::size_t block, ByteDecoder& decoder, const Planes& planes) {
        const std::size_t begin = block * form.block_bytes();
        const auto part = target.subspan(begin, std::min(form.block_bytes(), target.size() - begin));
        const std::size_t n = form.n_symbols(part.size());
        std::array<const std::byte*, max_planes> found{};
        auto at = static_cast<std::size_t>(begins[block]);
        for (std::size_t p = 0; p < n_planes; ++p) {
            const auto code = tensor.payload.subspan(at, u32_at(tensor.blocks, block * (1 + n_planes) + 1 + p));
            at += code.size();
            if (code.size() > n) return false;
            std::byte* const plane = form.is_identity() ? part.data() : planes[p];
            if (code.size() < n && !decoder.decode(code, {plane, n})) return false;
            found[p] = code.size() < n ? plane : code.data();
        }
        if (found[0] != part.data()) form.join(found.data(), part.size(), part.data());
        return check_sum(part) == u32_at(tensor.blocks, block * (1 + n_planes));
    };
    std::atomic<std::size_t> next{0}, damaged{n_blocks};
    const auto work = [&](int) {
        ByteDecoder decoder;
        const Planes planes(form, target.size());
        for (std::size_t block = next++; block < n_blocks; block = next++)
            if (!decode_block(block, decoder, planes))
                for (std::size_t first = damaged; block < first && !damaged.compare_exchange_weak(first, block);) {}
    };
    n_threads = static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(std::max(1, n_threads)), ceil_div<std::size_t>(n_blocks, 4)));
    if (n_threads == 1) work(0);
    else ThreadPool(n_threads).run(work);
    if (damaged < n_blocks) return corrupt("block " + std::to_string(damaged.load()) + " of " + std::to_string(n_blocks) + " is damaged; fetch or write the file again");
    return {};
}

}  // namespace skiff
