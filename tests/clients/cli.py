"""Agents that are programs of their own: Claude Code and Codex, headless, each in a home of its own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.domain import Surface
from gateway.testing import Ask, Reply
from tests.clients.clients import MESSAGES, RESPONSES
from tests.clients.environments import EnvironmentUnavailable, node, npm_project
from tests.clients.scripts import Play
from tests.support.gateway import ALICE, Gateway

TIMEOUT_S = 90
NOTES = "blue heron"
COMMAND = "echo forty-two > proof.txt && cat proof.txt"
PROMPT = "Prove that you can run commands, and tell me what notes.txt says."
ANSWER = f"The notes say: {NOTES}."


@dataclass
class Done:
    """What came of a task. `failure` is what the program said of it, empty when it succeeded."""

    code: int
    answer: str
    failure: str
    session: str
    output: str = field(repr=False)


@dataclass
class Desk:
    """Where a program works: a folder with notes in it, a home, and a way out that leads nowhere."""

    directory: Path
    proxy: str
    strayed: list[str] = field(default_factory=list)
    """Whom the programs wanted to talk to besides the gateway."""

    def __post_init__(self) -> None:
        for place in (self.work, self.home):
            place.mkdir(parents=True)
        (self.work / "notes.txt").write_text(NOTES + "\n")

    @property
    def work(self) -> Path:
        return self.directory / "work"

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def proof(self) -> str | None:
        """What `COMMAND` has written."""
        path = self.work / "proof.txt"
        return path.read_text() if path.exists() else None

    def environment(self) -> dict[str, str]:
        """Everything but the gateway leads to a proxy that takes down who was asked for and hangs up."""
        proxies = {name: self.proxy for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")}
        here = {name: "127.0.0.1,localhost" for name in ("NO_PROXY", "no_proxy")}
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        return {**kept, **proxies, **here, "HOME": str(self.home)}


@contextlib.contextmanager
def desk(directory: Path) -> Iterator[Desk]:
    """A place to work at, for as long as the block lasts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        made = Desk(directory, f"http://127.0.0.1:{server.getsockname()[1]}")
        threading.Thread(target=_turn_away, args=(server, made.strayed), daemon=True).start()
        yield made


def _turn_away(server: socket.socket, strayed: list[str]) -> None:
    with contextlib.suppress(OSError):
        while True:
            caller, _ = server.accept()
            with caller, contextlib.suppress(OSError):
                strayed.append(caller.recv(4096).split(b"\r\n", 1)[0].decode("latin-1"))


