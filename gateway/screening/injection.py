"""Prompt injection and jailbreaks: does a text give the model orders that its author may not give?

A text is normalised, cut into sentences, and every window of neighbouring sentences is scored by a linear
model over hashed n-grams and patterns; the highest score is the text's. So a document of any length is read
whole, in linear time, and an attack is found where it stands. What is written in an encoding is scored the
same way, and reported at the place of its encoded form.

There is one model for what users say and one for everything else: what users may say (`ignore my last
message`, `act as a translator`) is an attack in a tool's result.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import re2
from numpy.typing import NDArray

from gateway.screening.base import Channel, Finding
from gateway.screening.features import Floats, Grams, Ints, Windows, grams, windows
from gateway.screening.linear import WEIGHTS, Hits, Model, Thresholds, load
from gateway.screening.normalise import normalise
from gateway.screening.patterns import EVIDENCE_ONLY, NAMES, hits
from gateway.values import frozen

DETECTOR = "injection"

_READ_BY: dict[Channel, tuple[str, float]] = {
    "user": ("user", 0.0),
    "tool": ("tool", 0.0),
    "assistant": ("tool", 1.0),
    "output": ("tool", 1.0),
    "definition": ("tool", 1.0),
    "system": ("tool", 2.5),
}
"""The model that reads a channel, and by how much its thresholds are raised there.

