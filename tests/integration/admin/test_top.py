"""`gateway top` in a real terminal: seen, resized, used to kill, and left as it was found."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.integration.admin.calls import chat
from tests.integration.admin.test_cli import environment_of, run
from tests.support.gateway import ThreadedGateway, wait_until


@dataclass
class Terminal:
    """A command in a terminal of its own, and everything that it has written."""

    process: subprocess.Popen[bytes]
    fd: int
    slave: int
    seen: bytes = b""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def press(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def read(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and select.select([self.fd], [], [], left)[0]:
            try:
                self.seen += os.read(self.fd, 65_536)
            except OSError:
                return

    def has_ended(self) -> bool:
        self.read(0.05)
        return self.process.poll() is not None

    def wait_for(self, text: str, timeout: float = 30, *, forget: bool = True) -> None:
        """Until the text was written since the last wait."""

        def found() -> bool:
            self.read(0.1)
            return text.encode() in self.seen

        wait_until(found, timeout, f"{text!r} on the screen")
        if forget:
            self.seen = b""


@contextmanager
def terminal(
    gateway: ThreadedGateway, *arguments: str, columns: int = 80, **environment: str
) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "top", "--interval", "0.3", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment_of(gateway, {"TERM": "xterm-256color", "PYTHONUTF8": "1", **environment}),
    )
    found = Terminal(process, master, slave)
    try:
        yield found
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


def test_a_run_is_seen_and_killed_by_a_key(gateway: ThreadedGateway) -> None:
    _, headers, _ = chat(gateway, x_guardrail_run_id="top-run")
    run_id = headers["x-guardrail-run-id"]
    with terminal(gateway) as shown:
        before = termios.tcgetattr(shown.slave)
        shown.wait_for(run_id)
        shown.resize(120, 40)
        # Only a wider screen has this column.
        shown.wait_for("MODEL")
        shown.press(b"s")
        shown.wait_for("by steps")
        shown.press(b"k")
        shown.wait_for(f"Kill {run_id} of alice?")
        shown.press(b"n")
        shown.wait_for("Not killed.")
        shown.press(b"ky")
        shown.wait_for(f"Killed run {run_id}")
        assert chat(gateway, x_guardrail_run_id="top-run")[2]["error"]["code"] == "run_killed"
        shown.wait_for("run_killed")
        shown.press(b"q")
        wait_until(shown.has_ended)
        assert shown.process.returncode == 0
        # The other screen is left, the cursor is back, and so is the echo of keys.
        assert b"\x1b[?1049l" in shown.seen
        assert b"\x1b[?25h" in shown.seen
        assert termios.tcgetattr(shown.slave)[3] == before[3]
    run(gateway, "revive", "run", run_id)


def test_without_colour_there_is_none(gateway: ThreadedGateway) -> None:
    chat(gateway, x_guardrail_run_id="plain-run")
    with terminal(gateway, NO_COLOR="1") as shown:
        shown.wait_for("LIVE RUNS", forget=False)
        shown.process.send_signal(signal.SIGINT)
        wait_until(shown.has_ended)
        colours = re.findall(rb"\x1b\[([0-9;]*)m", shown.seen)
        assert not [c for c in colours if any(30 <= int(n or 0) <= 49 for n in c.split(b";"))]


def test_a_script_looks_once_and_can_kill(gateway: ThreadedGateway) -> None:
    _, headers, _ = chat(gateway, x_guardrail_run_id="script-run")
    run_id = headers["x-guardrail-run-id"]
    # One picture serves everyone for a moment.
    wait_until(lambda: run_id in run(gateway, "top", "--once"))
    told = run(gateway, "top", "--once", "--sort", "cost")
    assert "LIVE RUNS" in told
    assert "\x1b" not in told
    assert '"spend"' in run(gateway, "top", "--json")
    assert "LATELY" in run(gateway, "top", "--kill", run_id)
    assert chat(gateway, x_guardrail_run_id="script-run")[2]["error"]["code"] == "run_killed"
    run(gateway, "revive", "run", run_id)
    assert "expected one of burn, cost, steps, age, limit" in run(gateway, "top", "--sort", "name", check=2)
