"""What a step adds to a run's trace, small enough to stand on the step's record, and the trace again from it.

    trace at a step ──news──► on record        records of a run, in their order ──Retold──► trace at each step

There is nothing of any text in it: calls, results and what was said are digests, as in the trace itself.
"""

from __future__ import annotations

from typing import Any

from gateway.domain import Json
from gateway.rules.trace import MAX_FACTS, Fact, Said, Trace

MAX_SAID, MAX_SIZES = 32, 32


def news(trace: Trace) -> Json:
    """What is new at the trace's step; everything, at the run's first. `n` and `m` are how many facts and
    texts the trace has then, since a new task forgets those of the one before."""
    facts, said = trace.facts, trace.said
    if trace.step > 1:
        facts = tuple([fact for fact in facts if fact.step >= trace.step])
        said = tuple([text for text in said if text.step >= trace.step])
    told: Json = {"n": len(trace.facts), "size": trace.sizes[-1][1] if trace.sizes else 0}
    if facts:
        told["facts"] = [
            [
                fact.name,
                (fact.call + fact.coarse + fact.near).hex(),
                fact.result.hex(),
                fact.status,
                fact.step,
                fact.novelty,
                fact.size,
                fact.shape,
                fact.failing,
                fact.pauses,
            ]
            for fact in facts
        ]
    if trace.said:
        told["m"] = len(trace.said)
    if said:
        told["said"] = [
            [
                text.text.hex(),
                text.near.hex(),
                text.reply.hex(),
                text.step,
                f"{text.bag:x}",
                text.code,
                text.acted,
                text.courtesy,
                f"{text.told:x}",
            ]
            for text in said
        ]
    if trace.repeats:
        told["repeats"] = trace.repeats
    return told


class Retold:
    """The trace of one run, step by step, from what its steps told."""

    def __init__(self) -> None:
        self._facts: list[Fact] = []
        self._said: list[Said] = []
        self._sizes: list[tuple[int, int]] = []
        self._counts: dict[str, tuple[int, int]] = {}

    def take(self, told: Any, step: int) -> Trace | None:
        """The trace at a step. None for one that told nothing, or that fits to nothing before. A step that
        was tried again tells the same again."""
        if not isinstance(told, dict):
            return None
        try:
            facts = [_fact(row) for row in told.get("facts", ())]
            said = [_said(row) for row in told.get("said", ())]
            shown, spoken = int(told["n"]), int(told.get("m", 0))
            size, repeats = int(told["size"]), int(told.get("repeats", 0))
        except (KeyError, TypeError, ValueError, IndexError):
            return None
        first = step if step > 1 else -(1 << 31)
        while self._facts and self._facts[-1].step >= first:
            self._count(self._facts.pop(), -1)
        while self._said and self._said[-1].step >= first:
            self._said.pop()
        while self._sizes and self._sizes[-1][0] >= step:
            self._sizes.pop()
        for fact in facts:
            self._count(fact, 1)
        self._facts += facts
        self._said += said
        self._sizes.append((step, size))
        del self._facts[: -2 * MAX_FACTS], self._said[: -2 * MAX_SAID], self._sizes[:-MAX_SIZES]
        if len(self._facts) < min(shown, MAX_FACTS) or len(self._said) < min(spoken, MAX_SAID):
            return None
        return Trace(
            step,
            facts=tuple(self._facts[-shown:][-MAX_FACTS:]) if shown else (),
            said=tuple(self._said[-spoken:][-MAX_SAID:]) if spoken else (),
            sizes=tuple(self._sizes),
            counts={name: counts for name, counts in self._counts.items() if counts[0]},
            repeats=repeats,
        )

    def _count(self, fact: Fact, by: int) -> None:
        calls, errors = self._counts.get(fact.name, (0, 0))
        self._counts[fact.name] = (calls + by, errors + by * (fact.status == "error"))


def _fact(row: Any) -> Fact:
    name, prints, result, status, step, novelty, size, shape, failing, pauses = row
    raw = bytes.fromhex(prints)
    return Fact(
        str(name),
        raw[:8],
        raw[8:16],
        raw[16:],
        bytes.fromhex(result),
        str(status),
        int(step),
        int(novelty),
        int(size),
        int(shape),
        bool(failing),
        bool(pauses),
    )


def _said(row: Any) -> Said:
    text, near, reply, step, bag, code, acted, courtesy, told = row
    return Said(
        bytes.fromhex(text),
        bytes.fromhex(near),
        bytes.fromhex(reply),
        int(step),
        int(bag, 16),
        bool(code),
        bool(acted),
        bool(courtesy),
        int(told, 16),
    )
