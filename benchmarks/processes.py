"""The processes of a run, each on its core: what is measured on one, what drives it on the other."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.bodies import MODEL

ROOT = Path(__file__).parents[1]
KEY = "gk-benchmark-0123456789"
START_S = 30.0

POLICY = """
version: 1
auth: {{mode: keys}}
keys:
  - {{name: bench, key: {key}, user: bench, team: speed}}
providers:
  upstream: {{dialect: openai, base_url: "{upstream}/v1", api_key: sk-benchmark-000000000000}}
models:
  {model}: {{provider: upstream, price: {{input_usd_per_mtok: 0.15, cached_input_usd_per_mtok: 0.075,
             output_usd_per_mtok: 0.60}}}}
default_max_output_tokens: 8192
# The default policy's guards. Limits that a million calls would reach are higher; the work is the same.
budgets:
  - {{name: run,           per: run,                limit_usd: 1000000, warn_at: 0.75, on_exceed: wrap_up}}
  - {{name: session,       per: session,            limit_usd: 1000000, warn_at: 0.75}}
  - {{name: user-day,      per: user,   window: 1d, limit_usd: 1000000, warn_at: 0.75}}
  - {{name: everyone-hour, per: global, window: 1h, limit_usd: 1000000, warn_at: 0.75}}
runs:
  max_steps: 1000000
  max_wall_clock_s: 900
  on_exceed: wrap_up
loops:
  mode: shadow
  same_call: 3
  cycle: 3
  no_progress: {{nudge: 3, wrap_up: 5}}
  consecutive_tool_errors: {{nudge: 3, wrap_up: 5}}
  on_detect: wrap_up
rates:
  - {{name: new-runs, per: key, new_runs_per_minute: 10000000}}
"""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where processes run. With a single core both are the same, and only CPU per request means anything."""

    measured: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[-1])


class Program:
    """One process, pinned; its log is kept for when it does not start."""

    def __init__(
        self, name: str, command: Sequence[str], core: int, directory: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**_environment(), **environment},
                stdout=log,
                stderr=log,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
        self._ps = psutil.Process(self._process.pid)

    def cpu_s(self) -> float:
        """CPU seconds used so far by all threads, in user mode and in the kernel."""
        times = self._ps.cpu_times()
        return times.user + times.system

    def wait_calm(self, timeout_s: float = 20.0) -> None:
        """Until it uses less than a tenth of a core."""
        deadline = time.monotonic() + timeout_s
        before = self.cpu_s()
        while time.monotonic() < deadline:
            time.sleep(0.3)
            now = self.cpu_s()
            if now - before <= 0.03:
                return
            before = now

    @property
    def rss_mb(self) -> float:
        """Resident memory."""
        return self._ps.memory_info().rss / 2**20

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, port: int, path: str | None = None) -> None:
        """Until the port accepts connections and, with a `path`, answers 200 there."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if path is None:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    return
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (OSError, urllib.error.URLError):
                pass
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"{self.name} did not start:\n{self._log.read_text(errors='replace')[-4000:]}")

    def stop(self) -> None:
        """Terminate it, and kill what does not end by itself."""
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True, slots=True)
class Target:
    """Something to send requests to. `program` is whose CPU counts; None for direct calls."""

    name: str
    port: int
    program: Program | None


def _environment() -> dict[str, str]:
    """Ours, without what would change how a gateway behaves, and importable from the repository."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith("GATEWAY_") and not k.endswith("_API_KEY")
    }
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), kept.get("PYTHONPATH"))))
    return kept


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stand:
    """Everything that a run needs, started in order and stopped in reverse."""

    def __init__(self, directory: Path, cores: Cores, *, serve: Sequence[str] = ("gateway", "serve")) -> None:
        """`serve` is the Python module that is the gateway, with its arguments."""
        self._directory = directory
        self._cores = cores
        self._serve = serve
        self._programs: list[Program] = []
        self.left_out: dict[str, str] = {}
        """Targets that could not be started, and why."""

    def start(self, stores: Collection[str] = ("embedded", "redis")) -> list[Target]:
        """The targets: direct, pass-through, and the gateway with each of the stores."""
        upstream = free_port()
        self._run("upstream", ["benchmarks.upstream", str(upstream)], upstream, core=self._cores.load)
        address = f"http://127.0.0.1:{upstream}"
        targets = [Target("direct", upstream, None)]

        port = free_port()
        program = self._run(
            "pass-through",
            [
                "uvicorn", "benchmarks.passthrough:app", "--host", "127.0.0.1", "--port", str(port),
                "--loop", "uvloop", "--http", "httptools", "--ws", "none", "--lifespan", "off",
                "--no-access-log", "--no-proxy-headers", "--no-server-header", "--log-level", "warning",
            ],
            port,
            {"BENCH_UPSTREAM": address},
        )  # fmt: skip
        targets.append(Target("pass-through", port, program))
        if "embedded" in stores:
            targets.append(self._gateway("embedded", address, {}))
        if "redis" not in stores:
            return targets
        try:
            redis = self._redis()
            targets.append(self._gateway("redis", address, {"GATEWAY_STORE_URL": redis}))
        except RuntimeError as error:
            self.left_out["redis"] = str(error)
        return targets

    def _gateway(self, store: str, upstream: str, environment: Mapping[str, str]) -> Target:
        directory = self._directory / store
        directory.mkdir()
        policy = directory / "policy.yaml"
        policy.write_text(POLICY.format(key=KEY, upstream=upstream, model=MODEL))
        port = free_port()
        settings = {
            # With any provider's key set, the built-in simulated provider is not started.
            "OPENAI_API_KEY": "not-used",
            "GATEWAY_POLICY": str(policy),
            "GATEWAY_PORT": str(port),
            "GATEWAY_DATA_DIR": str(directory / "data"),
            "GATEWAY_ADMIN_TOKEN": "benchmark-admin-token-0123456789",
            "GATEWAY_SECRET_KEY": "benchmark-secret-key-0123456789",
            "GATEWAY_LOG_LEVEL": "warning",
            **environment,
        }
        name = f"gateway-{store}"
        program = self._run(name, self._serve, port, settings, path="/readyz")
        return Target(f"gateway, {store}", port, program)

    def _redis(self) -> str:
        server = shutil.which("redis-server")
        if server is None:
            raise RuntimeError("redis-server is not installed")
        port = free_port()
        directory = self._directory / "redis-data"
        directory.mkdir()
        command = [
            server, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory),
            "--save", "", "--appendonly", "no",
        ]  # fmt: skip
        program = Program("redis", command, self._cores.load, self._directory, {})
        self._programs.append(program)
        program.wait_ready(port)
        return f"redis://127.0.0.1:{port}/0"

    def _run(
        self,
        name: str,
        module: Sequence[str],
        port: int,
        environment: Mapping[str, str] | None = None,
        *,
        core: int | None = None,
        path: str | None = None,
    ) -> Program:
        core = self._cores.measured if core is None else core
        command = [sys.executable, "-m", *module]
        program = Program(name, command, core, self._directory, environment or {})
        self._programs.append(program)
        program.wait_ready(port, path)
        return program

    def stop(self) -> None:
        """Stop everything."""
        while self._programs:
            self._programs.pop().stop()
