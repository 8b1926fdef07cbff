"""`gateway keys`, `gateway tokens` and `gateway sessions`: credentials of callers and of operators."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

from gateway.commands import views
from gateway.commands.client import quoted
from gateway.commands.console import AsJson, client, show

keys = typer.Typer(help="Gateway keys: what callers authenticate with.", no_args_is_help=True)
tokens = typer.Typer(help="Admin tokens with a role.", no_args_is_help=True)
sessions = typer.Typer(help="Operators who are logged in with a browser.", no_args_is_help=True)

_GRACE = re.compile(r"(\d{1,7})(s|m|h|d)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Priority(StrEnum):
    """How a key's calls wait for a provider that has no slot for them."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class ToolLevel(StrEnum):
    """How dangerous a tool may be that a key uses."""

    SAFE = "safe"
    MODERATE = "moderate"
    DANGEROUS = "dangerous"


def seconds(text: str) -> int:
    """`90s`, `30m`, `1h`, `7d` in seconds."""
    found = _GRACE.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"got {text!r}, expected a duration such as 30m, 1h or 7d")
    return int(found[1]) * _UNIT_S[found[2]]


All = Annotated[bool, typer.Option("--all", help="Revoked ones too.")]
ExpiresAt = Annotated[str | None, typer.Option(help="RFC 3339.")]
Grace = Annotated[
    str, typer.Option(metavar="DURATION", help="How long the old secret goes on working: 30m, 1h, 7d.")
]


@keys.command("list")
def list_keys(revoked: All = False, as_json: AsJson = False) -> None:
    """Gateway keys, those of the policy file too."""
    page = client().get("/keys", all="true" if revoked else None)
    show(page, as_json, lambda: _keys_table(page["data"]))


@keys.command("create")
def create_key(
    name: str,
    user: str | None = None,
    team: str | None = None,
    model: Annotated[list[str] | None, typer.Option(help="A model it may reach; may be repeated.")] = None,
    expires_at: ExpiresAt = None,
    priority: Annotated[Priority | None, typer.Option(help="Where calls wait for a provider.")] = None,
    max_tool_level: Annotated[ToolLevel | None, typer.Option(help="The most dangerous tools.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. Its secret is shown once."""
    made = client().post(
        "/keys",
        _given(
            name=name,
            user=user,
            team=team,
            models=model or None,
            expires_at=expires_at,
            priority=priority,
            max_tool_level=max_tool_level,
        ),
    )
    show(made, as_json, lambda: _once(made["key"], f"key {made['name']} ({made['id']})"))


@keys.command("rotate")
def rotate_key(
    key_id: Annotated[str, typer.Argument(metavar="ID")], grace: Grace = "0s", as_json: AsJson = False
) -> None:
    """Give a key a new secret, shown once. It stays the same key: what it spent and may spend goes on."""
    made = client().post(f"/keys/{quoted(key_id)}/rotate", {"grace_s": seconds(grace)})
    show(made, as_json, lambda: _rotated(made["key"], f"key {made['name']} ({made['id']})", made))


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID")], as_json: AsJson = False) -> None:
    """Revoke a key."""
    done = client().delete(f"/keys/{quoted(key_id)}")
    show(done, as_json, lambda: f"Key {done['id']} is revoked.")


@tokens.command("list")
def list_tokens(revoked: All = False, as_json: AsJson = False) -> None:
    """Admin tokens."""
    page = client().get("/tokens", all="true" if revoked else None)
    show(page, as_json, lambda: _tokens_table(page["data"]))


@tokens.command("create")
def create_token(
    name: str,
    role: Annotated[str, typer.Option(help="viewer, operator or admin")] = "viewer",
    expires_at: ExpiresAt = None,
    as_json: AsJson = False,
) -> None:
    """Make an admin token. Its secret is shown once."""
    made = client().post("/tokens", _given(name=name, role=role, expires_at=expires_at))
    what = f"token {made['name']} ({made['id']}), role {made['role']}"
    show(made, as_json, lambda: _once(made["token"], what))


@tokens.command("rotate")
def rotate_token(
    token_id: Annotated[str, typer.Argument(metavar="ID")], grace: Grace = "0s", as_json: AsJson = False
) -> None:
    """Give an admin token a new secret, shown once. Sessions that began with the old one end with it."""
    made = client().post(f"/tokens/{quoted(token_id)}/rotate", {"grace_s": seconds(grace)})
    show(made, as_json, lambda: _rotated(made["token"], f"token {made['name']} ({made['id']})", made))


@tokens.command("revoke")
def revoke_token(token_id: Annotated[str, typer.Argument(metavar="ID")], as_json: AsJson = False) -> None:
    """Revoke an admin token, and end the sessions that began with it."""
    done = client().delete(f"/tokens/{quoted(token_id)}")
    show(done, as_json, lambda: f"Token {done['id']} is revoked.")


@sessions.command("list")
def list_sessions(as_json: AsJson = False) -> None:
    """Who is logged in."""
    page = client().get("/sessions")
    show(page, as_json, lambda: _sessions_table(page["data"]))


@sessions.command("end")
def end_session(session_id: Annotated[str, typer.Argument(metavar="ID")], as_json: AsJson = False) -> None:
    """Log somebody out."""
    done = client().delete(f"/sessions/{quoted(session_id)}")
    show(done, as_json, lambda: f"Session {done['id']} is ended.")


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


# -- what is shown -----------------------------------------------------------------------------------


def _once(secret: str, what: str) -> str:
    return f"{secret}\nThis is {views.plain(what)}; it is not shown again."


def _rotated(secret: str, what: str, made: dict[str, Any]) -> str:
    until = made["former_until"]
    old = f"The old secret works until {views.moment(until)} UTC." if until else "The old secret is void."
    return f"{_once(secret, what)}\n{old}"


def _keys_table(rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        (
            row["id"],
            row["name"],
            row["user"],
            row["team"],
            "all" if row["models"] is None else ",".join(row["models"]),
            row["source"],
            views.moment(row["last_used_at"]),
            _standing(row),
        )
        for row in rows
    ]
    head = ("ID", "NAME", "USER", "TEAM", "MODELS", "FROM", "LAST USED (UTC)", "STATE")
    return views.table(head, cells, empty="No keys.")


def _tokens_table(rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        (
            row["id"],
            row["name"],
            row["role"],
            views.moment(row["created_at"]),
            views.moment(row["last_used_at"]),
            _standing(row),
        )
        for row in rows
    ]
    head = ("ID", "NAME", "ROLE", "MADE (UTC)", "LAST USED (UTC)", "STATE")
    return views.table(head, cells, empty="No tokens.")


def _sessions_table(rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        (
            row["id"],
            row["name"],
            row["role"],
            row["address"],
            *(views.moment(row[name]) for name in ("created_at", "last_used_at", "expires_at")),
        )
        for row in rows
    ]
    head = ("ID", "NAME", "ROLE", "FROM", "SINCE (UTC)", "LAST USED (UTC)", "UNTIL (UTC)")
    return views.table(head, cells, empty="Nobody is logged in with a browser.")


def _standing(row: dict[str, Any]) -> str:
    if row["revoked_at"]:
        return f"revoked {views.moment(row['revoked_at'])}"
    left = row["expires_in_s"]
    if left is not None:
        return f"expires in {views.duration(timedelta(seconds=left))}" if left else "expired"
    state = f"until {views.moment(row['expires_at'])}" if row["expires_at"] else "in force"
    former = row["former_until"]
    return f"{state}, old secret until {views.moment(former)}" if former else state
