"""One simulated provider for the process, and the gateways that the rows of the matrix name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.admission import Kill
from gateway.stores.embedded import EmbeddedStore, wall_clock
from gateway.testing import ProviderServer, running_provider
from tests.parity.controls import CONTROLS, GATEWAYS, policy_of
from tests.parity.scene import FORBIDDEN, SCRIPTS, policy
from tests.support.gateway import ThreadedGateway, threaded_gateway


@pytest.fixture(scope="session")
def provider() -> Iterator[ProviderServer]:
    with running_provider(seed=1) as provider:
        for name, script in SCRIPTS.items():
            provider.script(name, script)
        yield provider


def stop_clock(gateway: ThreadedGateway) -> None:
    """Let the store's time stand still in the last quarter of a minute: rates are counted by the minute."""
    store = gateway.worker.store
    assert isinstance(store, EmbeddedStore)
    stopped_at = wall_clock() // 60_000 * 60_000 + 45_000
    store._now = lambda: stopped_at


class Gateways:
    """Gateways by name, started when the first row asks for them."""

    def __init__(self, provider: ProviderServer, directory: Path, stack: ExitStack) -> None:
        self._provider, self._directory, self._stack = provider, directory, stack
        self._started: dict[str, ThreadedGateway] = {}

    def __getitem__(self, name: str) -> ThreadedGateway:
        if name not in self._started:
            rows = [control for control in CONTROLS if control.gateway == name]
            keys = [(control.name, control.models) for control in rows]
            written = policy(self._provider, keys, policy_of(name), GATEWAYS[name][1])
            gateway = self._stack.enter_context(threaded_gateway(written, self._directory / name))
            gateway.run(lambda: gateway.worker.store.set_kill(Kill(f"tool:{FORBIDDEN}", "not here"), None))
            if name == "rates":
                stop_clock(gateway)
            self._started[name] = gateway
        return self._started[name]


@pytest.fixture(scope="session")
def gateways(provider: ProviderServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    with ExitStack() as stack:
        yield Gateways(provider, tmp_path_factory.mktemp("parity"), stack)
