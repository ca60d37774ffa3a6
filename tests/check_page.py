#!/usr/bin/env python3
"""check_page.py chromedriver PAGE [--browser FILE] [--server URL] [--screenshot FILE]: the page of `serve` in headless
Chromium, by clicks and keys, over the WebDriver protocol. A small server here speaks the same events with answers
that are known (markdown, hostile HTML, errors, endless ones); --browser: not the driver's own choice; --server: also
one chat with a real server at URL.
"""
import argparse
import base64
import http.server
import json
import os
import subprocess
import tempfile
import threading
import time
import urllib.request

HOSTILE = ("<img src=x onerror=\"window.hacked=1\"><script>window.hacked=2</script> [a](javascript:window.hacked=3) "
           "[b](data:text/html,x) `<b>x</b>`\n\n```html\n<script>window.hacked=4</script>\n```\n\n"
           "|<i>h</i>|b|\n|-|-|\n|<u>c</u>|d|\n\n# <s>t</s>\n\n- <svg onload=alert(1)>\n\n> <iframe src=x>")
QUESTION = "How does merge sort work?"
MARKDOWN = ("# Sorting\n\nThe **merge sort** is *stable* and takes `O(n log n)`:\n\n```c\nint main(void) {\n    return 0; // <done> & dusted\n}\n```\n\n"
            "1. Split the list.\n2. Sort both halves:\n   - the left one,\n   - the right one.\n3. Merge.\n\n"
            "| case | time |\n|---|---|\n| best | n log n |\n| worst | n log n |\n\n> As Knuth says, see [volume 3](https://example.org/taocp).\n")


class Fake(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    page = b""
    seen = []  # bodies of requests
    cut = threading.Event()  # a client left while an answer was written

    def log_message(self, *_):
        pass

    def reply(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/":
            self.reply(200, "text/html; charset=utf-8", Fake.page)
        elif self.path == "/v1/models":
            self.reply(200, "application/json", b'{"data":[{"id":"fake-8b","max_model_len":4096}]}')
        else:
            self.reply(404, "application/json", b'{"error":{"message":"nothing here"}}')

    def event(self, data):
        text = f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Fake.seen.append(body)
        said = body["messages"][-1]["content"]
        if said == "refuse":
            self.reply(400, "application/json", json.dumps({"error": {"message": "it is <b>too</b> long"}}).encode())
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.answer(said)
        except OSError:
            Fake.cut.set()

    def answer(self, said):
        text = {"hostile": HOSTILE, QUESTION: MARKDOWN}.get(said, f"You said: {said}. 你好 😀")
        self.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        while said == "endless":
            self.event({"choices": [{"index": 0, "delta": {"content": "more "}, "finish_reason": None}]})
            time.sleep(0.02)
        for at in range(0, len(text), 7):
            self.event({"choices": [{"index": 0, "delta": {"content": text[at:at + 7]}, "finish_reason": None}]})
        if said == "break":
            self.event({"error": {"message": "the device is gone"}})
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length" if said == "long" else "stop"}]})
        self.event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 42, "total_tokens": 47}})
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")


