"""Texts of which the embedded detector of instructions is not sure, and what the tiers behind it say of them.

    embedded detector ──► classifier, for scores in its band ──► left open, for scores in the judge's band

What is left open is told as findings of two detectors that no rule is about: `suspected`, which is an attack
unless a judge says otherwise, and `uncertain`, which is none unless a judge says so. Whoever has no judge, or
no answer of one, `settle`s them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.screening.base import Channel, Finding
from gateway.screening.injection import DETECTOR, Injection
from gateway.screening.json_texts import unescaped
from gateway.screening.normalise import normalise

if TYPE_CHECKING:
    from gateway.screening.engine import Looks

SUSPECTED, UNCERTAIN = "suspected", "uncertain"
OPEN = frozenset((SUSPECTED, UNCERTAIN))
DEEPER: frozenset[Channel] = frozenset(("user", "tool", "definition"))
"""Channels that the deeper tiers look at: the operator's own prompt gives orders by its nature."""
_LEAST = 0.001
_AROUND = 500
"""Characters on either side of what is suspicious that a judge is shown of a long text."""
_CUT = "\n[...]\n"


class Suspicion(Injection):
    """A detector with lower thresholds: where in a text is what is uncertain about it?"""

    def __init__(self, detector: Injection, low: float) -> None:
        """`low` is the score from which on a text is to be flagged."""
        self._models = detector._models
        by = max(0.0, math.log(1 / max(low, _LEAST) - 1)) if low < 1 else 0.0
        self._thresholds = {channel: each.raised(-by) for channel, each in detector._thresholds.items()}


def instructions(text: str, channel: Channel, detector: Injection, looks: Looks) -> Sequence[Finding]:
    """What the tiers that `looks` names find in a text, and what they leave open."""
    judged = detector.scan(text, channel)
    classifier, judge = looks.classifier, looks.judge
    if channel not in DEEPER or (classifier is None and judge is None):
        return judged.findings
    flagged, score, found = judged.flagged, judged.score, judged.findings
    first = classifier.low if classifier is not None else judge[0] if judge is not None else 0.5

    def suspects() -> Sequence[Finding]:
        return judged.findings or Suspicion(detector, first).scan(text, channel).findings

    if classifier is not None and classifier.low <= score <= classifier.high:
        # It takes libraries that are there only where a policy wants it.
        from gateway.screening.classifier import classify

        score, found = classify(text, classifier, suspects)
        flagged = bool(found)
    if judge is None or not judge[0] <= score <= judge[1]:
        return found
    name = SUSPECTED if flagged else UNCERTAIN
    places = found or suspects() or [Finding(DETECTOR, "injected_instruction", 0, len(text), score)]
    return [replace(each, detector=name, score=score) for each in places]


def is_open(findings: Iterable[Finding]) -> bool:
    """Whether a judge has to decide."""
    return any(found.detector in OPEN for found in findings)


def settle(findings: Iterable[Finding], attack: bool | None = None) -> list[Finding]:
    """The findings with what was left open decided; `None` where nobody has: as the tiers before have it."""
    settled: list[Finding] = []
    for found in findings:
        if found.detector not in OPEN:
            settled.append(found)
        elif attack or (attack is None and found.detector == SUSPECTED):
            settled.append(replace(found, detector=DETECTOR))
    return settled


def excerpt(text: str, findings: Iterable[Finding], most: int) -> str | None:
    """What a judge is shown of a text, in one form and with what is written in it in an encoding. Of a longer
    text than `most` characters it is what was left open with the text around it; None if that is too long."""
    shown = _shown(text)
    if len(shown) <= most:
        return shown
    parts: list[list[int]] = []
    for found in sorted((f for f in findings if f.detector in OPEN), key=lambda f: f.start):
        start, end = max(0, found.start - _AROUND), min(len(text), found.end + _AROUND)
        if parts and start <= parts[-1][1]:
            parts[-1][1] = max(parts[-1][1], end)
        else:
            parts.append([start, end])
    if sum(end - start for start, end in parts) > most:
        return None
    shown = _shown(_CUT.join(text[start:end] for start, end in parts))
    return shown if 0 < len(shown) <= most else None


def _shown(text: str) -> str:
    form = normalise(unescaped(text).text)
    return "".join([form.text, *[f"\n[Hidden in it, decoded:] {inner.text}" for inner in form.decoded]])
