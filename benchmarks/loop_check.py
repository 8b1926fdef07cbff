"""What the loop check costs a step: reading the trace, the new results' health, the rules, and what is kept.

    python -m benchmarks.loop_check

For each length of history: the first request that shows it (nothing is remembered); the next step of a run
whose last step this process has seen; and the next step of one that the store's record tells of, as where
the provider keeps the history. Microseconds of processor time. Other work on the machine only ever adds to
them, mostly by emptying caches, so beside the medians stands the least of the next step.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import ParamSpec

from gateway.domain import Answer, Item, Role, Text, ToolCall
from gateway.rules.fingerprint import Fingerprints
from gateway.rules.loops import LoopRules, detect
from gateway.rules.trace import EMPTY, Trace, answered, dump, load, merged

P = ParamSpec("P")
STEPS = (10, 50, 200)
RESULT_BYTES = 2048
ROUNDS = 25
_RULES = LoopRules()
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


def _answer(item: Item) -> Answer:
    return Answer(texts=tuple(t.text for t in item.texts), calls=item.calls)


def check(recorded: Trace, items: list[Item], step: int, prints: Fingerprints) -> Trace:
    """What is done before a step is sent."""
    trace = merged(recorded, items, step, step * RESULT_BYTES, prints)
    prints.health(items[-1])
    detect(trace, _RULES)
    return trace


def step(seen: Trace, items: list[Item], number: int, prints: Fingerprints, answer: Answer) -> Trace:
    """A step of a run whose last step this process has seen."""
    return answered(check(seen, items, number, prints), answer, prints)


def step_by_record(
    record: bytes, items: list[Item], number: int, prints: Fingerprints, answer: Answer
) -> bytes:
    """A step of a run that the store's record tells of."""
    return dump(step(load(record), items, number, prints, answer))


def _timed(work: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> float:
    start = time.thread_time()
    work(*args, **kwargs)
    return (time.thread_time() - start) * 1e6


def main() -> None:
    """Print a table."""
    print(
        f"{'':>6}{'first, µs':>12}{'next step, µs':>21}{'by the record, µs':>20}{'record,':>10}\n"
        f"{'steps':>6}{'median':>12}{'least':>11}{'median':>10}{'median':>20}{'bytes':>10}"
    )
    for steps in STEPS:
        first, following, recorded, size = [], [], [], 0
        for seed in range(ROUNDS):
            items = history(steps, seed)
            answer = _answer(items[-2])
            first.append(_timed(check, EMPTY, _again(items), steps + 1, Fingerprints()))
            prints = Fingerprints()
            seen = step(EMPTY, items[:-2], steps, prints, answer)
            following.append(_timed(step, seen, _again(items), steps + 1, prints, answer))
            prints = Fingerprints()
            record = dump(step(EMPTY, items[:-2], steps, prints, answer))
            size = len(record)
            recorded.append(_timed(step_by_record, record, _again(items), steps + 1, prints, answer))
        print(
            f"{steps:>6}{statistics.median(first):>12.0f}{min(following):>11.0f}"
            f"{statistics.median(following):>10.0f}{statistics.median(recorded):>20.0f}{size:>10}"
        )


if __name__ == "__main__":
    main()
