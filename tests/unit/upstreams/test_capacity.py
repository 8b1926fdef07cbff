"""Slots of providers, the queue before them, and what replies tell of rate limits."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.errors import GatewayError, retry_headers
from gateway.upstreams import capacity as module
from gateway.upstreams.capacity import (
    PRIORITIES,
    CallerGone,
    Capacity,
    Overloaded,
    Priority,
    Slot,
    priority_of,
)
from tests.support.effort import Effort, least_effort


@dataclass(frozen=True)
class Waiting:
    size: int = 100
    wait_s: float = 10.0


@dataclass(frozen=True)
class Provider:
    max_concurrency: int | None = 1
    queue: Waiting = Waiting()


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def settle() -> None:
    """Let everything happen that needs no time."""
    for _ in range(5):
        await asyncio.sleep(0)


@dataclass
class Callers:
    """Callers of one provider, by name, and in which order they got their slots."""

    capacity: Capacity
    limits: Provider = Provider()
    provider: str = "p"
    tasks: dict[str, asyncio.Task[Slot]] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)

    async def come(
        self,
        name: str,
        *,
        owner: str | None = None,
        priority: Priority = "normal",
        left: Callable[[], bool] | None = None,
    ) -> asyncio.Task[Slot]:
        async def ask() -> Slot:
            slot = await self.capacity.acquire(
                self.provider, self.limits, owner=owner or name[0], priority=priority, left=left
            )
            self.served.append(name)
            return slot

        task = self.tasks[name] = asyncio.create_task(ask())
        # An exception that nobody has seen is logged with its traceback whenever the task is collected, which
        # CPython 3.11 does not survive in the middle of parsing a source.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await settle()
        return task

    async def end(self, name: str) -> None:
        self.tasks[name].result().release()
        await settle()

    async def drain(self) -> list[str]:
        """End one call after the other until nobody waits; in which order they were served from now on."""
        begun = len(self.served)
        ended = 0
        while ended < len(self.served):
            await self.end(self.served[ended])
            ended += 1
        return self.served[begun:]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def capacity(clock: Clock) -> Capacity:
    return Capacity(clock)


@asynccontextmanager
async def empty_after(capacity: Capacity, provider: str = "p") -> AsyncIterator[None]:
    """Nothing is held, and nobody waits, when the block is over."""
    yield
    await settle()
    assert (capacity.busy(provider), capacity.waiting(provider)) == (0, 0)


# Slots


async def test_a_provider_without_a_limit_only_counts(capacity: Capacity) -> None:
    limits = Provider(None)
    slots = [await capacity.acquire("p", limits, owner="a") for _ in range(50)]
    assert (capacity.busy("p"), capacity.waiting("p")) == (50, 0)
    assert {slot.waited_ms for slot in slots} == {0}
    for slot in slots:
        slot.release()
    assert capacity.busy("p") == 0


async def test_a_slot_is_released_once_however_often_it_is_given_back(capacity: Capacity) -> None:
    first = await capacity.acquire("p", Provider(2), owner="a")
    await capacity.acquire("p", Provider(2), owner="a")
    first.release()
    first.release()
    first.release()
    assert capacity.busy("p") == 1


async def test_a_block_gives_its_slot_back_whatever_ends_it(capacity: Capacity) -> None:
    async with capacity.slot("p", Provider(), owner="a") as slot:
        assert (capacity.busy("p"), slot.waited_ms) == (1, 0)
    assert capacity.busy("p") == 0
    with pytest.raises(ZeroDivisionError):
        async with capacity.slot("p", Provider(), owner="a"):
            raise ZeroDivisionError
    assert capacity.busy("p") == 0

    async def hold() -> None:
        async with capacity.slot("p", Provider(), owner="a"):
            await asyncio.sleep(60)

    task = asyncio.create_task(hold())
    await settle()
    assert capacity.busy("p") == 1
    task.cancel()
    await settle()
    assert capacity.busy("p") == 0


async def test_a_block_may_give_its_slot_back_early(capacity: Capacity) -> None:
    async with capacity.slot("p", Provider(), owner="a") as slot:
        slot.release()
        assert capacity.busy("p") == 0
        other = await capacity.acquire("p", Provider(), owner="b")
    assert capacity.busy("p") == 1
    other.release()


async def test_who_waits_gets_the_slot_that_comes_free_and_learns_how_long_it_was(
    capacity: Capacity, clock: Clock
) -> None:
    callers = Callers(capacity)
    await callers.come("a1")
    waiting = await callers.come("b1")
    assert (capacity.busy("p"), capacity.waiting("p"), waiting.done()) == (1, 1, False)
    clock.now += 0.25
    await callers.end("a1")
    assert waiting.result().waited_ms == 250
    assert (capacity.busy("p"), capacity.waiting("p")) == (1, 0)
    async with empty_after(capacity):
        waiting.result().release()


async def test_a_slot_that_is_handed_over_is_not_taken_by_a_newcomer_in_between(capacity: Capacity) -> None:
    callers = Callers(capacity)
    first = await callers.come("a1")
    waiting = await callers.come("b1")
    first.result().release()
    # Nobody has run since: the one who waited has the slot already.
    newcomer = asyncio.create_task(capacity.acquire("p", Provider(), owner="c"))
    await settle()
    assert (waiting.done(), newcomer.done()) == (True, False)
    newcomer.cancel()


async def test_no_provider_waits_for_another(capacity: Capacity) -> None:
    stuck = Callers(capacity, provider="stuck")
    await stuck.come("a1")
    for number in range(20):
        await stuck.come(f"b{number}")
    async with empty_after(capacity, "free"), capacity.slot("free", Provider(), owner="b") as slot:
        assert slot.waited_ms == 0
    assert capacity.waiting("stuck") == 20
    for task in stuck.tasks.values():
        task.cancel()


# Whose turn it is


async def test_high_comes_before_normal_before_low(capacity: Capacity) -> None:
    callers = Callers(capacity)
    await callers.come("x")
    for name, priority in (("a", "low"), ("b", "normal"), ("c", "high"), ("d", "low"), ("e", "high")):
        await callers.come(name, priority=priority)  # type: ignore[arg-type]
    assert await callers.drain() == ["c", "e", "b", "a", "d"]


async def test_owners_take_turns_whatever_the_number_of_their_requests(capacity: Capacity) -> None:
    callers = Callers(capacity)
    await callers.come("x1")
    for number in range(1, 6):
        await callers.come(f"a{number}")
    await callers.come("b1")
    await callers.come("b2")
    await callers.come("c1")
    assert await callers.drain() == ["a1", "b1", "c1", "a2", "b2", "a3", "a4", "a5"]


async def test_a_thousand_requests_of_one_key_delay_another_by_one_turn(capacity: Capacity) -> None:
    callers = Callers(capacity, Provider(1, Waiting(2000)))
    first = await capacity.acquire("p", callers.limits, owner="flood")
    flood = [asyncio.create_task(capacity.acquire("p", callers.limits, owner="flood")) for _ in range(1000)]
    await settle()
    other = await callers.come("o1")
    first.release()
    await settle()
    assert sum(task.done() for task in flood) == 1
    assert not other.done()
    flood[0].result().release()
    await settle()
    assert other.done()
    for task in flood[1:]:
        task.cancel()


async def test_a_lower_priority_gets_every_so_many_turns(capacity: Capacity) -> None:
    callers = Callers(capacity)
    await callers.come("x")
    for number in range(3):
        await callers.come(f"l{number}", priority="low")
    for number in range(3):
        await callers.come(f"n{number}", priority="normal")
    for number in range(40):
        await callers.come(f"h{number:02}", priority="high")
    served = "".join(name[0] for name in await callers.drain())
    assert served == "hhhhhhhhnl" * 3 + "h" * 16


async def test_a_flood_of_high_priority_leaves_no_place_for_the_low_but_one(capacity: Capacity) -> None:
    callers = Callers(capacity, Provider(1, Waiting(4)))
    await callers.come("x")
    low = [await callers.come(f"l{number}", priority="low") for number in range(4)]
    high = [await callers.come(f"h{number}", owner=f"h{number}", priority="high") for number in range(5)]
    # The newest lose their places first, and the last of them keeps its own.
    assert [task.done() for task in low] == [False, True, True, True]
    assert [task.done() for task in high] == [False, False, False, True, True]
    assert "queue for it is full" in str(low[3].exception())
    assert isinstance(high[4].exception(), Overloaded)
    assert await callers.drain() == ["h0", "h1", "h2", "l0"]


async def test_a_low_newcomer_gets_one_place_of_a_full_queue_of_high_ones(capacity: Capacity) -> None:
    callers = Callers(capacity, Provider(1, Waiting(3)))
    await callers.come("x")
    high = [await callers.come(f"h{number}", priority="high") for number in range(3)]
    low = [await callers.come(f"l{number}", priority="low") for number in range(2)]
    assert [task.done() for task in high] == [False, False, True]
    assert [task.done() for task in low] == [False, True]
    assert await callers.drain() == ["h0", "h1", "l0"]


async def test_the_only_place_belongs_to_the_higher_priority(capacity: Capacity) -> None:
    callers = Callers(capacity, Provider(1, Waiting(1)))
    await callers.come("x")
    low = await callers.come("l0", priority="low")
    high = await callers.come("h0", priority="high")
    assert isinstance(low.exception(), Overloaded)
    assert isinstance((await callers.come("l1", priority="low")).exception(), Overloaded)
    assert isinstance((await callers.come("h1", priority="high")).exception(), Overloaded)
    assert not high.done()
    assert await callers.drain() == ["h0"]


async def test_a_full_queue_makes_room_for_an_owner_who_has_less_of_it(capacity: Capacity) -> None:
    callers = Callers(capacity, Provider(1, Waiting(4)))
    await callers.come("x")
    flood = [await callers.come(f"a{number}") for number in range(6)]
    assert [task.done() for task in flood] == [False] * 4 + [True] * 2
    others = [await callers.come(name) for name in ("b0", "b1", "b2", "c0")]
    # a has two and b two when b asks for a third, and has more than c when that comes.
    assert [task.done() for task in others] == [False, False, True, False]
    assert sum(task.done() for task in flood) == 5
    assert await callers.drain() == ["a0", "b0", "c0", "b1"]


# What is refused


async def test_a_full_queue_refuses_at_once_in_the_words_of_the_contract(capacity: Capacity) -> None:
    limits = Provider(2, Waiting(1))
    callers = Callers(capacity, limits)
    for name in ("a0", "a1", "b0"):
        await callers.come(name)
    error = (await callers.come("b1")).exception()
    assert isinstance(error, GatewayError)
    assert isinstance(error, Overloaded)
    assert (error.code, error.status, error.retry, error.reason) == (
        "concurrency_limit_exceeded",
        429,
        "soon",
        "full",
    )
    assert error.message == "Calls to provider 'p' are limited to 2 at a time, and the queue for it is full."
    assert retry_headers(error) == [(b"retry-after", b"1"), (b"retry-after-ms", b"1000")]
    assert await callers.drain() == ["b0"]


async def test_a_queue_of_no_size_refuses_everyone_beyond_the_limit(capacity: Capacity) -> None:
    callers = Callers(capacity, Provider(1, Waiting(0)))
    await callers.come("a0")
    assert isinstance((await callers.come("b0", priority="high")).exception(), Overloaded)
    await callers.end("a0")
    assert (await callers.come("b1")).done()


async def history(capacity: Capacity, clock: Clock, limits: Provider, *lengths: float) -> None:
    for seconds in lengths:
        slot = await capacity.acquire("p", limits, owner="past")
        clock.now += seconds
        slot.release()


async def test_who_would_wait_too_long_is_told_at_once_and_for_how_long(
    capacity: Capacity, clock: Clock
) -> None:
    limits = Provider(2, Waiting(100, 10.0))
    await history(capacity, clock, limits, *[4.0] * 8)
    callers = Callers(capacity, limits)
    for number in range(2):
        await callers.come(f"x{number}")
    # Two calls of four seconds at a time: each place costs two seconds.
    waiting = [await callers.come(f"{letter}0") for letter in "abcde"]
    assert not any(task.done() for task in waiting)
    error = (await callers.come("f0")).exception()
    assert isinstance(error, Overloaded)
    assert (error.reason, error.retry_after_s) == ("slow", 10.0)
    assert (
        error.message
        == "Calls to provider 'p' are limited to 2 at a time, and the wait for it would be longer than 10 s."
    )
    assert len(await callers.drain()) == 5


async def test_the_expected_wait_is_that_of_the_callers_own_turn(capacity: Capacity, clock: Clock) -> None:
    limits = Provider(1, Waiting(100, 3.5))
    await history(capacity, clock, limits, *[1.0] * 8)
    callers = Callers(capacity, limits)
    await callers.come("x0")
    for number in range(3):
        await callers.come(f"a{number}")
    # The same owner would be fourth, another is second, and one of higher priority first.
    assert isinstance((await callers.come("a3")).exception(), Overloaded)
    assert not (await callers.come("b0")).done()
    assert not (await callers.come("c0", priority="high")).done()
    assert isinstance((await callers.come("d0", priority="low")).exception(), Overloaded)
    assert await callers.drain() == ["c0", "a0", "b0", "a1", "a2"]


async def test_the_retry_after_of_a_full_queue_is_the_expected_wait(capacity: Capacity, clock: Clock) -> None:
    limits = Provider(4, Waiting(1, 10.0))
    await history(capacity, clock, limits, *[3.0] * 8)
    callers = Callers(capacity, limits)
    for number in range(5):
        await callers.come(f"a{number}")
    error = (await callers.come("a5")).exception()
    assert isinstance(error, Overloaded)
    assert error.reason == "full"
    assert error.retry_after_s == pytest.approx(1.5)
    assert len(await callers.drain()) == 1


async def test_a_few_calls_do_not_say_how_long_others_take(capacity: Capacity, clock: Clock) -> None:
    limits = Provider(1, Waiting(100, 1.0))
    await history(capacity, clock, limits, *[60.0] * (module.MIN_SEEN - 1))
    callers = Callers(capacity, limits)
    await callers.come("x0")
    assert not (await callers.come("a0")).done()
    await callers.drain()


async def test_a_provider_that_has_stalled_is_known_to_be_slow_though_no_call_has_ended(
    capacity: Capacity, clock: Clock
) -> None:
    limits = Provider(2, Waiting(100, 5.0))
    callers = Callers(capacity, limits)
    await callers.come("x0")
    await callers.come("x1")
    clock.now += 8.0
    assert not (await callers.come("a0")).done()
    # Both have taken eight seconds at least, so the second in the queue waits for eight.
    error = (await callers.come("b0")).exception()
    assert isinstance(error, Overloaded)
    assert error.reason == "slow"
    assert error.retry_after_s == pytest.approx(8.0)
    await callers.drain()


async def test_the_usual_length_follows_the_latest_calls(capacity: Capacity, clock: Clock) -> None:
    limits = Provider(1, Waiting(100, 1.0))
    await history(capacity, clock, limits, *[30.0] * 10)
    callers = Callers(capacity, limits)
    await callers.come("x0")
    assert isinstance((await callers.come("a0")).exception(), Overloaded)
    await callers.end("x0")
    await history(capacity, clock, limits, *[0.01] * 40)
    await callers.come("x1")
    assert not (await callers.come("a1")).done()
    await callers.end("x1")


async def test_nobody_waits_longer_than_the_queue_allows() -> None:
    capacity = Capacity()
    limits = Provider(1, Waiting(10, 0.05))
    held = await capacity.acquire("p", limits, owner="a")
    began = time.monotonic()
    with pytest.raises(Overloaded) as raised:
        await capacity.acquire("p", limits, owner="b")
    assert 0.04 <= time.monotonic() - began < 2
    assert raised.value.reason == "waited"
    assert raised.value.message == (
        "Calls to provider 'p' are limited to 1 at a time, and none of them ended for this one within 0.05 s."
    )
    assert (capacity.busy("p"), capacity.waiting("p")) == (1, 0)
    held.release()
    assert capacity.busy("p") == 0


@given(
    owners=st.lists(st.sampled_from("abcd"), max_size=25),
    newcomer=st.sampled_from("abcde"),
    turns=st.integers(0, 6),
)
@settings(max_examples=100, deadline=None)
def test_the_place_that_the_expected_wait_is_of_is_at_most_a_round_too_late(
    owners: list[str], newcomer: str, turns: int
) -> None:
    async def places() -> tuple[int, int, int]:
        capacity = Capacity(Clock())
        callers = Callers(capacity, Provider(1, Waiting(1000)))
        await callers.come("x")
        for number, owner in enumerate(owners):
            await callers.come(f"{owner}{number}")
        for _ in range(min(turns, len(owners))):
            await callers.end(callers.served[-1])
        lane = capacity._lines["p"].lanes["normal"]
        told, round_ = lane.ahead(newcomer), len(lane.owners)
        await callers.come("new", owner=newcomer)
        before = len(callers.served)
        while callers.served[-1] != "new":
            await callers.end(callers.served[-1])
        return told, len(callers.served) - before - 1, round_

    told, found, round_ = asyncio.run(places())
    assert found <= told <= found + round_


# Limits that change


async def test_a_higher_limit_lets_those_in_who_wait(capacity: Capacity) -> None:
    callers = Callers(capacity, Provider(1))
    for name in ("a0", "b0", "c0", "d0"):
        await callers.come(name)
    callers.limits = Provider(3)
    await callers.come("e0")
    assert callers.served == ["a0", "b0", "c0"]
    assert (capacity.busy("p"), capacity.waiting("p")) == (3, 2)
    callers.limits = Provider(None)
    await callers.come("f0")
    assert (capacity.busy("p"), capacity.waiting("p")) == (6, 0)


async def test_a_lower_limit_waits_for_calls_to_end(capacity: Capacity) -> None:
    callers = Callers(capacity, Provider(None))
    for name in ("a0", "b0", "c0"):
        await callers.come(name)
    callers.limits = Provider(1)
    waiting = await callers.come("d0")
    await callers.end("a0")
    await callers.end("b0")
    assert not waiting.done()
    await callers.end("c0")
    assert waiting.done()
    assert capacity.busy("p") == 1


async def test_a_new_policy_reaches_those_who_wait_while_nobody_comes_or_goes(capacity: Capacity) -> None:
    callers = Callers(capacity, Provider(1))
    await callers.come("a0")
    waiting = await callers.come("b0")
    async with capacity.slot("idle", Provider(), owner="a"):
        pass
    capacity.renew({"p": Provider(2)})
    await settle()
    assert waiting.done()
    capacity.renew({})
    assert set(capacity._lines) == {"p"}, "a provider that still has calls is not forgotten"
    await callers.end("a0")
    await callers.end("b0")
    capacity.renew({})
    assert capacity._lines == {}


async def test_a_queue_that_became_smaller_takes_in_only_whom_it_has_a_place_for(capacity: Capacity) -> None:
    callers = Callers(capacity, Provider(1, Waiting(10)))
    for number in range(6):
        await callers.come(f"a{number}")
    callers.limits = Provider(1, Waiting(2))
    assert isinstance((await callers.come("a9")).exception(), Overloaded)
    # One of another owner takes the place of the greediest, and the rest stay.
    assert not (await callers.come("b0")).done()
    assert capacity.waiting("p") == 5
    callers.limits = Provider(1, Waiting(0))
    assert isinstance((await callers.come("c0")).exception(), Overloaded)
    assert len(await callers.drain()) == 5


# Callers who leave


async def test_who_leaves_the_queue_is_gone_at_once(capacity: Capacity) -> None:
    callers = Callers(capacity)
    await callers.come("a0")
    leaver, stayer = await callers.come("b0"), await callers.come("c0")
    leaver.cancel()
    await settle()
    assert leaver.cancelled()
    assert capacity.waiting("p") == 1
    await callers.end("a0")
    assert stayer.done()


async def test_who_is_cancelled_in_the_moment_of_its_turn_hands_the_slot_on(capacity: Capacity) -> None:
    callers = Callers(capacity)
    await callers.come("a0")
    leaver, stayer = await callers.come("b0"), await callers.come("c0")
    callers.tasks["a0"].result().release()
    leaver.cancel()
    await settle()
    assert leaver.cancelled()
    assert stayer.done()
    assert (capacity.busy("p"), capacity.waiting("p")) == (1, 0)


async def test_a_slot_that_comes_free_in_the_moment_of_a_cancellation_goes_to_the_next(
    capacity: Capacity,
) -> None:
    callers = Callers(capacity)
    await callers.come("a0")
    leaver, stayer = await callers.come("b0"), await callers.come("c0")
    leaver.cancel()
    callers.tasks["a0"].result().release()
    await settle()
    assert leaver.cancelled()
    assert stayer.done()
    assert (capacity.busy("p"), capacity.waiting("p")) == (1, 0)


async def test_who_has_left_gets_no_slot_when_it_is_its_turn(capacity: Capacity) -> None:
    callers = Callers(capacity)
    gone: set[str] = set()
    await callers.come("a0")
    leaver = await callers.come("b0", left=lambda: "b0" in gone)
    stayer = await callers.come("c0", left=lambda: "c0" in gone)
    gone.add("b0")
    await callers.end("a0")
    assert isinstance(leaver.exception(), CallerGone)
    assert stayer.done()
    assert capacity.busy("p") == 1
    assert isinstance((await callers.come("d0", left=lambda: True)).exception(), CallerGone)
    await callers.end("c0")
    assert isinstance((await callers.come("d1", left=lambda: True)).exception(), CallerGone)
    assert capacity.busy("p") == 0


async def test_a_wait_that_is_over_leaves_no_timer_behind(capacity: Capacity) -> None:
    callers = Callers(capacity)
    await callers.come("a0")
    await callers.come("b0")
    (await callers.come("c0")).cancel()
    await callers.drain()
    timers: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    assert all(timer.cancelled() for timer in timers if "_give_up" in repr(timer))


async def test_a_wait_with_a_time_limit_of_its_own_leaks_nothing(capacity: Capacity) -> None:
    held = await capacity.acquire("p", Provider(), owner="a")
    async with empty_after(capacity):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await capacity.acquire("p", Provider(), owner="b")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(capacity.acquire("p", Provider(), owner="b"), 0.01)
        held.release()


async def test_a_refusal_that_nobody_reads_any_more_is_not_reported_as_lost(capacity: Capacity) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    callers = Callers(capacity, Provider(1, Waiting(1)))
    await callers.come("x0")
    low = await callers.come("l0", priority="low")
    high = asyncio.create_task(capacity.acquire("p", callers.limits, owner="h", priority="high"))
    await asyncio.sleep(0)
    # The refusal is on its way when the caller is cancelled.
    low.cancel()
    await settle()
    assert low.cancelled()
    high.cancel()
    await settle()
    callers.tasks.clear()
    del low, high
    gc.collect()
    assert reported == []


@pytest.mark.parametrize("seed", range(20))
async def test_cancellations_at_every_point_leak_nothing(seed: int) -> None:
    """Callers that come, hold, wait, leave, time out and are cancelled in any order of the event loop's turns."""
    chance = random.Random(seed)
    capacity = Capacity()
    limits = Provider(3, Waiting(12, 0.02))
    inside = most = 0

    async def call(number: int) -> None:
        nonlocal inside, most
        async with capacity.slot(
            "p",
            limits,
            owner=f"o{number % 4}",
            priority=chance.choice(PRIORITIES),
            left=(lambda: chance.random() < 0.1) if number % 3 else None,
        ):
            inside += 1
            most = max(most, inside)
            try:
                for _ in range(chance.randrange(6)):
                    await asyncio.sleep(0 if chance.random() < 0.9 else 0.001)
            finally:
                inside -= 1

    tasks: list[asyncio.Task[None]] = []
    for number in range(300):
        tasks.append(asyncio.create_task(call(number)))
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        for task in chance.sample(tasks, min(len(tasks), chance.randrange(3))):
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert 1 <= most <= 3
    assert inside == 0
    assert (capacity.busy("p"), capacity.waiting("p")) == (0, 0)
    assert all(not lane.owners and not lane.size for lane in capacity._lines["p"].lanes.values())
    kinds = {type(task.exception()) for task in tasks if not task.cancelled()}
    assert kinds <= {type(None), Overloaded, CallerGone}


