"""The clients of the matrix, and their drivers as processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.domain import Surface
from tests.clients.environments import EnvironmentUnavailable, node, npm_project, python_of
from tests.support.gateway import ALICE, Gateway

ROOT = Path(__file__).parents[2]
DRIVERS = Path(__file__).parent / "drivers"
STEPS = 5
"""Model calls of the loop that every client plays: four actions, then the answer."""
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")


@dataclass(frozen=True)
class Client:
    """One SDK or framework in one way of using it. `script` is what plays its five steps."""

    name: str
    environment: str
    driver: str
    script: str = "steps-5"
    surface: Surface = Surface.CHAT
    job: dict[str, Any] = field(default_factory=dict)
    tells_retries: bool = True
    """Sends `x-stainless-retry-count`."""
    one_error: str | None = None
    """The class that stands for every error of the API, in an SDK that has but one."""
    codes_in_streams: bool = True
    """Hands over the code of an error in mid-stream, and not its message alone."""

    def __str__(self) -> str:
        return self.name

    @property
    def model(self) -> str:
        """The model that plays its script."""
        return self.on(self.script)

    def on(self, script: str) -> str:
        """The model that plays a script, of a provider that speaks as this client does."""
        return f"{'claude' if self.surface is Surface.MESSAGES else 'sim'}/{script}"

    def base_url(self, origin: str) -> str:
        """What its SDK takes for a base URL, below an origin and its path."""
        return origin if self.surface is Surface.MESSAGES else f"{origin}/v1"


CHAT, RESPONSES, MESSAGES = Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES
_KEPT = {"style": "kept"}
_CLAUDE = {"style": "anthropic"}

OPENAI = [
    Client("openai-1.40", "openai-1.40", "openai_loop.py", tells_retries=False),
    Client("openai-1.109", "openai-1.109", "openai_loop.py"),
    Client("openai-2.8", "openai-2", "openai_loop.py"),
    Client("openai-3.52", "agents", "openai_loop.py"),
]
"""The plain SDK at four ages."""
REACT = Client("react", "openai-2", "openai_loop.py", job={"style": "react"})
REACT_OLD = Client("react-1.40", "openai-1.40", "openai_loop.py", job={"style": "react"}, tells_retries=False)
LANGGRAPH = Client("langgraph", "agents", "langgraph_agent.py")
AGENTS = Client("openai-agents-chat", "agents", "openai_agents.py", job={"style": "chat"})
# This one answers by a tool, so nothing on the wire says that it has ended.
SMOL_TOOLS = Client("smolagents-tools", "agents", "smol_agents.py", "smol-tools")
SMOL_CODE = Client("smolagents-code", "agents", "smol_agents.py", "smol-code", job={"style": "code"})
NODE = Client("openai-node", "node", "openai_loop.mjs")
NODE_REACT = Client("react-node", "node", "openai_loop.mjs", job={"style": "react"})
VERCEL_CHAT = Client(
    *("vercel-ai-chat", "node", "vercel_ai.mjs"),
    job={"style": "chat"},
    tells_retries=False,
    one_error="APICallError",
)

# On the Responses API.
RESPONSES_LOOPS = [
    Client(f"responses-{name}", environment, "responses_loop.py", surface=RESPONSES)
    for name, environment in (("1.109", "openai-1.109"), ("2.8", "openai-2"), ("3.52", "agents"))
]
"""The plain SDK, which keeps the history."""
RESPONSES_KEPT = [replace(c, name=c.name.replace("-", "-kept-"), job=_KEPT) for c in RESPONSES_LOOPS]
"""The same where the provider keeps it."""
AGENTS_DEFAULT = Client("openai-agents", "agents", "openai_agents.py", surface=RESPONSES)
PYDANTIC = Client("pydantic-ai-openai", "agents", "pydantic_agents.py", surface=RESPONSES)
NODE_RESPONSES = Client("responses-node", "node", "responses_loop.mjs", surface=RESPONSES)
NODE_KEPT = Client("responses-kept-node", "node", "responses_loop.mjs", surface=RESPONSES, job=_KEPT)
VERCEL = replace(VERCEL_CHAT, name="vercel-ai-openai", surface=RESPONSES, job={})

# On the Messages API.
ANTHROPIC = [
    Client("anthropic-0.75", "anthropic-0.75", "anthropic_loop.py", surface=MESSAGES),
    Client("anthropic-2.11", "anthropic-2", "anthropic_loop.py", surface=MESSAGES),
]
PYDANTIC_CLAUDE = Client(
    "pydantic-ai-anthropic", "agents", "pydantic_agents.py", surface=MESSAGES, job=_CLAUDE
)
LANGGRAPH_CLAUDE = Client(
    "langgraph-anthropic", "agents", "langgraph_agent.py", surface=MESSAGES, job=_CLAUDE
)
NODE_ANTHROPIC = Client("anthropic-node", "node", "anthropic_loop.mjs", surface=MESSAGES)
VERCEL_CLAUDE = replace(
    VERCEL_CHAT, name="vercel-ai-anthropic", surface=MESSAGES, job=_CLAUDE, codes_in_streams=False
)

PYTHON = [
    *(*OPENAI, REACT, REACT_OLD, LANGGRAPH, AGENTS, SMOL_TOOLS, SMOL_CODE),
    *(*RESPONSES_LOOPS, *RESPONSES_KEPT, AGENTS_DEFAULT, PYDANTIC),
    *(*ANTHROPIC, PYDANTIC_CLAUDE, LANGGRAPH_CLAUDE),
]
EVERY = [
    *PYTHON,
    *(NODE, NODE_REACT, NODE_RESPONSES, NODE_KEPT, NODE_ANTHROPIC),
    *(VERCEL_CHAT, VERCEL, VERCEL_CLAUDE),
]
SDKS = [
    *(OPENAI[0], OPENAI[3], NODE),
    *(RESPONSES_LOOPS[0], RESPONSES_LOOPS[2], NODE_RESPONSES),
    *(*ANTHROPIC, NODE_ANTHROPIC),
]
FRAMEWORKS = [
    *(LANGGRAPH, AGENTS, VERCEL_CHAT),
    *(AGENTS_DEFAULT, PYDANTIC, VERCEL),
    *(PYDANTIC_CLAUDE, LANGGRAPH_CLAUDE, VERCEL_CLAUDE),
]
"""One of each kind, for what does not differ between the ages of an SDK."""
_MIDDLE_AGED = [*OPENAI[1:3], RESPONSES_LOOPS[1], *RESPONSES_KEPT[:2]]
"""Neither the oldest nor the newest of their kind."""


def each(clients: Sequence[Client], *more: Any) -> list[Any]:
    """The clients as test parameters, with further values for all of them. Those of one driver share a
    process, so their tests stay together."""
    return [
        pytest.param(client, *more, id="-".join(map(str, (client, *more))), marks=_marks(client))
        for client in clients
    ]


def at_the_ends(clients: Sequence[Client]) -> list[Any]:
    """As `each`, those of middle age with the slow tests: where the oldest and the newest of an SDK agree, and
    all ages in a whole loop, nothing else is expected of what came between."""
    return each_but(_MIDDLE_AGED, clients)


def each_but(seldom: Sequence[Client], clients: Sequence[Client]) -> list[Any]:
    """As `each`, some of them with the slow tests."""
    return [
        pytest.param(client, id=str(client), marks=[*_marks(client), pytest.mark.slow])
        if client in seldom
        else pytest.param(client, id=str(client), marks=_marks(client))
        for client in clients
    ]


def _marks(client: Client) -> list[pytest.MarkDecorator]:
    marks = [pytest.mark.xdist_group(f"{client.environment}-{client.driver}")]
    return [*marks, pytest.mark.node] if client.environment == "node" else marks


@dataclass
class Result:
    """What one agent came to, as its own program saw it."""

    answer: str | None
    executed: list[str]
    """What its tool was called with."""
    error: dict[str, Any] | None
    """`class`, `kinds` (every class name in the chain of causes), `code`, `status`, `message`."""
    seconds: float

    def tells(self, code: str) -> bool:
        """The agent failed, and the failure has that code, or says it where its framework drops codes."""
        return self.error is not None and (self.error["code"] or self.error["message"]).count(code) > 0


class Drivers:
    """Driver processes, started when first asked for and kept until `close`."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], subprocess.Popen[str]] = {}

    def play(self, client: Client, gateway: Gateway, prompt: str = "", **job: Any) -> list[Result]:
        """Let the client's agent work on the prompt, `parallel` of them at once (or one for each of
        `prompts`); one result for each.
        With `tool_until`, the agents' tool returns when a file of that path appears."""
        process = self._process(client)
        assert process.stdin is not None
        assert process.stdout is not None
        whole = {
            "base_url": client.base_url(gateway.url),
            "api_key": ALICE,
            "model": client.model,
            "prompt": prompt,
            **client.job,
            **job,
        }
        try:
            process.stdin.write(json.dumps(whole) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(
                    f"the driver of {client} ended with {process.wait(5)}; see its standard error"
                )
        except BaseException:
            # What it still says to this job, after a test's own time-out say, is no answer to the next one.
            process.kill()
            process.wait(5)
            raise
        return [Result(**found) for found in json.loads(line)]

    def _process(self, client: Client) -> subprocess.Popen[str]:
        key = (client.environment, client.driver)
        running = self._running.get(key)
        if running is None or running.poll() is not None:
            running = self._running[key] = _start(client)
        return running

    def close(self) -> None:
        """End every driver."""
        for process in self._running.values():
            with contextlib.suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()
        for process in self._running.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


def _start(client: Client) -> subprocess.Popen[str]:
    try:
        command = _command(client)
    except EnvironmentUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # Nothing may leave the machine: neither traces nor look-ups of models.
    environment |= {"OPENAI_AGENTS_DISABLE_TRACING": "1", "LANGSMITH_TRACING": "false", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def _command(client: Client) -> list[str]:
    script = DRIVERS / client.driver
    if client.environment != "node":
        return [str(python_of(client.environment)), "-m", f"tests.clients.drivers.{script.stem}"]
    # Node looks for packages beside the script, so the scripts move to where they are.
    directory = npm_project("node")
    for source in (script, DRIVERS / "protocol.mjs"):
        shutil.copy(source, directory / source.name)
    return [node(), str(directory / script.name)]


@contextlib.contextmanager
def driver_processes() -> Iterator[Drivers]:
    """Drivers for a whole test session."""
    drivers = Drivers()
    try:
        yield drivers
    finally:
        drivers.close()
