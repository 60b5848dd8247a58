#!/usr/bin/env python3
"""What training is compared with: a Llama in plain PyTorch and the loop that one writes for it, with nothing of ours.

    # the same weights, the same windows in the same order, the same schedule as a run of ours
    skiff train ... --dump-windows windows.txt
    plain_loop.py --init FOLDER --tokens corpus.bin --windows windows.txt --context 512 --batch 16 --accumulate 1 --steps 200 \
        --lr 1e-3 --warmup 20 --dtype bfloat16 --threads 2 --csv plain.csv --save OUT
    # speed alone, with random tokens and fresh weights
    plain_loop.py --layers 4 --d-model 512 --heads 8 --kv-heads 2 --d-ff 1024 --vocab 4096 --context 512 --batch 16 --steps 5 --threads 2

Needs torch, numpy, safetensors. FOLDER has config.json and model.safetensors as Hugging Face writes them. A line of --windows is the index of a
window's first token; a window is context + 1 tokens. --compile wraps the model in torch.compile; its first step then takes long, which "steady" leaves out.
To be fair set MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184: glibc then keeps the large blocks from step to step (about 10 %).
Prints step, loss and seconds since the first step began, then tokens/s, seconds and peak resident memory.
"""
import argparse
import csv
import json
import math
import pathlib
import resource
import struct
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.n_heads, self.n_kv, self.head_dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        self.q_proj = nn.Linear(c["hidden_size"], self.n_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(c["hidden_size"], self.n_kv * self.head_dim, bias=False)
        self.v_proj = nn.Linear(c["hidden_size"], self.n_kv * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.n_heads * self.head_dim, c["hidden_size"], bias=False)

    def forward(self, x, cos, sin):     # x (batch, time, d_model); cos, sin (time, head_dim)
        b, t, _ = x.shape
        q, k, v = (w(x).view(b, t, n, self.head_dim).transpose(1, 2)
                   for w, n in ((self.q_proj, self.n_heads), (self.k_proj, self.n_kv), (self.v_proj, self.n_kv)))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)     # on the CPU the fused kernel too
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return (x * cos + torch.cat((-b, a), -1) * sin).to(x.dtype)


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = MLP(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):      # so that the names are those of the checkpoint
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Block(c) for _ in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])


