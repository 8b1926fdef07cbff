"""Deliveries to webhooks: each is a row from the moment its event is claimed until it has arrived or failed.

An event is claimed, and its deliveries are written, in one transaction: whoever claims it cannot forget it. A
worker that takes a delivery owns it for a moment and has to say so again and again; what a dead worker owned
is soon anybody's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from gateway.domain import Json, Millis
from gateway.stores import ledger_schema as schema
from gateway.stores.ledger_control import insert_into
from gateway.stores.ledger_cursor import make_cursor, read_cursor
from gateway.stores.ledger_database import Database

DeliveryState = Literal["pending", "sent", "failed", "dropped"]
TOGETHER = 200
"""Events in one message at most."""
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Recipient:
    """An alert that an event goes to.

    Of one `thread` the oldest event is delivered first. `gap_ms` above 0 holds what follows another event of
    its thread back, so that what comes meanwhile can be told with it.
    """

    alert: str
    thread: str
    gap_ms: Millis = 0


@dataclass(frozen=True, slots=True)
class RaisedEvent:
    """An event with whom it is for. `body` is what is told, as JSON."""

    event: str
    kind: str
    subject: str
    at: Millis
    until: Millis
    """The same subject is not told again before."""
    body: str
    recipients: tuple[Recipient, ...]
    frees: str | None = None
    """A subject that may be told again from now on, since this event ended it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A row of the queue. Times are milliseconds since 1970."""

    seq: int
    event: str
    kind: str
    alert: str
    thread: str
    body: str
    state: str
    attempts: int
    created_at: Millis
    next_at: Millis
    done_at: Millis | None
    error: str | None
    owner: str | None
    owned_until: Millis


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of an attempt at these deliveries: when they are tried again, or None and the state they
    end in."""

    seqs: tuple[int, ...]
    at: Millis
    state: DeliveryState
    next_at: Millis | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for one alert."""

    deliveries: int
    oldest_at: Millis
    next_at: Millis
    """When the first of them is due."""


@dataclass(frozen=True, slots=True)
class Raised:
    """Which of the events this process was the first to claim, and what had to go for want of room."""

    claimed: list[bool]
    dropped: list[tuple[str, str, str]]
    """`(alert, kind, event)`."""


class AlertDeliveries(Database):
    """Writing and reading the queue of alerts. Every method may raise `LedgerUnavailable`."""

    async def raise_alerts(self, events: Sequence[RaisedEvent], *, most: int) -> Raised:
        """Claim events that nobody has claimed before and queue their deliveries, all in one transaction.

        Of one alert at most `most` deliveries wait; the oldest are dropped.
        """
        d = schema.alerts.c

        def work(conn: Connection) -> Raised:
            claims = schema.alert_claims
            now = max(event.at for event in events)
            conn.execute(delete(claims).where(claims.c.expires_at <= now))
            claim = insert_into(conn, claims).on_conflict_do_nothing()
            claimed: list[bool] = []
            rows: list[Json] = []
            for event in events:
                row = {"subject": event.subject, "expires_at": event.until}
                done = conn.execute(claim, row, execution_options={"preserve_rowcount": True})
                claimed.append(done.rowcount > 0)
                if not claimed[-1]:
                    continue
                if event.frees is not None:
                    conn.execute(delete(claims).where(claims.c.subject == event.frees))
                for recipient in event.recipients:
                    rows.append(_row(event, recipient, _due(conn, rows, event, recipient)))
            if rows:
                conn.execute(insert(schema.alerts), rows)
            dropped = []
            for alert in dict.fromkeys(row["alert"] for row in rows):
                waiting = (d.alert == alert, d.state == "pending")
                count = conn.execute(select(func.count()).where(*waiting)).scalar_one()
                if count > most:
                    oldest = select(d.seq).where(*waiting, d.owned_until <= now).order_by(d.seq)
                    dropped += _drop(conn, [d.seq.in_(oldest.limit(count - most))], now, "no room")
            return Raised(claimed, dropped)

        return await self._write(work)

    async def waiting_alerts(self) -> dict[str, Waiting]:
        """What waits, by alert."""
        d = schema.alerts.c
        # The index has all of it: bodies are not touched, however many wait.
        query = (
            select(d.alert, func.count(), func.min(d.seq), func.min(d.next_at))
            .where(d.state == "pending")
            .group_by(d.alert)
        )

        def work(conn: Connection) -> dict[str, Waiting]:
            found = conn.execute(query).all()
            began = select(d.seq, d.created_at).where(d.seq.in_([row[2] for row in found]))
            oldest = {row[0]: row[1] for row in conn.execute(began)} if found else {}
            return {row[0]: Waiting(row[1], oldest[row[2]], row[3]) for row in found if row[2] in oldest}

        return await self._read(work)

    async def take_alerts(
        self, owner: str, rooms: Mapping[str, tuple[int, bool]], *, now: Millis, until: Millis
    ) -> list[list[Delivery]]:
        """Own what is due until `until`: messages, each of one delivery, or of several that are alike.

        `rooms` says for each alert how many messages may be taken, and whether deliveries of one thread and
        kind go together. What another owns is left alone, and so is what an older one of its thread waits
        for.
        """

        def work(conn: Connection) -> list[list[Delivery]]:
            messages = []
            for alert, (room, together) in rooms.items():
                for head in _heads(conn, alert, now, room):
                    messages.append(_alike(conn, head, now) if together else [head])
            mine = [delivery.seq for message in messages for delivery in message]
            a = schema.alerts
            for chunk in (mine[i : i + _CHUNK] for i in range(0, len(mine), _CHUNK)):
                conn.execute(update(a).where(a.c.seq.in_(chunk)).values(owner=owner, owned_until=until))
            return messages

        return await self._write(work)

    async def take_event(self, owner: str, event: str, *, now: Millis, until: Millis) -> list[Delivery]:
        """Own the deliveries of one event at once, before whatever else waits."""
        a = schema.alerts

        def work(conn: Connection) -> list[Delivery]:
            mine = (a.c.event == event, a.c.state == "pending", a.c.owned_until <= now)
            found = conn.execute(select(a).where(*mine).with_for_update(skip_locked=True)).mappings().all()
            seqs = [row["seq"] for row in found]
            conn.execute(update(a).where(a.c.seq.in_(seqs)).values(owner=owner, owned_until=until))
            return [Delivery(**row) for row in found]

        return await self._write(work)

    async def keep_alerts(self, owner: str, seqs: Sequence[int], *, until: Millis) -> None:
        """Own deliveries for longer; those that were lost to another stay lost."""
        a = schema.alerts

        def work(conn: Connection) -> None:
            for chunk in (seqs[i : i + _CHUNK] for i in range(0, len(seqs), _CHUNK)):
                mine = (a.c.seq.in_(chunk), a.c.owner == owner, a.c.state == "pending")
                conn.execute(update(a).where(*mine).values(owned_until=until))

        await self._write(work, repeatable=True)

    async def release_alerts(self, owner: str) -> None:
        """Own nothing any more."""
        a = schema.alerts
        mine = (a.c.owner == owner, a.c.state == "pending")
        await self._write(lambda conn: conn.execute(update(a).where(*mine).values(owned_until=0)))

    async def tried_alerts(self, results: Sequence[Tried]) -> None:
        """Record what came of attempts."""
        a = schema.alerts

        def work(conn: Connection) -> None:
            for tried in results:
                values: Json = {"attempts": a.c.attempts + 1, "error": tried.error, "owned_until": 0}
                if tried.next_at is not None:
                    values["next_at"] = tried.next_at
                else:
                    values |= {"state": tried.state, "done_at": tried.at, "body": ""}
                conn.execute(
                    update(a).where(a.c.seq.in_(tried.seqs), a.c.state == "pending").values(**values)
                )

        await self._write(work)

    async def hurry_alerts(self, alert: str, now: Millis) -> None:
        """Let everything that waits for another attempt be tried now."""
        a = schema.alerts
        waiting = (a.c.alert == alert, a.c.state == "pending", a.c.next_at > now, a.c.attempts > 0)
        await self._write(lambda conn: conn.execute(update(a).where(*waiting).values(next_at=now)))

    async def drop_alerts(
        self, *, known: Sequence[str], before: Millis, now: Millis
    ) -> list[tuple[str, str, str]]:
        """Drop what waits since before `before` for alerts that are none of `known`: `(alert, kind, event)`
        each."""
        a = schema.alerts.c

        def work(conn: Connection) -> list[tuple[str, str, str]]:
            of_nobody = [a.state == "pending", a.alert.not_in(known), a.created_at < before]
            return _drop(conn, of_nobody, now, "the policy has no such alert")

        return await self._write(work)

    async def forget_alerts(self, *, before: Millis, most: int) -> int:
        """Delete deliveries that were over before `before`, and of each alert all but the newest `most`."""
        a = schema.alerts

        def work(conn: Connection) -> int:
            over = a.c.state != "pending"
            count = conn.execute(delete(a).where(over, a.c.done_at < before)).rowcount
            many = select(a.c.alert).where(over).group_by(a.c.alert).having(func.count() > most)
            for alert in conn.execute(many).scalars().all():
                oldest = select(a.c.seq).where(over, a.c.alert == alert).order_by(a.c.seq.desc())
                last = conn.execute(oldest.offset(most).limit(1)).scalar_one()
                count += conn.execute(delete(a).where(over, a.c.alert == alert, a.c.seq <= last)).rowcount
            return count

        return await self._write(work)

    async def alert_deliveries(
        self,
        *,
        state: DeliveryState | None = None,
        alert: str | None = None,
        event: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> tuple[list[Delivery], str | None]:
        """Deliveries, newest first, and the cursor of the next page. Raises `BadCursor`."""
        a = schema.alerts.c
        query = select(schema.alerts).order_by(a.seq.desc()).limit(limit + 1)
        for column, value in ((a.state, state), (a.alert, alert), (a.event, event)):
            if value is not None:
                query = query.where(column == value)
        if cursor is not None:
            query = query.where(a.seq < read_cursor(cursor, int)[0])

        def work(conn: Connection) -> tuple[list[Delivery], str | None]:
            found = [Delivery(**row) for row in conn.execute(query).mappings()]
            page = found[:limit]
            return page, make_cursor(page[-1].seq) if len(found) > limit else None

        return await self._read(work)


def _row(event: RaisedEvent, recipient: Recipient, due: Millis) -> Json:
    return {
        "event": event.event,
        "kind": event.kind,
        "alert": recipient.alert,
        "thread": recipient.thread,
        "body": event.body,
        "state": "pending",
        "attempts": 0,
        "created_at": event.at,
        "next_at": due,
        "owned_until": 0,
    }


def _due(conn: Connection, rows: Sequence[Json], event: RaisedEvent, recipient: Recipient) -> Millis:
    """When an event is told first: at once, with others of its kind in its thread that wait, or a gap after
    the last of them."""
    if not recipient.gap_ms:
        return event.at
    here = (recipient.alert, recipient.thread)
    last: Mapping[Any, Any] | None = next(
        (row for row in reversed(rows) if (row["alert"], row["thread"]) == here), None
    )
    if last is None:
        a = schema.alerts.c
        same = (a.alert == recipient.alert, a.thread == recipient.thread)
        query = select(a.kind, a.next_at).where(*same).order_by(a.seq.desc()).limit(1)
        last = conn.execute(query).mappings().first()
    if last is None or last["kind"] != event.kind:
        return event.at
    told = int(last["next_at"])
    if told > event.at:
        return told
    return told + recipient.gap_ms if told > event.at - recipient.gap_ms else event.at


def _heads(conn: Connection, alert: str, now: Millis, room: int) -> list[Delivery]:
    """The oldest delivery of each thread, where it is due and nobody is at it."""
    a = schema.alerts
    older = schema.alerts.alias()
    before = (
        select(older.c.seq)
        .where(
            older.c.alert == a.c.alert,
            older.c.thread == a.c.thread,
            older.c.state == "pending",
            older.c.seq < a.c.seq,
        )
        .exists()
    )
    query = (
        select(a)
        .where(
            a.c.alert == alert,
            a.c.state == "pending",
            a.c.next_at <= now,
            a.c.owned_until <= now,
            ~before,
        )
        .order_by(a.c.next_at, a.c.seq)
        .limit(room)
        .with_for_update(of=a, skip_locked=True)
    )
    return [Delivery(**row) for row in conn.execute(query).mappings()]


def _alike(conn: Connection, head: Delivery, now: Millis) -> list[Delivery]:
    """The delivery with those of its kind that are due right behind it in its thread."""
    a = schema.alerts
    query = (
        select(a)
        .where(
            a.c.alert == head.alert,
            a.c.thread == head.thread,
            a.c.state == "pending",
            a.c.next_at <= now,
            a.c.owned_until <= now,
            a.c.seq > head.seq,
        )
        .order_by(a.c.seq)
        .limit(TOGETHER - 1)
        .with_for_update(skip_locked=True)
    )
    found = [head]
    for row in conn.execute(query).mappings():
        if row["kind"] != head.kind:
            break
        found.append(Delivery(**row))
    return found


def _drop(
    conn: Connection, which: Sequence[ColumnElement[bool]], now: Millis, why: str
) -> list[tuple[str, str, str]]:
    a = schema.alerts
    found = conn.execute(select(a.c.seq, a.c.alert, a.c.kind, a.c.event).where(*which)).all()
    for start in range(0, len(found), _CHUNK):
        seqs = [row[0] for row in found[start : start + _CHUNK]]
        conn.execute(
            update(a).where(a.c.seq.in_(seqs)).values(state="dropped", done_at=now, body="", error=why)
        )
    return [(alert, kind, event) for _, alert, kind, event in found]
