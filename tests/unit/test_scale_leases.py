"""The simulation behind docs/scaling.md keeps its own promises."""

from __future__ import annotations

import pytest

from benchmarks.scale_leases import WAYS, Way, simulated

EXACT = [way for way in WAYS if not way.sync_s]


@pytest.mark.parametrize("way", EXACT, ids=lambda way: way.name)
@pytest.mark.parametrize("is_cut", [False, True])
def test_a_budget_that_is_asked_or_leased_is_never_passed(way: Way, is_cut: bool) -> None:
    for seed in range(3):
        outcome = simulated(way, 300, seed, is_cut=is_cut)
        assert outcome.spent <= 1 + 1e-9
        assert outcome.refused > 0


def test_counting_afterwards_passes_it_when_a_place_is_cut_off() -> None:
    (way,) = [way for way in WAYS if way.sync_s == 10.0]
    assert simulated(way, 2_000, 1, is_cut=True).spent > 1.05


def test_larger_leases_ask_less() -> None:
    asked = [simulated(way, 2_000, 1).asked for way in EXACT]
    assert asked == sorted(asked, reverse=True)
