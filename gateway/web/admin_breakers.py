"""Circuit breakers of tools, providers and models, as operators see and close them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import StringConstraints

from gateway.domain import Json
from gateway.rules.breakers import parse_breaker_key
from gateway.web.admin_gate import AdminError, AdminRoute, Ctx, needs
from gateway.web.admin_views import breaker_view, page, stamp

router = APIRouter(route_class=AdminRoute, tags=["breakers"])

BreakerId = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
"""As it is listed: names in it are percent-encoded, which can make them three times as long."""
_ORDER = {"open": 0, "half_open": 1}


@router.get("/breakers")
@needs("viewer")
async def breakers(ctx: Ctx) -> Json:
    """Breakers that anything was reported to lately, those that are open first."""
    states = sorted(await ctx.worker.store.breakers(None), key=lambda b: (_ORDER.get(b.state, 2), b.key))
    named = ((state, parse_breaker_key(state.key)) for state in states)
    return page([breaker_view(state, name) for state, name in named if name is not None])


@router.post("/breakers/{breaker:path}/reset")
@needs("operator")
async def reset_breaker(ctx: Ctx, breaker: BreakerId) -> Json:
    """Close a breaker by hand and forget what it counted; failures count anew from here on."""
    now = ctx.now()
    if not await ctx.worker.store.breakers([breaker]):
        raise AdminError(404, "not_found", f"There is no breaker {breaker!r}.")
    # Noted first: a reset cannot be done again to be noted, for then there is nothing to reset.
    await ctx.audit("breaker.reset", {"breaker": breaker})
    await ctx.worker.store.reset_breaker(breaker)
    ctx.worker.notify("breaker_reset", {"breaker": breaker, "by": ctx.caller.name})
    return {"id": breaker, "state": "closed", "at": stamp(now), "by": ctx.caller.name}
