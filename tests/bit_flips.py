#!/usr/bin/env python3
"""bit_flips.py COMPILER EXECUTABLE COUNT [SEED]: flips one random bit of a copy, COUNT times. Each flip
must be found by `verify`, and the executable must refuse, crash or give the right text: never another
one. Half of the flips are anywhere, half outside of the weights. Prints one line per wrong outcome."""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

TEXT = ["--raw", "-p", "Once upon a time", "-n", "6", "--temp", "0"]


def call(*words):
    try:
        done = subprocess.run(words, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
        return done.returncode, done.stdout
    except subprocess.TimeoutExpired:
        return -9, b""


def flip(path, offset, bit):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def offsets(size, weights, rng):
    first, last = weights["offset"], weights["offset"] + weights["bytes"]
    while True:
        yield rng.randrange(size)
        at = rng.randrange(size - weights["bytes"])
        yield at if at < first else at - first + last


def main():
    compiler, source, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rng = random.Random(int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    report = json.loads(call(compiler, "inspect", source, "--json")[1])
    weights = next(s for s in report["segments"] if s["name"] == "weights")
    expected = call(source, *TEXT)[1]
    assert expected, "the undamaged executable gives no text"
    wrong = refused = same = 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "exe")
        shutil.copy(source, path)
        for _, offset in zip(range(count), offsets(os.path.getsize(path), weights, rng)):
            bit = rng.randrange(8)
            flip(path, offset, bit)
            status, _ = call(compiler, "verify", path)
            if status != 4:
                wrong += 1
                print(f"byte {offset} bit {bit}: verify exits with {status}")
            try:
                status, text = call(path, *TEXT)
            except OSError:  # the kernel refuses the file
                status, text = 126, b""
            refused += status != 0
            same += status == 0 and text == expected
            if status == 0 and text != expected:
                wrong += 1
                print(f"byte {offset} bit {bit}: another text: {text[:80]!r}")
            flip(path, offset, bit)
    print(f"{count} flips: {refused} refused at start, {same} gave the right text, {wrong} wrong")
    return wrong != 0


sys.exit(main())