Answers and descriptions of tools tell someone what to do by their nature, and so does the operator's prompt,
more than anything; what is flagged there has to look much more like an attack.
"""

_UNSEEN = ("tags", "selectors")
_SURE_UNSEEN = 3.0
_REACH = 1.5
"""In a flagged text, a sentence belongs to an attack down to so much below the threshold."""


@frozen
class InjectionResult:
    """What was found in one text."""

    score: float
    """From 0 to 1; 0.5 is the threshold for `flagged`."""
    flagged: bool
    findings: tuple[Finding, ...]
    """The sentences that gave rise to it, in order, without overlap; empty unless flagged."""


class Injection:
    """The detector. Immutable once made; safe to share between threads."""

    def __init__(
        self, weights: Path | None = None, thresholds: Mapping[Channel, Thresholds] | None = None
    ) -> None:
        """`thresholds` replaces the shipped ones of some channels. Raises OSError without weights."""
        models = load(weights or WEIGHTS)
        self._models = {channel: models[name] for channel, (name, _) in _READ_BY.items()}
        self._thresholds = {
            channel: models[name].thresholds.raised(by) for channel, (name, by) in _READ_BY.items()
        }
        self._thresholds.update(thresholds or {})

    def scan(self, text: str, channel: Channel) -> InjectionResult:
        """Judge one text. Linear in its length; never raises, whatever the text."""
        form = normalise(text)
        limits = self._thresholds[channel]
        model = self._models[channel]
        tells = channel == "tool"
        score, spans = _read(model, form.text, limits.flag, tells, hidden=False)
        found = [
            Finding(DETECTOR, kind, *form.original(start, end), _scaled(value, limits))
            for kind, start, end, value in spans
        ]
        for inner in form.decoded:
            value, parts = _read(model, inner.text, limits.flag, tells, hidden=True)
            if inner.kind in _UNSEEN and len(inner.text.split()) > 1:
                value = max(value, limits.flag + _SURE_UNSEEN)
                parts = parts or [("hidden_text", 0, 0, value)]
            if parts:
                found.append(Finding(DETECTOR, parts[0][0], inner.start, inner.end, _scaled(value, limits)))
            score = max(score, value)
        flagged = score >= limits.flag
        if not flagged:
            return InjectionResult(_scaled(score, limits), False, ())
        return InjectionResult(_scaled(score, limits), True, tuple(_apart(found)))


def _scaled(score: float, limits: Thresholds) -> float:
    """A score from 0 to 1, where 0.5 is the threshold."""
    return 1 / (1 + math.exp(min(50.0, limits.flag - score)))


_STRUCTURE = ' \n\t"{}[]|<,:-*#'
"""What a sentence may be followed by before the next one begins, and does not belong to it."""
_NOTHING = -math.inf
_Span = tuple[str, int, int, float]


def _read(model: Model, text: str, flag: float, tells: bool, hidden: bool) -> tuple[float, list[_Span]]:
    """The score of a normalised text, and its flagged sentences as `(kind, start, end, score)`.

    `tells`: whether the text may only tell, so that plain words to override are an attack. `hidden`: whether
    it was found inside another, in an encoding.
    """
    g = grams(text)
    if g is None:
        return _NOTHING, []
    found = _without_armour(g.folded, hits(g.folded))
    view = windows(g)
    scores = model.scores(g, view, found)
    if tells:
        if (
            not hidden
            and len(g.units) - 1 <= _ALONE
            and not any(NAMES[index] in _MARKS for index, _, _ in found)
        ):
            scores = scores - _NO_CONTEXT
        _raise_plain(g, scores, found, flag)
    best = float(scores.max())
    if best < flag:
        return best, []
    return best, _spans(g, view, scores, found, flag)


_DASHES = "-----"
_ARMOUR = re2.compile(
    r"-----(?:begin|end) [a-z0 ]{0,24}"
    r"(?:certificate|certificate request|crl|key|key block|parameters|signature|message)-----"
)


def _without_armour(folded: str, found: Hits) -> Hits:
    """The hits that are not the lines around a certificate or a key: `END CERTIFICATE` ends no document."""
    if not found or _DASHES not in folded:
        return found
    spans = [match.span() for match in _ARMOUR.finditer(folded)]
    ends = [end for _, end in spans]

    def inside(start: int) -> bool:
        at = bisect_left(ends, start + 1)
        return at < len(spans) and spans[at][0] <= start

    return [hit for hit in found if not inside(hit[1])]


_ALONE, _NO_CONTEXT = 2, 2.0
"""A text of so few sentences has nothing around a request that makes it an attack: it takes so much more."""
_MARKS = frozenset(
    (
        "instruction_override",
        "foreign_override",
        "new_instructions",
        "role_marker",
        "concealment",
        "addressed_to_model",
        "persona",
        "command",
        "authority",
        "prompt_extraction",
    )
)
"""Patterns that no ordinary request has."""
_PLAIN = re2.compile(
    r"\b(?:ignore|disregard|forget)\s(?:\S+\s){0,4}?(?:instructions?|prompts?|guidelines|directives)\b"
    r"|\b(?:ignore|disregard|forget)\s(?:all of |everything |all )?(?:the )?(?:above|before this)\b"
)
_OVERRIDE, _FOREIGN, _ABOUT = "instruction_override", "foreign_override", "discussion"
_PLAINLY = 0.5


def _raise_plain(g: Grams, scores: Floats, found: Hits, flag: float) -> None:
    """Raise sentences that plainly say to override what was said before over the threshold.

    In other languages there are too few texts to learn how they say it. In English a text about attacks
    quotes such sentences; where words of such a text occur, what was learned decides.
    """
    names = {NAMES[index] for index, _, _ in found}
    if _ABOUT in names:
        return
    for index, start, end in found:
        name = NAMES[index]
        english = name == _OVERRIDE and _PLAIN.search(g.folded[start:end])
        if english or (name == _FOREIGN and _OVERRIDE not in names):
            sentence = int(np.searchsorted(g.units, end - 1, side="right")) - 1
            scores[sentence] = max(scores[sentence], flag + _PLAINLY)


def _spans(g: Grams, view: Windows, scores: Floats, found: Hits, flag: float) -> list[_Span]:
    """The flagged sentences, neighbours joined."""
    chosen, value = _sentences(view, scores, len(g.units) - 1, flag)
    named = sorted((end - 1, index) for index, _start, end in found if NAMES[index] not in EVIDENCE_ONLY)
    places = [place for place, _index in named]
    spans: list[_Span] = []
    padded = np.zeros(len(chosen) + 2, np.bool_)
    padded[1:-1] = chosen
    edges = (padded[1:] != padded[:-1]).nonzero()[0]
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        start, end = int(g.units[first]), int(g.units[last])
        inside = named[bisect_left(places, start) : bisect_left(places, end)]
        # The most telling pattern names it.
        kind = NAMES[min(index for _, index in inside)] if inside else "injected_instruction"
        end = start + len(g.folded[start:end].rstrip(_STRUCTURE))
        spans.append((kind, start, end, float(value[first:last].max())))
    return spans


def _sentences(view: Windows, scores: Floats, count: int, flag: float) -> tuple[NDArray[np.bool_], Floats]:
    """Which sentences of a flagged text belong to its attacks, and the score each takes from its best window.

    Where something is an attack, what comes near the threshold is one as well: each of two attacks is less
    of a contrast to the text around it. A flagged window without such a sentence stands for all of its own.
    """
    single = scores[:count]
    chosen = single >= flag - _REACH
    value = single.copy()
    held = np.zeros(count + 1, np.int64)
    chosen.cumsum(out=held[1:])
    wide = np.flatnonzero((scores >= flag) & (view.last - view.first > 1))
    first, last = view.first[wide], view.last[wide]
    # Evidence spread so thin that no sentence comes near: the whole window is meant.
    spread = held[last] == held[first]
    chosen |= _covered(first[spread], last[spread], count)
    sizes = last - first
    inside = np.arange(sizes.sum()) + (first + sizes - sizes.cumsum()).repeat(sizes)
    best = single.copy()
    np.maximum.at(best, inside, np.repeat(scores[wide], sizes))
    value[chosen] = best[chosen]
    return chosen, value


def _covered(first: Ints, last: Ints, count: int) -> NDArray[np.bool_]:
    """The sentences inside any of these windows."""
    edges = np.zeros(count + 1, np.int64)
    np.add.at(edges, first, 1)
    np.add.at(edges, last, -1)
    result: NDArray[np.bool_] = np.cumsum(edges)[:count] > 0
    return result


def _apart(found: list[Finding]) -> list[Finding]:
    """In order and without overlap; of two that overlap, the one that begins first stays."""
    kept: list[Finding] = []
    for finding in sorted(found, key=lambda f: (f.start, -f.end)):
        if finding.start < finding.end and (not kept or kept[-1].end <= finding.start):
            kept.append(finding)
    return kept
