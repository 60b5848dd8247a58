#include "text/sentencepiece_proto.h"

#include <cstring>

#include "base/span_reader.h"
#include "text/function_ref.h"
#include "text/unicode.h"
#include "text/vocabulary.h"

namespace skiff {
namespace {

// One field of a message: a number (varint or fixed) or bytes.
struct Field {
    std::uint32_t number = 0;
    std::uint64_t value = 0;
    std::string_view bytes;
    bool is_bytes = false;
    float as_float() const {
        const auto bits = static_cast<std::uint32_t>(value);
        float result;
        std::memcpy(&result, &bits, 4);
        return result;
    }
};

Result<std::uint64_t> read_varint(SpanReader& reader) {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        SKIFF_TRY(const auto byte, reader.read<std::uint8_t>("varint"));
        value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
        if ((byte & 0x80) == 0) return value;
    }
    return corrupt("a varint before byte " + std::to_string(reader.position()) + " is longer than 10 bytes");
}

Result<Field> read_field(SpanReader& reader) {
    Field field;
    SKIFF_TRY(const auto key, read_varint(reader));
    field.number = static_cast<std::uint32_t>(key >> 3);
    if (key >> 3 == 0 || key >> 3 > 0x1FFFFFFF) return corrupt("field number " + std::to_string(key >> 3) + " at byte " + std::to_string(reader.position()));
    switch (key & 7) {
        case 0: {
            SKIFF_TRY(field.value, read_varint(reader));
            return field;
        }
        case 1: {
            SKIFF_TRY(field.value, reader.read<std::uint64_t>("fixed64"));
            return field;
        }
        case 2: {
            SKIFF_TRY(const auto n_bytes, read_varint(reader));
            SKIFF_TRY(field.bytes, reader.take_string(n_bytes, "field " + std::to_string(field.number)));
            field.is_bytes = true;
            return field;
        }
        case 5: {
            SKIFF_TRY(const auto bits, reader.read<std::uint32_t>("fixed32"));
            field.value = bits;
            return field;
        }
        default: break;
    }
    return corrupt("wire type " + std::to_string(key & 7) + " before byte " + std::to_string(reader.position()) + " is not a protocol buffer's");
}

Status for_each_field(std::string_view message, FunctionRef<Status(const Field&)> on_field) {
    SpanReader reader(std::as_bytes(std::span(message.data(), message.size())));
    while (reader.remaining() > 0) {
        SKIFF_TRY(const auto field, read_field(reader));
        SKIFF_CHECK(on_field(field));
    }
    return {};
}

Result<SentencePiece> parse_piece(std::string_view message, std::size_t index) {
    SentencePiece piece;
    SKIFF_CHECK(for_each_field(message, [&](const Field& field) -> Status {
        if (field.number == 1 && field.is_bytes) piece.text = field.bytes;
        if (field.number == 2 && !field.is_bytes) piece.score = field.as_float();
        if (field.number == 3 && !field.is_bytes) {
            if (field.value < 1 || field.value > 6) return corrupt("piece " + std::to_string(index) + " has type " + std::to_string(field.value));
            piece.type = static_cast<GgufTokenType>(field.value);
        }
        return {};
    }));
    if (piece.text.empty()) return corrupt("piece " + std::to_string(index) + " is empty");
    if (!is_valid_utf8(piece.text)) return corrupt("piece " + std::to_string(index) + " is not valid UTF-8");
    if (!(piece.score > -1e30f && piece.score < 1e30f)) return corrupt("piece " + std::to_string(index) + " has a score that is no number");
    return piece;
}

// Ids are int32 in the format, negative ones sign-extended to 64 bits.
std::int64_t signed_id(const Field& field) { return static_cast<std::int32_t>(field.value); }

Status parse_trainer(std::string_view message, SentencePieceModel& model) {
    return for_each_field(message, [&](const Field& field) -> Status {
        if (field.is_bytes) return {};
        switch (field.number) {
            case 3:
                if (field.value < 1 || field.value > 4) return corrupt("trainer_spec.model_type is " + std::to_string(field.value));
                model.algorithm = static_cast<SentencePieceModel::Algorithm>(field.value);
                break;
            case 24: model.space_as_suffix = field.value != 0; break;
            case 35: model.byte_fallback = field.value != 0; break;
            case 40: model.unk_id = signed_id(field); break;
            case 41: model.bos_id = signed_id(field); break;
            case 42: model.eos_id = signed_id(field); break;
            case 43: model.pad_id = signed_id(field); break;
            default: break;
        }
        return {};
    });
}

Status parse_normalizer_spec(std::string_view message, SentencePieceModel& model) {
    return for_each_field(message, [&](const Field& field) -> Status {
        if (field.number == 2 && field.is_bytes) model.precompiled_charsmap = field.bytes;
        if (field.is_bytes) return {};
        if (field.number == 3) model.add_dummy_prefix = field.value != 0;
        if (field.number == 4) model.remove_extra_whitespaces = field.value != 0;
        if (field.number == 5) model.escape_whitespaces = field.value != 0;
        return {};
    });
}

}  // namespace

Result<SentencePieceModel> parse_sentencepiece_model(std::string_view bytes) {
    SentencePieceModel model;
    SKIFF_CHECK(for_each_field(bytes, [&](const Field& field) -> Status {
        if (!field.is_bytes) return {};
        if (field.number == 2) return parse_trainer(field.bytes, model);
        if (field.number == 3) return parse_normalizer_spec(field.bytes, model);
        if (field.number != 1) return {};
        if (model.pieces.size() >= max_vocabulary_size) return resource_error("more than " + std::to_string(max_vocabulary_size) + " pieces");
        SKIFF_TRY(auto piece, parse_piece(field.bytes, model.pieces.size()));
        model.pieces.push_back(std::move(piece));
        return {};
    }));
    if (model.pieces.empty()) return corrupt("no pieces: this is not a SentencePiece model");
    return model;
}

}  // namespace skiff
