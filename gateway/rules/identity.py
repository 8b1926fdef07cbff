"""Who says which run and session this is: the hints that clients send, and how far each is trusted.

Only the gateway key authenticates. Everything here is a hint inside its principal: it may select one of
the principal's own runs and sessions and nothing else, and a value of the wrong shape is no hint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

import orjson

from gateway.domain import Json
from gateway.errors import CallerError
from gateway.values import frozen

SCOPE_WORDS = frozenset({"run", "session", "user", "key", "team", "model", "tool", "global", "tag"})
"""No run may be called by these: `kill:global` has to mean what it says."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+~-]{0,127}")
_HINT = re.compile(r"[A-Za-z0-9_-]{8,128}")
_TAG = re.compile(r"([A-Za-z0-9_.-]{1,64})=([A-Za-z0-9_.@/+ -]{0,128})")
_MAX_TAGS = 16

SESSION_HEADERS: tuple[bytes, ...] = (
    b"x-claude-code-session-id",
    b"x-session-id",
    b"x-opencode-session",
    b"x-session-affinity",
    b"x-litellm-session-id",
    b"x-litellm-trace-id",
    b"helicone-session-id",
    b"x-portkey-trace-id",
    b"x-bf-session-id",
)
_SESSION_NAMES = frozenset(SESSION_HEADERS)
_CODEX_SESSION_HEADERS: tuple[bytes, ...] = (b"session-id", b"thread-id", b"session_id", b"conversation_id")
_CODEX_AGENTS = (b"codex_", b"codex-")
_ANY_SESSION_HEADER = re.compile(rb"x-[a-z0-9]{1,32}-session-id")


@frozen
class Hints:
    """What a request says of itself. `session` is as shown; `session_given` when it named one outright."""

    run_name: str | None = None
    run_in_url: bool = False
    session: str | None = None
    session_given: bool = False
    weak_session: str | None = None
    """A grouping value (prompt cache key, end user): a session for new runs, when nothing better is known."""
    end_user: str | None = None
    parent: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    retry_count: int = 0
    agent: str = ""
    """A sub-agent's own id inside its session: its conversation is not its parent's."""
    parent_agent: tuple[str, str] | None = None
    """(session, agent id) of the agent that started this one; the agent id of a main agent is empty."""
    codex: bool = False
    """The client is Codex, which has its own idea of which errors end a turn."""


def read_hints(headers: Mapping[bytes, bytes], body: Json | None, url_run: str | None) -> Hints:
    """Hints from headers (names lower-case), the body and the `/r/{run}` segment.

    Raises `CallerError` for an own header or URL segment of the wrong shape; a vendor's hint of the wrong
    shape is ignored.
    """
    run_header = _own(headers, b"x-guardrail-run-id")
    run_name = run_header if run_header is not None else url_run
    if run_name is not None:
        ensure_name(run_name, "run")
    session = _own(headers, b"x-guardrail-session-id")
    given = session is not None
    if session is not None:
        ensure_name(session, "session")
    else:
        session = _session_hint(headers) or _claude_session(body)
        given = session is not None
    user = _own(headers, b"x-guardrail-user-id")
    if user is not None:
        ensure_name(user, "user")
    parent = _own(headers, b"x-guardrail-parent-run-id")
    if parent is not None:
        ensure_name(parent, "run")
    retry = headers.get(b"x-stainless-retry-count", b"0")
    return Hints(
        run_name=run_name,
        run_in_url=run_header is None and url_run is not None,
        session=session,
        session_given=given,
        weak_session=_weak_session(body),
        end_user=user,
        parent=parent,
        tags=read_tags(headers.get(b"x-guardrail-tags")),
        retry_count=int(retry) if retry.isdigit() and len(retry) < 4 else 0,
        agent=_hint(headers.get(b"x-claude-code-agent-id", b"")) or "",
        parent_agent=_parent_agent(headers, session),
        codex=headers.get(b"user-agent", b"").startswith(_CODEX_AGENTS),
    )


