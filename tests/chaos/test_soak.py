"""Long runs by number: 3,000 requests in the slow tests, 200,000 by `make soak`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import ProviderServer
from tests.chaos.test_process import soak
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_three_thousand_mixed_requests(
    provider: ProviderServer, redis: RedisServer, tmp_path: Path, seed: int
) -> None:
    found = soak(provider, tmp_path, redis, seed, 3_000)
    assert found["requests"] >= 3_000
    assert float(found["files per 10,000"]) < 100


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_two_hundred_thousand_mixed_requests(
    provider: ProviderServer, redis: RedisServer, tmp_path: Path, seed: int, figures: dict[str, Any]
) -> None:
    figures |= soak(provider, tmp_path, redis, seed, int(os.environ.get("SOAK_REQUESTS", "200000")))
    assert float(str(figures["memory per 10,000"]).split()[0]) <= 1.0
    assert float(str(figures["files per 10,000"])) < 1.0
