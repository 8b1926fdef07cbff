"""Gateway keys and admin tokens: made, given a new secret, revoked, and when they were last used.

A credential stays the same one when its secret is replaced: its id and its name go on, and so does everything
that is counted under them. The secrets it had before are kept as digests with the time until which they work.

A change and its entry in the audit log are one transaction: a secret is replaced on record, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson
from sqlalchemy import Connection, Table, insert, or_, select, update

from gateway.domain import Json, Millis
from gateway.stores import ledger_schema as schema
from gateway.stores.audit_chain import AuditEntry
from gateway.stores.ledger_control import LedgerConflict, bump, chain, insert_into
from gateway.stores.ledger_database import LOCK_AUDIT, Database

Priority = Literal["low", "normal", "high"]
ToolLevel = Literal["safe", "moderate", "dangerous"]
_USUAL = {"priority": "normal", "max_tool_level": "dangerous"}


@dataclass(frozen=True, slots=True)
class FormerSecret:
    """A secret that was replaced."""

    digest: str
    replaced_at: Millis
    valid_until: Millis


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A gateway key. `digest` is the HMAC of the secret; the secret itself is nowhere."""

    id: str
    name: str
    digest: str
    created_at: Millis
    created_by: str
    user: str | None = None
    team: str | None = None
    models: tuple[str, ...] | None = None
    """Models that it may reach; `None` means all."""
    expires_at: Millis | None = None
    revoked_at: Millis | None = None
    priority: Priority = "normal"
    """How its calls wait for a provider that has no slot for them."""
    max_tool_level: ToolLevel = "dangerous"
    """The most dangerous tools that it may use."""
    former: tuple[FormerSecret, ...] = ()
    """Newest first."""
    last_used_at: Millis | None = field(default=None, compare=False)
    """To the minute."""

    def valid(self, now: Millis) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def secrets(self, now: Millis) -> dict[str, Millis | None]:
        """Digests of the secrets that work, each with the time until which it does."""
        return _secrets(self.digest, self.expires_at, self.former, now)


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """An admin token. `role` is `viewer`, `operator` or `admin`."""

    id: str
    name: str
    digest: str
    role: str
    created_at: Millis
    created_by: str
    expires_at: Millis | None = None
    revoked_at: Millis | None = None
    former: tuple[FormerSecret, ...] = ()
    """Newest first."""
    last_used_at: Millis | None = field(default=None, compare=False)
    """To the minute."""

    def valid(self, now: Millis) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def secrets(self, now: Millis) -> dict[str, Millis | None]:
        """Digests of the secrets that work, each with the time until which it does."""
        return _secrets(self.digest, self.expires_at, self.former, now)


