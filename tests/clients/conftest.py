"""Fixtures of the client tests: a simulated provider that can play every client's loop, and the drivers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import ProviderServer
from tests.clients.clients import Drivers, driver_processes
from tests.clients.policy import policy_for
from tests.clients.scripts import teach
from tests.integration.conftest import MakeGateway, gateway, shared_provider
from tests.support.gateway import ThreadedGateway, threaded_gateway

__all__ = ["MakeGateway", "drivers", "gateway", "make_gateway", "provider", "shared_provider"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of one driver on one worker, so that each client starts once.

    That is what `--dist loadgroup` is for; pytest-xdist 3.8 loses the groups under pytest 9.2
    (https://github.com/pytest-dev/pytest-xdist/issues/1386).
    """
    if not config.getoption("loadgroup", False):
        return
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        if mark is not None and "@" not in item.nodeid and hasattr(item, "_id"):
            item._id = type(item._id).parse(f"{item.nodeid}@{mark.args[0]}")


@pytest.fixture(scope="session")
def drivers() -> Iterator[Drivers]:
    """The client programs, each started once."""
    with driver_processes() as running:
        yield running


@pytest.fixture
def provider(shared_provider: ProviderServer) -> ProviderServer:
    """The simulated provider with an empty journal and the scripts of agents that need their own."""
    shared_provider.wait_idle_blocking()
    shared_provider.journal.clear()
    shared_provider.forget_scripts()
    teach(shared_provider)
    return shared_provider


@pytest.fixture
def make_gateway(provider: ProviderServer, tmp_path: Path) -> Iterator[MakeGateway]:
    """Start gateways before every kind of provider: `make_gateway(extra_policy)`; all end with the test."""
    with ExitStack() as stack:

        def make(extra: str = "", *, name: str = "gateway", **options: Any) -> ThreadedGateway:
            policy = policy_for(provider, extra)
            return stack.enter_context(threaded_gateway(policy, tmp_path / name, **options))

        yield make
