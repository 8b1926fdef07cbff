"""Webhooks from a real gateway to a real HTTP server: what arrives, how often, and what never does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gateway.steps.approvals import ApprovalRequest
from gateway.testing import ProviderServer, running_provider
from tests.integration.admin.calls import Admin, Listening, chat
from tests.integration.admin.test_cli import run as command
from tests.integration.conftest import AT_ONCE_S
from tests.support.effort import Effort
from tests.support.gateway import (
    ALICE,
    BOB,
    SECRET_KEY,
    ThreadedGateway,
    base_policy,
    process_gateway,
    threaded_gateway,
    wait_until,
)
from tests.support.ports import free_port

HIDDEN = "T000-hidden-path"
WHSEC = "whsec-0123456789"
LIMIT = "budgets: [{name: run, per: run, limit_usd: 0.01}]\n"


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    raw: bytes
    at: float

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@dataclass
class Receiver:
    """Keeps what is posted; `answers` are (status, headers) for a path, in order, the last one for good."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    answers: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    awake: threading.Event = field(default_factory=threading.Event)
    """While it is not, what is posted below `/slow` is not answered."""

    def __post_init__(self) -> None:
        self.awake.set()

    def at(self, path: str) -> list[Received]:
        return [each for each in self.received if each.path.startswith(path)]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    state = Receiver()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            if self.path.startswith("/slow"):
                state.awake.wait(60)
            with lock:
                state.received.append(Received(self.path, headers, raw, time.monotonic()))
                script = state.answers.get(self.path, [(200, {})])
                status, extra = script.pop(0) if len(script) > 1 else script[0]
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in extra.items():
                self.send_header(name, value)
            self.send_header("content-length", "2")
            with contextlib.suppress(ConnectionError):  # who asked may not wait
                self.end_headers()
                self.wfile.write(b"ok")

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()


def hooks(receiver: Receiver) -> str:
    """One webhook for each thing that is tested."""
    url = receiver.url
    return f"""
alerts:
  - {{name: main, url: "{url("/main/" + HIDDEN)}", secret: {WHSEC}, on: [run_stopped, approval_requested, kill, policy_reload_failed]}}
  - {{name: own-key, url: "{url("/own-key")}", on: loop_detected}}
  - {{name: would, url: "{url("/would")}", on: loop_detected, mode: shadow}}
  - {{name: never, url: "{url("/never")}", on: loop_detected, mode: off}}
  - {{name: bobs, url: "{url("/bobs")}", on: run_stopped, match: {{user: bob}}}}
  - {{name: slow, url: "{url("/slow")}", on: injection}}
  - {{name: moved, url: "{url("/moved")}", on: pii}}
  - {{name: flaky, url: "{url("/flaky")}", on: secret, retry_for_s: 5}}
  - {{name: dead, url: "http://127.0.0.1:{free_port()}/{HIDDEN}", on: breaker_open, retry_for_s: 0.2}}
  - {{name: many, url: "{url("/many")}", on: spend_anomaly}}
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderServer]:
    with running_provider() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(
    provider: ProviderServer, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThreadedGateway]:
    policy = base_policy(provider.base_url, LIMIT + hooks(receiver))
    environment = {"OPENAI_API_KEY": "not-used", "GATEWAY_PUBLIC_URL": "https://gateway.example.com/"}
    folder = tmp_path_factory.mktemp("gateway")
    with threaded_gateway(policy, folder, environment=environment) as running:
        running.worker.alerts.deliveries.first_pause_s = 0.05
        running.worker.alerts.deliveries.poll_s = 0.05
        yield running


def tell(gateway: ThreadedGateway, kind: str, **facts: Any) -> None:
    """Raise an event on the gateway's own loop, as everything there does."""

    async def now() -> None:
        gateway.worker.notify(kind, facts)

    gateway.run(now)