async def test_an_abandoned_coroutine_gives_its_slot_back(capacity: Capacity) -> None:
    held = await capacity.acquire("p", Provider(), owner="a")
    waiting = capacity.acquire("p", Provider(), owner="b")
    waiting.send(None)
    assert capacity.waiting("p") == 1
    held.release()
    assert capacity.busy("p") == 1, "it is the waiting one's now"
    waiting.close()
    assert (capacity.busy("p"), capacity.waiting("p")) == (0, 0)


# Many


async def test_a_thousand_callers_are_all_served_in_turn(capacity: Capacity) -> None:
    limits = Provider(10, Waiting(2000, 30.0))
    most = 0
    order: list[int] = []

    async def call(number: int) -> None:
        nonlocal most
        async with capacity.slot("p", limits, owner=f"o{number % 50}"):
            most = max(most, capacity.busy("p"))
            order.append(number)
            await asyncio.sleep(0)

    with Effort() as effort:
        async with asyncio.TaskGroup() as group:
            for number in range(1000):
                group.create_task(call(number))
    print(f"1,000 callers through 10 slots: {effort.seconds / 1000 * 1e6:.1f} µs each")
    assert most == 10
    assert sorted(order) == list(range(1000))
    assert (capacity.busy("p"), capacity.waiting("p")) == (0, 0)
    assert effort.seconds < 1.0


