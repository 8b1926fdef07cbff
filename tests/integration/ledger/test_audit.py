"""The audit log in a real database: decisions and figures are in it once, and whatever is done to them is found."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from gateway.stores.audit_chain import AuditEntry
from gateway.stores.audit_decisions import Decisions
from gateway.stores.ledger import LedgerUnavailable, SqlLedger
from gateway.stores.ledger_retention import Holder, Tally, Term

from .conftest import Opener
from .events import T0, attempt, encode, refusal, status

REDACTED = {"detector": "pii", "channel": "user", "action": "redact", "mode": "enforce", "type": "EMAIL"}
SHADOW = {"rule": "loops", "mode": "shadow", "decision": "refuse"}


def note(note_id: str, at: int = T0, **details: Any) -> dict[str, Any]:
    return {
        "t": "audit", "id": note_id, "at": at, "actor": "worker:w1", "action": "breaker.open", "details": details,
    }  # fmt: skip


async def actions(ledger: SqlLedger) -> list[str]:
    """Of every record that is about a decision, oldest first."""
    records = await ledger.audit_list(limit=10_000)
    return [r.action for r in records if r.action not in ("steps.seal", "steps.sealing")]


def by_hand(ledger: SqlLedger, *statements: str, **values: Any) -> None:
    """What somebody does who can write to the database."""
    assert ledger._engine is not None
    with ledger._engine.begin() as conn:
        for statement in statements:
            conn.execute(text(statement), values)


async def history(ledger: SqlLedger, steps: int = 60) -> None:
    """Some steps in batches of ten, each with a refusal and an operator's change behind it."""
    for start in range(0, steps, 10):
        events = [attempt(f"a{n}", run=f"r{n % 7}", ordinal=n, cost=n) for n in range(start, start + 10)]
        await ledger.append(encode(*events, refusal(f"d{start}", at=T0 + start)))
        await ledger.audit_append([AuditEntry("admin", "key.create", {"n": start}, T0 + start)])
    await ledger.audit_seal()


# -- what is in it -----------------------------------------------------------------------------------


