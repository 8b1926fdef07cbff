"""Names and places by Presidio with a spaCy model, where somebody has installed both.

Neither is a dependency: `load` gives `None` where one is missing, and downloads nothing. Presidio is asked
only for what needs a language model. Its pattern recognisers stay out: `pii` finds those types faster, one
of them takes seconds for a hostile text of a kilobyte, and one asks the internet for a list of domains.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from gateway.screening.base import Finding
from gateway.screening.pii import DETECTOR

ENTITIES = frozenset(("PERSON", "LOCATION", "ORGANIZATION", "NRP"))
"""What is asked of the model: names, places, organisations, and nationalities, religions and politics."""

_LONGEST = 100_000
"""Characters given to the model at once; longer texts are cut, with an overlap."""
_OVERLAP = 200


class PresidioFailed(Exception):  # noqa: N818 - read as a state
    """The engine raised, or skipped something for want of time: its silence says nothing about the text."""


class Result(Protocol):
    """What the engine finds, as `presidio_analyzer.RecognizerResult` has it."""

    entity_type: str
    start: int
    end: int
    score: float


class Engine(Protocol):
    """What is used of `presidio_analyzer.AnalyzerEngine`."""

    def analyze(
        self,
        text: str,
        language: str,
        entities: list[str] | None = None,
        *,
        score_threshold: float | None = None,
    ) -> Sequence[Result]: ...


class Presidio:
    """An engine, asked safely. Whether it may be shared between threads is the engine's to say."""

    def __init__(self, engine: Engine, language: str = "en") -> None:
        self._engine = engine
        self._language = language

    def scan(self, text: str, entities: Collection[str] = ENTITIES, threshold: float = 0.5) -> list[Finding]:
        """Names and places in `text`, in order of position. Only `ENTITIES` are ever asked for.

        Raises: `PresidioFailed`, whatever the engine raised, and when it says in its log that it ran out of
        time for a pattern: it goes on without, and the text would pass unread.
        """
        wanted = sorted(ENTITIES & set(entities))
        if not wanted or not text:
            return []
        found: set[tuple[str, int, int, float]] = set()
        with _Listening() as heard:
            for first in range(0, len(text), _LONGEST - _OVERLAP):
                part = text[first : first + _LONGEST]
                try:
                    results = self._engine.analyze(part, self._language, wanted, score_threshold=threshold)
                except Exception as error:
                    raise PresidioFailed(type(error).__name__) from error
                found |= {
                    (one.entity_type, first + one.start, first + one.end, one.score)
                    for one in results
                    if one.entity_type in ENTITIES and one.score >= threshold
                }
                if first + _LONGEST >= len(text):
                    break
        if heard.timeouts:
            raise PresidioFailed("a pattern ran out of time")
        return sorted((Finding(DETECTOR, *one) for one in found), key=lambda f: (f.start, f.end, f.type))


class _Listening(logging.Handler):
    """Hears what the engine only logs: that a pattern was skipped for want of time."""

    _LOGGER = "presidio-analyzer"

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.timeouts = 0

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().lower()
        if "timed out" in message or "timeout" in message:
            self.timeouts += 1

    def __enter__(self) -> _Listening:
        logging.getLogger(self._LOGGER).addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger(self._LOGGER).removeHandler(self)


def load(model: str = "en_core_web_sm", language: str = "en") -> Presidio | None:
    """Presidio with the spaCy model `model`, or `None` where either is not installed.

    Nothing is fetched: Presidio's own loader would download a missing model, so it is looked for first.
    """
    if any(importlib.util.find_spec(name) is None for name in ("presidio_analyzer", "spacy")):
        return None
    # Whole seconds, read once at import. Presidio's own default is a minute for each pattern.
    os.environ.setdefault("REGEX_TIMEOUT_SECONDS", "1")
    spacy = importlib.import_module("spacy")
    if not spacy.util.is_package(model):
        return None
    forbid_downloads()
    analyzer = importlib.import_module("presidio_analyzer")
    nlp = importlib.import_module("presidio_analyzer.nlp_engine")
    recognizers = importlib.import_module("presidio_analyzer.predefined_recognizers")
    registry = analyzer.RecognizerRegistry(
        recognizers=[recognizers.SpacyRecognizer(supported_language=language)], supported_languages=[language]
    )
    engine = analyzer.AnalyzerEngine(
        registry=registry,
        nlp_engine=nlp.SpacyNlpEngine(models=[{"lang_code": language, "model_name": model}]),
        supported_languages=[language],
    )
    return Presidio(engine, language)


def forbid_downloads() -> None:
    """Keeps `tldextract`, which Presidio's e-mail recogniser calls, from fetching the public suffix list."""
    if importlib.util.find_spec("tldextract") is None:
        return
    tldextract: Any = importlib.import_module("tldextract")
    offline = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    def extract(url: str, *_: Any, **__: Any) -> Any:
        return offline(url)

    tldextract.extract = extract