async def test_a_refusal_by_a_full_queue_is_cheap(capacity: Capacity) -> None:
    limits = Provider(1, Waiting(1000))
    await capacity.acquire("p", limits, owner="x")
    waiting = [
        asyncio.create_task(capacity.acquire("p", limits, owner=f"o{number}")) for number in range(1000)
    ]
    await settle()

    with Effort() as effort:
        for _ in range(1000):
            with pytest.raises(Overloaded):
                await capacity.acquire("p", limits, owner="o0")
    print(f"a refusal by a full queue of 1,000 owners: {effort.seconds / 1000 * 1e6:.1f} µs")
    assert effort.seconds / 1000 < 100e-6
    for task in waiting:
        task.cancel()


def test_a_slot_without_waiting_costs_little() -> None:
    capacity = Capacity()
    limits = Provider(100)

    async def explicit() -> None:
        for _ in range(10_000):
            (await capacity.acquire("p", limits, owner="a")).release()

    async def block() -> None:
        for _ in range(10_000):
            async with capacity.slot("p", limits, owner="a"):
                pass

    for name, work in (("acquire and release", explicit), ("a block", block)):
        cost = least_effort(lambda work=work: asyncio.run(work()), 3) / 10_000  # type: ignore[misc]
        print(f"{name}: {cost * 1e6:.2f} µs")
        assert cost < 20e-6


