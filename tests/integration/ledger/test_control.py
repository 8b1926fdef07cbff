"""Keys, tokens, kills, top-ups, policy versions, and the audit chain."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.stores.audit_chain import GENESIS, AuditEntry, verify_chain
from gateway.stores.ledger import LedgerConflict, SqlLedger
from gateway.stores.ledger_credentials import KeyRecord, TokenRecord
from gateway.stores.ledger_policies import PolicyVersion

from .conftest import Opener
from .events import T0, attempt, encode, meta, refusal

KEY = KeyRecord("k1", "support-bot", "d" * 64, T0, "ann", user="support", team="cx", models=("gpt-4o",))
TOKEN = TokenRecord("t1", "ci", "e" * 64, "operator", T0, "ann", expires_at=T0 + 100)
POLICY = PolicyVersion("v1", "version: 1\n", "ann", "first", T0)


async def test_keys_are_kept_and_revoked(ledger: SqlLedger) -> None:
    await ledger.add_key(KEY)
    assert await ledger.keys() == [KEY]
    assert await ledger.revoke_key("k1", T0 + 5)
    assert not await ledger.revoke_key("k1", T0 + 6)
    assert await ledger.keys() == []
    assert await ledger.keys(include_revoked=True) == [replace(KEY, revoked_at=T0 + 5)]
    assert not replace(KEY, revoked_at=T0 + 5).valid(T0 + 9)


async def test_a_name_is_free_again_when_its_key_is_out_of_force(ledger: SqlLedger) -> None:
    await ledger.add_key(KEY)
    with pytest.raises(LedgerConflict):
        await ledger.add_key(replace(KEY, id="k2", digest="f" * 64))
    with pytest.raises(LedgerConflict):
        await ledger.add_key(replace(KEY, id="k3", name="other"))
    await ledger.revoke_key("k1", T0)
    await ledger.add_key(replace(KEY, id="k2", digest="f" * 64, models=None))
    assert [key.models for key in await ledger.keys()] == [None]


async def test_tokens_are_kept_and_revoked(ledger: SqlLedger) -> None:
    await ledger.add_token(TOKEN)
    assert await ledger.tokens() == [TOKEN]
    assert TOKEN.valid(T0 + 99)
    assert not TOKEN.valid(T0 + 100)
    assert await ledger.revoke_token("t1", T0)
    assert await ledger.tokens() == []


async def test_a_kill_holds_until_revived_or_expired(ledger: SqlLedger) -> None:
    kill = await ledger.add_kill(name="run:r1", scope="run", target="r1", reason="loop", by="ann", at=T0)
    short = await ledger.add_kill(
        name="global", scope="global", target="", reason="fire", by="bob", at=T0 + 1, expires_at=T0 + 50
    )
    assert await ledger.active_kills(T0 + 2) == [short, kill]
    assert await ledger.active_kills(T0 + 50) == [kill]
    assert await ledger.revive("run:r1", by="bob", at=T0 + 60)
    assert not await ledger.revive("run:r1", by="bob", at=T0 + 61)
    assert not await ledger.revive("global", by="bob", at=T0 + 61)
    assert await ledger.active_kills(T0 + 70) == []
    assert [(k.name, k.revived_by) for k in await ledger.kills()] == [("global", None), ("run:r1", "bob")]


async def test_a_new_kill_replaces_the_one_of_its_name(ledger: SqlLedger) -> None:
    await ledger.add_kill(name="user:u", scope="user", target="u", reason="first", by="ann", at=T0)
    await ledger.add_kill(name="user:u", scope="user", target="u", reason="second", by="ann", at=T0 + 1)
    assert [kill.reason for kill in await ledger.active_kills(T0 + 2)] == ["second"]
    assert len(await ledger.kills()) == 2


async def test_a_kill_shows_when_each_worker_obeyed(ledger: SqlLedger) -> None:
    kill = await ledger.add_kill(name="global", scope="global", target="", reason="x", by="ann", at=T0)
    await ledger.kill_obeyed(kill.id, worker="w2", at=T0 + 40, streams=2)
    await ledger.kill_obeyed(kill.id, worker="w1", at=T0 + 30, streams=0)
    await ledger.kill_obeyed(kill.id, worker="w2", at=T0 + 90, streams=1)
    found = await ledger.kill(kill.id)
    assert found is not None
    assert [(o.worker, o.at, o.streams) for o in found.obeyed] == [("w1", T0 + 30, 0), ("w2", T0 + 40, 2)]
    assert await ledger.kill("absent") is None


async def test_topups_add_up_until_they_expire(ledger: SqlLedger) -> None:
    for amount, target, expires_at in (
        (5, "ann", None),
        (7, "ann", T0 + 10),
        (-2, "ann", None),
        (9, "bob", None),
    ):
        await ledger.add_topup(
            budget="user-day", target=target, amount=amount, reason="r", by="op", at=T0, expires_at=expires_at
        )
    assert await ledger.topup_sums(T0) == {("user-day", "ann"): 10, ("user-day", "bob"): 9}
    assert await ledger.topup_sums(T0 + 10) == {("user-day", "ann"): 3, ("user-day", "bob"): 9}
    assert {topup.amount for topup in await ledger.topups(budget="user-day", target="ann")} == {5, 7, -2}


async def test_one_policy_governs_and_one_may_be_tried_beside_it(ledger: SqlLedger) -> None:
    assert await ledger.add_policy_version(POLICY)
    assert not await ledger.add_policy_version(replace(POLICY, note="again"))
    for version in ("v2", "v3"):
        await ledger.add_policy_version(replace(POLICY, version=version))

    async def active() -> list[tuple[str, float]]:
        return [(policy.version, policy.share) for policy in await ledger.active_policies()]

    await ledger.activate_policy("v1", by="ann", at=T0)
    await ledger.activate_policy("v2", share=0.1, by="ann", at=T0)
    assert await active() == [("v1", 1.0), ("v2", 0.1)]
    await ledger.activate_policy("v3", share=0.5, by="ann", at=T0)
    assert await active() == [("v1", 1.0), ("v3", 0.5)]
    assert await ledger.roll_back_policy("v3", None, by="ann", at=T0, why="worse")
    assert not await ledger.roll_back_policy("v3", None, by="ann", at=T0, why="worse")
    assert await active() == [("v1", 1.0)]
    rolled_back = await ledger.policy_version("v3")
    assert rolled_back is not None
    assert rolled_back.rolled_back == "worse"
    await ledger.activate_policy("v2", by="bob", at=T0 + 9)
    assert await active() == [("v2", 1.0)]
    with pytest.raises(LedgerConflict):
        await ledger.activate_policy("v9", by="ann", at=T0)
    assert await active() == [("v2", 1.0)]
    found = await ledger.policy_version("v2")
    assert found is not None
    assert (found.activated_by, found.activated_at, found.text) == ("bob", T0 + 9, "version: 1\n")
    assert await ledger.policy_version("v9") is None
    assert len(await ledger.policy_versions()) == 3


async def test_what_the_files_hold_is_put_in_force_when_it_is_new_there(ledger: SqlLedger) -> None:
    first, second, third = (replace(POLICY, version=v, author="files") for v in ("f1", "f2", "f3"))

    async def found(policy: PolicyVersion) -> tuple[bool, str]:
        changed = await ledger.found_in_files(policy)
        return changed, (await ledger.active_policies())[0].version

    assert await found(first) == (True, "f1")
    # A restart changes nothing, and neither does another worker; not even when something else was sent.
    assert await found(first) == (False, "f1")
    await ledger.add_policy_version(POLICY)
    await ledger.activate_policy("v1", by="ann", at=T0)
    assert await found(first) == (False, "v1")
    # A new file governs, and so does an older one that has come back.
    assert await found(second) == (True, "f2")
    assert await found(first) == (True, "f1")
    assert await found(second) == (True, "f2")
    # What was rolled back stays away, in whatever order hosts come to see it.
    assert await ledger.roll_back_policy("f2", "f1", by="ann", at=T0, why="bad")
    assert await found(first) == (True, "f1")
    assert await found(second) == (False, "f1")
    assert await found(third) == (True, "f3")
    # By name it may come back.
    await ledger.activate_policy("f2", by="ann", at=T0)
    assert await found(second) == (True, "f2")


async def test_how_runs_fare_is_told_by_version(ledger: SqlLedger) -> None:
    events = [
        attempt("a1", run="r1", meta=meta(policy="v1")),
        attempt("a2", run="r2", meta=meta(policy="v1"), outcome="failed"),
        attempt("a3", run="r3", meta=meta(policy="v2"), outcome="failed"),
        refusal("x1", run="r3", meta=meta(policy="v2")),
        refusal("x2", run="r3", meta=meta(policy="v2")),
        attempt("a4", run="r4", meta=meta(policy="v2")),
    ]
    await ledger.append(encode(*events))
    fared = await ledger.fared(0, 2**50)
    assert {v: (f.runs, f.refused, f.failed) for v, f in fared.items()} == {"v1": (2, 0, 1), "v2": (2, 1, 0)}
    assert await ledger.fared(0, 1) == {}


async def test_the_revision_moves_with_the_control_plane_alone(
    ledger: SqlLedger, open_ledger: Opener
) -> None:
    other = open_ledger()
    await other.start()
    changes: list[Callable[[], Awaitable[object]]] = [
        lambda: ledger.add_key(KEY),
        lambda: ledger.revoke_key("k1", T0),
        lambda: ledger.add_token(TOKEN),
        lambda: ledger.revoke_token("t1", T0),
        lambda: ledger.add_kill(name="global", scope="global", target="", reason="x", by="a", at=T0),
        lambda: ledger.revive("global", by="a", at=T0),
        lambda: ledger.add_topup(budget="b", target="t", amount=1, reason="", by="a", at=T0),
        lambda: ledger.add_policy_version(POLICY),
        lambda: ledger.activate_policy("v1", by="a", at=T0),
        lambda: ledger.roll_back_policy("v1", None, by="a", at=T0, why="worse"),
    ]
    for change in changes:
        before = await other.revision()
        await change()
        assert await other.revision() > before
    quiet: list[Callable[[], Awaitable[object]]] = [
        lambda: ledger.append(encode(attempt("a1"))),
        lambda: ledger.audit_append([AuditEntry("a", "b", {}, T0)]),
        lambda: ledger.kill_obeyed("k", worker="w", at=T0, streams=0),
        lambda: ledger.revoke_key("k1", T0),
        lambda: ledger.revive("global", by="a", at=T0),
    ]
    before = await other.revision()
    for act in quiet:
        await act()
    assert await other.revision() == before
    await other.close()


async def test_the_audit_log_is_a_chain(ledger: SqlLedger) -> None:
    nasty = AuditEntry(
        "ann\r\n\x1b[2J\x00", "kill", {"why": "a\nb", "n": 1.5, "deep": [None, {"ü": True}]}, T0
    )
    first = await ledger.audit_append([nasty, AuditEntry("bob", "revive", {}, T0 + 1)])
    (third,) = await ledger.audit_append([AuditEntry("ann", "topup", {"usd": "1"}, T0 + 2)])

    assert [record.seq for record in (*first, third)] == [1, 2, 3]
    assert first[0].prev_hash == GENESIS
    assert third.prev_hash == first[1].hash
    assert await ledger.audit_list() == [*first, third]
    assert await ledger.audit_list(after=1, limit=1) == [first[1]]
    assert await ledger.audit_list(newest_first=True, limit=2) == [third, first[1]]
    assert await ledger.audit_list(newest_first=True, after=2) == [first[0]]
    check = await ledger.audit_verify()
    assert (check.ok, check.records, check.head) == (True, 3, third.hash)
    assert verify_chain(await ledger.audit_list()) == check


async def test_an_audit_entry_with_a_reference_is_recorded_once(ledger: SqlLedger) -> None:
    entry = AuditEntry("gateway", "refuse", {"rule": "run"}, T0, ref="decision-1")
    one = await ledger.audit_append([entry, entry])
    two = await ledger.audit_append([entry])
    assert one[0] == one[1] == two[0]
    assert (await ledger.audit_verify()).records == 1


@pytest.mark.parametrize(
    ("statement", "broken_at"),
    [
        ("UPDATE gw_audit SET actor = 'eve' WHERE seq = 2", 2),
        ("UPDATE gw_audit SET details = '{}' WHERE seq = 3", 3),
        ("DELETE FROM gw_audit WHERE seq = 2", 2),
        ("DELETE FROM gw_audit WHERE seq = 5", 5),
        ("DELETE FROM gw_audit", 1),
        ("UPDATE gw_audit SET at = at + 1 WHERE seq = 1", 1),
        ("UPDATE gw_audit SET seq = CASE seq WHEN 2 THEN 30 ELSE seq END", 2),
    ],
)
async def test_a_changed_audit_record_is_found(ledger: SqlLedger, statement: str, broken_at: int) -> None:
    await ledger.audit_append([AuditEntry("ann", "act", {"n": n}, T0) for n in range(5)])
    await ledger._write(lambda conn: conn.execute(text(statement)))
    check = await ledger.audit_verify()
    assert (check.ok, check.broken_at) == (False, broken_at)
    assert check.reason


_AUDITOR = """
import asyncio, sys
from pathlib import Path
from gateway.stores.audit_chain import AuditEntry
from gateway.stores.ledger import SqlLedger

async def main(url, who):
    ledger = SqlLedger(url, data_dir=Path("."))
    await ledger.start()
    for n in range(40):
        await ledger.audit_append([AuditEntry(who, "act", {"n": n}, n)])
    await ledger.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_processes_cannot_fork_the_audit_chain(
    ledger: SqlLedger, ledger_url: str, tmp_path: Path
) -> None:
    script = tmp_path / "auditor.py"
    script.write_text(_AUDITOR)
    root = Path(__file__).parents[3]
    writers = [
        await asyncio.create_subprocess_exec(
            sys.executable, str(script), ledger_url, f"w{n}", cwd=root, env={"PYTHONPATH": str(root)},
            stderr=subprocess.PIPE,
        )
        for n in range(3)
    ]  # fmt: skip
    for writer in writers:
        _, errors = await writer.communicate()
        assert writer.returncode == 0, errors.decode()
    check = await ledger.audit_verify()
    assert (check.ok, check.records) == (True, 120)
