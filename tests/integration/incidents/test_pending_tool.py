"""A tool's time-out was read as "pending" and tried again all night. Patience ends, by a loop rule or by the
tool's breaker, and the agent's user is told."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.testing import Ask, ProviderServer, Reply
from tests.integration.conftest import let_time_pass
from tests.integration.incidents.agents import KINDS, every_kind
from tests.integration.incidents.conftest import Start
from tests.integration.incidents.scene import GUARDED, ensure_books_agree
from tests.support.gateway import wait_until

TASK = "Export last month's orders."
ANSWER = "The export is not ready; I do not know why. Please look at the job yourself."
NIGHT = "{max_steps: 200, max_wall_clock_s: 36000, on_exceed: wrap_up}"
"""Limits of somebody who lets agents work through the night."""
TIMEOUTS = [
    "TimeoutError: timed out after 30.0 s",
    "httpx.ReadTimeout: The read operation timed out",
    "Error: 504 Gateway Time-out",
    "requests.exceptions.ReadTimeout: HTTPSConnectionPool(host='jobs.internal', port=443): Read timed out. (read timeout=30)",
    "ETIMEDOUT: connect ETIMEDOUT 10.0.0.7:443",
]


def clock() -> Iterator[str]:
    for second in itertools.count():
        yield f"2026-11-21T{2 + second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"


def pending() -> Callable[..., str]:
    now = clock()
    return lambda job: f'{{"status": "pending", "job": "{job}", "checked_at": "{next(now)}"}}'


def times_out(meanwhile: Callable[[], Any] = lambda: None) -> Callable[..., str]:
    said = itertools.cycle(TIMEOUTS)

    def wait(job: str) -> str:
        meanwhile()
        return next(said)

    return wait


def alternates() -> Callable[..., str]:
    both = itertools.cycle([pending(), times_out()])
    return lambda job: next(both)(job)


def patient(tool: str) -> Callable[[Ask], Reply]:
    """A model that takes everything for "not yet"."""

    def play(ask: Ask) -> Reply:
        if ask.tools:
            return Reply("Still running, I will try again.", tool_calls=[(tool, {"job": "export-7"})])
        return Reply(ANSWER)

    return play


def put(provider: ProviderServer, tool: str) -> None:
    provider.script("patient", patient(tool), models=["gpt-4o", "claude-sonnet-5"])


@pytest.mark.parametrize(
    ("results", "most"),
    [(pending, 5), (times_out, 5), (alternates, 5)],
    ids=["pending", "times out", "alternates"],
)
@every_kind
def test_a_tool_that_never_answers_is_given_up(
    start: Start, provider: ProviderServer, kind: str, results: Callable[[], Any], most: int
) -> None:
    """It does not say that it polls: `export_orders` starts the job each time."""
    put(provider, "export_orders")
    gateway = start(runs=NIGHT)
    agent = KINDS[kind](url=gateway.url, tools={"export_orders": results()})
    assert agent.run(TASK) == ANSWER
    assert 3 <= len(agent.executed) <= most
    run = ensure_books_agree(gateway, provider)
    assert run["status"] in ("stopped_loop", "completed")


@pytest.mark.parametrize(
    "results", [pending, times_out, alternates], ids=["pending", "times out", "alternates"]
)
@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_a_poll_that_never_ends_is_given_up_too(
    start: Start, provider: ProviderServer, kind: str, results: Callable[[], Any]
) -> None:
    """A tool that polls may be called many times, but not through the night."""
    put(provider, "get_export_status")
    gateway = start(runs=NIGHT)
    agent = KINDS[kind](url=gateway.url, tools={"get_export_status": results()})
    assert agent.run(TASK) == ANSWER
    assert 3 <= len(agent.executed) <= 50
    run = ensure_books_agree(gateway, provider)
    assert run["status"] in ("stopped_loop", "completed")


@pytest.mark.parametrize("kind", ["chat", "messages"])
def test_a_broken_tool_is_taken_away_by_its_breaker(
    start: Start, provider: ProviderServer, kind: str
) -> None:
    """With loop rules off: the breaker opens, the model has no tool any more and says so."""
    put(provider, "export_orders")
    gateway = start(GUARDED, runs=NIGHT, loops="null")
    health = gateway.worker.breakers

    def meanwhile() -> None:
        """A tool takes longer to time out than the gateway to tell the breakers what came of it before."""
        wait_until(lambda: not health._reports, what="the last result to be told")

    agent = KINDS[kind](url=gateway.url, tools={"export_orders": times_out(meanwhile)})
    assert agent.run(TASK) == ANSWER
    made = len(agent.executed)
    assert 5 <= made <= 6
    run = ensure_books_agree(gateway, provider)
    assert (run["status"], run["tools"]) == ("completed", {"export_orders": {"calls": made, "errors": made}})
    (breaker,) = [b for b in gateway.admin("GET", "/breakers")["data"] if b["kind"] == "tool"]
    assert (breaker["name"], breaker["state"]) == ("export_orders", "open")
    # The next agent is spared the tool, until an operator or time closes the breaker.
    other = KINDS[kind](url=gateway.url, tools={"export_orders": times_out()})
    assert other.run("Export the orders of the month before.") == ANSWER
    assert other.executed == []
    gateway.admin("POST", f"/breakers/{breaker['id']}/reset", {})
    another = KINDS[kind](url=gateway.url, tools={"export_orders": times_out()})

    def tries() -> bool:
        another.run("Export this month's orders.")
        return bool(another.executed)

    wait_until(tries, what="the tool to come back")


OWNED = """
tools:
  defaults: {max_calls_per_run: 100}
  export_orders: {owner: data-platform, timeout_seconds: 30, max_calls_per_run: 100, breaker: {window_s: 900}}