def test_reading_a_reply_costs_little() -> None:
    capacity = Capacity()
    replies = [
        [(f"x-header-{number}".encode(), b"value") for number in range(14)]
        + [
            (b"x-ratelimit-limit-requests", b"10000"),
            (b"x-ratelimit-remaining-requests", b"9999"),
            (b"x-ratelimit-reset-requests", b"6ms"),
            (b"x-ratelimit-limit-tokens", b"2000000"),
            (b"x-ratelimit-remaining-tokens", b"1999990"),
            (b"x-ratelimit-reset-tokens", b"0s"),
        ]
    ]

    def work() -> None:
        for _ in range(5000):
            for headers in replies:
                capacity.learn("p", "m", 200, headers, 0.0)
                capacity.pause("p", "m", 0.0)

    cost = least_effort(work) / 5000
    print(f"learn and pause: {cost * 1e6:.2f} µs")
    assert cost < 50e-6


# The queue against a simple model of it


@dataclass
class ModelWaiter:
    id: int
    owner: str
    priority: Priority


class ModelQueue:
    """The rules of the queue said with plain lists. Lists of waiters are in order of arrival."""

    def __init__(self) -> None:
        self.waiting: list[ModelWaiter] = []
        self.turns: dict[Priority, list[str]] = {priority: [] for priority in PRIORITIES}
        self.passed: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)

    def of(self, priority: Priority, owner: str | None = None) -> list[ModelWaiter]:
        return [w for w in self.waiting if w.priority == priority and owner in (None, w.owner)]

    def add(self, waiter: ModelWaiter) -> None:
        if waiter.owner not in self.turns[waiter.priority]:
            self.turns[waiter.priority].append(waiter.owner)
        self.waiting.append(waiter)

    def remove(self, waiter: ModelWaiter) -> None:
        self.waiting.remove(waiter)
        if not self.of(waiter.priority, waiter.owner):
            self.turns[waiter.priority].remove(waiter.owner)
        if not self.of(waiter.priority):
            self.passed[waiter.priority] = 0

    def take(self) -> ModelWaiter:
        there = [priority for priority in PRIORITIES if self.of(priority)]
        starved = [p for p in there if self.passed[p] >= module.PASSED_OVER]
        chosen = max(starved, key=lambda p: self.passed[p]) if starved else there[0]
        self.passed[chosen] = 0
        for priority in there[there.index(chosen) + 1 :]:
            self.passed[priority] += 1
        turns = self.turns[chosen]
        turns.append(turns.pop(0))
        waiter = self.of(chosen, turns[-1])[0]
        self.remove(waiter)
        return waiter

    def displaced_by(self, newcomer: ModelWaiter) -> ModelWaiter | None:
        own = PRIORITIES.index(newcomer.priority)
        alone = not self.of(newcomer.priority)
        for priority in reversed(PRIORITIES[own + 1 :]):
            if len(self.of(priority)) > (0 if alone else 1):
                return self.newest_of_greediest(priority)
        if not alone:
            mine = len(self.of(newcomer.priority, newcomer.owner))
            found = self.newest_of_greediest(newcomer.priority)
            return found if len(self.of(found.priority, found.owner)) > mine + 1 else None
        for priority in reversed(PRIORITIES[:own]):
            if len(self.of(priority)) > 1:
                return self.newest_of_greediest(priority)
        return None

    def newest_of_greediest(self, priority: Priority) -> ModelWaiter:
        owner = max(self.turns[priority], key=lambda owner: len(self.of(priority, owner)))
        return self.of(priority, owner)[-1]


