"""Fixtures of the client tests: a simulated provider that can play every client's loop, and the drivers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.testing import ProviderServer
from tests.clients.clients import Drivers, driver_processes
from tests.clients.scripts import teach
from tests.integration.conftest import MakeGateway, gateway, make_gateway, shared_provider

__all__ = ["MakeGateway", "drivers", "gateway", "make_gateway", "provider", "shared_provider"]


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
