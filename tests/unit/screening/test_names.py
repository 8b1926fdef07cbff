"""Names and places come from an installed language model, and without it the gateway says so."""

from __future__ import annotations

import pytest

from gateway.policy.loading import load_text
from gateway.policy.messages import PolicyError
from gateway.screening import engine
from gateway.screening.base import Finding
from gateway.screening.engine import Looks, scan
from gateway.screening.presidio import ENTITIES, PresidioFailed
from gateway.screening.self_test import broken
from gateway.steps.screens import looks_of

POLICY = "version: 1\nscreening: {pii: {entities: [%s]%s}}\n"


class Names:
    """A model that knows one name."""

    def scan(self, text: str, entities: tuple[str, ...]) -> list[Finding]:
        at = text.find("Jane Roe")
        return [Finding("pii", "PERSON", at, at + 8, 0.9)] if at >= 0 and "PERSON" in entities else []


def test_names_are_found_beside_what_patterns_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "names", lambda model: Names())
    looks = Looks(pii=True, entities=("PERSON", "EMAIL_ADDRESS"), model="xx")
    found = scan("Jane Roe, jane@acme.com, 4111 1111 1111 1111", "user", looks)
    assert [finding.type for finding in found] == ["PERSON", "EMAIL_ADDRESS"]
    assert Looks.load(looks.dump()) == looks
    assert set(Looks(pii=True, model="xx").named) == ENTITIES


def test_without_the_model_nothing_starts() -> None:
    policy = load_text(POLICY % ("PERSON", ", language_model: no_such_model"), {})
    looks = looks_of(policy.screening)
    assert (looks.model, looks.structured, looks.named) == ("no_such_model", (), ("PERSON",))
    (problem,) = broken(looks)
    assert "no_such_model" in problem
    with pytest.raises(PresidioFailed):
        scan("Jane Roe", "user", looks)


def test_names_without_a_model_are_a_mistake() -> None:
    with pytest.raises(PolicyError, match="expected a kind of personal data"):
        load_text(POLICY % ("PERSON", ""), {})
