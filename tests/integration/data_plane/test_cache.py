"""An answer that is given again is a step like any other but for its price: let in, judged, on record; and it
reaches nobody but those who share it."""

from __future__ import annotations

import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.admission import Kill
from gateway.metering.learned import OutputEstimates
from gateway.stores.embedded import wall_clock
from gateway.testing import Ask, ProviderServer, Reply, error_reply
from tests.integration.conftest import AT_ONCE_S, let_time_pass
from tests.integration.data_plane.test_governance import Agent, looks_up
from tests.integration.data_plane.test_routing import run_agent, saver, worker
from tests.integration.data_plane.test_surfaces import (
    journal_cost,
    lanes,
    ledger_cost,
    policy_for,
    streams,
)
from tests.support.gateway import ALICE, BOB, ThreadedGateway, threaded_gateway, wait_until
from tests.support.redis_server import RedisServer
from tests.support.wire import CHAT, WIRES, Said, Wire

Json = dict[str, Any]
Start = Callable[..., ThreadedGateway]
EXACT = "cache: {exact: {ttl_s: 300}}\n"
SHARED = "cache: {exact: {scope: key}}\n"


@pytest.fixture
def start(provider: ProviderServer, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(extra: str = EXACT, name: str = "gw", **options: Any) -> ThreadedGateway:
            policy = options.pop("policy", None) or policy_for(provider, extra)
            return stack.enter_context(threaded_gateway(policy, tmp_path / name, **options))

        yield begin


def body_of(wire: Wire, model: str = "sim/good", **more: Any) -> Json:
    kept = {"store": False} if wire.name == "responses" else {}
    return wire.request(model, **{"temperature": 0, **kept, **more})


def ask(
    gateway: ThreadedGateway, wire: Wire = CHAT, *, headers: dict[str, str] | None = None, key: str = ALICE,
    **more: Any,
) -> tuple[int, dict[str, str], Said]:  # fmt: skip
    status, told, raw = gateway.post(
        body_of(wire, **more), path=wire.path, key=key, **wire.headers, **(headers or {})
    )
    said = wire.read(raw)
    if said.id is None and (found := re.search(rb'"id":\s*"([^"]+)"', raw)) is not None:
        said.id = found[1].decode()
    return status, told, said


def counting(text: str = "answer", **more: Any) -> Callable[[Ask], Reply]:
    """A provider that never says the same twice."""
    numbers = itertools.count(1)
    return lambda _: Reply(f"{text} {next(numbers)}", **more)


def looked_up(gateway: ThreadedGateway, tier: str = "exact") -> dict[str, float]:
    """Lookups of one tier by their outcome."""
    family = gateway.worker.metrics.cache.collect()
    return {
        sample.labels["outcome"]: sample.value
        for metric in family
        for sample in metric.samples
        if sample.name == "gateway_cache_total" and sample.labels["tier"] == tier
    }


def saved(gateway: ThreadedGateway) -> int:
    (metric,) = gateway.worker.metrics.saved.collect()
    return round(1e9 * next(s.value for s in metric.samples if s.name == "gateway_saved_usd_total"))


def steps(gateway: ThreadedGateway) -> list[Json]:
    found: list[Json] = []
    for run in gateway.admin("GET", "/runs")["data"]:
        found += gateway.admin("GET", f"/runs/{run['id']}/steps")["data"]
    return found


def decisions(gateway: ThreadedGateway) -> list[tuple[str, str, str]]:
    """What was found for each attempt, in the order in which they began."""
    return [
        (d["rule"], d["mode"], d["decision"])
        for attempt in gateway.attempts()
        for d in attempt["decisions"]
        if d["rule"].startswith("cache.")
    ]


# What a hit is


@lanes
@streams
def test_the_same_question_is_answered_once_more_for_nothing(
    start: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway, wire = start(), WIRES[surface]
    provider.script("good", counting(cached_tokens=4))
    first = ask(gateway, wire, model=f"{prefix}/good", stream=stream)
    again = ask(gateway, wire, model=f"{prefix}/good", stream=stream)
    for status, _, said in (first, again):
        assert (status, said.text, said.error, said.clean) == (200, "answer 1", None, True)
    assert first[2].id != again[2].id
    provider.wait_idle_blocking()
    assert len(provider.journal) == 1
    paid, free = gateway.attempts()
    assert (paid["cost"], free["cost"]) == (journal_cost(provider), 0)
    assert ledger_cost(gateway) == journal_cost(provider) > 0
    assert (free["cost_source"], free["outcome"], free["usage"]) == ("cache", "ok", {})
    assert free["saved"] == paid["cost"] == saved(gateway)
    assert free["finish_reason"] == paid["finish_reason"]
    assert decisions(gateway) == [("cache.exact", "enforce", "miss"), ("cache.exact", "enforce", "hit")]
    assert looked_up(gateway) == {"miss": 1, "hit": 1}
    headers = again[1]
    assert headers["x-guardrail-verdict"] == "allow"
    assert headers["x-guardrail-cost-usd"] == "0.000000000"
    assert headers["x-guardrail-model"] == "sim/good"
    assert "cache" in headers["x-guardrail-checks"].split(",")
    assert headers["x-guardrail-step"] == "1"
    assert headers["x-guardrail-run-id"] != first[1]["x-guardrail-run-id"]


@lanes
def test_an_answer_is_told_as_each_asker_wants_it(
    start: Start, provider: ProviderServer, surface: str, prefix: str
) -> None:
    gateway, wire = start(), WIRES[surface]
    provider.script("plain", counting(reasoning="Hm."))
    provider.script("streamed", counting(tool_calls=[("look", {"q": "x"})]))
    for name, first, second in (("plain", False, True), ("streamed", True, False)):
        model = f"{prefix}/{name}"
        _, _, told = ask(gateway, wire, model=model, stream=first, tools=["look"])
        _, _, again = ask(gateway, wire, model=model, stream=second, tools=["look"])
        assert (again.text, again.finish, again.clean) == (told.text, told.finish, True)
        assert [(n, json.loads(a)) for _, n, a in again.calls] == [
            (n, json.loads(a)) for _, n, a in told.calls
        ]
        assert not {c[0] for c in again.calls} & {c[0] for c in told.calls}
    assert looked_up(gateway) == {"miss": 2, "hit": 2}
    raw = gateway.post(body_of(wire, f"{prefix}/streamed", tools=["look"]), path=wire.path, **wire.headers)[2]
    assert sum(v for v in json.loads(raw)["usage"].values() if isinstance(v, int)) > 0


def test_a_run_goes_on_from_an_answer_that_was_given_again(start: Start, provider: ProviderServer) -> None:
    provider.script("agent", [Reply(tool_calls=[("look", {"q": "x"})]), Reply("Done.")])
    for stream, wire in itertools.product((False, True), WIRES.values()):
        gateway = start(name=f"{wire.name}{stream}")
        runs = set()
        for _ in range(2):
            body = body_of(wire, "sim/agent", tools=["look"], stream=stream)
            _, headers, raw = gateway.post(body, path=wire.path, **wire.headers)
            called = wire.read(raw)
            history = "input" if wire.name == "responses" else "messages"
            body[history] = [*body[history], *wire.answered(called)]
            _, then, raw = gateway.post(body, path=wire.path, **wire.headers)
            assert wire.read(raw).text == "Done."
            assert then["x-guardrail-run-id"] == headers["x-guardrail-run-id"]
            assert (headers["x-guardrail-step"], then["x-guardrail-step"]) == ("1", "2")
            runs.add(then["x-guardrail-run-id"])
        assert len(runs) == 2
        assert looked_up(gateway) == {"miss": 2, "hit": 2}


@streams
def test_thirty_at_once_are_one_call(start: Start, provider: ProviderServer, stream: bool) -> None:
    gateway = start()
    provider.script("good", counting(first_chunk_delay_s=0.7))
    for wire in WIRES.values():
        provider.journal.clear()
        with ThreadPoolExecutor(30) as pool:
            asking = [
                pool.submit(ask, gateway, wire, stream=stream, text=f"at once {wire.name}") for _ in range(30)
            ]
            answers = [asked.result() for asked in asking]
        provider.wait_idle_blocking()
        assert len(provider.journal) == 1
        assert {(a[0], a[2].text, a[2].clean) for a in answers} == {(200, answers[0][2].text, True)}
        assert len({a[2].id for a in answers}) == 30
    assert sorted(looked_up(gateway).items()) == [("hit", 87), ("miss", 3)]
    assert sum(attempt["cost"] > 0 for attempt in gateway.attempts()) == 3


def test_nobody_fails_with_the_one_who_asks(start: Start, provider: ProviderServer) -> None:
    gateway = start()
    first = threading.Event()

    def answer(_: Ask) -> Reply:
        if not first.is_set():
            first.set()
            return error_reply(400, head_delay_s=0.5)
        return Reply("Here.")

    provider.script("good", answer)
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: ask(gateway), range(5)))
    assert sorted(a[0] for a in answers) == [200, 200, 200, 200, 400]


