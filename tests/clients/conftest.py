"""Fixtures of the client tests: a simulated provider that can play every client's loop, and the drivers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.testing import ProviderServer, Reply
from tests.clients.clients import STEPS, Drivers, driver_processes
from tests.integration.conftest import MakeGateway, gateway, make_gateway, shared_provider

__all__ = ["MakeGateway", "drivers", "gateway", "make_gateway", "provider", "shared_provider"]

SMOL_TOOLS = [
    *(Reply(tool_calls=[("search", {"query": f"step {n}"})]) for n in range(1, STEPS)),
    Reply(tool_calls=[("final_answer", {"answer": "Done after 5 steps."})]),
]
"""An agent that answers by a tool."""
SMOL_CODE = [
    *(
        Reply(f"Thought: look up part {n}.\n<code>\nprint(search(query='step {n}'))\n")
        for n in range(1, STEPS)
    ),
    Reply("Thought: I know.\n<code>\nfinal_answer('Done after 5 steps.')\n"),
]
"""As a provider answers that honours the stop sequence `</code>`: it is not part of the answer."""


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
    shared_provider.script("smol-tools", SMOL_TOOLS)
    shared_provider.script("smol-code", SMOL_CODE)
    return shared_provider
