"""What is loaded once at start is loaded before the tests, whose examples have a deadline."""

from __future__ import annotations

import pytest

from gateway.metering import tokens
from gateway.metering.prices import PriceBook


@pytest.fixture(scope="session", autouse=True)
def warm() -> None:
    tokens.warm()
    PriceBook().warm([("openai", "gpt-4o")], 0)
