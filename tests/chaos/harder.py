"""A pytest plugin: property-based tests with `CHAOS_TIMES` as many examples, and none remembered.

CHAOS_TIMES=5 python -m pytest -p tests.chaos.harder --hypothesis-seed=7 tests/unit/metering
"""

from __future__ import annotations

import os

import pytest
from hypothesis import is_hypothesis_test, settings

TIMES = int(os.environ.get("CHAOS_TIMES", "5"))
SETTINGS = "_hypothesis_internal_use_settings"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hypothesis keeps a test's settings on its function, and has no option for the number of examples."""
    done = set()
    for item in items:
        test = getattr(item, "obj", None)
        test = getattr(test, "__func__", test)
        if test is None or id(test) in done or not is_hypothesis_test(test):
            continue
        done.add(id(test))
        known: settings = getattr(test, SETTINGS, None) or settings()
        more = settings(known, max_examples=known.max_examples * TIMES, database=None)
        setattr(test, SETTINGS, more)
