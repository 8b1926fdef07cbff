"""The optional tier for names and places, with an engine of our own making."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gateway.screening import presidio
from gateway.screening.presidio import Presidio, PresidioFailed


@dataclass
class Found:
    entity_type: str
    start: int
    end: int
    score: float = 0.85


class FakeEngine:
    """Finds `Anna`, and a URL that nobody asked for; does as it is told besides."""

    def __init__(self, aside: Callable[[], None] = lambda: None) -> None:
        self.aside = aside
        self.asked: list[tuple[int, str, list[str] | None]] = []

    def analyze(
        self,
        text: str,
        language: str,
        entities: list[str] | None = None,
        *,
        score_threshold: float | None = None,
    ) -> Sequence[Found]:
        self.asked.append((len(text), language, entities))
        self.aside()
        starts = [at for at in range(len(text)) if text.startswith("Anna", at)]
        return [
            *(Found("PERSON", at, at + 4) for at in starts),
            Found("URL", 0, 4),
            Found("PERSON", 0, 1, 0.1),
        ]


def test_only_names_and_places_are_asked_for_and_given() -> None:
    engine = FakeEngine()
    found = Presidio(engine, "de").scan("Hallo Anna", ["PERSON", "URL", "CREDIT_CARD"])
    assert [(f.detector, f.type, f.start, f.end, f.score) for f in found] == [("pii", "PERSON", 6, 10, 0.85)]
    assert engine.asked == [(10, "de", ["PERSON"])]


def test_nothing_is_asked_when_nothing_is_wanted() -> None:
    engine = FakeEngine()
    assert Presidio(engine).scan("Anna", ["CREDIT_CARD"]) == []
    assert Presidio(engine).scan("") == []
    assert engine.asked == []


def test_long_texts_are_read_to_the_end_and_every_name_is_told_once() -> None:
    text = "x" * 99_850 + "Anna" + "y" * 60_000 + " Anna"
    found = Presidio(FakeEngine()).scan(text)
    assert [(f.start, f.end) for f in found] == [(99_850, 99_854), (159_855, 159_859)]


def test_a_pattern_that_ran_out_of_time_is_a_failure_not_a_clean_text() -> None:
    def timed_out() -> None:
        logging.getLogger("presidio-analyzer").warning("Regex pattern timed out after %s seconds", 1)

    with pytest.raises(PresidioFailed, match="out of time"):
        Presidio(FakeEngine(timed_out)).scan("nothing")


def test_other_warnings_are_no_failure() -> None:
    def warned() -> None:
        logging.getLogger("presidio-analyzer").warning("Entity X is not mapped")

    assert Presidio(FakeEngine(warned)).scan("nothing") == []


def test_whatever_the_engine_raises_is_one_failure() -> None:
    def broken() -> None:
        raise MemoryError("of the text: Anna")

    with pytest.raises(PresidioFailed) as failed:
        Presidio(FakeEngine(broken)).scan("Anna")
    assert str(failed.value) == "MemoryError"


def test_it_listens_no_longer_than_it_scans() -> None:
    handlers = list(logging.getLogger("presidio-analyzer").handlers)
    Presidio(FakeEngine()).scan("Anna")
    assert logging.getLogger("presidio-analyzer").handlers == handlers


# -- the loader ---------------------------------------------------------------------------------------


def installed(monkeypatch: pytest.MonkeyPatch, *, model: bool) -> dict[str, Any]:
    """Modules that look like Presidio and spaCy; what they were called with."""
    seen: dict[str, Any] = {}

    def module(name: str, **names: Any) -> ModuleType:
        made = ModuleType(name)
        made.__dict__.update(names)
        made.__spec__ = importlib.util.spec_from_loader(name, loader=None)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    def record(name: str) -> Callable[..., Any]:
        def make(**arguments: Any) -> Any:
            seen[name] = arguments
            return FakeEngine() if name == "engine" else SimpleNamespace(name=name)

        return make

    def extractor(**arguments: Any) -> Callable[[str], str]:
        seen["extractor"] = arguments
        return lambda url: f"offline:{url}"

    def fetch(url: str) -> str:
        raise AssertionError("asked the internet")

    module("spacy", util=SimpleNamespace(is_package=lambda name: model))
    seen["tldextract"] = module("tldextract", TLDExtract=extractor, extract=fetch)
    module("presidio_analyzer", RecognizerRegistry=record("registry"), AnalyzerEngine=record("engine"))
    module("presidio_analyzer.nlp_engine", SpacyNlpEngine=record("nlp"))
    module("presidio_analyzer.predefined_recognizers", SpacyRecognizer=record("recognizer"))
    monkeypatch.setenv("REGEX_TIMEOUT_SECONDS", "restored afterwards")
    monkeypatch.delenv("REGEX_TIMEOUT_SECONDS")
    return seen


def test_nothing_is_loaded_where_presidio_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert presidio.load() is None


def test_a_missing_model_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = installed(monkeypatch, model=False)
    assert presidio.load("xx_none") is None
    assert "nlp" not in seen


def test_the_engine_has_the_model_and_no_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = installed(monkeypatch, model=True)
    loaded = presidio.load("de_core_news_sm", "de")
    assert loaded is not None
    assert [one.name for one in seen["registry"]["recognizers"]] == ["recognizer"]
    assert seen["nlp"] == {"models": [{"lang_code": "de", "model_name": "de_core_news_sm"}]}
    assert seen["recognizer"] == {"supported_language": "de"}
    assert [f.type for f in loaded.scan("Anna")] == ["PERSON"]


def test_the_public_suffix_list_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = installed(monkeypatch, model=True)
    presidio.load()
    assert seen["extractor"] == {"suffix_list_urls": (), "cache_dir": None}
    assert seen["tldextract"].extract("a.example", include_psl_private_domains=True) == "offline:a.example"
