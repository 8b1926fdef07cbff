"""Fixtures of the integration tests: one simulated provider and gateways in front of it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.stores.embedded import EmbeddedStore
from gateway.testing import ProviderServer, running_provider
from tests.support.gateway import ThreadedGateway, base_policy, threaded_gateway

AT_ONCE_S = 5.0
"""What is promised within a second may take so long on a machine that runs other tests beside. If nobody saw to
it, it would take three times as long."""


def let_time_pass(gateway: ThreadedGateway, seconds: float) -> None:
    """Put the clock of the gateway's store forward, so that nothing depends on how quick the test is."""
    store = gateway.worker.store
    assert isinstance(store, EmbeddedStore)
    before = store._now
    store._now = lambda: before() + int(seconds * 1000)


def saved(data_dir: Path) -> list[dict[str, Any]]:
    """The runs that a killed gateway would find again."""
    with contextlib.closing(sqlite3.connect(f"file:{data_dir / 'runs.db'}?mode=ro", uri=True)) as db:
        return [json.loads(state) for (state,) in db.execute("SELECT state FROM runs")]


@pytest.fixture(scope="session")
def shared_provider() -> Iterator[ProviderServer]:
    """One simulated provider for a whole test process."""
    with running_provider(seed=1) as provider:
        yield provider


@pytest.fixture
def provider(shared_provider: ProviderServer) -> ProviderServer:
    """The simulated provider with an empty journal and no scripts."""
    shared_provider.wait_idle_blocking()
    shared_provider.journal.clear()
    shared_provider.forget_scripts()
    return shared_provider


MakeGateway = Callable[..., ThreadedGateway]


@pytest.fixture
def make_gateway(provider: ProviderServer, tmp_path: Path) -> Iterator[MakeGateway]:
    """Start gateways: `make_gateway(extra_policy, **options)`; all end with the test."""
    with ExitStack() as stack:

        def make(extra: str = "", *, name: str = "gateway", **options: Any) -> ThreadedGateway:
            policy = options.pop("policy", None) or base_policy(provider.base_url, extra)
            return stack.enter_context(threaded_gateway(policy, tmp_path / name, **options))

        yield make


@pytest.fixture
def gateway(make_gateway: MakeGateway) -> ThreadedGateway:
    """A gateway without limits."""
    return make_gateway()
