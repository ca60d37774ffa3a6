#!/usr/bin/env python3
"""Writes tests/vectors/sampler/draws.txt, tokens that the sampler must draw, and logprobs.txt. Needs numpy.

The rules are those of transformers' logits processors, written with sorting, softmax and cumulative
sums in float64: repetition penalty, presence and frequency penalties (OpenAI's), biases, excluded
tokens, temperature, top-k, top-p, min-p; then the inverse CDF in the order of ids at a number of
Philox4x32-10. Draws and thresholds that lie too near to a border are left
out (-1), since the runtime rounds weights to integers.

A line: vocab temperature top_k top_p min_p penalty presence frequency biases masked token_count seed
spread ties : tokens of steps 0, 1, ...; of logprobs.txt: vocab token_count seed spread ties : the most
likely tokens and their logprobs.
Logits, seen tokens, counts, mask and biases come from a generator that tests/unit/test_sampler.c repeats.
"""
import os

import numpy as np

STEPS = 24
NEAR = 1e-5


def generator(seed):
    while True:
        seed = (seed * 1664525 + 1013904223) & 0xffffffff
        yield seed >> 8


def philox(key_low, key_high, step):
    c = [step, 0, 0, 0]
    k = [key_low, key_high]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xffffffff, (a >> 32) ^ c[3] ^ k[1], a & 0xffffffff]
        k = [(k[0] + 0x9E3779B9) & 0xffffffff, (k[1] + 0xBB67AE85) & 0xffffffff]
    return c[0]


# Random123's known answer for counter 0 and key 0
assert philox(0, 0, 0) == 0x6627e8d5


def case_inputs(vocab, seed, spread, ties):
    """float32 logits in [-spread/2, spread/2), a third of the tokens seen; counts, mask, bias numbers."""
    numbers = generator(seed)
    levels = 64 if ties else 1 << 20
    logits = np.array([(next(numbers) % levels) / levels * spread - spread / 2
                       for _ in range(vocab)], dtype=np.float32)
    seen = np.array([next(numbers) % 3 == 0 for _ in range(vocab)])
    counts = np.array([max(next(numbers) % 8 - 4, 0) for _ in range(vocab)])
    mask = np.array([next(numbers) % 4 != 0 or id == 0 for id in range(vocab)])
    biases = np.array([next(numbers) % 64 / 4 - 8 for _ in range(vocab)])
    return logits, seen, counts, mask, biases


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def keep_top_p(x, top_p):
    """TopPLogitsWarper; equal logits stay together. None: too near to a border."""
    order = np.argsort(-x, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(softmax(x)[order])[:-1]])
    first = np.searchsorted(-x[order], -x[order], side="left")  # of the tokens of equal logit
    before = before[first]
    if np.abs(before - top_p)[np.isfinite(x[order])].min() < NEAR:
        return None
    kept = np.zeros(len(x), bool)
    kept[order[before < top_p]] = True
    return kept


