"""What the stores say about run trees, landings, quotas, breakers and baselines, case by case."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest

from gateway.admission import (
    MAX_ANCESTORS,
    Admitted,
    Baseline,
    BreakerRule,
    BreakerState,
    CounterState,
    Denied,
    Ending,
    Kill,
    Lookup,
    Quota,
    Rate,
    RunLimits,
    RunView,
    Taken,
)
from gateway.domain import RunStatus
from gateway.protocols import Store
from gateway.stores.embedded_breakers import BREAKER_MEMORY, BREAKER_SOURCES
from gateway.stores.embedded_records import MAX_FIGURES
from tests.integration.stores.conftest import START, Clock
from tests.support import store_values as make

MINUTE_MS = 60_000
ENDING = Ending("run_budget_exceeded", "per run", "run", 1_000, 990)


# -- run trees ----------------------------------------------------------------------------------------


def lookup(run_id: str, **fields: Any) -> Lookup:
    """A request with a body of its own."""
    return replace(make.lookup(run_id, retry_key=f"body-{run_id}"), **fields)


async def opened(store: Store, run_id: str, **fields: Any) -> RunView:
    view = await store.resolve(lookup(run_id, **fields))
    assert view.is_new
    return view


async def test_a_new_run_has_the_ancestors_of_its_declared_parent(store: Store) -> None:
    await opened(store, "root", known_as=("k-root",))
    child = await opened(store, "child", parents=("k-none", "k-root"), known_as=("k-child",))
    grandchild = await opened(store, "grandchild", parents=("k-child", "k-root"))
    by_id = await opened(store, "by-id", parent_run_id="child", parents=("k-root",))
    assert child.ancestors == ("root",)
    assert grandchild.ancestors == by_id.ancestors == ("child", "root")
    run = await store.live_run("grandchild")
    assert run is not None
    assert run["ancestors"] == ("child", "root")


async def test_a_parent_of_another_principal_is_no_parent(store: Store) -> None:
    await opened(store, "theirs", principal="p2")
    await opened(store, "mine", known_as=("k",))
    assert (await opened(store, "a", parent_run_id="theirs")).ancestors == ()
    assert (await opened(store, "b", parent_run_id="theirs", parents=("k",))).ancestors == ("mine",)
    assert (await opened(store, "c", parent_run_id="nobody", parents=("unknown",))).ancestors == ()


async def test_a_new_run_seems_to_be_of_the_one_that_passed_its_task_on(store: Store) -> None:
    for run, principal, links in (
        ("one", "principal", ("task-a", "task-b")), ("two", "principal", ("task-b",)), ("theirs", "p2", ("task-c",)),
    ):  # fmt: skip
        await opened(store, run, principal=principal)
        assert isinstance(await store.admit(make.admission(f"a-{run}", run)), Admitted)
        await store.settle(make.settlement(f"a-{run}", run, 1, links=links))
    child = await opened(store, "child", tasks=("task-x", "task-a"))
    assert (child.asked_by, child.ancestors) == ("one", ())
    assert (
        await store.resolve(
            lookup("child-2", tasks=("task-a",), own_run_id="child", name="child", name_key="k")
        )
    ).asked_by is None
    assert (await opened(store, "by-two", tasks=("task-b",))).asked_by is None
    assert (await opened(store, "by-them", tasks=("task-c",))).asked_by is None
    assert (await opened(store, "by-nobody", tasks=("task-d",))).asked_by is None
    declared = await opened(store, "declared", tasks=("task-a",), parent_run_id="two")
    assert (declared.asked_by, declared.ancestors) == (None, ("two",))


async def test_a_parent_declared_later_changes_nothing(store: Store) -> None:
    await opened(store, "root")
    await store.resolve(make.lookup("child", name="nightly"))
    found = await store.resolve(replace(make.lookup("new", name="nightly"), parent_run_id="root"))
    assert (found.run_id, found.ancestors) == ("child", ())
    assert (await store.resolve(make.lookup("new", name="nightly"))).ancestors == ()


async def test_a_long_line_keeps_the_nearest_and_the_root(store: Store) -> None:
    await opened(store, "r0")
    for n in range(1, MAX_ANCESTORS + 4):
        view = await opened(store, f"r{n}", parent_run_id=f"r{n - 1}")
    last = MAX_ANCESTORS + 3
    assert view.ancestors == (*(f"r{last - n}" for n in range(1, MAX_ANCESTORS)), "r0")


async def test_children_find_the_parent_that_was_active_last(store: Store) -> None:
    await store.resolve(replace(make.lookup("one", name="one"), known_as=("k",)))
    await store.resolve(replace(make.lookup("two", name="two"), known_as=("k",)))
    assert (await opened(store, "a", parents=("k",))).ancestors == ("two",)
    await store.resolve(replace(make.lookup("new", name="one"), known_as=("k",)))
    assert (await opened(store, "b", parents=("k",))).ancestors == ("one",)


async def test_a_run_is_no_ancestor_of_itself(store: Store) -> None:
    view = await opened(store, "one", parents=("k",), known_as=("k",), parent_run_id="one")
    assert view.ancestors == ()


async def test_a_name_for_children_lasts_as_long_as_its_run_is_used(store: Store, clock: Clock) -> None:
    life = 1_800_000 + make.DAY_MS

    async def use() -> None:
        await store.resolve(replace(make.lookup("new", name="p"), known_as=("k",), idle_ttl_ms=1_800_000))

    await use()
    await store.admit(make.admission("a", "new", lease_ms=10 * make.DAY_MS))
    clock.now += life
    await use()
    clock.now += life
    assert (await opened(store, "in-time", parents=("k",))).ancestors == ("new",)
    clock.now += 1
    assert (await opened(store, "too-late", parents=("k",))).ancestors == ()


async def test_progress_is_kept_until_it_is_replaced(store: Store) -> None:
    await store.resolve(make.lookup("run", name="n"))
    told = b"\x00\xff{gw}" * 50
    for attempt, progress, expected in (
        ("a", b"", b""),
        ("b", told, told),
        ("c", b"", told),
        ("d", b"x", b"x"),
    ):
        await store.admit(make.admission(attempt, "run"))
        await store.settle(replace(make.settlement(attempt, "run", 5), progress=progress))
        view = await store.resolve(make.lookup("new", name="n", retry_key="other"))
        assert view.progress == expected


# -- landings -----------------------------------------------------------------------------------------


async def test_a_landed_run_is_refused_with_what_ended_it(store: Store) -> None:
    await store.resolve(make.lookup("run", name="n"))
    await store.admit(make.admission("a", "run"))
    landing = await store.admit(replace(make.admission("b", "run", retry_key="last"), landing=ENDING))
    assert isinstance(landing, Admitted)
    assert landing.ordinal == 2
    view = await store.resolve(make.lookup("new", name="n", retry_key="other"))
    assert view.landed == 2
    refused = Denied("run_budget_exceeded", "per run", "run", 1_000, 990, 0, 0, 0, "")
    for ordinal, again in ((0, None), (1, None), (0, ENDING)):
        step = make.admission("c", "run", make.charge("all", 10**6), retry_ordinal=ordinal)
        assert await store.admit(replace(step, landing=again)) == refused
    assert (await store.counters(["all"]))["all"] == CounterState(0, 0)


async def test_the_landing_step_may_be_tried_again(store: Store) -> None:
    await store.resolve(make.lookup("run", name="n"))
    await store.admit(replace(make.admission("a", "run"), landing=ENDING))
    await store.settle(make.settlement("a", "run", 1, succeeded=False))
    view = await store.resolve(make.lookup("new", name="n"))
    assert (view.retry_ordinal, view.landed) == (1, 1)
    again = await store.admit(replace(make.admission("b", "run", retry_ordinal=1), landing=ENDING))
    assert isinstance(again, Admitted)
    assert again.ordinal == 1


async def test_a_kill_goes_before_a_landing(store: Store) -> None:
    await store.resolve(make.lookup("run"))
    await store.admit(replace(make.admission("a", "run"), landing=ENDING))
    await store.set_kill(Kill("global", "enough"), None)
    answer = await store.admit(make.admission("b", "run", kill_names=("global",)))
    assert isinstance(answer, Denied)
    assert answer.code == "global_killed"


async def test_limits_of_a_run_do_not_hold_its_landing_but_money_does(store: Store) -> None:
    await store.resolve(make.lookup("run"))
    await store.admit(make.admission("a", "run"))
    limits = RunLimits(True, max_steps=1, max_tool_calls=1)
    step = make.admission("b", "run", make.charge("c", 50), cost=51, limits=limits)
    answer = await store.admit(step)
    assert isinstance(answer, Denied)
    assert answer.code == "step_limit_exceeded"
    answer = await store.admit(replace(step, landing=ENDING))
    assert isinstance(answer, Denied)
    assert answer.code == "user_budget_exceeded"
    run = await store.live_run("run")
    assert run is not None
    assert run["landed"] == 0, "a landing that was refused is none"
    answer = await store.admit(replace(step, landing=ENDING, fixed_nano=50))
    assert isinstance(answer, Admitted)
    assert answer.shadow_denied == ()


async def test_a_run_ends_as_its_settlement_says(store: Store) -> None:
    await store.resolve(make.lookup("run"))
    for attempt in ("open", "last"):
        await store.admit(make.admission(attempt, "run"))
    end = replace(
        make.settlement("last", "run", 5, completes=True), ends_as="stopped_budget", ends_because="per run"
    )
    assert (await store.settle(end)).status is RunStatus.STOPPED_BUDGET
    assert (await store.settle(make.settlement("open", "run", 5, completes=True))).status is (
        RunStatus.STOPPED_BUDGET
    )
    again = replace(end, ends_as="killed")
    assert not (await store.settle(again)).applied
    run = await store.live_run("run")
    assert run is not None
    assert (run["status"], run["reason"]) == ("stopped_budget", "per run")


async def test_a_stopped_run_goes_on_with_its_next_step_unless_it_has_landed(store: Store) -> None:
    await store.resolve(make.lookup("run"))
    await store.admit(make.admission("a", "run"))
    await store.stop_run("run", "stopped_loop", "loops")
    assert isinstance(await store.admit(make.admission("b", "run")), Admitted)
    run = await store.live_run("run")
    assert run is not None
    assert (run["status"], run["reason"], run["landed"]) == ("running", "", 0)
    await store.stop_run("run", "stopped_budget", "no money", ENDING)
    for ordinal in (0, 1, 2):
        answer = await store.admit(make.admission("c", "run", retry_ordinal=ordinal))
        assert isinstance(answer, Denied)
        assert (answer.code, answer.used) == ("run_budget_exceeded", 990)
    await store.stop_run("run", "killed", "by hand", replace(ENDING, used=7))
    answer = await store.admit(make.admission("d", "run"))
    assert isinstance(answer, Denied)
    assert answer.used == 990, "a run lands once"
    await store.stop_run("nobody", "killed", "by hand", ENDING)
    assert await store.live_run("nobody") is None


async def test_waiting_for_a_person_is_no_time_of_the_run(store: Store, clock: Clock) -> None:
    await store.resolve(make.lookup("run"))
    limits = RunLimits(True, max_wall_clock_ms=10_000)
    await store.admit(make.admission("a", "run", limits=limits))
    clock.now += 30_000
    await store.settle(replace(make.settlement("a", "run", 1), waited_ms=20_001))
    assert isinstance(await store.admit(make.admission("b", "run", limits=limits)), Admitted)
    clock.now += 1
    answer = await store.admit(make.admission("c", "run", limits=limits))
    assert isinstance(answer, Denied)
    assert (answer.code, answer.limit, answer.used) == ("run_timeout", 10, 10)


# -- what is kept back --------------------------------------------------------------------------------


async def test_what_is_kept_back_is_there_for_the_landing(store: Store) -> None:
    await store.resolve(make.lookup("run"))
    budget = replace(make.charge("c", 1_000, per="run"), kept_back=300)
    step = make.admission("a", "run", budget, cost=100, output_rate=1.0, tokens=5_000)
    first = await store.admit(step)
    assert isinstance(first, Admitted)
    assert (first.reserved, first.output_tokens, first.run_remaining) == (700, 600, 300)
    assert not await store.extend("a", 1)
    second = await store.admit(replace(step, attempt_id="b"))
    assert isinstance(second, Denied)
    assert (second.limit, second.used, second.need) == (1_000, 700, 100)
    last = replace(step, attempt_id="c", charges=(replace(budget, kept_back=0),), landing=ENDING)
    landed = await store.admit(last)
    assert isinstance(landed, Admitted)
    assert (landed.reserved, landed.run_remaining) == (300, 0)


async def test_a_shadow_budget_keeps_nothing_back(store: Store) -> None:
    await store.resolve(make.lookup("run"))
    budget = replace(make.charge("c", 1_000, enforced=False), kept_back=1_000)
    answer = await store.admit(make.admission("a", "run", budget, cost=1_000))
    assert isinstance(answer, Admitted)
    assert answer.shadow_denied == ()


async def test_a_warning_comes_at_its_share_of_the_whole_limit(store: Store) -> None:
    await store.resolve(make.lookup("run"))
    budget = replace(make.charge("c", 1_000, warn_at=600), kept_back=300)
    first = await store.admit(make.admission("a", "run", budget, cost=599))
    second = await store.admit(make.admission("b", "run", budget, cost=1))
    assert isinstance(first, Admitted)
    assert isinstance(second, Admitted)
    assert (first.warned, second.warned) == ((), ("rule-c",))


# -- money per minute ---------------------------------------------------------------------------------


async def test_money_per_minute_is_reserved_and_corrected(store: Store, clock: Clock) -> None:
    await store.resolve(make.lookup("run"))
    rate = Rate("r", "user", "r", enforced=True, nano_per_minute=1_000)

    def step(attempt: str, cost: int) -> Any:
        return store.admit(
            make.admission(attempt, "run", cost=cost, output_rate=2.0, tokens=50, rates=(rate,))
        )

    assert isinstance(await step("a", 500), Admitted)  # 600 with its output
    denied = await step("b", 301)
    assert isinstance(denied, Denied)
    assert (denied.code, denied.limit, denied.used, denied.need) == ("rate_limit_exceeded", 1_000, 600, 401)
    assert denied.retry_after_ms > 0
    await store.settle(make.settlement("a", "run", 599))
    assert isinstance(await step("c", 301), Admitted)
    await store.settle(replace(make.settlement("c", "run", 100), provisional=True))
    clock.now += MINUTE_MS + MINUTE_MS // 2
    denied = await step("d", 900)
    assert isinstance(denied, Denied)
    assert denied.used == 699 // 2


async def test_much_money_per_minute_is_exact(store: Store, clock: Clock) -> None:
    await store.resolve(make.lookup("run"))
    much = 2**52 + 1
    rate = Rate("r", "user", "r", enforced=True, nano_per_minute=2**53)
    await store.admit(make.admission("a", "run", cost=much, rates=(rate,)))
    clock.now += MINUTE_MS + 12_347
    denied = await store.admit(make.admission("b", "run", cost=2**53, rates=(rate,)))
    assert isinstance(denied, Denied)
    assert denied.used == much * (MINUTE_MS - 12_347) // MINUTE_MS


# -- quotas -------------------------------------------------------------------------------------------


def quota(counter: str, limit: int, amount: int = 1, **fields: Any) -> Quota:
    return replace(
        Quota("rule", "run", counter, limit, amount, enforced=True, window_ms=0, ttl_ms=make.DAY_MS), **fields
    )


async def test_quotas_are_taken_all_or_none(store: Store) -> None:
    shadow = quota("s", 0, enforced=False)
    assert await store.take([quota("a", 5), quota("b", 1), shadow]) == Taken(-1, (0, 0, 0))
    assert await store.take([quota("a", 5), quota("b", 1), shadow]) == Taken(1, (1, 1, 1))
    assert await store.take([shadow, quota("a", 5, 4)]) == Taken(-1, (1, 1))
    assert await store.take([quota("a", 5), quota("b", 1)]) == Taken(0, (5, 1))
    assert await store.take([quota("a", 0, 0), quota("s", 0, 0)]) == Taken(-1, (5, 2)), "nothing asked for"
    assert await store.take([]) == Taken(-1, ())


async def test_quotas_on_one_counter_count_together(store: Store) -> None:
    assert await store.take([quota("a", 2), quota("a", 2), quota("a", 2)]) == Taken(2, (0, 0, 0))
    assert await store.take([quota("a", 2), quota("a", 2)]) == Taken(-1, (0, 0))
    assert (await store.take([quota("a", 2)])).refused == 0


async def test_a_quota_per_minute_slides(store: Store, clock: Clock) -> None:
    per_minute = quota("a", 10, 10, window_ms=MINUTE_MS)
    assert await store.take([per_minute]) == Taken(-1, (0,))
    assert await store.take([replace(per_minute, window_ms=2 * MINUTE_MS)]) == Taken(-1, (0,))
    clock.now += MINUTE_MS + MINUTE_MS // 4
    assert await store.take([replace(per_minute, amount=4)]) == Taken(0, (7,))
    assert await store.take([replace(per_minute, amount=3)]) == Taken(-1, (7,))
    clock.now += MINUTE_MS * 3 // 4
    assert await store.take([replace(per_minute, amount=7)]) == Taken(-1, (3,))
    clock.now += 2 * MINUTE_MS
    assert await store.take([per_minute]) == Taken(-1, (0,))


async def test_a_quota_without_a_window_lives_while_it_is_asked_for(store: Store, clock: Clock) -> None:
    once = quota("a", 1, ttl_ms=1_000)
    assert (await store.take([once])).refused == -1
    for _ in range(3):
        clock.now += 1_000
        assert await store.take([once]) == Taken(0, (1,))
    clock.now += 1_001
    assert await store.take([once]) == Taken(-1, (0,))


async def test_clients_at_once_take_no_more_than_there_is(store: Store) -> None:
    answers = await asyncio.gather(*(store.take([quota("a", 7), quota("b", 100)]) for _ in range(40)))
    assert sum(answer.refused < 0 for answer in answers) == 7
    assert (await store.take([quota("b", 0, 0)])).used == (7,)


# -- breakers -----------------------------------------------------------------------------------------

RULE = BreakerRule(error_rate=0.5, min_calls=4, window_ms=MINUTE_MS, open_ms=10_000, probes=1)


async def report(
    store: Store, ok: int, failed: int, rule: BreakerRule = RULE, source: str = "s"
) -> BreakerState:
    return await store.report("b", rule, source=source, ok=ok, failed=failed)


async def test_a_breaker_opens_probes_and_closes(store: Store, clock: Clock) -> None:
    assert await store.breakers() == []
    assert await store.probe("b", RULE)
    assert await store.breakers(["b"]) == [], "a probe reports nothing"
    assert await report(store, 2, 1) == BreakerState("b", "closed", 2, 1, 0, 0)
    assert await store.probe("b", RULE)
    until = START + 10_000
    opened = BreakerState("b", "open", 2, 2, START, until)
    assert await report(store, 0, 1) == opened
    assert await store.breakers(["a", "b"]) == await store.breakers() == [opened]
    assert not await store.probe("b", RULE)
    clock.now = until - 1
    assert not await store.probe("b", RULE)
    clock.now = until
    assert [s.state for s in await store.breakers()] == ["half_open"]
    assert await store.probe("b", RULE)
    assert not await store.probe("b", RULE)
    assert await report(store, 1, 0) == BreakerState("b", "closed", 0, 0, 0, 0)
    assert await store.probe("b", RULE)


async def test_a_probe_that_fails_opens_again(store: Store, clock: Clock) -> None:
    await report(store, 0, 4)
    clock.now += 10_000
    assert await store.probe("b", RULE)
    clock.now += 5_000
    state = await report(store, 3, 1)
    assert (state.state, state.opened_at, state.until) == ("open", START + 15_000, START + 25_000)
    clock.now += 9_999
    assert not await store.probe("b", RULE)
    clock.now += 1
    assert await store.probe("b", RULE)


async def test_late_reports_do_not_decide_for_an_open_breaker(store: Store, clock: Clock) -> None:
    await report(store, 0, 4)
    assert await report(store, 9, 0) == BreakerState("b", "open", 9, 4, START, START + 10_000)
    clock.now += 10_000
    assert (await report(store, 0, 1)).state == "half_open", "no probe is out"
    assert await store.probe("b", RULE)


async def test_as_many_probes_as_the_rule_says_have_to_succeed(store: Store, clock: Clock) -> None:
    rule = replace(RULE, probes=3)
    await report(store, 0, 4, rule)
    clock.now += 10_000
    assert [await store.probe("b", rule) for _ in range(4)] == [True, True, True, False]
    assert [(await report(store, 1, 0, rule)).state for _ in range(3)] == ["half_open", "half_open", "closed"]


async def test_a_probe_that_nobody_reports_on_is_free_again(store: Store, clock: Clock) -> None:
    await report(store, 0, 4)
    clock.now += 10_000
    assert await store.probe("b", RULE)
    clock.now += 9_999
    assert not await store.probe("b", RULE)
    clock.now += 1
    assert await store.probe("b", RULE)


async def test_clients_at_once_get_exactly_as_many_probes(store: Store, clock: Clock) -> None:
    rule = replace(RULE, probes=3)
    await report(store, 0, 4, rule)
    clock.now += 10_000
    assert sum(await asyncio.gather(*(store.probe("b", rule) for _ in range(8)))) == 3


async def test_failures_have_to_come_from_enough_sources(store: Store) -> None:
    rule = replace(RULE, min_sources=2)
    assert (await report(store, 0, 50, rule, "a")).state == "closed"
    assert (await report(store, 1, 0, rule, "b")).state == "closed", "who saw a success is no source"
    assert (await report(store, 0, 1, rule, "\ud800")).state == "open"


async def test_more_sources_than_are_kept_can_still_open(store: Store) -> None:
    rule = replace(RULE, min_sources=BREAKER_SOURCES + 5)
    states = [(await report(store, 0, 1, rule, f"s{n}")).state for n in range(BREAKER_SOURCES)]
    assert states == [*["closed"] * (BREAKER_SOURCES - 1), "open"]


async def test_old_failures_fade_with_their_window(store: Store, clock: Clock) -> None:
    assert (await report(store, 1, 2)).state == "closed"
    clock.now += MINUTE_MS + MINUTE_MS // 2
    assert [(s.ok, s.failed) for s in await store.breakers()] == [(0, 1)]
    assert await report(store, 0, 2) == BreakerState("b", "closed", 0, 3, 0, 0)
    clock.now += MINUTE_MS // 2 + MINUTE_MS
    assert [(s.ok, s.failed) for s in await store.breakers()] == [(0, 0)]
    assert await report(store, 0, 3) == BreakerState("b", "closed", 0, 3, 0, 0)


async def test_what_only_fails_is_dead_however_much_went_well_before(store: Store, clock: Clock) -> None:
    rule = replace(RULE, dead_after_ms=2_000)
    await report(store, 5_000, 0, rule)
    clock.now += 100
    assert (await report(store, 0, 500, rule)).state == "closed", "it may be a moment's fault"
    clock.now += 1_999
    assert (await report(store, 0, 1, rule)).state == "closed"
    clock.now += 1
    assert (await report(store, 0, 1, rule)).state == "open"
    clock.now += 10_000
    assert await store.probe("b", rule)
    assert (await report(store, 1, 0, rule)).state == "closed"
    clock.now += 2_000
    assert (await report(store, 0, 3, rule)).state == "closed", "too few since it was closed"


async def test_one_success_in_between_and_it_is_not_dead(store: Store, clock: Clock) -> None:
    rule = replace(RULE, dead_after_ms=2_000)
    await report(store, 5_000, 0, rule)
    for _ in range(4):
        await report(store, 0, 100, rule)
        clock.now += 1_900
        assert (await report(store, 1, 100, rule)).state == "closed"
        clock.now += 1_900


async def test_what_is_seldom_called_is_not_dead_for_failing_now_and_then(store: Store, clock: Clock) -> None:
    rule = replace(RULE, dead_after_ms=2_000)
    for _ in range(20):
        assert (await report(store, 0, 1, rule)).state == "closed"
        clock.now += MINUTE_MS // 2


async def test_without_dead_after_only_the_share_counts(store: Store, clock: Clock) -> None:
    await report(store, 5_000, 0)
    await report(store, 0, 1_000)
    clock.now += 30_000
    assert (await report(store, 0, 1_000)).state == "closed"


async def test_a_breaker_is_reset_by_hand_and_forgotten_after_a_day(store: Store, clock: Clock) -> None:
    assert not await store.reset_breaker("b")
    await report(store, 0, 4)
    assert await store.reset_breaker("b")
    assert await store.breakers() == []
    assert await store.probe("b", RULE)
    await report(store, 0, 4)
    clock.now += 10_000 + make.DAY_MS
    assert len(await store.breakers()) == 1
    clock.now += 1
    assert await store.breakers() == await store.breakers(["b"]) == []
    assert await store.probe("b", RULE)
    assert not await store.reset_breaker("b")


async def test_the_breaker_unused_for_longest_makes_room(store: Store, clock: Clock) -> None:
    async def used(*numbers: int) -> None:
        for batch in (numbers[i : i + 256] for i in range(0, len(numbers), 256)):
            reports = (store.report(f"b{n:04}", RULE, source="s", ok=1, failed=0) for n in batch)
            await asyncio.gather(*reports)

    await used(*range(BREAKER_MEMORY))
    clock.now += 1
    await used(0)
    await used(BREAKER_MEMORY, BREAKER_MEMORY + 1)
    left = [f"b{n:04}" for n in (0, *range(3, BREAKER_MEMORY + 2))]
    assert [s.key for s in await store.breakers()] == left
    # Those that are past remembering go first, all of them.
    clock.now += 10 * make.DAY_MS
    await used(9)
    assert [s.key for s in await store.breakers()] == ["b0009"]


# -- baselines ----------------------------------------------------------------------------------------


async def test_a_baseline_is_the_mean_and_variance_of_what_was_seen(store: Store) -> None:
    assert await store.baseline("agent") is None
    seen = [4.0, 7.0, 13.0, 16.0, 1e-9]
    for value in seen:
        baseline = await store.observe("agent", {"steps": value}, 1.0)
    mean = math.fsum(seen) / 5
    assert baseline.runs == 5.0
    assert baseline.mean["steps"] == pytest.approx(mean)
    assert baseline.variance["steps"] == pytest.approx(math.fsum((v - mean) ** 2 for v in seen) / 5)
    assert await store.baseline("agent") == baseline


async def test_old_runs_count_less(store: Store) -> None:
    for value in (10.0, 20.0, 40.0):
        baseline = await store.observe("agent", {"usd": value}, 0.5)
    weights = (0.25, 0.5, 1.0)
    mean = (10 * weights[0] + 20 * weights[1] + 40) / 1.75
    spread = sum(w * (v - mean) ** 2 for w, v in zip(weights, (10, 20, 40), strict=True)) / 1.75
    assert baseline.runs == 1.75
    assert baseline.mean["usd"] == pytest.approx(mean)
    assert baseline.variance["usd"] == pytest.approx(spread)


async def test_a_figure_that_is_not_told_keeps_what_is_known(store: Store) -> None:
    await store.observe("agent", {"a": 1.0, "b": 2.0}, 0.5)
    assert await store.observe("agent", {"b": 4.0}, 1.0) == Baseline(
        2.0, {"a": 1.0, "b": 3.0}, {"a": 0.0, "b": 1.0}
    )


async def test_figures_that_are_no_figures_are_left_out(store: Store) -> None:
    bad = {"nan": math.nan, "inf": math.inf, "negative": -1.0, "good": 3.0}
    assert await store.observe("agent", bad, 0.9) == Baseline(1.0, {"good": 3.0}, {"good": 0.0})
    many = await store.observe("many", {f"f{n}": 1.7e308 for n in range(40)}, 0.9)
    assert len(many.mean) == MAX_FIGURES
    more = await store.observe("many", {"new": 1.0, "f0": 0.0}, 0.9)
    assert len(more.mean) == MAX_FIGURES
    assert all(math.isfinite(figure) for figure in (*more.mean.values(), *more.variance.values()))


async def test_a_baseline_is_forgotten_when_its_agent_is(store: Store, clock: Clock) -> None:
    await store.observe("agent", {"steps": 1.0}, 0.9)
    clock.now += 45 * make.DAY_MS
    assert await store.baseline("agent") is not None
    clock.now += 1
    assert await store.baseline("agent") is None


# -- pauses -------------------------------------------------------------------------------------------


async def test_a_run_tells_how_long_it_has_waited(store: Store, clock: Clock) -> None:
    view = await opened(store, "r1", session="s1", name_key="n1", name="one")
    assert view.idle_ms == 0
    clock.now += 500
    await store.admit(make.admission("a1", "r1"))
    clock.now += 2_000
    during = await store.resolve(lookup("r2", session="s1", name_key="n1", name="one"))
    assert (during.run_id, during.idle_ms) == ("r1", 2_000)
    await store.settle(make.settlement("a1", "r1", 1))
    clock.now += 31_000
    after = await store.resolve(lookup("r3", session="s1", name_key="n1", name="one"))
    assert (after.run_id, after.idle_ms) == ("r1", 31_000)
    clock.now += 1_000
    assert (await store.resolve(lookup("r4", session="s1", name_key="n1", name="one"))).idle_ms == 32_000
