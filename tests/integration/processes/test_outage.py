"""A provider dies under load, before four workers on one Redis: its agents are served elsewhere, it is left
alone, and it gets its traffic back when it is well."""

from __future__ import annotations

import itertools
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import Ask, Attempt, ProviderServer, Reply, error_reply, running_provider
from tests.integration.processes.test_crashes import nano, steps
from tests.support.gateway import (
    ALICE,
    ProcessGateway,
    ThreadedGateway,
    process_gateway,
    threaded_gateway,
    wait_until,
)
from tests.support.redis_server import RedisServer
from tests.support.wire import CHAT, MESSAGES, WIRES, Wire

AGENTS = 24
TOOL_CALLS = 3
OPEN_S, PROBES = 2, 3
PRICES = {"a": (2_500, 10_000), "b": (50_000, 200_000)}
"""Of a token of input and of output, in nano-dollars, by provider."""


def policy(a: ProviderServer, b: ProviderServer, extra: str = "") -> str:
    """Models of provider A fall back on B, which speaks another API and costs twenty times as much."""
    breaker = f"{{open_s: {OPEN_S}, window_s: 10, min_calls: 6, probes: {PROBES}}}"
    return f"""
version: 1
providers:
  a: {{dialect: openai, base_url: "{a.base_url}", api_key: none, breaker: {breaker}}}
  b: {{dialect: anthropic, base_url: "{b.origin}", api_key: none}}
models:
  "a/*": {{provider: a, upstream_model: "sim/*", price: {{input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}, fallbacks: [b/work]}}
  "b/*": {{provider: b, upstream_model: "sim/*", price: {{input_usd_per_mtok: 50, output_usd_per_mtok: 200}}}}
auth: {{mode: keys}}
keys: [{{name: alice, key: {ALICE}, user: alice, team: red}}]
{extra}"""


def truth(name: str, attempt: Attempt) -> int:
    """What the provider of this name bills for what it has served."""
    per_input, per_output = PRICES[name]
    return attempt.served.input_uncached * per_input + attempt.served.output_total * per_output


@pytest.fixture
def providers() -> Iterator[dict[str, ProviderServer]]:
    with running_provider(seed=1) as a, running_provider(seed=2) as b:
        yield {"a": a, "b": b}


# -- an outage under load -----------------------------------------------------------------------------


class Works:
    """The model of all agents: some tool calls, then an answer that fits the task. Provider A dies and comes
    back with it."""

    def __init__(self) -> None:
        self.dead = threading.Event()
        self._calls = itertools.count(1)
        self._slow: Iterator[float] = iter(())

    def revive(self) -> None:
        """Come back, slowly at first, so that what happens meanwhile can be seen."""
        self._slow = iter([0.7] * PROBES)
        self.dead.clear()

    def well(self, ask: Ask) -> Reply:
        """A whole answer."""
        done = sum(turn.role == "tool" for turn in ask.turns)
        task = next(turn.text for turn in ask.turns if turn.role == "user" and turn.text.startswith("task"))
        slow = next(self._slow, 0.0)
        if done < TOOL_CALLS:
            return Reply(tool_calls=[("look", {"q": f"{task}, part {done}"})], head_delay_s=slow)
        return Reply(f"The answer to {task}.", head_delay_s=slow)

    def frail(self, ask: Ask) -> Reply:
        """The same while alive."""
        if not self.dead.is_set():
            return self.well(ask)
        if next(self._calls) % 5 == 0:
            return Reply("lost", head_delay_s=0.3, cut_head_at_byte=0, cut_how="rst")
        return error_reply(503, head_delay_s=0.3)


@dataclass
class Agents:
    """Plain loops on two APIs, streaming or not, one task after another."""

    gateway: ProcessGateway
    stop: threading.Event = field(default_factory=threading.Event)
    finished: list[tuple[str, str]] = field(default_factory=list)
    """(task, answer)."""
    put_off: list[str] = field(default_factory=list)
    """Tasks that had to ask again since Redis did not answer in time: this machine's fault alone."""

    def work(self, number: int) -> None:
        """Until told to stop; the task at hand is always finished. Fails with what is no answer."""
        wire, stream = [(CHAT, False), (CHAT, True), (MESSAGES, False), (MESSAGES, True)][number % 4]
        for count in itertools.count():
            if self.stop.is_set():
                return
            task = f"task {count} of agent {number}"
            self.finished.append((task, self._does(task, wire, stream)))

    def _does(self, task: str, wire: Wire, stream: bool) -> str:
        history = [wire.user(task)]
        while True:
            body = {**wire.body("a/work", history), "tools": wire.tools(["look"]), "max_tokens": 100}
            status, _, raw = self.gateway.post({**body, "stream": stream}, path=wire.path, **wire.headers)
            if status == 503 and b'"budget_store_unavailable"' in raw and len(self.put_off) < AGENTS:
                self.put_off.append(task)
                time.sleep(1)
                continue
            said = wire.read(raw)
            assert (status, said.error, said.clean) == (200, None, True), (task, raw)
            if not said.calls:
                return said.text
            history += wire.answered(said)
            time.sleep(0.4)


