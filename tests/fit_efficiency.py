#!/usr/bin/env python3
"""Prints the lines of compiler/efficiency.c from what gpu_kernels_bench measured.

    tests/gpu.sh bench --set peers,formats,fused --all --json bench.json      (on the GPU)
    tests/fit_efficiency.py bench.json
    tests/fit_efficiency.py bench.json --write compiler/efficiency.c     puts them there

A share is the geometric mean over layers of model_us / us, of all candidates that are cut alike; a
number of tokens that was not measured takes the nearest one, or less where similar cuts did. Slow cells count as much as fast ones: the
choice is between them.
"""
import json
import math
import re
import sys

POINTS = [1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096]
CUTS = {  # the parameters that say how a kernel cuts its work; the most important first
    "linear_decode": ["TILES", "X_PHASES", "CLUSTER", "PROLOGUE", "HAS_ORDER"],
    "linear_gemm": ["BLOCK_TOKENS", "WARP_TILES"],
    "linear_wgmma": ["BLOCK_TOKENS", "ROW_GROUPS", "K_GROUPS", "CLUSTER", "SPREAD", "EVEN"],
}
FORMAT = {"GROUP": 128, "ZEROS": 0, "SCALE_F32": 0, "ACT_BF16": 0}  # what is fitted to, with 4 bits or 8


def cuts(candidate):
    """Its own cut, and all cuts that agree in the most important parameter, for those without a line; 8
    bits, which take other instructions, have lines of their own in front."""
    params = candidate["params"]
    texts = [f"{name}={params[name]}" for name in CUTS[candidate["kernel"]]]
    if params["BITS"] == 8:
        return [(candidate["kernel"], ("BITS=8", *texts))]
    return [(candidate["kernel"], tuple(texts)), (candidate["kernel"], tuple(texts[:1]))]


def nearest(tokens):
    return min(range(len(POINTS)), key=lambda at: abs(math.log(tokens / POINTS[at])))


def shares(cells):
    logs = {}
    for cell in cells:
        for candidate in cell["candidates"]:
            params = candidate["params"]
            other = any(params.get(name, value) != value for name, value in FORMAT.items())
            other = other or params["BITS"] not in (4, 8)
            if candidate["us"] <= 0 or candidate["kernel"] not in CUTS or other:
                continue
            for key in cuts(candidate):
                at = logs.setdefault(key, {}).setdefault(nearest(cell["tokens"]), [])
                at.append(math.log(candidate["model_us"] / candidate["us"]))
    return logs


def mean(logs):
    return math.exp(sum(logs) / len(logs))


def line(key, all_logs):
    logs, others = all_logs[key], all_logs.get((key[0], key[1][:1]), {})
    row = []
    for point in range(len(POINTS)):
        share = mean(logs[min(logs, key=lambda k: abs(k - point))])
        if point not in logs and point in others:  # not better than what is known of its like
            share = min(share, mean(others[point]))
        row.append(f"{share:.2f}")
    return f'    {{"{key[0]}", "{" ".join(key[1])}", {{{", ".join(row)}}}}},'


def main():
    with open(sys.argv[1]) as file:
        bench = json.load(file)
    logs = shares(bench["cells"])
    keys = sorted(logs, key=lambda k: (k[0], -len(k[1]), [int(text.split("=")[1]) for text in k[1]]))
    lines = [f'    // {bench["device"]}, {bench["date"]}, driver for CUDA {bench["driver_version"]}']
    lines += [line(key, logs) for key in keys]
    if len(sys.argv) == 4 and sys.argv[2] == "--write":
        with open(sys.argv[3]) as file:
            text = file.read()
        text = re.sub(r"(\{ // TABLE\n).*?(\};\n)", lambda m: m[1] + "\n".join(lines) + "\n" + m[2], text,
                      count=1, flags=re.S)
        with open(sys.argv[3], "w") as file:
            file.write(text)
        return
    print("\n".join(lines))


if __name__ == "__main__":
    main()