def _own(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return value.decode("latin-1") if value is not None else None


def is_name(value: str) -> bool:
    """Whether a value has the shape of a name of a run, session or user."""
    return _NAME.fullmatch(value) is not None


def ensure_name(value: str, kind: str) -> None:
    """`CallerError` unless the value may name a run, session or user: its charset is safe in keys, headers,
    logs and URLs alike."""
    if not _NAME.fullmatch(value):
        raise CallerError(
            "invalid_request",
            f"A {kind} name has to be 1 to 128 letters, digits or any of . _ @ + ~ -, "
            "and begin with a letter or digit.",
        )
    if kind == "run" and value.lower() in SCOPE_WORDS:
        raise CallerError("invalid_request", f"{value!r} is a reserved word and cannot name a run.")


def _session_hint(headers: Mapping[bytes, bytes]) -> str | None:
    names: tuple[bytes, ...] = () if _SESSION_NAMES.isdisjoint(headers) else SESSION_HEADERS
    if headers.get(b"user-agent", b"").startswith(_CODEX_AGENTS):
        names = _CODEX_SESSION_HEADERS + names
    for name in names:
        if (value := headers.get(name)) is not None and (hint := _hint(value)) is not None:
            return hint
    for name, value in headers.items():
        if name.endswith(b"-session-id") and _ANY_SESSION_HEADER.fullmatch(name):
            hint = _hint(value)
            if hint is not None:
                return hint
    baggage = headers.get(b"baggage")
    for part in baggage.split(b",") if baggage is not None else ():
        key, _, value = part.strip().partition(b"=")
        if key in (b"session.id", b"langfuse_session_id"):
            return _hint(unquote_to_bytes(value.split(b";", 1)[0]))
    return None


def _parent_agent(headers: Mapping[bytes, bytes], session: str | None) -> tuple[str, str] | None:
    """Who started this agent, as Claude Code and Codex tell it. An agent is never its own parent."""
    thread = headers.get(b"x-codex-parent-thread-id")
    if thread is not None and headers.get(b"user-agent", b"").startswith(_CODEX_AGENTS):
        told = _hint(thread)
        return (told, "") if told is not None and told != session else None
    agent = _hint(headers.get(b"x-claude-code-agent-id", b""))
    if agent is None or session is None:
        return None
    parent = _hint(headers.get(b"x-claude-code-parent-agent-id", b"")) or ""
    return (session, parent) if parent != agent else None


def _hint(value: bytes) -> str | None:
    text = value.decode("latin-1")
    return text if _HINT.fullmatch(text) else None


def _claude_session(body: Json | None) -> str | None:
    """The session in `metadata.user_id` as Claude Code writes it: at the end of a longer name, or in JSON."""
    metadata = body.get("metadata") if body is not None else None
    value = metadata.get("user_id") if isinstance(metadata, dict) else None
    if not isinstance(value, str) or "session" not in value or len(value) > 1024:
        return None
    if value.startswith("{"):
        try:
            told = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
        session = told.get("session_id") if isinstance(told, dict) else None
    else:
        session = value.rpartition("_session_")[2] if "_session_" in value else None
    return session if isinstance(session, str) and _HINT.fullmatch(session) else None


def _weak_session(body: Json | None) -> str | None:
    if body is None:
        return None
    metadata = body.get("metadata")
    if isinstance(metadata, dict):
        for name in ("session_id", "litellm_session_id", "user_id"):
            value = metadata.get(name)
            if isinstance(value, str) and 0 < len(value) <= 512:
                return f"metadata:{value}"
    for name in ("litellm_session_id", "session_id", "prompt_cache_key", "user", "safety_identifier"):
        value = body.get(name)
        if isinstance(value, str) and 0 < len(value) <= 512:
            return f"{name}:{value}"
    return None


def read_tags(header: bytes | None) -> tuple[tuple[str, str], ...]:
    """`name=value,name=value`; what has another shape is dropped, the rest kept, sixteen at most."""
    if header is None:
        return ()
    tags: dict[str, str] = {}
    for part in header.decode("latin-1").split(",")[: 4 * _MAX_TAGS]:
        match = _TAG.fullmatch(part.strip())
        if match and len(tags) < _MAX_TAGS:
            tags[match[1]] = match[2].strip()
    return tuple(tags.items())
