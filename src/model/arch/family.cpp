// The ground that the architectures stand on: sizes from the config, and the model that they make.
#include <algorithm>

#include "model/arch/families.h"

namespace skiff {
namespace {

const Dimension hidden = {{"model.hidden", 1}}, vocab = {{"vocab", 1}};

std::string quoted(std::string_view key) { return "\"" + std::string(key) + "\""; }

std::int64_t read_head_dim(HfConfig& config, const FamilyKeys& keys, std::int64_t d_model, const std::vector<std::int64_t>& n_heads) {
    if (config.has("head_dim")) return config.integer("head_dim");
    const bool alike = std::all_of(n_heads.begin(), n_heads.end(), [&](std::int64_t n) { return n == n_heads[0]; });
    const std::int64_t all_heads = config.object(keys.n_heads).is_array() ? n_heads[0] : config.integer(keys.n_heads);
    config.require(alike || !config.object(keys.n_heads).is_array(), "key " + quoted(keys.n_heads) + " differs between layers; give head_dim");
    config.require(d_model % all_heads == 0, quoted(keys.d_model) + " is no multiple of " + quoted(keys.n_heads) + "; give head_dim");
    return std::max<std::int64_t>(1, d_model / all_heads);
}

// Sizes that no model has; beyond them products would leave 64 bits.
void check_sizes(HfConfig& config, const FamilyKeys& keys, const DecoderFamily& family) {
    config.require(family.d_model <= 1 << 20, "key " + quoted(keys.d_model) + " is over 2^20");
    config.require(family.n_vocab <= 1 << 24, "key \"vocab_size\" is over 2^24");
    for (std::size_t layer = 0; layer < family.blocks.size(); ++layer) {
        const DecoderOptions& block = family.blocks[layer];
        const std::string of_layer = " of layer " + std::to_string(layer);
        config.require(block.head_dim <= 4096, "head_dim is over 4096");
        config.require(block.d_ff <= 1 << 24, "key " + quoted(keys.d_ff) + of_layer + " is over 2^24");
        config.require(block.n_heads <= 1 << 16, "key " + quoted(keys.n_heads) + of_layer + " is over 2^16");
        config.require(block.n_heads % block.n_kv_heads == 0, quoted(keys.n_heads) + " (" + std::to_string(block.n_heads) + ") is no multiple of " +
                                                                  quoted(keys.n_kv_heads) + " (" + std::to_string(block.n_kv_heads) + ") in layer " +
                                                                  std::to_string(layer));
    }
}

ValueId embed(SpecBuilder& builder, const DecoderFamily& family, const TensorRef& table, const Dimension& embed_width) {
    ValueId x = builder.embed("embed.tokens", {table, family.embed_scale}, embed_width);
    if (!family.project_in_key.empty())
        x = builder.linear("embed.project_in", x, builder.tensor(family.project_in_key, {hidden, embed_width}, TensorDecl::Role::linear), {}, hidden);
    if (family.position_key.empty()) return x;
    builder.add_axis("positions", family.max_positions + family.position_offset);
    TensorRef positions = builder.tensor(family.position_key, {{{"positions", 1}}, hidden}, TensorDecl::Role::embedding);
    return builder.add("embed.add", x, builder.embed("embed.positions", {positions, 1, EmbedOp::Index::position, family.position_offset}, hidden));
}

ValueId head(SpecBuilder& builder, const DecoderFamily& family, const TensorRef& table, const Dimension& embed_width, ValueId x) {
    if (!family.final_norm_key.empty()) x = builder.norm("head.norm", x, make_norm(builder, family.final_norm, family.final_norm_key, hidden));
    if (!family.project_out_key.empty())
        x = builder.linear("head.project_out", x, builder.tensor(family.project_out_key, {embed_width, hidden}, TensorDecl::Role::linear), {},
                           embed_width);
    TensorRef weight = family.tied ? table : builder.tensor(family.head_key, {vocab, embed_width}, TensorDecl::Role::embedding);
    ValueId logits = builder.linear("head.logits", x, weight, {}, vocab);
    return family.logit_softcap > 0 ? builder.softcap("head.softcap", logits, family.logit_softcap) : logits;
}

}  // namespace

DecoderFamily read_family(HfConfig& config, const FamilyKeys& keys) {
    DecoderFamily family;
    family.d_model = config.integer(keys.d_model);
    family.n_layers = config.integer(keys.n_layers);
    family.n_vocab = config.integer("vocab_size");
    family.max_positions = config.integer_or(keys.max_positions, 2048);
    config.require(family.n_layers <= 1024, "key " + quoted(keys.n_layers) + " is over 1024");
    if (!config.ok()) family.n_layers = std::min<std::int64_t>(family.n_layers, 1024);
    auto n_heads = config.per_layer(keys.n_heads, family.n_layers);
    auto n_kv_heads = keys.n_kv_heads.empty() ? n_heads : config.per_layer_or(keys.n_kv_heads, family.n_layers, n_heads);
    auto d_ff = config.per_layer(keys.d_ff, family.n_layers);
    family.tied = config.boolean_or("tie_word_embeddings", keys.head == FamilyKeys::Head::tied);
    DecoderOptions block;
    block.head_dim = read_head_dim(config, keys, family.d_model, n_heads);
    block.norm = keys.norm;
    block.norm.eps = static_cast<float>(keys.eps.empty() ? keys.default_eps : config.positive_or(keys.eps, keys.default_eps));
    block.qk_norm = block.norm;
    block.activation = parse_activation(config, keys.activation, std::string(keys.default_activation));
    family.final_norm = block.norm;
    family.blocks.assign(static_cast<std::size_t>(family.n_layers), block);
    for (std::size_t layer = 0; layer < family.blocks.size(); ++layer) {
        family.blocks[layer].n_heads = n_heads[layer];
        family.blocks[layer].n_kv_heads = n_kv_heads[layer];
        family.blocks[layer].d_ff = d_ff[layer];
    }
    check_sizes(config, keys, family);
    return family;
}

void name_blocks(DecoderFamily& family, const std::string& prefix, BlockNames (*names)(const std::string&)) {
    for (std::size_t layer = 0; layer < family.blocks.size(); ++layer) family.blocks[layer].names = names(prefix + std::to_string(layer) + ".");
}

void read_layer_types(HfConfig& config, DecoderFamily& family, std::int64_t window, const std::function<bool(std::int64_t)>& is_sliding) {
    const Json& types = config.object("layer_types");
    const bool given = !types.is_null();
    if (given && (!types.is_array() || static_cast<std::int64_t>(types.size()) != family.n_layers)) {
        config.require(false, "key \"layer_types\" must be a list with one entry for each of " + std::to_string(family.n_layers) + " layers");
        return;
    }
    for (std::size_t layer = 0; layer < family.blocks.size(); ++layer) {
        bool sliding = !given && is_sliding(static_cast<std::int64_t>(layer));
        if (given) {
            const std::string& type = types.items()[layer].text();
            sliding = type == "sliding_attention";
            if (!sliding && type != "full_attention")
                config.check(
                    unsupported("key \"layer_types\": \"" + type.substr(0, 40) + "\" is not implemented; known: full_attention, sliding_attention")
                        .with_context("config.json"));
        }
        config.require(!sliding || window > 0, "\"layer_types\" has sliding_attention, but \"sliding_window\" is not given");
        if (sliding) family.blocks[layer].window = window;
    }
}

ModelSpec build_decoder(const std::string& architecture, const DecoderFamily& family) {
    SpecBuilder builder(architecture);
    builder.add_axis("model.hidden", family.d_model);
    builder.add_axis("vocab", family.n_vocab);
    Dimension embed_width = hidden;
    if (family.embed_width > 0) {
        builder.add_axis("model.embed", family.embed_width);
        embed_width = {{"model.embed", 1}};
    }
    ModelSpec& spec = builder.spec();
    spec.n_vocab = family.n_vocab;
    spec.d_model = family.d_model;
    spec.n_layers = family.n_layers;
    spec.max_positions = family.max_positions;

    builder.begin_block("embed", no_value);
    TensorRef table = builder.tensor(family.embed_key, {vocab, embed_width}, TensorDecl::Role::embedding);
    ValueId x = embed(builder, family, table, embed_width);
    builder.end_block(x);
    for (std::int64_t layer = 0; layer < family.n_layers; ++layer)
        x = decoder_block(builder, layer, x, family.blocks[static_cast<std::size_t>(layer)]);
    builder.begin_block("head", x);
    ValueId logits = head(builder, family, table, embed_width, x);
    builder.end_block(logits);
    return builder.finish(logits);
}

}  // namespace skiff
