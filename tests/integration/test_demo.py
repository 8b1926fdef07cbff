"""The demo keeps its word: both agents are stopped, it ends by itself, and it says so when they are not."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from decimal import Decimal

import psutil
import pytest

from gateway.commands import demo
from gateway.commands.demo import Seen, project


def run_demo(*options: str) -> tuple[int, str, float]:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
    )
    return done.returncode, done.stdout, time.monotonic() - began


@pytest.fixture(scope="module")
def fast() -> tuple[int, str, float]:
    """One run for all that looks at what it says."""
    return run_demo("--fast", "--no-color")


def test_both_agents_are_stopped_and_it_ends_with_0(fast: tuple[int, str, float]) -> None:
    status, said, took = fast
    assert status == 0, said
    assert said.count("stopped   yes") == 2
    assert took < 60


def test_it_tells_rule_code_limit_and_what_the_agent_logged(fast: tuple[int, str, float]) -> None:
    said = " ".join(fast[1].split())
    assert "rule 'run', code run_budget_exceeded: limit $0.050000000" in said
    assert (
        "BadRequestError: Error code: 400 - Budget 'run' of this run has no room: limit $0.050000000" in said
    )
    assert "Reason: wrong customer" in said


def test_spend_stays_below_the_limit_and_is_what_the_provider_billed(fast: tuple[int, str, float]) -> None:
    found = re.search(
        r"spent +\$([\d.]+) in \d+ look-ups. The provider's own books say \$([\d.]+)\.", fast[1]
    )
    assert found is not None
    assert found[1] == found[2]
    assert Decimal("0.04") < Decimal(found[1]) <= Decimal("0.05")


def test_without_a_terminal_there_are_plain_lines(fast: tuple[int, str, float]) -> None:
    assert "\x1b" not in fast[1]
    assert re.search(r"^step  1  gpt-4o .*search 'printer': no result, try again$", fast[1], re.MULTILINE)


def test_an_agent_that_is_not_stopped_ends_it_with_1_and_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "LIMIT_USD", Decimal(5000))
    monkeypatch.setattr(demo, "RUN_S", 4.0)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    assert demo.main(["--fast"]) == 1
    assert "the agent was not stopped within 4 s" in capsys.readouterr().out
    after = {child.pid for child in psutil.Process().children(recursive=True)}
    assert after <= before


def test_a_gateway_that_does_not_start_is_told_with_its_own_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "POLICY", "version: 1\nbudgetz: {provider}\n")
    assert demo.main(["--fast"]) == 1
    assert "did you mean" in capsys.readouterr().out


def test_without_the_sdk_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert demo.main([]) == 1
    assert "pip install 'guardrail-gateway[demo]'" in capsys.readouterr().out


# -- the projection ----------------------------------------------------------------------------------


def seen(*costs: str, first_tokens: int = 100, growth: int = 50) -> list[Seen]:
    return [Seen(i + 1, "m", first_tokens + growth * i, Decimal(cost)) for i, cost in enumerate(costs)]


def test_a_projection_over_the_steps_seen_is_their_sum() -> None:
    steps = seen("0.10", "0.30", "0.50")
    assert project(steps, count=3).total == Decimal("0.90")


def test_a_projection_adds_the_growth_once_more_for_each_step() -> None:
    assert project(seen("1", "2"), count=10).total == sum(range(1, 11))


def test_a_trimmed_history_costs_no_more_than_a_full_window() -> None:
    found = project(seen("1", "2"), count=10, window=250)
    # 100, 150, 200 and 250 tokens fit; from the fourth look-up on each costs 4.
    assert (found.tokens_per_step, found.fits) == (50, 4)
    assert found.trimmed == 1 + 2 + 3 + 4 + 6 * 4


def test_a_run_that_does_not_grow_never_fills_the_window() -> None:
    found = project(seen("1", "1", growth=0), count=10, window=100)
    assert (found.fits, found.total, found.trimmed) == (10, Decimal(10), Decimal(10))
