"""What the process says: one line for each thing that happened, as text or as JSON.

    2026-11-22T06:14:19.123Z INFO gateway.steps: step run=run_… step=3 model=gpt-4o outcome=ok …
    {"time":"2026-11-22T06:14:19.123Z","level":"info","logger":"gateway.steps","message":"step","run":"run_…",…}

Ids of the request that a line is about are added to it, whoever writes it. No line holds what was said, nor
a credential: known ones and what looks like one are struck out. Whatever a text holds, it stays inside its
line: line ends and control characters are escaped, and long texts are cut.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from gateway.domain import usd
from gateway.errors import GatewayError, Refusal, UpstreamError
from gateway.steps.turn import Facts
from gateway.telemetry.spans import run_context, span_id

log = logging.getLogger("gateway.steps")

MAX_MESSAGE = 8_192
MAX_TRACEBACK = 16_384
MAX_VALUE = 512
"""Characters that are kept of a message, a traceback and a field; the rest is cut."""
REFUSALS_PER_S = 20
"""Refusals that are logged in each second at most; how many more there were is said once."""
STRUCK = "***"

current: ContextVar[Facts | None] = ContextVar("current", default=None)
"""The request that this task works on."""

_FIELDS = "facts"
"""`log.info("…", extra={"facts": {…}})` adds fields to a line."""
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends of Unicode, and what turns the direction of writing."""
_CREDENTIAL = re.compile(
    r"\b(?:sk|pk|gk|rk|gsk|xai|xox[abprs]|gh[pousr]|glpat|AKIA|ASIA|AIza|eyJ)[-_A-Za-z0-9]{12,}[-_.A-Za-z0-9]*"
    r"|(?i:\bbearer\s+)[^\s\"',;]{8,}"
)
_SECRET_NAMES = re.compile(r"(?i)(key|token|secret|password|passwd|credential|webhook|headers|dsn)")
_SILENT = frozenset(("invalid_api_key", "unknown_route", "invalid_json", "method_not_allowed"))
"""Refusals that anyone can cause without a key; told at debug."""


