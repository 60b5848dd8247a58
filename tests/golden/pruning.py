#!/usr/bin/env python3
"""Reference formulas of Wanda and SparseGPT in numpy, on weights and inputs that the test makes in the same way.

    python3 tests/golden/pruning.py > tests/data/compress/pruning.json

Wanda (Sun et al. 2023): |W| * ||X_j||, the smallest of every row go. SparseGPT (Frantar, Alistarh 2023), as in its algorithm 1: the inverse of the damped
second moments, its Cholesky factor U, blocks of 128 columns, the mask of a block (or of every m columns) from w^2 / U_kk^2, the errors of a block to the columns
behind it. Rows choose by themselves, with as many in each block as bring them to their share.
"""
import json
import sys

import numpy as np

N_ROWS, N_COLUMNS, N_TOKENS = 5, 160, 400


def numbers(n, seed):
    """xorshift64*, the upper 24 bits as -1 .. 1: the test has the same."""
    out, state = [], seed
    for _ in range(n):
        state ^= state >> 12
        state = (state ^ (state << 25)) & (2**64 - 1)
        state ^= state >> 27
        out.append((((state * 2685821657736338717) & (2**64 - 1)) >> 40) / 2**23 - 1)
    return np.array(out)


def inputs():
    x = numbers(N_TOKENS * N_COLUMNS, 11).reshape(N_TOKENS, N_COLUMNS)
    for c in range(1, N_COLUMNS):  # neighbours go together, and columns have sizes of their own
        x[:, c] = 0.6 * x[:, c - 1] + x[:, c]
    return x * (0.25 + np.arange(N_COLUMNS) % 7)


def wanda(w, x, keep):
    score = np.abs(w) * np.sqrt((x**2).mean(0))
    return np.where(keep(score), w, 0)


def best(score, kept):
    mask = np.zeros_like(score, bool)
    order = np.argsort(-score, axis=1, kind="stable")[:, :kept]
    np.put_along_axis(mask, order, True, 1)
    return mask


def sparsegpt(w, x, n_kept_until, n_of_m=None, block=128):
    n = w.shape[1]
    h = x.T @ x / len(x)
    h += 0.01 * np.mean(np.diag(h)) * np.eye(n)
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    w = w.copy()
    for i1 in range(0, n, block):
        i2 = min(i1 + block, n)
        err = np.zeros((w.shape[0], i2 - i1))
        for i in range(i1, i2):
            if n_of_m and (i - i1) % n_of_m[1] == 0:
                e = min(i + n_of_m[1], i2)
                mask = best(w[:, i:e] ** 2 / np.diag(u)[i:e] ** 2, n_of_m[0])
                first = i
            elif not n_of_m and i == i1:
                mask = best(w[:, i1:i2] ** 2 / np.diag(u)[i1:i2] ** 2, n_kept_until(i2) - n_kept_until(i1))
                first = i1
            q = np.where(mask[:, i - first], w[:, i], 0)
            e1 = (w[:, i] - q) / u[i, i]
            w[:, i:i2] -= np.outer(e1, u[i, i:i2])
            w[:, i] = q
            err[:, i - i1] = e1
        w[:, i2:] -= err @ u[i1:i2, i2:]
    return w


def main():
    w = numbers(N_ROWS * N_COLUMNS, 5).reshape(N_ROWS, N_COLUMNS)
    w = w.astype(np.float32).astype(np.float64)
    x = inputs()
    half = N_COLUMNS // 2
    two_of_four = lambda s: np.concatenate([best(s[:, i : i + 4], 2) for i in range(0, N_COLUMNS, 4)], axis=1)
    results = {
        "wanda 50%": wanda(w, x, lambda s: best(s, half)),
        "wanda 2:4": wanda(w, x, two_of_four),
        "sparsegpt 50%": sparsegpt(w, x, lambda c: (half * c + N_COLUMNS // 2) // N_COLUMNS),
        "sparsegpt 2:4": sparsegpt(w, x, None, (2, 4)),
    }
    json.dump({k: [[float(f"{v:.6g}") for v in row] for row in m] for k, m in results.items()}, sys.stdout, indent=None)
    print()


if __name__ == "__main__":
    main()
