// The only file that includes zstd.
#define ZSTD_STATIC_LINKING_ONLY  // names ZSTD_c_literalCompressionMode; the parameter itself is in the library in any case
#include "formats/byte_coder.h"

#include <zstd.h>

#include <algorithm>
#include <new>

namespace skiff {

struct ByteEncoder::State {
    ZSTD_CCtx* context = ZSTD_createCCtx();
    std::vector<std::byte> room;  // kept: fresh memory for each code would cost more than the code
    State() {
        if (context == nullptr) throw std::bad_alloc();
        // Huffman for all bytes: a fast search that jumps so far that it hardly looks. A version that refuses one of these writes larger frames, which are as valid.
        const std::pair<ZSTD_cParameter, int> parameters[] = {{ZSTD_c_compressionLevel, 1}, {ZSTD_c_literalCompressionMode, ZSTD_ps_enable}, {ZSTD_c_strategy, ZSTD_fast},
                                                              {ZSTD_c_windowLog, 17},       {ZSTD_c_hashLog, 6},                             {ZSTD_c_minMatch, 7},
                                                              {ZSTD_c_targetLength, 1 << 17}};
        for (const auto& [parameter, value] : parameters) (void)ZSTD_CCtx_setParameter(context, parameter, value);
    }
    State(const State&) = delete;
    ~State() { ZSTD_freeCCtx(context); }
};

ByteEncoder::ByteEncoder() : state_(std::make_shared<State>()) {}

std::vector<std::byte> ByteEncoder::encode(std::span<const std::byte> bytes) {
    std::vector<std::byte>& room = state_->room;
    room.resize(std::max(room.size(), ZSTD_compressBound(bytes.size())));
    const std::size_t size = ZSTD_compress2(state_->context, room.data(), room.size(), bytes.data(), bytes.size());
    if (ZSTD_isError(size) != 0 || size >= bytes.size()) return {};
    return {room.begin(), room.begin() + static_cast<std::ptrdiff_t>(size)};
}

struct ByteDecoder::State {
    ZSTD_DCtx* context = ZSTD_createDCtx();
    State() {
        if (context == nullptr) throw std::bad_alloc();
    }
    State(const State&) = delete;
    ~State() { ZSTD_freeDCtx(context); }
};

ByteDecoder::ByteDecoder() : state_(std::make_shared<State>()) {}

bool ByteDecoder::decode(std::span<const std::byte> code, std::span<std::byte> target) {
    const std::size_t size = ZSTD_decompressDCtx(state_->context, target.data(), target.size(), code.data(), code.size());
    return ZSTD_isError(size) == 0 && size == target.size();
}

}  // namespace skiff