class Formatter(logging.Formatter):
    """A record as one line. `secrets` are values that no line may show."""

    def __init__(
        self, *, as_json: bool, secrets: Iterable[str] = (), traced: bool = False, worker: str = ""
    ) -> None:
        super().__init__()
        self.as_json = as_json
        self.traced = traced
        self.worker = worker
        self._secrets: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self.hide(*secrets)

    def hide(self, *secrets: str) -> None:
        """Show these values in no line from now on; ones shorter than eight characters are not looked for."""
        self._secrets |= {value for value in secrets if len(value) >= 8}
        longest_first = sorted(self._secrets, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a mistake in a call of the logger must not cost the line
            message = str(record.msg)
        message = self._plain(message, MAX_MESSAGE)
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        at = at.replace("+00:00", "Z")
        fields = {**self._ids(), **self._given(record)}
        trace = ""
        if record.exc_info and record.exc_info[0] is not None:
            trace = self._struck(self.formatException(record.exc_info)[-MAX_TRACEBACK:])
        if self.as_json:
            line: dict[str, Any] = {
                "time": at,
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": message,
            }
            if self.worker:
                line["worker"] = self.worker
            line |= {name: value for name, value in fields.items() if name not in line}
            if trace:
                line["exception"] = "\n".join(_escaped(part) for part in trace.splitlines())
            return orjson.dumps(line, default=str).decode()
        told = "".join(f" {name}={_shown(value)}" for name, value in fields.items())
        text = f"{at} {record.levelname} {record.name}: {message}{told}"
        if trace:
            # Indented, so that nothing in it can be taken for a line of its own.
            text += "".join(f"\n    {_escaped(part)}" for part in trace.splitlines())
        return text

    def _ids(self) -> dict[str, Any]:
        """Of the request that is being served."""
        facts = current.get()
        if facts is None or (facts.trail is not None and facts.trail.ended):
            # What a request has begun may outlive it.
            return {}
        ids: dict[str, Any] = {"request": facts.request_id}
        if facts.run_id is not None:
            ids["run"] = facts.run_id
            if facts.step:
                ids["step"] = facts.step
            ids["decision"] = facts.decision_id
            if self.traced:
                at = run_context(facts.run_id)
                ids["trace_id"] = f"{at.trace:032x}"
                ids["span_id"] = f"{span_id('step', facts.decision_id):016x}"
        return ids

    def _given(self, record: logging.LogRecord) -> dict[str, Any]:
        given = getattr(record, _FIELDS, None)
        if not isinstance(given, Mapping):
            return {}
        return {
            str(name)[:64]: self._plain(value, MAX_VALUE) if isinstance(value, str) else _writable(value)
            for name, value in given.items()
            if value is None or isinstance(value, str | int | float)
        }

    def _plain(self, text: str, limit: int) -> str:
        # Cut after it was searched, so that no half of a credential is left; a text without end is cut first.
        text = self._struck(text[: limit * 4])
        cut = f"{text[:limit]}… ({len(text)} characters)" if len(text) > limit else text
        return _escaped(cut)

    def _struck(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(STRUCK, text)
        return _CREDENTIAL.sub(STRUCK, text)


def _escaped(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def _writable(value: int | float | None) -> int | float | str | None:
    """A number as JSON takes it: larger ones than 64 bits hold would cost the line."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return "beyond 64 bits"
    return value


def _shown(value: object) -> str:
    """A field of a text line; one that could be read as several is put in quotes."""
    if not isinstance(value, str):
        return orjson.dumps(value).decode()
    plain = value and not any(c in value for c in ' "=')
    return value if plain else orjson.dumps(value).decode()


class Handler(logging.StreamHandler[TextIO]):
    """Writes lines; a stream that cannot be written is nobody's fault here."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Lose the line: a traceback on the same broken stream would help no one."""


def configure(
    level: str,
    format_: str | None,
    environment: Mapping[str, str],
    secrets: Iterable[str] = (),
    *,
    traced: bool = False,
    stream: TextIO | None = None,
) -> Formatter:
    """Let every logger of the process, uvicorn's included, write such lines to `stream` (standard error).

    `format_` is `text`, `json` or None, which is text on a terminal. What the environment holds under a name
    that speaks of a secret is never shown.
    """
    stream = stream or sys.stderr
    as_json = format_ == "json" if format_ is not None else not stream.isatty()
    hidden = [value for name, value in environment.items() if _SECRET_NAMES.search(name)]
    formatter = Formatter(as_json=as_json, secrets=[*hidden, *secrets], traced=traced)
    handler = Handler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        its = logging.getLogger(name)
        its.handlers.clear()
        # A logger without handlers is how uvicorn's protocol sees that no access log is wanted.
        its.propagate = name != "uvicorn.access"
        its.setLevel(logging.NOTSET)
    logging.captureWarnings(capture=True)
    return formatter


class StepLog:
    """Says how requests ended: refusals and failures always, all others at debug."""

    def __init__(self) -> None:
        self._second = 0
        self._said = 0
        self._unsaid = 0

    def request_ended(self, facts: Facts, error: GatewayError | None) -> None:
        """One line about a request, at the end of it."""
        if error is None:
            if log.isEnabledFor(logging.DEBUG):
                self._step(facts)
            return
        level = _level(error, facts)
        if level is None or not log.isEnabledFor(level) or not self._may_say():
            return
        fields: dict[str, Any] = {**_ids(facts), "code": error.code, "surface": facts.surface.value}
        if isinstance(error, Refusal):
            ruling = error.ruling
            show = usd if ruling.money else int
            fields |= {"rule": ruling.rule, "scope": ruling.scope}
            if ruling.limit or ruling.used:
                fields |= {"limit": show(ruling.limit), "used": show(ruling.used)}
        attempt = facts.trail.attempts[-1] if facts.trail is not None and facts.trail.attempts else None
        if attempt is not None:
            route = attempt.route
            fields |= {
                "provider": route.provider_name,
                "model": route.upstream_model,
                "status": attempt.status,
            }
        log.log(
            level, "refused" if not isinstance(error, UpstreamError) else "failed", extra={_FIELDS: fields}
        )

    def _step(self, facts: Facts) -> None:
        trail = facts.trail
        turn = trail.turn if trail is not None else None
        if trail is None or turn is None:
            return
        last = trail.attempts[-1] if trail.attempts else None
        fields: dict[str, Any] = {
            **_ids(facts),
            "surface": facts.surface.value,
            "key": turn.caller.key,
            "model": last.route.upstream_model if last is not None else turn.step.model,
            "outcome": last.outcome if last is not None else "answered",
            "verdict": facts.verdict.value,
            "attempts": len(trail.attempts),
            "cost_usd": usd(sum(one.cost for one in trail.attempts)),
            "ms": round((time.perf_counter() - turn.clock) * 1000, 1),
        }
        log.debug("step", extra={_FIELDS: fields})

    def _may_say(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            if self._unsaid:
                log.warning("%d more refusals were not logged", self._unsaid)
            self._second, self._said, self._unsaid = second, 0, 0
        self._said += 1
        if self._said > REFUSALS_PER_S:
            self._unsaid += 1
            return False
        return True


def _level(error: GatewayError, facts: Facts) -> int | None:
    """How much an operator wants to know; None for a client that left."""
    from gateway.steps.delivery import ClientLeftError

    if isinstance(error, ClientLeftError):
        return None
    if isinstance(error, UpstreamError) or error.code in (
        "guardrail_unavailable",
        "budget_store_unavailable",
    ):
        return logging.WARNING
    if error.code in _SILENT and facts.run_id is None:
        return logging.DEBUG
    return logging.INFO


def _ids(facts: Facts) -> dict[str, Any]:
    ids: dict[str, Any] = {"request": facts.request_id}
    if facts.run_id is not None:
        ids |= {"run": facts.run_id, "step": facts.step, "decision": facts.decision_id}
        ids["session"] = facts.session
    return ids
