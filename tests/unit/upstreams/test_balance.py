"""The order in which the deployments of a model are tried."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams import balance
from gateway.upstreams.balance import Latencies, Strategy, order


@dataclass(frozen=True)
class Place:
    key: str
    weight: float = 1.0


A, B, C = Place("a"), Place("b"), Place("c")


def tried(
    places: Sequence[Place],
    strategy: Strategy = "weight",
    draw: float = 0.0,
    busy: dict[str, int] | None = None,
    latency: dict[str, float] | None = None,
) -> str:
    indexes = order(
        places,
        strategy=strategy,
        busy=lambda key: (busy or {}).get(key, 0),
        latency=(latency or {}).get,
        draw=draw,
    )
    return "".join(places[index].key for index in indexes)


# By weight


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (0.0, "abc"),
        (0.16, "abc"),
        (0.17, "acb"),
        (0.34, "bac"),
        (0.51, "bca"),
        (0.67, "cab"),
        (0.84, "cba"),
        (0.999999, "cba"),
    ],
)
def test_one_draw_decides_the_whole_order(draw: float, expected: str) -> None:
    assert tried([A, B, C], draw=draw) == expected


def test_shares_follow_the_weights_in_every_place() -> None:
    places = [Place("a", 6), Place("b", 3), Place("c", 1)]
    draws = random.Random(7)
    counted = Counter(tried(places, draw=draws.random()) for _ in range(60_000))
    exact = {
        "abc": 0.6 * 3 / 4,
        "acb": 0.6 * 1 / 4,
        "bac": 0.3 * 6 / 7,
        "bca": 0.3 * 1 / 7,
        "cab": 0.1 * 6 / 9,
        "cba": 0.1 * 3 / 9,
    }
    for way, share in exact.items():
        assert counted[way] / 60_000 == pytest.approx(share, abs=0.01)


def test_a_deployment_without_a_weight_only_stands_in() -> None:
    places = [Place("s", 0), A, Place("t", 0), B]
    assert {tried(places, draw=draw / 100) for draw in range(100)} == {"abst", "bast"}
    assert tried([Place("s", 0), Place("t", 0)], draw=0.9) == "st"


@pytest.mark.parametrize("strategy", ["weight", "least_busy", "latency"])
def test_one_or_none_needs_no_choice(strategy: Strategy) -> None:
    assert tried([], strategy) == ""
    assert tried([A], strategy, 0.7) == "a"


# By calls


def test_the_least_busy_for_its_weight_comes_first() -> None:
    places = [A, Place("b", 4), C]
    assert tried(places, "least_busy", 0.0, {"a": 2, "b": 4, "c": 3}) == "bac"
    assert tried(places, "least_busy", 0.9, {"a": 2, "b": 9, "c": 3}) == "abc"


def test_who_is_equally_busy_is_drawn_by_weight() -> None:
    places = [A, B, C]
    busy = {"a": 1, "b": 1, "c": 9}
    assert tried(places, "least_busy", 0.0, busy) == "abc"
    assert tried(places, "least_busy", 0.5, busy) == "bac"


def test_an_idle_stand_in_still_comes_last() -> None:
    assert tried([Place("s", 0), A], "least_busy", 0.0, {"a": 50}) == "as"


# By latency


def test_the_fastest_comes_first_and_the_slowest_last() -> None:
    assert tried([A, B, C], "latency", 0.99, latency={"a": 3.0, "b": 0.5, "c": 1.0}) == "bca"


def test_those_nearly_as_fast_as_the_fastest_share_the_calls() -> None:
    latency = {"a": 1.0, "b": 1.2, "c": 1.21}
    assert {tried([A, B, C], "latency", draw / 50, latency=latency) for draw in range(50)} == {"abc", "bac"}


def test_one_that_was_never_measured_shares_the_calls_of_the_fastest() -> None:
    latency = {"a": 1.0, "c": 2.0}
    assert {tried([A, B, C], "latency", draw / 50, latency=latency) for draw in range(50)} == {"abc", "bac"}


# Whatever it is given


@given(
    weights=st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=8),
    strategy=st.sampled_from(["weight", "least_busy", "latency"]),
    draw=st.floats(allow_nan=True, allow_infinity=True),
    busy=st.integers(-3, 10**6),
    seconds=st.one_of(st.none(), st.floats(allow_nan=True)),
)
def test_every_deployment_is_tried_once(
    weights: list[float], strategy: Strategy, draw: float, busy: int, seconds: float | None
) -> None:
    places = [Place(str(index), weight) for index, weight in enumerate(weights)]
    found = order(
        places, strategy=strategy, busy=lambda key: busy * len(key), latency=lambda _: seconds, draw=draw
    )
    assert sorted(found) == list(range(len(places)))


# How fast each has been


def test_the_first_latency_counts_whole_and_later_ones_move_it() -> None:
    known = Latencies()
    assert known.of("a", 0) is None
    known.saw("a", 2.0, 100)
    assert known.of("a", 100) == 2.0
    known.saw("a", 1.0, 100)
    assert known.of("a", 100) == pytest.approx(1.7)
    assert known.of("b", 100) is None


def test_a_slow_deployment_is_tried_again_after_a_while() -> None:
    known = Latencies()
    known.saw("slow", 8.0, 0)
    known.saw("fast", 1.0, 0)
    now, tries = 0.0, []
    while now < 300:
        now += 1
        known.saw("fast", 1.0, now)
        chosen = tried(
            [Place("slow"), Place("fast")],
            "latency",
            0.0,
            latency={key: value for key in ("slow", "fast") if (value := known.of(key, now)) is not None},
        )
        if chosen.startswith("slow"):
            tries.append(now)
            known.saw("slow", 8.0, now)
    # From 8 s down to 1.2 s takes 2.7 half-lives.
    assert tries[0] == 83.0
    assert 2 <= len(tries) <= 4
    assert known.of("slow", 300) is not None


def test_what_was_measured_long_ago_does_not_hide_how_fast_it_is_now() -> None:
    known = Latencies()
    known.saw("a", 8.0, 0)
    known.saw("a", 1.0, 10 * balance.HALF_LIFE_S)
    assert known.of("a", 10 * balance.HALF_LIFE_S) == pytest.approx(1.0, abs=0.01)


def test_a_clock_that_stands_or_goes_back_changes_nothing() -> None:
    known = Latencies()
    known.saw("a", 1.0, 100)
    assert known.of("a", 50) == 1.0
    known.saw("a", 1.0, 50)
    assert known.of("a", 50) == 1.0


def test_the_memory_of_latencies_is_bounded() -> None:
    known = Latencies()
    for number in range(balance.MAX_KEYS + 10):
        known.saw("kept", 1.0, 0)
        known.saw(f"d{number}", 1.0, 0)
    assert len(known._known) == balance.MAX_KEYS
    assert known.of("kept", 0) == 1.0
    assert known.of("d0", 0) is None


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e9)), max_size=20))
def test_a_latency_stays_between_none_and_the_longest(measured: list[tuple[float, float]]) -> None:
    known, now = Latencies(), 0.0
    for seconds, pause in measured:
        now += pause
        known.saw("a", seconds, now)
        found = known.of("a", now)
        assert found is not None
        assert math.isfinite(found)
        assert 0 <= found <= max(each for each, _ in measured) * (1 + 1e-9)
