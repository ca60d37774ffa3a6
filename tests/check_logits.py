#!/usr/bin/env python3
"""check_logits.py FOUND EXPECTED ROWS [median]: prints the worst relative L2 distance of a row, and the
median of all.

FOUND: float32, from `OUT logits --all`; EXPECTED: float64, from oracle_logits, or float32 like FOUND.
"""
import array
import math
import os
import sys


def floats(path, kind):
    values = array.array(kind)
    with open(path, "rb") as file:
        values.frombytes(file.read())
    return values


def main():
    same_kind = os.path.getsize(sys.argv[1]) == os.path.getsize(sys.argv[2])
    found, expected = floats(sys.argv[1], "f"), floats(sys.argv[2], "f" if same_kind else "d")
    rows = int(sys.argv[3])
    if len(found) != len(expected) or len(found) % rows:
        sys.exit(f"{len(found)} and {len(expected)} values for {rows} rows")
    width, errors = len(found) // rows, []
    for row in range(0, len(found), width):
        pairs = list(zip(found[row:row + width], expected[row:row + width]))
        distance = sum((f - e) ** 2 for f, e in pairs)
        error = math.sqrt(distance / sum(e * e for _, e in pairs))
        errors.append(error if error == error else math.inf)
    errors.sort()
    print(f"{errors[-1]:.3g}" + (f", median {errors[rows // 2]:.3g}" if len(sys.argv) > 4 else ""))


main()
