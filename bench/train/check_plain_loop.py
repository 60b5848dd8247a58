#!/usr/bin/env python3
"""Is the plain loop right? Its loss and gradients against transformers on tests/data/models/llama, accumulation against one large batch,
token files as they are drawn in src/corpus/token_file.h, a saved model in transformers. Needs transformers besides what plain_loop.py needs."""
import argparse
import pathlib
import struct
import tempfile

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import plain_loop

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "models" / "llama"
OPTIONS = dict(lr=1e-2, min_lr=1e-3, warmup=2, steps=4, weight_decay=0.1, clip=1.0, dtype="float32")


def loss_of(model, ids):
    return model(ids[None, :-1], ids[None, 1:])


def after_steps(windows, batch, accumulate):
    """The weights after two updates of batch * accumulate windows each, and the losses."""
    o = argparse.Namespace(**OPTIONS, batch=batch, accumulate=accumulate)
    model, _ = plain_loop.load_model(FOLDER, 64)
    optimizer = plain_loop.make_optimizer(model, o)
    losses = [plain_loop.train_step(model, optimizer, part, o) for part in windows.chunk(2)]
    return torch.cat([p.detach().flatten() for p in model.parameters()]), losses


torch.manual_seed(0)
ids = load_file(FOLDER / "golden.safetensors")["input_ids"]
ours, c = plain_loop.load_model(FOLDER, 64)
theirs = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, attn_implementation="eager").eval()
loss, expected = loss_of(ours, ids), theirs(ids[None], labels=ids[None]).loss
print(f"loss {loss.item():.7f}, transformers {expected.item():.7f}")
assert abs(loss - expected) < 1e-5
loss.backward()
expected.backward()
reference = dict(theirs.named_parameters())
worst = max(((p.grad - reference[n].grad).norm() / reference[n].grad.norm()).item() for n, p in ours.named_parameters())
print(f"gradients: largest relative difference {worst:.1e}")
assert worst < 1e-5

windows = torch.randint(3, 97, (16, 33))
(whole, losses), (parts, losses_of_parts) = after_steps(windows, 8, 1), after_steps(windows, 2, 4)
print(f"one batch of 8: losses {losses}; 4 of 2: {losses_of_parts}; weights differ by {(whole - parts).abs().max():.1e}")
assert max(abs(a - b) for a, b in zip(losses, losses_of_parts)) < 1e-5 and (whole - parts).abs().max() < 1e-5

for width in (2, 4):
    with tempfile.NamedTemporaryFile(suffix=".bin") as f:
        f.write(struct.pack("<8sIIQ5Q", b"SKIFFTOK", 1, width, 300, 1, 1000, 0, 0, 0) + np.arange(700, 1000).astype(f"<u{width}").tobytes())
        f.flush()
        assert plain_loop.read_tokens(f.name).tolist() == list(range(700, 1000))

with tempfile.TemporaryDirectory() as folder:
    plain_loop.save_model(ours, c, 64, folder)
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert abs(again(ids[None], labels=ids[None]).loss - loss) < 1e-5
print("all as it should be")
