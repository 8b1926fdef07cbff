"""A gateway in this process that nobody outside hears of: for `gateway test`, and parts of it for `gateway
backtest`.

Its policy is given and does not change, its folder is gone afterwards, and where providers stand in the
policy there is one that answers as it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as with_changes
from pathlib import Path

import uvicorn
from pydantic import SecretStr

from gateway.app import App
from gateway.domain import Json
from gateway.metering.prices import provider_ref
from gateway.policy import document
from gateway.policy.document import Document
from gateway.policy.language import type_at
from gateway.policy.loading import load_files, read_files
from gateway.policy.messages import Mistake, PolicyError
from gateway.policy.models import Policy
from gateway.policy.reload import OnChange, PolicySource
from gateway.policy.sections.callers import Key
from gateway.policy.sections.providers import Provider
from gateway.settings import Settings, from_environment
from gateway.testing import ProviderServer
from gateway.web.admin_views import step_view
from gateway.web.exchange import config as server_config

START_S = 60.0
HOLD_S = 0.05
"""For an approval: there is no operator here to wait for."""
CALLER_KEY = "test-gateway-key-0123456789"
"""Of the one caller, where a policy names none."""
_REFERENCE = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET_FILE = re.compile(rb"file:(/[^\s\"'},]+)")
_PROVIDER_KEY = "test-provider-key-0123456789"


def policy_to_test(path: Path, environment: Mapping[str, str]) -> Policy:
    """The policy as it is written, with placeholders for variables that are unset and for secret files.
    Raises `PolicyError`."""
    files = read_files(path)
    standing_in = dict(environment)
    names = iter(range(1, 1 << 20))

    def secret(match: re.Match[bytes]) -> bytes:
        name = f"GATEWAY_TEST_SECRET_{next(names)}"
        # It may stand for a key or for the address of a webhook.
        standing_in[name] = f"https://test.example/{name.lower()}"
        return b"${%s}" % name.encode()

    files = tuple(with_changes(file, content=_SECRET_FILE.sub(secret, file.content)) for file in files)
    for file in files:
        node, _ = document.read(file.content.decode("utf-8-sig", "replace"), file.name)
        if node is not None:
            stand_in(document.flatten(node), standing_in)
    return load_files(files, standing_in)


def stand_in(written: Document, environment: dict[str, str]) -> None:
    for path in written.places:
        value = written.at(path)
        if not isinstance(value, str) or type_at(path) not in (str, SecretStr):
            continue
        for name in _REFERENCE.findall(value):
            if not environment.get(name):
                whole_url = path[-1] in ("base_url", "url") and value.startswith("${")
                text = f"test-{name.lower().replace('_', '-')}-0123456789"
                environment[name] = f"https://{text}.example/v1" if whole_url else text


def before(provider: ProviderServer, policy: Policy) -> Policy:
    """The policy with the simulated provider in the place of each of its providers, and nobody told."""

    def simulated(real: Provider) -> Provider:
        # Azure's models are spoken to as OpenAI's: they differ in nothing but their addresses.
        dialect = "anthropic" if real.dialect == "anthropic" else "openai"
        url = provider.origin if dialect == "anthropic" else provider.base_url
        table = real.price_table or provider_ref(real.dialect, real.base_url)
        key = SecretStr(_PROVIDER_KEY) if real.api_key is not None else None
        return real.model_copy(
            update={"dialect": dialect, "base_url": url, "api_key": key, "price_table": table}
        )

    rules = tuple(rule.model_copy(update={"hold_out": None}) for rule in policy.routing.rules)
    keys = policy.keys
    if policy.auth.mode == "keys" and not keys:
        keys = (Key(name="test", key=SecretStr(CALLER_KEY), user="test"),)
    return policy.model_copy(
        update={
            "providers": {name: simulated(real) for name, real in policy.providers.items()},
            "routing": policy.routing.model_copy(update={"rules": rules}),
            "approvals": policy.approvals.model_copy(update={"hold_s": HOLD_S}),
            "keys": keys,
            "alerts": (),
        }
    )


class Given(PolicySource):
    """A policy that is at hand, and does not change."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(Path(), {})
        self._given = policy

    def start(self) -> Policy:
        self._accept(self._given, "")
        return self._given

    async def run(self, on_change: OnChange) -> None:
        del on_change
        await asyncio.Event().wait()


@dataclass(slots=True)
class Listening:
    """A gateway that listens, and its loop."""

    app: App
    port: int
    loop: asyncio.AbstractEventLoop

    def record(self) -> tuple[str | None, list[Json]]:
        """How the newest run stands, and the steps of all, from the ledger."""

        async def read() -> tuple[str | None, list[Json]]:
            worker = self.app.worker
            await worker.drain.flush()
            rows, _ = await worker.ledger.runs(limit=1000)
            found: list[Json] = []
            for row in rows:
                steps, _ = await worker.ledger.steps(row["id"], limit=1000)
                found += map(step_view, steps)
            return (str(rows[0]["status"]) if rows else None), found

        return asyncio.run_coroutine_threadsafe(read(), self.loop).result(START_S)


def settings_in(directory: Path, **more: object) -> Settings:
    """Of a gateway that lives for one test: nothing of this machine's environment reaches it."""
    return from_environment(
        {"OPENAI_API_KEY": _PROVIDER_KEY},
        policy=directory / "policy.yaml",
        data_dir=directory,
        admin_token="test-admin-token-0123456789",  # noqa: S106 - nobody can reach it
        secret_key="test-secret-key-0123456789",  # noqa: S106 - the same
        screening_processes=1,
        **more,
    )


@contextlib.contextmanager
def listening(policy: Policy) -> Iterator[Listening]:
    with tempfile.TemporaryDirectory(prefix="gateway-test-") as directory, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        app = App(settings_in(Path(directory)))
        app.worker.source = Given(policy)
        config = server_config(app, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        loops: list[asyncio.AbstractEventLoop] = []

        def serve() -> None:
            with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                loops.append(runner.get_loop())
                runner.run(server.serve(sockets=[listener]))

        thread = threading.Thread(target=serve, name="gateway-under-test", daemon=True)
        thread.start()
        deadline = time.monotonic() + START_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise PolicyError([Mistake("gateway", 0, "", "did not start with this policy: see the log")])
            time.sleep(0.002)
        try:
            yield Listening(app, listener.getsockname()[1], loops[0])
        finally:
            server.should_exit = True
            thread.join(START_S)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What gateways log of the tests is what the tests are about."""
    log = logging.getLogger("gateway")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
