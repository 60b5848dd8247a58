#include "compress/export_folder.h"

#include <cmath>
#include <cstring>

#include "base/mapped_file.h"

namespace skiff {
namespace {

constexpr std::string_view tokenizer_files[] = {
    "tokenizer.json", "tokenizer.model",         "tokenizer_config.json", "vocab.json",          "merges.txt",
    "vocab.txt",      "special_tokens_map.json", "added_tokens.json",     "chat_template.jinja", "generation_config.json"};

Result<Weight> as_floats(const Weight& weight) {
    std::vector<float> values(static_cast<std::size_t>(element_count(weight.shape)));
    if (weight.plain() != nullptr) {
        if (!to_floats(*weight.plain(), values)) return unsupported("a type that is no number");
        return make_float_weight(weight.shape, std::move(values));
    }
    for (std::int64_t row = 0; row < weight.n_rows(); ++row) weight.row(row, values.data() + row * weight.n_columns());
    return make_float_weight(weight.shape, std::move(values));
}

// What a GGUF file says about the end of a text and how to chat.
Status write_gguf_extras(const Checkpoint& checkpoint, const std::string& folder) {
    auto tokenizer = checkpoint.load_tokenizer();
    if (!tokenizer.ok()) return {};
    Json ends = Json::array();
    for (const std::int32_t id : tokenizer->eos_ids()) ends.push_back(id);
    Json generation = Json::object({{"eos_token_id", ends}});
    if (tokenizer->bos_id()) generation.set("bos_token_id", *tokenizer->bos_id());
    SKIFF_CHECK(write_file_atomic(join_path(folder, "generation_config.json"), generation.dump(2) + "\n"));
    if (!tokenizer->chat_template().empty()) SKIFF_CHECK(write_file_atomic(join_path(folder, "chat_template.jinja"), tokenizer->chat_template()));
    return {};
}

}  // namespace

bool is_float_type(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }

bool is_turned(const Weight& weight, const std::string& key, const std::set<std::string>& columns) { return weight.plain() == nullptr && columns.count(key) != 0; }

Result<RoundingLoss> write_plain_tensor(CheckpointWriter& writer, const TensorDeclaration& declared, Weight weight, const std::set<std::string>& columns) {
    const bool turned = is_turned(weight, declared.name, columns);
    if (weight.shape != (turned ? Shape{declared.shape[1], declared.shape[0]} : declared.shape))
        return corrupt("has shape " + shape_text(weight.shape) + ", the config implies " + shape_text(declared.shape));
    if (weight.plain() != nullptr && weight.plain()->dtype == declared.dtype) {
        SKIFF_CHECK(writer.write(declared.name, weight.plain()->data));
        return RoundingLoss();
    }
    SKIFF_TRY(auto floats, as_floats(weight));
    if (turned) floats = transposed(floats);
    if (declared.dtype == DType::f32) {
        SKIFF_CHECK(writer.write(declared.name, floats.plain()->data));
        return RoundingLoss();
    }
    RoundingLoss loss;
    constexpr std::size_t batch = std::size_t{1} << 20;
    std::vector<float> values(batch), rounded(batch);
    std::vector<std::byte> bytes(batch * 2);
    const auto data = floats.plain()->data;
    for (std::size_t begin = 0; begin < data.size() / 4; begin += batch) {
        const std::size_t n = std::min(batch, data.size() / 4 - begin);
        std::memcpy(values.data(), data.data() + begin * 4, n * 4);
        for (std::size_t i = 0; i < n; ++i)
            if (declared.dtype == DType::f16 && !(std::abs(values[i]) <= 65504))
                return corrupt("number " + std::to_string(begin + i) + " does not fit F16; choose --type BF16 or F32");
        dtype_info(declared.dtype).from_float(values.data(), static_cast<std::int64_t>(n), bytes.data());
        SKIFF_CHECK(writer.write(declared.name, std::span(bytes).first(n * 2)));
        dtype_info(declared.dtype).to_float(bytes.data(), static_cast<std::int64_t>(n), rounded.data());
        for (std::size_t i = 0; i < n; ++i) {
            const double difference = static_cast<double>(values[i]) - rounded[i];
            loss.error += difference * difference;
            loss.square += static_cast<double>(values[i]) * values[i];
        }
    }
    return loss;
}

std::vector<std::string> files_to_copy(const Checkpoint& checkpoint) {
    std::vector<std::string> files;
    if (checkpoint.kind != Checkpoint::Kind::folder) return files;
    for (const std::string_view file : tokenizer_files)
        if (file_exists(join_path(checkpoint.path, std::string(file)))) files.emplace_back(file);
    return files;
}

Status write_folder_files(const Checkpoint& checkpoint, const Json& config, const std::vector<std::string>& files, const std::string& folder) {
    SKIFF_CHECK(write_file_atomic(join_path(folder, "config.json"), config.dump(2) + "\n"));
    for (const std::string& file : files) {
        SKIFF_TRY(const auto text, read_text_file(join_path(checkpoint.path, file), std::size_t{256} << 20));
        SKIFF_CHECK(write_file_atomic(join_path(folder, file), text));
    }
    return checkpoint.kind == Checkpoint::Kind::gguf ? write_gguf_extras(checkpoint, folder) : Status();
}

}  // namespace skiff
