"""Sessions of operators' browsers: what is in the cookie, and whether a session still stands.

The cookie is a random id and a tag of it, so that one that we never gave is told without asking the database.
A real one is looked up there again every half second: ended on one replica, it is over on all of them. While
the database is away, sessions that this worker knows go on: a kill must not wait for it.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gateway.domain import Json
from gateway.steps.turn import new_id
from gateway.stores.audit_chain import AuditEntry
from gateway.stores.ledger import LedgerUnavailable
from gateway.stores.ledger_sessions import MAX_SESSION_MS, SessionRecord, Source

if TYPE_CHECKING:
    from gateway.app import Worker

log = logging.getLogger("gateway.admin")

COOKIE = b"gg_session"
FRESH_S = 0.4
"""How long a session is taken to stand as it was read."""
USED_EVERY_MS = 60_000
MAX_KNOWN = 1024
_VALUE = re.compile(rb"([A-Za-z0-9_-]{43})\.([0-9a-f]{32})")


@dataclass(slots=True)
class Sessions:
    """The sessions as one worker knows them."""

    worker: Worker
    _known: dict[str, tuple[SessionRecord, float]] = field(default_factory=dict, repr=False)
    """By digest, with the time of reading on the monotonic clock."""

    async def begin(
        self,
        *,
        name: str,
        role: str,
        source: Source,
        token: str | None,
        secret: str,
        address: str,
        details: Json,
    ) -> str:
        """A new session; the value of its cookie. `details` are for the audit log.

        Raises `LedgerUnavailable`.
        """
        own = secrets.token_urlsafe(32)
        now = self.worker.clock()
        record = SessionRecord(
            id=new_id("ses"),
            digest=self.worker.secrets.digest(f"session:{own}"),
            name=name,
            role=role,
            source=source,
            token=token,
            secret=secret,
            address=address,
            created_at=now,
            expires_at=now + MAX_SESSION_MS,
            used_at=now,
        )
        details = {"session": record.id, "role": role, "address": address, **details}
        await self.worker.ledger.add_session(record, AuditEntry(name, "session.login", details, now))
        self._remember(record)
        return f"{own}.{self.worker.secrets.digest(f'cookie:{own}')[:32]}"

    async def find(self, value: bytes) -> SessionRecord | None:
        """The session of a cookie, if it is neither ended nor too old nor at rest for too long.

        Raises `LedgerUnavailable` for a session that this worker does not know.
        """
        own = self._own(value)
        if own is None:
            return None
        for digest in self.worker.secrets.digests(b"session:" + own):
            record = await self.standing(digest)
            if record is not None:
                return record
        return None

    async def standing(self, digest: str) -> SessionRecord | None:
        """As `find`, by the session's digest."""
        record, read_at = self._known.get(digest, (None, 0.0))
        if record is None or time.monotonic() - read_at >= FRESH_S:
            try:
                read = await self.worker.ledger.session(digest)
            except LedgerUnavailable:
                if record is None:
                    raise
            else:
                record = read
                if record is not None:
                    self._remember(record)
        if record is None or not record.valid(self.worker.clock()):
            self._known.pop(digest, None)
            return None
        return record

    async def used(self, record: SessionRecord) -> None:
        """Note, once a minute, that a session is in use."""
        now = self.worker.clock()
        if now - record.used_at < USED_EVERY_MS:
            return
        # How long it is taken to stand is not prolonged by this.
        _, read_at = self._known.get(record.digest, (record, 0.0))
        self._known[record.digest] = (replace(record, used_at=now), read_at)
        try:
            await self.worker.ledger.session_used(record.id, now)
        except LedgerUnavailable as error:
            log.warning("that a session is in use is not on record: %s", error)

    async def end(self, session_id: str, by: str, action: str) -> SessionRecord | None:
        """End a session, which the audit log knows as `action`; None when there is none.

        Raises `LedgerUnavailable`.
        """
        at = self.worker.clock()
        ended = await self.worker.ledger.end_session(session_id, by=by, at=at, action=action)
        if ended is not None:
            self._known.pop(ended.digest, None)
        return ended

    def is_ours(self, value: bytes) -> bool:
        """Whether we gave this cookie once."""
        return self._own(value) is not None

    def csrf(self, value: bytes) -> str:
        """The token that goes with a cookie that was found: only pages that may read our answers know it."""
        return self._csrf_tokens(value)[0]

    def csrf_fits(self, value: bytes, sent: bytes) -> bool:
        """Whether this is the token of that cookie."""
        fitting = False
        for token in self._csrf_tokens(value):
            fitting |= hmac.compare_digest(token.encode(), sent)
        return fitting

    def _csrf_tokens(self, value: bytes) -> tuple[str, ...]:
        return self.worker.secrets.digests(b"csrf:" + value)

    def _own(self, value: bytes) -> bytes | None:
        """The random part of a cookie that we gave."""
        parts = _VALUE.fullmatch(value)
        if parts is None:
            return None
        own, tag = parts.groups()
        ours = False
        for digest in self.worker.secrets.digests(b"cookie:" + own):
            ours |= hmac.compare_digest(digest[:32].encode(), tag)
        return own if ours else None

    def _remember(self, record: SessionRecord) -> None:
        if record.digest not in self._known and len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[record.digest] = (record, time.monotonic())


def cookies(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Every value of the cookie of that name, in any number of `Cookie` headers."""
    found = []
    for header, value in headers:
        if header.lower() == b"cookie":
            for part in value.split(b";"):
                own, equals, content = part.strip().partition(b"=")
                if equals and own == name:
                    found.append(content)
    return found


def session_cookie(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The value of the session's cookie; empty without one.

    Two that differ are none: a neighbouring host may have put its own beside ours.
    """
    values = set(cookies(headers, COOKIE))
    return values.pop() if len(values) == 1 else b""


def set_cookie(name: bytes, value: str, *, same_site: str, secure: bool, max_age_s: int | None = None) -> str:
    """A `Set-Cookie` value that no script reads. Without `max_age_s` it goes with the browser."""
    parts = [f"{name.decode()}={value}", "Path=/", "HttpOnly", f"SameSite={same_site}"]
    if max_age_s is not None:
        parts.append(f"Max-Age={max_age_s}")
    if secure:
        parts.append("Secure")
    return "; ".join(parts)
