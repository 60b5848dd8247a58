"""Writes tests/data/train/optimizers.json: five steps of torch's AdamW and Muon on a few small matrices with given gradients.

    python tests/golden/optimizers.py

The form of the file is in README.md beside this file.
"""

import inspect
import json
import pathlib

import numpy as np
import torch
from torch.optim import AdamW, Muon, _muon as muon_module

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "train" / "optimizers.json"
STEPS = 5
SHAPES = {"wide": (3, 5), "tall": (8, 4), "square": (4, 4), "vector": (7,)}
NO_DECAY = {"vector"}
GRADIENT_SIZES = [0.3, 5.0, 0.02, 1.0, 0.2]     # of the steps, so that a clip at 1 acts at some and not at others
FALLING = [0.02, 0.04, 0.03, 0.01, 0.002]
FLAT = [0.01] * STEPS

CASES = [
    dict(name="adamw", optimizer="adamw", lr=FLAT, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.01, clip=None),
    dict(name="adamw_clipped", optimizer="adamw", lr=FALLING, betas=[0.9, 0.95], eps=1e-5, weight_decay=0.3, clip=1.0),
    # Muon's iteration runs in bfloat16. The same source with float32 in its place tells an error of ours from that rounding.
    dict(name="muon", optimizer="muon", lr=FLAT, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="original", iteration="bfloat16"),
    dict(name="muon_float32", optimizer="muon", lr=FLAT, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="original", iteration="float32"),
    dict(name="muon_rms", optimizer="muon", lr=FALLING, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw",
         iteration="bfloat16"),
    dict(name="muon_rms_float32", optimizer="muon", lr=FALLING, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw",
         iteration="float32"),
    dict(name="muon_plain_momentum", optimizer="muon", lr=FLAT, weight_decay=0.0, momentum=0.8, nesterov=False, adjust_lr_fn="match_rms_adamw",
         iteration="float32"),
]

iteration_bfloat16 = muon_module._zeropower_via_newtonschulz
source = inspect.getsource(iteration_bfloat16)
assert source.count("torch.bfloat16") == 1
exec(compile(source.replace("torch.bfloat16", "torch.float32"), "muon in float32", "exec"), vars(muon_module))
iteration_float32 = muon_module._zeropower_via_newtonschulz


def numbers(tensor):
    """The shortest decimals that are these float32, also for a reader that takes them as doubles first."""
    array = tensor.detach().numpy().flatten()
    values = [float(str(v)) for v in array]
    assert np.array_equal(np.array(values, np.float64).astype(np.float32), array)
    return values


def make_inputs():
    rng = np.random.default_rng(20)
    before = {name: torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) for name, shape in SHAPES.items()}
    # Gradients of successive steps resemble each other, or momentum would not matter.
    common = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    gradients = {name: [torch.from_numpy((size * (0.6 * common[name] + 0.8 * rng.standard_normal(shape))).astype(np.float32))
                        for size in GRADIENT_SIZES] for name, shape in SHAPES.items()}
    gradients["square"][0].zero_()      # nothing may be divided by its norm, or by a second moment of zero
    return before, gradients


def run(case, before, gradients):
    names = [n for n in SHAPES if case["optimizer"] == "adamw" or n != "vector"]
    parameters = {n: torch.nn.Parameter(before[n].clone()) for n in names}
    if case["optimizer"] == "adamw":
        groups = [{"params": [p for n, p in parameters.items() if n not in NO_DECAY], "weight_decay": case["weight_decay"]},
                  {"params": [p for n, p in parameters.items() if n in NO_DECAY], "weight_decay": 0.0}]
        optimizer = AdamW(groups, betas=tuple(case["betas"]), eps=case["eps"])
    else:
        muon_module._zeropower_via_newtonschulz = iteration_float32 if case["iteration"] == "float32" else iteration_bfloat16
        optimizer = Muon(parameters.values(), weight_decay=case["weight_decay"], momentum=case["momentum"], nesterov=case["nesterov"],
                         adjust_lr_fn=case["adjust_lr_fn"])
    after, norms = {n: [] for n in names}, []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = case["lr"][step]
        for n, p in parameters.items():
            p.grad = gradients[n][step].clone()
        if case.get("clip"):
            norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), case["clip"]).item())
        optimizer.step()
        for n, p in parameters.items():
            after[n].append(numbers(p))
    return {**case, **({"norms_before_clip": norms} if norms else {}), "after": after}


def main():
    torch.set_num_threads(1)
    before, gradients = make_inputs()
    parameters = {n: {"shape": list(SHAPES[n]), "decay": n not in NO_DECAY, "before": numbers(before[n]), "gradients": [numbers(g) for g in gradients[n]]}
                  for n in SHAPES}
    results = [run(case, before, gradients) for case in CASES]
    clipped = next(r for r in results if r["name"] == "adamw_clipped")["norms_before_clip"]
    assert min(clipped) < 1 < max(clipped)
    assert not any(np.isnan(v).any() for r in results for v in r["after"].values())
    lines = [f' "torch": {json.dumps(torch.__version__)}', ' "parameters": {\n' + ",\n".join(f"  {json.dumps(n)}: {json.dumps(p)}" for n, p in parameters.items()) + "\n }",
             ' "cases": [\n' + ",\n".join(f"  {json.dumps(r)}" for r in results) + "\n ]"]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    by_name = {r["name"]: r["after"] for r in results}
    for n in ("wide", "tall", "square"):
        for kind in ("muon", "muon_rms"):
            a, b, start = np.array(by_name[kind][n][-1]), np.array(by_name[kind + "_float32"][n][-1]), np.array(parameters[n]["before"])
            print(f"{kind} {n}: five steps in bfloat16 and float32 differ by {np.linalg.norm(a - b) / np.linalg.norm(b - start):.1e} of the way")


if __name__ == "__main__":
    main()
