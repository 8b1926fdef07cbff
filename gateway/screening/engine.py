"""All detectors over one text. Pure, and the same in this process as in one of the pool's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import orjson

from gateway.screening import pii, secrets
from gateway.screening.base import Channel, Finding
from gateway.screening.classifier import Setup
from gateway.screening.injection import Injection
from gateway.screening.json_texts import unescaped
from gateway.screening.linear import WEIGHTS
from gateway.screening.normalise import Normalised, normalise
from gateway.screening.pii import Custom
from gateway.screening.presidio import ENTITIES as NAMES
from gateway.screening.presidio import Presidio, PresidioFailed
from gateway.screening.presidio import load as load_presidio
from gateway.screening.reader import VOCABULARY
from gateway.screening.uncertain import instructions
from gateway.values import frozen

_NOT_INSTRUCTED: frozenset[Channel] = frozenset(("assistant", "output"))
"""Channels in which the model speaks itself, where an order is nobody's but its own."""
_REVISION = b"2"
"""Counted up when detectors change their verdicts, so that kept ones no longer count."""


@frozen
class Looks:
    """What is looked for."""

    injection: bool = False
    pii: bool = False
    secrets: bool = False
    entities: tuple[str, ...] | None = None
    """Kinds of personal data; None for all that are known."""
    custom: tuple[Custom, ...] = ()
    model: str = ""
    """The installed spaCy model by which names and places are found; empty for none."""
    classifier: Setup | None = None
    """Decides about instructions of which the embedded detector is not sure."""
    judge: tuple[float, float] | None = None
    """Scores between which what is found is left open, for a judge to decide."""

    def dump(self) -> list[object]:
        """As JSON, for another process."""
        own = [[c.name, c.pattern, c.words, c.score, c.validator] for c in self.custom]
        deeper = self.classifier.dump() if self.classifier is not None else None
        return [self.injection, self.pii, self.secrets, self.entities, own, self.model, deeper, self.judge]

    @classmethod
    def load(cls, dumped: list[object]) -> Looks:
        """What `dump` made."""
        injection, personal, credentials, entities, own, model, deeper, judge = dumped
        assert isinstance(own, list)
        return cls(
            injection=bool(injection),
            pii=bool(personal),
            secrets=bool(credentials),
            entities=tuple(entities) if isinstance(entities, list | tuple) else None,
            custom=tuple(Custom(name, p, tuple(words), score, v) for name, p, words, score, v in own),
            model=str(model),
            classifier=Setup.load(deeper) if isinstance(deeper, list) else None,
            judge=(judge[0], judge[1]) if isinstance(judge, list | tuple) else None,
        )

    @property
    def near(self) -> Looks:
        """What can be looked for on the spot: what the classifier, which lives in other processes, may have
        to decide is left open."""
        if self.classifier is None:
            return self
        low, high = self.judge or (1.0, 0.0)
        band = (min(low, self.classifier.low), max(high, self.classifier.high))
        return replace(self, classifier=None, judge=band)

    @property
    def structured(self) -> tuple[str, ...] | None:
        """The kinds that patterns find."""
        return None if self.entities is None else tuple(e for e in self.entities if e not in NAMES)

    @property
    def named(self) -> tuple[str, ...]:
        """The kinds that a language model finds."""
        return tuple(NAMES) if self.entities is None else tuple(e for e in self.entities if e in NAMES)

    def version(self) -> bytes:
        """Changes with whatever a verdict depends on."""
        return _version(self)


@lru_cache(maxsize=256)
def _version(looks: Looks) -> bytes:
    return hashlib.sha256(_REVISION + _weights_digest() + orjson.dumps(looks.dump())).digest()


def scan(text: str, channel: Channel, looks: Looks) -> tuple[Finding, ...]:
    """What is in a text, in order of position; findings of several detectors may overlap."""
    plain = unescaped(text)
    found: list[Finding] = []
    if looks.injection and channel not in _NOT_INSTRUCTED:
        found += instructions(plain.text, channel, _injection(), looks)
    if looks.pii or looks.secrets:
        found += _values(plain.text, looks)
    if plain.text is not text:
        found = [_at(f, *plain.original(f.start, f.end)) for f in found]
        if looks.secrets:
            # Some are known by their line ends, written as escapes.
            found += secrets.scan(text)
    if looks.pii and looks.model:
        found += names(looks.model).scan(text, looks.named)
    return tuple(sorted(dict.fromkeys(found), key=lambda f: (f.start, f.end)))


@lru_cache(maxsize=1)
def names(model: str) -> Presidio:
    """Presidio with an installed model. Raises `PresidioFailed` where there is none."""
    engine = load_presidio(model)
    if engine is None:
        raise PresidioFailed(f"presidio-analyzer with the spaCy model {model!r} is not installed")
    return engine


def warm() -> None:
    """Load and compile everything, which the first text would else wait for."""
    scan("Warm: a@example.com, 4111 1111 1111 1111.", "tool", Looks(injection=True, pii=True, secrets=True))


@lru_cache(maxsize=1)
def _injection() -> Injection:
    return Injection()


@lru_cache(maxsize=1)
def _weights_digest() -> bytes:
    return hashlib.sha256(WEIGHTS.read_bytes() + VOCABULARY.read_bytes()).digest()


def _values(text: str, looks: Looks) -> Iterator[Finding]:
    """Personal data and secrets as they are written, in look-alike characters, and inside of encodings."""
    yield from _written(text, looks)
    form = normalise(text)
    if form.offsets is not None:
        for found in _written(form.text, looks):
            yield _at(found, *form.original(found.start, found.end))
    yield from _encoded(text, form, looks)


def _encoded(text: str, form: Normalised, looks: Looks) -> Iterator[Finding]:
    for inner in form.decoded:
        around = text[inner.start : inner.end]
        for found in _written(inner.text, looks):
            # What stands there plainly as well has been found where it stands.
            if inner.text[found.start : found.end] not in around:
                yield _at(found, inner.start, inner.end)


def _written(text: str, looks: Looks) -> Iterator[Finding]:
    if looks.pii:
        yield from pii.scan(text, looks.structured, looks.custom)
    if looks.secrets:
        yield from secrets.scan(text)


def _at(found: Finding, start: int, end: int) -> Finding:
    return Finding(found.detector, found.type, start, end, found.score)