# Whose it is


def test_nothing_crosses_keys_or_users(start: Start, provider: ProviderServer) -> None:
    gateway = start()
    numbers = itertools.count(1)
    provider.script("good", lambda _: Reply(f"canary {next(numbers)}"))
    askers = [(ALICE, "ann"), (ALICE, "ben"), (BOB, "ann"), (BOB, "ben")]
    for round_ in (1, 2):
        for n, (key, user) in enumerate(askers, 1):
            for stream in (False, True):
                _, _, said = ask(gateway, key=key, user=user, stream=stream)
                assert said.text == f"canary {n}", (round_, key, user)
    assert looked_up(gateway) == {"miss": 4, "hit": 12}


def test_a_key_shares_among_its_users_and_with_no_other_key(start: Start, provider: ProviderServer) -> None:
    gateway = start(SHARED)
    provider.script("good", counting("canary"))
    told = [ask(gateway, key=k, user=u)[2].text for k in (ALICE, BOB) for u in ("ann", "ben")]
    assert told == ["canary 1", "canary 1", "canary 2", "canary 2"]


def test_a_team_that_shares_does_not_share_with_another(start: Start, provider: ProviderServer) -> None:
    gateway = start("cache: {exact: {scope: team}}\n")
    provider.script("good", counting("canary"))
    assert [ask(gateway, key=k)[2].text for k in (ALICE, BOB)] == ["canary 1", "canary 2"]


