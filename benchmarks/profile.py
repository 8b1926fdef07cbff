"""Where the CPU of a step goes: `python -m benchmarks.profile [small|agent|stream] [--store redis]`.

The gateway is loaded as in `python -m benchmarks`, and looked at while it is. The share of each part is that
of the looks which found it at work; microseconds are that share of a request's CPU, measured without looking.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.load import burst, script
from benchmarks.processes import Cores, Stand, Target
from benchmarks.run import CASES, Case


def looked_at(stand: Stand, target: Target, case: Case, directory: Path, core: int, seconds: int) -> float:
    """CPU µs of a request. The looks go into the sampler's file when the stand is stopped."""
    assert target.program is not None
    lua = script(directory, case.name, case.body)
    burst(target, lua, seconds=1, connections=case.connections, core=core)
    plain = burst(target, lua, seconds=seconds, connections=case.connections, core=core)
    os.kill(target.program.pid, signal.SIGUSR2)
    burst(target, lua, seconds=seconds, connections=case.connections, core=core)
    os.kill(target.program.pid, signal.SIGUSR2)
    time.sleep(0.2)
    stand.stop()
    return plain.cpu_us or 0.0


def show(found: dict[str, Any], cpu_us: float, case: Case, say: Console) -> None:
    """The tables."""
    looks = found["main"] + found["others"]
    table = Table(title=f"{case.name}: {cpu_us:,.0f} µs of CPU per request, {looks:,} looks")
    table.add_column("")
    table.add_column("µs", justify="right")
    table.add_column("share", justify="right")
    rows = [*found["parts"].items(), ("other threads (ledger, files)", found["others"])]
    for part, count in sorted(rows, key=lambda row: -row[1]):
        table.add_row(part, f"{count / looks * cpu_us:,.0f}", f"{count / looks:.1%}")
    say.print(table)
    table = Table(title="Functions by their own time")
    table.add_column("")
    table.add_column("share", justify="right")
    for name, count in list(found["functions"].items())[:20]:
        table.add_row(name, f"{count / looks:.1%}")
    say.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("case", nargs="?", default="small", choices=[case.name for case in CASES])
    parser.add_argument("--store", default="embedded", choices=["embedded", "redis"])
    parser.add_argument("--seconds", type=int, default=8)
    options = parser.parse_args(arguments)
    case = next(case for case in CASES if case.name == options.case)
    say = Console(width=None if sys.stdout.isatty() else 120)
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, {cores.load})
    with tempfile.TemporaryDirectory(prefix="gateway-profile-") as name:
        directory = Path(name)
        looks = directory / "looks.json"
        stand = Stand(directory, cores, serve=("benchmarks.sampler", str(looks)))
        try:
            target = next(t for t in stand.start([options.store]) if t.name == f"gateway, {options.store}")
            cpu_us = looked_at(stand, target, case, directory, cores.load, options.seconds)
        finally:
            stand.stop()
        show(orjson.loads(looks.read_bytes()), cpu_us, case, say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
