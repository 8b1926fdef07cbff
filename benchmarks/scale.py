"""What steps cost at each part, and how many of each that makes: `python -m benchmarks.scale`.

Measures the CPU of a step at the gateway and at Redis, the commands and bytes between the two, what stays in
Redis and for how long, and what the ledger takes and keeps. From that it works out sizes for 100 to 100,000
steps a second.

    python -m benchmarks.scale            measure, and work out
    python -m benchmarks.scale leases     one budget over several places: central, leased, counted afterwards

docs/scaling.md explains both.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import pwd
import re
import shutil
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import uvloop
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.growth_stand import (
    Agent,
    Call,
    Callers,
    Redis,
    cpu_ns,
    policy,
    provider,
    redis_server,
    serving,
    small,
)
from benchmarks.scale_leases import compared
from gateway.stores.ledger import SqlLedger
from tests.integration.ledger.conftest import PostgresServer
from tests.integration.ledger.events import attempt, encode
from tests.support.effort import slowness

AGENTS = 40
BUSY = 0.6
"""Share of a core that may be used on average, so that a busy minute still fits."""
REDIS_BUSY = 0.5
"""Redis answers one command after another: beyond this, waiting grows faster than the load."""
STEPS_PER_RUN = 10
RATES = (100, 1_000, 10_000, 100_000)
RETENTION_DAYS = 30


@dataclass(frozen=True)
class Step:
    """What one step of a kind costs."""

    name: str
    gateway_us: float
    redis_us: float
    commands: float
    to_redis: float
    from_redis: float
    """Bytes."""


@dataclass(frozen=True)
class Kept:
    """What one kind of key holds in Redis, per step."""

    kind: str
    per_step: float
    size: float
    ttl_s: float | None
    """Bytes of one, and how long it lives after it was last written; None has no end."""


@dataclass(frozen=True)
class Ledger:
    """What one database does with attempts."""

    name: str
    gateway_us: float
    """CPU of the worker that drains, per attempt."""
    server_us: float
    bytes: float


@dataclass(frozen=True)
class Found:
    """Everything measured."""

    steps: list[Step]
    kept: list[Kept]
    ledgers: list[Ledger]
    left_out: list[str]
    worker_mb: float


# -- steps ---------------------------------------------------------------------------------------------


@dataclass
class Meter:
    """What Redis has done until now."""

    redis: Redis

    def read(self) -> tuple[float, float, float, float]:
        """(CPU µs, commands, bytes in, bytes out)."""
        cpu: Any = self.redis.client.info("cpu")
        stats: Any = self.redis.client.info("stats")
        spent = float(cpu["used_cpu_user"] + cpu["used_cpu_sys"]) * 1e6
        return (
            spent,
            float(stats["total_commands_processed"]),
            float(stats["total_net_input_bytes"]),
            float(stats["total_net_output_bytes"]),
        )


async def measured(callers: Callers, name: str, calls: Sequence[Call]) -> Step:
    """One kind of step. What the gateway asks Redis while nothing happens is taken off."""
    assert callers.redis is not None
    meter = Meter(callers.redis)
    callers.running.calm()
    began, before = time.monotonic(), meter.read()
    await asyncio.sleep(2)
    idle = [(b - a) / (time.monotonic() - began) for a, b in zip(before, meter.read(), strict=True)]
    began, before, spent = time.monotonic(), meter.read(), callers.cpu()
    await callers.each(calls)
    callers.running.calm()
    took, after, slow = time.monotonic() - began, meter.read(), slowness()
    cpu, commands, sent, received = (
        (b - a - rest * took) / len(calls) for a, b, rest in zip(before, after, idle, strict=True)
    )
    return Step(name, (callers.cpu() - spent) / len(calls) / slow, cpu / slow, commands, sent, received)


def least(found: Sequence[Step]) -> Step:
    """The cheapest of several bursts: what the machine does beside only ever adds."""
    return Step(
        found[0].name,
        *(
            min(getattr(step, each) for step in found)
            for each in ("gateway_us", "redis_us", "commands", "to_redis", "from_redis")
        ),
    )


async def steps_and_keys(calls: int, times: int) -> tuple[list[Step], list[Kept], float, float]:
    """The kinds of steps, what stays in Redis, bytes of the ledger per step, memory of the worker."""
    async with provider() as upstream:
        with redis_server() as redis, serving(policy(upstream), GATEWAY_STORE_URL=redis.url) as running:
            callers = Callers(running, redis)

            def smalls() -> list[Call]:
                return [lambda connection: connection.call(small()) for _ in range(calls)]

            await callers.each(smalls())
            agents = [Agent() for _ in range(AGENTS)]
            await callers.each([agent.step for agent in agents])
            first = least([await measured(callers, "opens a run", smalls()) for _ in range(times)])
            runs = []
            for _ in range(times):
                fresh = [Agent() for _ in range(AGENTS)]
                await callers.each([agent.step for agent in fresh])
                # Steps 2 to 6 of each, in turn.
                runs.append(
                    await measured(callers, "goes on with one", [a.step for _ in range(5) for a in fresh])
                )
            steps = [first, least(runs)]
            there, size = set(redis.client.scan_iter(count=1000)), _ledger_bytes(running.directory)
            fresh = [Agent() for _ in range(AGENTS)]
            for _ in range(STEPS_PER_RUN):
                await callers.each([agent.step for agent in fresh])
            running.calm()
            written = AGENTS * STEPS_PER_RUN
            kept = _kept(redis, there, written)
            return steps, kept, (_ledger_bytes(running.directory) - size) / written, running.rss_mb


def _ledger_bytes(directory: Path) -> int:
    """Of the ledger's file, with nothing left beside it."""
    with closing(sqlite3.connect(directory / "data" / "ledger.db", timeout=30)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return (directory / "data" / "ledger.db").stat().st_size


def _kept(redis: Redis, there: set[bytes], steps: int) -> list[Kept]:
    """Of the keys that were not there before."""
    sizes, lives = defaultdict[str, float](float), defaultdict[str, float](float)
    found, endless = defaultdict[str, int](int), set[str]()
    for raw in set(redis.client.scan_iter(count=1000)) - there:
        name = raw.decode("utf-8", "replace")
        match = re.match(r"\{gw\}:(\w+)", name)
        kind = match[1] if match is not None else "other"
        found[kind] += 1
        usage: Any = redis.client.memory_usage(raw)
        ttl: Any = redis.client.pttl(raw)
        sizes[kind] += float(usage or 0)
        if ttl < 0:
            endless.add(kind)
        lives[kind] += max(float(ttl), 0.0) / 1000
    return [
        Kept(kind, count / steps, sizes[kind] / count, None if kind in endless else lives[kind] / count)
        for kind, count in sorted(found.items(), key=lambda each: -sizes[each[0]])
    ]


# -- the ledger ----------------------------------------------------------------------------------------


def attempts(count: int, first: int) -> list[tuple[str, bytes]]:
    """Attempts as a store emits them, ten to a run, charged to four budgets."""
    made = []
    for number in range(first, first + count):
        run = f"r{number // STEPS_PER_RUN}"
        charges = [[f"run:{run}", 0], [f"session:{run}", 0], [f"user:u{number % 97}", 0], ["global:h1", 0]]
        calls = [{"id": f"c{number}", "name": "read_file", "status": "delivered"}]
        made.append(
            attempt(
                f"a{number}",
                run,
                number % STEPS_PER_RUN + 1,
                session=run,
                user=f"u{number % 97}",
                charges=charges,
                tool_calls=calls,
            )
        )
    return encode(*made)


async def appended(
    url: str | None, directory: Path, count: int, server: psutil.Process | None
) -> tuple[float, float]:
    """CPU µs per attempt, here and at the server."""
    ledger = SqlLedger(url, data_dir=directory)
    await ledger.start()
    try:
        await ledger.append(attempts(500, 0))
        batches = [attempts(500, 500 * (number + 1)) for number in range(count // 500)]
        there, before = (cpu_ns(server) if server is not None else 0), time.process_time_ns()
        for batch in batches:
            await ledger.append(batch)
        here = time.process_time_ns() - before
        beyond = (cpu_ns(server) if server is not None else 0) - there
        if await ledger.verify():
            raise RuntimeError("the ledger's sums are not those of its attempts")
        slow = 1000 * count * slowness()
        return here / slow, beyond / slow
    finally:
        await ledger.close()


@contextmanager
def postgres() -> Iterator[PostgresServer | str]:
    """A server of its own, or why there is none."""
    found = shutil.which("initdb") or next(iter(Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
    if found is None:
        yield "PostgreSQL is not installed"
        return
    try:
        user = pwd.getpwnam("postgres").pw_name
    except KeyError:
        yield "there is no user that may run PostgreSQL"
        return
    folder = Path(tempfile.mkdtemp(prefix="gateway-scale-pg-"))
    try:
        shutil.chown(folder, user)
        folder.chmod(0o755)
        from benchmarks.processes import free_port

        server = PostgresServer(folder, free_port(), user)
        server.run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", user, "-N", "-E", "UTF8")
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def ledgers(count: int) -> tuple[list[Ledger], list[str]]:
    """SQLite, and Postgres where there is one."""
    found, left_out = [], []
    with tempfile.TemporaryDirectory(prefix="gateway-scale-") as name:
        here, _ = await appended(None, Path(name), count, None)
        size = sum(path.stat().st_size for path in Path(name).glob("ledger.db*") if path.is_file())
        found.append(Ledger("SQLite", here, 0.0, size / (count + 500)))
    with postgres() as server:
        if isinstance(server, str):
            left_out.append(f"Postgres: {server}")
            return found, left_out
        with tempfile.TemporaryDirectory(prefix="gateway-scale-") as name:
            pid = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
            tables = server.folder / "data" / "base"
            before = sum(path.stat().st_size for path in tables.rglob("*") if path.is_file())
            here, there = await appended(server.url(), Path(name), count, psutil.Process(pid))
            size = sum(path.stat().st_size for path in tables.rglob("*") if path.is_file()) - before
            found.append(Ledger("Postgres", here, there, size / (count + 500)))
    return found, left_out


# -- sizes ---------------------------------------------------------------------------------------------


def mean(found: Found) -> Step:
    """A step of a run of ten, of which the first opens it."""
    opens, goes_on = found.steps
    share = 1 / STEPS_PER_RUN
    return Step(
        "mean",
        *(
            share * getattr(opens, each) + (1 - share) * getattr(goes_on, each)
            for each in ("gateway_us", "redis_us", "commands", "to_redis", "from_redis")
        ),
    )


def live_bytes_per_rate(found: Found) -> float:
    """Bytes in Redis for each step a second: by Little's law, what a step leaves times how long it stays."""
    return sum(
        k.per_step * k.size * k.ttl_s for k in found.kept if k.ttl_s is not None and k.kind != "events"
    )


def sizes(found: Found) -> Table:
    """One column for each rate."""
    table = Table(title="Sizes, from the figures above", box=box.MARKDOWN, title_justify="left")
    table.add_column("steps a second")
    step, ledger, live = mean(found), found.ledgers[-1], live_bytes_per_rate(found)

    def for_rate(rate: int) -> dict[str, str]:
        cores = math.ceil(rate * step.gateway_us / 1e6 / BUSY)
        a_day = rate * ledger.bytes * 86_400
        return {
            "cores of gateways": f"{cores:,}",
            "memory of gateways, GB": f"{cores * found.worker_mb / 1024:,.1f}",
            "cores of Redis, busy": f"{rate * step.redis_us / 1e6:,.2f}",
            "Redis servers, half busy": f"{math.ceil(rate * step.redis_us / 1e6 / REDIS_BUSY):,}",
            "memory of Redis, GB": f"{rate * live / 1e9:,.1f}",
            "network of Redis, Mbit/s": f"{rate * (step.to_redis + step.from_redis) * 8 / 1e6:,.0f}",
            "ledger: cores that drain": f"{rate * ledger.gateway_us / 1e6:,.2f}",
            f"ledger: {ledger.name}'s cores": f"{rate * ledger.server_us / 1e6:,.2f}",
            "ledger: GB a day": f"{a_day / 1e9:,.0f}",
            f"ledger: TB in {RETENTION_DAYS} days": f"{a_day * RETENTION_DAYS / 1e12:,.1f}",
        }

    columns = [for_rate(rate) for rate in RATES]
    for rate in RATES:
        table.add_column(f"{rate:,}", justify="right")
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def show(found: Found, say: Console) -> None:
    """The tables."""
    table = Table(title="One step", box=box.MARKDOWN, title_justify="left")
    for name in (
        "",
        "gateway CPU µs",
        "Redis CPU µs",
        "Redis commands",
        "bytes to Redis",
        "bytes from Redis",
    ):
        table.add_column(name, justify="right" if name else "left")
    for step in (*found.steps, mean(found)):
        table.add_row(
            step.name if step.name != "mean" else f"mean of a run of {STEPS_PER_RUN}",
            *(f"{value:,.0f}" for value in (step.gateway_us, step.redis_us)),
            f"{step.commands:.1f}",
            *(f"{value:,.0f}" for value in (step.to_redis, step.from_redis)),
        )
    say.print(table, "")
    table = Table(title="What stays in Redis", box=box.MARKDOWN, title_justify="left")
    for name in ("{gw}:", "keys per step", "bytes each", "lives for", "bytes for each step a second"):
        table.add_column(name, justify="right" if name != "{gw}:" else "left")
    for kept in found.kept:
        life = "always" if kept.ttl_s is None else f"{kept.ttl_s:,.0f} s"
        held = "" if kept.ttl_s is None else f"{kept.per_step * kept.size * kept.ttl_s:,.0f}"
        table.add_row(kept.kind, f"{kept.per_step:.2f}", f"{kept.size:,.0f}", life, held)
    say.print(table, "")
    table = Table(title="The ledger, per attempt", box=box.MARKDOWN, title_justify="left")
    for name in ("", "CPU µs of who drains", "CPU µs of the server", "attempts/s by one core", "bytes kept"):
        table.add_column(name, justify="right" if name else "left")
    for ledger in found.ledgers:
        limit = 1e6 / max(ledger.gateway_us, ledger.server_us)
        figures = (ledger.gateway_us, ledger.server_us, limit, ledger.bytes)
        table.add_row(ledger.name, *(f"{value:,.0f}" for value in figures))
    say.print(table, "")
    for left_out in found.left_out:
        say.print(f"left out: {left_out}")
    say.print(sizes(found))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=["measure", "leases"], default="measure")
    parser.add_argument("--quick", action="store_true", help="shows that it works; the figures mean nothing")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation")
    options = parser.parse_args()
    say = Console(width=140)
    if options.what == "leases":
        say.print(compared(options.seed, 2_000 if options.quick else 40_000))
        return
    calls, times, count = (40, 1, 1_000) if options.quick else (300, 3, 10_000)
    steps, kept, _, worker_mb = uvloop.run(steps_and_keys(calls, times))
    databases, left_out = asyncio.run(ledgers(count))
    show(Found(steps, kept, databases, left_out, worker_mb), say)


if __name__ == "__main__":
    main()
