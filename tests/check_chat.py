#!/usr/bin/env python3
"""check_chat.py EXECUTABLE: `chat` in a terminal: editing, history, Ctrl-C, commands."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

LEFT, RIGHT, UP, DOWN, HOME, END, DELETE = "\x1b[D", "\x1b[C", "\x1b[A", "\x1b[B", "\x1b[H", "\x1b[F", "\x1b[3~"


class Terminal:
    def __init__(self, *command, columns=80, term="xterm"):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = term
            os.execv(command[0], command)
        import fcntl, struct, termios
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.seen = ""

    def read(self, seconds):
        ready, _, _ = select.select([self.fd], [], [], seconds)
        try:
            data = os.read(self.fd, 65536) if ready else b""
        except OSError:  # the other side is closed
            data = b""
        self.seen += data.decode("utf-8", "replace")
        return bool(data)

    def wait(self, pattern, seconds=60):
        """Until the text since the last wait matches; gives the match."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen, re.S)):
            if time.monotonic() > end or not (self.read(0.2) or self.alive()):
                raise AssertionError(f"no {pattern!r} in {self.seen[-300:]!r}")
        self.seen = self.seen[found.end():]
        return found

    def send(self, text):
        os.write(self.fd, text.encode())

    def alive(self):
        self.status = getattr(self, "status", None)
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is None

    def exit_code(self, seconds=20):
        end = time.monotonic() + seconds
        while self.alive() and time.monotonic() < end:
            self.read(0.1)
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)
        return self.status


PROMPT = r"\r> (?:\x1b\[K)?"
SHORT = ("-n", "5", "--temp", "0")


def started(exe, *options, **terminal):
    t = Terminal(exe, "chat", *options, **terminal)
    t.wait(r"/help lists the commands\.")
    t.wait(PROMPT)
    return t


def saved(t, folder, name):
    path = os.path.join(folder, name)
    t.send(f"/save {path}\r")
    t.wait(r"\x1b\[\?2004l\r\n.*" + PROMPT)
    end = time.monotonic() + 20
    while not os.path.exists(path) or not os.path.getsize(path):
        assert time.monotonic() < end, "no file"
        t.read(0.05)
    time.sleep(0.1)
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def say(t, keys):
    t.send(keys + "\r")
    t.wait(r"\n.*\n.*" + PROMPT)  # the line, the answer, the next prompt


def test_editing(exe, folder):
    t = started(exe, *SHORT)
    typed = [
        ("helo" + LEFT + "l", "hello"),
        ("world" + HOME + "my " + END + "!", "my world!"),
        ("one two three" + "\x17" + "3", "one two 3"),  # Ctrl-W
        ("aXb" + LEFT + LEFT + DELETE + RIGHT + "c", "abc"),
        ("gone\x15kept", "kept"),  # Ctrl-U
        ("ab cd\x01\x0b\x19\x19", "ab cdab cd"),  # Ctrl-A, Ctrl-K, Ctrl-Y twice
        ("Grüße 你好 😀\x7f\x7f", "Grüße 你好"),
        ("one two\x1bb\x1bbX\x1bfY", "XoneY two"),  # Alt-B, Alt-F
        ("x\x1b[15~\x1b[1;9Qy", "xy"),  # keys that it does not have
        ("\x1b[200~two\nlines\x1b[201~", "two\nlines"),  # a paste
        ("tail\x02\x02\x04\x04", "ta"),  # Ctrl-B, Ctrl-D
    ]
    for keys, _ in typed:
        say(t, keys)
    found = [m["content"] for m in saved(t, folder, "editing") if m["role"] == "user"]
    assert found == [text for _, text in typed], found
    t.send("\x04")
    assert t.exit_code() == 0, t.status


def test_history(exe, folder):
    t = started(exe, *SHORT)
    say(t, "first")
    say(t, "second")
    say(t, UP + UP)
    say(t, "draft" + UP + "!" + DOWN + "?")  # the new line is kept
    say(t, UP + UP + "2")
    found = [m["content"] for m in saved(t, folder, "history") if m["role"] == "user"]
    assert found == ["first", "second", "first", "draft?", "first2"], found
    t.send("\x04")
    assert t.exit_code() == 0, t.status


def test_narrow(exe, folder):
    t = started(exe, *SHORT, columns=20)
    text = "a long line that is wider than the terminal 你好你好"
    say(t, text + HOME + "x" + END + "y")
    found = saved(t, folder, "narrow")[0]["content"]
    assert found == "x" + text + "y", found
    t.send("\x04")
    assert t.exit_code() == 0, t.status


