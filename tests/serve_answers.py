#!/usr/bin/env python3
"""What a server says to some requests, and whether another one says the same.

    serve_answers.py URL COUNT AT_ONCE > FILE    answers to COUNT requests, AT_ONCE at a time, and the metrics behind them
    serve_answers.py FILE OTHER METRIC...        fails where OTHER's answers differ or one of its metrics is 0
"""
import concurrent.futures
import json
import sys
import urllib.request

STORY = "Once upon a time there was a little house at the end of a long road. " * 6


def complete(url, at):
    body = {"prompt": STORY * (1 + at % 2) + "Number %d said" % (at // 2), "max_tokens": 150 + 37 * at % 120,
            "temperature": 0.8 * (at % 3 > 0), "seed": at, "ignore_eos": True,
            "frequency_penalty": 0.3 * (at % 4 == 1)}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=100))["choices"][0]["text"]


def metrics(url):
    lines = urllib.request.urlopen(url + "/metrics").read().decode().split("\n")
    return {line.split(" ")[0].split("{")[0].replace("gptq_compile_", ""): float(line.rsplit(" ", 1)[1])
            for line in lines if line and line[0] != "#"}


def ask(url, count, at_once):
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        texts = list(pool.map(lambda at: complete(url, at), range(count)))
    print(json.dumps({"texts": texts, "metrics": metrics(url)}))


def compare(one, other, names):
    for name in names:
        print(name, other["metrics"][name])
    different = [at for at, text in enumerate(other["texts"]) if text != one["texts"][at]]
    if different or not other["texts"] or not all(other["metrics"][name] > 0 for name in names):
        sys.exit(f"{len(other['texts'])} answers, different: {different}; {[(n, other['metrics'][n]) for n in names]}")


if sys.argv[1].startswith("http"):
    ask(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
else:
    compare(*(json.load(open(name)) for name in sys.argv[1:3]), sys.argv[3:])