def counted(gateway: ThreadedGateway, event: str, outcome: str) -> float:
    return float(gateway.worker.metrics.alerts.labels(event, outcome)._value.get())


def overspend(gateway: ThreadedGateway, key: str = ALICE, name: str = "too-dear") -> str:
    """A run that does a step and is stopped by its budget; its id."""
    status, headers, _ = chat(gateway, key=key, x_guardrail_run_id=name)
    assert status == 200
    status, _, body = chat(gateway, text="word " * 10_000, key=key, x_guardrail_run_id=name)
    assert body["error"]["code"] == "run_budget_exceeded", body
    return headers["x-guardrail-run-id"]


def hmac_sha256(key: bytes, message: bytes) -> str:
    """RFC 2104 by hand."""
    key = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in key) + message).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in key) + inner).hexdigest()


def ensure_signed(got: Received, key: bytes) -> None:
    timestamp = got.headers["x-guardrail-timestamp"]
    assert abs(int(timestamp) - time.time()) < 60
    assert got.headers["x-guardrail-signature"] == "sha256=" + hmac_sha256(
        key, timestamp.encode() + b"." + got.raw
    )


def test_a_stopped_run_is_escalated_with_its_summary(gateway: ThreadedGateway, receiver: Receiver) -> None:
    run = overspend(gateway)
    (got,) = wait_until(lambda: [r for r in receiver.at("/main") if r.body["facts"].get("run") == run])
    assert got.headers["content-type"] == "application/json"
    ensure_signed(got, WHSEC.encode())
    body = got.body
    assert body.keys() == {"id", "event", "at", "text", "run", "facts", "link"}
    assert (body["event"], got.headers["x-guardrail-event"]) == ("run_stopped", "run_stopped")
    assert body["facts"]["code"] == "run_budget_exceeded"
    assert body["facts"]["rule"] == "run"
    assert body["link"] == f"https://gateway.example.com/dashboard#/runs/{run}"
    shown = body["run"]
    assert (shown["id"], shown["name"], shown["user"], shown["team"], shown["steps"]) == (
        run,
        "too-dear",
        "alice",
        "red",
        1,
    )
    assert (shown["status"], shown["status_reason"]) == ("stopped_budget", "run_budget_exceeded")
    assert shown["ended_at"] == body["at"]
    assert float(shown["cost_usd"]) > 0
    assert shown["input_tokens"] > 0
    assert shown.keys() >= {"agent", "tools", "tool_calls", "output_tokens", "started_at"}
    assert body["text"].startswith("run stopped: rule run, code run_budget_exceeded, status stopped_budget, ")
    assert f"run {run}, user alice, team red" in body["text"]


def test_one_stop_is_told_once(gateway: ThreadedGateway, receiver: Receiver) -> None:
    run = overspend(gateway, name="again-and-again")
    for _ in range(3):
        chat(gateway, text="word " * 10_000, x_guardrail_run_id="again-and-again")
    before = counted(gateway, "run_stopped", "duplicate")
    told = {"run": run, "rule": "run", "code": "run_budget_exceeded", "status": "stopped_budget"}
    tell(gateway, "run_stopped", **told)
    assert counted(gateway, "run_stopped", "duplicate") == before + 1
    wait_until(lambda: [r for r in receiver.at("/main") if r.body["facts"].get("run") == run])
    tell(gateway, "run_stopped", **{**told, "rule": "other"})
    wait_until(lambda: len([r for r in receiver.at("/main") if r.body["facts"].get("run") == run]) == 2)


def test_an_alert_can_be_narrowed_to_whose_run_it_is(gateway: ThreadedGateway, receiver: Receiver) -> None:
    alices, bobs = overspend(gateway, name="narrow-a"), overspend(gateway, BOB, name="narrow-b")
    wait_until(lambda: receiver.at("/bobs"))
    wait_until(lambda: {r.body["run"]["id"] for r in receiver.at("/main")} >= {alices, bobs})
    assert [r.body["run"]["id"] for r in receiver.at("/bobs")] == [bobs]


