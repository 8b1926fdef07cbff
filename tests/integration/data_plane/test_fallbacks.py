"""A provider that fails is not the agent's outage: other tries and other models serve the step, at their own
price, inside the same budgets, and nothing is ever said or done twice."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.steps.sending import FIRST_RETRIES
from gateway.testing import Ask, ProviderServer, Reply, error_reply
from tests.integration.conftest import AT_ONCE_S, let_time_pass
from tests.integration.data_plane.test_surfaces import PRICE, ways
from tests.support.gateway import ALICE, BOB, ThreadedGateway, threaded_gateway, wait_until
from tests.support.ports import free_port
from tests.support.wire import CHAT, WIRES, Said, Wire

DEAR = "price: {input_usd_per_mtok: 50, output_usd_per_mtok: 200}"
Start = Callable[..., ThreadedGateway]


def policy_for(
    provider: ProviderServer, extra: str = "", *, fallbacks: str = "[claude/good]", first_byte_s: float = 60
) -> str:
    """`first` models fall back on what speaks another API and costs twenty times as much."""
    return f"""
version: 1
providers:
  first: {{dialect: openai, base_url: "{provider.base_url}", api_key: sk-upstream-secret-000000000000, timeouts: {{first_byte_s: {first_byte_s}}}}}
  chatonly: {{dialect: openai, base_url: "{provider.base_url}", api_key: none, surfaces: [chat]}}
  claude: {{dialect: anthropic, base_url: "{provider.origin}", api_key: sk-upstream-secret-000000000000}}
  gone: {{dialect: openai, base_url: "http://127.0.0.1:{free_port()}/v1", api_key: none}}
models:
  "sim/*": {{provider: first, {PRICE}, fallbacks: {fallbacks}}}
  "chatonly/*": {{provider: chatonly, upstream_model: "sim/*", {PRICE}, fallbacks: {fallbacks}}}
  "claude/*": {{provider: claude, upstream_model: "sim/*", {DEAR}, fallbacks: [sim/good]}}
  "gone/*": {{provider: gone, upstream_model: "sim/*", {PRICE}, fallbacks: {fallbacks}}}
auth: {{mode: keys}}
keys:
  - {{name: alice, key: {ALICE}, user: alice, team: red}}
  - {{name: bob, key: {BOB}, user: bob, team: blue, models: ["sim/*"]}}
{extra}"""


@pytest.fixture
def start(provider: ProviderServer, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(extra: str = "", **options: Any) -> ThreadedGateway:
            return stack.enter_context(
                threaded_gateway(policy_for(provider, extra, **options), tmp_path / "gateway")
            )

        provider.script("good", Reply("All is well."))
        yield begin


def in_turn(*replies: Reply) -> Callable[[Ask], Reply]:
    """A reply for each request, the last one for all that follow."""
    left = itertools.chain(replies, itertools.repeat(replies[-1]))
    lock = threading.Lock()

    def answer(_: Ask) -> Reply:
        with lock:
            return next(left)

    return answer


def ask(
    gateway: ThreadedGateway, model: str, wire: Wire = CHAT, **more: Any
) -> tuple[int, dict[str, str], Said]:
    body = wire.request(model, **{"stream": False, **more.pop("body", {})})
    status, headers, raw = gateway.post(body, path=wire.path, **wire.headers, **more)
    return status, headers, wire.read(raw)


def steps(gateway: ThreadedGateway) -> list[dict[str, Any]]:
    (run,) = gateway.admin("GET", "/runs")["data"]
    found: list[dict[str, Any]] = gateway.admin("GET", f"/runs/{run['id']}/steps")["data"]
    return found


def models(provider: ProviderServer) -> list[str]:
    provider.wait_idle_blocking()
    return [a.model or "" for a in provider.journal]


def ensure_books_agree(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    """Every attempt at its own model's price, as the provider served it."""
    provider.wait_idle_blocking()
    served = sorted(
        a.served.input_uncached * i + a.served.output_total * o
        for a in provider.journal
        for i, o in [(50_000, 200_000) if a.surface == "messages" else (2_500, 10_000)]
    )
    wait_until(lambda: len(gateway.attempts()) == len(served), what="the ledger")
    assert sorted(a["cost"] for a in gateway.attempts()) == served


