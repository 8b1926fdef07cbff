"""Every surface is metered, tied into runs, stopped and billed as chat is, in its own grammar; and so is every
translation between two."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.admission import Kill
from gateway.testing import ProviderServer, Reply, error_reply
from tests.integration.conftest import AT_ONCE_S
from tests.support.gateway import ALICE, BOB, ThreadedGateway, threaded_gateway, wait_until
from tests.support.wire import WIRES, Wire

IN, CACHED, OUT = 2_500, 1_250, 10_000
PRICE = "price: {input_usd_per_mtok: 2.5, cached_input_usd_per_mtok: 1.25, output_usd_per_mtok: 10}"
LANES = [
    ("chat", "sim"),
    ("responses", "sim"),
    ("messages", "claude"),
    ("chat", "claude"),
    ("messages", "sim"),
    ("responses", "claude"),
    ("responses", "chatonly"),
]
"""(surface of the client, whose provider speaks: all of OpenAI's APIs, Anthropic's, chat alone)."""
lanes = pytest.mark.parametrize(("surface", "prefix"), LANES)
streams = pytest.mark.parametrize("stream", [False, True])
WAYS = [
    ("chat", "sim", False), ("chat", "sim", True), ("messages", "sim", True), ("responses", "sim", True),
    ("chat", "claude", True), ("messages", "claude", False), ("responses", "chatonly", False),
]  # fmt: skip
ways = pytest.mark.parametrize(("surface", "prefix", "stream"), WAYS)
"""Every surface, plain and streamed, with translation and without: enough for what no surface does by itself."""


def policy_for(provider: ProviderServer, extra: str = "") -> str:
    return f"""
version: 1
providers:
  upstream: {{dialect: openai, base_url: "{provider.base_url}", api_key: sk-upstream-secret-000000000000, breaker: null}}
  claude: {{dialect: anthropic, base_url: "{provider.origin}", api_key: sk-upstream-secret-000000000000, breaker: null}}
  chatonly: {{dialect: openai, base_url: "{provider.base_url}", api_key: none, surfaces: [chat], breaker: null}}
models:
  "sim/*": {{provider: upstream, {PRICE}}}
  "claude/*": {{provider: claude, upstream_model: "sim/*", {PRICE}}}
  "chatonly/*": {{provider: chatonly, upstream_model: "sim/*", {PRICE}}}
