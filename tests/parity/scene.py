"""One cell of the control matrix: a client on a surface, a provider behind it, and what both got to see."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.admission import Kill
from gateway.testing import ProviderServer, Reply, error_reply
from tests.integration.data_plane.test_surfaces import IN, LANES, OUT, PRICE
from tests.support.gateway import ThreadedGateway
from tests.support.wire import WIRES, Json, Said, Wire

LIMIT_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
CALLED = ("lookup", {"q": "the manual of the printer"})
FORBIDDEN = "wipe"
"""A tool that an operator has stopped, in every gateway here."""
SECRET = "sk-upstream-secret-000000000000"
MAX_BODY_BYTES = 60_000
SPEAKS = {"claude": "messages", "chatonly": "chat"}
"""By the model's prefix: the one API of its provider."""


def spoken(surface: str, prefix: str) -> str:
    """The API that the provider of a lane is asked in."""
    if prefix == "sim":
        return "chat" if surface == "messages" else surface
    return SPEAKS[prefix]


def lane_name(surface: str, prefix: str) -> str:
    """The client's API, and the provider's where that is another."""
    upstream = spoken(surface, prefix)
    return surface if upstream == surface else f"{surface} to {upstream}"


def policy(
    provider: ProviderServer, keys: list[tuple[str, str | None]], more: str, providers: str = ""
) -> str:
    """A policy for all lanes, with one gateway key per control; its user has the same name, its team too.

    `keys` are names, with the models that they may reach. `providers` are settings of each provider.
    Besides `sim/…` and so on, `sim-unpriced/…` have no price.
    """
    upstreams = {
        "upstream": f'dialect: openai, base_url: "{provider.base_url}", api_key: {SECRET}',
        "claude": f'dialect: anthropic, base_url: "{provider.origin}", api_key: {SECRET}',
        "chatonly": f'dialect: openai, base_url: "{provider.base_url}", api_key: none, surfaces: [chat]',
    }
    lines = ["version: 1", "providers:"]
    # All scenes share their gateways, and many of them have the provider fail.
    lines += [f"  {name}: {{{told}, breaker: null{providers}}}" for name, told in upstreams.items()]
    lines.append("models:")
    for prefix, name in (("sim", "upstream"), ("claude", "claude"), ("chatonly", "chatonly")):
        lines.append(f'  "{prefix}/*": {{provider: {name}, upstream_model: "sim/*", {PRICE}}}')
        lines.append(f'  "{prefix}-unpriced/*": {{provider: {name}, upstream_model: "sim/*"}}')
    lines += ['  "other/*": {provider: upstream, price: free}', "auth: {mode: keys}", "keys:"]
    for key, models in keys:
        reach = f", models: {models}" if models else ""
        lines.append(f"  - {{name: {key}, key: {secret(key)}, user: {key}, team: {key}{reach}}}")
    lines += ["routing: {retries: null}", f"server: {{max_body_bytes: {MAX_BODY_BYTES}}}"]
    return "\n".join([*lines, more])


def secret(key: str) -> str:
    """What a client sends for a gateway key of that name."""
    return f"gk-{key}-0123456789"


SCRIPTS = {
    "text": Reply("A longer answer, in a few words."),
    "call": Reply(tool_calls=[CALLED]),
    "forbidden": Reply(
        "Let me see.", tool_calls=[(FORBIDDEN, {"path": "/data"})], chunk_delay_s=0.005, ignore_limits=True
    ),
    "flood-text": Reply("word " * 6000, chunks=600, chunk_delay_s=0.001, ignore_limits=True),
    "flood-call": Reply(
        tool_calls=[("lookup", {"q": "word " * 6000})], chunks=600, chunk_delay_s=0.001, ignore_limits=True
    ),
    "slow-text": Reply("word " * 400, chunks=400, chunk_delay_s=0.01),
    "slow-call": Reply(tool_calls=[("lookup", {"q": "word " * 400})], chunks=400, chunk_delay_s=0.01),
    "late": Reply("late", head_delay_s=20),
    "cut-text": Reply("word " * 60, chunks=30, cut_at_byte=3000),
    "cut-call": Reply(tool_calls=[("lookup", {"q": "word " * 60})], chunks=30, cut_at_byte=3000),
    "fault-401": error_reply(401, f"Incorrect API key provided: {SECRET}."),
    "fault-429": error_reply(429, "Slow down, please.", headers=[("retry-after", "3600")]),
    "fault-500": error_reply(500, "The engine has burst."),
}
"""What the simulated provider answers, by the name of a model."""


