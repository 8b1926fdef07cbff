"""Approvals of tool calls: what was asked, what an operator decided, and whether the decision was used.

A request is kept beside the ledger, so it outlives every process, and any process may decide it. A request or
a decision and its entry in the audit log are one transaction; when an approval was used is in its row alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from sqlalchemy import ColumnElement, Connection, and_, literal, or_, select, tuple_, update

from gateway.domain import Json, Millis, Nano
from gateway.stores import ledger_schema as schema
from gateway.stores.audit_chain import AuditEntry
from gateway.stores.ledger_control import chain
from gateway.stores.ledger_cursor import make_cursor, read_cursor
from gateway.stores.ledger_database import LOCK_AUDIT, Database
from gateway.stores.ledger_events import labels

ApprovalState = Literal["pending", "approved", "denied", "expired"]
Decision = Literal["approved", "denied"]

MAX_ARGUMENTS = 16 * 1024
"""Bytes of a call's arguments that are kept for the operator to read; the digest covers all of them."""


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """A tool call that needed a decision.

    `digest` names the call: tool and whole arguments. One decision is for one call of one session under one
    version of the policy, and an approved call passes once.
    """

    id: str
    created_at: Millis
    expires_at: Millis
    """From then on nobody can decide, and a decision that was not used is void."""
    principal: str
    key: str
    user: str | None
    team: str | None
    session: str
    run: str
    tool: str
    arguments: str
    truncated: bool
    """`arguments` is the beginning of what the model wrote."""
    digest: str
    policy: str
    cost: Nano
    """What the run had cost when it asked."""
    state: ApprovalState = "pending"
    decided_by: str | None = None
    decided_at: Millis | None = None
    reason: str | None = None
    used_at: Millis | None = None

    def standing(self, now: Millis) -> ApprovalRecord:
        """The record as it stands now: what ran out undecided or unused is `expired`."""
        if self.state in ("pending", "approved") and self.used_at is None and now >= self.expires_at:
            return replace(self, state="expired")
        return self


