"""What was said in a step, for its trace: taken from the request and the answer, cut to size, and redacted.

Nothing leaves here that the detectors of personal data and of credentials have not seen, whatever the
policy's own screening does; where they give no verdict there is no content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.domain import Answer, Role, Step
from gateway.policy.sections.screening import Screening
from gateway.screening.actions import redact
from gateway.screening.base import Channel
from gateway.screening.engine import Looks
from gateway.screening.pool import ScanFailed, ScanPool
from gateway.steps.screens import looks_of
from gateway.telemetry.spans import Content, Message, clean

MARGIN = 8_192
"""Characters beyond the cut that the detectors see too, so that no half of a credential is left over."""
DEADLINE_S = 5.0
MAX_MESSAGES = 64


@dataclass(slots=True)
class Draft:
    """Texts as they are, longer than they will be told by at most `MARGIN` characters each."""

    system: list[Message]
    input: list[Message]
    output: list[Message]
    omitted: int
    limits: list[int]
    """Characters that are told of each message, in the order system, input, output."""


def draft(step: Step, answer: Answer | None, limit: int) -> Draft:
    """The newest messages of a request, and its answer, as far as `limit` characters of each side reach."""
    found: list[Message] = []
    for item in step.items:
        role = item.role.value
        for text in item.texts:
            if item.role is Role.TOOL:
                found.append(Message(role, "result", text.text, clean(item.call_id or "")))
            else:
                found.append(Message(role, "text", text.text))
        for call in item.calls:
            found.append(Message(role, "call", call.arguments, clean(call.id), clean(call.name)))
    system = [one for one in found if one.role == "system"]
    rest = [one for one in found if one.role != "system"]
    kept_system, system_limits, left_out = _newest(system, limit // 4 or 1)
    kept, limits, more = _newest(rest, limit)
    said: list[Message] = []
    if answer is not None:
        said = [Message("assistant", "text", text) for text in answer.texts if text]
        said += [Message("assistant", "call", c.arguments, clean(c.id), clean(c.name)) for c in answer.calls]
    output, output_limits, _ = _newest(said, limit)
    return Draft(kept_system, kept, output, left_out + more, [*system_limits, *limits, *output_limits])


def _newest(messages: Sequence[Message], limit: int) -> tuple[list[Message], list[int], int]:
    """The last messages that fit, how much is told of each, and how many are left out."""
    kept: list[Message] = []
    limits: list[int] = []
    for one in reversed(messages):
        if limit <= 0 or len(kept) == MAX_MESSAGES:
            break
        told = min(len(one.text), limit)
        limit -= max(told, 1)
        kept.append(replace(one, text=one.text[: told + MARGIN]))
        limits.append(told)
    kept.reverse()
    limits.reverse()
    return kept, limits, len(messages) - len(kept)


async def redacted(made: Draft, pool: ScanPool, screening: Screening) -> Content | None:
    """The content as it may be told; None when the detectors give no verdict."""
    messages = [*made.system, *made.input, *made.output]
    looks = _looks(screening)
    texts: list[tuple[Channel, str]] = [("output", one.text) for one in messages]
    try:
        found = await pool.scan(texts, looks, DEADLINE_S) if texts else []
    except ScanFailed:
        return None
    told = [
        replace(
            one, text=clean(_cut(redact(one.text, findings).text, limit, len(one.text) > limit), limit + 2)
        )
        for one, findings, limit in zip(messages, found, made.limits, strict=True)
    ]
    first, second = len(made.system), len(made.system) + len(made.input)
    return Content(told[:first], told[first:second], told[second:], made.omitted)


def _cut(text: str, limit: int, longer: bool) -> str:
    return f"{text[:limit]} …" if longer or len(text) > limit else text


def _looks(screening: Screening) -> Looks:
    """Every kind of personal data and credentials that is known, and the policy's own."""
    return replace(
        looks_of(screening),
        injection=False,
        pii=True,
        secrets=True,
        entities=None,
        classifier=None,
        judge=None,
    )