def test_interrupt(exe, folder):
    """Ctrl-C stops the answer, then clears a line, and never ends the program."""
    t = started(exe, "-n", "100000", "--temp", "1", "--seed", "3")
    t.send("Tell me everything.\r")
    t.wait(r"everything\.\x1b.*\n[^\r>]{5,}")
    t.send("\x03")
    t.wait(PROMPT)
    t.send("half a line\x03")
    t.wait("half a line.*" + PROMPT)
    t.send("\x03\x03")
    found = saved(t, folder, "interrupt")
    assert [m["role"] for m in found] == ["user", "assistant"] and found[1]["content"], found
    t.send("\x04")
    assert t.exit_code() == 0, t.status


def test_interrupt_slow_reader(exe, folder):
    """Ctrl-C while the answer waits for a reader that is behind: no failure either."""
    words = [exe, "chat", "-n", "100000", "--temp", "1", "--seed", "3"]
    chat = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    fcntl.fcntl(chat.stdout, fcntl.F_SETPIPE_SZ, 4096)
    chat.stdin.write(b"Tell me everything.\n")
    chat.stdin.flush()
    end = time.monotonic() + 60
    while struct.unpack("i", fcntl.ioctl(chat.stdout, termios.FIONREAD, b"\0" * 4))[0] < 4000:
        assert time.monotonic() < end, "too little text"
        time.sleep(0.01)
    time.sleep(0.2)
    chat.send_signal(signal.SIGINT)
    out, err = chat.communicate(timeout=60)
    assert chat.returncode == 0 and len(out) >= 4000, (chat.returncode, len(out), err)


def test_commands(exe, folder):
    t = started(exe, *SHORT, "--system", "Be kind.")
    t.send("/help\r")
    t.wait(r"/help.*/reset.*/save +FILE.*/stats.*/system TEXT.*" + PROMPT)
    t.send("/nothing\r")
    t.wait(r"GQC-1257: there is no command /nothing.*" + PROMPT)
    say(t, "hello")
    t.send("/stats\r")
    t.wait(r"3 messages, \d+ of \d+ tokens.*5 tokens written.*" + PROMPT)
    t.send("/system Be brief.\r")
    t.wait(PROMPT)
    say(t, "//not a command")
    found = saved(t, folder, "commands")
    assert [m["role"] for m in found] == ["system", "user", "assistant", "user", "assistant"], found
    assert (found[0]["content"], found[3]["content"]) == ("Be brief.", "/not a command"), found
    t.send(f"/save {os.path.join(folder, 'commands')}\r")
    t.wait(r"GQC-1256: .*cannot write: File exists.*" + PROMPT)
    t.send("/reset\r")
    t.wait(PROMPT)
    found = saved(t, folder, "reset")
    assert [m["content"] for m in found] == ["Be brief."], found
    t.send("/system\r")
    t.wait(PROMPT)
    assert saved(t, folder, "empty") == []
    t.send("\x04")
    assert t.exit_code() == 0, t.status


def test_same_answer(exe, folder):
    """The second answer of an edited conversation is that of the whole conversation."""
    t = started(exe, "-n", "12", "--temp", "0", "--system", "Be kind.")
    say(t, "Tell me a story.")
    say(t, "And then?")
    messages = saved(t, folder, "same")
    t.send("\x04")
    assert t.exit_code() == 0, t.status
    with open(os.path.join(folder, "prompt.json"), "w", encoding="utf-8") as file:
        json.dump(messages[:-1], file)
    prompt = subprocess.run([exe, "template", "-f", file.name], capture_output=True, check=True).stdout
    with open(os.path.join(folder, "prompt"), "wb") as file:
        file.write(prompt)
    answer = subprocess.run([exe, "run", "--raw", "-f", file.name, "-n", "12", "--temp", "0", "--json"], capture_output=True, check=True).stdout
    assert json.loads(answer)["text"] == messages[-1]["content"], (answer, messages[-1])


def test_too_long(exe, folder):
    """A message that does not fit is refused and forgotten; the conversation goes on."""
    t = started(exe, "-n", "3", "--temp", "0", "-c", "64")
    t.send("\x1b[200~" + "word " * 200 + "\x1b[201~\r")
    t.wait(r"GQC-\d+: .*tokens.*" + PROMPT)
    say(t, "hi")
    found = saved(t, folder, "long")
    assert [m["role"] for m in found] == ["user", "assistant"] and found[0]["content"] == "hi", found
    t.send("\x04")
    assert t.exit_code() == 0, t.status


def test_dumb(exe, folder):
    t = Terminal(exe, "chat", *SHORT, term="dumb")
    t.wait("> ")
    t.send("hello\n")
    t.wait(r"\n.*\n.*> ")
    t.send("\x04")
    assert t.exit_code() == 0, t.status


def main():
    exe = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="gptq-compile-chat.") as folder:
        for name, test in [(n, f) for n, f in globals().items() if n.startswith("test_")]:
            try:
                test(exe, folder)
                print(f"ok chat_{name[5:]}")
            except Exception as error:
                print(f"not ok chat_{name[5:]}: {type(error).__name__} {error}".replace("\n", " "))


main()