class Llama(nn.Module):
    def __init__(self, c, context):
        super().__init__()
        self.model = Body(c)
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        if c["tie_word_embeddings"]:
            self.lm_head.weight = self.model.embed_tokens.weight
        frequencies = c["rope_theta"] ** (-torch.arange(0, c["head_dim"], 2) / c["head_dim"])
        angles = torch.outer(torch.arange(context), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, 0.0, 0.02 / math.sqrt(2 * c["num_hidden_layers"]) if residual else 0.02)

    def forward(self, inputs, targets):     # both (batch, time); returns the mean loss
        x = self.model.embed_tokens(inputs)
        cos, sin = self.cos[:inputs.shape[1]], self.sin[:inputs.shape[1]]
        for block in self.model.layers:
            x = block(x, cos, sin)
        logits = self.lm_head(self.model.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def read_config(folder):
    c = json.loads((pathlib.Path(folder) / "config.json").read_text())
    rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
    assert c["model_type"] == "llama" and c.get("hidden_act", "silu") == "silu" and not c.get("attention_bias") and not c.get("mlp_bias")
    assert rope.get("rope_type", "default") == "default" and "per_layer_config" not in c, "only the plain Llama"
    return {**{k: c[k] for k in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")},
            "num_key_value_heads": c.get("num_key_value_heads") or c["num_attention_heads"],
            "head_dim": c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"], "rms_norm_eps": c.get("rms_norm_eps", 1e-6),
            "rope_theta": rope.get("rope_theta") or c.get("rope_theta", 10000.0), "tie_word_embeddings": c.get("tie_word_embeddings", False)}


def load_model(folder, context):
    c = read_config(folder)
    model = Llama(c, context)
    missing, unexpected = model.load_state_dict({k: v.float() for k, v in load_file(pathlib.Path(folder) / "model.safetensors").items()}, strict=False)
    assert not unexpected and set(missing) <= ({"lm_head.weight"} if c["tie_word_embeddings"] else set()), (missing, unexpected)
    return model, c


def save_model(model, c, context, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().contiguous() for k, v in model.state_dict().items() if not (c["tie_word_embeddings"] and k == "lm_head.weight")}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    config = {**c, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "max_position_embeddings": context,
              "torch_dtype": "float32", "bos_token_id": None, "eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def make_optimizer(model, o):
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": o.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=o.lr, betas=(0.9, 0.95), eps=1e-8, fused=True)


def learning_rate(step, o):
    if step < o.warmup:
        return o.lr * (step + 1) / o.warmup
    done = (step - o.warmup) / max(1, o.steps - o.warmup)
    return o.min_lr + 0.5 * (o.lr - o.min_lr) * (1 + math.cos(math.pi * done))


def train_step(model, optimizer, windows, o):
    """One update from the windows (batch * accumulate, context + 1); returns their mean loss."""
    total = 0.0
    optimizer.zero_grad(set_to_none=True)
    for part in windows.split(o.batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=o.dtype == "bfloat16"):
            loss = model(part[:, :-1].contiguous(), part[:, 1:].contiguous())
        (loss / o.accumulate).backward()
        total += loss.item() / o.accumulate
    torch.nn.utils.clip_grad_norm_(model.parameters(), o.clip)
    optimizer.step()
    return total


def read_tokens(path):      # the format is drawn in src/corpus/token_file.h
    with open(path, "rb") as f:
        magic, version, width, count = struct.unpack("<8sIIQ", f.read(24))
    assert magic == b"SKIFFTOK" and version == 1 and width in (2, 4), f"{path} is no token file"
    return np.memmap(path, "<u2" if width == 2 else "<u4", "r", offset=64, shape=(count,))


def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--init")
    for name, value in dict(layers=4, d_model=512, heads=8, kv_heads=2, head_dim=0, d_ff=1024, vocab=4096, context=512, batch=16, accumulate=1, steps=10,
                            warmup=10, threads=2, seed=1).items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    for name, value in dict(lr=1e-3, min_lr=0.0, weight_decay=0.1, clip=1.0, rope_theta=10000.0, rms_norm_eps=1e-5).items():
        p.add_argument("--" + name.replace("_", "-"), type=float, default=value)
    p.add_argument("--tokens", help="a packed token file; without it the tokens are random")
    p.add_argument("--windows", help="first token of each window, one a line; without it windows are drawn at random")
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--csv")
    p.add_argument("--save")
    return p.parse_args()


def main():
    o = parse_arguments()
    torch.set_num_threads(o.threads)
    torch.manual_seed(o.seed)
    rng = np.random.default_rng(o.seed)
    if o.init:
        model, c = load_model(o.init, o.context)
    else:
        c = dict(vocab_size=o.vocab, hidden_size=o.d_model, intermediate_size=o.d_ff, num_hidden_layers=o.layers, num_attention_heads=o.heads,
                 num_key_value_heads=o.kv_heads, head_dim=o.head_dim or o.d_model // o.heads, rms_norm_eps=o.rms_norm_eps, rope_theta=o.rope_theta,
                 tie_word_embeddings=True)
        model = Llama(c, o.context)
    optimizer = make_optimizer(model, o)
    tokens = read_tokens(o.tokens) if o.tokens else rng.integers(0, c["vocab_size"], 1 << 20)
    per_step = o.batch * o.accumulate
    starts = np.loadtxt(o.windows, np.int64, ndmin=1) if o.windows else rng.integers(0, len(tokens) - o.context, o.steps * per_step)
    assert len(starts) >= o.steps * per_step, f"{len(starts)} windows, {o.steps * per_step} needed"
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {per_step * o.context} tokens a step, {o.dtype}, {o.threads} threads"
          + (", compiled" if o.compile else ""))
    forward = torch.compile(model) if o.compile else model

    rows, begin = [], time.perf_counter()
    for step in range(o.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, o)
        first = starts[step * per_step:(step + 1) * per_step]
        windows = torch.from_numpy(np.stack([tokens[i:i + o.context + 1] for i in first]).astype(np.int64))
        loss = train_step(forward, optimizer, windows, o)
        rows.append((step + 1, loss, time.perf_counter() - begin))
        print(f"{rows[-1][0]} {loss:.6f} {rows[-1][2]:.3f}", flush=True)
    seconds = rows[-1][2]
    each = np.diff([0.0] + [row[2] for row in rows])
    later = each[1:] if o.steps > 1 else each
    print(f"tokens/s {o.steps * per_step * o.context / seconds:.0f}, steady (without the first step) {per_step * o.context / later.mean():.0f}, "
          f"fastest step {per_step * o.context / later.min():.0f}, seconds {seconds:.2f}, "
          f"peak RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    if o.csv:
        with open(o.csv, "w", newline="") as f:
            csv.writer(f).writerows([("step", "loss", "seconds"), *rows])
    if o.save:
        save_model(model, c, o.context, o.save)


if __name__ == "__main__":
    main()
