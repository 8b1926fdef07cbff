"""What stores and journals forget when a person is erased, and what they keep of others."""

from __future__ import annotations

import os
from pathlib import Path

import orjson

from gateway.admission import Evidence, Hold, Kill
from gateway.domain import RunSource
from gateway.journal import Journal, orphaned_files, read_journal
from gateway.protocols import Store
from gateway.steps.provider_state import Held
from gateway.stores.archive import SqliteRunArchive
from gateway.stores.embedded import EmbeddedStore, orphan_settlement
from tests.support.store_values import admission, lookup, settlement

from .conftest import Clock


async def step(
    store: Store, run: str, *, session: str, links: tuple[str, ...] = (), ends: bool = True
) -> None:
    await store.resolve(lookup(run, session=session, retry_key=run))
    await store.admit(admission(f"att-{run}", run, retry_key=run))
    if ends:
        await store.settle(settlement(f"att-{run}", run, 5, links=links, retry_key=run))


async def test_a_forgotten_run_is_found_by_nothing_any_more(store: Store) -> None:
    await step(store, "r1", session="ann", links=("call-1",))
    await step(store, "r2", session="bob", links=("call-2",))
    await store.forget_runs(["r1", "unknown"])
    await store.forget_held({"r1"}, {"ann"})

    assert await store.live_run("r1") is None
    follow = [(Evidence(f"call-{n}", RunSource.EMITTED_ID, False),) for n in (1, 2)]
    first = await store.resolve(lookup("r3", evidence=follow[0], retry_key="x"))
    second = await store.resolve(lookup("r4", evidence=follow[1], retry_key="y"))
    assert (first.run_id, first.is_new) == ("r3", True)
    assert (second.run_id, second.is_new) == ("r2", False)


async def test_a_run_with_a_call_in_flight_is_not_forgotten(store: Store) -> None:
    await step(store, "r1", session="ann", ends=False)
    await store.forget_runs(["r1"])
    live = await store.live_run("r1")
    assert live is not None
    assert live["open"] == 1
    assert (await store.settle(settlement("att-r1", "r1", 5))).run_cost == 5


async def test_runs_that_never_made_a_step_go_by_their_session_or_name(store: Store) -> None:
    await store.resolve(lookup("r1", session="ann", retry_key="1"))
    await store.resolve(lookup("r2", session="bob", retry_key="2"))
    await store.resolve(lookup("r3", session="bob", name="ann-job", retry_key="3"))
    await step(store, "r4", session="ann")
    await store.forget_held(set(), {"ann", "ann-job"})

    known = [await store.live_run(run) is not None for run in ("r1", "r2", "r3", "r4")]
    assert known == [False, True, False, True]


async def test_what_providers_hold_goes_with_its_run(store: Store) -> None:
    records = {f"k{n}": orjson.dumps(Held("openai", "m", f"r{n}", f"s{n}")) for n in (1, 2)}
    await store.remember({**records, "other": b'{"run":"r1"}', "binary": bytes(range(256))}, 60_000)
    await store.forget_held({"r1"}, set())
    assert set(await store.recall(["k1", "k2", "other", "binary"])) == {"k2", "other", "binary"}


async def test_baselines_and_acknowledgements_go(store: Store) -> None:
    await store.observe("agent-1", {"steps": 3.0}, 0.9)
    await store.observe("agent-2", {"steps": 3.0}, 0.9)
    await store.forget_baseline("agent-1")
    assert await store.baseline("agent-1") is None
    assert await store.baseline("agent-2") is not None

    for name in ("user:ann", "user:bob"):
        await store.set_kill(Kill(name, "why"), None)
        await store.acknowledge_kill(name, "w1", 2)
    await store.forget_acknowledgements(["user:ann", "user:bob"])
    assert await store.kill_acknowledgements("user:ann") != {}, "a kill in force is still obeyed"


async def test_the_embedded_stores_file_shows_nothing_of_a_forgotten_run(
    tmp_path: Path, clock: Clock
) -> None:
    archive = SqliteRunArchive(tmp_path / "runs.db")
    store = EmbeddedStore(clock=clock, archive=archive)
    await store.start()
    await step(store, "r1", session="ann-session-77", links=("call-1",))
    await store.save()
    await store.forget_runs(["r1"])
    await store.forget_held({"r1"}, set())
    await store.save()
    await archive.empty_log()

    files = b"".join(path.read_bytes() for path in tmp_path.glob("runs.db*"))
    assert b"ann-session-77" not in files
    await archive.close()


def test_a_journal_forgets_what_is_settled_and_keeps_what_is_open(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "w1")
    journal.start()
    for attempt in ("att_1", "att_2"):
        orphan = orjson.dumps({"t": "attempt", "run": "r1", "user": f"ann-{attempt}"})
        journal.opened(attempt, 1, 100, (Hold("c", 5),), orphan)
    journal.settled(settlement("att_1", "r1", 7))
    journal.confirmed("att_1")
    journal.forget()

    (path,) = tmp_path.glob("*.journal")
    assert b"ann-att_1" not in path.read_bytes()
    assert b"ann-att_2" in path.read_bytes()
    journal.close()
    ((left, fd),) = orphaned_files(tmp_path)
    (open_one,) = read_journal(
        left, lambda opened: orphan_settlement(opened.attempt_id, "r1", opened.reserved)
    )
    assert open_one.attempt_id == "att_2"

    os.close(fd)