def test_without_a_secret_the_gateways_own_key_signs(gateway: ThreadedGateway, receiver: Receiver) -> None:
    before = counted(gateway, "loop_detected", "shadow")
    tell(gateway, "loop_detected", rule="same_call", run="run_x", tool="search")
    (got,) = wait_until(lambda: receiver.at("/own-key"))
    ensure_signed(got, hmac_sha256(SECRET_KEY.encode(), b"alerts").encode())
    # A run that the ledger does not know is told as far as the event knows it.
    assert got.body["run"] == {"id": "run_x"}
    # Shadow is counted and not sent; what is off is neither.
    assert counted(gateway, "loop_detected", "shadow") == before + 1
    assert not receiver.at("/would")
    assert not receiver.at("/never")


def test_a_failed_delivery_is_tried_again_with_the_same_id(
    gateway: ThreadedGateway, receiver: Receiver
) -> None:
    receiver.answers["/flaky"] = [
        (500, {}),
        (0, {}),
        (429, {"retry-after": "0"}),
        (408, {}),
        (204, {}),
    ]
    tell(gateway, "secret", run="run_flaky", detector="aws")
    wait_until(lambda: counted(gateway, "secret", "sent") == 1)
    got = receiver.at("/flaky")
    assert len(got) == 5
    assert len({each.raw for each in got}) == 1
    assert got[0].body["id"].startswith("evt_")
    for each in got:
        ensure_signed(each, hmac_sha256(SECRET_KEY.encode(), b"alerts").encode())

    receiver.answers["/flaky"] = [(400, {})]
    tell(gateway, "secret", run="run_flaky", detector="slack")
    wait_until(lambda: counted(gateway, "secret", "failed") == 1)
    assert len(receiver.at("/flaky")) == 6


def test_retry_after_is_respected(gateway: ThreadedGateway, receiver: Receiver) -> None:
    receiver.answers["/flaky"] = [(429, {"retry-after": "1"}), (200, {})]
    known = len(receiver.at("/flaky"))
    tell(gateway, "secret", run="run_flaky", detector="later")
    wait_until(lambda: len(receiver.at("/flaky")) == known + 2)
    first, second = receiver.at("/flaky")[-2:]
    assert second.at - first.at >= 1


def test_a_redirect_is_not_followed(gateway: ThreadedGateway, receiver: Receiver) -> None:
    for number, status in enumerate((301, 302, 303, 307, 308)):
        receiver.answers["/moved"] = [(status, {"location": receiver.url("/elsewhere")})]
        tell(gateway, "pii", run=f"run_{number}")
        wait_until(lambda n=number: counted(gateway, "pii", "failed") == n + 1)  # type: ignore[misc]
    assert len(receiver.at("/moved")) == 5
    assert not receiver.at("/elsewhere")


def test_a_slow_receiver_slows_nobody(gateway: ThreadedGateway, receiver: Receiver) -> None:
    receiver.awake.clear()
    for number in range(20):
        tell(gateway, "injection", run=f"run_slow_{number}")
    tell(gateway, "breaker_open", breaker="tool:shared:x")
    for _ in range(10):
        assert chat(gateway)[0] == 200
    run = overspend(gateway, name="beside-the-slow")
    wait_until(lambda: [r for r in receiver.at("/main") if r.body["facts"].get("run") == run])
    assert counted(gateway, "injection", "sent") == 0
    receiver.awake.set()
    wait_until(lambda: counted(gateway, "injection", "sent") == 20)
    assert len({r.body["id"] for r in receiver.at("/slow")}) == 20