class Browser:
    """WebDriver (W3C) over HTTP."""

    def __init__(self, driver, binary, folder):
        # The profile is the driver's to make: chromium-headless-shell hangs with another one.
        self.process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                        env=os.environ | {"TMPDIR": folder})
        for line in self.process.stdout:
            if "started successfully on port" in line:
                self.base = f"http://127.0.0.1:{line.strip().rstrip('.').split()[-1]}"
                break
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1000,900",
                     "--hide-scrollbars"]
        options = {"args": arguments} | ({"binary": binary} if binary else {})
        capabilities = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options,
                                        "goog:loggingPrefs": {"browser": "ALL"}}}
        session = self.call("POST", "/session", {"capabilities": capabilities})
        self.base += "/session/" + session["sessionId"]

    def call(self, method, path, body=None):
        request = urllib.request.Request(self.base + path, method=method, data=json.dumps(body or {}).encode() if method == "POST" else None,
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())["value"]

    def close(self):
        try:
            self.call("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait()

    def go(self, url):
        self.call("POST", "/url", {"url": url})

    def js(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": "return " + script, "args": list(arguments)})

    def find(self, css):
        return next(iter(self.call("POST", "/element", {"using": "css selector", "value": css}).values()))

    def click(self, css):
        self.call("POST", f"/element/{self.find(css)}/click")

    def type(self, css, text):
        self.call("POST", f"/element/{self.find(css)}/value", {"text": text})

    def keys(self, *keys):
        actions = [step for key in keys for step in ({"type": "keyDown", "value": key}, {"type": "keyUp", "value": key})]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def wait(self, script, seconds=20):
        end = time.monotonic() + seconds
        while not (value := self.js(script)):
            if time.monotonic() > end:
                raise AssertionError(f"not after {seconds} s: {script}; the page says {self.js('document.body.innerText')!r}")
            time.sleep(0.05)
        return value


ENTER, ESCAPE, TAB = "\ue007", "\ue00c", "\ue004"
LAST = "document.querySelector('article:last-of-type .body')"
IDLE = "document.querySelector('#stop').hidden"


def ask(browser, text, wait=True):
    browser.type("#text", text)
    browser.click("#send")
    if wait:
        browser.wait(IDLE)


def equal(found, expected):
    if found != expected:
        raise AssertionError(f"found {found!r}, expected {expected!r}")


def test_chat(b, url):
    b.go(url)
    b.wait("document.querySelector('#model').textContent.startsWith('fake-8b')")
    ask(b, "hello")
    equal(b.js(LAST + ".innerText"), "You said: hello. 你好 😀")
    assert "42 tokens" in b.js("document.querySelector('article:last-of-type .facts').textContent")
    b.type("#text", "line" + ENTER)
    b.wait(IDLE + " && document.querySelectorAll('article').length == 4")
    equal([m["role"] for m in Fake.seen[-1]["messages"]], ["user", "assistant", "user"])
    assert Fake.seen[-1]["stream"] and "temperature" not in Fake.seen[-1]


def test_settings(b, _):
    b.click("#settings summary")
    b.type("#system", "Be brief.")
    b.type("#temperature", "0.5")
    b.type("#max_tokens", "7")
    ask(b, "long")
    equal(Fake.seen[-1]["messages"][0], {"role": "system", "content": "Be brief."})
    equal((Fake.seen[-1]["temperature"], Fake.seen[-1]["max_tokens"]), (0.5, 7))
    assert "cut off" in b.js("document.querySelector('#status').textContent")


def test_kept(b, url):
    count = b.js("document.querySelectorAll('article').length")
    b.go(url)
    equal(b.js("document.querySelectorAll('article').length"), count)
    equal(b.js("document.querySelector('#system').value"), "Be brief.")
    b.click("#new")
    equal(b.js("document.querySelectorAll('article').length"), 0)
    b.go(url)
    equal(b.js("document.querySelectorAll('article').length"), 0)


def test_stop(b, _):
    for how in (lambda: b.click("#stop"), lambda: b.keys(ESCAPE), lambda: b.keys(ENTER)):  # the button has the focus
        Fake.cut.clear()
        ask(b, "endless", wait=False)
        b.wait(LAST + ".innerText.includes('more more more')")
        how()
        b.wait(IDLE)
        assert "stopped" in b.js("document.querySelector('article:last-of-type .facts').textContent")
        assert Fake.cut.wait(10), "the server did not see that the page left"
    ask(b, "again")
    equal(b.js(LAST + ".innerText"), "You said: again. 你好 😀")


def test_errors(b, _):
    ask(b, "refuse")
    equal(b.js("document.querySelector('#status').textContent"), "Error: it is <b>too</b> long")
    equal(b.js("document.querySelectorAll('#status b').length"), 0)
    ask(b, "break")
    equal(b.js("document.querySelector('#status').textContent"), "Error: the device is gone")


def test_hostile(b, _):
    ask(b, "hostile")
    equal(b.js("window.hacked || 0"), 0)
    equal(b.js(LAST + ".querySelectorAll('img, script, svg, iframe, i, u, s, b, a').length"), 0)
    equal(b.js(LAST + ".querySelector('.code code').textContent"), "<script>window.hacked=4</script>")
    assert "<img src=x onerror=" in b.js(LAST + ".innerText")


def test_markdown(b, url):
    b.click("#new")
    ask(b, QUESTION)
    count = lambda css: b.js(f"{LAST}.querySelectorAll({css!r}).length")
    equal([count(c) for c in ("h3", "strong", "em", "p code", "pre code", "ol > li", "ul > li", "tbody tr", "blockquote a")], [1, 1, 1, 1, 1, 3, 2, 2, 1])
    equal(b.js(LAST + ".querySelector('pre').textContent"), "int main(void) {\n    return 0; // <done> & dusted\n}")
    equal(b.js(LAST + ".querySelector('a').rel"), "noopener noreferrer")


def test_accessible(b, url):
    b.go(url)
    equal(b.js("document.activeElement.id"), "text")
    unnamed = b.js("""[...document.querySelectorAll('input, textarea, button, select')].filter(e =>
        !e.textContent.trim() && !(e.labels && e.labels.length) && !e.getAttribute('aria-label')).map(e => e.id)""")
    equal(unnamed, [])
    equal(b.js("[document.documentElement.lang, document.querySelector('#log').getAttribute('role'), document.querySelector('#status').getAttribute('role')].join()"),
          "en,log,status")
    reached = set()
    for _ in range(16):
        b.keys(TAB)
        reached.add(b.js("document.activeElement.id || document.activeElement.tagName"))
    assert {"new", "send", "SUMMARY"} <= reached, f"Tab reaches {reached}"


CONTRAST = """(() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                       return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const style = e => getComputedStyle(e), back = light(style(document.body).backgroundColor);
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  return [back, ratio(light(style(document.body).color), back), ratio(light(style(document.querySelector('#model')).color), back)];
})()"""


def contrast(b, dark):
    back, text, soft = b.js(CONTRAST)
    assert (back < 0.2) == dark, f"background luminance {back}"
    assert text >= 7 and soft >= 4.5, f"contrast {text:.1f}, {soft:.1f}"


def test_light(b, _):
    contrast(b, dark=False)


def test_dark(b, _):
    b.call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia",
                                         "params": {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}})
    contrast(b, dark=True)
    b.call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": {"features": []}})


