"""What an embedded store remembers over a restart."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.admission import Denied, Ending, Evidence, Quota
from gateway.domain import RunSource
from gateway.stores.archive import SqliteRunArchive
from gateway.stores.embedded import EmbeddedStore
from tests.support import store_values as make


async def finish_a_step(store: EmbeddedStore, run_id: str, link: str) -> None:
    await store.resolve(make.lookup(run_id, session="s\ud800"))
    await store.admit(make.admission(f"a-{run_id}", run_id))
    await store.settle(make.settlement(f"a-{run_id}", run_id, 70, links=(link,), head=link))


async def test_a_conversation_goes_on_after_a_restart(tmp_path: Path) -> None:
    archive = SqliteRunArchive(tmp_path / "runs.db")
    store = EmbeddedStore(archive=archive)
    await store.start()
    await finish_a_step(store, "run-1", "link")
    await store.close()
    await archive.close()

    archive = SqliteRunArchive(tmp_path / "runs.db")
    store = EmbeddedStore(archive=archive)
    await store.start()
    view = await store.resolve(
        make.lookup("run-2", evidence=(Evidence("link", RunSource.LINEAGE, False),), retry_key="other")
    )
    assert (view.run_id, view.steps, view.cost, view.session) == ("run-1", 1, 70, "s\ud800")
    await archive.close()


async def test_ancestors_progress_and_landing_survive_a_restart(tmp_path: Path) -> None:
    archive = SqliteRunArchive(tmp_path / "runs.db")
    store = EmbeddedStore(archive=archive)
    await store.start()
    # A lone surrogate makes the other of the two writers write.
    for run, session in (("root", "s"), ("child", "s\ud800")):
        asked = make.lookup(run, session=session, session_given=True, name=run)
        await store.resolve(replace(asked, parent_run_id="root"))
        step = make.admission(f"a-{run}", run)
        ending = Ending("loop_detected", "same_call", "run", 3, 4)
        await store.admit(replace(step, landing=ending))
        end = make.settlement(f"a-{run}", run, 5)
        await store.settle(replace(end, progress=b"\x00\xff" + run.encode()))
    await store.close()
    await archive.close()

    archive = SqliteRunArchive(tmp_path / "runs.db")
    store = EmbeddedStore(archive=archive)
    await store.start()
    for run, ancestors in (("root", ()), ("child", ("root",))):
        view = await store.resolve(make.lookup("new", name=run, retry_key="other"))
        assert (view.run_id, view.ancestors, view.progress, view.landed) == (
            run, ancestors, b"\x00\xff" + run.encode(), 1,
        )  # fmt: skip
        answer = await store.admit(make.admission("b", run))
        assert answer == Denied("loop_detected", "same_call", "run", 3, 4, 0, 0, 0, "")
    await archive.close()


async def test_a_file_of_an_older_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    archive = SqliteRunArchive(path)
    store = EmbeddedStore(archive=archive)
    await store.start()
    await finish_a_step(store, "run-1", "link")
    await store.close()
    await archive.close()
    unreadable: list[dict[str, object]] = [
        {"progress": 7}, {"ending": "x"}, {"ending": {"code": "x"}}, {"ancestors": 3},
    ]  # fmt: skip
    with sqlite3.connect(path) as db:
        (state,) = db.execute("SELECT state FROM runs").fetchone()
        old = {
            k: v
            for k, v in json.loads(state).items()
            if k not in ("ancestors", "progress", "landed", "ending")
        }
        db.execute("UPDATE runs SET state = ?", (json.dumps(old),))
        for n, broken in enumerate(unreadable):
            state = json.dumps({**old, "id": f"broken-{n}", **broken})
            db.execute("INSERT INTO runs VALUES (?, ?)", (f"broken-{n}", state))
    db.close()

    archive = SqliteRunArchive(path)
    (run,) = await archive.runs()
    assert (run.id, run.ancestors, run.progress, run.landed, run.ending) == ("run-1", (), b"", 0, None)
    await archive.close()


async def test_quotas_and_baselines_survive_a_restart(tmp_path: Path) -> None:
    quota = Quota("r", "session", "c", 2, 2, enforced=True, window_ms=0, ttl_ms=make.DAY_MS)
    archive = SqliteRunArchive(tmp_path / "runs.db")
    store = EmbeddedStore(archive=archive)
    await store.start()
    assert (await store.take([quota])).refused == -1
    for value in (1 / 3, 1e-300, 7.1):
        baseline = await store.observe("agent", {"steps": value}, 0.95)
    await store.close()
    await archive.close()

    archive = SqliteRunArchive(tmp_path / "runs.db")
    store = EmbeddedStore(archive=archive)
    await store.start()
    taken = await store.take([quota])
    assert (taken.refused, taken.used) == (0, (2,))
    assert await store.baseline("agent") == baseline
    await archive.close()


async def test_what_is_gone_from_the_store_is_gone_from_the_file(tmp_path: Path) -> None:
    now = [1_000_000_000_000]
    archive = SqliteRunArchive(tmp_path / "runs.db")
    store = EmbeddedStore(archive=archive, clock=lambda: now[0])
    await finish_a_step(store, "run-1", "link")
    await store.close()
    assert len(await archive.runs()) == 1
    now[0] += 10 * make.DAY_MS
    for _ in range(2):
        await store.reap()
    await store.close()
    assert await archive.runs() == []
    assert await archive.index(0) == {}
    await archive.close()


async def test_a_run_that_was_stopped_before_its_first_step_leaves_the_file_too(tmp_path: Path) -> None:
    now = [1_000_000_000_000]
    archive = SqliteRunArchive(tmp_path / "runs.db")
    store = EmbeddedStore(archive=archive, clock=lambda: now[0])
    await store.resolve(make.lookup("run-1"))
    await store.stop_run("run-1", "killed", "enough")
    await store.save()
    assert len(await archive.runs()) == 1
    now[0] += 600_001
    await store.reap()
    await store.save()
    assert await archive.runs() == []
    await archive.close()


async def test_a_failed_save_is_made_up_for_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    archive = SqliteRunArchive(path)
    store = EmbeddedStore(archive=archive)
    await store.start()
    await finish_a_step(store, "run-1", "link")
    blocker = sqlite3.connect(path)
    blocker.execute("DROP TABLE runs")
    with pytest.raises(sqlite3.Error):
        await store.close()
    blocker.execute("CREATE TABLE runs (id TEXT PRIMARY KEY, state TEXT NOT NULL)")
    blocker.close()
    await store.close()
    assert [run.id for run in await archive.runs()] == ["run-1"]
    assert list(await archive.index(0)) == ["link"]
    await archive.close()


async def test_a_file_that_is_no_database_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    archive = SqliteRunArchive(path)
    assert await archive.runs() == []
    assert path.with_suffix(".unreadable").exists()
    await archive.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from gateway.stores.archive import SqliteRunArchive
from gateway.stores.embedded import EmbeddedStore
from tests.support import store_values as make

async def main():
    archive = SqliteRunArchive(Path(sys.argv[1]))
    store = EmbeddedStore(archive=archive)
    await store.start()
    for n in range(100000):
        run = f"run-{n}"
        await store.resolve(make.lookup(run, retry_key=run))
        await store.admit(make.admission(run, run, retry_key=run))
        await store.settle(make.settlement(run, run, 7, links=(f"link-{n}",), retry_key=run))
        await store.close()
        print(n, flush=True)

asyncio.run(main())
"""


async def test_a_killed_process_leaves_its_last_save_whole(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert process.stdout is not None
    saved = -1
    deadline = time.monotonic() + 20
    while saved < 30 and time.monotonic() < deadline:
        saved = int(await asyncio.to_thread(process.stdout.readline))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for line in process.stdout.read().splitlines():
        saved = int(line) if line.isdigit() else saved
    process.stdout.close()

    archive = SqliteRunArchive(path)
    runs = {run.id: run for run in await archive.runs()}
    index = await archive.index(0)
    assert set(runs) >= {f"run-{n}" for n in range(saved + 1)}
    assert all(run.cost == 7 for run in runs.values())
    assert {ids[0] for _, ids in index.values()} == set(runs)
    await archive.close()