class Cli(ABC):
    """One program. `model` is one of a provider that speaks as it does."""

    name: str
    surface: Surface
    model: str
    other: str
    """The same script of a provider that speaks another API."""

    def __str__(self) -> str:
        return self.name

    def run(
        self,
        gateway: Gateway,
        desk: Desk,
        prompt: str = PROMPT,
        *,
        model: str | None = None,
        key: str = ALICE,
        resume: str | None = None,
        settings: str = "",
        below: str = "",
    ) -> Done:
        """Let it work on a prompt until it ends. `resume` goes on with a session, `settings` is added to the
        program's own, `below` to the gateway's address. Raises `TimeoutExpired`."""
        origin = gateway.url + below
        try:
            command, environment = self.command(origin, desk, model or self.model, key, resume, settings)
        except EnvironmentUnavailable as error:
            # The programs are three quarters of a gigabyte, and not every mirror has them.
            pytest.skip(str(error))
        ran = subprocess.run(
            [node(), *command, prompt],
            cwd=desk.work,
            env={**desk.environment(), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        return self.read(ran.returncode, ran.stdout, ran.stderr)

    @abstractmethod
    def command(
        self, origin: str, desk: Desk, model: str, key: str, resume: str | None, settings: str
    ) -> tuple[list[str], dict[str, str]]:
        """What Node is to run, without the prompt, and the environment."""

    @abstractmethod
    def read(self, code: int, output: str, errors: str) -> Done:
        """The outcome as the program tells it."""

    @abstractmethod
    def shell(self, command: str) -> tuple[str, dict[str, Any]]:
        """The tool call that runs a shell command."""

    def task(self, command: str = COMMAND) -> Play:
        """A model that has the command run, then the notes read, and says what they say."""

        def play(ask: Ask) -> Reply:
            results = [turn.text for turn in ask.turns if turn.role == "tool"]
            if not results:
                return Reply("I run it.", tool_calls=[self.shell(command)])
            if len(results) == 1:
                return Reply(tool_calls=[self.shell("cat notes.txt")])
            return Reply(ANSWER if NOTES in results[-1] else f"I saw {results[-1]!r}.")

        return play


class ClaudeCode(Cli):
    """`claude -p`, told by its environment where to go."""

    name = "claude-code"
    surface = MESSAGES
    model = "claude/task"
    other = "sim/task"

    def command(
        self, origin: str, desk: Desk, model: str, key: str, resume: str | None, settings: str
    ) -> tuple[list[str], dict[str, str]]:
        program = npm_project("cli") / "node_modules/@anthropic-ai/claude-code/cli-wrapper.cjs"
        environment = {
            "ANTHROPIC_BASE_URL": origin,
            "ANTHROPIC_AUTH_TOKEN": key,
            "ANTHROPIC_MODEL": model,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
            # No telemetry, no crash reports, no updates.
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        options = ["-p", "--output-format", "json", "--allowedTools=Bash,Read,Agent"]
        return [str(program), *options, *(["--resume", resume] if resume else [])], environment

    def read(self, code: int, output: str, errors: str) -> Done:
        told: dict[str, Any] = {"is_error": True, "result": output + errors}
        if output.startswith("{"):
            told = json.loads(output)
        said = str(told.get("result", ""))
        failed = bool(told["is_error"])
        code_told = told.get("api_error_code") or ""
        return Done(
            code,
            "" if failed else said,
            f"{code_told} {said}" if failed else "",
            told.get("session_id", ""),
            output + errors,
        )

    def shell(self, command: str) -> tuple[str, dict[str, Any]]:
        return "Bash", {"command": command, "description": "Run a command"}


class Codex(Cli):
    """`codex exec`, told by its configuration file where to go."""

    name = "codex"
    surface = RESPONSES
    model = "sim/task"
    other = "claude/task"

    def command(
        self, origin: str, desk: Desk, model: str, key: str, resume: str | None, settings: str
    ) -> tuple[list[str], dict[str, str]]:
        program = npm_project("cli") / "node_modules/@openai/codex/bin/codex.js"
        home = desk.home / ".codex"
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(f"""
model = "{model}"
model_provider = "gateway"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
{settings}
[model_providers.gateway]
name = "gateway"
base_url = "{origin}/v1"
env_key = "GATEWAY_KEY"
wire_api = "responses"
[analytics]
enabled = false
[features]
plugins = false
""")
        environment = {"CODEX_HOME": str(home), "GATEWAY_KEY": key}
        how = ["--skip-git-repo-check", "--json"]
        return [str(program), "exec", *how, *(["resume", resume] if resume else [])], environment

    def read(self, code: int, output: str, errors: str) -> Done:
        events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        items = [event["item"] for event in events if event["type"] == "item.completed"]
        said = [item["text"] for item in items if item["type"] == "agent_message"]
        failed = [event["error"]["message"] for event in events if event["type"] == "turn.failed"]
        threads = [event["thread_id"] for event in events if event["type"] == "thread.started"]
        return Done(
            code,
            said[-1] if said and not failed else "",
            failed[-1] if failed else "" if said else output + errors,
            threads[0] if threads else "",
            output + errors,
        )

    def shell(self, command: str) -> tuple[str, dict[str, Any]]:
        return "exec_command", {"cmd": command}


CLAUDE_CODE, CODEX = ClaudeCode(), Codex()
CLIS: list[Cli] = [CLAUDE_CODE, CODEX]
