"""Real gateways for tests: in a thread of this process, or as processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import uvicorn

from gateway.app import App, Worker
from gateway.settings import from_environment
from gateway.web.exchange import config as server_config
from tests.security.sinks import ensure_silent
from tests.support.ports import free_port

T = TypeVar("T")

BASE_POLICY = """
version: 1
providers:
  upstream: {{dialect: openai, base_url: "{upstream}", api_key: sk-upstream-secret-000000000000, breaker: null}}
models:
  "sim/*": {{provider: upstream, price: {{input_usd_per_mtok: 2.5, cached_input_usd_per_mtok: 1.25, output_usd_per_mtok: 10}}}}
  "gpt-*": {{provider: upstream, price: {{input_usd_per_mtok: 2.5, cached_input_usd_per_mtok: 1.25, output_usd_per_mtok: 10}}}}
auth: {{mode: keys}}
keys:
  - {{name: alice, key: gk-alice-0123456789, user: alice, team: red}}
  - {{name: bob, key: gk-bob-0123456789, user: bob, team: blue}}
"""
ALICE = "gk-alice-0123456789"
BOB = "gk-bob-0123456789"
ADMIN_TOKEN = "test-admin-token-0123456789"
SECRET_KEY = "test-secret-key-0123456789"
SECRETS = (ALICE, BOB, ADMIN_TOKEN, SECRET_KEY, "sk-upstream-secret-000000000000")
"""What no gateway of any test may write down."""


def base_policy(upstream: str, extra: str = "") -> str:
    """A policy with keys for alice (team red) and bob (team blue), every `sim/*` and `gpt-*` model priced
    like gpt-4o ($2.50 / $10 per million), no breaker and no limits but those in `extra`."""
    return BASE_POLICY.format(upstream=upstream) + extra


@dataclass
class Gateway:
    """A running gateway. `base_url` is what an OpenAI SDK takes."""

    port: int
    data_dir: Path
    policy_path: Path
    admin_token: str = ADMIN_TOKEN

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def admin(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        """An admin call; the parsed answer. Raises `urllib.error.HTTPError` for 4xx and 5xx."""
        request = urllib.request.Request(
            f"{self.url}/admin/v1{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={
                "authorization": f"Bearer {token or self.admin_token}",
                "content-type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            raw = answer.read()
        return json.loads(raw) if raw else None

    def request(
        self, method: str, path: str, *, key: str | None = ALICE, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One HTTP call without a body, as `post`."""
        return self._call(method, path, None, key, headers)

    def post(
        self, body: Any, *, key: str | None = ALICE, path: str = "/v1/chat/completions", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One plain HTTP call: (status, headers in lower case, body). Underscores in names become dashes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._call("POST", path, data, key, headers)

    def _call(
        self, method: str, path: str, data: bytes | None, key: str | None, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        sent = {"content-type": "application/json"}
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        request = urllib.request.Request(self.url + path, data=data, headers=sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


@dataclass
class ThreadedGateway(Gateway):
    """A gateway in a thread of this process: its worker can be looked into."""

    app: App | None = None
    loop: asyncio.AbstractEventLoop | None = None

    @property
    def worker(self) -> Worker:
        assert self.app is not None
        return self.app.worker

    def run(self, work: Callable[[], Any]) -> Any:
        """Run a coroutine function in the gateway's loop and wait for it."""
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(30)

    def attempts(self) -> list[dict[str, Any]]:
        """Every attempt in the ledger, oldest first, after everything pending was written."""

        async def read() -> list[dict[str, Any]]:
            await self.worker.drain.flush()
            rows, _ = await self.worker.ledger.runs(limit=1000)
            found: list[dict[str, Any]] = []
            for row in rows:
                steps, _ = await self.worker.ledger.steps(row["id"], limit=1000)
                found += [dict(step) for step in steps if step["kind"] == "attempt"]
            return sorted(found, key=lambda s: (s["started_at"], s["ordinal"]))

        result: list[dict[str, Any]] = self.run(read)
        return result


class _PromptServer(uvicorn.Server):
    """Ends as uvicorn's does, without its pauses of a tenth of a second, of which a suite would wait minutes."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopped = asyncio.Event()

    def stop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """From another thread."""
        self.should_exit = True
        if loop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._stopped.set)

    async def main_loop(self) -> None:
        ticking = asyncio.create_task(super().main_loop())
        stopped = asyncio.create_task(self._stopped.wait())
        await asyncio.wait((ticking, stopped), return_when=asyncio.FIRST_COMPLETED)
        for task in (ticking, stopped):
            task.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        grace_s = self.config.timeout_graceful_shutdown
        deadline = time.monotonic() + (grace_s if grace_s is not None else 60)
        while self.server_state.connections or self.server_state.tasks:
            if time.monotonic() > deadline:
                for task in self.server_state.tasks:
                    task.cancel()
                break
            await asyncio.sleep(0.002)
        await self.lifespan.shutdown()


@contextlib.contextmanager
def threaded_gateway(policy: str | Path, directory: Path, **options: Any) -> Iterator[ThreadedGateway]:
    """A gateway with the embedded store (unless `store_url` says otherwise) in its own thread and loop. The
    policy is a text, or the path of a file or folder."""
    directory.mkdir(parents=True, exist_ok=True)
    policy_path = policy if isinstance(policy, Path) else directory / "policy.yaml"
    if not isinstance(policy, Path):
        policy_path.write_text(policy)
    port = free_port()
    environment = options.pop("environment", {"OPENAI_API_KEY": "not-used"})
    settings = from_environment(
        environment,
        policy=policy_path,
        port=port,
        data_dir=options.pop("data_dir", directory / "data"),
        admin_token=ADMIN_TOKEN,
        secret_key=SECRET_KEY,
        **options,
    )
    app = App(settings)
    config = server_config(app, host="127.0.0.1", port=port, timeout_graceful_shutdown=2)
    server = _PromptServer(config)
    gateway = ThreadedGateway(port, settings.data_dir, policy_path, app=app)
    started = threading.Event()

    def serve() -> None:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            gateway.loop = runner.get_loop()
            started.set()
            # uvicorn leaves so when the application cannot start; the log has said why.
            with contextlib.suppress(SystemExit):
                runner.run(server.serve())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    started.wait(10)
    deadline = time.monotonic() + 20
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the gateway did not start")
        time.sleep(0.01)
    try:
        yield gateway
    finally:
        server.stop(gateway.loop)
        thread.join(20)


@dataclass
class ProcessGateway(Gateway):
    """A gateway started by its own command; can be killed."""

    process: subprocess.Popen[bytes] | None = None
    log_path: Path = field(default_factory=Path)

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Send a signal to every process of the gateway."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, sig)

    def wait(self, timeout: float = 30) -> int:
        assert self.process is not None
        return self.process.wait(timeout)


@contextlib.contextmanager
def process_gateway(
    policy: str,
    directory: Path,
    *,
    port: int | None = None,
    data_dir: Path | None = None,
    environment: dict[str, str] | None = None,
    **options: str,
) -> Iterator[ProcessGateway]:
    """`gateway serve` as a process group; options as `GATEWAY_…` values without the prefix, lower case.
    `environment` is more of it."""
    directory.mkdir(parents=True, exist_ok=True)
    policy_path = directory / "policy.yaml"
    policy_path.write_text(policy)
    port = port or free_port()
    data_dir = data_dir or directory / "data"
    log_path = directory / f"gateway-{secrets.token_hex(3)}.log"
    environment = {
        **(environment or {}),
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OPENAI_API_KEY": "not-used",
        "GATEWAY_POLICY": str(policy_path),
        "GATEWAY_PORT": str(port),
        "GATEWAY_DATA_DIR": str(data_dir),
        "GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN,
        "GATEWAY_SECRET_KEY": SECRET_KEY,
        **{f"GATEWAY_{name.upper()}": str(value) for name, value in options.items()},
    }
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    gateway = ProcessGateway(port, data_dir, policy_path, process=process, log_path=log_path)
    try:
        wait_ready(gateway)
        yield gateway
    finally:
        # As an impatient developer stops it: else idle connections would linger for seconds.
        for patience_s in (0.3, 25):
            gateway.kill(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
                break
        else:
            gateway.kill()
            process.wait(5)
        ensure_silent(str(log_path), log_path.read_bytes(), SECRETS)


def wait_ready(gateway: ProcessGateway, timeout: float = 90) -> None:
    """Until `/readyz` says yes; the log is in the error when the process ends before."""
    assert gateway.process is not None
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if gateway.process.poll() is not None:
            break
        with (
            contextlib.suppress(OSError, urllib.error.URLError),
            urllib.request.urlopen(f"{gateway.url}/readyz", timeout=2) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the gateway did not start:\n{gateway.log_path.read_text()[-4000:]}")


def wait_until(condition: Callable[[], T], timeout: float = 30.0, what: str = "condition") -> T:
    """Poll until the condition holds; its value. Raises `TimeoutError` naming what was waited for."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true within {timeout} s")
        time.sleep(0.02)