def test_a_burst_arrives_once_each(gateway: ThreadedGateway, receiver: Receiver) -> None:
    async def burst() -> float:
        with Effort() as effort:
            for number in range(200):
                facts = {"run": f"run_many_{number}", "value": number}
                gateway.worker.notify("spend_anomaly", facts)
                gateway.worker.notify("spend_anomaly", facts)
        return effort.seconds

    took: float = gateway.run(burst)
    assert took < 0.2  # 400 events, in the processor time of the thread that tells them
    wait_until(lambda: counted(gateway, "spend_anomaly", "sent") == 200, timeout=20)
    got = receiver.at("/many")
    assert sorted(r.body["facts"]["value"] for r in got) == list(range(200))
    assert len({r.body["id"] for r in got}) == 200
    assert counted(gateway, "spend_anomaly", "duplicate") == 200


def test_what_an_operator_has_to_decide_is_told(gateway: ThreadedGateway, receiver: Receiver) -> None:
    call = ApprovalRequest(
        principal="key_1", key="alice", user="alice", team="red", session="s", run="run_asks", tool="pay",
        arguments='{"usd": 7}', policy="v1", cost=5_000_000, expires_s=60, about={"tags": {}},
    )  # fmt: skip
    record = gateway.run(lambda: gateway.worker.approvals.ask(call, 0))
    (got,) = wait_until(lambda: [r for r in receiver.at("/main") if r.body["event"] == "approval_requested"])
    facts = got.body["facts"]
    assert (facts["tool"], facts["arguments"], facts["cost_usd"], facts["approval"]) == (
        "pay",
        '{"usd":7}',
        "0.005000000",
        record.id,
    )
    assert got.body["link"] == f"https://gateway.example.com/dashboard#/approvals/{record.id}"
    assert "link" not in facts


def test_a_kill_is_told_with_its_run(gateway: ThreadedGateway, receiver: Receiver) -> None:
    _, headers, _ = chat(gateway, x_guardrail_run_id="to-be-killed")
    Admin(gateway).post("/runs/to-be-killed/kill", {"reason": "enough"})
    (got,) = wait_until(lambda: [r for r in receiver.at("/main") if r.body["event"] == "kill"])
    assert got.body["facts"]["reason"] == "enough"
    assert got.body["run"]["id"] == headers["x-guardrail-run-id"]
    assert got.body["run"]["user"] == "alice"


def test_the_event_stream_tells_what_became_of_alerts(gateway: ThreadedGateway) -> None:
    listening = Listening(Admin(gateway)).start()
    wait_until(lambda: listening.comments)
    tell(gateway, "loop_detected", rule="cycle", run="run_listened")

    def told() -> set[tuple[str, str]]:
        # What other tests have raised may be delivered only now.
        ours = [event for event in listening.of("alert") if event["run"] == "run_listened"]
        return {(event["alert"], event["outcome"]) for event in ours}

    wait_until(lambda: len(told()) == 2)
    assert told() == {("own-key", "sent"), ("would", "shadow")}


