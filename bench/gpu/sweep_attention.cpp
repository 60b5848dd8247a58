// Attention of decoded tokens and of prompts, the latter by cuDNN, too.
#include "sweep.h"

#include <algorithm>

#include "backend/cuda/emit.h"

namespace skiff::cuda {

Result<double> Sweep::by_cudnn(const AttentionCommon& common, std::int64_t n_new, std::int64_t length, std::int64_t n_pages, std::string& refused) {
    const Table& table = device.table();
    const std::int64_t width = common.n_heads * common.state.head_dim;
    SequenceAttentionArgs args;
    args.n_rows = segment_rows(n_new), args.n_heads = common.n_heads, args.state = common.state;
    args.n_pages = segment_pages(length, n_pages), args.n_pool_pages = n_pages;
    args.scale = common.scale, args.softcap = common.softcap, args.window = common.window;
    args.workspace_bytes = std::size_t{64} << 20;
    const std::size_t row_bytes = table.operand_bytes(OperandForm::rows, args.n_rows, width);
    SKIFF_TRY(std::byte * q, zeros(row_bytes, "queries"));
    SKIFF_TRY(std::byte * y, zeros(row_bytes, "a result"));
    SKIFF_TRY(std::byte * workspace, zeros(args.workspace_bytes, "a workspace"));
    const std::vector<std::int32_t> numbers = {static_cast<std::int32_t>(n_new), 0, 0, 0, static_cast<std::int32_t>(length)};
    SKIFF_TRY(const std::int32_t* lengths, device.upload_new(numbers, "lengths"));
    args.q = q, args.y = y, args.workspace = workspace;
    args.n_tokens = lengths, args.n_positions = lengths + 4;
    double seconds = 0;
    if (const int error = table.prepare_sequence_attention(args); error != 0) {
        refused = table.error_text(error);
    } else {
        ElementLaunchArgs narrow;
        narrow.kind = ElementKind::scale;
        narrow.a = common.q, narrow.a_stride = common.q_stride, narrow.n_tokens = n_new, narrow.n_columns = width;
        narrow.operand = {OperandForm::rows, q, width};
        const WidenArgs widen = {y, n_new, width, common.y, common.y_stride, {}};
        const auto call = [&](int) {
            if (const int failed = table.elements(narrow, device.launch()); failed != 0) return failed;
            if (const int failed = table.sequence_attention(args, device.launch()); failed != 0) return failed;
            return table.widen(widen, device.launch());
        };
        SKIFF_TRY(seconds, time(call, "prefill attention by cuDNN"));
    }
    release({q, y, workspace, lengths});
    return seconds;
}

Status Sweep::attention(StateForm form, const char* form_name, const Heads& heads, std::int64_t length, std::int64_t n_new) {
    const auto& [n_heads, n_kv_heads, head_dim, window, softcap] = heads;
    const Table& table = device.table();
    if (!table.attention_takes(head_dim, form)) return {};
    const bool prefill = n_new > max_gemv_tokens;
    if (prefill && !table.prefill_attention_takes(head_dim, form)) return {};
    const std::int64_t n_pages = (length + page_positions - 1) / page_positions;
    const std::size_t page = table.state_page_bytes(form, n_kv_heads, head_dim), pool_bytes = page * static_cast<std::size_t>(n_pages);
    const std::size_t n_pools = prefill ? 1 : copies_beyond_cache(2 * pool_bytes);  // prompts are bound by arithmetic
    AttentionCommon common;
    SKIFF_TRY(std::byte * keys, zeros(n_pools * pool_bytes, "keys"));
    SKIFF_TRY(std::byte * values, zeros(n_pools * pool_bytes, "values"));
    std::vector<std::int32_t> pages, positions, sequences;
    for (std::int64_t i = 0; i < n_pages; ++i) pages.push_back(static_cast<std::int32_t>(i));
    for (std::int64_t t = 0; t < n_new; ++t) positions.push_back(static_cast<std::int32_t>(length - n_new + t)), sequences.push_back(0);
    SKIFF_TRY(const std::int32_t* page_table, device.upload_new(pages, "pages"));
    SKIFF_TRY(const std::int32_t* position_row, device.upload_new(positions, "positions"));
    SKIFF_TRY(const std::int32_t* sequence_row, device.upload_new(sequences, "sequences"));
    const std::int64_t width = n_heads * head_dim;
    SKIFF_TRY(float* q, floats(n_new * width, "queries"));
    SKIFF_TRY(std::byte * y, zeros(static_cast<std::size_t>(n_new * width) * 4, "a result"));
    common.q = q;
    common.q_stride = common.y_stride = width;
    common.n_heads = n_heads;
    common.state = {form, keys, values, page_table, n_pages, n_kv_heads, head_dim};
    common.tokens = {n_new, position_row, sequence_row};
    common.scale = 0.1f;
    common.window = window;
    common.softcap = softcap;
    common.y = reinterpret_cast<float*>(y);
    double seconds = 0;
    std::int64_t n_splits = 0;
    std::byte *partials = nullptr, *arrivals = nullptr, *tile_memory = nullptr;
    if (prefill) {
        std::vector<PrefillTile> tiles;
        for (std::int64_t t = 0; t < n_new; t += prefill_tile_tokens)
            tiles.push_back({static_cast<std::int32_t>(t), static_cast<std::int32_t>(std::min(prefill_tile_tokens, n_new - t)), 0, static_cast<std::int32_t>(length - n_new + t)});
        SKIFF_TRY(const PrefillTile* on_device, device.upload_new(tiles, "tiles"));
        tile_memory = reinterpret_cast<std::byte*>(const_cast<PrefillTile*>(on_device));
        SKIFF_TRY(seconds, time([&](int) { return table.prefill_attention({common, on_device, static_cast<std::int64_t>(tiles.size())}, device.launch()); }, "prefill attention"));
    } else {
        n_splits = table.decode_attention_splits(length, n_kv_heads, device.launch());
        SKIFF_TRY(partials, zeros(static_cast<std::size_t>(table.decode_partial_floats(n_new, n_heads, head_dim, n_splits)) * 4, "partial results"));
        SKIFF_TRY(arrivals, zeros(static_cast<std::size_t>(n_new * n_kv_heads) * 4, "counters"));
        DecodeAttentionArgs args{common, n_splits, reinterpret_cast<float*>(partials), reinterpret_cast<std::int32_t*>(arrivals)};
        const auto call = [&](int i) {
            args.common.state.keys = keys + static_cast<std::size_t>(i) % n_pools * pool_bytes;
            args.common.state.values = values + static_cast<std::size_t>(i) % n_pools * pool_bytes;
            return table.decode_attention(args, device.launch());
        };
        SKIFF_TRY(seconds, time(call, "decode attention"));
    }
    const double seen = window > 0 ? std::min(1.0, static_cast<double>(window) / static_cast<double>(length)) : 1;  // of the positions
    const double bytes = 2.0 * seen * static_cast<double>(pool_bytes), gbps = bytes / seconds * 1e-9;
    const double flops = 4.0 * static_cast<double>(width) * static_cast<double>(n_new) * (window > 0 ? static_cast<double>(std::min(window, length)) : static_cast<double>(length) - static_cast<double>(n_new - 1) / 2);
    say(Json::object({{"part", prefill ? "prefill" : "attention"}, {"row", "own"}, {"state", form_name}, {"heads", n_heads}, {"kv_heads", n_kv_heads}, {"head_dim", head_dim}, {"window", window}, {"softcap", softcap}, {"length", length}, {"tokens", n_new}, {"splits", n_splits}, {"copies", n_pools},
                      {"us", seconds * 1e6}, {"gbps", prefill ? Json() : Json(gbps)}, {"share_of_read", !prefill && read_gbps > 0 ? Json(gbps / read_gbps) : Json()}, {"tflops", flops / seconds * 1e-12}}));
    if (prefill && form == StateForm::bf16 && !cudnn.empty()) {
        std::string refused;
        SKIFF_TRY(const double theirs, by_cudnn(common, n_new, length, n_pages, refused));
        say(Json::object({{"part", "prefill"}, {"row", "cudnn"}, {"state", form_name}, {"heads", n_heads}, {"kv_heads", n_kv_heads}, {"head_dim", head_dim}, {"window", window}, {"softcap", softcap}, {"length", length}, {"tokens", n_new},
                          {"us", refused.empty() ? Json(theirs * 1e6) : Json()}, {"tflops", refused.empty() ? Json(flops / theirs * 1e-12) : Json()}, {"refused", refused.empty() ? Json() : Json(refused)}}));
    }
    release({keys, values, page_table, position_row, sequence_row, q, y, partials, arrivals, tile_memory});
    return {};
}

}  // namespace skiff::cuda
