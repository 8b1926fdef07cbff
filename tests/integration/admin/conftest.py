"""One real gateway with the embedded store for each test file, in front of the simulated provider."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.testing import ProviderServer, running_provider
from tests.integration.admin.calls import Admin, Roles
from tests.support.gateway import ThreadedGateway, base_policy, threaded_gateway

LIMITS = """
budgets:
  - {name: run, per: run, limit_usd: 0.50}
  - {name: session, per: session, limit_usd: 2}
  - {name: user-day, per: user, window: 1d, limit_usd: 5.00}
  - {name: team-blue, per: team, window: 1d, limit_usd: 7, match: {team: blue}}
  - {name: everyone-hour, per: global, window: 1h, limit_usd: 100, mode: shadow}
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderServer]:
    with running_provider() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(provider: ProviderServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedGateway]:
    policy = base_policy(provider.base_url, LIMITS)
    with threaded_gateway(policy, tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="module")
def admin(gateway: ThreadedGateway) -> Admin:
    return Admin(gateway)


@pytest.fixture(scope="module")
def roles(admin: Admin) -> Roles:
    made = {
        role: admin.post("/tokens", {"name": f"fixture-{role}", "role": role})["token"]
        for role in ("viewer", "operator")
    }
    return Roles(**made)