class QueueMachine(RuleBasedStateMachine):
    """Random histories: every caller must be where the model has it, after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.capacity = Capacity(Clock())
        self.model = ModelQueue()
        self.limit: int | None = 1
        self.size = 3
        self.ids = itertools.count()
        self.tasks: dict[int, asyncio.Task[Slot]] = {}
        self.state: dict[int, str] = {}
        self.away: set[int] = set()

    # What the model does

    def held(self) -> list[int]:
        return [number for number, state in self.state.items() if state == "held"]

    def serve(self) -> None:
        while self.model.waiting and (self.limit is None or len(self.held()) < self.limit):
            waiter = self.model.take()
            self.state[waiter.id] = "gone" if waiter.id in self.away else "held"

    # What both do

    def turn(self) -> None:
        self.loop.run_until_complete(settle())

    @initialize(limit=st.integers(1, 3), size=st.integers(0, 6))
    def begin(self, limit: int, size: int) -> None:
        self.limit, self.size = limit, size

    @rule(limit=st.one_of(st.none(), st.integers(1, 4)), renew=st.booleans())
    def change_limit(self, limit: int | None, renew: bool) -> None:
        if renew:
            self.limit = limit
            self.capacity.renew({"p": self.limits()})
            self.serve()
            self.turn()
        else:
            self.arrive("z", "normal", False, limit)

    @rule(size=st.integers(0, 6))
    def change_size(self, size: int) -> None:
        self.size = size

    def limits(self) -> Provider:
        return Provider(self.limit, Waiting(self.size, 1000.0))

    @rule(owner=st.sampled_from("abc"), priority=st.sampled_from(PRIORITIES), left=st.just(False))
    def come(self, owner: str, priority: Priority, left: bool) -> None:
        self.arrive(owner, priority, left, self.limit)

    @rule(owner=st.sampled_from("ab"), priority=st.sampled_from(PRIORITIES), count=st.integers(2, 12))
    def flood(self, owner: str, priority: Priority, count: int) -> None:
        for _ in range(count):
            self.arrive(owner, priority, False, self.limit)

    @rule(owner=st.sampled_from("abc"))
    def come_and_be_gone(self, owner: str) -> None:
        self.arrive(owner, "normal", True, self.limit)

    def arrive(self, owner: str, priority: Priority, left: bool, limit: int | None) -> None:
        number = next(self.ids)
        if left:
            self.away.add(number)
        self.limit = limit
        self.serve()
        newcomer = ModelWaiter(number, owner, priority)
        if left:
            self.state[number] = "gone"
        elif self.limit is None or len(self.held()) < self.limit:
            self.state[number] = "held"
        elif len(self.model.waiting) < self.size:
            self.state[number] = "waiting"
            self.model.add(newcomer)
        else:
            displaced = self.model.displaced_by(newcomer) if self.size else None
            if displaced is None:
                self.state[number] = "full"
            else:
                self.model.remove(displaced)
                self.state[displaced.id] = "full"
                self.state[number] = "waiting"
                self.model.add(newcomer)
        self.tasks[number] = self.loop.create_task(
            self.capacity.acquire(
                "p", self.limits(), owner=owner, priority=priority, left=lambda: number in self.away
            )
        )
        self.turn()

    @precondition(lambda self: self.held())
    @rule(data=st.data(), times=st.integers(1, 2))
    def release(self, data: st.DataObject, times: int) -> None:
        number = data.draw(st.sampled_from(self.held()))
        self.state[number] = "released"
        self.serve()
        for _ in range(times):
            self.tasks[number].result().release()
        self.turn()

    @precondition(lambda self: self.model.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.model.waiting))
        self.drop(waiter)
        self.tasks[waiter.id].cancel()
        self.turn()

    def drop(self, waiter: ModelWaiter) -> None:
        if self.state[waiter.id] == "waiting":
            self.model.remove(waiter)
        self.state[waiter.id] = "cancelled"
        self.serve()

    @precondition(lambda self: self.model.waiting and self.held())
    @rule(data=st.data())
    def release_and_cancel_before_anybody_runs(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.model.waiting))
        number = data.draw(st.sampled_from(self.held()))
        self.state[number] = "released"
        self.serve()
        self.drop(waiter)
        self.tasks[number].result().release()
        self.tasks[waiter.id].cancel()
        self.turn()

    @precondition(lambda self: self.model.waiting)
    @rule(data=st.data())
    def leave_without_a_word(self, data: st.DataObject) -> None:
        self.away.add(data.draw(st.sampled_from(self.model.waiting)).id)

    # What must hold

    def seen(self, number: int) -> str:
        task = self.tasks[number]
        if not task.done():
            return "waiting"
        if task.cancelled():
            return "cancelled"
        error = task.exception()
        if error is None:
            return "held" if task.result()._held else "released"
        return "gone" if isinstance(error, CallerGone) else getattr(error, "reason", repr(error))

    @invariant()
    def everyone_is_where_the_model_has_them(self) -> None:
        assert {number: self.seen(number) for number in self.tasks} == self.state

    @invariant()
    def the_counts_are_right(self) -> None:
        assert self.capacity.busy("p") == len(self.held())
        assert self.capacity.waiting("p") == len(self.model.waiting)
        for line in self.capacity._lines.values():
            assert all(sum(lane.at_least) == lane.size for lane in line.lanes.values())
        if self.model.waiting:
            assert self.limit is not None
            assert len(self.held()) >= self.limit, "a slot is free while somebody waits"

    def teardown(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        self.turn()
        for number, task in self.tasks.items():
            if self.seen(number) == "held":
                task.result().release()
        self.turn()
        assert (self.capacity.busy("p"), self.capacity.waiting("p")) == (0, 0)
        for line in self.capacity._lines.values():
            assert all(not lane.owners and not lane.size and not lane.passed for lane in line.lanes.values())
        self.loop.close()


QueueMachine.TestCase.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestQueueAgainstItsModel = QueueMachine.TestCase


# Priority


@pytest.mark.parametrize(
    ("own", "header", "expected"),
    [
        ("high", None, "high"),
        ("high", b"high", "high"),
        ("high", b"normal", "normal"),
        ("high", b"low", "low"),
        ("normal", b"high", "normal"),
        ("normal", b"low", "low"),
        ("low", b"high", "low"),
        ("low", b"normal", "low"),
        ("low", None, "low"),
        ("normal", b" LOW\t", "low"),
        ("high", b"", "high"),
        ("high", b"urgent", "high"),
        ("high", b"low, high", "high"),
        ("high", b"\xff\x00low", "high"),
    ],
)
def test_a_header_lowers_a_priority_and_never_raises_it(
    own: Priority, header: bytes | None, expected: Priority
) -> None:
    assert priority_of(own, header) == expected


# What replies tell

NOW = 1_790_000_000.0
"""2026-09-21T14:13:20Z."""


def learned(status: int, *headers: tuple[str, str | bytes], now: float = NOW) -> float:
    """The pause after one reply."""
    capacity = Capacity()
    raw = [
        (name.encode(), value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in headers
    ]
    capacity.learn("p", "m", status, raw, now)
    return capacity.pause("p", "m", now)


EMPTY = ("x-ratelimit-remaining-requests", "0")


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 60.0),
        ("120ms", 0.12),
        ("0s", 0.0),
        ("59.5s", 59.5),
        ("1m0.5s", 60.0),
        ("0m30s", 30.0),
        ("1h2m3s", 60.0),
        ("7d", 60.0),
        ("5000µs", 0.005),
        ("5000us", 0.005),
        ("12", 12.0),
        ("1.5", 1.5),
        ("60", 60.0),
        ("3600", 60.0),
        ("1790000007", 7.0),
        ("1790000007000", 7.0),
        ("1789999000", 0.0),
        ("2026-09-21T14:13:25Z", 5.0),
        ("2026-09-21T16:13:25+02:00", 5.0),
        ("2026-09-21T14:13:25.250Z", 5.25),
        ("2026-09-21T14:13:25", 5.0),
        ("Mon, 21 Sep 2026 14:13:50 GMT", 30.0),
        ("  7s ", 7.0),
    ],
)
def test_a_limit_of_which_nothing_remains_pauses_until_its_reset(reset: str, seconds: float) -> None:
    assert learned(200, EMPTY, ("x-ratelimit-reset-requests", reset)) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    "reset",
    [
        "", " ", "-5", "-5s", "nan", "inf", "-inf", "1e999", "s", "5 s", "5s5", "5x", "1s garbage", "ms", "6m 0s",
        "0x10", "9" * 400, "1" * 30 + "h" * 30, "２s", "tomorrow", "2026-13-45T99:99:99Z", "T", "Z", "null", "{}",
        "Mon, 99 Foo 20x6", "0000-00-00T00:00:00Z", "\r\nx: y", "1s,2s", "%s%n", b"\xff\xfe\x00",
    ],
)  # fmt: skip
def test_a_reset_that_cannot_be_read_pauses_nothing(reset: str | bytes) -> None:
    value = reset if isinstance(reset, bytes) else reset.encode()
    assert learned(200, EMPTY, ("x-ratelimit-reset-requests", value)) == 0.0


@pytest.mark.parametrize("remaining", ["1", "-1", "", "00", "0.0", "none", "0 ", " 0", "0x0", "٠", "-0"])
def test_only_a_plain_nothing_is_nothing(remaining: str) -> None:
    pause = learned(
        200, ("x-ratelimit-remaining-tokens", remaining.encode()), ("x-ratelimit-reset-tokens", "5s")
    )
    assert pause == (5.0 if remaining.strip() == "0" else 0.0)


def test_azure_that_does_not_count_is_not_paused_for() -> None:
    assert (
        learned(
            200,
            ("x-ratelimit-limit-tokens", "-1"),
            ("x-ratelimit-remaining-tokens", "-1"),
            ("x-ratelimit-reset-tokens", "0"),
        )
        == 0.0
    )


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        ("requests", 8.0),
        ("tokens", 8.0),
        ("input-tokens", 8.0),
        ("output-tokens", 8.0),
        ("priority-input-tokens", 0.0),
    ],
)
def test_anthropic_tells_the_time_of_a_reset(kind: str, seconds: float) -> None:
    assert (
        learned(
            200,
            (f"anthropic-ratelimit-{kind}-limit", "4000"),
            (f"anthropic-ratelimit-{kind}-remaining", "0"),
            (f"anthropic-ratelimit-{kind}-reset", "2026-09-21T14:13:28Z"),
        )
        == seconds
    )


def test_times_are_read_by_the_clock_of_the_provider() -> None:
    reset = (
        ("anthropic-ratelimit-requests-remaining", "0"),
        ("anthropic-ratelimit-requests-reset", "2026-09-21T15:00:10Z"),
    )
    assert learned(200, ("date", "Mon, 21 Sep 2026 15:00:00 GMT"), *reset) == 10.0
    assert learned(200, ("date", "nonsense"), *reset) == 60.0


def test_of_several_limits_the_one_that_is_empty_longest_counts() -> None:
    assert (
        learned(
            200,
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "2s"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "9s"),
            ("x-ratelimit-remaining-project-tokens", "3"),
            ("x-ratelimit-reset-project-tokens", "50s"),
        )
        == 9.0
    )


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([("retry-after", "7")], 7.0),
        ([("retry-after", "0.5")], 0.5),
        ([("retry-after", "61")], 60.0),
        ([("retry-after", "86400")], 60.0),
        ([("retry-after", "Mon, 21 Sep 2026 14:13:40 GMT")], 20.0),
        ([("retry-after", "2026-09-21T14:13:40Z")], 20.0),
        ([("retry-after-ms", "250"), ("retry-after", "1")], 0.25),
        ([("x-ms-retry-after-ms", "1500"), ("retry-after", "9")], 1.5),
        ([("retry-after-ms", "bad"), ("retry-after", "3")], 3.0),
        ([("retry-after-ms", "99999999")], 60.0),
        ([("retry-after", "20s")], 20.0),
        # Nothing that helps: the default.
        ([], 1.0),
        ([("retry-after", "0")], 1.0),
        ([("retry-after", "0.0005")], 1.0),
        ([("retry-after-ms", "0")], 1.0),
        ([("retry-after", "-4")], 1.0),
        ([("retry-after", "soon")], 1.0),
        ([("retry-after", "nan")], 1.0),
        ([("retry-after", "inf")], 1.0),
        ([("retry-after", "")], 1.0),
        ([("retry-after", "Mon, 21 Sep 2020 14:13:40 GMT")], 1.0),
        ([("retry-after", b"\xff\xff")], 1.0),
        ([("retry-after", "9" * 5000)], 1.0),
        # What is said in numbers comes before what can be concluded.
        ([("retry-after", "4"), EMPTY, ("x-ratelimit-reset-requests", "40s")], 4.0),
        ([EMPTY, ("x-ratelimit-reset-requests", "40s")], 40.0),
        ([("retry-after", "0"), EMPTY, ("x-ratelimit-reset-requests", "40s")], 40.0),
    ],
)
def test_a_429_pauses_until_its_retry_after(headers: list[tuple[str, str | bytes]], seconds: float) -> None:
    assert learned(429, *headers) == pytest.approx(seconds)


@pytest.mark.parametrize(("status", "seconds"), [(503, 7.0), (529, 7.0), (200, 0.0), (400, 0.0), (500, 0.0)])
def test_a_retry_after_counts_where_it_is_about_the_next_call(status: int, seconds: float) -> None:
    assert learned(status, ("retry-after", "7")) == seconds
    assert learned(status) == 0.0


def test_a_429_that_says_nothing_pauses_longer_each_time() -> None:
    capacity, now, pauses = Capacity(), NOW, []
    for _ in range(8):
        capacity.learn("p", "m", 429, [], now)
        pauses.append(capacity.pause("p", "m", now))
        now += pauses[-1]
        assert capacity.pause("p", "m", now) == 0.0
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    capacity.learn("p", "m", 200, [], now)
    capacity.learn("p", "m", 429, [], now)
    assert capacity.pause("p", "m", now) == 1.0


def test_replies_to_what_was_under_way_do_not_make_a_pause_longer() -> None:
    capacity = Capacity()
    for number in range(50):
        capacity.learn("p", "m", 429, [], NOW + number / 100)
    assert capacity.pause("p", "m", NOW + 0.5) == 0.5
    capacity.learn("p", "m", 429, [], NOW + 1)
    assert capacity.pause("p", "m", NOW + 1) == 2.0


def test_the_latest_word_counts() -> None:
    capacity = Capacity()
    capacity.learn("p", "m", 429, [(b"retry-after", b"30")], NOW)
    capacity.learn("p", "m", 429, [], NOW)
    assert capacity.pause("p", "m", NOW) == 30.0
    capacity.learn("p", "m", 429, [(b"retry-after", b"3")], NOW)
    assert capacity.pause("p", "m", NOW) == 3.0


@pytest.mark.parametrize(
    "headers", [[], [(b"x-ratelimit-remaining-requests", b"5"), (b"x-ratelimit-reset-requests", b"1s")]]
)
def test_a_success_ends_a_pause_and_a_failure_does_not(headers: list[tuple[bytes, bytes]]) -> None:
    capacity = Capacity()
    capacity.learn("p", "m", 429, [(b"retry-after", b"30")], NOW)
    for status in (302, 400, 404, 500, 502, 503, 529):
        capacity.learn("p", "m", status, headers, NOW)
    assert capacity.pause("p", "m", NOW + 1) == 29.0
    capacity.learn("p", "m", 200, headers, NOW)
    assert capacity.pause("p", "m", NOW + 1) == 0.0


def test_a_pause_is_of_one_model_of_one_provider() -> None:
    capacity = Capacity()
    capacity.learn("p", "m", 429, [], NOW)
    assert capacity.pause("p", "other", NOW) == 0.0
    assert capacity.pause("other", "m", NOW) == 0.0
    capacity.learn("p", "other", 200, [], NOW)
    assert capacity.pause("p", "m", NOW) == 1.0


def test_a_clock_that_is_set_back_makes_no_pause_longer() -> None:
    capacity = Capacity()
    capacity.learn("p", "m", 429, [(b"retry-after", b"5")], NOW)
    assert capacity.pause("p", "m", NOW - 86_400) == 60.0
    assert capacity.pause("p", "m", NOW - 86_400 + 60) == 0.0


@pytest.mark.parametrize(
    "header",
    [
        ("retry-after", "3600"),
        ("retry-after-ms", "3600000"),
        ("retry-after", "Mon, 21 Sep 2026 15:13:40 GMT"),
        ("x-ratelimit-reset-requests", "1h"),
        ("anthropic-ratelimit-tokens-reset", "2036-09-21T15:13:40Z"),
    ],
)
def test_traffic_stops_for_a_minute_at_most_whatever_was_said(header: tuple[str, str]) -> None:
    capacity = Capacity()
    empty = [(b"x-ratelimit-remaining-requests", b"0"), (b"anthropic-ratelimit-tokens-remaining", b"0")]
    capacity.learn("p", "m", 429, [*empty, (header[0].encode(), header[1].encode())], NOW)
    assert capacity.pause("p", "m", NOW + 59) == 1.0
    assert capacity.pause("p", "m", NOW + 60) == 0.0


def test_the_memory_of_pauses_is_bounded() -> None:
    capacity = Capacity()
    for number in range(module.MAX_PAUSES + 5):
        capacity.learn("p", f"m{number}", 429, [], NOW)
    assert len(capacity._pauses) == module.MAX_PAUSES
    assert capacity.pause("p", "m0", NOW) == 0.0
    assert capacity.pause("p", f"m{module.MAX_PAUSES + 4}", NOW) == 1.0


def names() -> Iterator[bytes]:
    for first, second in module._BUCKETS:
        yield from (first, second)
    yield from (b"retry-after", b"retry-after-ms", b"x-ms-retry-after-ms", b"date", b"x-ratelimit-", b"other")


VALUES = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"0", b"-1", b"1s", b"6m0s", b"1e308", b"253402300800", b"0001-01-01T00:00:00+14:00"]),
    st.floats().map(lambda number: repr(number).encode()),
    st.integers(-(10**30), 10**30).map(lambda number: str(number).encode()),
    st.datetimes(
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=14)), timezone(-timedelta(hours=12))])
    ).map(lambda at: at.isoformat().encode()),
    st.text("0123456789.-+:TZ smhdGMT,", max_size=40).map(str.encode),
)


@settings(max_examples=200, deadline=None)
@given(
    status=st.sampled_from([100, 200, 204, 304, 400, 429, 500, 503, 529, 999, -1]),
    headers=st.lists(st.tuples(st.sampled_from(list(names())), VALUES), max_size=10),
    now=st.floats(0, 1e11),
)
def test_whatever_a_provider_sends_the_pause_is_short_and_nothing_is_raised(
    status: int, headers: list[tuple[bytes, bytes]], now: float
) -> None:
    capacity = Capacity()
    for _ in range(2):
        capacity.learn("p", "m", status, headers, now)
        pause = capacity.pause("p", "m", now)
        assert 0.0 <= pause <= module.MAX_PAUSE_S
        if status == 429:
            assert pause > 0
