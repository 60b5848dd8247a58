#!/usr/bin/env python3
"""Lloyd's iteration for books of vectors, in NumPy and doubles: tests/data/compress/vector_books.json for src/tensor/vector_books_test.cpp.

    python3 tests/golden/vector_books.py tests/data/compress/vector_books.json

All numbers are multiples of 1/64, so that both sides begin with the same.
"""
import json
import sys

import numpy as np


def step(x, w, books):
    """x, w: (n, d); books: (n_books, k, d). Assign by all sums of an entry of each book, then move book after book."""
    k = books.shape[1]
    sums = books[0] if len(books) == 1 else (books[0][:, None] + books[1][None]).reshape(k * k, -1)
    costs = (w[:, None] * (x[:, None] - sums[None]) ** 2).sum(2)
    best = costs.argmin(1)
    codes = [best] if len(books) == 1 else [best // k, best % k]
    cost = costs[np.arange(len(x)), best].sum()
    for b in range(len(books)):
        rest = x - (books[1 - b][codes[1 - b]] if len(books) == 2 else 0)
        for level in range(k):
            chosen = codes[b] == level
            assert chosen.any(), "an entry that nobody took: choose another seed"
            books[b, level] = (w[chosen] * rest[chosen]).sum(0) / w[chosen].sum(0)
    return cost


def main():
    cases = []
    for seed, d, n_books in [(1, 2, 1), (2, 4, 1), (3, 2, 2), (7, 8, 2)]:
        rng = np.random.default_rng(seed)
        n, k = 600, 16
        x = np.round(rng.standard_normal((n, d)) * 64)
        w = np.round(rng.exponential(1.0, (n, d)) * 64) + 1
        start = np.stack([np.round(rng.standard_normal((k, d)) * 64 / (b + 1)) for b in range(n_books)])
        books = start / 64
        costs = [step(x / 64, w / 64, books) for _ in range(4)]
        cases.append({"vector": d, "books": n_books, "values_64": x.astype(int).ravel().tolist(), "weights_64": w.astype(int).ravel().tolist(), "start_64": start.astype(int).ravel().tolist(),
                      "costs": [round(float(c), 6) for c in costs], "entries": [round(float(e), 6) for e in books.ravel()]})
    with open(sys.argv[1], "w") as file:
        json.dump({"levels": 16, "cases": cases}, file, separators=(",", ":"))
        file.write("\n")


main()
