"""`gateway migrate`: tables by one role, so that gateways may run by another that creates nothing."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from gateway.settings import SettingsError, from_environment
from gateway.stores.ledger import SqlLedger
from tests.integration.ledger.conftest import PostgresServer, postgres_server

__all__ = ["postgres_server"]
ROOT = Path(__file__).parents[2]


def migrate(directory: Path, url: str = "") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "GATEWAY_DATA_DIR": str(directory)}
    return subprocess.run(
        [sys.executable, "-m", "gateway", "migrate"],
        env={**environment, "GATEWAY_LEDGER_URL": url} if url else environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_tables_are_made_once_and_a_newer_ledger_is_left_alone(tmp_path: Path) -> None:
    for _ in range(2):
        done = migrate(tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("the ledger has everything of schema ")
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        assert db.execute("SELECT count(*) FROM gw_steps").fetchone() == (0,)
        db.execute("UPDATE gw_meta SET value = '999' WHERE name = 'schema'")
    done = migrate(tmp_path)
    assert done.returncode == 1
    assert "use the newer version" in done.stderr


@pytest.mark.slow
@pytest.mark.postgres
def test_a_role_that_may_create_nothing_serves_after_it(
    postgres_server: PostgresServer,
    tmp_path: Path,
) -> None:
    name = f"migrated{os.getpid()}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}".encode())
        conn.execute("CREATE ROLE runner LOGIN")
    with psycopg.connect(postgres_server.url(name), autocommit=True) as conn:
        conn.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        conn.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO runner")
        conn.execute("ALTER DEFAULT PRIVILEGES GRANT USAGE ON SEQUENCES TO runner")
    runner = f"postgresql://runner@127.0.0.1:{postgres_server.port}/{name}"
    refused = migrate(tmp_path, runner)
    assert refused.returncode == 1, "the tables are not there, and it may not make them"
    assert migrate(tmp_path, postgres_server.url(name)).returncode == 0

    async def opened() -> list[object]:
        ledger = SqlLedger(runner, data_dir=tmp_path)
        await ledger.start()
        try:
            return list(await ledger.verify())
        finally:
            await ledger.close()

    assert asyncio.run(opened()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"GATEWAY_DRAIN_S": "-1"},
        {"GATEWAY_DRAIN_DELAY_S": "nan"},
        {"GATEWAY_WORKER_TIMEOUT_S": "0"},
        {"GATEWAY_DRAIN_S": "1e9"},
    ],
    ids=str,
)
def test_waits_that_make_no_sense_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        from_environment(wrong)
