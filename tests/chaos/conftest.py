"""Fixtures of the long scenarios: a seed that can be given again, and a place for what was measured."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import ProviderServer, running_provider
from tests.chaos import results
from tests.support.redis_server import RedisServer


@pytest.fixture
def seed() -> int:
    """`CHAOS_SEED`, or a new one; the run's record names it."""
    given = os.environ.get("CHAOS_SEED")
    chosen = int(given) if given else secrets.randbelow(10**6)
    print(f"CHAOS_SEED={chosen}")
    return chosen


@pytest.fixture
def figures(request: pytest.FixtureRequest, seed: int) -> Iterator[dict[str, Any]]:
    """What the scenario measured, in words and figures; kept when it passes."""
    found: dict[str, Any] = {}
    began = time.monotonic()
    yield found
    report = getattr(request.node, "chaos_report", None)
    if report is not None and report.passed and found:
        name = f"{Path(str(request.node.path)).name}::{request.node.name}"
        results.keep(name, seed, time.monotonic() - began, found)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Let `figures` know whether its test has passed."""
    report = yield
    if report.when == "call":
        item.chaos_report = report  # type: ignore[attr-defined]
    return report


@pytest.fixture
def provider(seed: int) -> Iterator[ProviderServer]:
    """A simulated provider of the test's own."""
    with running_provider(seed=seed) as running:
        yield running


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis of the test's own, to break."""
    with RedisServer() as server:
        yield server