def test_quiet(b, _):
    """Nothing on the console but the refused requests, and nothing loaded from elsewhere."""
    entries = [e for e in b.call("POST", "/se/log", {"type": "browser"}) if e["level"] != "DEBUG" and "400 (Bad Request)" not in e["message"]]
    equal(entries, [])
    equal(b.js("performance.getEntriesByType('resource').filter(e => !e.name.startsWith(location.origin) && !e.name.startsWith('data:')).length"), 0)


def real_chat(b, url):
    b.go(url)
    b.wait("!['…', 'the server does not answer'].includes(document.querySelector('#model').textContent)")
    b.click("#new")
    b.click("#settings summary")
    b.type("#temperature", "0")
    b.type("#max_tokens", "24")
    ask(b, "Tell me a story.")
    body = json.dumps({"messages": [{"role": "user", "content": "Tell me a story."}], "temperature": 0, "max_tokens": 24}).encode()
    request = urllib.request.Request(url + "/v1/chat/completions", data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        expected = json.loads(response.read())["choices"][0]["message"]["content"]
    squeeze = lambda text: " ".join(text.split())
    equal(squeeze(b.js(LAST + ".textContent")), squeeze(expected))


def main():
    options = argparse.ArgumentParser()
    options.add_argument("driver")
    options.add_argument("page")
    options.add_argument("--browser")
    options.add_argument("--server")
    options.add_argument("--screenshot")
    o = options.parse_args()
    with open(o.page, "rb") as file:
        Fake.page = file.read()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    tests = [test_chat, test_settings, test_kept, test_stop, test_errors, test_hostile, test_markdown, test_accessible, test_light,
             test_dark, test_quiet]
    with tempfile.TemporaryDirectory(prefix="gptq-compile-page.") as folder:
        browser = Browser(o.driver, o.browser, folder)
        try:
            for test in tests + ([real_chat] if o.server else []):
                try:
                    test(browser, o.server if test is real_chat else url)
                    print(f"ok page_{test.__name__.removeprefix('test_')}")
                except Exception as error:  # a broken test must not hide the others
                    print(f"not ok page_{test.__name__.removeprefix('test_')}: {type(error).__name__} {error}".replace("\n", " "))
            if o.screenshot:
                browser.go(url)
                browser.click("#new")
                ask(browser, QUESTION)
                browser.js("document.querySelector('#scroll').scrollTop = 0")
                with open(o.screenshot, "wb") as file:
                    file.write(base64.b64decode(browser.call("GET", "/screenshot")))
        finally:
            browser.close()


main()
