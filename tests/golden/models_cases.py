"""The table of tiny random models whose logits skiff must reproduce.

Each case names what it is there for: `variants` lists changes that a wrong implementation would amount to (a window
ignored, a bias dropped, ...). models.py refuses to write a case in which such a change does not move the logits.
"""

from dataclasses import dataclass, field


@dataclass
class Case:
    name: str
    model_type: str
    config: dict
    # label -> {"config": {...}} rebuilds with other settings; {"fill": (regex, value)} overwrites weights;
    # {"rolled": regex} rotates the rows of weights, so that a wrong order of fused parts is seen.
    variants: dict = field(default_factory=dict)
    dtype: str = "float32"
    n_tokens: int = 24
    # Per-block overrides, in the form transformers gives heterogeneous configs: {"1": {"intermediate_size": 27}}.
    per_layer: dict = field(default_factory=dict)
    # A second, shorter sequence (0: none), for models whose arithmetic depends on the length.
    n_tokens_short: int = 0
    # Prefix of tensor names to leave out when writing (GPT-2 checkpoints on the hub have none).
    strip_prefix: str = ""


BASE = dict(vocab_size=97, hidden_size=32, intermediate_size=39, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None)
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 16}


def base(**changes):
    return {**BASE, **changes}


LLAMA_CASES = [
    Case("llama", "llama", base(rope_parameters={"rope_type": "default", "rope_theta": 500.0}, rms_norm_eps=1e-2, hidden_size=20,
                                intermediate_size=37, head_dim=6),
         {"rope_theta": {"config": {"rope_parameters": DEFAULT_ROPE}},
          "rms_norm_eps": {"config": {"rms_norm_eps": 1e-6}},
          "kv head order": {"rolled": (r"k_proj", 6)},
          "norm weights": {"fill": (r"layernorm|model\.norm", 1.0)},
          "hidden_act": {"config": {"hidden_act": "gelu"}}}),
    Case("llama_tied_bf16", "llama", base(tie_word_embeddings=True, rope_parameters=DEFAULT_ROPE, num_key_value_heads=1), dtype="bfloat16"),
    Case("llama_rope_llama3", "llama", base(rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True, head_dim=16, num_attention_heads=2,
                                            num_key_value_heads=1),
         {"rope scaling": {"config": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}},
          "linear instead of llama3": {"config": {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}}}},
         dtype="bfloat16"),
    Case("llama_biases", "llama", base(attention_bias=True, mlp_bias=True, rope_parameters=DEFAULT_ROPE, tie_word_embeddings=True),
         {"q bias": {"fill": (r"q_proj\.bias", 0.0)}, "k bias": {"fill": (r"k_proj\.bias", 0.0)}, "v bias": {"fill": (r"v_proj\.bias", 0.0)},
          "o bias": {"fill": (r"o_proj\.bias", 0.0)}, "gate bias": {"fill": (r"gate_proj\.bias", 0.0)},
          "up bias": {"fill": (r"up_proj\.bias", 0.0)}, "down bias": {"fill": (r"down_proj\.bias", 0.0)}}, dtype="bfloat16"),
    # 3 heads of 10 on a width of 36, 30 wide inside: nothing is a multiple of 8.
    Case("llama_head_dim", "llama", base(hidden_size=36, num_attention_heads=3, num_key_value_heads=1, head_dim=10, intermediate_size=35,
                                         tie_word_embeddings=True, rope_parameters=DEFAULT_ROPE), dtype="bfloat16"),
    Case("llama_pruned", "llama", base(num_hidden_layers=3, head_dim=8, intermediate_size=39, tie_word_embeddings=True, rope_parameters=DEFAULT_ROPE),
         per_layer={"1": {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 27},
                    "2": {"num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 12}}, dtype="bfloat16"),
]

LLAMA_LIKE_CASES = [
    Case("mistral", "mistral", base(sliding_window=7, hidden_size=24, intermediate_size=33, tie_word_embeddings=True, head_dim=8,
                                    rope_parameters=DEFAULT_ROPE),
         {"sliding window": {"config": {"sliding_window": None}}, "window one longer": {"config": {"sliding_window": 8}},
          "window one shorter": {"config": {"sliding_window": 6}}}),
    Case("qwen2", "qwen2", base(hidden_size=28, intermediate_size=21, tie_word_embeddings=True, use_sliding_window=False, sliding_window=5,
                                max_window_layers=1, num_attention_heads=2, num_key_value_heads=1, rope_parameters=DEFAULT_ROPE),
         {"q bias": {"fill": (r"q_proj\.bias", 0.0)}, "k bias": {"fill": (r"k_proj\.bias", 0.0)}, "v bias": {"fill": (r"v_proj\.bias", 0.0)},
          "window wrongly on": {"config": {"use_sliding_window": True, "layer_types": None}}}),
    Case("qwen2_window", "qwen2", base(hidden_size=28, intermediate_size=37, use_sliding_window=True, sliding_window=5, max_window_layers=1,
                                       num_attention_heads=2, num_key_value_heads=1, rope_parameters=DEFAULT_ROPE),
         {"window off": {"config": {"use_sliding_window": False, "layer_types": None}},
          "window in every layer": {"config": {"max_window_layers": 0, "layer_types": None}}}, dtype="bfloat16"),
    Case("qwen3", "qwen3", base(hidden_size=24, intermediate_size=29, head_dim=8, tie_word_embeddings=True, rope_parameters=DEFAULT_ROPE),
         {"q norm": {"fill": (r"q_norm", 1.0)}, "k norm": {"fill": (r"k_norm", 1.0)}}),
    Case("mixtral", "mixtral", base(hidden_size=24, intermediate_size=18, num_local_experts=4, num_experts_per_tok=2, head_dim=8,
                                    tie_word_embeddings=False, rope_parameters=DEFAULT_ROPE, sliding_window=None),
         {"top 1": {"config": {"num_experts_per_tok": 1}}, "top 3": {"config": {"num_experts_per_tok": 3}}}, dtype="bfloat16"),
]

GEMMA_CASES = [
    Case("gemma2", "gemma2", base(hidden_size=24, intermediate_size=29, head_dim=8, query_pre_attn_scalar=5, sliding_window=6,
                                  attn_logit_softcapping=3.0, final_logit_softcapping=4.0, rope_parameters=DEFAULT_ROPE, pad_token_id=0),
         {"attention soft-cap": {"config": {"attn_logit_softcapping": None}}, "final soft-cap": {"config": {"final_logit_softcapping": None}},
          "query_pre_attn_scalar": {"config": {"query_pre_attn_scalar": 8}}, "window off": {"config": {"sliding_window": 64}},
          "window in every layer": {"config": {"layer_types": ["sliding_attention"] * 2}},
          "windows swapped": {"config": {"layer_types": ["full_attention", "sliding_attention"]}},
          "exact gelu": {"config": {"hidden_activation": "gelu"}, "min_change": 2e-4}, "silu": {"config": {"hidden_activation": "silu"}},
          "norm after attention": {"fill": (r"post_attention_layernorm", 0.0)},
          "norm before ff": {"fill": (r"pre_feedforward_layernorm", 0.0)},
          "norm after ff": {"fill": (r"post_feedforward_layernorm", 0.0)}}),
    Case("gemma3", "gemma3_text", base(num_hidden_layers=3, hidden_size=20, intermediate_size=27, head_dim=12, num_attention_heads=2,
                                       num_key_value_heads=1, query_pre_attn_scalar=7, sliding_window=6, sliding_window_pattern=3, pad_token_id=0,
                                       rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 3000.0},
                                                        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}),
         {"window off": {"config": {"sliding_window": 64}}, "window in every layer": {"config": {"layer_types": ["sliding_attention"] * 3}},
          "one theta": {"config": {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 3000.0},
                                                       "sliding_attention": {"rope_type": "default", "rope_theta": 3000.0}}}},
          "rope scaling": {"config": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 3000.0},
                                                          "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}}},
          "rope scaling everywhere": {"config": {"rope_parameters": {
              "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 3000.0},
              "sliding_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 50.0}}}},
          "q norm": {"fill": (r"q_norm", 0.0)}, "k norm": {"fill": (r"k_norm", 0.0)},
          "query_pre_attn_scalar": {"config": {"query_pre_attn_scalar": 12}}, "exact gelu": {"config": {"hidden_activation": "gelu"}, "min_change": 2e-4}}),
]

LONG = [1.0, 2.5, 4.0]
SHORT = [1.0, 1.1, 1.3]
OTHER_CASES = [
    Case("phi3", "phi3", base(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=40, tie_word_embeddings=False,
                              pad_token_id=0, rope_parameters={**DEFAULT_ROPE, "partial_rotary_factor": 0.75}, original_max_position_embeddings=64,
                              sliding_window=9),
         {"partial rotary": {"config": {"rope_parameters": {**DEFAULT_ROPE, "partial_rotary_factor": 0.5}}},
          "sliding window": {"config": {"sliding_window": None}},
          "order of q, k, v": {"rolled": (r"qkv_proj", 16)}, "order of gate, up": {"rolled": (r"gate_up_proj", 40)}}, dtype="bfloat16"),
    Case("phi3_longrope", "phi3", base(hidden_size=32, num_attention_heads=4, num_key_value_heads=4, intermediate_size=40, tie_word_embeddings=False,
                                       pad_token_id=0, original_max_position_embeddings=16,
                                       rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
                                                        "short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 16}),
         {"short factors for a long text": {"config": {"rope_parameters": {
             "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75, "short_factor": SHORT, "long_factor": SHORT,
             "original_max_position_embeddings": 16}}},
          "attention factor": {"config": {"rope_parameters": {
             "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75, "short_factor": SHORT, "long_factor": LONG,
             "original_max_position_embeddings": 16, "attention_factor": 1.0}}}}, dtype="bfloat16", n_tokens_short=12),
    Case("gpt2", "gpt2", dict(vocab_size=97, n_embd=24, n_layer=2, n_head=3, n_inner=38, n_positions=40, layer_norm_epsilon=1e-2, bos_token_id=1,
                              eos_token_id=2),
         {"exact gelu": {"config": {"activation_function": "gelu"}}, "positions": {"fill": (r"wpe", 0.0)}, "biases": {"fill": (r"\.bias", 0.0)},
          "layer_norm_epsilon": {"config": {"layer_norm_epsilon": 1e-5}}}),
    Case("gpt2_bare_names", "gpt2", dict(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2),
         {"positions": {"fill": (r"wpe", 0.0)}}, strip_prefix="transformer."),
    Case("gpt_neox", "gpt_neox", dict(vocab_size=97, hidden_size=32, intermediate_size=38, num_hidden_layers=2, num_attention_heads=2,
                                      max_position_embeddings=64, layer_norm_eps=1e-5, use_parallel_residual=True, bos_token_id=1, eos_token_id=2,
                                      rope_parameters={**DEFAULT_ROPE, "partial_rotary_factor": 0.25}),
         {"parallel residual": {"config": {"use_parallel_residual": False}}, "tanh gelu": {"config": {"hidden_act": "gelu_new"}, "min_change": 5e-4},
          "partial rotary": {"config": {"rope_parameters": {**DEFAULT_ROPE, "partial_rotary_factor": 1.0}}},
          "biases": {"fill": (r"(query_key_value|dense\w*)\.bias", 0.0)}, "order of heads and q, k, v": {"rolled": (r"query_key_value", 16)}},
         dtype="bfloat16"),
    Case("gpt_neox_sequential", "gpt_neox", dict(vocab_size=97, hidden_size=32, intermediate_size=38, num_hidden_layers=2, num_attention_heads=4,
                                                 max_position_embeddings=64, use_parallel_residual=False, tie_word_embeddings=True, bos_token_id=1,
                                                 eos_token_id=2, rope_parameters={**DEFAULT_ROPE, "partial_rotary_factor": 0.5}),
         {"parallel residual": {"config": {"use_parallel_residual": True}}}, dtype="bfloat16"),
    Case("opt", "opt", dict(vocab_size=97, hidden_size=24, ffn_dim=34, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=40,
                            word_embed_proj_dim=24, bos_token_id=1, eos_token_id=2, pad_token_id=1),
         {"offset of positions": {"rolled": (r"embed_positions", 1)}, "gelu": {"config": {"activation_function": "gelu"}},
          "norm order": {"config": {"do_layer_norm_before": False}}, "biases": {"fill": (r"\.bias", 0.0)}}),
    Case("opt_post_norm", "opt", dict(vocab_size=97, hidden_size=32, ffn_dim=34, num_hidden_layers=2, num_attention_heads=4, bos_token_id=1,
                                      eos_token_id=2, pad_token_id=1, max_position_embeddings=40, word_embed_proj_dim=20, do_layer_norm_before=False),
         {"offset of positions": {"rolled": (r"embed_positions", 1)}}, dtype="float16"),
]

LFM2_CASES = [
    # Convolutions around an attention; 28 channels, 4 taps, biases; the feed-forward's width as transformers adjusts it: 2 * 70 / 3 up to a multiple of 10.
    Case("lfm2", "lfm2", base(hidden_size=28, intermediate_size=70, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, norm_eps=1e-2,
                              layer_types=["conv", "full_attention", "conv"], conv_L_cache=4, conv_bias=True, block_multiple_of=10,
                              block_ffn_dim_multiplier=1.2, tie_word_embeddings=True, rope_parameters=DEFAULT_ROPE),
         {"conv bias": {"fill": (r"conv\.conv\.bias", 0.0)}, "in_proj bias": {"fill": (r"in_proj\.bias", 0.0)}, "out_proj bias": {"fill": (r"conv\.out_proj\.bias", 0.0)},
          "order of b, c, x": {"rolled": (r"in_proj", 28)}, "q norm": {"fill": (r"q_layernorm", 1.0)}, "k norm": {"fill": (r"k_layernorm", 1.0)}}),
    # As the first checkpoints say it: the attending layers by number, no adjustment, head and embedding apart.
    Case("lfm2_plain", "lfm2", base(hidden_size=24, intermediate_size=33, num_hidden_layers=4, layer_types=["conv", "conv", "full_attention", "conv"], conv_L_cache=3,
                                    block_auto_adjust_ff_dim=False, tie_word_embeddings=False, rope_parameters=DEFAULT_ROPE), dtype="bfloat16"),
]

CASES = LLAMA_CASES + LLAMA_LIKE_CASES + GEMMA_CASES + OTHER_CASES + LFM2_CASES
