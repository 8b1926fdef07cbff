"""One text, screened by every detector: what operators see when they try a text out. Nothing is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from gateway.domain import Json
from gateway.policy.sections.screening import Screen, Screening
from gateway.screening import pii, secrets
from gateway.screening.actions import redact
from gateway.screening.base import Finding
from gateway.screening.engine import Looks, scan
from gateway.screening.injection import Injection
from gateway.screening.pii import resolve
from gateway.screening.uncertain import DEEPER, settle
from gateway.steps.screens import looks_of

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


def tiers(channel: ScreenedChannel, policy: Screening) -> Looks | None:
    """What to look for so that the policy's classifier tells its score; None where it has none to tell."""
    looks = looks_of(policy)
    if looks.classifier is None or channel not in DEEPER:
        return None
    # Whatever a judge might be asked about is told with its score.
    return replace(looks, pii=False, secrets=False, judge=(0.0, 1.0))


def screened(
    text: str, channel: ScreenedChannel, policy: Screening, deeper: Sequence[Finding] | None = None
) -> Json:
    """`{verdict, injection: {score, flagged, findings}, pii: {spans}, secrets: {spans}, redacted}`, and in
    `injection` a `classifier_score` where the policy's classifier decides.

    The verdict is the hardest that the policy's actions come to on this channel; a detector that the policy
    does not name is tried too, and flags. A judge is not asked. `deeper` is what another process found by
    `tiers`. Raises `ClassifierFailed`.
    """
    judged = _injection().scan(text, channel)
    shown = _shown(judged.score, judged.findings, flagged=judged.flagged)
    looks = tiers(channel, policy)
    rule = looks.classifier if looks is not None else None
    if looks is not None and rule is not None and rule.low <= judged.score <= rule.high:
        opened = scan(text, channel, looks) if deeper is None else deeper
        settled = settle(opened)
        shown = _shown(judged.score, settled, flagged=bool(settled))
        shown["classifier_score"] = round(max([found.score for found in opened], default=0.0), 6)
    looks = replace(
        looks_of(policy), injection=False, pii=True, secrets=True, model="", classifier=None, judge=None
    )
    found = resolve(scan(text, channel, looks))
    personal = [finding for finding in found if finding.detector == pii.DETECTOR]
    credentials = [finding for finding in found if finding.detector == secrets.DETECTOR]
    verdicts = [
        _verdict(policy.injection, channel, found=shown["flagged"]),
        _verdict(policy.pii, channel, found=bool(personal)),
        _verdict(policy.secrets, channel, found=bool(credentials)),
    ]
    return {
        "verdict": max(verdicts, key=_VERDICTS.index),
        "injection": shown,
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


def _shown(score: float, findings: Sequence[Finding], *, flagged: bool) -> Json:
    return {
        "score": round(score, 6),
        "flagged": flagged,
        "findings": [_span(found) for found in findings],
    }


def _span(found: Finding) -> dict[str, Any]:
    return {"start": found.start, "end": found.end, "type": found.type, "score": round(found.score, 6)}
