"""The database full, locked, gone or on another host; the writer killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path

import psycopg
import pytest

from gateway.stores.ledger import LedgerError, LedgerOnAnotherHost, LedgerUnavailable, SqlLedger
from gateway.stores.ledger_host import HostLock

from .conftest import PostgresServer
from .events import T0, attempt, encode

_WRITER = """
import asyncio, sys
from pathlib import Path
from gateway.stores.ledger import SqlLedger
from tests.integration.ledger.test_failures import history

async def main(url):
    ledger = SqlLedger(url, data_dir=Path("."))
    await ledger.start()
    print("ready", flush=True)
    for batch in history():
        await ledger.append(batch)
    print("done", flush=True)

asyncio.run(main(sys.argv[1]))
"""


def history() -> list[list[tuple[str, bytes]]]:
    """Two thousand attempts in eighty batches; every third is first known provisionally."""
    batches = []
    for start in range(0, 2000, 25):
        events = []
        for n in range(start, start + 25):
            final = attempt(f"a{n}", run=f"r{n % 40}", ordinal=n // 40, cost=n)
            if n % 3 == 0:
                events.append({**final, "provisional": True, "cost": 5 * n})
            events.append(final)
        random.Random(start).shuffle(events)
        batches.append(encode(*events))
    return batches


@pytest.mark.slow
async def test_a_killed_writer_loses_and_doubles_nothing(ledger_url: str, tmp_path: Path) -> None:
    script = tmp_path / "writer.py"
    script.write_text(_WRITER)
    root = Path(__file__).parents[3]
    random_ = random.Random(7)
    killed = 0
    for _ in range(6):
        writer = await asyncio.create_subprocess_exec(
            sys.executable, str(script), ledger_url, cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert writer.stdout is not None
        assert await writer.stdout.readline() == b"ready\n"
        await asyncio.sleep(random_.uniform(0.005, 0.25))
        if writer.returncode is None:
            writer.send_signal(signal.SIGKILL)
        killed += await writer.wait() == -signal.SIGKILL
    assert killed

    ledger = SqlLedger(ledger_url, data_dir=tmp_path)
    await ledger.start()
    assert await ledger.verify() == []
    for batch in history():
        await ledger.append(batch)
    assert await ledger.verify() == []
    assert (await ledger.used_counters(T0))["global:h1"][0] == sum(range(2000))
    assert sum(row["cost"] for row in await ledger.spend("user")) == sum(range(2000))
    await ledger.close()


async def test_a_locked_database_is_unavailable_and_nothing_is_half_written(tmp_path: Path) -> None:
    ledger = SqlLedger(None, data_dir=tmp_path, busy_timeout_s=0.05)
    await ledger.start()
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    events = encode(attempt("a1"))
    with pytest.raises(LedgerUnavailable, match="locked"):
        await ledger.append(events)
    assert await ledger.revision() >= 1, "reading goes on"
    other.execute("ROLLBACK")
    other.close()
    await ledger.append(events)
    assert await ledger.verify() == []
    assert len((await ledger.runs())[0]) == 1
    await ledger.close()


async def test_a_full_disk_is_unavailable_until_there_is_room(tmp_path: Path) -> None:
    ledger = SqlLedger(None, data_dir=tmp_path)
    await ledger.start()
    await ledger.append(encode(attempt("a0")))

    async def allow(pages: int) -> None:
        await ledger._write(lambda conn: conn.exec_driver_sql(f"PRAGMA max_page_count={pages}").scalar())

    # SQLite's own limit raises what a full file system does: SQLITE_FULL.
    await allow(1)
    events = encode(*[attempt(f"a{n}", run=f"r{n}", cost=n) for n in range(1, 2000)])
    with pytest.raises(LedgerUnavailable, match="full"):
        await ledger.append(events)
    assert len((await ledger.runs())[0]) == 1
    await allow(1_000_000)
    await ledger.append(events)
    assert await ledger.verify() == []
    await ledger.close()


@pytest.mark.parametrize("replacement", [None, b""])
async def test_a_database_file_that_went_away_is_not_written_to(
    tmp_path: Path, replacement: bytes | None
) -> None:
    ledger = SqlLedger(None, data_dir=tmp_path)
    await ledger.start()
    kept = tmp_path / "kept"
    (tmp_path / "ledger.db").rename(kept)
    if replacement is not None:
        (tmp_path / "ledger.db").write_bytes(replacement)
    with pytest.raises(LedgerUnavailable):
        await ledger.append(encode(attempt("a1")))
    await ledger.close()


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"something else entirely " * 400)
    with pytest.raises(LedgerUnavailable):
        await SqlLedger(None, data_dir=tmp_path).start()


async def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerUnavailable):
        await SqlLedger(None, data_dir=tmp_path / "file" / "data").start()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://h/db", "nonsense", "redis://h"])
def test_a_url_of_another_kind_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(LedgerError):
        SqlLedger(url, data_dir=tmp_path)


async def test_a_ledger_of_a_newer_version_is_refused(ledger_url: str, tmp_path: Path) -> None:
    ledger = SqlLedger(ledger_url, data_dir=tmp_path)
    await ledger.start()
    await ledger._write(
        lambda conn: conn.exec_driver_sql("UPDATE gw_meta SET value = '999' WHERE name = 'schema'")
    )
    await ledger.close()
    with pytest.raises(LedgerError, match="newer"):
        await SqlLedger(ledger_url, data_dir=tmp_path).start()


async def test_the_database_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    ledger = SqlLedger(None, data_dir=tmp_path)
    await ledger.start()
    await ledger.append(encode(attempt("a1")))
    assert {path.stat().st_mode & 0o077 for path in tmp_path.glob("ledger.db*") if path.is_file()} == {0}
    await ledger.close()


async def test_another_host_is_refused_while_the_first_is_alive(tmp_path: Path) -> None:
    first = SqlLedger(None, data_dir=tmp_path, host=("aaaa", "alpha"))
    worker = SqlLedger(None, data_dir=tmp_path, host=("aaaa", "alpha"))
    second = SqlLedger(None, data_dir=tmp_path, host=("bbbb", "beta"))
    await first.start()
    await worker.start()
    with pytest.raises(LedgerOnAnotherHost, match="alpha") as refused:
        await second.start()
    assert "postgresql://" in str(refused.value)
    await first.append(encode(attempt("a1")))
    await worker.append(encode(attempt("a2", ordinal=2)))
    assert await first.verify() == []
    await worker.close()
    await first.close()

    await second.start()
    await second.append(encode(attempt("a3", ordinal=3)))
    await second.close()


async def test_a_dead_host_is_succeeded_after_its_lease_and_cannot_write_again(tmp_path: Path) -> None:
    first = SqlLedger(None, data_dir=tmp_path, host=("aaaa", "alpha"))
    await first.start()
    assert first._lock is not None
    first._lock._stop.set()  # its host stands still

    second = SqlLedger(None, data_dir=tmp_path, host=("bbbb", "beta"), lease_s=1.5)
    began = time.monotonic()
    await second.start()
    assert time.monotonic() - began >= 1.4
    await second.append(encode(attempt("a1")))
    with pytest.raises(LedgerOnAnotherHost):
        await first.append(encode(attempt("a2")))
    await first.close()
    await second.append(encode(attempt("a3")))
    await second.close()


def test_two_hosts_that_start_together_do_not_both_get_the_file(tmp_path: Path) -> None:
    held = HostLock(tmp_path / "l.db", identity=("aaaa", "alpha"), beat_s=0.05, lease_s=0.5)
    late = HostLock(tmp_path / "l.db", identity=("bbbb", "beta"), beat_s=0.05, lease_s=0.5)
    held.acquire()
    with pytest.raises(LedgerOnAnotherHost):
        late.acquire()
    assert held.held()
    held.release()
    late.acquire()
    assert late.held()
    late.release()


@pytest.mark.postgres
@pytest.mark.slow
async def test_a_postgres_that_restarts_is_unavailable_and_then_serves(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    name = f"restart{os.getpid()}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}".encode())
    ledger = SqlLedger(postgres_server.url(name), data_dir=tmp_path)
    await ledger.start()
    await ledger.append(encode(attempt("a1")))
    postgres_server.stop()
    events = encode(attempt("a1"), attempt("a2", ordinal=2))
    try:
        with pytest.raises(LedgerUnavailable):
            await ledger.append(events)
        with pytest.raises(LedgerUnavailable):
            await ledger.ping()
    finally:
        postgres_server.start()
    await ledger.append(events)
    await ledger.ping()
    assert (await ledger.used_counters(T0))["run:r1"] == (200, 0)
    assert await ledger.verify() == []
    await ledger.close()


async def test_a_postgres_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    ledger = SqlLedger("postgresql://nobody@127.0.0.1:1/none", data_dir=tmp_path)
    with pytest.raises(LedgerUnavailable):
        await ledger.start()
