"""Configs that must be refused with an error naming a key, and configs with keys that must not disturb."""

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 97, "hidden_size": 32, "intermediate_size": 52,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
         "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float32"}
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False}
GEMMA2 = {**LLAMA, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "head_dim": 8, "hidden_activation": "gelu_pytorch_tanh",
          "query_pre_attn_scalar": 8, "sliding_window": 6, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
PHI3 = {**LLAMA, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "original_max_position_embeddings": 16}
GPT2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 97, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 40,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
GPT_NEOX = {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "vocab_size": 97, "hidden_size": 32, "intermediate_size": 50,
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64, "hidden_act": "gelu", "rotary_pct": 0.25,
            "rotary_emb_base": 10000, "use_parallel_residual": True, "layer_norm_eps": 1e-5}
MIXTRAL = {**LLAMA, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


def bad(name, mention, base=None, without=(), **changes):
    config = {k: v for k, v in {**(base or LLAMA), **changes}.items() if k not in without}
    return {"name": name, "config": config, "expected_mention": mention}


BAD_CONFIGS = [
    # A key that changes the arithmetic and that the architecture does not know.
    bad("granite's attention_multiplier", "attention_multiplier", attention_multiplier=0.0078),
    bad("granite's embedding_multiplier", "embedding_multiplier", embedding_multiplier=12.0),
    bad("granite's residual_multiplier", "residual_multiplier", residual_multiplier=0.22),
    bad("granite's logits_scaling", "logits_scaling", logits_scaling=8.0),
    bad("cohere's logit_scale", "logit_scale", logit_scale=0.0625),
    bad("olmo's clip_qkv", "clip_qkv", clip_qkv=8.0),
    bad("gemma's soft-cap on qwen2", "attn_logit_softcapping", QWEN2, attn_logit_softcapping=50.0),
    bad("alibi", "alibi", alibi=True),
    bad("a q/k norm that llama does not have", "use_qk_norm", use_qk_norm=True),
    bad("experts on llama", "num_local_experts", num_local_experts=4, num_experts_per_tok=2),
    bad("smollm3's no_rope_layers", "no_rope_layers", no_rope_layers=[1, 0]),
    bad("llama4's attention_chunk_size", "attention_chunk_size", attention_chunk_size=16),
    bad("a key nobody knows", "frobnication_factor", frobnication_factor=1.5),
    bad("a key nobody knows, on gpt2", "frobnication_factor", GPT2, frobnication_factor=1.5),
    # A known key with a value that is not implemented.
    bad("yarn on llama", "rope_scaling", rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}),
    bad("yarn on llama, new form", "rope_parameters", without=("rope_theta",),
        rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}),
    bad("unknown rope type", "rope_scaling", rope_scaling={"type": "spiral", "factor": 4.0}),
    bad("unknown key in rope_scaling", "beta_zero", rope_scaling={**LLAMA3_ROPE, "beta_zero": 3.0}),
    bad("unknown activation", "hidden_act", hidden_act="xyz"),
    bad("unknown activation on gpt2", "activation_function", GPT2, activation_function="xyz"),
    bad("cross attention on gpt2", "add_cross_attention", GPT2, add_cross_attention=True),
    bad("bidirectional gemma2", "use_bidirectional_attention", GEMMA2, use_bidirectional_attention=True),
    bad("unknown layer type", "layer_types", QWEN2, layer_types=["full_attention", "linear_attention"]),
    bad("unknown quantization", "quant_method", quantization_config={"quant_method": "zzz", "bits": 3}),
    bad("unknown architecture", "foo", architectures=["FooForCausalLM"], model_type="foo"),
    # Values that cannot be.
    bad("no hidden_size", "hidden_size", without=("hidden_size",)),
    bad("zero hidden_size", "hidden_size", hidden_size=0),
    bad("negative hidden_size", "hidden_size", hidden_size=-32),
    bad("hidden_size as a string", "hidden_size", hidden_size="32"),
    bad("hidden_size with a fraction", "hidden_size", hidden_size=32.5),
    bad("a billion layers", "num_hidden_layers", num_hidden_layers=1000000000),
    bad("no layers", "num_hidden_layers", num_hidden_layers=0),
    bad("kv heads do not divide heads", "num_key_value_heads", num_key_value_heads=3),
    bad("no kv heads", "num_key_value_heads", num_key_value_heads=0),
    bad("odd head_dim with rope", "head_dim", head_dim=7),
    bad("heads do not divide the width of gpt2", "n_head", GPT2, n_head=5),
    bad("rope_theta zero", "rope_theta", rope_theta=0.0),
    bad("negative rms_norm_eps", "rms_norm_eps", rms_norm_eps=-1e-6),
    bad("rotary_pct over 1", "rotary_pct", GPT_NEOX, rotary_pct=1.5),
    bad("llama3 rope without low_freq_factor", "low_freq_factor",
        rope_scaling={k: v for k, v in LLAMA3_ROPE.items() if k != "low_freq_factor"}),
    bad("llama3 rope with factor zero", "factor", rope_scaling={**LLAMA3_ROPE, "factor": 0.0}),
    bad("longrope factors of the wrong length", "short_factor", PHI3, rope_scaling={**LONGROPE, "short_factor": [1.0] * 3}),
    bad("longrope factor zero", "long_factor", PHI3, rope_scaling={**LONGROPE, "long_factor": [0.0] * 4}),
    bad("layer_types of the wrong length", "layer_types", GEMMA2, layer_types=["full_attention"]),
    bad("more experts per token than experts", "num_experts_per_tok", MIXTRAL, num_experts_per_tok=5),
    bad("soft-cap zero", "attn_logit_softcapping", GEMMA2, attn_logit_softcapping=0.0),
    bad("per-layer override out of range", "per_layer_config", per_layer_config={"7": {"intermediate_size": 20}}),
    bad("per-layer override of an unknown key", "frobnication_factor", per_layer_config={"1": {"frobnication_factor": 2}}),
]

