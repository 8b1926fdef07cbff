"""One random history drives the embedded store, the Redis store and a model of the money.

The embedded store is the specification: every answer and every ledger event of Redis has to equal its own.
The model knows nothing of how either works; it only adds up what was admitted, settled and left open, and
says when a limit was passed. A history is chosen by its seed and by what has happened in it, so that limits
are met to the nano-dollar, retries repeat real requests and late settlements find what they are late for.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from gateway.admission import (
    Admission,
    Admitted,
    BreakerRule,
    Charge,
    Denied,
    Ending,
    Evidence,
    Hold,
    Kill,
    Quota,
    Rate,
    RunLimits,
    RunView,
    Settled,
    Settlement,
    Taken,
    Window,
)
from gateway.domain import RunSource
from gateway.stores.embedded import EmbeddedStore
from gateway.stores.redis import RedisStore
from tests.integration.stores.conftest import DEPLOYMENTS, Deployment, deployment
from tests.support import store_values as make
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

SEEDS = 24
STEPS = 300
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
INDEX = ("i0", "i1", "i2")
BODIES = ("body-0", "body-1", "body-2", "body-3")
KILL_NAMES = ("global", "user:ann", "deploy:7", "a name", "\ud800")
LOST_HOLDS = ("c-user", "c-lost")
FAMILY = ("f0", "f1", "f2")
TOOLS = ("tool/team/a", "tool:{b}\r\n", "\ud800")
AGENTS = ("agent-0", "agent-1")
ENDINGS = (
    Ending("step_limit_exceeded", "runs.max_steps", "run", 3, 4),
    Ending("user_budget_exceeded", "tägl\ud800ich", "tag:who", 2**53, 2**53 - 1),
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
        self.landed: dict[str, int] = {}

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
        if admission.run_id in self.landed:
            assert answer.ordinal == self.landed[admission.run_id], "a landed run went on"
        if admission.landing is not None:
            self.landed[admission.run_id] = answer.ordinal
        for charge, hold in zip(admission.charges, answer.holds, strict=True):
            account = self.account(hold.counter, now)
            account.reserved[admission.attempt_id] += answer.reserved
            account.ends_at = max(account.ends_at, hold.expires_at)
            if charge.enforced and answer.reserved:
                usable = charge.limit - charge.kept_back
                assert account.used + account.held <= usable, "an enforced limit was passed"

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
    """A history as it unfolds. Every choice comes from `rng`."""

    def __init__(self, rng: random.Random, redis: RedisStore, clock: list[int]) -> None:
        self.rng = rng
        self.clock = clock
        self.embedded = EmbeddedStore(clock=lambda: clock[0])
        self.redis = redis
        self.books = Books()
        self.runs: list[str] = []
        self.serial = 0
        self.admissions: dict[str, Admission] = {}
        self.counters: set[str] = set(LOST_HOLDS)

    async def both(self, operation: str, *args: Any, **named: Any) -> Any:
        expected = await getattr(self.embedded, operation)(*args, **named)
        answer = await getattr(self.redis, operation)(*args, **named)
        asked = f"{operation}{args}{named}"
        assert answer == expected, f"{asked}: Redis says {answer}, the specification {expected}"
        return answer

    async def step(self) -> None:
        operations = {
            self.resolve: 14, self.admit: 30, self.settle: 22, self.extend: 8, self.settle_lost: 2,
            self.renew: 4, self.reap: 4, self.advance: 12, self.kill: 1, self.revive: 2, self.obey: 1,
            self.stop: 1, self.tie: 1, self.note: 1, self.confirm: 2, self.reseed: 1, self.take: 8, self.report: 8,
            self.probe: 5, self.reset_breaker: 0.3, self.observe: 2,
        }  # fmt: skip
        (operation,) = self.rng.choices(list(operations), weights=list(operations.values()))
        await operation()

    # choices

    def next(self, word: str) -> str:
        self.serial += 1
        return f"{word}-{self.serial}"

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def a_run(self) -> str:
        if not self.runs or self.chance(0.02):
            return "nobody's"
        return self.rng.choice(self.runs[-5:] if self.chance(0.9) else self.runs)

    def an_attempt(self) -> str | None:
        """One that is open, most of the time."""
        if self.books.open and self.chance(0.8):
            return self.rng.choice(list(self.books.open))
        return self.rng.choice(list(self.admissions)) if self.admissions else None

    def windows(self) -> tuple[Window, ...]:
        length = self.rng.choice((0, 0, MINUTE_MS, HOUR_MS, DAY_MS))
        if not length:
            return ()
        # As a worker passes them whose own clock is a little behind: the first may be over.
        start = (self.clock[0] - 1_500) // length
        return tuple(Window(f"{length}.{n}", (n + 1) * length) for n in (start, start + 1))

    # operations

    async def resolve(self) -> None:
        choice, chance = self.rng.choice, self.chance
        sources = (RunSource.SERVER_STATE, RunSource.EMITTED_ID, RunSource.EMITTED_ID, RunSource.LINEAGE)
        named = chance(0.25)
        asked = replace(
            make.lookup(
                self.next("run"),
                session=choice(("s1", "s2")),
                session_given=chance(0.3),
                name=choice(("nightly", "a:b\r\n{x}", "\udfff")) if named else None,
                own_run_id=self.a_run() if named and chance(0.5) else None,
                principal=choice(("p1", "p1", "p2")),
                retry_key=choice(BODIES),
                retry_declared=chance(0.2),
                evidence=tuple(
                    Evidence(choice(INDEX), choice((*sources, RunSource.TAIL)), chance(0.5))
                    for _ in range(self.rng.randrange(4))
                ),
                speaks_text=chance(0.5),
                idle_ttl_ms=choice((3_000, 30 * MINUTE_MS)),
            ),
            parents=tuple(self.rng.sample(FAMILY, choice((0, 0, 1, 2)))),
            parent_run_id=self.a_run() if chance(0.3) else None,
            known_as=tuple(self.rng.sample(FAMILY, choice((0, 1, 2)))),
        )
        view: RunView = await self.both("resolve", asked)
        assert view.run_id not in view.ancestors
        assert view.landed == self.books.landed.get(view.run_id, 0)
        if view.is_new:
            self.runs.append(view.run_id)

    async def admit(self) -> None:
        choice, chance = self.rng.choice, self.chance
        run_id, retry_ordinal, retry_key = self.a_run(), 0, choice(BODIES)
        if chance(0.2):
            view: RunView = await self.both(
                "resolve", make.lookup(self.next("run"), retry_key=retry_key, retry_declared=chance(0.5))
            )
            if view.is_new:
                self.runs.append(view.run_id)
            run_id, retry_ordinal = view.run_id, view.retry_ordinal
        tokens = choice((0, 1, 20, 333, 100_000))
        cost = choice((0, 1, 99, 1_000, 77_000, 3_000_000_001))
        output_rate = choice((0.0, 0.1, 1.0, 1.1, 1.1, 37.3, 600.0, 1 / 3))
        floor_tokens = choice((0, 1, 16, 256))
        needed = cost + math.ceil(output_rate * min(tokens, floor_tokens))
        admission = make.admission(
            self.next("attempt"),
            run_id,
            *(
                self.a_charge(name, needed, output_rate)
                for name in ("c-run", "c-user", "c-all")
                if chance(0.5)
            ),
            cost=cost,
            output_rate=output_rate,
            tokens=tokens,
            reserve_tokens=choice((0, tokens // 2, tokens)),
            floor_tokens=floor_tokens,
            halve=chance(0.3),
            retry_ordinal=retry_ordinal,
            retry_key=retry_key,
            kill_names=tuple(self.rng.sample(KILL_NAMES, self.rng.randrange(3))),
            limits=self.limits(),
            rates=tuple(self.a_rate(name) for name in ("r1", "r2") if chance(0.3)),
            input_tokens=choice((0, 7, 30)),
            choices=choice((1, 1, 3)),
            lease_ms=choice((1_000, 60_000, 2 * HOUR_MS)),
        )
        admission = replace(
            admission,
            landing=choice(ENDINGS) if chance(0.06) else None,
        )
        answer: Admitted | Denied = await self.both("admit", admission)
        if isinstance(answer, Admitted):
            self.admissions[admission.attempt_id] = admission
            self.counters |= {hold.counter for hold in answer.holds}
            self.books.admitted(admission, answer, self.clock[0])
        elif answer.code.endswith("_budget_exceeded"):
            kept_back = [c.kept_back for c in admission.charges if c.rule == answer.rule]
            if run_id not in self.books.landed:
                assert answer.used + answer.need > answer.limit - kept_back[0]

    def a_charge(self, name: str, needed: int, output_rate: float) -> Charge:
        """Its limit is often what is just enough for the floor or for some tokens, or just not."""
        now, windows = self.clock[0], self.windows()
        in_force = [w for w in windows if now < w.ends_at][:1]
        account = self.books.account(f"{name}:{in_force[0].id}" if in_force else name, now)
        taken = account.used + account.held
        enough = (
            taken + needed + self.rng.choice((-1, 0, 1, math.floor(output_rate * self.rng.randrange(100))))
        )
        limit = enough if self.chance(0.6) else self.rng.choice((0, 100_000, 5_000_000_000, 2**52))
        per = {"c-run": "run", "c-user": "tag:who", "c-all": "global"}[name]
        return Charge(
            rule=name,
            per=per,
            counter=name,
            limit=max(0, limit),
            enforced=self.chance(0.7),
            windows=windows,
            warn_at=self.rng.choice((0, 200, max(0, taken + needed))),
            ttl_ms=self.rng.choice((2_000, 40 * DAY_MS)),
            kept_back=self.rng.choice((0, 0, 0, 1, 500, max(0, limit))),
        )

    def a_rate(self, counter: str) -> Rate:
        choice = self.rng.choice
        return Rate(
            "rate", "user", counter, self.chance(0.6),
            requests_per_minute=choice((0, 0, 2, 5)), tokens_per_minute=choice((0, 0, 40, 500, 1_000)),
            new_runs_per_minute=choice((0, 0, 1, 3)), max_concurrency=choice((0, 0, 1, 3)),
            nano_per_minute=choice((0, 0, 2_000, 10**11, 2**50)),
        )  # fmt: skip

    def limits(self) -> RunLimits:
        choice = self.rng.choice
        return RunLimits(
            self.chance(0.5), max_steps=choice((0, 0, 0, 3)), max_wall_clock_ms=choice((0, 0, 0, 60_500)),
            max_tokens=choice((0, 0, 0, 60)), max_tool_calls=choice((0, 0, 0, 2)),
        )  # fmt: skip

    async def extend(self) -> None:
        attempt_id = self.an_attempt()
        if attempt_id is None:
            return
        now, a = self.clock[0], self.admissions[attempt_id]
        limits = {
            hold.counter: charge.limit - charge.kept_back
            for charge, hold in zip(a.charges, self.books.holds[attempt_id], strict=True)
            if charge.enforced
        }
        amount = self.rng.choice((0, 1, 10**9))
        if limits and self.chance(0.7):
            accounts = {name: self.books.account(name, now) for name in limits}
            free = min(limit - accounts[name].used - accounts[name].held for name, limit in limits.items())
            amount = max(0, free + self.rng.choice((-1, 0, 1)))
        if await self.both("extend", attempt_id, amount):
            self.books.extended(attempt_id, amount, limits, now)

    async def settle(self) -> None:
        attempt_id = self.an_attempt()
        if attempt_id is None:
            return
        choice, chance, a = self.rng.choice, self.chance, self.admissions[attempt_id]
        settled = replace(
            make.settlement(
                attempt_id,
                a.run_id,
                choice((0, self.books.open.get(attempt_id, 1), 80, 123_456_789_012, 2**45 + 1)),
                tokens=choice((0, 5, 25, 400)),
                provisional=chance(0.2),
                succeeded=chance(0.5),
                completes=chance(0.4),
                tool_calls=choice((0, 0, 1)),
                links=tuple(self.rng.sample(INDEX, choice((0, 1, 1, 2)))),
                head=choice(("", *INDEX)),
                retry_key=a.retry_key if chance(0.9) else choice(BODIES),
                index_ttl_ms=choice((2_000, HOUR_MS)),
                # What has ended once is in the ledger, and nobody adopts it.
                adopt=chance(0.2) and attempt_id not in self.books.cost,
                holds=self.books.holds[attempt_id],
            ),
            ends_as=choice(("stopped_budget", "killed")) if chance(0.15) else "",
            ends_because="told \ud800 so",
            progress=choice((b"", b"", b"\x00\xff" + attempt_id.encode())),
            waited_ms=choice((0, 0, 700, 50_000)),
        )
        await self.settle_as(settled)

    async def settle_lost(self) -> None:
        """An attempt that the store has never heard of, as after a loss of its data."""
        hold = Hold(self.rng.choice(LOST_HOLDS), self.clock[0] + self.rng.choice((-5, 1_000, DAY_MS)))
        cost = self.rng.choice((0, 500))
        await self.settle_as(
            make.settlement(
                self.next("lost"), self.a_run(), cost, adopt=self.chance(0.7), holds=(hold,), links=INDEX[:1]
            )
        )

    async def settle_as(self, settlement: Settlement) -> None:
        answer: Settled = await self.both("settle", settlement)
        if not answer.applied:
            return
        holds = self.books.holds.get(settlement.attempt_id, settlement.holds)
        self.books.ended(settlement.attempt_id, settlement.run_id, settlement.cost, holds, self.clock[0])
        again: Settled = await self.both("settle", settlement)
        assert not again.applied
        assert again.run_cost == answer.run_cost

    async def renew(self) -> None:
        await self.both("renew", [a for _ in range(3) if (a := self.an_attempt()) is not None])

    async def reap(self) -> None:
        before = {a: s for a, s in self.embedded._attempts.items() if s.state == "open"}
        await self.both("reap")
        for attempt_id, state in before.items():
            if state.state != "open":
                self.books.ended(attempt_id, state.run_id, state.cost, state.holds, self.clock[0])
        await self.compare()

    async def advance(self) -> None:
        spans = {
            1: 20, 900: 20, 5_000: 10, 11_000: 5, 29_000: 10, 61_000: 4, 20 * MINUTE_MS: 2, 2 * HOUR_MS: 1,
            25 * HOUR_MS: 1, 41 * DAY_MS: 0.3,
        }  # fmt: skip
        self.clock[0] += self.rng.choices(list(spans), weights=list(spans.values()))[0]

    async def kill(self) -> None:
        name = self.rng.choice(KILL_NAMES)
        ttl_s = self.rng.choice((0.0001, 1.0, 30.0, None))
        await self.both("set_kill", Kill(name, f"why\x00{name}:"), ttl_s)

    async def revive(self) -> None:
        await self.both("clear_kill", self.rng.choice(KILL_NAMES))

    async def obey(self) -> None:
        worker = self.rng.choice(("w1", "w:2"))
        await self.both("acknowledge_kill", self.rng.choice(KILL_NAMES), worker, self.rng.randrange(4))

    async def stop(self) -> None:
        run_id, status = self.a_run(), self.rng.choice(("stopped_loop", "completed"))
        ending = self.rng.choice(ENDINGS) if self.chance(0.3) else None
        await self.both("stop_run", run_id, status, "told so", ending)
        run = await self.both("live_run", run_id)
        if ending is not None and run is not None:
            self.books.landed.setdefault(run_id, run["steps"] + 1)

    async def tie(self) -> None:
        await self.both("link", self.a_run(), self.rng.sample(INDEX, 2), self.rng.choice((1_000, DAY_MS)))

    # tools and baselines

    async def take(self) -> None:
        choice = self.rng.choice
        quotas = [
            Quota(
                "tool", "run", choice(("q0", "q0", "q1")), limit=choice((0, 1, 2, 5, 40)),
                amount=choice((0, 1, 1, 1, 2, 7)), enforced=self.chance(0.7),
                window_ms=choice((0, 0, 7_000, MINUTE_MS, DAY_MS)), ttl_ms=choice((2_000, 40 * DAY_MS)),
            )
            for _ in range(self.rng.randrange(4))
        ]  # fmt: skip
        taken: Taken = await self.both("take", quotas)
        assert len(taken.used) == len(quotas)
        for place, (quota, used) in enumerate(zip(quotas, taken.used, strict=True)):
            if quota.enforced and quota.amount and taken.refused == -1:
                assert used + quota.amount <= quota.limit
            if place == taken.refused:
                asked = [q for q in quotas[: place + 1] if q.counter == quota.counter]
                assert used + sum(q.amount for q in asked) > quota.limit

    def a_breaker(self) -> tuple[str, BreakerRule]:
        choice = self.rng.choice
        rule = BreakerRule(
            error_rate=choice((0.3, 0.5, 1.0)), min_calls=choice((1, 3, 6)), window_ms=choice((9_000, MINUTE_MS)),
            open_ms=choice((900, 10_000)), probes=choice((1, 1, 3)), min_sources=choice((1, 1, 2)),
            dead_after_ms=choice((0, 0, 800, 5_000)),
        )  # fmt: skip
        return choice(TOOLS), rule

    async def report(self) -> None:
        key, rule = self.a_breaker()
        ok, failed = self.rng.choice(((1, 0), (1, 0), (0, 1), (0, 1), (0, 4), (20, 3), (0, 0)))
        await self.both("report", key, rule, source=f"\ud800{self.rng.randrange(3)}", ok=ok, failed=failed)

    async def probe(self) -> None:
        await self.both("probe", *self.a_breaker())

    async def reset_breaker(self) -> None:
        await self.both("reset_breaker", self.rng.choice(TOOLS))

    async def observe(self) -> None:
        rng = self.rng
        figures = {
            name: rng.choice((0.0, rng.random(), rng.random() * 1e9)) for name in ("steps", "usd", "\ud7ff")
        }
        figures |= {f"bad-{value}": value for value in (-1.0, math.nan, math.inf)}
        del figures[rng.choice(tuple(figures))]
        await self.both("observe", rng.choice(AGENTS), figures, rng.choice((0.95, 0.5, 1.0)))

    async def note(self) -> None:
        await self.both("note", self.next("note").encode())

    async def reseed(self) -> None:
        now, used, ends_at = self.clock[0], self.rng.choice((0, 700, 10**9)), 0
        if self.chance(0.5):
            ends_at = now + HOUR_MS
        await self.both("reseed", {"c-user": (used, ends_at)})
        self.books.seeded("c-user", used, ends_at or now + 35 * DAY_MS, now)
        self.counters.add("c-user")

    async def confirm(self) -> None:
        count = self.rng.randrange(20)
        mine, theirs = await self.embedded.take_events(count), await self.redis.take_events(10_000)
        # The janitors end attempts in another order, so confirm by content.
        chosen = Counter(event for _, event in mine)
        confirmed = []
        for event_id, event in theirs:
            if chosen[event] > 0:
                chosen[event] -= 1
                confirmed.append(event_id)
        await self.embedded.confirm_events([event_id for event_id, _ in mine])
        await self.redis.confirm_events(confirmed)

    async def compare(self) -> None:
        """Everything that can be read is equal, and is what the books say."""
        now = self.clock[0]
        states = await self.both("counters", sorted(self.counters))
        for name, state in states.items():
            account = self.books.account(name, now)
            assert (state.used, state.reserved) == (account.used, account.held), name
        for run_id in self.runs:
            run = await self.both("live_run", run_id)
            if run is None:
                continue
            assert run["cost"] == sum(self.books.settled_in.get(run_id, Counter()).values())
            held = [r for a, r in self.books.open.items() if self.books.run_of[a] == run_id]
            assert (run["open"], run["reserved"]) == (len(held), sum(held))
        await self.both("breakers")
        await self.both("breakers", [*reversed(TOOLS), "unknown"])
        for agent in AGENTS:
            await self.both("baseline", agent)
        await self.both("kills", KILL_NAMES)
        for name in KILL_NAMES:
            await self.both("kill_acknowledgements", name)
        expected = sorted(event for _, event in await self.embedded.take_events(10_000))
        assert sorted(event for _, event in await self.redis.take_events(10_000)) == expected


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


async def play(
    rng: random.Random, servers: Deployment, steps: int, begun: int, *, compare_every: int
) -> None:
    """One history on servers that are emptied for it, with a store whose scripts take the time from a list."""
    servers.flushall()
    clock = [begun]
    store = RedisStore(servers.url, worker_id="w", timeout_s=5, clock=lambda: clock[0])
    await store.start()
    history = History(rng, store, clock)
    for step in range(1, steps + 1):
        await history.step()
        if step % compare_every == 0:
            await history.compare()
    await history.compare()
    await store.close()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_redis_answers_as_the_specification_and_money_adds_up(
    seed: int, runner: asyncio.Runner, redis_server: RedisServer
) -> None:
    begun = time.time_ns() // 1_000_000
    runner.run(play(random.Random(seed), redis_server, STEPS, begun, compare_every=10))


@pytest.mark.parametrize("servers", [deployment(name) for name in DEPLOYMENTS])
@pytest.mark.parametrize("seed", range(SEEDS, SEEDS + 2))
def test_every_deployment_answers_as_the_specification(
    seed: int, servers: str, runner: asyncio.Runner, request: pytest.FixtureRequest
) -> None:
    deployed: Deployment = request.getfixturevalue(servers.replace(" ", "_"))
    begun = time.time_ns() // 1_000_000
    runner.run(play(random.Random(seed), deployed, STEPS, begun, compare_every=10))


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(choices=strategies.randoms(use_true_random=False), steps=strategies.integers(5, 40))
def test_a_history_that_hypothesis_chooses_agrees_and_shrinks(
    choices: random.Random, steps: int, runner: asyncio.Runner, redis_server: RedisServer
) -> None:
    runner.run(play(choices, redis_server, steps, 1_800_000_000_000, compare_every=steps))
