"""Fixtures of the incidents: the provider, gateways under an operator's policy, and agents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.testing import ProviderServer
from tests.integration.incidents.scene import GUARDED, policy_for
from tests.support.gateway import ThreadedGateway, threaded_gateway

Start = Callable[..., ThreadedGateway]


@pytest.fixture
def start(provider: ProviderServer, tmp_path: Path) -> Iterator[Start]:
    """Start a gateway: `start(extra_policy, runs=…, budgets=…)`; it ends with the test."""
    with ExitStack() as stack:

        def begin(extra: str = GUARDED, **replaced: str) -> ThreadedGateway:
            policy = policy_for(provider, extra, **replaced)
            return stack.enter_context(threaded_gateway(policy, tmp_path / "gateway"))

        yield begin