BOOKKEEPING = {"_name_or_path": "somebody/some-model", "transformers_version": "4.40.0", "use_cache": True, "initializer_range": 0.02,
               "attention_dropout": 0.1, "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0, "torch_dtype": "bfloat16", "pretraining_tp": 1,
               "output_attentions": False, "return_dict": True, "auto_map": {}, "problem_type": None, "id2label": {"0": "LABEL_0"}}


def harmless(name, base=None, **changes):
    return {"name": name, "config": {**(base or LLAMA), **changes}}


HARMLESS_CONFIGS = [
    harmless("bookkeeping on llama", **BOOKKEEPING),
    harmless("rope_scaling null", rope_scaling=None),
    harmless("rope_scaling of the default type", rope_scaling={"rope_type": "default"}),
    harmless("neutral values of foreign keys", alibi=False, use_qk_norm=False, logit_scale=None),
    harmless("window settings that are off", QWEN2, sliding_window=8, max_window_layers=2, use_sliding_window=False),
    harmless("dropout and summary keys of gpt2", GPT2, attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1, summary_type="cls_index",
             summary_use_proj=True, summary_activation=None, summary_first_dropout=0.1, summary_proj_to_labels=True, n_ctx=40,
             task_specific_params={"text-generation": {"do_sample": True}}, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False),
    harmless("training keys of mixtral", MIXTRAL, router_aux_loss_coef=0.02, router_jitter_noise=0.0, output_router_logits=False),
    harmless("training keys of gpt_neox", GPT_NEOX, classifier_dropout=0.1, hidden_dropout=0.0, attention_dropout=0.0, tie_word_embeddings=False),
    harmless("phi3 with longrope", PHI3, rope_scaling=LONGROPE, resid_pdrop=0.0, embd_pdrop=0.0),
]
