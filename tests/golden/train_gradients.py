"""Writes tests/data/models/*/gradients.safetensors: the gradients that transformers and autograd find for the tiny models of models.py.

    python tests/golden/train_gradients.py [case ...]

The form of the files is in README.md beside this file.
"""

import dataclasses
import json
import math
import pathlib
import sys
import tempfile

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from models import EXACT, OUT, logits_of, make_config, make_model, relative, write_checkpoint
from models_cases import CASES

MAX_SAMPLE = 256        # elements of one gradient that are kept
MAX_F64_ERROR = 1e-4    # what float32 may differ from float64 by, relative to the largest gradient of the tensor or a thousandth of the model's
TOTAL_BYTES = 700_000


def load(case):
    """The model as it lies on disk, in float32."""
    folder = OUT / case.name
    if not case.per_layer:
        return AutoModelForCausalLM.from_pretrained(folder, **EXACT).eval()
    model = make_model(case, make_config(case))
    missing, unexpected = model.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()}, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model


def gradients_of(model, ids):
    """The loss and, for each parameter, its gradient. eval(): dropout is off."""
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None  # opt's: it would hide the gradient of one row
    model.zero_grad(set_to_none=True)
    loss = F.cross_entropy(model(ids[None], use_cache=False).logits[0, :-1], ids[1:])
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def under_checkpoint_keys(case, model, gradients):
    """Saves the gradients as if they were weights, so that they get the names, cuts and orders that the checkpoint's tensors have."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(gradients[name])
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_checkpoint(dataclasses.replace(case, dtype="float32"), model, folder)
        state = load_file(folder / "model.safetensors")
        if not case.per_layer:
            again = AutoModelForCausalLM.from_pretrained(folder, **EXACT)
            assert all(torch.equal(p, gradients[name].float()) for name, p in again.named_parameters()), f"{case.name}: the names were mapped wrongly"
    if case.strip_prefix:
        del state["h.0.attn.bias"]      # the mask, which is no weight
    return state


def stride_for(tensor):
    """The least stride that keeps at most MAX_SAMPLE elements and, having no factor in common with any dimension, visits every row and column."""
    stride = -(-tensor.numel() // MAX_SAMPLE)
    while stride > 1 and any(math.gcd(stride, n) > 1 for n in tensor.shape):
        stride += 1
    return stride


def build(case):
    folder = OUT / case.name
    golden = load_file(folder / "golden.safetensors")
    model, ids = load(case), golden["input_ids"]
    assert relative(logits_of(model, ids.tolist()), golden["logits"]) < 1e-5, f"{case.name}: not the model of the golden logits"
    loss, gradients = gradients_of(model, ids)
    loss64, gradients64 = gradients_of(load(case).double(), ids)
    state, state64 = (under_checkpoint_keys(case, load(case), g) for g in (gradients, gradients64))
    assert state.keys() == load_file(folder / "model.safetensors").keys() - {"h.0.attn.bias"}

    largest = max(g.abs().max().item() for g in state.values())
    tensors, facts, worst = {"loss": loss.float()}, {}, 0.0
    for key, gradient in sorted(state.items()):
        scale = max(gradient.abs().max().item(), 1e-3 * largest)
        worst = max(worst, (gradient - state64[key]).abs().max().item() / scale)
        flat, stride = gradient.flatten(), stride_for(gradient)
        tensors[key] = flat[::stride].contiguous()
        facts[key] = {"stride": stride, "norm": flat.double().norm().item(), "sum": flat.double().sum().item(), "max": flat.abs().max().item()}
    assert worst < MAX_F64_ERROR and abs(loss - loss64) < 1e-6 * loss, f"{case.name}: float32 is {worst} from float64"
    path = folder / "gradients.safetensors"
    # One entry: the library writes several in no fixed order.
    save_file(tensors, path, {"gradients": json.dumps(facts, sort_keys=True)})
    zero = [key for key, gradient in state.items() if gradient.abs().max() < 1e-5 * largest]
    size = path.stat().st_size
    print(f"{case.name:20} {size / 1000:5.1f} kB  loss {loss:.6f}  largest {largest:.3g}  f64 {worst:.1e}" + (f"  as good as zero: {zero}" if zero else ""))
    return size


def main(names):
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    unknown = set(names) - {case.name for case in CASES}
    assert not unknown, f"unknown cases {unknown}"
    total = sum(build(case) for case in CASES if not names or case.name in names)
    print(f"total {total / 1000:.0f} kB")
    assert total < TOTAL_BYTES


if __name__ == "__main__":
    main(sys.argv[1:])
