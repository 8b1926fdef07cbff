"""A ledger on SQLite, and on a private Postgres server where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio

from gateway.stores.ledger import SqlLedger
from tests.support.ports import free_port

Opener = Callable[[], SqlLedger]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "postgres: needs a Postgres server (started by the suite)")


@dataclass
class PostgresServer:
    """A server of our own on a free port of the loopback, its files in a temporary folder."""

    folder: Path
    port: int
    user: str

    def run(self, program: str, *arguments: str) -> None:
        command = [_program(program), *arguments]
        if os.getuid() == 0:
            command = ["setpriv", f"--reuid={self.user}", "--clear-groups", "--", *command]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = str(self.folder / "log")
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-l", log, "-o", options, "-w", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{database}"


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        candidates = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        found = str(candidates[-1]) if candidates else None
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _server_user() -> str:
    """Postgres refuses to run as root."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid()).pw_name
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("no user that may run Postgres")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    _program("initdb")
    user = _server_user()
    folder = Path(tempfile.mkdtemp(prefix="ledger-pg-"))
    if os.getuid() == 0:
        shutil.chown(folder, user)
    folder.chmod(0o755)
    server = PostgresServer(folder, free_port(), user)
    server.run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", user, "-N", "-E", "UTF8")
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


POSTGRES = pytest.param("postgres", marks=[pytest.mark.postgres, pytest.mark.slow])
"""Every test of the ledger holds for both; a database of its own for each takes its time."""


@pytest.fixture(params=["sqlite", POSTGRES])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty ledger."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"t{os.urandom(6).hex()}"
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}".encode())
    return server.url(name)


@pytest.fixture
def open_ledger(ledger_url: str, tmp_path: Path) -> Opener:
    """Makes ledger objects for the same database, not yet started."""
    return lambda: SqlLedger(ledger_url, data_dir=tmp_path)


@pytest_asyncio.fixture
async def ledger(open_ledger: Opener) -> AsyncIterator[SqlLedger]:
    ledger = open_ledger()
    await ledger.start()
    yield ledger
    await ledger.close()
