// Llama 1 to 3 (Touvron et al. 2023, Dubey et al. 2024), and the ground that its relatives stand on.
#include "model/arch/families.h"

namespace skiff {

DecoderFamily read_llama_family(HfConfig& config) {
    DecoderFamily family;
    family.d_model = config.integer("hidden_size");
    family.n_layers = config.integer("num_hidden_layers");
    family.n_vocab = config.integer("vocab_size");
    family.max_positions = config.integer_or("max_position_embeddings", 2048);
    config.require(family.n_layers <= 1024, "num_hidden_layers is over 1024");
    auto n_heads = config.per_layer("num_attention_heads", family.n_layers);
    auto n_kv_heads = config.per_layer_or("num_key_value_heads", family.n_layers, n_heads);
    auto d_ff = config.per_layer("intermediate_size", family.n_layers);
    const std::int64_t head_dim = config.integer_or("head_dim", n_heads.empty() ? 1 : family.d_model / n_heads[0]);
    config.require(config.has("head_dim") || n_heads.empty() || family.d_model % n_heads[0] == 0, "hidden_size is no multiple of num_attention_heads; give head_dim");
    config.require(head_dim >= 2 && head_dim <= 4096 && head_dim % 2 == 0, "head_dim must be even and between 2 and 4096");
    family.tied = config.boolean_or("tie_word_embeddings", false);
    family.block.head_dim = head_dim;
    family.block.norm.eps = static_cast<float>(config.number_or("rms_norm_eps", 1e-6));
    family.block.activation = parse_activation(config, "hidden_act", "silu");
    RopeTable rope = read_rope(config, head_dim, 10000.0);
    family.block.rope = {rope.inv_freq, rope.magnitude, RopeStyle::half};
    family.blocks.assign(static_cast<std::size_t>(family.n_layers), family.block);
    for (std::int64_t layer = 0; layer < family.n_layers; ++layer) {
        DecoderOptions& block = family.blocks[static_cast<std::size_t>(layer)];
        block.names = llama_block_names("model.layers." + std::to_string(layer) + ".");
        block.n_heads = n_heads[static_cast<std::size_t>(layer)];
        block.n_kv_heads = n_kv_heads[static_cast<std::size_t>(layer)];
        block.d_ff = d_ff[static_cast<std::size_t>(layer)];
        config.require(block.n_heads % block.n_kv_heads == 0, "num_attention_heads is no multiple of num_key_value_heads in layer " + std::to_string(layer));
    }
    return family;
}

BlockNames llama_block_names(const std::string& prefix) {
    BlockNames names;
    names.attn_norm = prefix + "input_layernorm";
    names.q = prefix + "self_attn.q_proj";
    names.k = prefix + "self_attn.k_proj";
    names.v = prefix + "self_attn.v_proj";
    names.o = prefix + "self_attn.o_proj";
    names.ff_norm = prefix + "post_attention_layernorm";
    names.gate = prefix + "mlp.gate_proj";
    names.up = prefix + "mlp.up_proj";
    names.down = prefix + "mlp.down_proj";
    return names;
}

ModelSpec build_decoder(const std::string& architecture, const DecoderFamily& family) {
    SpecBuilder builder(architecture);
    builder.add_axis("model.hidden", family.d_model);
    builder.add_axis("vocab", family.n_vocab);
    const Dimension hidden = {{"model.hidden", 1}}, vocab = {{"vocab", 1}};
    ModelSpec& spec = builder.spec();
    spec.n_vocab = family.n_vocab;
    spec.d_model = family.d_model;
    spec.n_layers = family.n_layers;
    spec.max_positions = family.max_positions;

    builder.begin_block("embed", no_value);
    TensorRef table = builder.tensor(family.embed_key, {vocab, hidden}, TensorDecl::Role::embedding);
    ValueId x = builder.embed("embed.tokens", {table, family.embed_scale}, hidden);
    builder.end_block(x);
    for (std::int64_t layer = 0; layer < family.n_layers; ++layer) x = decoder_block(builder, layer, x, family.blocks[static_cast<std::size_t>(layer)]);

    builder.begin_block("head", x);
    NormOp norm;
    norm.kind = family.block.norm.kind;
    norm.eps = family.block.norm.eps;
    norm.weight_offset = family.block.norm.weight_offset;
    norm.weight = builder.tensor(family.final_norm_key + ".weight", {hidden}, TensorDecl::Role::norm);
    if (family.block.norm_bias == DecoderOptions::NormBias::present) norm.bias = builder.tensor(family.final_norm_key + ".bias", {hidden}, TensorDecl::Role::bias);
    x = builder.norm("head.norm", x, norm);
    TensorRef head = family.tied ? table : builder.tensor(family.head_key, {vocab, hidden}, TensorDecl::Role::embedding);
    TensorRef bias = family.head_bias_key.empty() ? TensorRef{} : builder.tensor(family.head_bias_key, {vocab}, TensorDecl::Role::bias);
    ValueId logits = builder.linear("head.logits", x, head, bias, vocab);
    if (family.logit_softcap > 0) logits = builder.softcap("head.softcap", logits, family.logit_softcap);
    builder.end_block(logits);
    return builder.finish(logits);
}

Result<ModelSpec> build_llama(HfConfig& config) {
    DecoderFamily family = read_llama_family(config);
    bool attention_bias = config.boolean_or("attention_bias", false), mlp_bias = config.boolean_or("mlp_bias", false);
    for (DecoderOptions& block : family.blocks) {
        block.biases = attention_bias ? Biases::attention : Biases::none;
        block.mlp_bias = mlp_bias;
    }
    SKIFF_CHECK(config.finish());
    return build_decoder("llama", family);
}

}  // namespace skiff