@dataclass
class Answer:
    """What the client received."""

    status: int
    headers: dict[str, str]
    raw: bytes
    said: Said

    @property
    def run(self) -> str:
        return self.headers["x-guardrail-run-id"]


@dataclass
class Scene:
    """A cell. `tool`: the agent is in a tool loop, and the answer is a call rather than a text."""

    gateway: ThreadedGateway
    provider: ProviderServer
    wire: Wire
    prefix: str
    stream: bool
    tool: bool
    name: str
    """Unlike all other scenes'; names its run, its session and its tag."""
    key: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def answer_script(self) -> str:
        return "call" if self.tool else "text"

    def of_kind(self, script: str) -> str:
        """The script's variant for this cell: `slow` is `slow-call` or `slow-text`."""
        return f"{script}-{self.answer_script}"

    def model(self, script: str) -> str:
        return f"{self.prefix}/{script}"

    def body(self, script: str | None = None, **more: Any) -> Json:
        """A request: a question, or a tool's result with the question and the call before it."""
        wire = self.wire
        # Nothing but its name may tie a scene to a run.
        history = [wire.user(f"Why does it not print? ({self.name})")]
        if self.tool:
            call = (f"call_0123456789-{self.name}", "lookup", json.dumps({"q": self.name}))
            history += wire.answered(Said(calls=[call]))
        made = wire.body(self.model(script or self.answer_script), history)
        if self.tool:
            made["tools"] = wire.tools(["lookup", "read"])
        return {**made, "stream": self.stream, **more}

    def ask(self, body: Json | bytes | None = None, *, key: str | None = None) -> Answer:
        """Send a request and read all of the answer."""
        sent = self.body() if body is None else body
        status, headers, raw = self.gateway.post(
            sent, key=key or secret(self.key), path=self.wire.path, **self.wire.headers, **self.headers
        )
        return Answer(status, headers, raw, self.wire.read(raw))

    def begin(self, script: str) -> Client:
        """Send a request and leave its answer to be read."""
        headers = {"authorization": f"Bearer {secret(self.key)}", "content-type": "application/json"}
        given = {**self.wire.headers, **self.headers}
        headers |= {name.replace("_", "-"): value for name, value in given.items()}
        return Client(self, json.dumps(self.body(script)), headers)

    def recorded(self, run: str) -> list[Json]:
        """The ledger's attempts and refusals of a run."""

        async def read() -> list[Json]:
            await self.gateway.worker.drain.flush()
            steps, _ = await self.gateway.worker.ledger.steps(run, limit=100)
            return [dict(step) for step in steps]

        found: list[Json] = self.gateway.run(read)
        return found

    def run_status(self, run: str) -> str:
        row: Json = self.gateway.run(lambda: self.gateway.worker.ledger.run(run))
        return str(row["status"])

    @contextlib.contextmanager
    def killed(self, flag: str, reason: str = "stopped by hand") -> Iterator[None]:
        """An operator's stop, while the block lasts."""
        store = self.gateway.worker.store
        self.gateway.run(lambda: store.set_kill(Kill(flag, reason), None))
        try:
            yield
        finally:
            self.gateway.run(lambda: store.clear_kill(flag))

    def cost_served(self) -> int:
        """What the provider served since the scene began, in nano-dollars."""
        return sum(a.served.input_uncached * IN + a.served.output_total * OUT for a in self.provider.journal)

    def limit_sent(self) -> int:
        """The output limit in the request that the provider received last."""
        sent = json.loads(self.provider.journal.last.body)
        (limit,) = [sent[name] for name in LIMIT_FIELDS if name in sent]
        return int(limit)


class Client(threading.Thread):
    """A client that reads until it has everything, or leaves."""

    def __init__(self, scene: Scene, body: str, headers: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.received = b""
        self.status = 0
        self.headers: dict[str, str] = {}
        self._scene = scene
        self._connection = http.client.HTTPConnection("127.0.0.1", scene.gateway.port, timeout=30)
        self._connection.request("POST", scene.wire.path, body, headers)
        assert self._connection.sock is not None
        self._socket = self._connection.sock
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            answer = self._connection.getresponse()
            self.status = answer.status
            self.headers = {name.lower(): value for name, value in answer.headers.items()}
            while piece := answer.read1(65536):
                self.received += piece

    def leave(self) -> None:
        """Close the connection at once."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.join(10)
        self._connection.close()

    def answer(self) -> Answer:
        """What came, once all of it has."""
        self.join(20)
        assert not self.is_alive()
        self._connection.close()
        return Answer(self.status, self.headers, self.received, self._scene.wire.read(self.received))


__all__ = ["LANES", "WIRES", "Answer", "Client", "Scene", "lane_name", "policy", "secret", "spoken"]
