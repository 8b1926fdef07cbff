"""Corners of the operations that random histories rarely reach, on every store."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admission import (
    INDEX_WIDTH,
    MAX_RETRIES,
    Admitted,
    CounterState,
    Denied,
    Evidence,
    Kill,
    Rate,
    Window,
)
from gateway.domain import RunSource, RunStatus
from gateway.protocols import Store
from tests.integration.stores.conftest import START, Clock
from tests.support import store_values as make


@pytest.fixture
async def store(store: Store) -> Store:
    """With a run to step in."""
    await store.resolve(make.lookup("run-1"))
    return store


def lineage(key: str, *, then_user: bool = False) -> tuple[Evidence, ...]:
    return (Evidence(key, RunSource.LINEAGE, then_user),)


@pytest.mark.parametrize("limit", [77, 154, 231, 770, 7_700])
async def test_a_rounded_up_division_does_not_pass_the_limit(store: Store, limit: int) -> None:
    # 77 / 1.1 is 70.0 and 70 * 1.1 is 77.00000000000001.
    answer = await store.admit(
        make.admission("a", "run-1", make.charge("c", limit), cost=0, output_rate=1.1, tokens=10**6)
    )
    assert isinstance(answer, Admitted)
    assert answer.reserved <= limit


async def test_a_step_is_taken_for_a_retry_ten_times_at_most(store: Store) -> None:
    await store.admit(make.admission("a-0", "run-1"))
    await store.settle(make.settlement("a-0", "run-1", 5, succeeded=False))
    seen: list[tuple[str, int]] = []
    for n in range(MAX_RETRIES + 1):
        view = await store.resolve(make.lookup(f"new-{n}", evidence=lineage("none")))
        seen.append((view.run_id, view.retry_ordinal))
        await store.admit(make.admission(f"a-{n + 1}", view.run_id, retry_ordinal=view.retry_ordinal))
        await store.settle(make.settlement(f"a-{n + 1}", view.run_id, 5, succeeded=False))
    assert seen[:MAX_RETRIES] == [("run-1", 1)] * MAX_RETRIES
    assert seen[MAX_RETRIES] == (f"new-{MAX_RETRIES}", 0)


async def test_a_stream_that_fails_late_is_still_retried(store: Store, clock: Clock) -> None:
    await store.admit(make.admission("a-0", "run-1", lease_ms=600_000))
    clock.now += 300_000
    await store.reap()
    await store.settle(make.settlement("a-0", "run-1", 5, succeeded=False))
    clock.now += 1_000
    view = await store.resolve(make.lookup("new"))
    assert (view.run_id, view.source, view.retry_ordinal) == ("run-1", RunSource.RETRY, 1)


async def test_an_index_entry_remembers_its_latest_runs(store: Store) -> None:
    for n in range(INDEX_WIDTH + 2):
        await store.resolve(make.lookup(f"r{n}", retry_key=f"b{n}"))
        await store.admit(make.admission(f"a{n}", f"r{n}", retry_key=f"b{n}"))
        await store.settle(make.settlement(f"a{n}", f"r{n}", 1, links=("k",), head="k", retry_key=f"b{n}"))
    found = set()
    for n in range(INDEX_WIDTH + 2):
        view = await store.resolve(make.lookup(f"x{n}", retry_key=f"c{n}", evidence=lineage("k")))
        found.add(view.run_id)
    assert found <= {f"r{n}" for n in range(2, INDEX_WIDTH + 2)}
    assert len(found) == INDEX_WIDTH


async def test_an_index_entry_ends_without_a_janitor(store: Store, clock: Clock) -> None:
    await store.admit(make.admission("a", "run-1"))
    await store.settle(make.settlement("a", "run-1", 1, links=("k",), head="k", index_ttl_ms=2_000))
    clock.now += 2_001
    view = await store.resolve(make.lookup("new", retry_key="other", evidence=lineage("k")))
    assert view.is_new


async def test_tokens_given_back_never_make_a_minute_negative(store: Store) -> None:
    rate = Rate("r", "user", "c", enforced=True, tokens_per_minute=100)
    await store.admit(make.admission("a", "run-1", rates=(rate,), input_tokens=90))
    assert isinstance(await store.admit(make.admission("b", "run-1", rates=(rate,), input_tokens=20)), Denied)
    await store.settle(make.settlement("a", "run-1", 1, tokens=-500))
    full = await store.admit(make.admission("c", "run-1", rates=(rate,), input_tokens=101))
    assert isinstance(full, Denied)
    assert isinstance(
        await store.admit(make.admission("d", "run-1", rates=(rate,), input_tokens=100)), Admitted
    )


async def test_a_step_is_charged_to_the_window_it_was_admitted_in(store: Store, clock: Clock) -> None:
    windows = (Window("w1", START + 1_000), Window("w2", START + 2_000))
    charge = make.charge("c", 100, windows=windows)
    first = await store.admit(make.admission("a", "run-1", charge, cost=100))
    assert isinstance(first, Admitted)
    denied = await store.admit(make.admission("b", "run-1", charge, cost=1))
    assert isinstance(denied, Denied)
    assert denied.resets_at == START + 1_000
    clock.now += 1_000
    assert isinstance(await store.admit(make.admission("c", "run-1", charge, cost=100)), Admitted)
    await store.settle(make.settlement("a", "run-1", 60))
    assert await store.counters(["c:w1", "c:w2"]) == {
        "c:w1": CounterState(60, 0),
        "c:w2": CounterState(0, 100),
    }


async def test_money_up_to_two_to_the_53_is_exact(store: Store) -> None:
    most = 2**53
    await store.reseed({"c": (most - 3, 0)})
    charge = make.charge("c", most)
    assert isinstance(await store.admit(make.admission("a", "run-1", charge, cost=4)), Denied)
    assert isinstance(await store.admit(make.admission("b", "run-1", charge, cost=3)), Admitted)
    assert isinstance(await store.admit(make.admission("c", "run-1", charge, cost=1)), Denied)
    assert not await store.extend("b", 1)
    await store.settle(make.settlement("b", "run-1", 2))
    assert (await store.counters(["c"]))["c"] == CounterState(most - 1, 0)


async def test_a_provisional_end_gives_way_to_the_real_figure_once(store: Store, clock: Clock) -> None:
    charge = make.charge("c", 10_000)
    await store.admit(make.admission("a", "run-1", charge, cost=500, lease_ms=1_000))
    clock.now += 1_001
    assert await store.reap() == 1
    assert (await store.counters(["c"]))["c"] == CounterState(500, 0)
    real = make.settlement("a", "run-1", 120)
    assert (await store.settle(real)).applied
    assert not (await store.settle(real)).applied
    assert (await store.counters(["c"]))["c"] == CounterState(120, 0)
    events = [event for _, event in await store.take_events(10)]
    assert any(b'"cost":500' in event and b'"charges":[["c",' in event for event in events)
    assert events[-1] == real.event


async def test_a_named_run_that_holds_a_colon_is_killed_as_a_run(store: Store) -> None:
    await store.set_kill(Kill("deploy:7", "enough"), None)
    answer = await store.admit(make.admission("a", "run-1", kill_names=("run-1", "deploy:7")))
    assert isinstance(answer, Denied)
    assert (answer.code, answer.per) == ("run_killed", "run")


async def test_a_kill_is_told_in_its_own_process_without_waiting(store: Store) -> None:
    heard: list[Kill] = []
    await store.on_kill(heard.append)
    await store.set_kill(Kill("user:ann", "enough"), None)
    assert heard == [Kill("user:ann", "enough")]


async def test_an_idle_run_is_abandoned_and_later_forgotten(store: Store, clock: Clock) -> None:
    await store.admit(make.admission("a", "run-1"))
    await store.settle(make.settlement("a", "run-1", 1))
    clock.now += 1_800_001
    await store.reap()
    run = await store.live_run("run-1")
    assert run is not None
    assert run["status"] == RunStatus.ABANDONED
    clock.now += make.DAY_MS
    await store.reap()
    assert await store.live_run("run-1") is None


async def test_a_run_with_open_work_is_not_abandoned(store: Store, clock: Clock) -> None:
    await store.admit(make.admission("a", "run-1", lease_ms=10 * 1_800_000))
    for _ in range(4):
        clock.now += 1_800_001
        await store.reap()
    run = await store.live_run("run-1")
    assert run is not None
    assert (run["status"], run["open"]) == ("running", 1)


async def test_records_are_kept_recalled_and_dropped(store: Store, clock: Clock) -> None:
    await store.remember({"a": b"1", "b": b"\x00\xff"}, 60_000)
    await store.remember({"b": b"2"}, 60_000)
    assert await store.recall(["a", "b", "c"]) == {"a": b"1", "b": b"2"}
    await store.forget(["a", "c"])
    assert await store.recall(["a", "b"]) == {"b": b"2"}
    await store.remember({"short": b"x"}, 1)
    # One store goes by the clock, Redis by its own.
    clock.now += 10
    await asyncio.sleep(0.01)
    assert await store.recall(["short"]) == {}