async def test_every_decision_is_a_record_once(ledger: SqlLedger) -> None:
    events = encode(
        attempt("plain", at=1),
        attempt("shadow", ordinal=2, decisions=[SHADOW], findings=[{**REDACTED, "mode": "shadow"}]),
        attempt("redact", ordinal=3, verdict="redact", findings=[REDACTED] * 30),
        attempt("reroute", ordinal=4, verdict="reroute", decisions=[{"rule": "cheap", "mode": "enforce", "decision": "reroute", "to": "gpt-4o-mini"}]),
        attempt("blocked", ordinal=5, tool_calls=[{"id": "c1", "name": "pay", "delivered": False}, {"id": "c2", "name": "look"}]),
        attempt("landing", ordinal=6, verdict="wrap_up", run_status="stopped_budget", run_reason="run_budget_exceeded"),
        attempt("cut", run="r2", outcome="killed", run_status="killed", run_reason="enough"),
        refusal("d1", at=T0 + 1),
        {**refusal("d2", at=T0 + 2, code="loop_detected", rule="same_call"), "decision": "answer"},
        refusal("loose", run=None, at=T0 + 3, code="rate_limit_exceeded"),
        status("r1", "stopped_budget", T0 + 4, "run_budget_exceeded"),
        status("r3", "completed", T0 + 5),
        note("aud_1", T0 + 6, breaker="tool:shared:x"),
    )  # fmt: skip
    await ledger.append(events)
    await ledger.append(events)
    await ledger.append([events[-1], *events[5:8]])
    records = {r.ref: r for r in await ledger.audit_list(limit=100) if r.ref != "steps.sealing"}
    told = {ref: (r.actor, r.action) for ref, r in records.items() if r.action != "steps.seal"}
    assert told == {
        "redact": ("gateway", "step.redact"),
        "reroute": ("gateway", "step.reroute"),
        "blocked": ("gateway", "step.decide"),
        "landing": ("gateway", "step.wrap_up"),
        "cut": ("gateway", "step.decide"),
        "d1": ("gateway", "step.refuse"),
        "d2": ("gateway", "step.answer"),
        "loose": ("gateway", "step.refuse"),
        f"r1:stopped_budget:{T0 + 6500}": ("gateway", "run.stop"),
        f"r2:killed:{T0 + 1500}": ("gateway", "run.stop"),
        "aud_1": ("worker:w1", "breaker.open"),
    }
    assert records["redact"].details == {
        "run": "r1", "step": 3, "decision": "d-redact", "policy": "v1", "verdict": "redact", "model": "gpt-4o-mini",
        "findings": [{"detector": "pii", "channel": "user", "action": "redact", "type": "EMAIL"}] * 20,
        "findings_in_all": 30,
    }  # fmt: skip
    assert records["reroute"].details["decisions"] == [
        {"rule": "cheap", "decision": "reroute", "to": "gpt-4o-mini"}
    ]
    assert records["blocked"].details["blocked"] == ["pay"]
    assert records["cut"].details["reason"] == "enough"
    assert records["cut"].details["status"] == "killed"
    assert records["d1"].details == {
        "run": "r1", "step": 2, "decision": "d1", "policy": "v1", "code": "run_budget_exceeded", "rule": "run",
        "scope": "run", "limit": 500, "used": 480,
    }  # fmt: skip
    assert "run" not in records["loose"].details
    check = await ledger.audit_verify()
    assert (check.ok, check.steps) == (True, 7)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("all", ["step.refuse", "step.redact", "breaker.open"]),
        ("refusals", ["step.refuse", "breaker.open"]),
        ("off", ["breaker.open"]),
    ],
)
async def test_the_policy_says_which_decisions(
    ledger: SqlLedger, mode: Decisions, expected: list[str]
) -> None:
    ledger.audit_decisions = mode
    at = T0 + 5000
    redacted = attempt("a1", verdict="redact", findings=[REDACTED])
    await ledger.append(encode(refusal("d1"), redacted, note("aud_1", at)))
    assert await actions(ledger) == expected
    await ledger.audit_seal()
    # What steps came to is in the chain whatever is said of decisions.
    by_hand(ledger, "UPDATE gw_steps SET cost = cost + 1 WHERE id = 'a1'")
    assert not (await ledger.audit_verify()).ok


async def test_odd_events_are_told_as_far_as_they_go(ledger: SqlLedger) -> None:
    odd: dict[str, Any] = {
        "decisions": [{"rule": {"deep": ["x"]}, "decision": None}, "text", 7],
        "findings": {"not": "a list"},
        "tool_calls": [{"delivered": False, "name": "n\x00" + "y" * 900}, None],
        "run_reason": "z" * 4000,
        "decision": ["d"],
        "policy": 3,
    }
    await ledger.append(
        encode(attempt("a1", **odd), note("aud_1", x="\x00"), {**note("aud_2"), "details": 1})
    )
    assert await ledger.rejected() == []
    records = {r.ref: r for r in await ledger.audit_list()}
    assert len(orjson.dumps(records["a1"].details)) < 2000
    assert records["aud_2"].details == {}
    assert (await ledger.audit_verify()).ok
    await ledger.append(encode({**note("aud_3"), "actor": None}))
    assert "actor" in (await ledger.rejected())[0]["error"]


async def test_a_provisional_figure_is_sealed_and_its_replacement_too(ledger: SqlLedger) -> None:
    for n in range(4):
        await ledger.append(encode(attempt(f"a{n}", ordinal=n, provisional=True, cost=50)))
    await ledger.audit_seal()
    assert (await ledger.audit_verify()).steps == 4
    await ledger.append(encode(attempt("a1", ordinal=1, cost=7)))
    assert (await ledger.audit_verify()).ok, "before the replacement is sealed"
    await ledger.audit_seal()
    await ledger.append(encode(attempt("a2", ordinal=2, cost=8)))
    await ledger.audit_seal()
    check = await ledger.audit_verify()
    assert (check.ok, check.steps) == (True, 4)
    by_hand(ledger, "UPDATE gw_steps SET provisional = false, cost = 1 WHERE id = 'a3'")
    check = await ledger.audit_verify()
    assert (check.ok, check.reason) == (False, "step a3 of run r1 was changed")