# What comes before it


def kill(gateway: ThreadedGateway, name: str) -> None:
    gateway.run(lambda: gateway.worker.store.set_kill(Kill(name, "enough"), 60))


@streams
def test_a_kill_precedes_the_cache(start: Start, provider: ProviderServer, stream: bool) -> None:
    gateway = start()
    provider.script("good", Reply("Here."))
    ask(gateway, headers={"x_guardrail_run_id": "one"})
    _, headers, _ = ask(gateway, headers={"x_guardrail_run_id": "two"})
    kill(gateway, f"run:{headers['x-guardrail-run-id']}")
    status, _, said = ask(gateway, headers={"x_guardrail_run_id": "two"}, stream=stream)
    assert (status, said.error) == (400, "run_killed")
    assert ask(gateway, stream=stream)[0] == 200
    kill(gateway, "model:sim/good")
    status, _, said = ask(gateway, stream=stream)
    assert (status, said.error) == (400, "model_killed")


@streams
def test_a_kept_call_of_a_killed_tool_is_not_given(
    start: Start, provider: ProviderServer, stream: bool
) -> None:
    gateway = start()
    provider.script("good", Reply(tool_calls=[("pay", {"q": "x"})]))
    # The tool is not among the request's own, which would be withheld.
    assert ask(gateway, stream=stream)[2].calls
    assert ask(gateway, stream=stream)[2].calls
    kill(gateway, "tool:pay")
    status, _, said = ask(gateway, stream=stream)
    assert (status, said.error, said.calls) == (400, "tool_killed", [])
    assert len(provider.journal) == 1


