#!/usr/bin/env python3
"""Abuses a server, serve_faults.py URL [connects]: each abuse gets its 4xx or a closed connection, never a
5xx, and the next good request its answer. The server runs with --client-timeout 2 and --max-connections
500. One line a test."""
import concurrent.futures
import json
import random
import socket
import struct
import sys
import time
import urllib.parse

url = urllib.parse.urlsplit(sys.argv[1])
connects = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
address = (url.hostname, url.port)
random.seed(1)
good_body = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}


def connect():
    return socket.create_connection(address, timeout=20)


def request(body, path="/v1/completions", method="POST", headers=""):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def status_of(raw):
    return int(raw.split(b" ", 2)[1]) if raw.startswith(b"HTTP/1.") else 0


def read_all(s):
    out = b""
    try:
        while piece := s.recv(65536):
            out += piece
    except ConnectionError:
        pass
    return out


def send(raw):
    """The reply to bytes; b"" when the connection is closed without one."""
    with connect() as s:
        try:
            s.sendall(raw)
            s.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        return read_all(s)


def ask(body, **words):
    """A reply's status and JSON."""
    with connect() as s:
        s.sendall(request(body, headers="Connection: close\r\n", **words))
        raw = read_all(s)
    head, _, rest = raw.partition(b"\r\n\r\n")
    return status_of(head), json.loads(rest) if b"application/json" in head else rest


def good():
    status, reply = ask(good_body)
    assert status == 200 and reply["choices"][0]["text"], (status, reply)


def test_bodies():
    deep = b"[" * 100000
    bodies = [b"", b"{", b"[]", b"null", b"3", b'"x"', b"{]", b'{"prompt":', b'{"prompt":"x"}}', b'{"prompt":"x",}',
              b"{'prompt':'x'}", b'{"prompt":NaN}', b'{"prompt":"x","temperature":NaN}', b'{"prompt":"x","top_p":Infinity}',
              b'{"prompt":"x","temperature":-Infinity}', b'{"prompt":"x","temperature":1e999}', b'{"prompt":"x","n":-1}',
              b'{"prompt":"x","max_tokens":-5}', b'{"prompt":"x","max_tokens":1e300}', b'{"prompt":"\\ud800"}',
              b'{"prompt":"\\udc00\\ud800"}', b'{"prompt":"\\u0000"}', b'{"prompt":"\xff"}', b'{"prompt":"\xed\xa0\x80"}',
              b'{"prompt":"a\nb"}', b'{"prompt":"\\x"}', b'{"prompt":01}', b'{"a":' * 70 + b"1" + b"}" * 70, deep,
              b'{"prompt":' + deep + b"]" * 100000 + b"}", b'{"prompt":[1e5]}', b'{"prompt":[-1]}', b'{"prompt":[1.5]}',
              b'{"prompt":[[1],"x",3]}', b'{"prompt":{}}', b'{"prompt":true}', b'{"prompt":"x","stop":{}}',
              b'{"prompt":"x","stop":[1]}', b'{"prompt":"x","logit_bias":{"-1":1}}', b'{"prompt":"x","stream":"yes"}',
              b'{"prompt":"x","model":[]}', b'{"prompt":"x","seed":"1"}', b'{"prompt":"' + b"word " * 50000 + b'"}',
              b'{"prompt":[' + b"5," * 50000 + b"5]}", b"\x00" * 1000, bytes(random.randbytes(5000))]
    for body in bodies:
        status, reply = ask(body)
        assert status == 400 and reply["error"]["message"] and "type" in reply["error"], (body[:60], status, reply)
    chats = [{}, {"messages": None}, {"messages": []}, {"messages": "x"}, {"messages": [3]}, {"messages": [{}]},
             {"messages": [{"role": "user", "content": 3}]}, {"messages": [{"role": 3, "content": "x"}]},
             {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
             {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "x"}]},
             {"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": 3},
             {"messages": [{"role": "user", "content": "x"}], "logprobs": 3}]
    for body in chats:
        status, reply = ask(body, path="/v1/chat/completions")
        assert status == 400 and reply["error"]["message"], (body, status, reply)


