"""Ledger events: from JSON bytes to the rows and figures that the ledger keeps. Pure; no database here.

What money depends on (ids, ordinal, cost, charges, times) must be exact, or the event is refused with
`BadEvent`. Everything else is taken as it comes: an odd label must not cost us the record of what was
spent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.domain import Json, Millis, Nano, RunStatus

MAX_TEXT = 256
"""Characters of an indexed label; Postgres refuses index entries beyond some 2,700 bytes."""
MAX_COST: Nano = 10**16
"""Ten million dollars: no single attempt costs more, and sums of such stay inside 64 bits."""
_MAX_INT = 2**53

STATUSES = frozenset(status.value for status in RunStatus)
_TEXT_TYPES = {str, type(None)}

IDENTITY = (
    "name",
    "principal",
    "key",
    "user",
    "team",
    "end_user",
    "session",
    "source",
    "agent",
    "surface",
    "policy",
    "continues",
    "parent",
)
"""The text fields of `meta` that have a column in the table of runs."""


class BadEvent(ValueError):  # noqa: N818 - reads as what it is
    """The event cannot be read or would make the figures wrong."""


@dataclass(slots=True)
class Attempt:
    """What one attempt adds to its run and to budget counters. `row` is in the order of the steps table."""

    id: str
    provisional: bool
    run: str
    ordinal: int
    cost: Nano
    saved: Nano
    model: str
    at: Millis
    ended_at: Millis
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    calls: list[tuple[str, str]]
    """`(call id, tool name)` of every tool call in the answer."""
    failures: list[str]
    """Call ids whose results failed, as told by the request."""
    charges: list[tuple[str, Millis]]
    status: str | None = None
    meta: Json = field(default_factory=dict)
    row: tuple[Any, ...] = ()
    reason: str | None = None
    """Why the run has this status."""


@dataclass(slots=True)
class Refusal:
    """A step that a rule refused. `run` is empty outside of any run."""

    id: str
    run: str
    at: Millis
    meta: Json
    row: tuple[Any, ...]


@dataclass(slots=True)
class StatusChange:
    """A run was opened or changed its status."""

    run: str
    at: Millis
    status: str
    reason: str | None
    meta: Json


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a worker did or decided outside of any step, for the audit log alone."""

    id: str
    at: Millis
    actor: str
    action: str
    details: Json


Event = Attempt | Refusal | StatusChange