def draws(inputs, temperature, top_k, top_p, min_p, penalty, presence, frequency, bias_count, masked,
          token_count, seed):
    logits, seen, counts, mask, biases = inputs
    ids = np.arange(len(logits))
    x = logits.astype(np.float64)
    x = np.where(seen, np.where(x > 0, x / penalty, x * penalty), x)
    x -= presence * (counts > 0) + frequency * counts
    for at in range(bias_count):
        id = at * (len(logits) // bias_count)
        x[id] += biases[id]
    x = np.where((ids < (token_count or len(logits))) & (mask if masked else True), x, -np.inf)
    if temperature == 0:
        return [int(np.argmax(x.astype(np.float32)))] * STEPS
    x = x / temperature
    if top_k:
        x = np.where(x >= np.sort(x)[-min(top_k, len(x))], x, -np.inf)
    if top_p < 1:
        kept = keep_top_p(x, top_p)
        if kept is None:
            return None
        x = np.where(kept, x, -np.inf)
    if min_p > 0:
        p = softmax(x)
        if np.abs(p / p.max() - min_p).min() < NEAR:
            return None
        x = np.where(p >= min_p * p.max(), x, -np.inf)
    ends = np.cumsum(softmax(x))
    tokens = []
    for step in range(STEPS):
        u = philox(seed & 0xffffffff, seed >> 32, step) / 2**32
        near = np.abs(ends - u).min() < NEAR
        tokens.append(-1 if near else int(np.searchsorted(ends, u, side="right")))
    return tokens


def logprobs(logits, token_count):
    x = logits.astype(np.float64)
    p = x - x.max() - np.log(np.exp(x - x.max()).sum())
    best = np.argsort(-x[:token_count], kind="stable")[:20]
    return " ".join(f"{id} {p[id]:.7f}" for id in best)


# temperature top_k top_p min_p penalty presence frequency biases masked, whether rows are filled up
SETTINGS = (
    (0.0, 0, 1.0, 0.0, 1.0), (0.0, 5, 0.5, 0.1, 1.25), (1.0, 0, 1.0, 0.0, 1.0),
    (0.5, 0, 1.0, 0.0, 1.25), (1.0, 1, 1.0, 0.0, 1.0), (1.0, 7, 1.0, 0.0, 1.0),
    (2.0, 40, 1.0, 0.0, 0.75), (1.0, 0, 0.5, 0.0, 1.0), (0.75, 0, 0.9375, 0.0, 1.5),
    (1.0, 0, 1.0, 0.125, 1.0), (1.5, 100, 0.875, 0.03125, 1.125),
    (0.25, 20, 0.96875, 0.0625, 1.0), (8.0, 0, 0.75, 0.0, 1.0), (1.0, 0, 0.0078125, 0.0, 1.0),
    (0.0, 0, 1.0, 0.0, 1.0, 4.0, 2.0), (1.0, 0, 1.0, 0.0, 1.0, 0.75, 0.5),
    (1.0, 9, 0.9375, 0.0, 1.5, -0.5, 1.25), (1.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, 30),
    (0.0, 0, 1.0, 0.0, 1.5, 1.0, 0.5, 300), (0.75, 12, 1.0, 0.0, 1.25, 1.0, -0.25, 300),
    (1.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, 0, 1), (0.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, 0, 1),
    (1.0, 20, 0.875, 0.0, 1.0, 0.0, 0.0, 7, 1, 1), (0.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, 0, 0, 1),
    (1.5, 0, 0.96875, 0.015625, 1.125, 0.5, 0.25, 100, 1, 1))


def main():
    lines, likely = [], []
    for vocab in (1, 2, 33, 1000, 4099):
        for at, setting in enumerate(SETTINGS):
            (temperature, top_k, top_p, min_p, penalty, presence, frequency, bias_count, masked,
             filled) = setting + (0.0, 0.0, 0, 0, 0)[len(setting) - 5:]
            bias_count, top_k = min(bias_count, vocab), min(top_k, vocab)
            token_count = vocab - vocab // 5 if filled else 0
            for spread, ties in ((16, 0), (60, 0), (16, 1)):
                seed = (at + 1) * 0x100000001 + vocab
                inputs = case_inputs(vocab, seed & 0xffffffff, spread, ties)
                numbers = (temperature, top_k, top_p, min_p, penalty, presence, frequency, bias_count,
                           masked, token_count, seed)
                tokens = draws(inputs, *numbers)
                if tokens:
                    lines.append(f"{vocab} {' '.join(map(str, numbers))} {spread} {ties} : "
                                 f"{' '.join(map(str, tokens))}\n")
                if at in (0, 23):
                    likely.append(f"{vocab} {token_count} {seed} {spread} {ties} : "
                                  f"{logprobs(inputs[0], token_count or vocab)}\n")
    folder = os.path.join(os.path.dirname(__file__), "vectors", "sampler")
    os.makedirs(folder, exist_ok=True)
    for name, content in (("draws.txt", lines), ("logprobs.txt", likely)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.writelines(content)
        print(name, len(content), "cases")


main()