async def test_steps_are_sealed_in_time(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    async def seals() -> list[int]:
        return [r.details["steps"] for r in await ledger.audit_list(limit=1000, action="steps.seal")]

    await ledger.append(encode(attempt("a0")))
    assert await seals() == [1]
    for n in range(1, 30):
        await ledger.append(encode(attempt(f"a{n}", ordinal=n)))
    assert await seals() == [1], "at most so often"
    monkeypatch.setattr("gateway.stores.ledger_audit.SEAL_STEPS", 32)
    await ledger.append(encode(*(attempt(f"b{n}", ordinal=n) for n in range(5))))
    assert await seals() == [1, 34]
    assert await ledger.audit_seal() == 0
    assert (await ledger.audit_verify()).steps == 35


async def test_records_can_be_filtered(ledger: SqlLedger) -> None:
    await history(ledger)
    await ledger.append(encode(refusal("d_x", run="r%_x", at=T0 + 99)))
    refused = await ledger.audit_list(action="step.refuse", newest_first=True, limit=3)
    assert [r.ref for r in refused] == ["d_x", "d50", "d40"]
    assert len(await ledger.audit_list(action="step.*")) == 7
    shown = await ledger.audit_list(action="!steps.*", limit=1000)
    assert {r.action for r in shown} == {"step.refuse", "key.create"}
    assert len(await ledger.audit_list(actor="admin")) == 6
    assert [r.details["n"] for r in await ledger.audit_list(actor="admin", since=T0 + 40)] == [40, 50]
    assert [r.ref for r in await ledger.audit_list(run="r%_x")] == ["d_x"]
    assert await ledger.audit_list(run="r_") == []
    seq, head = await ledger.audit_head()
    (last,) = await ledger.audit_list(newest_first=True, limit=1)
    assert (seq, head) == (last.seq, last.hash)


async def test_a_kill_that_a_worker_obeyed_is_a_record_once(ledger: SqlLedger) -> None:
    kill = await ledger.add_kill(name="run:r1", scope="run", target="r1", reason="x", by="admin", at=T0)
    for _ in range(3):
        await ledger.kill_obeyed(kill.id, worker="w1", at=T0 + 5, streams=2)
    await ledger.kill_obeyed(kill.id, worker="w2", at=T0 + 6, streams=0)
    records = await ledger.audit_list(action="kill.obey")
    assert [(r.actor, r.details["streams"]) for r in records] == [("worker:w1", 2), ("worker:w2", 0)]


# -- what is done to it ------------------------------------------------------------------------------


SWAP = (
    "UPDATE gw_audit SET seq = -1 WHERE seq = 5",
    "UPDATE gw_audit SET seq = 5 WHERE seq = 6",
    "UPDATE gw_audit SET seq = 6 WHERE seq = -1",
)
COPY = """INSERT INTO gw_audit (seq, at, actor, action, details, ref, prev_hash, hash)
    SELECT 1000, at, actor, action, details, NULL, prev_hash, hash FROM gw_audit WHERE seq = 5"""


@pytest.mark.parametrize(
    ("done", "place", "reason"),
    [
        (["UPDATE gw_audit SET details = '{}' WHERE seq = 5"], 5, "record 5 was changed"),
        (["UPDATE gw_audit SET actor = 'nobody' WHERE seq = 7"], 7, "record 7 was changed"),
        (["UPDATE gw_audit SET at = at + 1 WHERE seq = 1"], 1, "record 1 was changed"),
        (["DELETE FROM gw_audit WHERE seq = 1"], 1, "record 1 is missing or out of place"),
        (["DELETE FROM gw_audit WHERE seq = 6"], 6, "record 6 is missing or out of place"),
        (["DELETE FROM gw_audit WHERE seq > 10"], 11, "records are missing at the end"),
        (["DELETE FROM gw_audit"], 1, "records are missing at the end"),
        (SWAP, 5, "record 5 does not follow the one before it"),
        (["UPDATE gw_audit SET seq = seq + 1000"], 1, "record 1 is missing or out of place"),
        ([COPY], None, "is missing or out of place"),
        (["DELETE FROM gw_meta WHERE name = 'audit_head'"], None, "the chain does not end as the ledger noted"),
    ],
)  # fmt: skip
async def test_what_is_done_to_records_is_found_for_good(
    ledger: SqlLedger, done: list[str], place: int | None, reason: str
) -> None:
    await history(ledger)
    assert (await ledger.audit_verify()).ok
    by_hand(ledger, *done)
    check = await ledger.audit_verify()
    assert not check.ok
    assert reason in str(check.reason)
    assert place is None or check.broken_at == place
    if "audit_head" in done[0]:
        return  # The chain itself is whole.
    # What is written afterwards does not cover it up.
    await ledger.append(encode(refusal("later", at=T0 + 1000)))
    await ledger.audit_append([AuditEntry("admin", "x", {}, T0)])
    assert not (await ledger.audit_verify()).ok


@pytest.mark.parametrize(
    ("done", "reason"),
    [
        (["UPDATE gw_steps SET cost = 0 WHERE id = 'a33'"], "step a33 of run r5 was changed"),
        (["UPDATE gw_steps SET model = 'x' WHERE id = 'a0'"], "step a0 of run r0 was changed"),
        (["UPDATE gw_steps SET run = 'r6' WHERE id = 'a59'"], "step a59 of run r6 was changed"),
        (["UPDATE gw_steps SET output_tokens = 1 WHERE id = 'a12'"], "step a12 of run r5 was changed"),
        (["DELETE FROM gw_steps WHERE id = 'a21'"], "step a21 is missing"),
        (["DELETE FROM gw_steps"], "step a0 is missing"),
        (["UPDATE gw_steps SET id = 'z' WHERE id = 'a5'"], "step a5 is missing"),
        (
            ["DELETE FROM gw_steps WHERE id = 'a21'", "INSERT INTO gw_removed_steps (id) VALUES ('a21')"],
            "1 steps were removed and no record says so",
        ),
        (["UPDATE gw_audit_steps SET steps = '[]'"], "the list of steps that record 3 seals was changed"),
        (["DELETE FROM gw_audit_steps"], "the list of steps that record 3 seals was changed"),
    ],
)
async def test_what_is_done_to_steps_is_found(ledger: SqlLedger, done: list[str], reason: str) -> None:
    await history(ledger)
    by_hand(ledger, *done)
    check = await ledger.audit_verify()
    assert (check.ok, check.reason) == (False, reason)
    assert (await ledger.audit_verify(steps=False)).ok


async def test_a_step_that_was_put_in_is_found(ledger: SqlLedger) -> None:
    await history(ledger)
    columns = "kind, provisional, run, ordinal, at, ended_at, input_tokens, output_tokens, cached_tokens, cost, saved, tags, extra"
    copy = f"INSERT INTO gw_steps (id, {columns}) SELECT 'forged', {columns} FROM gw_steps WHERE id = 'a1'"
    by_hand(ledger, copy)
    check = await ledger.audit_verify()
    assert check.reason == "1 steps are in no record: written by hand or by an older version"
    record = await ledger.audit_accept(by="admin", reason="two versions at work for a while", at=T0)
    assert (record.action, record.details["steps"]) == ("steps.sealing", 61)
    assert (await ledger.audit_verify()).ok
    by_hand(ledger, copy.replace("forged", "again"))
    assert not (await ledger.audit_verify()).ok


async def test_a_ledger_from_before_is_taken_as_it_is(ledger: SqlLedger) -> None:
    chained: Callable[..., None] = ledger.chain_events
    ledger.chain_events = lambda *_: None  # type: ignore[method-assign]
    await ledger.append(encode(*(attempt(f"old{n}", ordinal=n) for n in range(20))))
    ledger.chain_events = chained  # type: ignore[method-assign]
    assert (await ledger.audit_verify()).reason == (
        "20 steps are in no record: written by hand or by an older version"
    )
    await history(ledger)
    check = await ledger.audit_verify()
    assert (check.ok, check.steps) == (True, 60)
    by_hand(ledger, "DELETE FROM gw_steps WHERE id = 'old3'")
    assert (await ledger.audit_verify()).reason == "1 steps from before the first record are missing"


async def test_a_note_of_the_head_that_is_nonsense_stops_nobody(ledger: SqlLedger) -> None:
    await history(ledger, 10)
    for value in ("x:y", "", "99999999999999999999999:0", ":", "-4:aa"):
        by_hand(ledger, "UPDATE gw_meta SET value = :value WHERE name = 'audit_head'", value=value)
        await ledger.append(encode(refusal(f"after{value}", at=T0 + 50)))
        assert (await ledger.audit_verify()).ok
    assert await ledger.rejected() == []


# -- crashes, full disks and many at once ------------------------------------------------------------

_WRITER = """
import asyncio, sys
from pathlib import Path
from gateway.stores.ledger import SqlLedger
from tests.integration.ledger.test_audit import batches

async def main(url, begin, end):
    ledger = SqlLedger(url, data_dir=Path("."), busy_timeout_s=60)
    await ledger.start()
    print("ready", flush=True)
    for batch in batches(begin, end):
        await ledger.append(batch)
    await ledger.audit_seal()
    print("done", flush=True)
    await ledger.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


def batches(begin: int, end: int) -> list[list[tuple[str, bytes]]]:
    """Twenty events each: attempts, some provisional at first or with a decision, refusals and notes."""
    found = []
    for start in range(begin, end, 20):
        events: list[dict[str, Any]] = []
        for n in range(start, start + 20):
            if n % 5 == 4:
                events.append(refusal(f"d{n}", run=f"r{n % 30}", at=T0 + n))
            elif n % 5 == 3:
                events.append(note(f"n{n}", T0 + n, n=n))
            else:
                step = attempt(f"a{n}", run=f"r{n % 30}", ordinal=n, cost=n)
                if n % 10 == 0:
                    step |= {"verdict": "redact", "findings": [REDACTED]}
                if n % 10 == 1:
                    events.append({**step, "provisional": True, "cost": 5 * n})
                events.append(step)
        random.Random(start).shuffle(events)
        found.append(encode(*events))
    return found


async def writer(tmp_path: Path, url: str, begin: int, end: int) -> asyncio.subprocess.Process:
    script = tmp_path / f"writer{begin}.py"
    script.write_text(_WRITER)
    root = Path(__file__).parents[3]
    return await asyncio.create_subprocess_exec(
        sys.executable, str(script), url, str(begin), str(end), cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def expect_all(ledger: SqlLedger, end: int) -> None:
    """Each event below `end` is in the log once, each step as it was written."""
    check = await ledger.audit_verify()
    assert (check.ok, check.reason) == (True, None)
    assert check.steps == end * 3 // 5
    refs = [r.ref for r in await ledger.audit_list(limit=10**6) if r.ref is not None]
    assert len(refs) == len(set(refs))
    assert {ref for ref in refs if ref[0] == "d"} == {f"d{n}" for n in range(4, end, 5)}
    assert {ref for ref in refs if ref[0] == "n"} == {f"n{n}" for n in range(3, end, 5)}
    assert {ref for ref in refs if ref[0] == "a"} == {f"a{n}" for n in range(0, end, 10)}
    assert await ledger.verify() == []


@pytest.mark.slow
async def test_a_killed_writer_loses_and_doubles_no_record(
    ledger_url: str, tmp_path: Path, open_ledger: Opener
) -> None:
    random_ = random.Random(11)
    killed = 0
    for _ in range(5):
        process = await writer(tmp_path, ledger_url, 0, 4000)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        await asyncio.sleep(random_.uniform(0.01, 0.4))
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        killed += await process.wait() == -signal.SIGKILL
    assert killed
    ledger = open_ledger()
    await ledger.start()
    check = await ledger.audit_verify()
    assert (check.ok, check.reason) == (True, None), "as it was left"
    for batch in batches(0, 4000):
        await ledger.append(batch)
    await ledger.audit_seal()
    await expect_all(ledger, 4000)
    await ledger.close()


@pytest.mark.slow
async def test_two_processes_never_fork_the_chain(
    ledger_url: str, tmp_path: Path, open_ledger: Opener
) -> None:
    """Ten thousand events in all, and an operator beside them."""
    both = [await writer(tmp_path, ledger_url, *part) for part in ((0, 5000), (5000, 10_000))]
    ledger = open_ledger()
    await ledger.start()
    changes = 0
    while any(process.returncode is None for process in both):
        await ledger.audit_append([AuditEntry("admin", "key.create", {"n": changes}, T0)])
        changes += 1
        await asyncio.sleep(0.02)
    assert [process.returncode for process in both] == [0, 0]
    assert len(await ledger.audit_list(limit=10**6, actor="admin")) == changes
    await expect_all(ledger, 10_000)
    await ledger.close()


async def test_many_at_once_never_fork_the_chain(open_ledger: Opener) -> None:
    ledgers = [open_ledger() for _ in range(3)]
    for ledger in ledgers:
        await ledger.start()
    work = []
    for n, batch in enumerate(batches(0, 600)):
        work.append(ledgers[n % 3].append(batch))
        work.append(ledgers[(n + 1) % 3].append(batch))
    work += [ledgers[n % 3].audit_seal() for n in range(9)]  # type: ignore[misc]
    await asyncio.gather(*work)
    await ledgers[0].audit_seal()
    await expect_all(ledgers[0], 600)
    for ledger in ledgers:
        await ledger.close()


async def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    ledger = SqlLedger(f"sqlite:///{tmp_path / 'ledger.db'}", data_dir=tmp_path)
    await ledger.start()
    done = batches(0, 2000)
    await ledger.append(done[0])
    assert ledger._engine is not None
    with ledger._engine.connect() as conn:
        pages = conn.exec_driver_sql("PRAGMA page_count").scalar_one()

    def allow(count: int) -> None:
        async def all_lanes() -> None:
            for lane in (ledger._write, ledger._read, ledger._report):
                await lane(lambda conn: conn.exec_driver_sql(f"PRAGMA max_page_count={count}").scalar())

        asyncio.get_running_loop().create_task(all_lanes())

    allow(pages + 40)
    await asyncio.sleep(0.2)
    written = 1
    while written < len(done):
        try:
            await ledger.append(done[written])
        except LedgerUnavailable:
            break
        written += 1
    assert written < len(done)
    check = await ledger.audit_verify()
    assert (check.ok, check.reason) == (True, None), "whole as far as it goes"
    allow(2**30)
    await asyncio.sleep(0.2)
    for batch in done:
        await ledger.append(batch)
    await ledger.audit_seal()
    await expect_all(ledger, 2000)
    await ledger.close()


async def test_steps_that_were_removed_for_their_age_are_accounted_for(ledger: SqlLedger) -> None:
    await history(ledger)
    who = Holder("retention", "w1", T0, T0 + 10**9)
    await ledger.claim(who)
    tally = Tally("pass1", T0)
    runs = [f"r{n}" for n in range(3)]
    await ledger.remove_steps(Term("steps", T0 + 10**9), runs, 1000, who, tally)
    assert tally.rows["steps"] > 20
    assert (await ledger.audit_verify()).reason is None, "while it is under way"
    await ledger.tell_removed(who, tally, "{}")
    check = await ledger.audit_verify()
    assert (check.ok, check.steps) == (True, 60 - tally.rows["steps"])
    by_hand(ledger, "DELETE FROM gw_steps WHERE id = 'a5'", "INSERT INTO gw_removed_steps (id) VALUES ('a5')")
    assert (await ledger.audit_verify()).reason == "1 steps were removed and no record says so"


@pytest.mark.slow
async def test_a_disk_that_is_really_full_loses_nothing(tmp_path: Path) -> None:
    """Two processes' worth of steps on a small file system, beside a file that is removed later."""
    small = tmp_path / "small"
    small.mkdir()
    if os.getuid() != 0 or not mounted(small):
        pytest.skip("needs root and the right to mount a tmpfs")
    try:
        filler = small / "filler"
        filler.write_bytes(bytes(22_000_000))
        ledger = SqlLedger(f"sqlite:///{small / 'ledger.db'}", data_dir=tmp_path)
        await ledger.start()
        waiting = batches(0, 1000)
        refused = 0
        while waiting:
            try:
                await ledger.append(waiting[0])
            except LedgerUnavailable:
                refused += 1
                assert (await ledger.audit_verify()).ok
                filler.unlink(missing_ok=True)
                assert refused < 5
            else:
                waiting.pop(0)
        assert refused
        await ledger.audit_seal()
        await expect_all(ledger, 1000)
        await ledger.close()
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def mounted(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0