auth: {{mode: keys}}
keys:
  - {{name: alice, key: {ALICE}, user: alice, team: red}}
  - {{name: bob, key: {BOB}, user: bob, team: blue}}
{extra}"""


@pytest.fixture
def everywhere(provider: ProviderServer, tmp_path: Path) -> Iterator[ThreadedGateway]:
    with threaded_gateway(policy_for(provider), tmp_path / "gw") as gateway:
        yield gateway


def journal_cost(provider: ProviderServer) -> int:
    return sum(
        a.served.input_uncached * IN + a.served.cache_read * CACHED + a.served.output_total * OUT
        for a in provider.journal
    )


def ledger_cost(gateway: ThreadedGateway) -> int:
    return sum(a["cost"] for a in gateway.attempts())


def post(gateway: ThreadedGateway, wire: Wire, body: Any, **more: Any) -> tuple[int, dict[str, str], bytes]:
    return gateway.post(body, path=wire.path, **wire.headers, **more)


@lanes
@streams
def test_an_answer_costs_exactly_what_the_provider_served(
    everywhere: ThreadedGateway, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    wire = WIRES[surface]
    provider.script("mixed", Reply("A longer answer.", cached_tokens=4))
    status, headers, raw = post(everywhere, wire, wire.request(f"{prefix}/mixed", stream=stream))
    assert status == 200, raw
    said = wire.read(raw)
    assert (said.text, said.error, said.clean) == ("A longer answer.", None, True)
    (attempt,) = everywhere.attempts()
    assert (attempt["surface"], attempt["cost_source"], attempt["outcome"]) == (surface, "provider", "ok")
    assert ledger_cost(everywhere) == journal_cost(provider) > 0
    assert headers["x-guardrail-model"] == "sim/mixed"
    assert headers["x-guardrail-run-source"] == "new"
    assert headers["x-guardrail-step"] == "1"
    if surface == "messages":
        assert headers["request-id"]
    if not stream:
        assert headers["x-guardrail-cost-usd"] == f"0.{ledger_cost(everywhere):09d}"


@pytest.mark.parametrize(
    ("surface", "prefix", "sent"),
    [
        ("messages", "claude", "/v1/messages?beta=true"),
        ("messages", "sim", "/v1/chat/completions"),
        ("chat", "sim", "/v1/chat/completions?beta=true"),
        ("chat", "claude", "/v1/messages"),
        ("responses", "claude", "/v1/messages"),
    ],
)
def test_a_query_goes_to_the_api_that_it_was_made_for(
    everywhere: ThreadedGateway, provider: ProviderServer, surface: str, prefix: str, sent: str
) -> None:
    wire = WIRES[surface]
    body = wire.request(f"{prefix}/echo")
    assert everywhere.post(body, path=f"{wire.path}?beta=true&key=sk-stolen", **wire.headers)[0] == 200
    assert provider.journal.last.path == sent


@pytest.mark.parametrize("path", ["input_tokens", "compact", "input_tokens/", "compact/x", "compact/cancel"])
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_parts_of_the_responses_api_that_are_not_served_are_not_taken_for_kept_responses(
    everywhere: ThreadedGateway, provider: ProviderServer, method: str, path: str
) -> None:
    status, _, raw = everywhere.request(method, f"/v1/responses/{path}")
    assert (status, json.loads(raw)["error"]["code"]) == (404, "unknown_route")
    assert len(provider.journal) == 0


@lanes
@streams
def test_a_tool_loop_is_one_run(
    everywhere: ThreadedGateway, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    wire = WIRES[surface]
    history = [wire.user("find it")]
    runs, ordinals, said = [], [], None
    for _ in range(9):
        body = {
            **wire.body(f"{prefix}/steps-5", history),
            "tools": wire.tools(["lookup", "read"]),
            "stream": stream,
        }
        status, headers, raw = post(everywhere, wire, body)
        assert status == 200, raw
        runs.append(headers["x-guardrail-run-id"])
        ordinals.append(headers["x-guardrail-step"])
        said = wire.read(raw)
        assert said.clean
        assert said.error is None
        history += wire.answered(said)
        if not said.calls:
            break
    assert said is not None
    assert said.text
    assert ordinals == list("12345")
    assert len(set(runs)) == 1
    assert ledger_cost(everywhere) == journal_cost(provider)
    run = everywhere.admin("GET", f"/runs/{runs[0]}")
    assert (run["status"], run["steps"], run["tool_calls"]) == ("completed", 5, 4)


class Stream(threading.Thread):
    """A client that reads a stream to its end, or leaves after so many events."""

    def __init__(
        self, gateway: ThreadedGateway, wire: Wire, body: dict[str, Any], leave_after: int | None = None
    ) -> None:
        super().__init__(daemon=True)
        self.gateway, self.wire, self.body, self.leave_after = gateway, wire, body, leave_after
        self.received = b""
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=30)
        headers = {"authorization": f"Bearer {ALICE}", "content-type": "application/json"}
        headers |= {k.replace("_", "-"): v for k, v in self.wire.headers.items()}
        connection.request("POST", self.wire.path, json.dumps(self.body), headers)
        answer = connection.getresponse()
        while piece := answer.readline() if self.leave_after is not None else answer.read1(65536):
            self.received += piece
            if self.leave_after is not None and self.received.count(b"\n\n") >= self.leave_after:
                assert connection.sock is not None
                connection.sock.shutdown(socket.SHUT_RDWR)
                break
        connection.close()


@lanes
def test_a_kill_ends_a_stream_in_its_own_grammar(
    everywhere: ThreadedGateway, provider: ProviderServer, surface: str, prefix: str
) -> None:
    wire = WIRES[surface]
    provider.script("slow", Reply("word " * 1500, chunks=1500, chunk_delay_s=0.01))
    body = wire.request(f"{prefix}/slow", stream=True)
    stream = Stream(everywhere, wire, body)
    wait_until(lambda: stream.received.count(b"word") > 3, what="stream")
    everywhere.admin("POST", "/kills", {"scope": "user", "id": "alice", "reason": "too dear"})
    stream.join(AT_ONCE_S)
    assert not stream.is_alive()
    said = wire.read(stream.received)
    assert (said.error, said.clean) == ("user_killed", surface == "chat")
    assert b"too dear" in stream.received
    provider.wait_idle_blocking(timeout_s=AT_ONCE_S)
    assert provider.journal.last.client_left
    status, headers, raw = post(everywhere, wire, body)
    assert (status, wire.read(raw).error) == (400, "user_killed")
    assert headers["x-should-retry"] == "false"
    (attempt,) = everywhere.attempts()
    assert attempt["outcome"] == "killed"
    assert attempt["cost"] >= journal_cost(provider)


@lanes
def test_a_budget_stops_a_stream_in_its_own_grammar(
    provider: ProviderServer, tmp_path: Path, surface: str, prefix: str
) -> None:
    wire = WIRES[surface]
    provider.script("endless", Reply("word " * 6000, chunks=300, chunk_delay_s=0.003, ignore_limits=True))
    extra = "budgets: [{name: run, per: run, limit_usd: 0.02}]\n"
    with threaded_gateway(policy_for(provider, extra), tmp_path / "gw") as gateway:
        stream = Stream(gateway, wire, wire.request(f"{prefix}/endless", stream=True))
        stream.join(20)
        said = wire.read(stream.received)
        assert said.error == "run_budget_exceeded"
        assert b'"finish_reason":"stop"' not in stream.received
        assert b"response.completed" not in stream.received
        assert b"message_stop" not in stream.received
        (attempt,) = gateway.attempts()
        assert attempt["outcome"] == "stopped"


@lanes
@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_client_that_leaves_is_billed_for_what_was_served(
    everywhere: ThreadedGateway, provider: ProviderServer, surface: str, prefix: str, after: int
) -> None:
    wire = WIRES[surface]
    provider.script("slow", Reply("word " * 40, chunks=40, chunk_delay_s=0.02))
    Stream(everywhere, wire, wire.request(f"{prefix}/slow", stream=True), leave_after=after).join(10)
    (attempt,) = wait_until(everywhere.attempts, what="settlement")
    provider.wait_idle_blocking()
    assert attempt["outcome"] == "disconnected"
    assert journal_cost(provider) <= attempt["cost"] <= journal_cost(provider) * 2 + 600 * OUT


@lanes
def test_a_stream_that_breaks_off_upstream_never_ends_cleanly(
    everywhere: ThreadedGateway, provider: ProviderServer, surface: str, prefix: str
) -> None:
    wire = WIRES[surface]
    for cut in (200, 333, 700, 1200):
        provider.script("cut", Reply("word " * 60, chunks=30, cut_at_byte=cut))
        status, _, raw = post(everywhere, wire, wire.request(f"{prefix}/cut", stream=True))
        said = wire.read(raw)
        assert said.error == "upstream_stream_interrupted", (cut, raw[-300:])
        assert status == (200 if raw[:1] != b"{" else 502)
        if surface != "chat" and status == 200:
            assert not said.clean
    assert len(everywhere.attempts()) == 4


@lanes
def test_a_half_tool_call_is_never_delivered_as_a_whole_one(
    everywhere: ThreadedGateway, provider: ProviderServer, surface: str, prefix: str
) -> None:
    wire = WIRES[surface]
    provider.script("whole", Reply(tool_calls=[("lookup", {"q": "all of the files below /data"})], chunks=8))
    whole = wire.request(f"{prefix}/whole", tools=["lookup"], stream=True)
    size = len(post(everywhere, wire, whole)[2])
    for cut in range(100, size, max(1, size // 12)):
        provider.script(
            "cut",
            Reply(tool_calls=[("lookup", {"q": "all of the files below /data"})], chunks=8, cut_at_byte=cut),
        )
        body = wire.request(f"{prefix}/cut", tools=["lookup"], stream=True)
        said = wire.read(post(everywhere, wire, body)[2])
        assert said.error == "upstream_stream_interrupted" or said.calls == [
            (said.calls[0][0], "lookup", said.calls[0][2])
        ], cut
        if said.error is None:
            assert json.loads(said.calls[0][2]) == {"q": "all of the files below /data"}


@lanes
def test_a_providers_own_refusal_reaches_the_client_in_its_shape(
    everywhere: ThreadedGateway, provider: ProviderServer, surface: str, prefix: str
) -> None:
    wire = WIRES[surface]
    provider.script("wrong", error_reply(400, "The temperature is too high."))
    status, _, raw = post(everywhere, wire, wire.request(f"{prefix}/wrong"))
    assert status == 400
    assert b"temperature is too high" in raw
    error = json.loads(raw)
    assert (error.get("type") == "error") == (surface == "messages")
    provider.script("down", error_reply(500, "no"))
    status, headers, raw = post(everywhere, wire, wire.request(f"{prefix}/down"))
    assert (status, wire.read(raw).error) == (529 if surface == "messages" else 503, "upstream_unavailable")
    assert headers["retry-after"] == "1"
    assert ledger_cost(everywhere) == 0


@pytest.mark.parametrize(
    "surface", ["chat", "responses", "messages", "embeddings", "completions", "moderations"]
)
@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b'{"model":1}', b'{"model":"sim/echo"}', b'{"a":1,"a":2}', b"\xff"]
)
def test_a_wrong_body_is_told_in_the_surfaces_shape(
    everywhere: ThreadedGateway, provider: ProviderServer, surface: str, raw: bytes
) -> None:
    path = {**{w.name: w.path for w in WIRES.values()}}.get(surface, f"/v1/{surface}")
    status, headers, answer = everywhere.post(raw, path=path)
    assert status == 400
    error = json.loads(answer)
    assert (error.get("type") == "error") == (surface == "messages")
    if surface == "completions" and b"echo" in raw:
        # A prompt may be left out there.
        return
    assert headers["x-should-retry"] == "false"
    assert len(provider.journal) == 0
    assert everywhere.attempts() == []


@pytest.mark.parametrize(
    ("path", "body", "tokens"),
    [
        ("/v1/embeddings", {"model": "sim/echo", "input": ["one", "two words"]}, True),
        (
            "/v1/embeddings",
            {"model": "sim/echo", "input": [[1, 2, 3], [4]], "encoding_format": "base64"},
            True,
        ),
        ("/v1/completions", {"model": "sim/echo", "prompt": "once upon", "max_tokens": 40}, True),
        (
            "/v1/completions",
            {"model": "sim/echo", "prompt": "once upon", "max_tokens": 40, "stream": True},
            True,
        ),
        ("/v1/moderations", {"model": "omni-moderation-latest", "input": "hello"}, False),
    ],
)
def test_the_small_surfaces_pass_unchanged_at_their_price(
    provider: ProviderServer, tmp_path: Path, path: str, body: dict[str, Any], tokens: bool
) -> None:
    policy = policy_for(provider).replace(
        '  "sim/*":', '  omni-moderation-latest: {provider: upstream}\n  "sim/*":'
    )
    provider.map_model("omni-moderation-latest", "echo")
    with threaded_gateway(policy, tmp_path / "gw") as gateway:
        status, headers, raw = gateway.post(body, path=path)
        assert status == 200, raw
        (attempt,) = gateway.attempts()
        assert attempt["surface"] == path.rsplit("/", 1)[1]
        assert ledger_cost(gateway) == (journal_cost(provider) if tokens else 0)
        assert (attempt["cost"] > 0) == tokens
        run = gateway.admin("GET", f"/runs/{headers['x-guardrail-run-id']}")
        assert (run["status"], run["steps"]) == ("completed", 1)
        sent = json.loads(provider.journal.last.body)
        sent.pop("stream_options", None)
        assert sent == body
        if body.get("stream"):
            assert raw.endswith(b"data: [DONE]\n\n")
            assert b'"usage":{' not in raw


def test_a_killed_tool_is_withheld_and_its_calls_are_not_delivered_on_any_surface(
    everywhere: ThreadedGateway, provider: ProviderServer
) -> None:
    async def kill() -> None:
        await everywhere.worker.store.set_kill(Kill("tool:lookup", "broken"), None)

    everywhere.run(kill)
    for surface, prefix in LANES:
        wire = WIRES[surface]
        provider.script("calls", Reply(tool_calls=[("lookup", {"q": "x"})], ignore_limits=True))
        for stream in (False, True):
            provider.journal.clear()
            body = wire.request(f"{prefix}/calls", tools=["lookup", "read"], stream=stream)
            _, _, raw = post(everywhere, wire, body)
            assert wire.read(raw).error == "tool_killed", (surface, prefix, stream, raw)
            assert b"lookup" not in json.dumps(json.loads(provider.journal.last.body)["tools"]).encode()
            assert not wire.read(raw).calls


@lanes
@pytest.mark.parametrize("where", ["twice", "every_chunk", "continuous", "finish"])
def test_a_usage_told_again_changes_nothing(
    everywhere: ThreadedGateway, provider: ProviderServer, surface: str, prefix: str, where: Any
) -> None:
    wire = WIRES[surface]
    provider.script(
        "again", Reply("some words of an answer", usage_on=where, cached_tokens=3, reasoning_tokens=5)
    )
    status, _, raw = post(everywhere, wire, wire.request(f"{prefix}/again", stream=True))
    assert status == 200
    assert wire.read(raw).text == "some words of an answer"
    (attempt,) = everywhere.attempts()
    assert attempt["cost"] == journal_cost(provider) > 0
