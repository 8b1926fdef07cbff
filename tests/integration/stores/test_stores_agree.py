"""One random history drives the embedded store, the Redis store and a model of the money.

The embedded store is the specification: every answer and every ledger event of Redis has to equal its own.
The model knows nothing of how either works; it only adds up what was admitted, settled and left open, and
says when a limit was passed.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.admission import (
    Admission,
    Admitted,
    Charge,
    Denied,
    Evidence,
    Hold,
    Kill,
    Rate,
    RunLimits,
    Settled,
    Settlement,
    Window,
)
from gateway.domain import RunSource
from gateway.stores.embedded import EmbeddedStore
from gateway.stores.redis import RedisStore
from tests.support import store_values as make
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
RUN_NAMES = (None, None, None, None, None, None, "nightly", "a:b\r\n{x}")
INDEX = ("i0", "i1")
BODIES = ("body-0", "body-1", "body-2")
KILL_NAMES = ("global", "run-1", "user:ann", "deploy:7", "name \ud800")
ADVANCES = (
    1,
    900,
    5_000,
    11_000,
    59_000,
    61_000,
    299_000,
    20 * MINUTE_MS,
    2 * HOUR_MS,
    25 * HOUR_MS,
    40 * DAY_MS,
)


# -- the histories ------------------------------------------------------------------------------------

flags = st.booleans()
small = st.integers(0, 7)


@st.composite
def resolves(draw: st.DrawFn) -> tuple[Any, ...]:
    sources = st.sampled_from(
        (RunSource.SERVER_STATE, RunSource.EMITTED_ID, RunSource.LINEAGE, RunSource.TAIL)
    )
    evidence = draw(
        st.lists(st.builds(Evidence, key=st.sampled_from(INDEX), source=sources, then_user=flags), max_size=4)
    )
    return (
        "resolve",
        {
            "session": draw(st.sampled_from(("s1", "s2"))),
            "session_given": draw(flags),
            "name": draw(st.sampled_from(RUN_NAMES)),
            "principal": draw(st.sampled_from(("p1", "p1", "p2"))),
            "retry_key": draw(st.sampled_from(BODIES)),
            "retry_declared": draw(flags),
            "evidence": tuple(evidence),
            "speaks_text": draw(flags),
            "idle_ttl_ms": draw(st.sampled_from((4_000, 1_800_000))),
        },
        draw(st.none() | small),
    )


@st.composite
def admits(draw: st.DrawFn) -> tuple[Any, ...]:
    money = st.sampled_from((0, 1, 99, 250, 1_000, 77_000, 3_000_000_001))
    limit = st.sampled_from((0, 300, 1_000, 100_000, 5_000_000_000, 2**52))
    charges = draw(
        st.lists(
            st.tuples(
                st.sampled_from(
                    (("c-run", "run"), ("c-user", "user"), ("c-tag", "tag:team"), ("c-all", "global"))
                ),
                limit,
                flags,
                st.sampled_from(((), ("h",), ("d",))),
                st.sampled_from((0, 200, 800)),
                st.sampled_from((2_000, 40 * DAY_MS)),
            ),
            max_size=3,
            unique_by=lambda c: c[0],
        )
    )
    rates = draw(
        st.lists(
            st.builds(
                Rate,
                rule=st.just("rate"),
                per=st.just("user"),
                counter=st.sampled_from(("r1", "r2")),
                enforced=flags,
                requests_per_minute=st.sampled_from((0, 0, 2, 5)),
                tokens_per_minute=st.sampled_from((0, 0, 40, 500)),
                new_runs_per_minute=st.sampled_from((0, 0, 1, 3)),
                max_concurrency=st.sampled_from((0, 0, 1, 3)),
            ),
            max_size=2,
        )
    )
    tokens = draw(st.sampled_from((0, 1, 20, 333, 100_000)))
    values = {
        "cost": draw(money),
        "output_rate": draw(st.sampled_from((0.0, 0.1, 1.0, 1.1, 37.3, 600.0, 1 / 3))),
        "tokens": tokens,
        "reserve_tokens": draw(st.sampled_from((0, tokens // 2, tokens))),
        "floor_tokens": draw(st.sampled_from((0, 1, 16, 256))),
        "halve": draw(flags),
        "retry_key": draw(st.sampled_from(BODIES)),
        "kill_names": tuple(draw(st.lists(st.sampled_from(KILL_NAMES), max_size=3))),
        "limits": draw(
            st.builds(
                RunLimits,
                enforced=flags,
                max_steps=st.sampled_from((0, 0, 3)),
                max_wall_clock_ms=st.sampled_from((0, 0, 60_000)),
                max_tokens=st.sampled_from((0, 0, 60)),
                max_tool_calls=st.sampled_from((0, 0, 2)),
            )
        ),
        "rates": tuple(rates),
        "input_tokens": draw(st.sampled_from((0, 7, 30))),
        "choices": draw(st.sampled_from((1, 1, 3))),
        "lease_ms": draw(st.sampled_from((1_000, 60_000, 2 * HOUR_MS))),
    }
    return ("admit", draw(small), tuple(charges), values, draw(flags))


settles = st.tuples(
    st.just("settle"),
    small,
    st.sampled_from((0, 1, 80, 1_000, 123_456_789_012, 2**50)),
    st.fixed_dictionaries(
        {
            "tokens": st.sampled_from((0, 5, 400)),
            "provisional": st.sampled_from((False, False, True)),
            "succeeded": flags,
            "completes": flags,
            "tool_calls": st.sampled_from((0, 0, 1)),
            "links": st.sets(st.sampled_from(INDEX)).map(sorted).map(tuple),
            "head": st.sampled_from(("", *INDEX)),
            "retry_key": st.sampled_from(BODIES),
            "index_ttl_ms": st.sampled_from((2_000, HOUR_MS)),
        }
    ),
)
adoptions = st.tuples(st.just("adopt"), small, st.sampled_from((0, 500)), flags, flags)
histories = st.lists(
    st.one_of(
        resolves(),
        resolves(),
        admits(),
        admits(),
        settles,
        settles,
        adoptions,
        st.tuples(st.just("extend"), small, st.sampled_from((0, 1, 100, 10**9))),
        st.tuples(st.just("renew"), st.lists(small, max_size=3)),
        st.tuples(st.just("reap")),
        st.tuples(st.just("advance"), st.sampled_from(ADVANCES)),
        st.tuples(st.just("kill"), st.sampled_from(KILL_NAMES), st.sampled_from((None, 0.0001, 1.0, 500.0))),
        st.tuples(st.just("revive"), st.sampled_from(KILL_NAMES)),
        st.tuples(st.just("obey"), st.sampled_from(KILL_NAMES), st.sampled_from(("w1", "w:2")), small),
        st.tuples(st.just("stop"), small, st.sampled_from(("stopped_loop", "completed"))),
        st.tuples(st.just("note")),
        st.tuples(st.just("confirm"), small),
        st.tuples(st.just("reseed"), st.sampled_from((0, 700, 10**9)), flags),
    ),
    min_size=12,
    max_size=45,
)


# -- the model ----------------------------------------------------------------------------------------


@dataclass
class Account:
    """One counter as a list of who holds what on it."""

    reserved: Counter[str] = field(default_factory=Counter)
    spent: Counter[str] = field(default_factory=Counter)
    seeded: int = 0
    ends_at: int = 0

    @property
    def used(self) -> int:
        return self.seeded + sum(self.spent.values())

    @property
    def held(self) -> int:
        return sum(self.reserved.values())


class Books:
    """What should be on every counter and run, from the answers alone."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.holds: dict[str, tuple[Hold, ...]] = {}
        self.run_of: dict[str, str] = {}
        self.open: dict[str, int] = {}
        self.cost: Counter[str] = Counter()
        self.settled_in: dict[str, Counter[str]] = {}

    def account(self, counter: str, now: int) -> Account:
        account = self.accounts.setdefault(counter, Account())
        if account.ends_at < now and account.held <= 0:
            account = self.accounts[counter] = Account()
        return account

    def admitted(self, admission: Admission, answer: Admitted, now: int) -> None:
        assert 0 <= answer.output_tokens <= admission.want_tokens
        self.holds[admission.attempt_id] = answer.holds
        self.run_of[admission.attempt_id] = admission.run_id
        self.open[admission.attempt_id] = answer.reserved
        for charge, hold in zip(admission.charges, answer.holds, strict=True):
            account = self.account(hold.counter, now)
            account.reserved[admission.attempt_id] += answer.reserved
            account.ends_at = max(account.ends_at, hold.expires_at)
            if charge.enforced and answer.reserved:
                assert account.used + account.held <= charge.limit, "an enforced limit was passed"

    def extended(self, attempt_id: str, amount: int, limits: dict[str, int], now: int) -> None:
        self.open[attempt_id] += amount
        for hold in self.holds[attempt_id]:
            account = self.account(hold.counter, now)
            account.reserved[attempt_id] += amount
            account.ends_at = max(account.ends_at, hold.expires_at)
            if amount and hold.counter in limits:
                assert account.used + account.held <= limits[hold.counter], "a slice passed an enforced limit"

    def ended(self, attempt_id: str, run_id: str, cost: int, holds: tuple[Hold, ...], now: int) -> None:
        self.open.pop(attempt_id, None)
        before = self.cost[attempt_id]
        self.cost[attempt_id] = cost
        self.settled_in.setdefault(run_id, Counter())[attempt_id] = cost
        for hold in holds:
            account = self.account(hold.counter, now)
            account.reserved.pop(attempt_id, None)
            account.spent[attempt_id] += cost - before
            account.ends_at = max(account.ends_at, hold.expires_at)

    def seeded(self, counter: str, used: int, ends_at: int, now: int) -> None:
        account = self.account(counter, now)
        account.seeded += max(0, used - account.used)
        account.ends_at = max(account.ends_at, ends_at)


