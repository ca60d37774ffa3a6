#!/usr/bin/env python3
"""Checks an executable against what Hugging Face transformers computed (reference.json).

    check_reference.py EXE REFERENCE [--device D] [--text FILE] [--tolerance T] [--oracle PROGRAM MODEL]

Prints "ok NAME" or "not ok NAME: reason" lines. For each prompt: ids of the tokenizer, the 16 best
log-probabilities (worst difference under 0.04) and the L2 norm of the last logits (relative, under the
tolerance), or all last logits where the reference has them (relative L2), greedy ids up to the first
step whose margin is under 0.05 (four times the worst error of a logit where all are known), the same
ids again from a second run, and their text. With --oracle also the relative L2 distance of all logits to the oracle's. With --text
the perplexity, within 0.2 %.
"""
import argparse
import array
import json
import math
import subprocess
import sys
import tempfile

MARGIN = 0.05
LOGPROB_TOLERANCE = 0.04
failed = 0


def report(name, reason):
    global failed
    failed += bool(reason)
    print(f"not ok {name}: {reason}" if reason else f"ok {name}", flush=True)


def run(args, *words):
    command = [args.exe, *words] + (["--device", args.device] if args.device else [])
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:200]}: exit {done.returncode}: "
                           f"{done.stderr.decode(errors='replace')[-300:]}")
    return done.stdout


def tokenize(args, text):
    command = [args.exe, "tokenize", "--json", "-p", text]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def floats(path, kind):
    values = array.array(kind)
    with open(path, "rb") as file:
        values.frombytes(file.read())
    return values


def logits_of(args, ids, *words):
    with tempfile.NamedTemporaryFile() as file:
        run(args, "logits", "--ids", ",".join(map(str, ids)), "-o", file.name, *words)
        return floats(file.name, "f")


def logprob_error(logits, prompt):
    top = max(logits)
    total = math.log(sum(math.exp(x - top) for x in logits)) + top
    return max(abs(logits[i] - total - p)
               for i, p in zip(prompt["top16_ids"], prompt["top16_logprobs"]))


def relative_l2(found, expected):
    distance = sum((f - e) ** 2 for f, e in zip(found, expected))
    return math.sqrt(distance / sum(e * e for e in expected))


def check_logits(args, prompt):
    logits = logits_of(args, prompt["input_ids"])
    if "last_logits" in prompt:
        worst = max(abs(f - e) for f, e in zip(logits, prompt["last_logits"]))
        prompt["margin"] = 4 * worst
        error = relative_l2(logits, prompt["last_logits"])
        print(f"# relative L2 {error:.2e}, worst logit {worst:.2e}")
        return None if error < args.tolerance else f"relative L2 {error:.2e}"
    worst = logprob_error(logits, prompt)
    if not worst < LOGPROB_TOLERANCE:
        return f"log-probabilities differ by {worst:.4f}"
    norm = math.sqrt(sum(x * x for x in logits))
    error = abs(norm / prompt["last_logits_l2"] - 1)
    return None if error < args.tolerance else f"norm of the logits differs by {error:.2e}"


def check_oracle(args, prompt):
    ids = prompt["input_ids"]
    found = logits_of(args, ids, "--all")
    with tempfile.NamedTemporaryFile() as file:
        ties = subprocess.run([args.oracle[0], args.oracle[1], ",".join(map(str, ids)), file.name],
                              check=True, capture_output=True, text=True).stdout.split()
        expected = floats(file.name, "d")
    if len(found) != len(expected):
        return f"{len(found)} logits, expected {len(expected)}"
    vocab = len(expected) // len(ids)
    worst = 0.0
    for row in range(0, len(expected), vocab):
        if str(row // vocab) in ties:
            continue
        worst = max(worst, relative_l2(found[row:row + vocab], expected[row:row + vocab]))
    skipped = f", without {len(ties)} positions where experts tie" if ties else ""
    print(f"# worst relative L2 to the oracle {worst:.2e}{skipped}")
    # the worst of all positions, where the reference's is the last one's
    return None if worst < 2 * args.tolerance else f"relative L2 {worst:.2e}"


def check_greedy(args, prompt):
    expected = prompt["greedy_ids"]
    words = ("run", "--raw", "-p", prompt["prompt"], "-n", str(len(expected)), "--temp", "0",
             "--ignore-eos", "--repeat-penalty", "1", "--json")
    found = json.loads(run(args, *words))
    if found["prompt_ids"] != prompt["input_ids"]:
        return "prompt_ids differ"
    least = prompt.get("margin", MARGIN)
    for step, margin in enumerate(prompt["greedy_margin"]):
        if margin < least:
            break
        if found["ids"][step] != expected[step]:
            return f"step {step}: id {found['ids'][step]}, expected {expected[step]} (margin {margin})"
    else:
        if found["text"] != prompt.get("greedy_text", found["text"]):
            return f"text {found['text']!r}, expected {prompt['greedy_text']!r}"
    again = json.loads(run(args, *words))
    return None if again == found else "a second run gives other ids"


def check_perplexity(args, expected):
    found = json.loads(run(args, "perplexity", args.text, "--ctx", str(expected["context"]),
                           "--windows", str(expected["windows"]), "--json"))
    error = abs(found["ppl"] / expected["ppl"] - 1)
    print(f"# perplexity {found['ppl']:.4f}, reference {expected['ppl']:.4f}")
    if found["tokens"] != expected["tokens"]:
        return f"{found['tokens']} tokens, expected {expected['tokens']}"
    return None if error < 0.002 else f"{found['ppl']}, expected {expected['ppl']}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("exe")
    parser.add_argument("reference")
    parser.add_argument("--device")
    parser.add_argument("--text")
    parser.add_argument("--tolerance", type=float, default=4e-3)
    parser.add_argument("--oracle", nargs=2)
    parser.add_argument("--name", default="model")
    args = parser.parse_args()
    with open(args.reference, encoding="utf-8") as file:
        reference = json.load(file)
    for at, prompt in enumerate(reference["prompts"]):
        name = f"{args.name} prompt {at}"
        ids = tokenize(args, prompt["prompt"])
        report(f"{name} ids", None if ids == prompt["input_ids"] else f"found {ids[:20]}")
        report(f"{name} logits", check_logits(args, prompt))
        report(f"{name} greedy", check_greedy(args, prompt))
        if args.oracle:
            report(f"{name} oracle", check_oracle(args, prompt))
    if args.text:
        report(f"{args.name} perplexity", check_perplexity(args, reference["perplexity"]))
    return failed > 0


sys.exit(main())