@dataclass
class Watch:
    """What the admin API tells of provider A's breaker: each change, as it is seen."""

    gateway: ProcessGateway
    changes: list[tuple[str, str | None]] = field(default_factory=list)
    """(state, when it opened)."""
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.wait(0.02):
            try:
                now = self.now()
            except urllib.error.HTTPError:
                # Redis was too slow for it.
                continue
            if not self.changes or self.changes[-1] != now:
                self.changes.append(now)

    def now(self) -> tuple[str, str | None]:
        rows = {row["id"]: row for row in self.gateway.admin("GET", "/breakers")["data"]}
        row = rows.get("provider:shared:a", {"state": "closed", "opened_at": None})
        return row["state"], row["opened_at"]

    @property
    def states(self) -> list[str]:
        return [state for state, _ in self.changes]


def _ms(stamp: str | None) -> float:
    assert stamp is not None
    return datetime.fromisoformat(stamp).timestamp() * 1000


@pytest.mark.redis
def test_agents_outlive_their_provider(providers: dict[str, ProviderServer], tmp_path: Path) -> None:
    a, b = providers["a"], providers["b"]
    works = Works()
    a.script("work", works.frail)
    b.script("work", works.well)
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        gateway = stack.enter_context(
            process_gateway(policy(a, b), tmp_path / "gateway", store_url=redis.patient_url, workers="4")
        )
        wait_until(lambda: gateway.log_path.read_text().count(" serves policy ") == 4, 30, "workers")
        agents, watch = Agents(gateway), Watch(gateway)
        pool = stack.enter_context(ThreadPoolExecutor(AGENTS + 1))
        running = [pool.submit(watch.run), *(pool.submit(agents.work, n) for n in range(AGENTS))]
        try:
            wait_until(lambda: len(a.journal) > 4 * AGENTS, 60, "work")
            died_at = time.time() * 1000
            works.dead.set()
            wait_until(lambda: "half_open" in watch.states, 60, "a trial")
            wait_until(lambda: watch.states[-1] == "open", 60, "a trial that fails")
            revived_at = time.time() * 1000
            works.revive()
            wait_until(lambda: watch.states[-1] == "closed", 60, "a trial that succeeds")
            enough = len(a.journal) + AGENTS
            wait_until(lambda: len(a.journal) > enough, 60, "traffic")
        finally:
            agents.stop.set()
            watch.stop.set()
        for each in running:
            each.result(60)
        for provider in providers.values():
            provider.wait_idle_blocking()
        ensure_every_answer_is_right(agents)
        ensure_the_breaker_went_its_way(watch)
        ensure_the_dead_was_left_alone(list(a.journal), watch, died_at, revived_at)
        ensure_a_slow_return(list(a.journal), revived_at)
        ensure_exact_bills(gateway, providers, len(agents.put_off))


def ensure_every_answer_is_right(agents: Agents) -> None:
    assert len({task for task, _ in agents.finished}) == len(agents.finished) >= AGENTS
    assert [said for _, said in agents.finished] == [f"The answer to {task}." for task, _ in agents.finished]


def ensure_the_breaker_went_its_way(watch: Watch) -> None:
    assert watch.states[0] == watch.states[-1] == "closed"
    assert set(itertools.pairwise(watch.states)) == {
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "open"),
        ("half_open", "closed"),
    }
    opened = [_ms(at) for state, at in watch.changes if state == "open"]
    assert all(later - sooner >= OPEN_S * 1000 for sooner, later in itertools.pairwise(opened))
    assert all((at is None) == (state == "closed") for state, at in watch.changes)


def ensure_the_dead_was_left_alone(
    journal: list[Attempt], watch: Watch, died_at: float, revived_at: float
) -> None:
    """Until as many calls had failed as had not, which opens it; then those on their way, and probes."""
    opened_at = next(_ms(at) for state, at in watch.changes if state == "open")
    before = sum(a.received_at < died_at for a in journal)
    failing = sum(died_at <= a.received_at < opened_at for a in journal)
    after = sum(opened_at <= a.received_at < revived_at for a in journal)
    assert failing <= before + 3 * AGENTS
    trials = (revived_at - opened_at) // (OPEN_S * 1000) + 1
    assert after <= PROBES * trials + 2 * AGENTS
    settled = opened_at + OPEN_S * 1000
    assert sum(settled <= a.received_at < revived_at for a in journal) <= PROBES * trials


