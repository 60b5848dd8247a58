// links: skiff_text skiff_base
// tokenizer.json, SentencePiece and tiktoken files as they come, then a little encoding and decoding with whatever loaded.
// A zero-zero-zero mark may end the file; a text to encode follows it.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace skiff;
    if (size == 0) return 0;
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    const std::string_view mark("\0\0\0", 3);
    const std::size_t cut = input.find(mark, 1);
    const std::string_view file = input.substr(0, cut);
    const std::string_view text = cut == std::string_view::npos ? "Hello, it's 12 \xF0\x9F\x9A\x80 <s>  \n" : input.substr(cut + mark.size());
    // JSON begins with '{' (or space), the protocol buffer with a line feed, base64 with anything else.
    const bool is_json = file[0] == '{' || file[0] == ' ';
    auto tokenizer = is_json ? load_tokenizer_json(file) : file[0] == '\n' ? load_sentencepiece(file) : load_tiktoken(file);
    if (!tokenizer.ok()) return 0;
    auto ids = tokenizer->encode(text.substr(0, 2048));
    if (!ids.ok()) return 0;
    (void)tokenizer->decode(*ids);
    StreamDecoder stream(*tokenizer);
    for (std::int32_t id : *ids) (void)stream.push(id);
    (void)stream.finish();
    auto vocabulary = tokenizer->to_vocab_data();
    if (vocabulary.ok()) (void)load_vocab_data(*vocabulary);
    return 0;
}