def test_neither_url_nor_secret_is_shown_anywhere(
    gateway: ThreadedGateway, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    listening = Listening(Admin(gateway)).start()
    wait_until(lambda: listening.comments)
    before = counted(gateway, "breaker_open", "failed")
    tell(gateway, "breaker_open", breaker="tool:shared:dead")
    wait_until(lambda: counted(gateway, "breaker_open", "failed") > before)
    overspend(gateway, name="and-one-that-arrives")
    wait_until(lambda: [e for e in listening.of("alert") if e["outcome"] == "sent"])
    admin = Admin(gateway)
    shown = [admin.call("GET", path).raw.decode() for path in ("/policy", "/audit", "/openapi.json")]
    shown.append(admin.call("GET", "/metrics", prefix="").raw.decode())
    shown += [json.dumps(listening.events), caplog.text, repr(gateway.worker.alerts)]
    shown += [each.raw.decode() for each in receiver.received]
    assert "dead" in caplog.text
    for text in shown:
        assert HIDDEN not in text
        assert WHSEC not in text
        assert gateway.worker.alerts.key.decode() not in text
        assert SECRET_KEY not in text


def test_a_receiver_that_is_gone_is_logged_once(
    gateway: ThreadedGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    gateway.worker.alerts.deliveries._receivers.pop("dead", None)
    before = counted(gateway, "breaker_open", "failed")
    for number in range(3):
        tell(gateway, "breaker_open", breaker=f"tool:shared:{number}")
    # A delivery of an earlier test may fail meanwhile.
    wait_until(lambda: counted(gateway, "breaker_open", "failed") >= before + 3, timeout=20)
    assert [r.getMessage() for r in caplog.records if r.name == "gateway.alerts"] == [
        "alert dead could not be delivered (connect: refused); more of its failures are counted, not logged"
    ]


def test_changes_of_the_policy_are_followed_and_a_broken_one_is_told(
    provider: ProviderServer, receiver: Receiver, tmp_path: Path
) -> None:
    policy = base_policy(provider.base_url)
    alert = 'alerts: [{name: main, url: "%s", on: [policy_reload_failed, pii]}]\n'
    with threaded_gateway(policy, tmp_path) as gateway:
        tell(gateway, "pii", run="run_1")
        gateway.policy_path.write_text(policy + alert % receiver.url("/first"))
        wait_until(lambda: gateway.worker.alerts.rules)
        tell(gateway, "pii", run="run_1")
        wait_until(lambda: receiver.at("/first"))
        gateway.policy_path.write_text(policy + alert % receiver.url("/second"))
        wait_until(lambda: "/second" in str([r.url.get_secret_value() for r in gateway.worker.alerts.rules]))
        gateway.policy_path.write_text("version: 1\nbudget: []\n")
        (got,) = wait_until(lambda: receiver.at("/second"))
        assert got.body["event"] == "policy_reload_failed"
        assert 'did you mean "budgets"?' in got.body["facts"]["error"]
        assert got.body["link"] == "/dashboard#/policy"
        assert got.body["run"] is None
        assert len(receiver.at("/first")) == 1


def test_of_several_workers_that_see_an_event_one_tells_it(
    provider: ProviderServer, receiver: Receiver, tmp_path: Path
) -> None:
    alert = f'alerts: [{{name: main, url: "{receiver.url("/replicas")}", on: [kill, pii]}}]\n'
    policy = base_policy(provider.base_url, alert)
    ledger = f"sqlite:///{tmp_path / 'shared.db'}"
    with (
        threaded_gateway(policy, tmp_path / "a", ledger_url=ledger) as one,
        threaded_gateway(policy, tmp_path / "b", ledger_url=ledger) as two,
    ):
        for number in range(10):
            for each in (one, two):
                tell(each, "kill", name=f"user:{number}", reason="drill", streams=0)
        wait_until(lambda: counted(one, "kill", "duplicate") + counted(two, "kill", "duplicate") == 10)
        wait_until(lambda: counted(one, "kill", "sent") + counted(two, "kill", "sent") == 10)
    assert sorted(r.body["facts"]["name"] for r in receiver.at("/replicas")) == [
        f"user:{n}" for n in range(10)
    ]


def test_a_gateway_that_stops_waits_for_no_receiver_and_the_next_one_tells_the_rest(
    provider: ProviderServer, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.awake.clear()
    alert = f'alerts: [{{name: main, url: "{receiver.url("/slow/stop")}", on: pii}}]\n'
    with threaded_gateway(base_policy(provider.base_url, alert), tmp_path) as gateway:
        for number in range(10):
            tell(gateway, "pii", run=f"run_{number}")
        began = time.monotonic()
    assert time.monotonic() - began < AT_ONCE_S
    assert counted(gateway, "pii", "dropped") == 0
    # What had been sent and not answered is not known to have arrived: it comes again, with the same id.
    receiver.awake.set()
    with threaded_gateway(base_policy(provider.base_url, alert), tmp_path) as gateway:
        wait_until(lambda: counted(gateway, "pii", "sent") == 10)
    got = receiver.at("/slow/stop")
    assert {r.body["facts"]["run"] for r in got} == {f"run_{n}" for n in range(10)}
    assert len({r.body["id"] for r in got}) == 10


def test_a_receiver_that_comes_back_gets_what_was_raised_before_a_restart(
    provider: ProviderServer, receiver: Receiver, tmp_path: Path
) -> None:
    alert = f'alerts: [{{name: main, url: "{receiver.url("/later")}", on: pii}}]\n'
    receiver.answers["/later"] = [(503, {})]
    policy = base_policy(provider.base_url, alert)
    with threaded_gateway(policy, tmp_path) as gateway:
        tell(gateway, "pii", run="run_1")
        wait_until(lambda: receiver.at("/later"))
    receiver.answers["/later"] = [(200, {})]
    with threaded_gateway(policy, tmp_path) as gateway:
        wait_until(lambda: counted(gateway, "pii", "sent") == 1, timeout=20)
    assert len({r.raw for r in receiver.at("/later")}) == 1


def test_an_operator_sees_what_waits_and_tests_a_receiver(
    gateway: ThreadedGateway, receiver: Receiver
) -> None:
    admin = Admin(gateway)
    receivers = {row["name"]: row for row in admin.get("/alerts/receivers")["data"]}
    assert receivers["main"]["on"][0] == "run_stopped"
    assert (receivers["would"]["mode"], receivers["main"]["format"]) == ("shadow", "generic")
    answer = admin.call("POST", "/alerts/main/test").body
    assert (answer["state"], answer["event"], answer["attempts"]) == ("sent", "test", 1)
    got = [r for r in receiver.at("/main") if r.body["id"] == answer["id"]]
    assert len(got) == 1
    ensure_signed(got[0], WHSEC.encode())
    assert got[0].body["facts"] == {"name": "main", "by": "admin"}
    assert got[0].body["link"] == "https://gateway.example.com/dashboard#/now"
    newest = admin.get("/alerts?limit=1")
    assert newest["data"] == [answer]

    dead = admin.call("POST", "/alerts/dead/test").body
    assert (dead["state"] in ("pending", "failed"), dead["error"]) == (True, "connect: refused")
    rows = admin.get(f"/alerts?state={dead['state']}&alert=dead")["data"]
    assert dead["id"] in {row["id"] for row in rows}
    assert admin.call("POST", "/alerts/would/test").status == 409
    assert admin.call("POST", "/alerts/nobody/test").status == 404
    assert admin.get("/audit?action=alert.test&limit=5")["data"][-1]["details"]["alert"] == "main"
    assert HIDDEN not in json.dumps(admin.get("/alerts?limit=500")) + json.dumps(receivers)


def test_the_command_line_does_the_same(gateway: ThreadedGateway, tmp_path: Path) -> None:
    def run(*arguments: str, check: int = 0) -> str:
        return command(gateway, *arguments, check=check)

    assert "main" in run("alerts")
    assert "has arrived" in run("alerts", "test", "main")
    assert "connect: refused" in run("alerts", "test", "dead", check=1)
    assert "The policy has no alert 'nobody'." in run("alerts", "test", "nobody", check=1)
    rows = json.loads(run("alerts", "list", "--state", "sent", "--limit", "3", "--json"))["data"]
    assert rows
    assert "alert.test" in run("audit", "list", "--action", "alert.*")
    head = run("audit", "head").strip()
    assert "unbroken" in run("audit", "verify", "--head", head)
    file = tmp_path / "audit.jsonl"
    run("audit", "export", "--output", str(file))
    assert "unbroken" in run("audit", "verify", str(file), "--head", head)
    number, _, digest = head.partition(":")
    assert "has the hash" in run("audit", "verify", str(file), "--head", f"{number}:{'0' * 64}", check=1)
    assert "expected at least" in run("audit", "verify", str(file), "--head", f"99{number}:{digest}", check=1)
    assert "answers for" in run("audit", "accept", "--reason", "drill")


def test_a_chat_and_a_pager_get_their_own_form(
    provider: ProviderServer, receiver: Receiver, tmp_path: Path
) -> None:
    alerts = f"""
alerts:
  - {{name: chat, url: "{receiver.url("/chat")}", on: [breaker_open, revive], format: slack}}
  - {{name: pager, url: "{receiver.url("/pager")}", secret: {"r" * 32}, on: kill, format: pagerduty}}
"""
    with threaded_gateway(base_policy(provider.base_url, alerts), tmp_path) as gateway:
        admin = Admin(gateway)
        admin.post("/kills", {"scope": "user", "id": "bob", "reason": "drill <!channel>"})
        (called,) = wait_until(lambda: receiver.at("/pager"))
        assert called.body["event_action"] == "trigger"
        assert called.body["routing_key"] == "r" * 32
        assert admin.call("DELETE", "/kills/user/bob").status == 200
        _, over = wait_until(lambda: receiver.at("/pager")[1:] and receiver.at("/pager"))
        assert (over.body["event_action"], over.body["dedup_key"]) == ("resolve", called.body["dedup_key"])
        (said,) = wait_until(lambda: receiver.at("/chat"))
        assert said.body["blocks"][0]["text"]["text"] == "🔵 Revive"
        admin.post("/kills", {"scope": "user", "id": "bob", "reason": "again"})
        third = wait_until(lambda: receiver.at("/pager")[2:], timeout=45)
        assert third[0].body["event_action"] == "trigger"


@pytest.mark.slow
def test_a_killed_gateway_loses_no_alert_and_no_record(
    provider: ProviderServer, receiver: Receiver, tmp_path: Path
) -> None:
    """A receiver that is down, runs that are stopped, a gateway killed twice: what was told arrives once."""
    alert = f'alerts: [{{name: main, url: "{receiver.url("/killed")}", on: run_stopped}}]\n'
    policy = base_policy(provider.base_url, LIMIT + alert)
    receiver.answers["/killed"] = [(503, {})]
    stopped = []
    for round_ in range(2):
        with process_gateway(policy, tmp_path / str(round_), data_dir=tmp_path / "data") as gateway:
            for number in range(4):
                name = f"run-{round_}-{number}"
                for text in ("Hello", "word " * 10_000):
                    body = {"model": "sim/echo", "messages": [{"role": "user", "content": text}]}
                    _, headers, _ = gateway.post(body, x_guardrail_run_id=name)
                stopped.append(headers["x-guardrail-run-id"])
            waits: dict[str, Any] = {}
            while len(waits) < 4 * (round_ + 1):
                waits = {row["id"]: row for row in gateway.admin("GET", "/alerts?state=pending")["data"]}
                time.sleep(0.05)
            gateway.kill()
            gateway.wait()
    receiver.answers["/killed"] = [(200, {})]
    before = len(receiver.at("/killed"))
    with process_gateway(policy, tmp_path / "last", data_dir=tmp_path / "data") as gateway:
        wait_until(lambda: len(receiver.at("/killed")) >= before + 8, timeout=60)
        wait_until(lambda: not gateway.admin("GET", "/alerts?state=pending")["data"])
        arrived = receiver.at("/killed")[before:]
        assert sorted(r.body["run"]["id"] for r in arrived) == sorted(stopped)
        assert len({r.body["id"] for r in arrived}) == 8
        refused = gateway.admin("GET", "/audit?action=step.refuse&limit=1000")["data"]
        assert {each["details"]["run"] for each in refused} == set(stopped)
        check = gateway.admin("GET", "/audit/verify")
        assert (check["ok"], check["reason"]) == (True, None)