@ways
def test_a_step_goes_on_at_the_fallback(
    start: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    provider.script("down", error_reply(503))
    gateway, wire = start(), WIRES[surface]
    other = "sim/good" if prefix == "claude" else "claude/good"
    status, headers, said = ask(gateway, f"{prefix}/down", wire, body={"stream": stream})
    assert (status, said.text, said.error, said.clean) == (200, "All is well.", None, True)
    assert models(provider) == ["sim/down", "sim/down", "sim/good"]
    assert headers["x-guardrail-verdict"] == "reroute"
    assert headers["x-guardrail-model"] == "sim/good"
    assert headers["x-guardrail-step"] == "1"
    ensure_books_agree(gateway, provider)
    assert {step["ordinal"] for step in steps(gateway)} == {1}
    (step,) = [s for s in steps(gateway) if s["model"] == "sim/good"]
    assert (step["ordinal"], step["requested_model"], step["model"]) == (1, f"{prefix}/down", "sim/good")
    retry, fallback = step["decisions"]
    assert (retry["rule"], retry["decision"]) == ("retries", "retry")
    assert (fallback["rule"], fallback["decision"], fallback["to"]) == ("fallback", "reroute", other)
    assert "503" in fallback["why"]
    if not stream:
        total = sum(a["cost"] for a in gateway.attempts())
        assert round(float(headers["x-guardrail-cost-usd"]) * 1e9) == total


@ways
def test_a_failure_that_passes_is_tried_again(
    start: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    provider.script("flaky", in_turn(error_reply(500), Reply("Here.")))
    gateway, wire = start(), WIRES[surface]
    status, headers, said = ask(gateway, f"{prefix}/flaky", wire, body={"stream": stream})
    assert (status, said.text) == (200, "Here.")
    assert models(provider) == ["sim/flaky", "sim/flaky"]
    assert headers["x-guardrail-verdict"] == "allow"
    ensure_books_agree(gateway, provider)
    (run,) = gateway.admin("GET", "/runs")["data"]
    assert (run["steps"], run["status"]) == (1, "completed")


def test_nobody_listening_is_worth_another_try_elsewhere(start: Start, provider: ProviderServer) -> None:
    gateway = start()
    status, headers, said = ask(gateway, "gone/x")
    assert (status, said.text) == (200, "All is well.")
    assert models(provider) == ["sim/good"]
    assert [a["cost"] for a in gateway.attempts()].count(0) == 2
    assert headers["x-guardrail-verdict"] == "reroute"


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
def test_what_a_provider_refuses_is_the_callers(start: Start, provider: ProviderServer, status: int) -> None:
    provider.script("no", error_reply(status))
    answered, _, _ = ask(start(), "sim/no")
    assert answered == status
    assert models(provider) == ["sim/no"]


def test_rejected_credentials_are_served_elsewhere_and_told(start: Start, provider: ProviderServer) -> None:
    provider.script("locked", error_reply(401))
    gateway = start()
    told: list[str] = []
    gateway.worker.notices.append(lambda kind, _: told.append(kind))
    status, _, said = ask(gateway, "sim/locked")
    assert (status, said.text) == (200, "All is well.")
    assert models(provider) == ["sim/locked", "sim/good"]
    assert "upstream_credentials_rejected" in told


def test_a_wait_that_the_provider_asks_for_is_kept(start: Start, provider: ProviderServer) -> None:
    provider.script("busy", in_turn(error_reply(429, headers=[("retry-after", "1")]), Reply("Thanks.")))
    gateway = start(fallbacks="[]")
    began = time.monotonic()
    status, _, said = ask(gateway, "sim/busy")
    assert time.monotonic() - began >= 1
    assert (status, said.text) == (200, "Thanks.")


@pytest.mark.parametrize(("fallbacks", "expected"), [("[]", 429), ("[claude/good]", 200)])
def test_a_wait_that_is_too_long_is_not_waited(
    start: Start, provider: ProviderServer, fallbacks: str, expected: int
) -> None:
    provider.script("busy", error_reply(429, headers=[("retry-after", "40")]))
    gateway = start(fallbacks=fallbacks)
    began = time.monotonic()
    status, headers, _ = ask(gateway, "sim/busy")
    assert time.monotonic() - began < AT_ONCE_S
    assert status == expected
    assert models(provider)[0] == "sim/busy"
    assert len(models(provider)) == (2 if expected == 200 else 1)
    assert headers.get("retry-after") == ("40" if expected == 429 else None)


def test_no_answer_in_time_is_not_waited_for_twice(start: Start, provider: ProviderServer) -> None:
    provider.script("mute", Reply("never", stall_at="head"))
    gateway = start(first_byte_s=0.6)
    status, _, said = ask(gateway, "sim/mute", body={"stream": True})
    assert (status, said.text) == (200, "All is well.")
    provider.wait_idle_blocking()
    assert models(provider) == ["sim/mute", "sim/good"]


@pytest.mark.parametrize("cut", [0, 1, 40, 200, 400, 700])
def test_nothing_is_said_twice(start: Start, provider: ProviderServer, cut: int) -> None:
    """Once anything of an answer has come, it is not fetched again."""
    provider.script("cut", in_turn(Reply("One two three four.", cut_at_byte=cut), Reply("Anew.")))
    gateway = start()
    status, _, said = ask(gateway, "sim/cut", body={"stream": True})
    if cut == 0:
        assert (status, said.text, len(models(provider))) == (200, "Anew.", 2)
    else:
        assert len(models(provider)) == 1
        assert "Anew" not in said.text
        assert said.error is not None or status >= 500


def test_a_budget_that_pays_for_the_first_alone_refuses_the_fallback(
    start: Start, provider: ProviderServer
) -> None:
    provider.script("down", error_reply(503))
    gateway = start("budgets: [{name: run, per: run, limit_usd: 0.01}]")
    status, headers, said = ask(gateway, "sim/down", body={"max_tokens": 300})
    assert (status, said.error) == (400, "run_budget_exceeded")
    assert headers["x-should-retry"] == "false"
    assert set(models(provider)) == {"sim/down"}
    (run,) = gateway.admin("GET", "/runs")["data"]
    assert (run["cost_usd"], run["reserved_usd"]) == ("0.000000000", "0.000000000")


def test_a_key_is_held_to_its_models(start: Start, provider: ProviderServer) -> None:
    provider.script("down", error_reply(503))
    gateway = start()
    status, _, said = ask(gateway, "sim/down", key=BOB)
    assert (status, said.error) == (503, "upstream_unavailable")
    assert set(models(provider)) == {"sim/down"}


def test_a_killed_model_is_no_fallback(start: Start, provider: ProviderServer) -> None:
    provider.script("down", error_reply(503))
    provider.script("better", Reply("Better."))
    gateway = start(fallbacks="[claude/good, sim/better]")
    gateway.admin("POST", "/kills", {"scope": "model", "id": "sim/good", "reason": "a test"})
    status, _, said = ask(gateway, "sim/down")
    assert (status, said.text) == (200, "Better.")
    gateway.admin("POST", "/kills", {"scope": "model", "id": "sim/better", "reason": "a test"})
    status, _, said = ask(gateway, "sim/down", body={"messages": [CHAT.user("again")]})
    assert (status, said.error) == (503, "upstream_unavailable")
    assert "sim/good" not in models(provider)
    # The model that was asked for is another matter.
    gateway.admin("POST", "/kills", {"scope": "model", "id": "sim/down", "reason": "a test"})
    status, headers, said = ask(gateway, "sim/down", body={"messages": [CHAT.user("once more")]})
    assert (status, said.error, headers["x-should-retry"]) == (400, "model_killed", "false")


def test_what_one_provider_keeps_is_not_asked_of_another(start: Start, provider: ProviderServer) -> None:
    wire = WIRES["responses"]
    provider.script("first", Reply("Noted."))
    gateway = start()
    status, _, said = ask(gateway, "sim/first", wire)
    assert status == 200
    provider.script("first", error_reply(503))
    status, _, answer = ask(gateway, "sim/first", wire, body={"previous_response_id": said.id})
    assert (status, answer.error) == (503, "upstream_unavailable")
    assert "sim/good" not in models(provider)


def test_a_kill_reaches_a_step_that_waits_for_its_next_try(start: Start, provider: ProviderServer) -> None:
    provider.script("busy", error_reply(429, headers=[("retry-after", "2")]))
    gateway = start()
    answers: list[tuple[int, Any, Said]] = []
    client = threading.Thread(
        target=lambda: answers.append(ask(gateway, "sim/busy", x_guardrail_run_id="waiting"))
    )
    client.start()
    wait_until(lambda: list(provider.journal), what="the first try")
    gateway.admin("POST", "/kills", {"scope": "run", "id": "waiting", "reason": "enough"})
    client.join(20)
    ((status, _, said),) = answers
    assert (status, said.error) == (400, "run_killed")
    assert models(provider) == ["sim/busy"]


def test_a_landing_falls_back_too(start: Start, provider: ProviderServer) -> None:
    def plays(asked: Ask) -> Reply:
        done = any(m.get("role") == "tool" for m in asked.body.get("messages", []))
        return error_reply(503) if done else Reply(tool_calls=[("look", {"q": "x"})])

    provider.script("worker", plays)
    gateway = start("runs: {max_steps: 2, on_exceed: wrap_up}")
    history = [CHAT.user("go")]
    body = {**CHAT.body("sim/worker", history), "tools": CHAT.tools(["look"])}
    status, _, raw = gateway.post(body)
    said = CHAT.read(raw)
    assert (status, len(said.calls)) == (200, 1)
    body["messages"] = [*history, *CHAT.answered(said)]
    status, headers, raw = gateway.post(body)
    assert (status, CHAT.read(raw).text) == (200, "All is well.")
    assert headers["x-guardrail-verdict"] == "wrap_up"
    (run,) = gateway.admin("GET", "/runs")["data"]
    assert run["status"] == "stopped_steps"


# -- an outage ----------------------------------------------------------------------------------------


def many(gateway: ThreadedGateway, model: str, numbers: Iterable[int]) -> list[int]:
    def one(number: int) -> int:
        return ask(gateway, model, body={"messages": [CHAT.user(f"question {number}")]})[0]

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(one, numbers))


def test_an_outage_is_not_made_worse(start: Start, provider: ProviderServer) -> None:
    """A hundred clients at a dead provider: at most a fifth more calls, and almost none once the breaker is
    open."""
    provider.script("down", error_reply(503))
    gateway = start(fallbacks="[]")
    first = many(gateway, "sim/down", range(20))
    assert set(first) == {503}
    assert len(models(provider)) <= 20 * 1.2 + FIRST_RETRIES
    wait_until(lambda: "open" in [b["state"] for b in gateway.admin("GET", "/breakers")["data"]])
    wait_until(lambda: gateway.worker.breakers.open_until(_breaker(gateway)) > 0)
    before = len(models(provider))
    assert set(many(gateway, "sim/down", range(20, 120))) == {503}
    assert len(models(provider)) == before
    status, headers, said = ask(gateway, "sim/down")
    assert (status, said.error) == (503, "breaker_open")
    assert 1 <= int(headers["retry-after"]) <= 15


def _breaker(gateway: ThreadedGateway) -> Any:
    return next(
        seen.breaker for key, seen in gateway.worker.breakers._seen.items() if key == "provider:shared:first"
    )


def test_a_breaker_opens_probes_and_closes(start: Start, provider: ProviderServer) -> None:
    provider.script("down", error_reply(503))
    gateway = start()
    opened: list[Any] = []
    gateway.worker.notices.append(
        lambda kind, facts: opened.append(facts) if kind == "breaker_open" else None
    )

    def states() -> dict[str, str]:
        return {
            b["kind"]: b["state"] for b in gateway.admin("GET", "/breakers")["data"] if "first" in b["id"]
        }

    assert set(many(gateway, "sim/down", range(20))) == {200}
    wait_until(lambda: states() == {"provider": "open", "model": "open"}, what="open breakers")
    wait_until(lambda: opened, what="the alert")
    calls = models(provider).count("sim/down")
    assert set(many(gateway, "sim/down", range(20, 60))) == {200}
    assert models(provider).count("sim/down") == calls
    # It is still down when it is tried again: one probe at least, three at most, and it is open once more.
    let_time_pass(gateway, 16)
    wait_until(lambda: gateway.worker.breakers.open_until(_breaker(gateway)) == 0)
    assert set(many(gateway, "sim/down", range(60, 100))) == {200}
    assert 1 <= models(provider).count("sim/down") - calls <= 3
    wait_until(lambda: states()["provider"] == "open", what="open again")
    # It is well again: three probes close the breaker.
    provider.script("down", Reply("Back."))
    let_time_pass(gateway, 16)

    def closed() -> bool:
        ask(gateway, "sim/down")
        return set(states().values()) == {"closed"}

    wait_until(closed, what="closed breakers")
    assert ask(gateway, "sim/down")[2].text == "Back."


def test_callers_do_not_open_breakers(start: Start, provider: ProviderServer) -> None:
    provider.script("no", in_turn(*[error_reply(s) for s in (400, 401, 404, 413, 422, 429)] * 3))
    provider.script("slow", Reply("word " * 50, chunk_delay_s=0.05))
    gateway = start("routing: {retries: null}", fallbacks="[]")
    for _ in range(18):
        ask(gateway, "sim/no")
    for number in range(12):
        body = {**CHAT.request("sim/slow", f"go {number}"), "stream": True}
        _leave(gateway, body)
    provider.wait_idle_blocking()
    gateway.run(gateway.worker.breakers.flush)
    assert {b["state"] for b in gateway.admin("GET", "/breakers")["data"]} <= {"closed"}


def _leave(gateway: ThreadedGateway, body: dict[str, Any]) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    headers = {"authorization": f"Bearer {ALICE}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    connection.getresponse().readline()
    assert connection.sock is not None
    connection.sock.close()
    connection.close()


# -- several places of one model ----------------------------------------------------------------------


def placed(provider: ProviderServer, balance: str, extra: str = "") -> str:
    """One model at three places; the simulated provider tells them apart by name."""
    return f"""
version: 1
providers:
  first: {{dialect: openai, base_url: "{provider.base_url}", api_key: none}}
  second: {{dialect: openai, base_url: "{provider.base_url}", api_key: none}}
  third: {{dialect: openai, base_url: "{provider.base_url}", api_key: none}}
models:
  house: {{provider: first, upstream_model: sim/one, {PRICE}, deployments: {{house-two: 1, house-three: 1}}, balance: {balance}}}
  house-two: {{provider: second, upstream_model: sim/two, {PRICE}}}
  house-three: {{provider: third, upstream_model: sim/three, {PRICE}}}
auth: {{mode: keys}}
keys: [{{name: alice, key: {ALICE}, user: alice, team: red, models: [house]}}]
{extra}"""


@pytest.fixture
def at_places(provider: ProviderServer, tmp_path: Path) -> Iterator[Callable[[str], ThreadedGateway]]:
    with ExitStack() as stack:
        for name in ("one", "two", "three"):
            provider.script(name, Reply(f"It is {name}."))

        def begin(balance: str) -> ThreadedGateway:
            return stack.enter_context(threaded_gateway(placed(provider, balance), tmp_path / "gateway"))

        yield begin


Places = Callable[[str], ThreadedGateway]


def test_a_session_stays_at_its_place_and_all_places_serve(
    at_places: Places, provider: ProviderServer
) -> None:
    gateway = at_places("weight")
    seen = set()
    for session in range(24):
        said = {
            ask(
                gateway,
                "house",
                body={"messages": [CHAT.user(f"{session} {n}")]},
                x_guardrail_session_id=f"s{session}",
            )[2].text
            for n in range(3)
        }
        assert len(said) == 1
        seen |= said
    assert len(seen) == 3


def test_a_place_that_fails_is_served_by_the_others(at_places: Places, provider: ProviderServer) -> None:
    provider.script("two", error_reply(503))
    gateway = at_places("weight")
    asked = 0

    def _left_alone() -> bool:
        # Places are drawn by lot, so how many calls the second one has had after so many is not known.
        nonlocal asked
        for number in range(asked, asked + 10):
            status, _, said = ask(gateway, "house", body={"messages": [CHAT.user(f"{number}")]})
            assert (status, said.text in ("It is one.", "It is three.")) == (200, True)
        asked += 10
        return _open(gateway) == {"second"}

    wait_until(_left_alone, what="the place to be left alone")
    before = models(provider).count("sim/two")
    many(gateway, "house", range(asked, asked + 30))
    assert models(provider).count("sim/two") == before


def _open(gateway: ThreadedGateway) -> set[str]:
    found = gateway.admin("GET", "/breakers")["data"]
    return {b["name"] for b in found if b["kind"] == "provider" and b["state"] == "open"}


def test_the_fastest_place_gets_most(at_places: Places, provider: ProviderServer) -> None:
    for name in ("one", "three"):
        provider.script(name, Reply(f"It is {name}.", head_delay_s=0.4))
    gateway = at_places("latency")
    for number in range(24):
        ask(gateway, "house", body={"messages": [CHAT.user(f"{number}")]})
    assert models(provider).count("sim/two") >= 12


def test_what_a_place_keeps_is_asked_of_that_place(at_places: Places, provider: ProviderServer) -> None:
    wire = WIRES["responses"]
    gateway = at_places("latency")
    for number in range(6):
        _, _, said = ask(gateway, "house", wire, body={"input": f"remember {number}"})
        for _ in range(4):
            ask(gateway, "house", body={"messages": [CHAT.user(f"something else {number}")]})
        status, _, more = ask(
            gateway, "house", wire, body={"input": "go on", "previous_response_id": said.id}
        )
        assert (status, more.text) == (200, said.text)


# -- queues -------------------------------------------------------------------------------------------


def test_a_provider_is_not_asked_for_more_than_it_takes(provider: ProviderServer, tmp_path: Path) -> None:
    provider.script("slow", Reply("Done.", head_delay_s=0.1))
    text = policy_for(provider).replace(
        "api_key: none, surfaces", "api_key: none, max_concurrency: 2, surfaces"
    )
    with threaded_gateway(text, tmp_path / "gateway") as gateway:
        assert set(many(gateway, "chatonly/slow", range(16))) == {200}
        assert provider_peak(provider, 0.09) <= 2
        waited = [s.get("queued_ms", 0) for s in gateway.attempts()]
        assert max(waited) >= 100
        assert gateway.worker.capacity.busy("chatonly") == 0
        metrics = gateway.worker.metrics.render().decode()
        assert 'gateway_queue_seconds_count{provider="chatonly"}' in metrics


def provider_peak(provider: ProviderServer, seconds: float) -> int:
    """Most calls that were being served at one moment, when each takes so long at least."""
    provider.wait_idle_blocking()
    begun = [a.received_at for a in provider.journal]
    edges = sorted(edge for at in begun for edge in ((at, 1), (at + seconds * 1000, -1)))
    return max(itertools.accumulate(step for _, step in edges))


def test_a_queue_that_is_full_is_told_at_once_and_a_fallback_serves(
    provider: ProviderServer, tmp_path: Path
) -> None:
    provider.script("slow", Reply("Done.", head_delay_s=1.0))
    provider.script("good", Reply("All is well."))
    limit = "api_key: none, max_concurrency: 1, queue: {size: 1, wait_s: 30}, surfaces"
    for fallbacks, expected in (("[]", {200, 429}), ("[claude/good]", {200})):
        text = policy_for(provider, fallbacks=fallbacks).replace("api_key: none, surfaces", limit)
        with threaded_gateway(text, tmp_path / f"gateway{len(fallbacks)}") as gateway:
            assert set(many(gateway, "chatonly/slow", range(6))) == expected