def test_a_kill_ends_a_wait(start: Start, provider: ProviderServer) -> None:
    gateway = start()
    provider.script("good", Reply("Here.", first_chunk_delay_s=8))
    provider.script("quick", Reply("Here."))
    _, named, _ = ask(gateway, model="sim/quick", headers={"x_guardrail_run_id": "w"})
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, gateway)
        wait_until(lambda: len(provider.journal) == 2)
        second = pool.submit(ask, gateway, headers={"x_guardrail_run_id": "w"})
        wait_until(lambda: len(gateway.worker.live) == 2)
        began = time.monotonic()
        kill(gateway, f"run:{named['x-guardrail-run-id']}")
        status, _, said = second.result()
        assert time.monotonic() - began < AT_ONCE_S
        assert (status, said.error) == (400, "run_killed")
        assert not first.done()
        kill(gateway, "model:sim/good")
        assert first.result()[0] == 400


def test_a_client_that_leaves_ends_its_own_wait_alone(start: Start, provider: ProviderServer) -> None:
    gateway = start()
    provider.script("good", Reply("Here.", first_chunk_delay_s=1.5))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, gateway)
        wait_until(lambda: len(gateway.worker.live) == 1)
        data = json.dumps(body_of(CHAT)).encode()
        with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ALICE}\r\n"
            head += f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode() + data)
            wait_until(lambda: len(gateway.worker.live) == 2)
        wait_until(lambda: len(gateway.worker.live) == 1, AT_ONCE_S)
        third = pool.submit(ask, gateway)
        assert (first.result()[2].text, third.result()[2].text) == ("Here.", "Here.")
    assert len(provider.journal) == 1


def test_hits_are_steps_of_their_run(start: Start, provider: ProviderServer) -> None:
    gateway = start(EXACT + "runs: {max_steps: 3, on_exceed: stop}\n")
    provider.script("good", Reply("Here."))
    for text in "abcd":
        ask(gateway, text=text)
    told = [ask(gateway, text=text, headers={"x_guardrail_run_id": "r"}) for text in "abcd"]
    assert [t[0] for t in told[:3]] == [200, 200, 200]
    assert [t[1]["x-guardrail-step"] for t in told[:3]] == ["1", "2", "3"]
    assert [t[1]["x-guardrail-run-cost-usd"] for t in told[:3]] == ["0.000000000"] * 3
    assert told[3][2].error == "step_limit_exceeded"


def test_rates_count_hits(start: Start, provider: ProviderServer) -> None:
    gateway = start(EXACT + "rates: [{name: slow, per: key, requests_per_minute: 2}]\n")
    provider.script("good", Reply("Here."))
    assert [ask(gateway)[2].error for _ in range(3)] == [None, None, "rate_limit_exceeded"]


@streams
def test_contracts_judge_what_is_given_again(start: Start, provider: ProviderServer, stream: bool) -> None:
    gateway = start(EXACT + "tools: {pay: {max_calls_per_run: 1}}\n")

    provider.script("good", Reply(tool_calls=[("pay", {"q": "x"})]))
    _, _, other = ask(gateway, text="b", tools=["pay"], stream=stream)
    assert len(other.calls) == 1
    named = {"x_guardrail_run_id": "r"}
    assert len(ask(gateway, text="a", tools=["pay"], stream=stream, headers=named)[2].calls) == 1
    status, headers, said = ask(gateway, text="b", tools=["pay"], stream=stream, headers=named)
    assert (status, said.calls, said.clean) == (200, [], True)
    assert headers["x-guardrail-step"] == "2"
    # What came of it is nobody else's answer.
    assert len(ask(gateway, text="b", tools=["pay"], stream=stream)[2].calls) == 1
    provider.wait_idle_blocking()
    assert ledger_cost(gateway) == journal_cost(provider)