def ensure_a_slow_return(journal: list[Attempt], revived_at: float) -> None:
    """Nothing but probes until one of them has come back, and then all."""
    returned = sorted((a for a in journal if a.received_at >= revived_at), key=lambda a: a.received_at)
    assert {a.status for a in returned} == {200}
    first_end = min(a.finished_at or 0 for a in returned)
    assert sum(a.received_at < first_end for a in returned) <= PROBES
    assert len(returned) >= AGENTS


def ensure_exact_bills(gateway: ProcessGateway, providers: dict[str, ProviderServer], put_off: int) -> None:
    """Each call once, at what was served; one whose connection was lost, at what was reserved for it."""
    served = {a.guardrail_attempt_id: (name, a) for name, p in providers.items() for a in p.journal}
    assert len(served) == sum(len(p.journal) for p in providers.values())

    def is_whole() -> bool:
        spend = gateway.admin("GET", "/spend?group_by=key")["data"]
        known = steps(gateway)
        return {s["id"] for s in known} >= set(served) and sum(nano(r["cost_usd"]) for r in spend) == sum(
            nano(s["cost_usd"]) for s in known
        )

    wait_until(is_whole, 30, "the ledger")
    attempts = {step["id"]: step for step in steps(gateway)}
    # One that was put off may have been let in without anybody hearing of it.
    assert len(attempts) <= len(served) + put_off
    for attempt_id, (name, attempt) in served.items():
        step = attempts[str(attempt_id)]
        assert step["provider"] == name
        if attempt.cut is None:
            assert nano(step["cost_usd"]) == truth(name, attempt), step
        else:
            assert (step["cost_source"], step["outcome"]) == ("reserved", "failed")
            assert nano(step["cost_usd"]) >= 100 * PRICES[name][1]


# -- policies that keep a step where it is --------------------------------------------------------------

Start = Callable[[str], ThreadedGateway]


@pytest.fixture
def start(providers: dict[str, ProviderServer], tmp_path: Path) -> Iterator[Start]:
    """A gateway of one worker before a dead A and a B that is well."""
    providers["a"].script("work", error_reply(503))
    providers["b"].script("work", Reply("All is well."))
    with ExitStack() as stack:

        def begin(extra: str) -> ThreadedGateway:
            rules = policy(providers["a"], providers["b"], extra)
            return stack.enter_context(threaded_gateway(rules, tmp_path / "gateway"))

        yield begin


def post(gateway: ThreadedGateway, wire: Wire, **more: Any) -> tuple[int, dict[str, str], bytes]:
    return gateway.post(wire.request("a/work", max_tokens=300, **more), path=wire.path, **wire.headers)


@pytest.mark.parametrize("surface", ["chat", "messages"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_budget_for_the_first_alone_refuses_the_fallback_before_anything_is_sent(
    start: Start, providers: dict[str, ProviderServer], surface: str, stream: bool
) -> None:
    gateway, wire = start("budgets: [{name: run, per: run, limit_usd: 0.01}]"), WIRES[surface]
    status, headers, raw = post(gateway, wire, stream=stream)
    assert (status, wire.read(raw).error) == (400, "run_budget_exceeded")
    assert headers["content-type"].startswith("application/json")
    assert headers["x-should-retry"] == "false"
    assert len(providers["a"].journal) == 2
    assert len(providers["b"].journal) == 0
    (run,) = gateway.admin("GET", "/runs")["data"]
    assert (run["cost_usd"], run["reserved_usd"]) == ("0.000000000", "0.000000000")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_without_retries_the_fallback_comes_at_once(
    start: Start, providers: dict[str, ProviderServer], stream: bool
) -> None:
    gateway = start("routing: {retries: null}")
    status, headers, raw = post(gateway, CHAT, stream=stream)
    assert (status, CHAT.read(raw).text) == (200, "All is well.")
    assert headers["x-guardrail-verdict"] == "reroute"
    assert len(providers["a"].journal) == 1
    assert len(providers["b"].journal) == 1


def test_without_retries_a_moment_s_pause_is_not_waited_for(
    start: Start, providers: dict[str, ProviderServer]
) -> None:
    gateway = start("routing: {retries: null}")
    providers["a"].script("work", error_reply(429, headers=[("retry-after", "3")]))
    for asked_of_a in (1, 1):
        status, _, raw = post(gateway, CHAT)
        assert (status, CHAT.read(raw).text) == (200, "All is well.")
        assert len(providers["a"].journal) == asked_of_a