"""


@pytest.mark.parametrize("kind", ["chat", "messages", "responses"])
@pytest.mark.parametrize("late", [True, False])
def test_pending_later_than_the_contract_allows_is_a_timeout(
    start: Start, provider: ProviderServer, kind: str, late: bool
) -> None:
    """The tool itself never says that anything is wrong."""
    put(provider, "export_orders")
    gateway = start(OWNED, runs="{max_steps: 12, on_exceed: wrap_up}", loops="null")
    opened: list[Any] = []
    gateway.worker.notices.append(
        lambda what, facts: opened.append(facts) if what == "breaker_open" else None
    )
    health, says = gateway.worker.breakers, pending()

    def wait(job: str) -> str:
        wait_until(lambda: not health._reports, what="the last result to be told")
        let_time_pass(gateway, 31 if late else 29)
        return says(job)

    agent = KINDS[kind](url=gateway.url, tools={"export_orders": wait})
    agent.run(TASK)
    run = ensure_books_agree(gateway, provider)
    steps = gateway.admin("GET", f"/runs/{run['id']}/steps")["data"]
    told = [result for step in steps for result in step["tool_results"]]
    assert told
    if late:
        assert len(agent.executed) in (5, 6)
        assert all((r["ok"], r["error_type"]) == (False, "timeout") for r in told)
        wait_until(lambda: opened, what="the breaker")
        assert opened[0]["owner"] == "data-platform"
    else:
        assert len(agent.executed) > 6
        assert all((r["ok"], r["status"]) == (True, "pending") for r in told)
        assert not opened


@every_kind
def test_a_job_that_gets_done_is_waited_for(start: Start, provider: ProviderServer, kind: str) -> None:
    """Polling is work: it is what the tool is there for."""
    now = clock()
    shares = iter([*range(0, 100, 6), "done"])

    def status(job: str) -> str:
        share = next(shares)
        if share == "done":
            return '{"status": "done", "rows": 18231}'
        return f'{{"status": "pending", "percent": {share}, "checked_at": "{next(now)}"}}'

    def play(ask: Ask) -> Reply:
        if "18231" in str(ask.body):
            return Reply("18,231 orders were exported.")
        return Reply(tool_calls=[("get_export_status", {"job": "export-7"})])

    provider.script("patient", play, models=["gpt-4o", "claude-sonnet-5"])
    gateway = start()
    agent = KINDS[kind](url=gateway.url, tools={"get_export_status": status})
    assert agent.run(TASK) == "18,231 orders were exported."
    assert len(agent.executed) == 18
    assert ensure_books_agree(gateway, provider)["status"] == "completed"