# -- the driver ---------------------------------------------------------------------------------------


class History:
    def __init__(self, redis: RedisStore, clock: list[int]) -> None:
        self.clock = clock
        self.embedded = EmbeddedStore(clock=lambda: clock[0])
        self.redis = redis
        self.books = Books()
        self.runs: list[str] = []
        self.serial = 0
        self.admissions: dict[str, Admission] = {}
        self.attempts: list[str] = []
        self.counters: set[str] = set()

    async def both(self, operation: str, *args: Any) -> Any:
        expected = await getattr(self.embedded, operation)(*args)
        answer = await getattr(self.redis, operation)(*args)
        assert answer == expected, f"{operation}{args}: Redis says {answer}, the specification {expected}"
        return answer

    def next(self, word: str) -> str:
        self.serial += 1
        return f"{word}-{self.serial}"

    def windows(self, kinds: tuple[str, ...]) -> tuple[Window, ...]:
        now = self.clock[0]
        for kind in kinds:
            length = HOUR_MS if kind == "h" else DAY_MS
            # As a worker passes them whose own clock is a little behind: the first may be over.
            start = (now - 1_500) // length
            return (
                Window(f"{kind}{start}", (start + 1) * length),
                Window(f"{kind}{start + 1}", (start + 2) * length),
            )
        return ()

    async def step(self, op: tuple[Any, ...]) -> None:
        now = self.clock[0]
        match op:
            case ("resolve", values, own):
                run_id = self.next("run")
                if own is not None and self.runs and values["name"] is not None:
                    values = {**values, "own_run_id": self.runs[own % len(self.runs)]}
                view = await self.both("resolve", make.lookup(run_id, **values))
                if view.is_new:
                    self.runs.append(run_id)
            case ("admit", run, charges, values, retries):
                await self.admit(run, charges, values, retries, now)
            case ("settle", index, cost, values) if self.attempts:
                attempt_id = self.attempts[index % len(self.attempts)]
                await self.settle(
                    make.settlement(attempt_id, self.admissions[attempt_id].run_id, cost, **values), now
                )
            case ("adopt", run, cost, adopt, known):
                attempt_id = self.next("lost") if not known or not self.attempts else self.attempts[-1]
                run_id = (
                    self.admissions[attempt_id].run_id if attempt_id in self.admissions else self.run(run)
                )
                holds = self.books.holds.get(attempt_id, (Hold("c-user", now + DAY_MS),))
                # What has ended once is in the ledger, and nobody adopts it.
                adopt = adopt and attempt_id not in self.books.cost
                await self.settle(make.settlement(attempt_id, run_id, cost, adopt=adopt, holds=holds), now)
            case ("extend", index, amount) if self.attempts:
                attempt_id = self.attempts[index % len(self.attempts)]
                if await self.both("extend", attempt_id, amount):
                    a = self.admissions[attempt_id]
                    enforced = {
                        hold.counter: charge.limit
                        for charge, hold in zip(a.charges, self.books.holds[attempt_id], strict=True)
                        if charge.enforced
                    }
                    self.books.extended(attempt_id, amount, enforced, now)
            case ("renew", indexes) if self.attempts:
                await self.both("renew", [self.attempts[i % len(self.attempts)] for i in indexes])
            case ("reap",):
                before = {a: s for a, s in self.embedded._attempts.items() if s.state == "open"}
                await self.both("reap")
                for attempt_id, state in before.items():
                    if state.state != "open":
                        self.books.ended(attempt_id, state.run_id, state.cost, state.holds, now)
            case ("advance", ms):
                self.clock[0] += ms
            case ("kill", name, ttl_s):
                await self.both("set_kill", Kill(name, f"why\x00{name}:"), ttl_s)
            case ("revive", name):
                await self.both("clear_kill", name)
            case ("obey", name, worker, streams):
                await self.both("acknowledge_kill", name, worker, streams)
            case ("stop", run, status):
                await self.both("stop_run", self.run(run), status, "told so")
            case ("note",):
                await self.both("note", self.next("note").encode())
            case ("confirm", count):
                await self.confirm(count)
            case ("reseed", used, dated):
                ends_at = now + HOUR_MS if dated else 0
                await self.both("reseed", {"c-user": (used, ends_at)})
                self.books.seeded("c-user", used, ends_at or now + 35 * DAY_MS, now)
                self.counters.add("c-user")

    def run(self, index: int) -> str:
        return self.runs[index % len(self.runs)] if self.runs and index < 7 else "nobody's"

    async def admit(
        self, run: int, charges: tuple[Any, ...], values: dict[str, Any], retries: bool, now: int
    ) -> None:
        run_id = self.run(run)
        retry_ordinal = 0
        if retries and run_id in self.runs:
            view = await self.both(
                "resolve",
                make.lookup(
                    self.next("run"), own_run_id=run_id, name="x", retry_key=values["retry_key"], retry_declared=True,
                    principal="p1",
                ),
            )  # fmt: skip
            if view.is_new:
                self.runs.append(view.run_id)
            run_id, retry_ordinal = view.run_id, view.retry_ordinal
        admission = make.admission(
            self.next("attempt"),
            run_id,
            *(
                Charge(name, per, name, limit, enforced, self.windows(kinds), warn_at, ttl_ms)
                for (name, per), limit, enforced, kinds, warn_at, ttl_ms in charges
            ),
            **values,
        )
        admission = replace(admission, retry_ordinal=retry_ordinal)
        answer: Admitted | Denied = await self.both("admit", admission)
        if isinstance(answer, Admitted):
            self.attempts.append(admission.attempt_id)
            self.admissions[admission.attempt_id] = admission
            self.counters |= {hold.counter for hold in answer.holds}
            self.books.admitted(admission, answer, now)
        elif answer.code.endswith("_budget_exceeded"):
            assert answer.used + answer.need > answer.limit

    async def settle(self, settlement: Settlement, now: int) -> None:
        answer: Settled = await self.both("settle", settlement)
        if answer.applied:
            known = self.books.holds.get(settlement.attempt_id, settlement.holds)
            self.books.ended(settlement.attempt_id, settlement.run_id, settlement.cost, known, now)
            self.counters |= {hold.counter for hold in known}
            again = await self.both("settle", settlement)
            assert not again.applied
            assert again.run_cost == answer.run_cost

    async def confirm(self, count: int) -> None:
        mine, theirs = await self.embedded.take_events(10_000), await self.redis.take_events(10_000)
        # The janitor may end attempts in another order, so confirm by content.
        chosen = Counter(event for _, event in mine[:count])
        ours = [i for i, _ in mine[:count]]
        others = []
        for event_id, event in theirs:
            if chosen[event] > 0:
                chosen[event] -= 1
                others.append(event_id)
        await self.embedded.confirm_events(ours)
        await self.redis.confirm_events(others)

    async def compare(self) -> None:
        now = self.clock[0]
        states = await self.both("counters", sorted(self.counters))
        for name, state in states.items():
            account = self.books.account(name, now)
            assert (state.used, state.reserved) == (account.used, account.held), name
        for run_id in self.runs:
            run = await self.both("live_run", run_id)
            if run is not None:
                assert run["cost"] == sum(self.books.settled_in.get(run_id, Counter()).values())
                held = [r for a, r in self.books.open.items() if self.books.run_of[a] == run_id]
                assert (run["open"], run["reserved"]) == (len(held), sum(held))
        await self.both("kills", KILL_NAMES)
        for name in KILL_NAMES:
            await self.both("kill_acknowledgements", name)
        expected = sorted(event for _, event in await self.embedded.take_events(10_000))
        assert sorted(event for _, event in await self.redis.take_events(10_000)) == expected


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def clocked(runner: asyncio.Runner, redis_server: RedisServer) -> Iterator[tuple[RedisStore, list[int]]]:
    clock = [time.time_ns() // 1_000_000]
    store = RedisStore(redis_server.url, worker_id="w", timeout_s=5, clock=lambda: clock[0])
    runner.run(store.start())
    yield store, clock
    runner.run(store.close())


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(history=histories)
def test_redis_answers_as_the_specification_and_money_adds_up(
    history: list[tuple[Any, ...]],
    runner: asyncio.Runner,
    clocked: tuple[RedisStore, list[int]],
    redis_server: RedisServer,
) -> None:
    store, clock = clocked
    client = redis_server.client()
    epoch = client.get(store.keys.epoch)
    client.flushall()
    client.set(store.keys.epoch, epoch)
    clock[0] = time.time_ns() // 1_000_000

    async def play() -> None:
        both = History(store, clock)
        # Two conversations to begin with, so that few histories are spent on finding none.
        for i, (session, link) in enumerate((("s1", "i0"), ("s2", "i1"))):
            await both.step(("resolve", {"principal": "p1", "session": session, "session_given": True}, None))
            await both.step(("admit", i, (), {"retry_key": BODIES[i]}, False))
            await both.step(("settle", i, 10, {"links": (link,), "head": link, "completes": True}))
        for op in history:
            await both.step(op)
            await both.compare()

    runner.run(play())
