"""Erasing a person's data, and handing it out."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import model_validator

from gateway.domain import Json, usd
from gateway.replay.recorder import Content, Unreadable
from gateway.retention import LiveRuns, export
from gateway.stores.ledger import LedgerError, LedgerUnavailable
from gateway.stores.ledger_privacy import Erasure, Subject
from gateway.stores.ledger_recordings import Recording
from gateway.web.admin_gate import AdminError, AdminRoute, Context, Ctx, needs
from gateway.web.admin_views import Body, Label, Reason, page, run_view, stamp, stamp_or_none, step_view

log = logging.getLogger("gateway.admin")

router = APIRouter(route_class=AdminRoute, tags=["privacy"])

_KINDS = ("user", "end_user", "session", "key", "team")


class ErasureBody(Body):
    """Whose data is erased: exactly one of them. An end user is meant by the bare name under every key, or as
    `key/name` under one."""

    user: Label | None = None
    end_user: Label | None = None
    session: Label | None = None
    key: Label | None = None
    team: Label | None = None
    reason: Reason
    stop: bool = False
    """End calls in flight; without it an erasure is refused while there are any."""

    @model_validator(mode="after")
    def _one(self) -> ErasureBody:
        if sum(getattr(self, kind) is not None for kind in _KINDS) != 1:
            raise ValueError(f"say exactly one of {', '.join(_KINDS)}")
        return self


@router.post("/privacy/erasures", status_code=202)
@needs("admin")
async def erase(ctx: Ctx, body: ErasureBody) -> Json:
    """Erase what is known of a person, a session, a key or a team until now. It is done in the background.

    409 `runs_live` while a run of theirs has a call in flight, unless `stop` says to end it.
    """
    subject = _subject({kind: getattr(body, kind) for kind in _KINDS})
    try:
        erasure = await ctx.worker.privacy.begin(
            subject, reason=body.reason, by=ctx.caller.name, stop=body.stop
        )
    except LiveRuns as error:
        some = ", ".join(error.runs[:5])
        raise AdminError(
            409,
            "runs_live",
            f"{len(error.runs)} runs have a call in flight ({some}); wait for them, or say `stop`.",
        ) from None
    except ValueError as error:
        raise AdminError(400, "invalid_request", str(error)) from None
    log.warning("%s has begun erasure %s of a %s", ctx.caller.name, erasure.id, erasure.kind)
    return erasure_view(erasure)


@router.get("/privacy/erasures")
@needs("admin")
async def erasures(
    ctx: Ctx,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
) -> Json:
    """Erasures, newest first."""
    rows, following = await ctx.worker.ledger.erasures(limit=limit, cursor=cursor)
    return page([erasure_view(each) for each in rows], following)


@router.get("/privacy/erasures/{erasure_id}")
@needs("admin")
async def one_erasure(ctx: Ctx, erasure_id: Label) -> Json:
    """How far an erasure is. Whom it is about is told by the pseudonym that stands in the person's place."""
    found = await ctx.worker.ledger.erasure(erasure_id)
    if found is None:
        raise AdminError(404, "not_found", f"There is no erasure {erasure_id!r}.")
    return erasure_view(found)


@router.get("/privacy/export")
@needs("admin")
async def export_person(
    ctx: Ctx,
    user: Label | None = None,
    end_user: Label | None = None,
    session: Label | None = None,
    key: Label | None = None,
    team: Label | None = None,
) -> StreamingResponse:
    """What is known of a person, as JSON lines: `run step content approval kill topup`, and at the end `end`.
    An answer without that last line was broken off."""
    given = {"user": user, "end_user": end_user, "session": session, "key": key, "team": team}
    if sum(value is not None for value in given.values()) != 1:
        raise AdminError(400, "invalid_request", f"Say exactly one of {', '.join(_KINDS)}.")
    subject = _subject(given)
    await ctx.audit("privacy.export", {"kind": subject.kind, subject.kind: subject.value})
    await ctx.flush()
    return StreamingResponse(
        _guarded(export(ctx.worker.ledger, subject, _view, lambda run: _contents(ctx, run))),
        media_type="application/jsonl",
        headers={"content-disposition": 'attachment; filename="export.jsonl"'},
    )


async def _guarded(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for line in lines:
            yield line
    except (LedgerUnavailable, LedgerError) as error:
        # The head of the answer is gone; that the last line is missing tells the rest.
        log.warning("an export was broken off: %s", error)


async def _contents(ctx: Context, run: str) -> AsyncIterator[Json]:
    """What is kept of a run's requests and answers, as text where it can be opened."""
    records = await ctx.worker.ledger.recordings(run, ctx.now())
    content = Content.of(ctx.worker.secrets, records)
    for record in records:
        told: Json = {"of": record.id, "what": record.kind, "at": stamp(record.at)}
        try:
            told |= _opened(content, record)
        except Unreadable as error:
            told["unreadable"] = str(error)
        yield told


def _opened(content: Content, record: Recording) -> Json:
    if record.kind == "request":
        raw = content.request(record.id)
        return {"request": None if raw is None else _json_or_text(raw)}
    answer = content.answer(record.id)
    if answer is None:
        return {"answer": None}
    calls = [{"name": call.name, "arguments": call.arguments} for call in answer.calls]
    return {"answer": {"texts": list(answer.texts), "calls": calls}}


def _json_or_text(raw: bytes) -> object:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return raw.decode("utf-8", "replace")


def _view(kind: str, row: Json) -> Json:
    if kind == "run":
        return run_view(row, None)
    if kind == "step":
        return {"run": row["run"], **step_view(row)}
    if kind == "content":
        return row
    told = {str(name): value for name, value in row.items()}
    for name in ("at", "created_at", "expires_at", "decided_at", "used_at", "revived_at"):
        if name in told:
            told[name] = stamp_or_none(told[name])
    for name in ("amount", "cost"):
        if name in told:
            told[f"{name}_usd"] = usd(told.pop(name))
    told.pop("digest", None)
    return told


def _subject(given: dict[str, str | None]) -> Subject:
    for kind in _KINDS:
        value = given[kind]
        if value is not None:
            return Subject(_kind(kind), value)
    raise AdminError(400, "invalid_request", f"Say exactly one of {', '.join(_KINDS)}.")


def _kind(word: str) -> Literal["user", "end_user", "session", "key", "team"]:
    assert word in _KINDS
    return word  # type: ignore[return-value]  # one of them


def erasure_view(erasure: Erasure) -> Json:
    """An erasure as operators see it; never the name, which may be anywhere this answer is kept."""
    return {
        "id": erasure.id,
        "kind": erasure.kind,
        "subject": erasure.pseudonym,
        "reason": erasure.reason,
        "by": erasure.by,
        "stop": erasure.stop,
        "state": erasure.state,
        "phase": erasure.phase,
        "rows": erasure.counts,
        "waits_for": erasure.waits_for,
        "created_at": stamp(erasure.created_at),
        "finished_at": stamp_or_none(erasure.finished_at),
    }
