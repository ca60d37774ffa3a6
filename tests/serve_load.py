#!/usr/bin/env python3
"""Load on an OpenAI-compatible server, with nothing but Python's standard library.

    serve_load.py URL [--concurrency 1,8,64] --requests 256      so many requests, so many at once
    serve_load.py URL --concurrency 200 --seconds 120 --check --pid PID
    serve_load.py URL --concurrency 64 --decode                  the steps in which all of them decode

Streams /v1/completions of prompts of random token ids and prints, for each concurrency: output tokens per
second, tokens of prompts that the server had kept (none, unless --prompts sends them again), and the median and the
99th percentile of the time to the first token and between tokens. --check compares each answer with the one computed
alone before; --pid watches the server's memory. --decode sends one request on each stream and looks at the time when
all prompts are done and no answer is: milliseconds a step, the tokens of a sequence in its middle, what the device
waited between steps. --against "OUT bench -b 64": the same step by the engine alone, for FOUND, a file with --decode's
--json, and how much longer the server's is. Exit code 1 when a request failed, an answer differed, or memory grew by
more than 5 % after the first quarter."""
import argparse
import asyncio
import json
import multiprocessing
import os
import random
import re
import shlex
import subprocess
import sys
import time
import urllib.parse
import urllib.request


def options_parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("url", metavar="URL|FOUND")
    p.add_argument("--concurrency", default="1,8,64,256")
    p.add_argument("--requests", type=int, default=256)
    p.add_argument("--seconds", type=float, help="in place of --requests: as many as fit")
    p.add_argument("--prompt-tokens", type=int, default=512)
    p.add_argument("--output-tokens", type=int, default=128)
    p.add_argument("--vocab", type=int, default=1000, help="token ids are drawn from 10 to this")
    p.add_argument("--prompts", type=int, default=0, help="that so many take turns (0: none has been sent before)")
    p.add_argument("--processes", type=int, default=0, help="of this client (0: one for each 32 streams)")
    p.add_argument("--check", action="store_true", help="compare with answers computed alone")
    p.add_argument("--pid", type=int, help="of the server: watch its memory")
    p.add_argument("--decode", action="store_true", help="only the steps in which all streams decode")
    p.add_argument("--against", metavar="BENCH", help="compare FOUND with this command")
    p.add_argument("--json", action="store_true")
    return p.parse_args()


def prompt_of(o, number):
    draw = random.Random(number % o.prompts if o.prompts else f"{o.seed} {number}")
    return [draw.randrange(10, o.vocab) for _ in range(o.prompt_tokens)]


def body_of(raw):
    """Takes the chunks of HTTP apart."""
    out, at = [], 0
    while True:
        end = raw.index(b"\r\n", at)
        size = int(raw[at:end], 16)
        if size == 0:
            return b"".join(out)
        out.append(raw[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


class Connection:
    """One keep-alive connection that sends one request after the other."""

    def __init__(self, o):
        url = urllib.parse.urlsplit(o.url)
        self.o, self.host, self.port, self.reader = o, url.hostname, url.port or 80, None

    async def ask(self, number):
        """(start, times of tokens, output tokens, text, error); with --decode the times are (time, tokens so far)"""
        o = self.o
        request = {"prompt": prompt_of(o, number), "max_tokens": o.output_tokens, "temperature": 0, "ignore_eos": True,
                   "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": o.decode}}
        body = json.dumps(request).encode()
        start, times, parts, tail = time.perf_counter(), [], [], b""
        try:
            if not self.reader:
                self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
            self.writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s"
                              % (self.host.encode(), len(body), body))
            head = await self.reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            if status != 200:
                self.reader = None
                return start, [], 0, "", f"status {status}"
            while not tail.endswith(b"0\r\n\r\n") or b"data: [DONE]" not in tail:
                piece = await self.reader.read(1 << 16)
                now = time.perf_counter()
                if not piece:
                    raise ConnectionError("the stream ended early")
                seen = tail + piece
                if o.decode:
                    counts = re.findall(rb'"completion_tokens":(\d+)[,}]', seen)
                    if counts and (not times or times[-1][1] < int(counts[-1])):
                        times.append((now, int(counts[-1])))
                else:
                    times += [now] * (seen.count(b'"text":') - tail.count(b'"text":'))
                parts.append(piece)
                tail = seen[-64:]
            return self.finish(start, times, body_of(b"".join(parts)))
        except (OSError, asyncio.IncompleteReadError, ValueError, KeyError) as e:
            self.reader = None
            return start, [], 0, "", f"{type(e).__name__} {e}"

    def finish(self, start, times, stream):
        text, tokens = [], 0
        for line in stream.split(b"\n\n"):
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    return start, [], 0, "", chunk["error"]["message"]
                text += [c["text"] for c in chunk["choices"]]
                tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        return start, times, tokens, "".join(text), None


async def client(o, count, first, step, expected, end):
    """`count` connections take the numbers first, first + step ... until there are no more, or the end."""
    numbers = iter(range(first, sys.maxsize if end else o.requests, step))
    results, wrong = [], 0

    async def run():
        nonlocal wrong
        connection = Connection(o)
        for number in numbers:
            if end and time.perf_counter() > end:
                return
            start, times, tokens, text, error = await connection.ask(number)
            if expected and not error and text != expected[number % len(expected)]:
                wrong += 1
            results.append((start, times, tokens, error))
            if error:
                await asyncio.sleep(0.1)

    await asyncio.gather(*(run() for _ in range(count)))
    return results, wrong


def process(pipe, *arguments):
    pipe.send(asyncio.run(client(*arguments)))


def memory(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p))] if values else float("nan")


