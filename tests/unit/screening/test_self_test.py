"""A detector that is on and finds nothing is noticed."""

from __future__ import annotations

import pytest

from gateway.screening import engine, pii, secrets
from gateway.screening.engine import Looks
from gateway.screening.self_test import broken


@pytest.mark.parametrize(
    "looks",
    [
        Looks(),
        Looks(injection=True, pii=True, secrets=True),
        Looks(pii=True, entities=("EMAIL", "CREDIT_CARD")),
        Looks(pii=True, entities=("AGE",)),
        Looks(pii=True, entities=(), custom=(pii.Custom("BADGE", "B-[0-9]{6}"),)),
    ],
)
def test_what_works_passes(looks: Looks) -> None:
    assert broken(looks) == []


def test_what_does_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pii, "scan", lambda *args, **more: [])
    monkeypatch.setattr(secrets, "scan", lambda *args, **more: [])
    monkeypatch.setattr(
        engine,
        "_injection",
        lambda: type("Nothing", (), {"scan": lambda s, t, c: type("R", (), {"findings": ()})()})(),
    )
    assert broken(Looks(injection=True, pii=True, secrets=True, entities=("EMAIL_ADDRESS",))) == [
        "injection (user)",
        "injection (tool)",
        "secrets",
        "pii (EMAIL_ADDRESS)",
    ]