class ApprovalRecords(Database):
    """Writing and reading approvals. Every method may raise `LedgerUnavailable`."""

    async def request_approval(self, record: ApprovalRecord) -> ApprovalRecord:
        """Open a request, unless the same call has one already.

        An unexpired request of the same principal, session, tool, digest and policy that is pending, denied,
        or approved and not used yet is given instead, whoever made it and in whatever process.
        """
        record = _storable(record)

        def work(conn: Connection) -> ApprovalRecord:
            a = schema.approvals.c
            same = (a.digest, a.principal, a.session, a.tool, a.policy)
            query = (
                select(schema.approvals)
                .where(
                    *(column == getattr(record, column.name) for column in same),
                    a.expires_at > record.created_at,
                    a.used_at.is_(None),
                )
                .order_by(a.created_at.desc(), a.id)
                .limit(1)
            )
            row = conn.execute(query).mappings().first()
            if row is not None:
                return ApprovalRecord(**row)
            conn.execute(schema.approvals.insert(), asdict(record))
            entry = AuditEntry(f"key:{record.key}", "approval.request", _told(record), record.created_at)
            chain(conn, [entry])
            return record

        return await self._write(work, lock=LOCK_AUDIT, repeatable=True)

    async def decide_approval(
        self, approval_id: str, state: Decision, *, by: str, at: Millis, reason: str
    ) -> tuple[ApprovalRecord, bool] | None:
        """Decide a pending request: the record as it stands then, and whether it was this that decided.

        Of several decisions the first one counts. None when there is no such request.
        """
        a = schema.approvals.c

        def work(conn: Connection) -> tuple[ApprovalRecord, bool] | None:
            decided = conn.execute(
                update(schema.approvals)
                .where(a.id == approval_id, a.state == "pending", a.expires_at > at)
                .values(state=state, decided_by=by, decided_at=at, reason=reason)
            ).rowcount
            record = _one(conn, approval_id)
            if record is None:
                return None
            if decided:
                action = "approval.approve" if state == "approved" else "approval.deny"
                chain(conn, [AuditEntry(by, action, {**_told(record), "reason": reason}, at)])
            return record.standing(at), decided > 0

        return await self._write(work, lock=LOCK_AUDIT)

    async def use_approvals(self, ids: Sequence[str], at: Millis) -> bool:
        """Use up approvals, all or none: false, and nothing changed, unless each is approved, unexpired and
        not used before."""
        a = schema.approvals.c
        wanted = sorted(set(ids))

        def work(conn: Connection) -> bool:
            usable = (a.id.in_(wanted), a.state == "approved", a.used_at.is_(None), a.expires_at > at)
            found = conn.execute(select(a.id).where(*usable).order_by(a.id).with_for_update()).all()
            if len(found) < len(wanted):
                return False
            conn.execute(update(schema.approvals).where(*usable).values(used_at=at))
            return True

        return await self._write(work)

    async def approval(self, approval_id: str) -> ApprovalRecord | None:
        """One request by its id, as it was written."""
        return await self._read(lambda conn: _one(conn, approval_id))

    async def decided_approvals(self, ids: Sequence[str]) -> list[ApprovalRecord]:
        """Those of the requests that somebody has decided."""
        a = schema.approvals.c
        query = select(schema.approvals).where(a.id.in_(ids), a.state != "pending")
        return await self._read(lambda conn: [ApprovalRecord(**r) for r in conn.execute(query).mappings()])

    async def approvals(
        self,
        now: Millis,
        *,
        state: ApprovalState | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[list[ApprovalRecord], str | None]:
        """Requests as they stand at `now`, newest first, and the cursor of the next page.

        Raises `BadCursor`.
        """
        a = schema.approvals.c
        query = select(schema.approvals).order_by(a.created_at.desc(), a.id.desc()).limit(limit + 1)
        if state is not None:
            query = query.where(_is(state, now))
        if cursor is not None:
            created_at, approval_id = read_cursor(cursor, int, str)
            query = query.where(
                tuple_(a.created_at, a.id) < tuple_(literal(created_at), literal(approval_id))
            )

        def work(conn: Connection) -> tuple[list[ApprovalRecord], str | None]:
            found = [ApprovalRecord(**row).standing(now) for row in conn.execute(query).mappings()]
            page = found[:limit]
            more = len(found) > limit
            return page, make_cursor(page[-1].created_at, page[-1].id) if more else None

        return await self._read(work)


def _is(state: ApprovalState, now: Millis) -> ColumnElement[bool]:
    """`ApprovalRecord.standing` as a condition."""
    a = schema.approvals.c
    if state == "denied":
        return a.state == "denied"
    if state == "expired":
        return and_(a.state.in_(("pending", "approved")), a.used_at.is_(None), a.expires_at <= now)
    return and_(a.state == state, or_(a.used_at.is_not(None), a.expires_at > now))


def _one(conn: Connection, approval_id: str) -> ApprovalRecord | None:
    row = (
        conn.execute(select(schema.approvals).where(schema.approvals.c.id == approval_id)).mappings().first()
    )
    return ApprovalRecord(**row) if row is not None else None


def _storable(record: ApprovalRecord) -> ApprovalRecord:
    """The record with texts that every database takes, whatever callers and models put into them."""
    whose = (record.principal, record.key, record.user, record.team, record.session, record.run, record.tool)
    principal, key, user, team, session, run, tool = labels(
        text if text is None else _bytes(text).decode() for text in whose
    )
    raw = _bytes(record.arguments)
    return replace(
        record,
        principal=principal or "",
        key=key or "",
        user=user,
        team=team,
        session=session or "",
        run=run or "",
        tool=tool or "",
        arguments=raw[:MAX_ARGUMENTS].decode("utf-8", "ignore"),
        truncated=record.truncated or len(raw) > MAX_ARGUMENTS,
    )


def _bytes(text: str) -> bytes:
    """UTF-8 without what databases refuse."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace")


def _told(record: ApprovalRecord) -> Json:
    """What the audit log says of a request: which call it was, not what was in it."""
    return {
        "approval": record.id,
        "tool": record.tool,
        "digest": record.digest,
        "session": record.session,
        "run": record.run,
        "user": record.user,
        "policy": record.policy,
    }
