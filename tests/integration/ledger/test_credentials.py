"""Secrets that are replaced, credentials that are used, and sessions, in every database."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.stores.ledger import LedgerConflict, SqlLedger
from gateway.stores.ledger_credentials import FormerSecret, KeyRecord, TokenRecord
from gateway.stores.ledger_sessions import KEPT_MS, MAX_IDLE_MS, MAX_SESSIONS, SessionRecord

from .conftest import Opener
from .events import T0

KEY = KeyRecord("k1", "bot", "d0", T0, "ann", models=("gpt-4o",), priority="low", max_tool_level="safe")
TOKEN = TokenRecord("t1", "ci", "e0", "operator", T0, "ann", expires_at=T0 + 100)
SESSION = SessionRecord(
    "ses_1", "f0", "token:ci", "operator", "token", "t1", "e0", "127.0.0.1", T0, T0 + 10_000_000, T0
)


async def test_a_key_keeps_its_attributes_through_rotations(ledger: SqlLedger) -> None:
    await ledger.add_key(KEY)
    assert await ledger.keys() == [KEY]
    assert await ledger.rotate_key("k1", "d1", at=T0 + 5, valid_until=T0 + 50)
    assert await ledger.rotate_key("k1", "d2", at=T0 + 6, valid_until=T0 + 20)
    former = (FormerSecret("d1", T0 + 6, T0 + 20), FormerSecret("d0", T0 + 5, T0 + 20))
    (found,) = await ledger.keys()
    assert found == replace(KEY, digest="d2", former=former)
    assert found.secrets(T0 + 10) == {"d2": None, "d1": T0 + 20, "d0": T0 + 20}
    assert found.secrets(T0 + 20) == {"d2": None}
    assert replace(found, expires_at=T0 + 15).secrets(T0 + 10) == {
        "d2": T0 + 15,
        "d1": T0 + 15,
        "d0": T0 + 15,
    }


async def test_what_is_not_in_force_is_not_rotated(ledger: SqlLedger) -> None:
    assert not await ledger.rotate_key("k1", "d1", at=T0, valid_until=T0)
    await ledger.add_key(KEY)
    await ledger.revoke_key("k1", T0 + 1)
    assert not await ledger.rotate_key("k1", "d1", at=T0 + 2, valid_until=T0 + 3)
    await ledger.add_token(TOKEN)
    assert not await ledger.rotate_token("t1", "e1", at=T0 + 100, valid_until=T0 + 200)
    assert await ledger.rotate_token("t1", "e1", at=T0 + 99, valid_until=T0 + 99)
    (found,) = await ledger.tokens()
    assert (found.digest, found.secrets(T0 + 99)) == ("e1", {"e1": T0 + 100})


async def test_a_rotation_moves_the_revision(ledger: SqlLedger, open_ledger: Opener) -> None:
    other = open_ledger()
    await other.start()
    await ledger.add_key(KEY)
    before = await other.revision()
    await ledger.rotate_key("k1", "d1", at=T0, valid_until=T0)
    assert await other.revision() > before


async def test_rotations_at_once_lose_no_secret(ledger: SqlLedger, open_ledger: Opener) -> None:
    """Whatever worked before the last one is known as a former secret."""
    other = open_ledger()
    await other.start()
    await ledger.add_key(KEY)
    digests = [f"n{number}" for number in range(20)]
    await asyncio.gather(
        *(
            (ledger, other)[number % 2].rotate_key("k1", digest, at=T0 + number, valid_until=T0 + 1000)
            for number, digest in enumerate(digests)
        )
    )
    (found,) = await ledger.keys()
    assert {found.digest, *(each.digest for each in found.former)} == {"d0", *digests}


async def test_a_digest_is_no_second_key_s(ledger: SqlLedger) -> None:
    await ledger.add_key(KEY)
    with pytest.raises(LedgerConflict):
        await ledger.add_key(replace(KEY, id="k2", name="other"))


async def test_the_latest_use_of_a_credential_stays(ledger: SqlLedger) -> None:
    await ledger.add_key(KEY)
    await ledger.credentials_used({})
    await ledger.credentials_used({"k1": T0 + 5, "key:alice": T0 + 6, "key:a_b": T0})
    await ledger.credentials_used({"k1": T0 + 4, "key:alice": T0 + 7})
    assert [key.last_used_at for key in await ledger.keys()] == [T0 + 5]
    assert await ledger.uses_of("key:") == {"key:alice": T0 + 7, "key:a_b": T0}
    assert await ledger.uses_of("key_") == {}


async def test_a_session_is_found_used_and_ended(ledger: SqlLedger, open_ledger: Opener) -> None:
    other = open_ledger()
    await other.start()
    await ledger.add_session(SESSION)
    assert await other.session("f0") == SESSION
    assert await other.session("f1") is None
    await ledger.session_used("ses_1", T0 + 9)
    await ledger.session_used("ses_1", T0 + 8)
    assert await other.session("f0") == replace(SESSION, used_at=T0 + 9)
    assert await other.sessions(T0 + 10) == [replace(SESSION, used_at=T0 + 9)]
    ended = await other.end_session("ses_1", by="ann", at=T0 + 20)
    assert ended == replace(SESSION, used_at=T0 + 9, ended_at=T0 + 20, ended_by="ann")
    assert await ledger.end_session("ses_1", by="bob", at=T0 + 21) is None
    assert await ledger.session("f0") == ended
    assert not ended.valid(T0)
    assert await ledger.sessions(T0 + 22) == []
    assert await ledger.end_session("ses_2", by="bob", at=T0) is None


async def test_a_session_is_over_with_its_time_and_its_rest(ledger: SqlLedger) -> None:
    await ledger.add_session(SESSION)
    for later, valid in ((0, True), (MAX_IDLE_MS - 1, True), (MAX_IDLE_MS, False), (10_000_000, False)):
        assert SESSION.valid(T0 + later) is valid
        assert bool(await ledger.sessions(T0 + later)) is valid
    assert await ledger.end_session("ses_1", by="ann", at=T0 + MAX_IDLE_MS) is None
    await ledger.add_session(replace(SESSION, id="ses_2", digest="f2", created_at=T0 + 10_000_001 + KEPT_MS))
    assert await ledger.session("f0") is None


async def test_one_login_too_many_ends_the_oldest_of_that_operator(ledger: SqlLedger) -> None:
    await ledger.add_session(replace(SESSION, id="ses_b", digest="fb", name="admin"))
    for number in range(MAX_SESSIONS + 2):
        session = replace(SESSION, id=f"ses_{number}", digest=f"f{number}", created_at=T0 + number)
        await ledger.add_session(session)
    standing = {session.id for session in await ledger.sessions(T0 + 1000)}
    assert len(standing) == MAX_SESSIONS + 1
    assert {"ses_0", "ses_1"} & standing == set()
    assert "ses_b" in standing


async def test_a_login_comes_back_once(ledger: SqlLedger, open_ledger: Opener) -> None:
    other = open_ledger()
    await other.start()
    claims = await asyncio.gather(
        *(each.claim_login("s1", at=T0, until=T0 + 10) for each in (ledger, other) * 5)
    )
    assert sum(claims) == 1
    assert await ledger.claim_login("s2", at=T0, until=T0 + 10)
    assert not await other.claim_login("s2", at=T0 + 9, until=T0 + 20)
    # What has run out is forgotten: the cookie that belongs to it has run out too.
    assert await other.claim_login("s2", at=T0 + 10, until=T0 + 20)
