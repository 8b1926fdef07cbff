"""One gateway for whatever does not hurt it, with keys for two tenants and for an attacker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.testing import ProviderServer, running_provider
from tests.security.smuggling import MALLORY
from tests.support.gateway import ThreadedGateway, base_policy, threaded_gateway

PASSTHROUGH = """
passthrough:
  - {path: /v1/audio/speech, provider: upstream, price: {request_usd: 0.015}}
  - {path: "/v1/files/{file_id}/content", provider: upstream, methods: GET, price: free}
"""


@pytest.fixture(scope="package")
def shared_provider() -> Iterator[ProviderServer]:
    with running_provider(seed=1) as running:
        yield running


@pytest.fixture
def provider(shared_provider: ProviderServer) -> ProviderServer:
    """The simulated provider with an empty journal and no scripts."""
    shared_provider.wait_idle_blocking()
    shared_provider.journal.clear()
    shared_provider.forget_scripts()
    return shared_provider


def policy_of(provider: ProviderServer, extra: str = PASSTHROUGH) -> str:
    """The tests' policy with a key for mallory (team grey)."""
    key = f"  - {{name: mallory, key: {MALLORY}, user: mallory, team: grey}}\n"
    return base_policy(provider.base_url, key + extra)


@pytest.fixture(scope="package")
def shared_gateway(
    shared_provider: ProviderServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThreadedGateway]:
    with threaded_gateway(policy_of(shared_provider), tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def gateway(shared_gateway: ThreadedGateway, provider: ProviderServer) -> ThreadedGateway:
    """The package's gateway, in front of a provider that has forgotten the other tests."""
    return shared_gateway
