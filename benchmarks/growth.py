"""How the cost of a step grows: `python -m benchmarks.growth`.

One thing is made larger at a time: the history that a request carries, the text that is new in it, the tools
it offers, the policy's rules, the callers' keys, the runs that are alive, what detectors find, the streams
that are open. Printed is the CPU of the gateway per step, and of Redis with `--store redis`.
docs/performance.md has the method and the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import orjson
import uvloop
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.growth_stand import (
    KEY,
    MODEL,
    Agent,
    Call,
    Callers,
    Connection,
    Cost,
    more_files,
    policy,
    provider,
    redis_server,
    serving,
    small,
    text,
)
from tests.support.effort import slowness

AGENTS = 8
"""Runs side by side wherever the steps of a run are measured."""


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    times: int
    """Bursts, of which the cheapest counts."""
    calls: int
    """In a burst."""
    steps: tuple[int, ...]
    news: tuple[int, ...]
    tools: tuple[int, ...]
    budgets: tuple[int, ...]
    contracts: tuple[int, ...]
    routes: tuple[int, ...]
    keys: tuple[int, ...]
    runs: tuple[int, ...]
    findings: tuple[int, ...]
    streams: tuple[int, ...]


FULL = Plan(
    times=3,
    calls=120,
    steps=(2, 20, 50, 100),
    news=(100, 1_000, 10_000, 50_000),
    tools=(0, 8, 32, 128),
    budgets=(0, 8, 32),
    contracts=(0, 100, 1_000),
    routes=(0, 8, 32),
    keys=(1, 100, 10_000),
    runs=(0, 1_000, 5_000),
    findings=(0, 10, 100),
    streams=(0, 1_000, 2_000),
)
QUICK = Plan(
    times=1,
    calls=32,
    steps=(1, 3),
    news=(100, 1_000),
    tools=(0, 8),
    budgets=(0, 4),
    contracts=(0, 10),
    routes=(0, 4),
    keys=(1, 10),
    runs=(0, 50),
    findings=(0, 1),
    streams=(0, 50),
)


@dataclass
class Subject:
    """One table."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """Starts gateways and measures them."""

    plan: Plan
    on_redis: bool

    @contextlib.asynccontextmanager
    async def gateway(self, *, keys: str = "", budgets: str = "", more: str = "") -> AsyncIterator[Callers]:
        """One that serves, warmed up."""
        async with provider() as upstream:
            with contextlib.ExitStack() as stack:
                redis = stack.enter_context(redis_server()) if self.on_redis else None
                store = {"GATEWAY_STORE_URL": redis.url} if redis is not None else {}
                rules = policy(upstream, keys=keys, budgets=budgets, more=more)
                callers = Callers(stack.enter_context(serving(rules, **store)), redis)
                await callers.each(self.smalls())
                agents = [Agent() for _ in range(AGENTS)]
                for _ in range(2):
                    await callers.each([agent.step for agent in agents])
                yield callers

    def smalls(self, key: Callable[[int], str] = lambda _: KEY) -> list[Call]:
        """Small calls, each of which opens a run."""

        def one(number: int) -> Call:
            return lambda connection: connection.call(small(), key(number))

        return [one(number) for number in range(self.plan.calls)]

    def row(self, label: str, cost: Cost, *more: str) -> tuple[str, ...]:
        """A row of a table."""
        return (
            label,
            f"{cost.gateway_us:,.0f}",
            *((f"{cost.redis_us:,.0f}",) if self.on_redis else ()),
            *more,
        )

    def columns(self, first: str, *more: str) -> tuple[str, ...]:
        """Its head."""
        return (first, "gateway CPU µs", *(("Redis CPU µs",) if self.on_redis else ()), *more)

    # -- what a request holds -------------------------------------------------------------------------

    async def history(self) -> Subject:
        """The step of a run after so many others: all of them are in the request, and one result is new."""
        subject = Subject("History: the n-th step of a run", self.columns("step", "request KB"))
        async with self.gateway() as callers:
            agents = [Agent() for _ in range(AGENTS)]
            for steps in self.plan.steps:
                while agents[0].steps < steps - 1:
                    await callers.each([agent.step for agent in agents])
                size = len(agents[0].body) / 1000
                cost = await callers.least(lambda: [agent.step for agent in agents], self.plan.times)
                subject.rows.append(self.row(f"{steps:,}", cost, f"{size:,.0f}"))
        return subject

    async def _second_steps(
        self,
        callers: Callers,
        offered: int = 6,
        result: Callable[[int], str] | None = None,
        key: Callable[[int], str] = lambda _: KEY,
    ) -> Cost:
        """Of agents whose first step was not measured."""
        costs = []
        for _ in range(self.plan.times):
            agents = [Agent(offered, result, key(number)) for number in range(4 * AGENTS)]
            await callers.each([agent.step for agent in agents])
            costs.append(await callers.cost([agent.step for agent in agents]))
        return Cost(min(c.gateway_us for c in costs), min(c.redis_us for c in costs))

    async def news(self) -> Subject:
        """Text that was never seen before, in a tool's result: it is screened."""
        subject = Subject("New text: characters of a tool's result", self.columns("characters"))
        async with self.gateway() as callers:
            for length in self.plan.news:
                serial = itertools.count()

                def result(_: int, length: int = length, serial: Iterator[int] = serial) -> str:
                    return f"{next(serial)}: {text(length)}"

                subject.rows.append(self.row(f"{length:,}", await self._second_steps(callers, result=result)))
        return subject

    async def tools(self) -> Subject:
        """Definitions that the request offers."""
        subject = Subject("Tools that the request offers", self.columns("tools"))
        async with self.gateway() as callers:
            for count in self.plan.tools:
                if count:
                    cost = await self._second_steps(callers, offered=count)
                else:
                    cost = await callers.least(self.smalls, self.plan.times)
                subject.rows.append(self.row(f"{count:,}", cost))
        return subject

    async def findings(self) -> Subject:
        """E-mail addresses in a result of 10,000 characters, each another one, replaced by pseudonyms."""
        subject = Subject("Findings: addresses made pseudonyms, in 10,000 characters", self.columns("found"))
        async with self.gateway() as callers:
            serial = itertools.count()
            for count in self.plan.findings:

                def result(_: int, count: int = count) -> str:
                    found = " ".join(f"someone{next(serial)}@mail.example.org wrote." for _ in range(count))
                    return f"{next(serial)} {found} {text(10_000 - len(found))}"

                subject.rows.append(self.row(f"{count:,}", await self._second_steps(callers, result=result)))
        return subject

    # -- what the policy holds ------------------------------------------------------------------------

    async def budgets(self) -> Subject:
        """Budgets that a step is charged to, beside the default policy's four."""
        subject = Subject("Budgets that a step is charged to", self.columns("budgets"))
        for count in self.plan.budgets:
            rules = "\n".join(
                f"  - {{name: more-{n}, per: {per}, window: 1d, limit_usd: 1000000}}"
                for n, per in zip(range(count), itertools.cycle(("user", "key", "team")))
            )
            async with self.gateway(budgets=rules) as callers:
                cost = await callers.least(self.smalls, self.plan.times)
                subject.rows.append(self.row(f"4 + {count}", cost))
        return subject

    async def contracts(self) -> Subject:
        """Tool contracts in the policy; the agent uses one of them."""
        subject = Subject("Tool contracts in the policy", self.columns("contracts"))
        for count in self.plan.contracts:
            rules = "\n".join(f"  contract_{n}: {{max_calls_per_run: 5}}" for n in range(count))
            more = f"tools:\n  read_file: {{max_calls_per_run: 100000}}\n{rules}"
            async with self.gateway(more=more) as callers:
                subject.rows.append(self.row(f"1 + {count:,}", await self._second_steps(callers)))
        return subject

    async def routes(self) -> Subject:
        """Routing rules, none of which fires."""
        subject = Subject("Routing rules, none of which fires", self.columns("rules"))
        for count in self.plan.routes:
            rules = "\n".join(
                f"    - {{name: rule-{n}, when: {{model: {MODEL}, tag: job={n}}}, use: other}}"
                for n in range(count)
            )
            more = f"routing:\n  rules:\n{rules}" if count else ""
            async with self.gateway(more=more) as callers:
                subject.rows.append(self.row(f"{count:,}", await self._second_steps(callers)))
        return subject

    async def keys(self) -> Subject:
        """Callers' keys in the policy, each a tenant with a user and a team of its own; all of them call."""
        subject = Subject("Keys in the policy, each of another user and team", self.columns("keys", "RSS MB"))
        for count in self.plan.keys:
            names = [f"gk-tenant-{n:06d}-0123456789" for n in range(count)]
            rules = "\n".join(
                f"  - {{name: k{n}, key: {name}, user: u{n}, team: t{n}}}" for n, name in enumerate(names)
            )
            async with self.gateway(keys=rules) as callers:
                serial = itertools.count()

                def one(_: int, names: list[str] = names, serial: Iterator[int] = serial) -> str:
                    return names[next(serial) * 7919 % len(names)]

                cost = await callers.least(lambda one=one: self.smalls(one), self.plan.times)  # type: ignore[misc]
                subject.rows.append(self.row(f"{count:,}", cost, f"{callers.running.rss_mb:.0f}"))
        return subject

    # -- what is alive --------------------------------------------------------------------------------

    async def runs(self) -> Subject:
        """Runs that are alive while others are opened."""
        subject = Subject("Runs that are alive", self.columns("runs", "RSS MB"))
        async with self.gateway() as callers:
            there = 0
            for count in self.plan.runs:
                while there < count:
                    calls = self.smalls()
                    await callers.each(calls)
                    there += len(calls)
                cost = await callers.least(self.smalls, self.plan.times)
                there += self.plan.calls * self.plan.times
                subject.rows.append(self.row(f"{count:,}", cost, f"{callers.running.rss_mb:.0f}"))
        return subject

    async def streams(self) -> Subject:
        """Streams that are open while other calls are made."""
        columns = self.columns("open streams", "RSS MB", "KB per stream", "p50 ms", "p99 ms")
        subject = Subject("Open streams, a piece every five seconds, and calls beside them", columns)
        async with self.gateway() as callers:
            held: list[Connection] = []
            empty_mb = callers.running.rss_mb
            for count in self.plan.streams:

                async def opened() -> Connection:
                    connection = await callers.connect()
                    connection.streams = True
                    await connection.call(orjson.dumps({**orjson.loads(small()), "stream": True}))
                    return connection

                while len(held) < count:
                    held += await asyncio.gather(*(opened() for _ in range(min(100, count - len(held)))))
                rss = callers.running.rss_mb
                times = await self._latencies(callers)
                cost = await self._paced(callers, count)
                each = f"{(rss - empty_mb) * 1024 / count:.0f}" if count else ""
                row = self.row(f"{count:,}", cost, f"{rss:.0f}", each)
                subject.rows.append(
                    (*row, f"{times[len(times) // 2]:.2f}", f"{times[len(times) * 99 // 100]:.2f}")
                )
            for connection in held:
                connection.close()
        return subject

    async def _latencies(self, callers: Callers) -> list[float]:
        """Milliseconds of small calls, one after another."""
        connection, found = await callers.connect(), list[float]()
        for _ in range(self.plan.calls):
            await connection.call(small())
            found.append(connection.seconds * 1000)
        connection.close()
        return sorted(found)

    async def _paced(self, callers: Callers, streams: int) -> Cost:
        """Of small calls, less what the streams cost meanwhile."""
        costs = []
        for _ in range(self.plan.times):
            began, before = time.perf_counter(), callers.cpu()
            await asyncio.sleep(2)
            idle = (callers.cpu() - before) / (time.perf_counter() - began)
            began, before = time.perf_counter(), callers.cpu()
            await callers.each(self.smalls())
            await asyncio.sleep(1)
            spent = callers.cpu() - before - idle * (time.perf_counter() - began)
            costs.append(spent / self.plan.calls / slowness())
        return Cost(min(costs))

    # -- the process ----------------------------------------------------------------------------------

    async def process(self) -> Subject:
        """Start, and memory after load."""
        subject = Subject("The process", ("", "found"))
        starts = []
        for _ in range(2):
            async with self.gateway() as callers:
                running = callers.running
                starts.append((running.start_cpu_s, running.started_in_s))
                before = running.rss_mb
                for _ in range(5):
                    await callers.each(self.smalls())
                    agents = [Agent() for _ in range(AGENTS)]
                    for _ in range(5):
                        await callers.each([agent.step for agent in agents])
                running.calm()
                after, calls = running.rss_mb, 5 * (self.plan.calls + 5 * AGENTS)
        cpu, wall = (min(values) for values in zip(*starts, strict=True))
        subject.rows.append(("from the command to a ready /readyz, s of CPU", f"{cpu:.2f}"))
        subject.rows.append(("… s on the clock, this machine being shared", f"{wall:.2f}"))
        subject.rows.append(("RSS when warm, MB", f"{before:.0f}"))
        subject.rows.append((f"RSS after {calls:,} calls more, MB", f"{after:.0f}"))
        return subject


SUBJECTS = (
    "process", "history", "news", "tools", "findings", "budgets", "contracts", "routes", "keys", "runs",
    "streams",
)  # fmt: skip


def shown(subject: Subject) -> Table:
    """As a table of Markdown."""
    table = Table(title=subject.title, box=box.MARKDOWN, title_justify="left")
    for number, name in enumerate(subject.columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in subject.rows:
        table.add_row(*row)
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", choices=["embedded", "redis"], default="embedded")
    parser.add_argument("--only", help=f"some of {', '.join(SUBJECTS)}; separated by commas")
    parser.add_argument("--quick", action="store_true", help="shows that it works; the figures mean nothing")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else SUBJECTS
    if unknown := set(chosen) - set(SUBJECTS):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}")
    more_files()
    say = Console(width=140)
    bench = Bench(QUICK if options.quick else FULL, options.store == "redis")
    for name in chosen:
        say.print(shown(uvloop.run(getattr(bench, name)())))
        say.print()


if __name__ == "__main__":
    main()
