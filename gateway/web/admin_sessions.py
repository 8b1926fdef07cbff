"""Operators who are logged in with a browser: see them, and log them out."""

from __future__ import annotations

from fastapi import APIRouter

from gateway.domain import Json
from gateway.stores.ledger_sessions import SessionRecord
from gateway.web.admin_gate import AdminError, AdminRoute, Ctx, needs
from gateway.web.admin_views import Label, page, stamp, stamp_or_none

router = APIRouter(route_class=AdminRoute, tags=["credentials"])


@router.get("/sessions")
@needs("admin")
async def list_sessions(ctx: Ctx) -> Json:
    """Sessions that are not over, newest first. Some of them may belong to a token that is revoked: those are
    let in no more. `current` is the one that asks."""
    found = await ctx.worker.ledger.sessions(ctx.now())
    return page([{**_view(each), "current": each.digest == ctx.caller.session} for each in found])


@router.delete("/sessions/{session}")
@needs("admin")
async def end_session(ctx: Ctx, session: Label) -> Json:
    """Log somebody out, within a second everywhere."""
    ended = await ctx.operators.sessions.end(session, ctx.caller.name, "session.end")
    if ended is None:
        raise AdminError(404, "not_found", f"There is no session {session!r} that is not over.")
    return {"id": ended.id, "ended_at": stamp_or_none(ended.ended_at)}


def _view(session: SessionRecord) -> Json:
    return {
        "id": session.id,
        "name": session.name,
        "role": session.role,
        "source": session.source,
        "token": session.token,
        "address": session.address,
        "created_at": stamp(session.created_at),
        "last_used_at": stamp(session.used_at),
        "expires_at": stamp(session.expires_at),
    }