def test_a_budget_that_is_used_up_does_not_refuse_what_is_free(
    start: Start, provider: ProviderServer
) -> None:
    gateway = start(EXACT + "budgets: [{name: day, per: key, limit_usd: 0.03, on_exceed: stop}]\n")
    provider.script("good", Reply("Here.", prompt_tokens=11_000))
    assert ask(gateway, text="a")[0] == 200
    assert ask(gateway, text="a" + "b" * 20_000)[2].error == "key_budget_exceeded"
    assert ask(gateway, text="a")[2].text == "Here."
    (used,) = gateway.admin("GET", "/budgets?per=key&id=alice")["data"]
    assert used["reserved_usd"] == "0.000000000"


@streams
@pytest.mark.parametrize(("surface", "prefix"), [("chat", "sim"), ("messages", "claude"), ("chat", "claude")])
def test_loops_are_found_in_what_is_given_again(
    start: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway = start("cache: {exact: {max_temperature: 1}}\nloops: {same_call: 3, on_detect: wrap_up}\n")
    provider.script("loop", looks_up)
    for hits in (0, 3):
        agent = Agent(gateway, WIRES[surface], f"{prefix}/loop", ["lookup"], stream)
        assert agent.run() == "The printer is on the second floor, as far as I know."
        assert len(agent.executed) == 3
        assert looked_up(gateway).get("hit", 0) == hits
        run = agent.record()
        assert (run["status"], run["status_reason"], run["steps"]) == ("stopped_loop", "loop_detected", 4)


@streams
def test_a_routed_agent_saves_what_it_would_have_paid_at_home(
    provider: ProviderServer, tmp_path: Path, stream: bool
) -> None:
    policy = saver(provider, extra="cache: {exact: {max_temperature: 1}}\n")
    provider.script("worker", worker(6), models=["gpt-4o", "gpt-4o-mini"])
    with threaded_gateway(policy, tmp_path / "gw") as gateway:
        first = run_agent(gateway, CHAT, "gpt-4o", stream=stream, steps=6, page=40)
        provider.wait_idle_blocking()
        calls, paid = len(provider.journal), ledger_cost(gateway)
        again = run_agent(gateway, CHAT, "gpt-4o", stream=stream, steps=6, page=40)
        assert again[0] == first[0]
        provider.wait_idle_blocking()
        # The final answer is one of the model at home in place of another's, which is not kept.
        assert len(provider.journal) == calls + 2
        assert ledger_cost(gateway) > paid
        assert [h["x-guardrail-model"] for h in again[1]] == [h["x-guardrail-model"] for h in first[1]]
        attempts = gateway.attempts()
        hits = [a for a in attempts if a["cost_source"] == "cache"]
        asked = [a for a in attempts if a["run"] != hits[0]["run"] and a["ordinal"] < len(first[1])]
        assert len(hits) == len(asked) == len(first[1]) - 1
        # At home a step had cost what it did plus what its rule saved.
        assert sum(a["saved"] for a in hits) == sum(a["cost"] + a["saved"] for a in asked)


# What is never kept


@streams
@pytest.mark.parametrize(
    ("reply", "extra"),
    [
        (Reply("word " * 400, finish_reason="length"), ""),
        (Reply("No.", finish_reason="content_filter"), ""),
        (error_reply(500), "routing: {retries: {attempts: 0}}\n"),
        (error_reply(429), "routing: {retries: {attempts: 0}}\n"),
        (Reply("The token is ghp_a8Kd03mZqP5vT7yBnX2cR9wLfH4jS6uE1gQo."),
         "screening: {secrets: {output: {action: block}, action: allow}}\n"),
        (Reply("Write to ann.miller@example.com."), "screening: {pii: {mode: enforce, action: redact}}\n"),
        (Reply(""), ""),
    ],
    ids=["truncated", "filtered", "error", "limited", "blocked", "edited", "empty"],
)  # fmt: skip
def test_what_is_not_one_whole_good_answer_is_not_given_again(
    start: Start, provider: ProviderServer, stream: bool, reply: Reply, extra: str
) -> None:
    gateway = start(EXACT + extra)
    provider.script("good", reply)
    for _ in range(2):
        ask(gateway, stream=stream)
    provider.wait_idle_blocking()
    assert len(provider.journal) == 2
    assert "hit" not in looked_up(gateway)


def test_a_stream_that_breaks_off_is_not_kept(start: Start, provider: ProviderServer) -> None:
    gateway = start()
    provider.script("good", Reply("A long answer that breaks off.", cut_at_byte=900))
    for _ in range(2):
        ask(gateway, stream=True)
    assert looked_up(gateway) == {"miss": 2}


def test_the_answer_of_a_fallback_is_not_kept(start: Start, provider: ProviderServer) -> None:
    policy = policy_for(provider, EXACT).replace(
        '"sim/*": {provider: upstream,', '"sim/*": {provider: upstream, fallbacks: [claude/good],'
    )
    gateway = start(policy=policy)
    provider.script("down", error_reply(503))
    provider.script("good", counting())
    told = [ask(gateway, model="sim/down")[2].text for _ in range(2)]
    assert told == ["answer 1", "answer 2"]


def test_requests_that_may_be_answered_otherwise_are_not_looked_up(
    start: Start, provider: ProviderServer
) -> None:
    gateway = start()
    provider.script("good", counting())
    for more in ({"temperature": 0.5}, {"temperature": None}, {"n": 2}):
        for _ in range(2):
            ask(gateway, **more)
    assert looked_up(gateway) == {}
    provider.wait_idle_blocking()
    assert len(provider.journal) == 6


def test_what_a_hit_costs_teaches_nobody(
    start: Start, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = start()
    learned: list[Any] = []
    monkeypatch.setattr(OutputEstimates, "learn", lambda _, *given: learned.append(given))
    provider.script("good", Reply("Here."))
    for _ in range(3):
        ask(gateway)
    assert len(learned) == 1


# How long it is given


def test_an_answer_is_given_until_its_time_is_over(
    start: Start, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = start("cache: {exact: {ttl_s: 60}}\n")
    provider.script("good", counting())
    assert [ask(gateway)[2].text for _ in range(2)] == ["answer 1", "answer 1"]
    let_time_pass(gateway, 61)
    monkeypatch.setattr(gateway.worker.answers, "_clock", lambda: wall_clock() + 61_000)
    assert ask(gateway)[2].text == "answer 2"


def test_another_policy_asks_anew(start: Start, provider: ProviderServer) -> None:
    gateway = start()
    provider.script("good", counting())
    _, headers, _ = ask(gateway)
    gateway.policy_path.write_text(policy_for(provider, EXACT + "runs: {max_steps: 77}\n"))
    wait_until(lambda: ask(gateway, text="?")[1]["x-guardrail-policy"] != headers["x-guardrail-policy"])
    told = ask(gateway)[2].text
    assert told != "answer 1"
    assert ask(gateway)[2].text == told


def test_a_shadow_tells_what_it_would_have_done(start: Start, provider: ProviderServer) -> None:
    gateway = start("cache: {exact: {mode: shadow}}\n")
    provider.script("good", counting())
    for stream in (False, True, False):
        ask(gateway, stream=stream)
    provider.wait_idle_blocking()
    assert len(provider.journal) == 3
    assert ledger_cost(gateway) == journal_cost(provider)
    assert decisions(gateway) == [("cache.exact", "shadow", d) for d in ("miss", "hit", "hit")]
    assert looked_up(gateway) == {"miss": 1, "would_hit": 2}
    assert saved(gateway) == 0


def test_without_the_section_nothing_is_kept(start: Start, provider: ProviderServer) -> None:
    gateway = start("")
    provider.script("good", counting())
    _, headers, _ = ask(gateway)
    assert ask(gateway)[2].text == "answer 2"
    assert "cache" not in headers["x-guardrail-checks"].split(",")


@pytest.mark.redis
def test_workers_share_answers_through_redis(start: Start, provider: ProviderServer) -> None:
    provider.script("good", counting("canary"))
    with RedisServer() as redis:
        one = start(name="one", store_url=redis.patient_url)
        two = start(name="two", store_url=redis.patient_url)
        assert ask(one)[2].text == "canary 1"
        assert ask(two, stream=True)[2].text == "canary 1"
        assert ask(two, key=BOB)[2].text == "canary 2"
        assert (looked_up(one), looked_up(two)) == ({"miss": 1}, {"miss": 1, "hit": 1})
    assert len(provider.journal) == 2


# Other words

SEMANTIC = "cache: {semantic: {model: sim/embed, threshold: 0.9}}\n"
_MEANINGS = ("printer", "holiday")


def embedded(asked: Ask) -> Reply:
    """A direction for each of two subjects, with a little of the wording in it."""
    text = str(asked.body["input"])
    vector = [float(word in text) for word in _MEANINGS] + [len(text) / 1000]
    body = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": vector}],
        "model": "sim/embed",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    return Reply(body=json.dumps(body).encode(), prompt_tokens=7, completion_tokens=0)


@streams
@pytest.mark.parametrize("surface", WIRES)
def test_the_same_in_other_words_is_answered_once_more(
    start: Start, provider: ProviderServer, surface: str, stream: bool
) -> None:
    gateway, wire = start(SEMANTIC), WIRES[surface]
    provider.script("good", counting())
    provider.script("embed", embedded)

    def told(text: str, **more: Any) -> str:
        return ask(gateway, wire, text=text, stream=stream, **more)[2].text

    assert told("where is the printer") == "answer 1"
    assert told("please tell me where the printer is") == "answer 1"
    assert told("when is the holiday") == "answer 2"
    assert told("where is printer 4") == "answer 3"
    assert told("where is the printer now", key=BOB) == "answer 4"
    assert looked_up(gateway, "semantic") == {"miss": 4, "hit": 1}
    assert looked_up(gateway) == {}
    provider.wait_idle_blocking()
    assert ledger_cost(gateway) == journal_cost(provider)
    (free,) = [a for a in gateway.attempts() if a["cost_source"] == "cache"]
    (paid,) = [
        a for a in gateway.attempts() if a["run"] == free["run"] and a["requested_model"] == "sim/embed"
    ]
    assert (free["ordinal"], paid["ordinal"], free["cost"], paid["cost"]) == (1, 1, 0, 7 * 2_500)


def test_without_an_embedding_the_model_is_asked(start: Start, provider: ProviderServer) -> None:
    gateway = start(SEMANTIC)
    provider.script("good", counting())
    provider.script("embed", error_reply(500))
    assert [ask(gateway)[2].text for _ in range(2)] == ["answer 1", "answer 1"]
    assert ask(gateway, text="go on")[2].text == "answer 2"
    assert looked_up(gateway, "semantic") == {"miss": 2, "hit": 1}


def test_a_kill_precedes_other_words(start: Start, provider: ProviderServer) -> None:
    gateway = start(SEMANTIC)
    provider.script("good", counting())
    provider.script("embed", embedded)
    ask(gateway, text="where is the printer")
    named = {"x_guardrail_run_id": "r"}
    _, headers, _ = ask(gateway, text="which holiday", headers=named)
    kill(gateway, f"run:{headers['x-guardrail-run-id']}")
    status, _, said = ask(gateway, text="please tell me where the printer is", headers=named)
    assert (status, said.error) == (400, "run_killed")
    kill(gateway, "model:sim/embed")
    assert ask(gateway, text="well, where is the printer")[2].text == "answer 3"


def test_the_tiers_work_together(start: Start, provider: ProviderServer) -> None:
    gateway = start("cache: {exact: {}, semantic: {mode: shadow, model: sim/embed, threshold: 0.9}}\n")
    provider.script("good", counting())
    provider.script("embed", embedded)
    asked = ["where is the printer", "where is the printer", "please tell me where the printer is"]
    assert [ask(gateway, text=t)[2].text for t in asked] == ["answer 1", "answer 1", "answer 2"]
    assert looked_up(gateway) == {"miss": 2, "hit": 1}
    assert looked_up(gateway, "semantic") == {"miss": 1, "would_hit": 1}
