#!/usr/bin/env python3
"""The order in which WindowSampler gives windows, written a second time: prints the numbers that window_sampler_test.cpp expects."""
M = (1 << 64) - 1


def splitmix64(state):
    state = (state + 0x9E3779B97F4A7C15) & M
    z = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & M
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & M
    return state, z ^ z >> 31


def mix(a, b):
    return splitmix64(splitmix64(a)[1] ^ b)[1]


def first_output_of_xoshiro(seed):
    words = []
    for _ in range(4):
        seed, word = splitmix64(seed)
        words.append(word)
    x = words[1] * 5 & M
    return ((x << 7 | x >> 57) & M) * 9 & M


def permute(index, n, key):
    bits = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << bits) - 1
    while True:
        left, right = index >> bits, index & mask
        for i in range(6):
            left, right = right, left ^ (mix((key + i) & M, right) & mask)
        index = left << bits | right
        if index < n:
            return index


def first_token(n_tokens, window, seed, index):
    windows = max(1, (n_tokens - 1 - (window - 1)) // window)
    offsets = min(window, n_tokens - 1 - windows * window + 1)
    key = mix(seed, index // windows)
    return (first_output_of_xoshiro(key) * offsets >> 64) + permute(index % windows, windows, key) * window


print([first_token(1000, 10, 42, i) for i in (0, 1, 2, 98, 99, 100, 1000000)])
