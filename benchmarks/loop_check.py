"""What the loop check costs a step: reading the trace, joining it with the record, and the rules.

    python -m benchmarks.loop_check

For each length of history: the first request that shows it (nothing is remembered), and the next step of a
run whose earlier steps this process has seen. Microseconds of processor time, medians.
"""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import replace

from gateway.domain import Item, Role, Text, ToolCall
from gateway.rules.fingerprint import Fingerprints
from gateway.rules.loops import LoopRules, detect
from gateway.rules.trace import EMPTY, Trace, dump, load, merged

STEPS = (10, 50, 200)
RESULT_BYTES = 2048
ROUNDS = 15
_WORDS = [
    f"{a}{b}" for a in ("river", "copper", "silent", "window") for b in ("gate", "line", "mark", "stone")
]


def history(steps: int, seed: int) -> list[Item]:
    """A conversation of so many tool calls, each with a result of some 2 KB in lines of prose and numbers."""
    r = random.Random(seed)
    items = [Item(Role.SYSTEM, (Text("You are helpful.", ()),)), Item(Role.USER, (Text("Go on.", ()),))]
    for i in range(steps):
        call = ToolCall(f"call_{i:024}", "read_file", f'{{"path": "src/{r.random()}.py", "limit": 200}}')
        items.append(Item(Role.ASSISTANT, (Text(f"Now I read file {i}.", ()),), calls=(call,)))
        lines: list[str] = []
        while sum(len(line) for line in lines) < RESULT_BYTES:
            lines.append(" ".join([*r.choices(_WORDS, k=5), str(r.randint(0, 99999))]))
        items.append(Item(Role.TOOL, (Text("\n".join(lines), ()),), call_id=call.id))
    return items


def _again(items: list[Item]) -> list[Item]:
    """The same conversation as new strings, as every request brings it."""
    return [replace(item, texts=tuple(Text((t.text + " ")[:-1], ()) for t in item.texts)) for item in items]


def _timed(recorded: bytes, items: list[Item], step: int, prints: Fingerprints) -> float:
    start = time.thread_time()
    check(recorded, items, step, prints)
    return (time.thread_time() - start) * 1e6


def check(recorded: bytes, items: list[Item], step: int, prints: Fingerprints) -> Trace:
    """All that is done at one step."""
    trace = merged(load(recorded), items, step, step * RESULT_BYTES, prints)
    detect(trace, LoopRules())
    dump(trace)
    return trace


def main() -> None:
    """Print a table."""
    print(f"{'steps':>6}{'first, µs':>12}{'next step, µs':>15}{'per step, µs':>14}{'trace, bytes':>14}")
    for steps in STEPS:
        first, following, size = [], [], 0
        for seed in range(ROUNDS):
            items = history(steps, seed)
            first.append(_timed(b"", items, steps + 1, Fingerprints()))
            prints = Fingerprints()
            recorded = dump(check(dump(EMPTY), items[:-2], steps, prints))
            size = len(recorded)
            following.append(_timed(recorded, _again(items), steps + 1, prints))
        cold, warm = statistics.median(first), statistics.median(following)
        print(f"{steps:>6}{cold:>12.0f}{warm:>15.0f}{cold / steps:>14.1f}{size:>14}")


if __name__ == "__main__":
    main()
