"""One simulated provider for the tests of backtests, whose models never find anything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.testing import Ask, ProviderServer, Reply, running_provider


def look(ask: Ask) -> Reply:
    """Calls its tool again and again, as long as it has one."""
    return Reply("Found.", tool_calls=[(tool.name, {"q": "x"}) for tool in ask.tools[:1]])


@pytest.fixture(scope="session")
def provider() -> Iterator[ProviderServer]:
    with running_provider() as server:
        server.script("looker", look)
        server.script("writer", Reply("Write to jane.doe@example.org about it."))
        yield server
