"""A shell in which the commands of one page are run, one after the other, as a reader would.

What changes the shell (variables, jobs in the background) holds for the commands behind it. A plain `gateway …`,
and the agent of the how-tos, run in this process, because a new one takes a second to start; everything else is
bash's.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

from gateway.cli import main

AGENT = "docs/howto/agent.py"
END = "--- the command has ended with"
_SHELLS_OWN = re.compile(r"[|&;<>$`(){}*?]")


class Shell:
    """Bash in a folder, with variables of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self._told = folder / ".environment"
        self._bash: subprocess.Popen[bytes] | None = None

    def run(self, command: str, timeout_s: float) -> tuple[int, str]:
        """The exit status and everything that was said. Raises `TimeoutError`."""
        given, words = _plain(command)
        if words[:1] == ["gateway"]:
            return self._own(lambda: main(words[1:]), given)
        if words[:2] == ["python", AGENT]:
            return self._own(lambda: _agent(words[1:]), given)
        return self._by_bash(command, timeout_s)

    def close(self) -> None:
        """End bash and what it has left running."""
        if self._bash is not None:
            assert self._bash.stdin is not None
            self._bash.stdin.close()
            try:
                self._bash.wait(5)
            except subprocess.TimeoutExpired:
                self._bash.kill()
                self._bash.wait(5)
            assert self._bash.stdout is not None
            self._bash.stdout.close()

    def _own(self, work: Callable[[], object], given: Mapping[str, str]) -> tuple[int, str]:
        out, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        status: object = 0
        before = Path.cwd()
        with (
            mock.patch.dict(os.environ, {**self.environment, **given}, clear=True),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(errors),
        ):
            os.chdir(self.folder)
            try:
                work()
            except SystemExit as ended:
                status = ended.code or 0
            finally:
                os.chdir(before)
        said = b"".join(text.buffer.getvalue() for text in (out, errors)).decode()
        return status if isinstance(status, int) else 1, said

    def _by_bash(self, command: str, timeout_s: float) -> tuple[int, str]:
        bash = self._bash
        if bash is None:
            bash = self._bash = subprocess.Popen(
                ["bash", "--noprofile", "--norc"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        assert bash.stdin is not None
        assert bash.stdout is not None
        told = shlex.quote(str(self._told))
        # Of a pipe the last command's status counts, as in a reader's shell.
        bash.stdin.write(f'{command}\necho; echo "{END} $?"; env -0 > {told}\necho {END}\n'.encode())
        bash.stdin.flush()
        said, deadline = b"", time.monotonic() + timeout_s
        last = f"\n{END}\n".encode()
        while not said.endswith(last):
            ready, _, _ = select.select([bash.stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(bash.stdout.fileno(), 65536) if ready else b""
            if not piece:
                raise TimeoutError(
                    f"{command}\nhas not ended within {timeout_s:.0f} s; it said:\n{said.decode(errors='replace')}"
                )
            said += piece
        pairs = (pair.partition("=") for pair in self._told.read_text().split("\0") if "=" in pair)
        self.environment = {name: value for name, _, value in pairs}
        text = said.decode(errors="replace").removesuffix(last.decode())
        before, _, status = text.rpartition(f"\n{END} ")
        return int(status), before


def _agent(words: list[str]) -> None:
    """The agent of the how-tos, as `python` would run it."""
    with mock.patch.object(sys, "argv", words):
        runpy.run_path(words[0], run_name="__main__")


def _plain(command: str) -> tuple[dict[str, str], list[str]]:
    """The variables before a command and its words; no words where it needs a shell."""
    if "\n" in command or _SHELLS_OWN.search(_unquoted(command)):
        return {}, []
    try:
        words = shlex.split(command, comments=True)
    except ValueError:
        return {}, []
    given: dict[str, str] = {}
    while words and re.match(r"[A-Z_]+=", words[0]):
        name, _, given[name] = words.pop(0).partition("=")
    return given, words


def _unquoted(command: str) -> str:
    """The command without what stands in single quotes, and without its comment."""
    return re.sub(r"\s#\s.*", "", re.sub(r"'[^']*'", "''", command))
