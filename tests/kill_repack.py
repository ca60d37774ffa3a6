#!/usr/bin/env python3
"""kill_repack.py COMPILER EXECUTABLE COUNT [SEED]: `repack` in place, killed at COUNT random moments.
After each the file must open and hold the old or the new metadata, whole; then `repack` alone must
make it good again. Prints one line per wrong outcome."""
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time


def call(*words):
    return subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL)


def model_name(path):
    done = call(path, "info", "--json")
    if done.returncode != 0:
        return f"exit code {done.returncode}: {done.stderr.decode()[:200]}"
    import json
    return json.loads(done.stdout)["name"]


def main():
    compiler, source, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rng = random.Random(int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    wrong, names = 0, [0, 0]
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(source))) as folder:
        path = os.path.join(folder, "exe")
        shutil.copy(source, path)
        old = model_name(path)
        started = time.perf_counter()
        assert call(compiler, "repack", path, "--name", "measure").returncode == 0
        span = (time.perf_counter() - started) * 1.3
        assert call(compiler, "repack", path, "--name", old).returncode == 0
        for at in range(count):
            new = f"name {at}"
            process = subprocess.Popen([compiler, "repack", path, "--name", new])
            time.sleep(rng.random() * span)
            process.kill()
            process.wait()
            found = model_name(path)
            names[found == new] += 1
            if found not in (old, new):
                wrong += 1
                print(f"kill {at}: neither the old nor the new name: {found}")
                shutil.copy(source, path)
            if call(compiler, "repack", path).returncode != 0:
                wrong += 1
                print(f"kill {at}: the next repack fails")
            check = call(compiler, "verify", path)
            if check.returncode != 0 or model_name(path) != found:
                wrong += 1
                print(f"kill {at}: not whole afterwards: {check.stderr.decode()[:200]}")
            old = found
    print(f"{count} kills: {names[0]} left the old metadata, {names[1]} the new, {wrong} wrong")
    return wrong != 0


sys.exit(main())