class CredentialRecords(Database):
    """Writing and reading keys and tokens. Every method may raise `LedgerUnavailable`."""

    async def add_key(self, key: KeyRecord, entry: AuditEntry | None = None) -> None:
        """Raises `LedgerConflict` when a key in force has that name, or any key that id or digest."""
        row = {column.name: getattr(key, column.name) for column in schema.keys.c}
        row["models"] = None if key.models is None else orjson.dumps(key.models).decode()
        attributes = {"priority": key.priority, "max_tool_level": key.max_tool_level}

        def work(conn: Connection) -> None:
            _add(conn, schema.keys, row, key.created_at)
            if attributes != _USUAL:
                conn.execute(insert(schema.key_attributes), {"key": key.id, **attributes})
            _told(conn, entry, key.name)

        await self._write(work, lock=LOCK_AUDIT)

    async def rotate_key(
        self, key_id: str, digest: str, *, at: Millis, valid_until: Millis, entry: AuditEntry | None = None
    ) -> bool:
        """Give a key in force another secret; false when there is none.

        The secret of now works until `valid_until`, and no secret of before works longer than that.
        """
        return await self._rotate(schema.keys, key_id, digest, at, valid_until, entry)

    async def revoke_key(self, key_id: str, at: Millis, entry: AuditEntry | None = None) -> bool:
        """False when there is no such key in force."""
        return await self._revoke(schema.keys, key_id, at, entry)

    async def keys(self, *, include_revoked: bool = False) -> list[KeyRecord]:
        """Keys by name, expired ones included."""

        def work(conn: Connection) -> list[KeyRecord]:
            attributes = {
                row["key"]: {name: row[name] for name in _USUAL}
                for row in conn.execute(select(schema.key_attributes)).mappings()
            }
            rows = _credentials(conn, schema.keys, include_revoked)
            for row in rows:
                row["models"] = None if row["models"] is None else tuple(orjson.loads(row["models"]))
            return [KeyRecord(**row, **attributes.get(row["id"], {})) for row in rows]

        return await self._read(work)

    async def add_token(self, token: TokenRecord, entry: AuditEntry | None = None) -> None:
        """Raises `LedgerConflict` when a token in force has that name, or any token that id or digest."""
        row = {column.name: getattr(token, column.name) for column in schema.tokens.c}

        def work(conn: Connection) -> None:
            _add(conn, schema.tokens, row, token.created_at)
            _told(conn, entry, token.name)

        await self._write(work, lock=LOCK_AUDIT)

    async def rotate_token(
        self, token_id: str, digest: str, *, at: Millis, valid_until: Millis, entry: AuditEntry | None = None
    ) -> bool:
        """As `rotate_key`."""
        return await self._rotate(schema.tokens, token_id, digest, at, valid_until, entry)

    async def revoke_token(self, token_id: str, at: Millis, entry: AuditEntry | None = None) -> bool:
        """False when there is no such token in force."""
        return await self._revoke(schema.tokens, token_id, at, entry)

    async def tokens(self, *, include_revoked: bool = False) -> list[TokenRecord]:
        """Admin tokens by name, expired ones included."""

        def work(conn: Connection) -> list[TokenRecord]:
            return [TokenRecord(**row) for row in _credentials(conn, schema.tokens, include_revoked)]

        return await self._read(work)

    async def credentials_used(self, used: Mapping[str, Millis]) -> None:
        """Note when credentials were used; the latest time of each stays."""
        if not used:
            return
        table = schema.credential_uses
        rows = [{"credential": credential, "at": at} for credential, at in sorted(used.items())]

        def work(conn: Connection) -> None:
            adding = insert_into(conn, table)
            conn.execute(
                adding.on_conflict_do_update(
                    index_elements=["credential"],
                    set_={"at": adding.excluded.at},
                    where=table.c.at < adding.excluded.at,
                ),
                rows,
            )

        await self._write(work, repeatable=True)

    async def uses_of(self, prefix: str) -> dict[str, Millis]:
        """When the credentials whose id begins with `prefix` were last used."""
        table = schema.credential_uses
        query = select(table.c.credential, table.c.at).where(
            table.c.credential.startswith(prefix, autoescape=True)
        )
        return await self._read(lambda conn: {credential: at for credential, at in conn.execute(query)})

    async def _rotate(
        self,
        table: Table,
        credential: str,
        digest: str,
        at: Millis,
        valid_until: Millis,
        entry: AuditEntry | None,
    ) -> bool:
        c, f = table.c, schema.former_secrets.c
        in_force = (c.revoked_at.is_(None), or_(c.expires_at.is_(None), c.expires_at > at))

        def work(conn: Connection) -> bool:
            bump(conn)
            old = conn.execute(select(c.name, c.digest).where(c.id == credential, *in_force)).first()
            if old is None:
                return False
            conn.execute(
                update(schema.former_secrets)
                .where(f.credential == credential, f.valid_until > valid_until)
                .values(valid_until=valid_until)
            )
            conn.execute(
                insert(schema.former_secrets),
                {
                    "digest": old.digest,
                    "credential": credential,
                    "replaced_at": at,
                    "valid_until": valid_until,
                },
            )
            conn.execute(update(table).where(c.id == credential).values(digest=digest))
            _told(conn, entry, old.name)
            return True

        return await self._write(work, lock=LOCK_AUDIT)

    async def _revoke(self, table: Table, credential: str, at: Millis, entry: AuditEntry | None) -> bool:
        c = table.c

        def work(conn: Connection) -> bool:
            in_force = (c.id == credential, c.revoked_at.is_(None))
            name = conn.execute(select(c.name).where(*in_force).with_for_update()).scalar()
            if name is None:
                return False
            bump(conn)
            conn.execute(update(table).where(*in_force).values(revoked_at=at))
            _told(conn, entry, name)
            return True

        return await self._write(work, lock=LOCK_AUDIT)


def _told(conn: Connection, entry: AuditEntry | None, name: str) -> None:
    """Chain the entry of a change, with the name of what was changed."""
    if entry is not None:
        chain(conn, [replace(entry, details={**entry.details, "name": name})])


def _add(conn: Connection, table: Table, row: Json, now: Millis) -> None:
    c = table.c
    bump(conn)
    in_force = c.revoked_at.is_(None) & or_(c.expires_at.is_(None), c.expires_at > now)
    taken = conn.execute(
        select(c.id).where(
            (in_force & (c.name == row["name"])) | (c.id == row["id"]) | (c.digest == row["digest"])
        )
    ).first()
    if taken is not None:
        raise LedgerConflict(f"'{row['name']}' is in use already")
    conn.execute(insert(table), row)


def _credentials(conn: Connection, table: Table, include_revoked: bool) -> list[dict[str, Any]]:
    """Rows by name, with the former secrets and the last use of each."""
    query = select(table).order_by(table.c.name, table.c.created_at)
    if not include_revoked:
        query = query.where(table.c.revoked_at.is_(None))
    rows = [dict(row) for row in conn.execute(query).mappings()]
    f, u = schema.former_secrets.c, schema.credential_uses.c
    former: dict[str, list[FormerSecret]] = {}
    found = conn.execute(
        select(f.credential, f.digest, f.replaced_at, f.valid_until)
        .join(table, table.c.id == f.credential)
        .order_by(f.replaced_at.desc(), f.digest)
    )
    for credential, digest, replaced_at, valid_until in found:
        former.setdefault(credential, []).append(FormerSecret(digest, replaced_at, valid_until))
    used = {
        credential: at
        for credential, at in conn.execute(select(u.credential, u.at).join(table, table.c.id == u.credential))
    }
    for row in rows:
        row["former"] = tuple(former.get(row["id"], ()))
        row["last_used_at"] = used.get(row["id"])
    return rows


def _secrets(
    digest: str, expires_at: Millis | None, former: tuple[FormerSecret, ...], now: Millis
) -> dict[str, Millis | None]:
    working: dict[str, Millis | None] = {digest: expires_at}
    for each in former:
        if each.valid_until > now:
            until = each.valid_until if expires_at is None else min(each.valid_until, expires_at)
            working[each.digest] = until
    return working
