"""Children written as GGUF, judged by llama.cpp and by the gguf package.

Usage: python tests/golden/gguf_children.py SKIFF WORK MODEL...
SKIFF is the program, WORK a scratch folder, each MODEL a Hugging Face folder of a llama (models/pocket).
Needs: numpy, gguf, safetensors, llama-cpp-python (0.3.36).

For each model:
- F32 and F16 children: the same 128 greedy tokens as `skiff run --temp 0` after "Once upon a time", and the same ids for the prompt. For the others,
  where the texts part and by how much llama.cpp preferred its own token there: it rounds activations to bfloat16 for BF16 weights;
- w8, w4g32 and w4g32 asymmetric children: every tensor dequantizes to the same bits in both (the gguf package's blocks against the float32 folder
  that skiff writes from the GGUF file), and equals the quantized folder's weights where the blocks are exact;
- all: mean KL between llama.cpp's logits and ours with reference kernels over at least 2,000 held-out tokens, at most 1e-3 each way.
llama.cpp rounds activations to 8 bits in groups of 32 for 8- and 4-bit weights; the figures include that.
"""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from llama_cpp import Llama
from safetensors.numpy import load_file

HELDOUT = Path(__file__).resolve().parents[2] / "models/pocket/heldout.txt"
N_TOKENS = 2000
LIMIT = 1e-3
F32 = 0  # ggml's number, for the cache of keys and values


def skiff(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


def load(path, window):
    return Llama(str(path), n_ctx=window, n_batch=window, logits_all=True, type_k=F32, type_v=F32, n_threads=2, verbose=False)


def greedy(llama, prompt, n):
    llama.reset()
    tokens = llama.tokenize(prompt.encode(), add_bos=True)
    llama.eval(tokens)
    found, scores = [], []
    for _ in range(n):
        scores.append(np.array(llama.scores[llama.n_tokens - 1]))
        best = int(np.argmax(scores[-1]))
        found.append(best)
        if best == llama.token_eos():
            break
        llama.eval([best])
    return tokens, found, scores


def rope_rows(weight, head_dim):
    """GGUF's rows of q and k in the order of Hugging Face."""
    heads = weight.reshape(-1, head_dim // 2, 2, *weight.shape[1:])
    return heads.swapaxes(1, 2).reshape(weight.shape)


NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
         "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hf_name(name):
    base, suffix = name.rsplit(".", 1)
    if base in OUTER:
        return f"{OUTER[base]}.{suffix}"
    _, number, part = base.split(".")
    return f"model.layers.{number}.{NAMES[part]}.{suffix}"


def compare_tensors(program, gguf_path, work, head_dim, parent):
    """Bits of all tensors: the package's dequantization against ours; then how many equal the folder that the file was made from."""
    folder = work / (gguf_path.stem + "-f32")
    skiff(program, "convert", gguf_path, "--to", "hf", "--type", "F32", "-o", folder, "--force")
    ours = load_file(folder / "model.safetensors")
    exact = 0
    source = work / (gguf_path.stem + "-source-f32")
    skiff(program, "convert", parent, "--to", "hf", "--type", "F32", "-o", source, "--force")
    before = load_file(source / "model.safetensors")
    types = {}
    for tensor in GGUFReader(gguf_path).tensors:
        theirs = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape([int(n) for n in reversed(tensor.shape)])
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
            theirs = rope_rows(theirs, head_dim)
        name = hf_name(tensor.name)
        mine = ours.pop(name)
        assert np.array_equal(theirs.view(np.uint32) & 0x7FFFFFFF, mine.view(np.uint32) & 0x7FFFFFFF) and np.array_equal(theirs, mine), f"{gguf_path}: {tensor.name}"
        exact += np.array_equal(before[name], mine)
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
    assert not ours, list(ours)
    return {"types": types, "tensors": sum(types.values()), "equal_to_the_folder": int(exact)}


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def divergence(program, llama, gguf_path, work, window):
    n_windows = -(-N_TOKENS // (window - 1))
    file = work / (gguf_path.stem + ".logits")
    file.unlink(missing_ok=True)
    skiff(program, "eval", gguf_path, "--text", HELDOUT, "--kernels", "reference", "--window", window, "--max-windows", n_windows, "--save-logits", file)
    raw = file.read_bytes()
    length = int.from_bytes(raw[12:16], "little")
    header = json.loads(raw[16:16 + length])
    ours = np.frombuffer(raw, np.float32, offset=-(-(16 + length) // 4096) * 4096).reshape(-1, header["n_vocab"])
    tokens = llama.tokenize(HELDOUT.read_bytes(), add_bos=True)
    kl, reverse, top = [], [], []
    for w in range(n_windows):
        llama.reset()
        llama.eval(tokens[w * window:(w + 1) * window])
        p = log_softmax(np.array(llama.scores[:window - 1]))
        q = log_softmax(ours[w * (window - 1):(w + 1) * (window - 1)])
        kl.append((np.exp(p) * (p - q)).sum(-1))
        reverse.append((np.exp(q) * (q - p)).sum(-1))
        top.append(p.argmax(-1) == q.argmax(-1))
    kl, reverse, top = map(np.concatenate, (kl, reverse, top))
    return {"tokens": int(kl.size), "mean_kl": float(kl.mean()), "mean_kl_reverse": float(reverse.mean()), "max_kl": float(kl.max()), "top1": float(top.mean())}


def main():
    program, work = sys.argv[1], Path(sys.argv[2])
    work.mkdir(parents=True, exist_ok=True)
    for model in map(Path, sys.argv[3:]):
        config = json.loads((model / "config.json").read_text())
        head_dim = config["hidden_size"] // config["num_attention_heads"]
        window = min(256, config["max_position_embeddings"])
        for kind in ("F16", "BF16", "F32", "w8", "w8g32", "w4g32", "w4g32a", "Q4_K"):
            path, parent = work / f"{model.name}-{kind}.gguf", model
            options = ["--type", kind] if kind[0] != "w" else []
            if kind[0] == "w":
                parent = work / f"{model.name}-{kind}"
                skiff(program, "quantize", model, "--scheme", kind, "-o", parent, "--force")
            told = json.loads(skiff(program, "convert", parent, "--to", "gguf", *options, "-o", path, "--force", "--json"))
            llama = load(path, window)
            line = divergence(program, llama, path, work, window)
            prompt, theirs, scores = greedy(llama, "Once upon a time", 128)
            mine = json.loads(skiff(program, "run", path, "--raw", "-p", "Once upon a time", "-n", 128, "--temp", 0, "--json"))
            assert len(prompt) == mine["prompt_tokens"]
            line["greedy_tokens"], line["greedy_equal"] = len(theirs), theirs == mine["tokens"]
            parting = next((i for i, (a, b) in enumerate(zip(theirs, mine["tokens"])) if a != b), None)
            if parting is not None:
                line["texts_part_at"] = parting
                line["logit_gap_there"] = float(scores[parting].max() - scores[parting][mine["tokens"][parting]])
            line["notes"] = told["notes"]
            line.update(compare_tensors(program, path, work, head_dim, parent))
            print(model.name, kind, json.dumps(line), flush=True)
            assert kind not in ("F16", "F32") or line["greedy_equal"]
            assert line["mean_kl"] <= LIMIT and line["mean_kl_reverse"] <= LIMIT


if __name__ == "__main__":
    main()
