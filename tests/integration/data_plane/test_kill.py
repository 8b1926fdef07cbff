"""An operator's stop: at once, everywhere, and never as a clean end."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any

import pytest

from gateway.admission import Kill
from gateway.testing import ProviderServer, Reply
from tests.integration.conftest import AT_ONCE_S, MakeGateway
from tests.support.gateway import ALICE, BOB, ThreadedGateway, wait_until


def chat(model: str = "sim/echo", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "go"}], "max_tokens": 4000, **more}


def kill(gateway: ThreadedGateway, name: str, reason: str = "too dear") -> None:
    async def work() -> None:
        await gateway.worker.store.set_kill(Kill(name, reason), None)

    gateway.run(work)


class Stream(threading.Thread):
    """A client that reads a stream to its end, and when each piece came."""

    def __init__(self, gateway: ThreadedGateway, body: dict[str, Any], **headers: str) -> None:
        super().__init__(daemon=True)
        self.gateway, self.body = gateway, body
        self.extra = {name.replace("_", "-"): value for name, value in headers.items()}
        self.received = b""
        self.headers: dict[str, str] = {}
        self.status = 0
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=30)
        headers = {"authorization": f"Bearer {ALICE}", "content-type": "application/json", **self.extra}
        connection.request("POST", "/v1/chat/completions", json.dumps(self.body), headers)
        answer = connection.getresponse()
        self.status = answer.status
        self.headers = {k.lower(): v for k, v in answer.headers.items()}
        while piece := answer.read1(65536):
            self.received += piece
        connection.close()


@pytest.fixture
def slow(provider: ProviderServer) -> ProviderServer:
    provider.script("slow", Reply("word " * 2000, chunks=2000, chunk_delay_s=0.01))
    provider.script("stalled", Reply("word " * 20, chunks=20, stall_at=3, stall_s=30))
    provider.script("late", Reply("word", head_delay_s=30))
    return provider


@pytest.mark.parametrize(
    "scope", ["run:{run}", "{run}", "session:{session}", "user:alice", "key:alice", "team:red", "model:sim/slow", "global"]
)  # fmt: skip
def test_a_kill_ends_a_stream_in_flight_with_an_error_event(
    gateway: ThreadedGateway, slow: ProviderServer, scope: str
) -> None:
    stream = Stream(gateway, chat("sim/slow", stream=True))
    wait_until(lambda: stream.received.count(b"data:") > 3, what="stream")
    name = scope.format(
        run=stream.headers["x-guardrail-run-id"], session=stream.headers["x-guardrail-session-id"]
    )
    kill(gateway, name)
    stream.join(AT_ONCE_S)
    assert not stream.is_alive()
    code = "run_killed" if scope == "{run}" else f"{scope.split(':')[0]}_killed"
    tail = stream.received.split(b"\n\n")[-3:]
    assert tail[1:] == [b"data: [DONE]", b""]
    error = json.loads(tail[0].removeprefix(b"data: "))["error"]
    assert error["code"] == code
    assert "too dear" in error["message"]
    slow.wait_idle_blocking(timeout_s=AT_ONCE_S)
    assert slow.journal.last.client_left
    if not scope.endswith("{run}"):
        # Whoever asks again gets the same answer, before anything is sent.
        status, headers, body = gateway.post(
            chat("sim/slow", stream=True), x_guardrail_session_id=stream.headers["x-guardrail-session-id"]
        )
        assert (status, json.loads(body)["error"]["code"]) == (400, code)
        assert headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("model", "stream"), [("sim/stalled", True), ("sim/late", False), ("sim/late", True)]
)
def test_a_kill_ends_a_call_that_waits_for_the_provider(
    gateway: ThreadedGateway, slow: ProviderServer, model: str, stream: bool
) -> None:
    call = Stream(gateway, chat(model, stream=stream), x_guardrail_run_id="stuck")
    wait_until(lambda: slow.journal.active, what="dispatch")
    time.sleep(0.2)
    kill(gateway, "stuck")
    call.join(AT_ONCE_S)
    assert not call.is_alive()
    assert b'"run_killed"' in call.received
    assert call.status == (200 if stream and model == "sim/stalled" else 400)
    (attempt,) = wait_until(gateway.attempts, what="settlement")
    assert attempt["outcome"] == "killed"


def test_a_killed_run_stays_killed_and_its_siblings_live(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    names = [f"agent-{i}" for i in range(20)]
    for name in names:
        assert gateway.post(chat(), x_guardrail_run_id=name)[0] == 200
    kill(gateway, "run:agent-7")
    for _ in range(3):
        for name in names:
            status, _, body = gateway.post(chat(), x_guardrail_run_id=name)
            if name == "agent-7":
                assert (status, json.loads(body)["error"]["code"]) == (400, "run_killed")
            else:
                assert status == 200
    assert len(provider.journal) == 20 + 3 * 19


def test_a_kill_of_one_key_does_not_touch_another(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    kill(gateway, "key:alice")
    assert gateway.post(chat())[0] == 400
    assert gateway.post(chat(), key=BOB)[0] == 200


def test_a_revived_run_goes_on(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    assert gateway.post(chat(), x_guardrail_run_id="again")[0] == 200
    kill(gateway, "run:again")
    assert gateway.post(chat(), x_guardrail_run_id="again")[0] == 400

    async def revive() -> None:
        await gateway.worker.store.clear_kill("run:again")

    gateway.run(revive)
    status, headers, _ = gateway.post(chat(), x_guardrail_run_id="again")
    assert (status, headers["x-guardrail-step"]) == (200, "2")


def test_a_client_that_does_not_read_is_still_cut(
    make_gateway: MakeGateway, provider: ProviderServer
) -> None:
    gateway = make_gateway()
    provider.script("flood", Reply("word " * 1_600_000, chunks=4000, ignore_limits=True))
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    headers = {"authorization": f"Bearer {ALICE}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(chat("sim/flood", stream=True)), headers)
    answer = connection.getresponse()
    run = answer.headers["x-guardrail-run-id"]
    time.sleep(0.5)
    kill(gateway, f"run:{run}")
    provider.wait_idle_blocking(timeout_s=AT_ONCE_S)
    received = answer.read()
    connection.close()
    assert b"run_killed" in received[-2000:]
    assert received.count(b"data:") < 4000


TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("delete_records", "look_up")
]


def test_a_killed_tool_is_withheld_and_the_run_goes_on(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    kill(gateway, "tool:delete_records")
    forced = {"type": "function", "function": {"name": "delete_records"}}
    assert gateway.post(chat(tools=TOOLS, tool_choice=forced))[0] == 200
    sent = json.loads(provider.journal.last.body)
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["look_up"]
    assert "tool_choice" not in sent
    assert gateway.post(chat(tools=TOOLS[:1], parallel_tool_calls=False))[0] == 200
    assert not {"tools", "parallel_tool_calls"} & set(json.loads(provider.journal.last.body))


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_a_killed_tool_is_not_delivered(
    gateway: ThreadedGateway, provider: ProviderServer, stream: bool
) -> None:
    provider.script("rogue", Reply(tool_calls=[("delete_records", {"all": True})], flush_each=True))
    assert gateway.post(chat("sim/rogue", tools=TOOLS, stream=stream))[0] == 200
    kill(gateway, "tool:delete_records")
    status, _, body = gateway.post(chat("sim/rogue", tools=TOOLS, stream=stream))
    assert b'"tool_killed"' in body
    assert b"delete_records" not in body.split(b'"error"')[0]
    assert b'"all"' not in body
    assert status == (200 if stream and b"data:" in body else 400)
    assert gateway.attempts()[-1]["cost"] > 0

    async def revive() -> None:
        await gateway.worker.store.clear_kill("tool:delete_records")

    gateway.run(revive)
    wait_until(lambda: gateway.post(chat("sim/rogue", tools=TOOLS))[0] == 200, what="revival")
