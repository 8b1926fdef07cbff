"""Tests that go through all there is, again: under new random numbers, with more examples of each property."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.catalogue import RANKS, Rank

ROOT = Path(__file__).parents[2]
TIMES = int(os.environ.get("CHAOS_TIMES", "5"))
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]


@pytest.mark.parametrize("rank", [r for r in RANKS if not r.long], ids=lambda rank: f"{rank.number:02d}")
def test_the_tests_again(rank: Rank, seed: int, figures: dict[str, Any]) -> None:
    """Those of the rank that need neither Node nor a browser, the slow ones included."""
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.chaos.harder"),
            *("-m", "not node and not browser", f"--hypothesis-seed={seed}", "--timeout=300"),
            *(f"tests/{name}" for name in rank.tests),
        ],
        cwd=ROOT,
        env={**os.environ, "CHAOS_TIMES": str(TIMES)},
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    found = re.findall(r"(\d+) (passed|skipped)", ran.stdout.splitlines()[-1])
    counts = {what: int(count) for count, what in found}
    assert counts.get("passed", 0) > 0
    figures |= {**counts, "times": TIMES}
