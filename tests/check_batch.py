#!/usr/bin/env python3
"""check_batch.py EXECUTABLE: `batch` on a file of OpenAI batch lines: the replies, refusals, and runs that are killed
at any moment and go on, with no line lost or doubled."""
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

LINES = 48
TOKENS = 24


def request(at):
    if at % 3 == 0:
        return {"custom_id": f"c-{at}é", "method": "POST", "url": "/v1/completions",
                "body": {"prompt": f"Once upon a time, in the year {at},", "max_tokens": TOKENS, "temperature": 0, "n": 1 + at % 2}}
    return {"custom_id": f"c-{at}é", "method": "POST", "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": f"Tell me story {at}."}], "max_tokens": TOKENS, "temperature": 0.8, "seed": at,
                     "stream": at % 5 == 1, "logprobs": at % 7 == 1}}


def write(path, requests):
    with open(path, "w", encoding="utf-8") as file:
        for one in requests:
            file.write(json.dumps(one) + "\n")


def run(exe, *arguments):
    return subprocess.run([exe, "batch", *arguments], capture_output=True, text=True, timeout=300)


def replies(path):
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    ids = [line["custom_id"] for line in lines]
    assert len(set(ids)) == len(ids), "a line is doubled"
    return {line["custom_id"]: line for line in lines}


def answer(reply):
    """What does not depend on the run."""
    body = reply["response"]["body"]
    return reply["response"]["status_code"], [(c["index"], c["finish_reason"], c.get("text") or c.get("message"), c.get("logprobs"))
                                              for c in body.get("choices", [])], body.get("usage", {}).get("completion_tokens")


def test_replies(exe, folder):
    source, out = os.path.join(folder, "in.jsonl"), os.path.join(folder, "out.jsonl")
    requests = [request(at) for at in range(LINES)]
    requests[5]["body"]["temperature"] = "hot"
    requests[7]["body"] = {"messages": []}
    write(source, requests)
    done = run(exe, source, "-o", out)
    assert done.returncode == 0, done.stderr
    found = replies(out)
    assert set(found) == {r["custom_id"] for r in requests}, "lines are missing"
    assert f"{LINES} lines" in done.stderr and "2 of them refused" in done.stderr, done.stderr
    for at, one in enumerate(requests):
        reply = found[one["custom_id"]]
        assert reply["error"] is None and reply["id"].startswith("batch_req_"), reply
        status = 400 if at in (5, 7) else 200
        assert reply["response"]["status_code"] == status, reply
        body = reply["response"]["body"]
        if status == 400:
            assert body["error"]["type"] == "invalid_request_error", body
            continue
        assert reply["response"]["request_id"] == body["id"], reply
        assert body["object"] == ("text_completion" if at % 3 == 0 else "chat.completion"), body
        assert len(body["choices"]) == one["body"].get("n", 1), body
        assert body["usage"]["completion_tokens"] <= TOKENS * len(body["choices"]), body
    alone = subprocess.run([exe, "run", "--raw", "-p", requests[0]["body"]["prompt"], "-n", str(TOKENS), "--temp", "0"], capture_output=True, text=True, check=True)
    assert found["c-0é"]["response"]["body"]["choices"][0]["text"] == alone.stdout.removesuffix("\n"), (found["c-0é"], alone.stdout)
    before = os.stat(out).st_size
    again = run(exe, source, "-o", out)
    assert again.returncode == 0 and os.stat(out).st_size == before and f"{LINES} of {LINES} lines are done" in again.stderr, again.stderr


def test_killed(exe, folder):
    """kill -9 at random moments; a half-written line at the end, too."""
    source, out, whole = (os.path.join(folder, name) for name in ("kill.jsonl", "killed.jsonl", "whole.jsonl"))
    requests = [request(at) for at in range(LINES)]
    write(source, requests)
    done = run(exe, source, "-o", whole)
    assert done.returncode == 0, done.stderr
    draw = random.Random(11)
    kills = 0
    size = lambda: os.path.getsize(out) if os.path.exists(out) else 0
    for turn in range(60):
        process = subprocess.Popen([exe, "batch", source, "-o", out], stderr=subprocess.DEVNULL)
        wanted = size() + draw.randrange(0, 3000) if turn < 12 else 1 << 40
        while size() < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.03))
        kills += process.poll() is None
        process.kill()
        status = process.wait()
        if status == 0:
            break
        if size() > 40 and turn % 2:
            with open(out, "r+b") as file:  # as if the last write had been cut
                file.truncate(size() - draw.randrange(1, 40))
    assert status == 0, status
    assert kills >= 3, f"only {kills} runs were killed"
    found, expected = replies(out), replies(whole)
    assert set(found) == set(expected) == {r["custom_id"] for r in requests}, "lines are lost"
    for name, reply in expected.items():
        assert answer(found[name]) == answer(reply), (name, found[name], reply)


def test_stopped(exe, folder):
    """Ctrl-C writes nothing that is half done."""
    source, out = os.path.join(folder, "stop.jsonl"), os.path.join(folder, "stopped.jsonl")
    write(source, [request(at) for at in range(LINES)])
    process = subprocess.Popen([exe, "batch", source, "-o", out], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while (not os.path.exists(out) or not os.path.getsize(out)) and time.monotonic() < end:
        time.sleep(0.01)
    second = run(exe, source, "-o", out)
    assert second.returncode == 2 and "another process" in second.stderr, second.stderr
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "the same command goes on" in said, (process.returncode, said)
    assert 0 < len(replies(out)) < LINES
    done = run(exe, source, "-o", out)
    assert done.returncode == 0 and len(replies(out)) == LINES, done.stderr


def test_refused(exe, folder):
    source, out = os.path.join(folder, "bad.jsonl"), os.path.join(folder, "bad.out")
    good = request(1)
    cases = [("{", "bad.jsonl:1: not a JSON object"), (json.dumps({**good, "custom_id": None}), "custom_id"),
             (json.dumps({**good, "method": "GET"}), "method"), (json.dumps({**good, "url": "/v1/embeddings"}), "url"),
             (json.dumps({**good, "body": 1}), "body"), (json.dumps(good) + "\n\n" + json.dumps(good), "lines 1 and 3 have the same")]
    for text, words in cases:
        with open(source, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        done = run(exe, source, "-o", out)
        assert done.returncode == 2 and words in done.stderr, (text, done.stderr)
    write(source, [good])
    with open(out, "w", encoding="utf-8") as file:
        file.write('{"custom_id":"other"}\n')
    done = run(exe, source, "-o", out)
    assert done.returncode == 2 and "another batch" in done.stderr, done.stderr
    for arguments, words in (([source], "-o is missing"), (["-o", out], "the input is missing"), ([source, "-o", source], "one file"),
                             ([os.path.join(folder, "nowhere"), "-o", out], "cannot open")):
        done = run(exe, *arguments)
        assert done.returncode == 2 and words in done.stderr, (arguments, done.stderr)
    write(source, [])
    os.remove(out)
    done = run(exe, source, "-o", out)
    assert done.returncode == 0 and os.path.getsize(out) == 0, done.stderr


def main():
    exe = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="gptq-compile-batch.") as folder:
        for name, test in [(n, f) for n, f in globals().items() if n.startswith("test_")]:
            try:
                test(exe, folder)
                print(f"ok batch_{name[5:]}")
            except Exception as error:
                print(f"not ok batch_{name[5:]}: {type(error).__name__} {error}".replace("\n", " ")[:1000])


main()
