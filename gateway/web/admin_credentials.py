"""Gateway keys, admin tokens, and the audit log of who changed what."""

from __future__ import annotations

import secrets
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, Field

from gateway.domain import Json, Millis
from gateway.stores.ledger_control import KeyRecord, TokenRecord
from gateway.turn import new_id
from gateway.web.admin_gate import AdminError, AdminRoute, Context, Ctx, needs
from gateway.web.admin_views import (
    Body,
    Label,
    Name,
    audit_view,
    key_view,
    millis,
    page,
    stamp_or_none,
    token_view,
)

SECRET_BYTES = 32

router = APIRouter(route_class=AdminRoute, tags=["credentials"])


class KeyBody(Body):
    """A gateway key to be made."""

    name: Name
    user: Label | None = None
    """Whose `per: user` limits it counts against; absent means its own."""
    team: Label | None = None
    models: Annotated[list[Label], Field(min_length=1, max_length=200)] | None = None
    """Models it may reach, by reroutes and fallbacks too; `*` at the end is a wildcard; absent means all."""
    expires_at: AwareDatetime | None = None


class TokenBody(Body):
    """An admin token to be made."""

    name: Name
    role: Literal["viewer", "operator", "admin"]
    expires_at: AwareDatetime | None = None


@router.get("/keys")
@needs("admin")
async def list_keys(ctx: Ctx, include_revoked: Annotated[bool, Query(alias="all")] = False) -> Json:
    """Gateway keys by name, those of the policy file too; never a secret."""
    stored = await ctx.worker.ledger.keys(include_revoked=include_revoked)
    policy = ctx.worker.pipeline.generation.policy
    configured: list[Json] = [
        {
            "id": f"key:{key.name}",
            "name": key.name,
            "user": key.user,
            "team": key.team,
            "models": None if key.models is None else list(key.models),
            "source": "policy",
            "created_at": None,
            "created_by": None,
            "expires_at": stamp_or_none(millis(key.expires_at) if key.expires_at is not None else None),
            "revoked_at": None,
        }
        for key in policy.keys
    ]
    return page([*(key_view(key) for key in stored), *configured])


@router.post("/keys", status_code=201)
@needs("admin")
async def make_key(ctx: Ctx, body: KeyBody) -> Json:
    """Make a gateway key. `key` is in this answer and nowhere else."""
    if any(key.name == body.name for key in ctx.worker.pipeline.generation.policy.keys):
        raise AdminError(409, "conflict", f"The policy file has a key {body.name!r} already.")
    secret = f"gk_{secrets.token_urlsafe(SECRET_BYTES)}"
    record = KeyRecord(
        id=new_id("key"),
        name=body.name,
        digest=ctx.worker.secrets.digest(secret),
        created_at=ctx.now(),
        created_by=ctx.caller.name,
        user=body.user,
        team=body.team,
        models=None if body.models is None else tuple(body.models),
        expires_at=_future(ctx, body.expires_at),
    )
    await ctx.worker.ledger.add_key(record)
    await ctx.refresh()
    view = key_view(record)
    await ctx.audit(
        "key.create", {n: view[n] for n in ("id", "name", "user", "team", "models", "expires_at")}
    )
    return {**view, "key": secret}


@router.delete("/keys/{key_id}")
@needs("admin")
async def revoke_key(ctx: Ctx, key_id: Label) -> Json:
    """Revoke a key of the API by its id. Calls in flight go on; kill the key to end them."""
    if key_id.startswith("key:"):
        raise AdminError(409, "conflict", "This key stands in the policy file; remove it there.")
    now = ctx.now()
    if not await ctx.worker.ledger.revoke_key(key_id, now):
        raise AdminError(404, "not_found", f"There is no key {key_id!r} in force.")
    await ctx.refresh()
    await ctx.audit("key.revoke", {"id": key_id})
    return {"id": key_id, "revoked_at": stamp_or_none(now)}


@router.get("/tokens")
@needs("admin")
async def list_tokens(ctx: Ctx, include_revoked: Annotated[bool, Query(alias="all")] = False) -> Json:
    """Admin tokens by name; never a secret."""
    found = await ctx.worker.ledger.tokens(include_revoked=include_revoked)
    return page([token_view(token) for token in found])


@router.post("/tokens", status_code=201)
@needs("admin")
async def make_token(ctx: Ctx, body: TokenBody) -> Json:
    """Make an admin token with a role. `token` is in this answer and nowhere else."""
    secret = f"gt_{secrets.token_urlsafe(SECRET_BYTES)}"
    record = TokenRecord(
        id=new_id("tok"),
        name=body.name,
        digest=ctx.worker.secrets.digest(secret),
        role=body.role,
        created_at=ctx.now(),
        created_by=ctx.caller.name,
        expires_at=_future(ctx, body.expires_at),
    )
    await ctx.worker.ledger.add_token(record)
    await ctx.refresh()
    view = token_view(record)
    await ctx.audit("token.create", {name: view[name] for name in ("id", "name", "role", "expires_at")})
    return {**view, "token": secret}


@router.delete("/tokens/{token_id}")
@needs("admin")
async def revoke_token(ctx: Ctx, token_id: Label) -> Json:
    """Revoke an admin token by its id."""
    now = ctx.now()
    if not await ctx.worker.ledger.revoke_token(token_id, now):
        raise AdminError(404, "not_found", f"There is no token {token_id!r} in force.")
    await ctx.refresh()
    await ctx.audit("token.revoke", {"id": token_id})
    return {"id": token_id, "revoked_at": stamp_or_none(now)}


def _future(ctx: Context, at: AwareDatetime | None) -> Millis | None:
    if at is None:
        return None
    expires_at = millis(at)
    if expires_at <= ctx.now():
        raise AdminError(400, "invalid_request", "body.expires_at: expected a time to come")
    return expires_at


@router.get("/audit")
@needs("viewer")
async def audit(
    ctx: Ctx,
    order: Literal["desc", "asc"] = "desc",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(pattern=r"^\d{1,15}$")] = None,
) -> Json:
    """The audit log, newest first unless `order=asc`."""
    records = await ctx.worker.ledger.audit_list(
        after=int(cursor or 0), limit=limit, newest_first=order == "desc"
    )
    more = len(records) == limit and not (order == "desc" and records[-1].seq == 1)
    return page([audit_view(record) for record in records], str(records[-1].seq) if more else None)


@router.get("/audit/verify")
@needs("viewer")
async def verify_audit(ctx: Ctx) -> Json:
    """Check the whole chain: `ok`, how many records, and the hash of the last."""
    check = await ctx.worker.ledger.audit_verify()
    return {
        "ok": check.ok,
        "records": check.records,
        "head": check.head,
        "broken_at": check.broken_at,
        "reason": check.reason,
    }
