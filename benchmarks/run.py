"""Measures, compares, prints. docs/benchmarks.md explains the figures and what they are held against."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks import bodies
from benchmarks.load import Throughput, burst, latencies_at, script
from benchmarks.processes import Cores, Stand, Target

RATE = 100.0
"""Requests per second of the latency runs."""
BASE = "pass-through"
DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often. Every target is measured once per round, one after another, so that a
    neighbour's load falls on all of them alike."""

    rounds: int
    seconds: int
    latency_rounds: int
    latency_s: float


FULL = Plan(rounds=5, seconds=3, latency_rounds=5, latency_s=5.0)
QUICK = Plan(rounds=1, seconds=1, latency_rounds=1, latency_s=2.0)


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request. `connections` keep the measured core busy; a stream's are few enough that every
    piece still arrives, and is passed on, by itself."""

    name: str
    body: bytes
    connections: int
    pieces: int = 1


CASES = (
    Case("small", bodies.small(), 32),
    Case("agent", bodies.agent(), 32),
    Case("stream", bodies.streamed(), 24, bodies.CHUNKS),
)


@dataclass
class Figures:
    """Everything measured: by (target, case), one entry per round."""

    bursts: dict[tuple[str, str], list[Throughput]] = field(default_factory=dict)
    latencies: dict[str, list[list[float]]] = field(default_factory=dict)

    def cpu_us(self, target: str, case: str) -> float:
        """CPU of the process per request; the median over the rounds."""
        return statistics.median(b.cpu_us or 0.0 for b in self.bursts[target, case])

    def rps(self, target: str, case: str) -> float:
        """Requests per second that `wrk` saw; the median over the rounds."""
        return statistics.median(b.rps for b in self.bursts[target, case])

    def cpu_ratio(self, target: str, case: str) -> float:
        """CPU per request over the pass-through's, round by round; the median."""
        pairs = zip(self.bursts[target, case], self.bursts[BASE, case], strict=True)
        return statistics.median((own.cpu_us or 0.0) / (base.cpu_us or 1.0) for own, base in pairs)

    def rps_ratio(self, target: str, case: str) -> float:
        """Requests per second over the pass-through's, round by round; the median."""
        pairs = zip(self.bursts[target, case], self.bursts[BASE, case], strict=True)
        return statistics.median(own.rps / base.rps for own, base in pairs)

    def latency_ms(self, target: str, percent: int) -> float:
        """A percentile of the latency, in milliseconds; the median over the rounds."""
        return statistics.median(_percentile(values, percent) for values in self.latencies[target]) * 1000

    def added_ms(self, target: str, percent: int) -> float:
        """A percentile less that of direct calls in the same round; the median over the rounds."""
        pairs = zip(self.latencies[target], self.latencies[DIRECT], strict=True)
        return statistics.median(_percentile(a, percent) - _percentile(b, percent) for a, b in pairs) * 1000


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that a run has to show."""

    text: str
    limit: str
    found: float
    holds: bool


def measure(plan: Plan, targets: Sequence[Target], directory: Path, cores: Cores, say: Console) -> Figures:
    """Warm everything up, then go round."""
    figures = Figures()
    scripts = {case.name: script(directory, case.name, case.body) for case in CASES}
    for target in targets:
        for case in CASES:
            burst(target, scripts[case.name], seconds=1, connections=case.connections, core=cores.load)
    for number in range(plan.rounds):
        say.print(f"[dim]throughput, round {number + 1} of {plan.rounds}[/dim]")
        for case in CASES:
            for target in targets:
                got = burst(
                    target,
                    scripts[case.name],
                    seconds=plan.seconds,
                    connections=case.connections,
                    core=cores.load,
                )
                figures.bursts.setdefault((target.name, case.name), []).append(got)
    for number in range(plan.latency_rounds):
        say.print(f"[dim]latency at {RATE:g}/s, round {number + 1} of {plan.latency_rounds}[/dim]")
        for target in targets:
            time.sleep(0.3)
            values = latencies_at(target, CASES[0].body, rate=RATE, seconds=plan.latency_s)
            figures.latencies.setdefault(target.name, []).append(values)
    return figures


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def claims(figures: Figures, targets: Sequence[Target]) -> list[Claim]:
    """What has to hold, and whether it does. A share of requests per second is the lower of two: as `wrk` saw
    it, and by CPU per request, which a slow load generator cannot flatter."""
    found: list[Claim] = []
    for target in targets:
        least = {"gateway, embedded": 0.40, "gateway, redis": 0.25}.get(target.name)
        if least is None:
            continue
        name = target.name
        share = min(figures.rps_ratio(name, "small"), 1 / figures.cpu_ratio(name, "small"))
        found.append(Claim(f"{name}: share of requests/s, small", f"≥ {least:.2f}", share, share >= least))
        for percent, most in ((50, 1.5), (99, 6.0)):
            added = figures.added_ms(name, percent)
            found.append(
                Claim(f"{name}: added latency p{percent} at 100/s, ms", f"< {most}", added, added < most)
            )
        ratio = figures.cpu_ratio(name, "stream")
        found.append(Claim(f"{name}: CPU per streamed chunk", "≤ 1.6 x", ratio, ratio <= 1.6))
    return found


def show(
    figures: Figures, targets: Sequence[Target], verdicts: Sequence[Claim], cores: Cores, say: Console
) -> None:
    """The tables."""
    table = Table(title="CPU of one process (primary), and requests per second through it")
    for column in (
        "",
        "CPU µs/request",
        "x pass-through",
        "requests/s per core",
        "measured requests/s",
        "share",
    ):
        table.add_column(column, justify="left" if not column else "right")
    for case in CASES:
        size = f"{len(case.body):,} bytes"
        label = size if case.pieces == 1 else f"{size}, {case.pieces} chunks"
        table.add_row(f"[bold]{case.name}[/bold] ({label})")
        for target in targets:
            measured = f"{figures.rps(target.name, case.name):,.0f}"
            if target.program is None:
                table.add_row(f"  {target.name}", "", "", "", measured, "")
                continue
            cpu = figures.cpu_us(target.name, case.name)
            per_request = f"{cpu:,.0f}"
            if case.pieces > 1:
                per_request += f" ({cpu / case.pieces:.1f} per chunk)"
            table.add_row(
                f"  {target.name}",
                per_request,
                f"{figures.cpu_ratio(target.name, case.name):.2f}",
                f"{1e6 / cpu:,.0f}",
                measured if case.pieces == 1 else f"{measured} (paced)",
                f"{figures.rps_ratio(target.name, case.name):.2f}" if case.pieces == 1 else "",
            )
    say.print(table)

    table = Table(title=f"Latency of the small call at {RATE:g} requests/s, ms")
    for column in ("", "p50", "p99", "added p50", "added p99"):
        table.add_column(column, justify="left" if not column else "right")
    for target in targets:
        row = [f"{figures.latency_ms(target.name, p):.2f}" for p in (50, 99)]
        row += [f"{figures.added_ms(target.name, p):.2f}" if target.program else "" for p in (50, 99)]
        table.add_row(target.name, *row)
    say.print(table)

    table = Table(title="Has to show")
    for column in ("", "limit", "found", ""):
        table.add_column(column, justify="left" if not column else "right")
    for claim in verdicts:
        mark = "[green]yes[/green]" if claim.holds else "[red]NO[/red]"
        table.add_row(claim.text, claim.limit, f"{claim.found:.2f}", mark)
    say.print(table)
    where = (
        f"Each process under test on core {cores.measured} alone; wrk, the client, the canned upstream and "
        f"redis-server share core {cores.load}."
    )
    if cores.measured == cores.load:
        where = "One core for everything: only CPU per request and its ratios mean anything."
    say.print(f"{where} Medians of interleaved rounds; every request opens a new run.", soft_wrap=True)
    for target in targets:
        if target.program is not None:
            say.print(f"[dim]{target.name}: {target.program.rss_mb:.0f} MB resident at the end[/dim]")


def as_json(
    plan: Plan,
    figures: Figures,
    targets: Sequence[Target],
    verdicts: Sequence[Claim],
    stand: Stand,
    cores: Cores,
) -> dict[str, Any]:
    """Everything, for machines: medians, each round, and where it ran."""
    packages = ("aiohttp", "httptools", "orjson", "uvicorn", "uvloop", "guardrail-gateway")
    return {
        "machine": {
            "python": platform.python_version(),
            "processor": _processor(),
            "cores": {"measured": cores.measured, "load": cores.load},
            "packages": {name: _version(name) for name in packages},
        },
        "plan": {"rounds": plan.rounds, "seconds": plan.seconds, "latency_rounds": plan.latency_rounds},
        "left_out": stand.left_out,
        "cases": {
            case.name: {
                target.name: {
                    "cpu_us": figures.cpu_us(target.name, case.name) if target.program else None,
                    "cpu_ratio": figures.cpu_ratio(target.name, case.name) if target.program else None,
                    "rps": figures.rps(target.name, case.name),
                    "rps_ratio": figures.rps_ratio(target.name, case.name),
                    "rounds": [
                        {"cpu_us": b.cpu_us, "rps": b.rps, "requests": b.requests}
                        for b in figures.bursts[target.name, case.name]
                    ],
                }
                for target in targets
            }
            for case in CASES
        },
        "latency_ms": {
            target.name: {
                f"{kind}p{percent}": value(target.name, percent)
                for percent in (50, 90, 99)
                for kind, value in (("", figures.latency_ms), ("added_", figures.added_ms))
            }
            for target in targets
        },
        "claims": [{"text": c.text, "limit": c.limit, "found": c.found, "holds": c.holds} for c in verdicts],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 when `--check` was given and something that has to hold does not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about half a minute, for CI; figures are rough")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there too")
    parser.add_argument("--check", action="store_true", help="fail when a figure misses what it has to show")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else FULL
    say = Console(width=None if sys.stdout.isatty() else 120)
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, {cores.load})
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        directory = Path(name)
        stand = Stand(directory, cores)
        try:
            targets = stand.start()
            for left_out, why in stand.left_out.items():
                say.print(f"[yellow]left out: {left_out}[/yellow]: {why}")
            figures = measure(plan, targets, directory, cores, say)
            verdicts = claims(figures, targets)
            show(figures, targets, verdicts, cores, say)
            if options.json is not None:
                data = as_json(plan, figures, targets, verdicts, stand, cores)
                options.json.write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2))
        finally:
            stand.stop()
    return 1 if options.check and not all(claim.holds for claim in verdicts) else 0
