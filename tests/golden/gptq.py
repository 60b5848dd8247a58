"""Writes tests/data/compress/gptq.json: codes by GPTQ as its paper has it (Frantar et al. 2022, algorithm 1), in float64 with the inverse of the Hessian.

    python tests/golden/gptq.py

The form of the file is in README.md beside this file.
"""

import json
import pathlib

import numpy as np

OUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "compress" / "gptq.json"
ROWS, COLUMNS, TOKENS, DAMPING = 7, 48, 200, 0.01

CASES = [
    dict(name="by_inputs", bits=3, group=16, order="by_inputs"),
    dict(name="as_stored", bits=3, group=16, order="as_stored"),
    dict(name="by_groups", bits=3, group=16, order="by_groups"),
    dict(name="by_groups_short", bits=2, group=20, order="by_groups"),
    dict(name="short_last_group", bits=4, group=32, order="by_inputs"),
    dict(name="rows", bits=2, group=0, order="by_inputs"),
]


def scale_of(weights, bits):
    return np.float64(np.float16(np.abs(weights).max() / (2 ** (bits - 1) - 1)))


def gptq(w, h, bits, group, order):
    n = w.shape[1]
    group = group or n
    h = h + DAMPING * h.diagonal().mean() * np.eye(n)
    visit = np.arange(n) if order == "as_stored" else np.argsort(-h.diagonal(), kind="stable")
    if order == "by_groups":
        sums = [h.diagonal()[g:g + group].sum() for g in range(0, n, group)]
        visit = np.array(sorted(visit, key=lambda column: -sums[column // group]))
    inverse = np.linalg.cholesky(np.linalg.inv(h[visit][:, visit])).T  # upper
    middle = 2 ** (bits - 1)
    codes = np.zeros(w.shape, dtype=int)
    for row in range(w.shape[0]):
        scales = [scale_of(w[row, g:g + group], bits) for g in range(0, n, group)]
        moved = w[row, visit].copy()
        for k, column in enumerate(visit):
            if order != "by_inputs" and (k == 0 or visit[k - 1] // group != column // group):
                scales[column // group] = scale_of(moved[k:k + np.sum(visit // group == column // group)], bits)
            scale = scales[column // group]
            level = np.clip(np.rint(moved[k] / scale), -middle, middle - 1)
            codes[row, column] = level + middle
            error = (moved[k] - level * scale) / inverse[k, k]
            moved[k:] -= error * inverse[k, k:]
    return codes


def main():
    rng = np.random.default_rng(5)
    mix = rng.normal(size=(COLUMNS, COLUMNS)) * np.exp(rng.normal(size=COLUMNS))[None, :] / 4 + np.eye(COLUMNS)
    x = np.rint(rng.normal(size=(TOKENS, COLUMNS)) @ mix * 4).astype(int)
    x[:, 11] = 0  # a dead channel
    sums = x.T @ x
    w = np.rint(rng.normal(size=(ROWS, COLUMNS)) * 300).astype(int)
    document = {"rows": ROWS, "columns": COLUMNS, "tokens": TOKENS, "damping": DAMPING, "weights_1024": w.ravel().tolist(), "sums": sums.ravel().tolist(), "cases": []}
    for case in CASES:
        codes = gptq(w / 1024, sums / TOKENS, case["bits"], case["group"], case["order"])
        document["cases"].append({**case, "codes": codes.ravel().tolist()})
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(document, separators=(",", ":")) + "\n")


main()