def test_paths_and_methods():
    for path, method, expected in [("/nowhere", "POST", 404), ("/v1/models/none", "GET", 404), ("/v1/completions", "GET", 405),
                                   ("/v1/models", "POST", 405), ("/v1/completions", "DELETE", 405), ("/health", "PATCH", 405),
                                   ("/v1/models/%00%2e%2e", "GET", 404), ("/v1/../etc/passwd", "GET", 404),
                                   ("/v1/v1/models", "GET", 404), ("/%", "GET", 404)]:
        status, reply = ask(b"", path=path, method=method)
        assert status == expected and reply["error"]["message"], (path, status, reply)
    with connect() as s:
        s.sendall(b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\nOrigin: http://page\r\nConnection: close\r\n"
                  b"Access-Control-Request-Headers: authorization,x-y\r\n\r\n")
        reply = read_all(s)
    assert b" 204 " in reply and b"authorization,x-y" in reply and b"Allow-Origin: *" in reply, reply
    with connect() as s:
        s.sendall(b"HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        reply = read_all(s)
    assert b" 200 " in reply and reply.endswith(b"\r\n\r\n"), reply


def error_of(raw):
    """The status and the error object of a reply; evhttp's own refusals have one, too."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in head and b"Connection: close" in head, raw[:300]
    error = json.loads(rest)["error"]
    assert sorted(error) == ["code", "message", "param", "type"] and error["message"], raw[:300]
    status = status_of(head)
    assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error") and error["code"], raw[:300]
    return status


def test_not_http():
    post = b"POST /v1/completions HTTP/1.1\r\n"
    for raw, expected in [(b"GET / HTTP/9.9\r\n\r\n", 400), (b"x" * 100000, 431), (b"GET\r\n\r\n", 400), (b"\r\n\r\n", 400),
                          (b"\x16\x03\x01\x02\x00\x01" + bytes(500) + b"\r\n\r\n", 400),
                          (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20000 + b"\r\n", 431),
                          (b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n", 431), (b"get / HTTP/1.1\r\nConnection: close\r\n\r\n", 405),
                          (b"BREW /health HTTP/1.1\r\nConnection: close\r\n\r\n", 405),
                          (b"BREW /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
                          (post + b"Expect: magic\r\nContent-Length: 2\r\n\r\n{}", 417),
                          (post + b"Content-Length: -5\r\n\r\n", 400), (post + b"Content-Length: x\r\n\r\n", 400),
                          (post + b"Content-Length: 99999999999999999999\r\n\r\n", 413),
                          (post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 413),
                          (post + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", 413),
                          (post + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400)]:
        reply = send(raw)
        assert reply, raw[:60]
        status = error_of(reply)
        assert status == expected, (raw[:60], status, reply)


def test_large_bodies():
    """A client that reads only after it has sent everything, slowly, finds its refusal all the same."""
    post = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
    with connect() as s:
        s.sendall(post + b"Content-Length: 40000000\r\n\r\n" + b"x" * 1000)
        assert error_of(read_all(s)) == 413
    piece = b"x" * (1 << 20)
    for head, before, behind in [(b"Content-Length: %d\r\n" % (64 << 20), b"", b""),
                                 (b"Transfer-Encoding: chunked\r\n", b"100000\r\n", b"\r\n")]:
        with connect() as s:
            s.sendall(post + head + b"\r\n")
            for _ in range(64):
                s.sendall(before + piece + behind)
                time.sleep(0.02)
            assert error_of(read_all(s)) == 413


def test_endless_bodies():
    """What is thrown away behind a refusal has an end: in bytes, and in time."""
    for piece, pause, most_bytes in [(1 << 20, 0, 400 << 20), (1000, 0.01, 400 << 20)]:
        with connect() as s:
            sent, started = 0, time.time()
            try:
                s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
                while time.time() - started < 10:
                    s.sendall(b"x" * piece)
                    sent += piece
                    time.sleep(pause)
            except ConnectionError:
                pass
            assert sent < most_bytes and time.time() - started < 5, (sent, time.time() - started)


def test_chunked():
    body = json.dumps(good_body).encode()
    raw = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    for at in range(0, len(body), 7):
        piece = body[at : at + 7]
        raw += b"%x\r\n%s\r\n" % (len(piece), piece)
    with connect() as s:
        s.sendall(raw + b"0\r\n\r\n")
        assert status_of(read_all(s)) == 200


def test_pipelined():
    """Answered one after the other, in order."""
    prompts = ["one", "two", "three"]
    with connect() as s:
        s.sendall(b"".join(request(good_body | {"prompt": p, "echo": True}) for p in prompts) +
                  request(b"{", headers="Connection: close\r\n"))
        raw = read_all(s)
    parts = raw.split(b"HTTP/1.1 ")[1:]
    assert [p[:3] for p in parts] == [b"200", b"200", b"200", b"400"], raw
    for prompt, part in zip(prompts, parts):
        assert json.loads(part.partition(b"\r\n\r\n")[2])["choices"][0]["text"].startswith(prompt), part


def test_slow_senders():
    """A byte now and then does not hold a connection for longer than the time for a request."""
    slow = [connect() for _ in range(20)]
    start, open_until = time.time(), {}
    raw = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + b"X-Slow: y\r\n" * 50
    for at in range(100):
        for s in slow:
            if s in open_until:
                continue
            try:
                s.sendall(raw[at : at + 1])
                s.setblocking(False)
                if s.recv(1) == b"":
                    open_until[s] = time.time() - start
            except BlockingIOError:
                pass
            except OSError:
                open_until[s] = time.time() - start
            s.setblocking(True)
        if len(open_until) == len(slow):
            break
        time.sleep(0.1)
    assert len(open_until) == len(slow), f"{len(slow) - len(open_until)} still open after 10 s"
    assert max(open_until.values()) < 6, max(open_until.values())
    with connect() as s:  # nothing at all is sent
        s.settimeout(6)
        assert s.recv(1) == b""


def test_slow_readers():
    """Does not take its stream: others are served, and the connection is cut."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        s.connect(address)
        s.sendall(request(good_body | {"max_tokens": 1500, "stream": True, "ignore_eos": True, "n": 8}))
        good()


def test_disconnects():
    """At many places of requests and replies, with FIN and with RST; what they asked for is cancelled."""
    for number in range(60):
        stream = number % 2 == 0
        raw = request(good_body | {"max_tokens": 1000, "stream": stream, "ignore_eos": True})
        s = connect()
        if number % 3 == 0:
            s.sendall(raw[: number * len(raw) // 60])
        else:
            s.sendall(raw)
            time.sleep(0.002 * (number % 7))
            if stream and number % 5:
                s.recv(number * 50)
        if number % 4 == 0:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    deadline = time.time() + 15
    while metric("num_requests_running") + metric("num_requests_waiting") and time.time() < deadline:
        time.sleep(0.1)
    assert metric("num_requests_running") == 0 and metric("num_requests_waiting") == 0
    assert metric("disconnects_total") > 10


def metric(name):
    with connect() as s:
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = read_all(s).decode()
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"gptq_compile_{name}{{"))


def test_connects():
    """More connections than are allowed: some wait, and all get through."""

    def one(_):
        with connect() as s:
            pass

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        list(pool.map(one, range(connects)))
    held = [connect() for _ in range(400)]
    good()
    for s in held:
        s.close()


failed = 0
for name, test in [(k, v) for k, v in globals().items() if k.startswith("test_")]:
    try:
        test()
        good()
        print("ok faults_" + name[5:], flush=True)
    except Exception as e:
        failed = 1
        print(f"not ok faults_{name[5:]}: {type(e).__name__} {str(e)[:300]}".replace("\n", " "), flush=True)
sys.exit(failed)
