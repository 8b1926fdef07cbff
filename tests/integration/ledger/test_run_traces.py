"""The queue of runs whose span is to be told: each is taken once, whoever asks."""

from __future__ import annotations

import asyncio

from gateway.stores.ledger import SqlLedger

from .conftest import Opener
from .events import T0, attempt, encode, status

DAY = 86_400_000


async def put(ledger: SqlLedger, *runs: str, ends: str = "completed") -> None:
    for number, run in enumerate(runs):
        await ledger.append(encode(attempt(f"att_{run}", run=run, started_at=T0 + 10 * number)))
        await ledger.append(encode(status(run, ends, T0 + 1700)))
    await ledger.note_endings(dict.fromkeys(runs, T0 + 2000))


async def test_a_run_waits_until_it_is_due_and_is_taken_once(ledger: SqlLedger) -> None:
    await put(ledger, "run_a", "run_b")
    assert await ledger.ended_runs(T0 + 1999) == []
    found = await ledger.ended_runs(T0 + 2000)
    assert [(one.run, one.status, one.status_at) for one in found] == [
        ("run_a", "completed", T0 + 1700), ("run_b", "completed", T0 + 1700),
    ]  # fmt: skip
    (taken,) = await ledger.take_endings(["run_a"], T0 + 2000)
    assert (taken["id"], taken["status"], taken["status_at"], taken["steps"]) == (
        "run_a",
        "completed",
        T0 + 1700,
        1,
    )
    assert await ledger.take_endings(["run_a", "run_x"], T0 + 2001) == []
    assert [one.run for one in await ledger.ended_runs(T0 + 3000)] == ["run_b"]
    # Its ending is written once more, or it goes on and ends again.
    await ledger.note_endings({"run_a": T0 + 2500})
    assert [one.run for one in await ledger.ended_runs(T0 + 3000)] == ["run_b"]


async def test_of_many_who_ask_at_once_each_run_goes_to_one(ledger: SqlLedger, open_ledger: Opener) -> None:
    runs = [f"run_{n:03}" for n in range(40)]
    await put(ledger, *runs)
    others = [open_ledger() for _ in range(3)]
    for other in others:
        await other.start()
    got = await asyncio.gather(
        *(one.take_endings(runs[n:] + runs[:n], T0 + 2000) for n, one in enumerate([ledger, *others] * 3))
    )
    taken = [run["id"] for each in got for run in each]
    assert sorted(taken) == runs
    for other in others:
        await other.close()


async def test_runs_that_go_on_are_dropped_or_wait(ledger: SqlLedger) -> None:
    await put(ledger, "run_a", "run_b", "run_c")
    await ledger.drop_endings(["run_a"])
    await ledger.wait_for_endings(["run_b"], T0 + 9000)
    assert [one.run for one in await ledger.ended_runs(T0 + 8000)] == ["run_c"]
    assert [one.run for one in await ledger.ended_runs(T0 + 9000)] == ["run_c", "run_b"]
    await ledger.note_endings({"run_a": T0 + 1})
    assert len(await ledger.ended_runs(T0 + 9000, limit=2)) == 2
    for nothing in (ledger.drop_endings([]), ledger.wait_for_endings([], 1), ledger.note_endings({})):
        await nothing
    assert await ledger.take_endings([], 1) == []


async def test_a_run_begins_with_its_first_step_and_knows_its_children(ledger: SqlLedger) -> None:
    await put(ledger, "run_a")
    for child in ("run_c", "run_b"):
        await ledger.append(encode(status(child, "running", T0, meta={"parent": "run_a", "started_at": T0})))
    (taken,) = await ledger.take_endings(["run_a"], T0 + 2000)
    assert taken["children"] == ["run_b", "run_c"]
    assert taken["started_at"] <= T0


async def test_what_is_old_is_forgotten(ledger: SqlLedger) -> None:
    await put(ledger, "run_a", "run_b")
    await ledger.take_endings(["run_a"], T0 + 2000)
    await ledger.forget_endings(T0 + 2000)
    assert len(await ledger.ended_runs(T0 + DAY)) == 1
    await ledger.forget_endings(T0 + 2001)
    assert await ledger.ended_runs(T0 + DAY) == []