def streams(o, concurrency, expected, end):
    """All of one concurrency: results, how many failed, how many differed, memory of the server."""
    count = min(o.processes or (concurrency + 31) // 32, concurrency, os.cpu_count() * 2)
    pipes, processes, rss = [], [], []
    for at in range(count):
        mine = concurrency // count + (at < concurrency % count)
        here, there = multiprocessing.Pipe(False)
        p = multiprocessing.Process(target=process, args=(there, o, mine, at, count, expected, end))
        p.start()
        pipes.append(here)
        processes.append(p)
    while o.pid and any(p.is_alive() for p in processes) and not all(pipe.poll() for pipe in pipes):
        rss.append(memory(o.pid))
        time.sleep(0.5)
    parts = [pipe.recv() for pipe in pipes]
    for p in processes:
        p.join()
    results = [r for part, _ in parts for r in part]
    return results, sum(r[3] is not None for r in results), sum(wrong for _, wrong in parts), rss


def level(o, concurrency, expected):
    """A dict of numbers."""
    o.seed, cached = random.getrandbits(64), metric(o, "prefix_cache_hits_total")
    start = time.perf_counter()
    results, errors, different, rss = streams(o, concurrency, expected, start + o.seconds if o.seconds else None)
    good = [r for r in results if not r[3]]
    gaps = [b - a for r in good for a, b in zip(r[1], r[1][1:])]
    first = [r[1][0] - r[0] for r in good if r[1]]
    wall = max((r[1][-1] for r in good if r[1]), default=start) - start
    found = {
        "concurrency": concurrency,
        "requests": len(results),
        "seconds": round(wall, 2),
        "output_tokens_per_second": round(sum(r[2] for r in good) / wall if wall else 0, 1),
        "prompt_tokens_cached": round(metric(o, "prefix_cache_hits_total") - cached),
        "ttft_ms_p50": round(1e3 * percentile(first, 0.5), 2),
        "ttft_ms_p99": round(1e3 * percentile(first, 0.99), 2),
        "inter_token_ms_p50": round(1e3 * percentile(gaps, 0.5), 2),
        "inter_token_ms_p99": round(1e3 * percentile(gaps, 0.99), 2),
        "errors": errors,
        "different": different,
    }
    if len(rss) >= 8:
        found["rss_mb_warm"], found["rss_mb_end"] = rss[len(rss) // 4] // 1024, max(rss[-3:]) // 1024
        found["grew"] = max(rss[-3:]) > 1.05 * rss[len(rss) // 4]
    found["first_error"] = next((r[3] for r in results if r[3]), None)
    return found


def metric(o, name):
    with urllib.request.urlopen(o.url + "/metrics") as reply:
        lines = reply.read().decode().split("\n")
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"gptq_compile_{name}{{")), 0.0)


def decode_level(o, concurrency):
    """One request for each stream; what happens between the last prompt's end and the first answer's."""
    o.requests, o.seed = concurrency, random.getrandbits(64)
    before = {name: metric(o, name) for name in ("device_idle_seconds_total", "steps_total")}
    results, errors = streams(o, concurrency, None, None)[:2]
    steps = metric(o, "steps_total") - before["steps_total"]
    idle = metric(o, "device_idle_seconds_total") - before["device_idle_seconds_total"]
    marks = [r[1] for r in results if r[1]]
    if errors or not marks:
        return {"concurrency": concurrency, "errors": len(results), "first_error": next((r[3] for r in results if r[3]), None)}
    begin, end = max(m[0][0] for m in marks), min(m[-1][0] for m in marks)
    inside = [[mark for mark in m if begin <= mark[0] <= end] for m in marks]
    if any(len(m) < 2 for m in inside):
        sys.exit("--output-tokens is too small: there is no time in which all streams decode")
    step = [(m[-1][0] - m[0][0]) / (m[-1][1] - m[0][1]) for m in inside]
    return {
        "concurrency": concurrency,
        "decode_step_ms": round(1e3 * sum(step) / len(step), 4),
        "decode_steps": min(m[-1][1] - m[0][1] for m in inside),
        "decode_context": o.prompt_tokens + round(sum(m[-1][1] + m[0][1] for m in inside) / 2 / len(inside)),
        "device_idle_us_per_step": round(1e6 * idle / steps, 1) if steps else None,
        "errors": 0,
    }


def against(o):
    """The bench runs the same steps: as many, around the same length of the sequences."""
    with open(o.url) as f:
        found = json.load(f)
    prompt = found["decode_context"] - found["decode_steps"] // 2
    words = shlex.split(o.against) + ["-b", str(found["concurrency"]), "-p", str(prompt), "-n", str(found["decode_steps"]), "--json"]
    alone_ms = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)["decode"][0]["step_ms"]
    print(f"decode of {found['concurrency']} sequences of {found['decode_context']} tokens: {found['decode_step_ms']:.3f} ms a step"
          f" in the server, {alone_ms:.3f} ms in bench: {100 * (found['decode_step_ms'] / alone_ms - 1):.1f} % overhead;"
          f" the device waited {found['device_idle_us_per_step']} us between steps")


async def alone(o):
    connection, texts = Connection(o), []
    for number in range(o.prompts):
        _, _, _, text, error = await connection.ask(number)
        if error:
            sys.exit(f"alone: {error}")
        texts.append(text)
    return texts


def main():
    o = options_parse()
    if o.against:
        return against(o)
    if o.check:
        o.prompts = o.prompts or 16
    expected = asyncio.run(alone(o)) if o.check else None
    failed = False
    for concurrency in map(int, o.concurrency.split(",")):
        found = decode_level(o, concurrency) if o.decode else level(o, concurrency, expected)
        failed |= bool(found["errors"] or found.get("different") or found.get("grew") or found.get("requests") == 0)
        print(json.dumps(found) if o.json else "  ".join(f"{k} {v}" for k, v in found.items() if v is not None), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
