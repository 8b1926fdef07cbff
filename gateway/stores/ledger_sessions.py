"""Operators who are logged in with a browser, as every worker and replica knows them.

A session is found by the digest of its cookie; the cookie's value is nowhere. It is over when it has lasted
or rested too long, or when somebody has ended it. What it began with (a token, a provider's word) may end it
too: that is for whoever asks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from sqlalchemy import Connection, delete, insert, select, update

from gateway.domain import Millis
from gateway.stores import ledger_schema as schema
from gateway.stores.audit_chain import AuditEntry
from gateway.stores.ledger_control import chain, insert_into
from gateway.stores.ledger_database import LOCK_AUDIT, Database

MAX_SESSION_MS = 12 * 3_600_000
MAX_IDLE_MS = 3_600_000
MAX_SESSIONS = 100
"""Of one operator at a time; another login ends the oldest."""
KEPT_MS = 30 * 86_400_000
"""How long a session that is over is kept."""

Source = Literal["admin", "token", "oidc"]


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session of an operator's browser."""

    id: str
    digest: str
    """HMAC of the cookie's value."""
    name: str
    """As in the audit log."""
    role: str
    source: Source
    token: str | None
    """Id of the named token that it began with."""
    secret: str
    """Digest of the secret, or of the OIDC settings, that it began with."""
    address: str
    created_at: Millis
    expires_at: Millis
    used_at: Millis
    """To the minute."""
    ended_at: Millis | None = None
    ended_by: str | None = None

    def valid(self, now: Millis) -> bool:
        """Not ended, and neither too old nor at rest for too long."""
        return self.ended_at is None and now < self.expires_at and now - self.used_at < MAX_IDLE_MS


class SessionRecords(Database):
    """Writing and reading sessions. Every method may raise `LedgerUnavailable`."""

    async def add_session(self, session: SessionRecord, entry: AuditEntry | None = None) -> None:
        """Keep a new session, and its entry in the audit log. The oldest of the same operator end where there
        are too many."""
        s = schema.sessions.c

        def work(conn: Connection) -> None:
            conn.execute(delete(schema.sessions).where(s.expires_at < session.created_at - KEPT_MS))
            conn.execute(insert(schema.sessions), asdict(session))
            surplus = (
                select(s.id)
                .where(s.name == session.name, s.ended_at.is_(None), s.expires_at > session.created_at)
                .order_by(s.created_at.desc(), s.id)
                .offset(MAX_SESSIONS)
            )
            if surplus_ids := list(conn.execute(surplus).scalars()):
                conn.execute(
                    update(schema.sessions)
                    .where(s.id.in_(surplus_ids))
                    .values(ended_at=session.created_at, ended_by=session.name)
                )
            if entry is not None:
                chain(conn, [entry])

        await self._write(work, lock=LOCK_AUDIT)

    async def session(self, digest: str) -> SessionRecord | None:
        """The session with that digest, over or not."""
        query = select(schema.sessions).where(schema.sessions.c.digest == digest)

        def work(conn: Connection) -> SessionRecord | None:
            row = conn.execute(query).mappings().first()
            return SessionRecord(**row) if row is not None else None

        return await self._read(work)

    async def session_used(self, session_id: str, at: Millis) -> None:
        """Note that a session is in use; the latest time stays."""
        s = schema.sessions.c
        change = update(schema.sessions).where(s.id == session_id, s.used_at < at).values(used_at=at)
        await self._write(lambda conn: conn.execute(change), repeatable=True)

    async def end_session(
        self, session_id: str, *, by: str, at: Millis, action: str = "session.end"
    ) -> SessionRecord | None:
        """End a session, and put that on record as `action`: the session as it stands then, None when there
        was none that was not over."""
        s = schema.sessions.c

        def work(conn: Connection) -> SessionRecord | None:
            row = conn.execute(select(schema.sessions).where(s.id == session_id)).mappings().first()
            if row is None or not SessionRecord(**row).valid(at):
                return None
            ended = {"ended_at": at, "ended_by": by}
            changed = conn.execute(
                update(schema.sessions).where(s.id == session_id, s.ended_at.is_(None)).values(ended)
            ).rowcount
            if not changed:
                return None
            record = SessionRecord(**{**row, **ended})
            chain(conn, [AuditEntry(by, action, {"session": record.id, "name": record.name}, at)])
            return record

        return await self._write(work, lock=LOCK_AUDIT)

    async def sessions(self, now: Millis, *, limit: int = 1000) -> list[SessionRecord]:
        """Sessions that are not over, newest first."""
        s = schema.sessions.c
        query = (
            select(schema.sessions)
            .where(s.ended_at.is_(None), s.expires_at > now, s.used_at > now - MAX_IDLE_MS)
            .order_by(s.created_at.desc(), s.id)
            .limit(limit)
        )
        return await self._read(lambda conn: [SessionRecord(**row) for row in conn.execute(query).mappings()])

    async def claim_login(self, digest: str, *, at: Millis, until: Millis) -> bool:
        """Whether nobody, in any process, has come back with this state of a login before."""
        table = schema.login_states

        def work(conn: Connection) -> bool:
            conn.execute(delete(table).where(table.c.expires_at <= at))
            claimed = conn.execute(
                insert_into(conn, table).on_conflict_do_nothing(),
                {"digest": digest, "expires_at": until},
                execution_options={"preserve_rowcount": True},
            ).rowcount
            return claimed > 0

        return await self._write(work)
