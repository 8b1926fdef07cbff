"""Gateway keys and admin tokens."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, Field

from gateway.domain import Json, Millis
from gateway.policy.sections.callers import Key
from gateway.steps.turn import new_id
from gateway.stores.ledger_credentials import KeyRecord, Priority, TokenRecord, ToolLevel
from gateway.web.admin_gate import AdminError, AdminRoute, Context, Ctx, needs
from gateway.web.admin_views import Body, Label, Name, millis, page, stamp, stamp_or_none

SECRET_BYTES = 32
MAX_GRACE_S = 30 * 86_400
EXPIRES_SOON_MS = 7 * 86_400_000
"""From then on a list says how long it is until a key or token expires."""

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
    priority: Priority = "normal"
    """How its calls wait for a provider that has no slot for them."""
    max_tool_level: ToolLevel = "dangerous"
    """The most dangerous tools that it may use."""


class TokenBody(Body):
    """An admin token to be made."""

    name: Name
    role: Literal["viewer", "operator", "admin"]
    expires_at: AwareDatetime | None = None


class RotateBody(Body):
    """A secret to be replaced."""

    grace_s: Annotated[int, Field(ge=0, le=MAX_GRACE_S)] = 0
    """How long the old secret goes on working."""


@router.get("/keys")
@needs("admin")
async def list_keys(ctx: Ctx, include_revoked: Annotated[bool, Query(alias="all")] = False) -> Json:
    """Gateway keys by name, those of the policy file too; never a secret."""
    ledger = ctx.worker.ledger
    stored = await ledger.keys(include_revoked=include_revoked)
    used = await ledger.uses_of("key:")
    configured = [_configured_view(ctx, key, used.get(f"key:{key.name}")) for key in _configured(ctx)]
    return page([*(_key_view(ctx, key) for key in stored), *configured])


@router.post("/keys", status_code=201)
@needs("admin")
async def make_key(ctx: Ctx, body: KeyBody) -> Json:
    """Make a gateway key. `key` is in this answer and nowhere else."""
    if any(key.name == body.name for key in _configured(ctx)):
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
        priority=body.priority,
        max_tool_level=body.max_tool_level,
    )
    view = _key_view(ctx, record)
    entry = ctx.entry("key.create", {name: view[name] for name in _KEY_FACTS})
    await ctx.worker.ledger.add_key(record, entry)
    await ctx.refresh()
    return {**view, "key": secret}


@router.post("/keys/{key_id}/rotate")
@needs("admin")
async def rotate_key(ctx: Ctx, key_id: Label, body: RotateBody) -> Json:
    """Give a key of the API a new secret; `key` is in this answer and nowhere else.

    It stays the same key: its budgets, its runs and what it spent go on. The old secret works for `grace_s`
    seconds more, and no older one any longer than that.
    """
    _ensure_stored(key_id)
    secret = f"gk_{secrets.token_urlsafe(SECRET_BYTES)}"
    now = ctx.now()
    rotated = await ctx.worker.ledger.rotate_key(
        key_id,
        ctx.worker.secrets.digest(secret),
        at=now,
        valid_until=now + body.grace_s * 1000,
        entry=ctx.entry("key.rotate", {"id": key_id, "grace_s": body.grace_s}),
    )
    if not rotated:
        raise _not_in_force("key", key_id)
    await ctx.refresh()
    # As this worker knows it: from here on nothing may keep the secret from being told.
    record = next((key for key in ctx.worker.control.keys if key.id == key_id), None)
    if record is None:
        raise _not_in_force("key", key_id)
    return {**_key_view(ctx, record), "key": secret}


@router.delete("/keys/{key_id}")
@needs("admin")
async def revoke_key(ctx: Ctx, key_id: Label) -> Json:
    """Revoke a key of the API by its id. Calls in flight go on; kill the key to end them."""
    _ensure_stored(key_id)
    now = ctx.now()
    if not await ctx.worker.ledger.revoke_key(key_id, now, ctx.entry("key.revoke", {"id": key_id})):
        raise _not_in_force("key", key_id)
    await ctx.refresh()
    return {"id": key_id, "revoked_at": stamp_or_none(now)}


@router.get("/tokens")
@needs("admin")
async def list_tokens(ctx: Ctx, include_revoked: Annotated[bool, Query(alias="all")] = False) -> Json:
    """Admin tokens by name; never a secret."""
    found = await ctx.worker.ledger.tokens(include_revoked=include_revoked)
    return page([_token_view(ctx, token) for token in found])


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
    view = _token_view(ctx, record)
    entry = ctx.entry("token.create", {name: view[name] for name in ("id", "name", "role", "expires_at")})
    await ctx.worker.ledger.add_token(record, entry)
    await ctx.refresh()
    return {**view, "token": secret}


@router.post("/tokens/{token_id}/rotate")
@needs("admin")
async def rotate_token(ctx: Ctx, token_id: Label, body: RotateBody) -> Json:
    """Give an admin token a new secret; `token` is in this answer and nowhere else. As for keys; sessions
    that began with the old secret end with it."""
    secret = f"gt_{secrets.token_urlsafe(SECRET_BYTES)}"
    now = ctx.now()
    rotated = await ctx.worker.ledger.rotate_token(
        token_id,
        ctx.worker.secrets.digest(secret),
        at=now,
        valid_until=now + body.grace_s * 1000,
        entry=ctx.entry("token.rotate", {"id": token_id, "grace_s": body.grace_s}),
    )
    if not rotated:
        raise _not_in_force("token", token_id)
    await ctx.refresh()
    record = next((token for token in ctx.worker.control.tokens if token.id == token_id), None)
    if record is None:
        raise _not_in_force("token", token_id)
    return {**_token_view(ctx, record), "token": secret}


@router.delete("/tokens/{token_id}")
@needs("admin")
async def revoke_token(ctx: Ctx, token_id: Label) -> Json:
    """Revoke an admin token by its id."""
    now = ctx.now()
    if not await ctx.worker.ledger.revoke_token(token_id, now, ctx.entry("token.revoke", {"id": token_id})):
        raise _not_in_force("token", token_id)
    await ctx.refresh()
    return {"id": token_id, "revoked_at": stamp_or_none(now)}


def _future(ctx: Context, at: AwareDatetime | None) -> Millis | None:
    if at is None:
        return None
    expires_at = millis(at)
    if expires_at <= ctx.now():
        raise AdminError(400, "invalid_request", "body.expires_at: expected a time to come")
    return expires_at


def _ensure_stored(key_id: str) -> None:
    if key_id.startswith("key:"):
        raise AdminError(409, "conflict", "This key stands in the policy file; change it there.")


def _not_in_force(what: str, credential: str) -> AdminError:
    return AdminError(404, "not_found", f"There is no {what} {credential!r} in force.")


def _configured(ctx: Context) -> Sequence[Key]:
    return ctx.worker.pipeline.generation.policy.keys


_KEY_FACTS = ("id", "name", "user", "team", "models", "expires_at", "priority", "max_tool_level")


def _key_view(ctx: Context, key: KeyRecord) -> Json:
    """A gateway key without its secret."""
    return {
        "id": key.id,
        "name": key.name,
        "user": key.user,
        "team": key.team,
        "models": None if key.models is None else list(key.models),
        "priority": key.priority,
        "max_tool_level": key.max_tool_level,
        "source": "api",
        "created_at": stamp(key.created_at),
        "created_by": key.created_by,
        **_life(ctx, key),
    }


def _token_view(ctx: Context, token: TokenRecord) -> Json:
    """An admin token without its secret."""
    return {
        "id": token.id,
        "name": token.name,
        "role": token.role,
        "created_at": stamp(token.created_at),
        "created_by": token.created_by,
        **_life(ctx, token),
    }


def _life(ctx: Context, credential: KeyRecord | TokenRecord) -> Json:
    """How a key or token stands: `expires_in_s` only where that is soon, `former_until` only while the secret
    before this one works."""
    now = ctx.now()
    working = credential.secrets(now)
    former = [until for digest, until in working.items() if digest != credential.digest and until is not None]
    return {
        "expires_at": stamp_or_none(credential.expires_at),
        "expires_in_s": _soon(credential.expires_at, now),
        "rotated_at": stamp_or_none(credential.former[0].replaced_at if credential.former else None),
        "former_until": stamp_or_none(max(former, default=None)),
        "last_used_at": stamp_or_none(ctx.worker.uses.last(credential.id, credential.last_used_at)),
        "revoked_at": stamp_or_none(credential.revoked_at),
    }


def _configured_view(ctx: Context, key: Key, used: Millis | None) -> Json:
    """A key of the policy file."""
    expires_at = millis(key.expires_at) if key.expires_at is not None else None
    return {
        "id": f"key:{key.name}",
        "name": key.name,
        "user": key.user,
        "team": key.team,
        "models": None if key.models is None else list(key.models),
        "priority": key.priority,
        "max_tool_level": key.max_tool_level,
        "source": "policy",
        "created_at": None,
        "created_by": None,
        "expires_at": stamp_or_none(expires_at),
        "expires_in_s": _soon(expires_at, ctx.now()),
        "rotated_at": None,
        "former_until": None,
        "last_used_at": stamp_or_none(ctx.worker.uses.last(f"key:{key.name}", used)),
        "revoked_at": None,
    }


def _soon(expires_at: Millis | None, now: Millis) -> int | None:
    """Seconds until something expires, 0 when it has; None where that is more than a week away."""
    if expires_at is None or expires_at - now > EXPIRES_SOON_MS:
        return None
    return max(0, (expires_at - now) // 1000)
