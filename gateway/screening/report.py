"""One text, screened by every detector: what operators see when they try a text out. Nothing is kept."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from gateway.domain import Json
from gateway.policy.models import Screen, Screening
from gateway.screening import pii, secrets
from gateway.screening.actions import redact
from gateway.screening.base import Finding
from gateway.screening.engine import scan
from gateway.screening.injection import Injection, InjectionResult
from gateway.screening.pii import resolve
from gateway.screens import looks_of

ScreenedChannel = Literal["user", "tool", "output"]
Verdict = Literal["allow", "flag", "redact", "block"]

_VERDICTS: tuple[Verdict, ...] = ("allow", "flag", "redact", "block")
_MEANS: dict[str, Verdict] = {
    "allow": "allow",
    "flag": "flag",
    "redact": "redact",
    "mask": "redact",
    "pseudonymise": "redact",
    "neutralise": "redact",
    "block": "block",
}


@lru_cache(maxsize=1)
def _injection() -> Injection:
    """Loaded when it is first needed: the weights take a moment."""
    return Injection()


def screened(text: str, channel: ScreenedChannel, policy: Screening) -> Json:
    """`{verdict, injection: {score, flagged, findings}, pii: {spans}, secrets: {spans}, redacted}`.

    The verdict is the hardest that the policy's actions come to on this channel; a detector that the policy
    does not name is tried too, and flags.
    """
    judged = _injection().scan(text, channel)
    looks = replace(looks_of(policy), injection=False, pii=True, secrets=True, model="")
    found = resolve(scan(text, channel, looks))
    personal = [finding for finding in found if finding.detector == pii.DETECTOR]
    credentials = [finding for finding in found if finding.detector == secrets.DETECTOR]
    verdicts = [
        _verdict(policy.injection, channel, found=judged.flagged),
        _verdict(policy.pii, channel, found=bool(personal)),
        _verdict(policy.secrets, channel, found=bool(credentials)),
    ]
    return {
        "verdict": max(verdicts, key=_VERDICTS.index),
        "injection": _shown(judged),
        "pii": {"spans": [_span(found) for found in personal]},
        "secrets": {"spans": [_span(found) for found in credentials]},
        "redacted": redact(text, [*personal, *credentials]).text,
    }


def _verdict(rule: Screen | None, channel: ScreenedChannel, *, found: bool) -> Verdict:
    if not found:
        return "allow"
    if rule is None or rule.mode != "enforce":
        return "flag"
    narrowed = getattr(rule, channel)
    action = narrowed.action if narrowed is not None else rule.action or "block"
    return _MEANS[action]


def _shown(judged: InjectionResult) -> Json:
    return {
        "score": round(judged.score, 6),
        "flagged": judged.flagged,
        "findings": [_span(found) for found in judged.findings],
    }


def _span(found: Finding) -> dict[str, Any]:
    return {"start": found.start, "end": found.end, "type": found.type, "score": round(found.score, 6)}