def parse(raw: bytes) -> Event | Note:
    """One event. Raises `BadEvent`, whose text says what is wrong."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadEvent(f"not JSON: {error}") from error
    if type(body) is not dict:
        raise BadEvent("not a JSON object")
    if b"\\u0000" in raw:
        body = _without_nul(body)
    kind = body.pop("t", None)
    if kind == "attempt":
        return _attempt(body)
    if kind == "run":
        return _status_change(body)
    if kind == "refusal":
        return _refusal(body)
    if kind == "audit":
        return _note(body)
    raise BadEvent(f"unknown event type {kind!r}")


def clip(text: str) -> str:
    """`text` short enough for an index, different texts staying different."""
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[: MAX_TEXT - 65]}~{hashlib.sha256(text.encode()).hexdigest()}"


def identity(meta: Mapping[str, Any]) -> dict[str, str | None]:
    """The columns that say whose run it is."""
    return {name: _label(meta.get(name)) for name in IDENTITY}


def labels(values: Iterable[Any]) -> tuple[str | None, ...]:
    """Texts for label columns, whatever was sent."""
    return tuple(_label(value) for value in values)


def tags_text(tags: Any) -> str:
    """Tags as JSON text with text values."""
    if not tags or type(tags) is not dict:
        return "{}"
    return orjson.dumps({clip(k): _label(v) or "" for k, v in tags.items()}).decode()


def stored_attempt(row: Mapping[str, Any]) -> Attempt:
    """An attempt read back from its row in the steps table."""
    extra = orjson.loads(row["extra"])
    return Attempt(
        id=row["id"],
        provisional=row["provisional"],
        run=row["run"],
        ordinal=row["ordinal"],
        cost=row["cost"],
        saved=row["saved"],
        model=row["model"] or "",
        at=row["at"],
        ended_at=row["ended_at"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cached_tokens=row["cached_tokens"],
        calls=_calls(extra.get("tool_calls")),
        failures=_failures(extra.get("tool_results")),
        charges=_charges(extra.get("charges")),
    )


def _attempt(body: Json) -> Attempt:
    pop = body.pop
    attempt_id = _id(pop("id", None), "id")
    run = _id(pop("run", None), "run")
    provisional = pop("provisional", False) is True
    ordinal = _whole(pop("ordinal", None), "ordinal")
    cost = _whole(pop("cost", None), "cost", MAX_COST)
    saved = pop("saved", 0)
    saved = saved if type(saved) is int and -MAX_COST <= saved <= MAX_COST else 0
    at = _whole(pop("started_at", None), "started_at")
    ended = pop("ended_at", None)
    ended_at = at if ended is None else _whole(ended, "ended_at")
    meta = pop("meta", None)
    if type(meta) is not dict:
        meta = {}
    get = body.get
    status = get("run_status")
    usage = get("usage")
    tokens_in, tokens_out, cached = _tokens(usage) if type(usage) is dict else (0, 0, 0)
    charges = _charges(get("charges"))
    calls = get("tool_calls")
    results = get("tool_results")
    texts: tuple[Any, ...] = (
        pop("session", None),
        pop("principal", None),
        pop("key", None),
        pop("user", None),
        pop("team", None),
        pop("end_user", None),
        pop("surface", None),
        pop("provider", None),
        pop("requested_model", None),
        pop("model", None),
        pop("verdict", None),
    )
    if not (
        set(map(type, texts)) <= _TEXT_TYPES and max(map(len, filter(None, texts)), default=0) <= MAX_TEXT
    ):
        texts = labels(texts)
    tags = tags_text(pop("tags", None))
    row = (
        attempt_id,
        "attempt",
        provisional,
        run,
        ordinal,
        *texts[:10],
        at,
        ended_at,
        tokens_in,
        tokens_out,
        cached,
        cost,
        saved,
        texts[10],
        tags,
        orjson.dumps(body).decode(),
    )
    return Attempt(
        attempt_id,
        provisional,
        run,
        ordinal,
        cost,
        saved,
        texts[9] or "",
        at,
        ended_at,
        tokens_in,
        tokens_out,
        cached,
        _calls(calls) if calls else [],
        _failures(results) if results else [],
        charges,
        status if status in STATUSES else None,
        meta,
        row,
        _label(get("run_reason")),
    )


def attempt_identity(attempt: Attempt) -> Json:
    """What an attempt knows about its run, when `meta` does not say it."""
    _, _, _, _, _, session, principal, key, user, team, end_user, surface, *_ = attempt.row
    extra = orjson.loads(attempt.row[-1])
    known = {
        "session": session,
        "principal": principal,
        "key": key,
        "user": user,
        "team": team,
        "end_user": end_user,
        "surface": surface,
        "policy": extra.get("policy"),
        "tags": orjson.loads(attempt.row[-2]),
    }
    return {**known, **{k: v for k, v in attempt.meta.items() if v is not None}}


def _refusal(body: Json) -> Refusal:
    pop = body.pop
    decision = _id(pop("id", None), "id")
    run = pop("run", None)
    run = "" if run is None else _id(run, "run")
    at = _whole(pop("at", None), "at")
    ordinal = pop("ordinal", None)
    ordinal = ordinal if type(ordinal) is int and 0 <= ordinal < _MAX_INT else 0
    meta = pop("meta", None)
    if type(meta) is not dict:
        meta = {}
    who = labels(meta.get(name) for name in ("session", "principal", "key", "user", "team", "end_user"))
    row = (
        decision,
        "refusal",
        False,
        run,
        ordinal,
        *who,
        *labels((pop("surface", None) or meta.get("surface"), None, pop("requested_model", None), None)),
        at,
        at,
        0,
        0,
        0,
        0,
        0,
        "refuse",
        tags_text(meta.get("tags")),
        orjson.dumps(body).decode(),
    )
    return Refusal(decision, run, at, meta, row)


def _status_change(body: Json) -> StatusChange:
    status = body.get("status")
    if status not in STATUSES:
        raise BadEvent(f"status: got {status!r}, expected one of the run statuses")
    meta = body.get("meta")
    reason = body.get("reason")
    return StatusChange(
        _id(body.get("run"), "run"),
        _whole(body.get("at"), "at"),
        status,
        None if reason is None else str(reason),
        meta if type(meta) is dict else {},
    )


def _note(body: Json) -> Note:
    details = body.get("details")
    return Note(
        _id(body.get("id"), "id"),
        _whole(body.get("at"), "at"),
        _id(body.get("actor"), "actor"),
        _id(body.get("action"), "action"),
        details if type(details) is dict else {},
    )


def _id(value: Any, name: str) -> str:
    if type(value) is not str or not value:
        raise BadEvent(f"{name}: got {value!r:.80}, expected a text")
    return value if len(value) <= MAX_TEXT else clip(value)


def _whole(value: Any, name: str, limit: int = _MAX_INT) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise BadEvent(f"{name}: got {value!r:.80}, expected a whole number from 0 to {limit}")
    return value


def _label(value: Any) -> str | None:
    if value is None:
        return None
    text = value if type(value) is str else orjson.dumps(value).decode()
    return text if len(text) <= MAX_TEXT else clip(text)


def _tokens(usage: Json) -> tuple[int, int, int]:
    """Input (cached included), output, cached; as `gateway.domain.Usage` adds them up."""
    count = {k: v for k, v in usage.items() if type(v) is int and 0 < v < _MAX_INT}
    if not count:
        return 0, 0, 0
    get = count.get
    cached = get("cache_read", 0)
    read = (
        get("input_uncached", 0)
        + cached
        + get("cache_write_5m", 0)
        + get("cache_write_1h", 0)
        + get("audio_in", 0)
        + get("image_in", 0)
    )
    wrote = get("output_text", 0) + get("output_reasoning", 0) + get("audio_out", 0) + get("image_out", 0)
    return read, wrote, cached


def _charges(charges: Any) -> list[tuple[str, Millis]]:
    if not charges:
        return []
    if type(charges) is not list:
        raise BadEvent("charges: expected a list")
    result: dict[str, Millis] = {}
    for charge in charges:
        if type(charge) is not list or len(charge) != 2:
            raise BadEvent("charges: expected pairs of counter key and expiry")
        result[_id(charge[0], "charges")] = _whole(charge[1], "charges")
    return list(result.items())


def _calls(calls: Any) -> list[tuple[str, str]]:
    if type(calls) is not list:
        return []
    return [
        (_label(call.get("id")) or "", _label(call.get("name")) or "")
        for call in calls
        if type(call) is dict and call.get("delivered") is not False
    ]


def _failures(results: Any) -> list[str]:
    if type(results) is not list:
        return []
    return [
        _label(result.get("call_id")) or ""
        for result in results
        if type(result) is dict and result.get("ok") is False
    ]


def _without_nul(value: Any) -> Any:
    """The same value with U+FFFD for U+0000, which Postgres texts cannot hold."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    if isinstance(value, dict):
        return {_without_nul(k): _without_nul(v) for k, v in value.items()}
    return value
