"""The order of the suite on several workers."""

from __future__ import annotations

from itertools import groupby

import pytest

from tests.support import order
from tests.support.order import longest_first, pieces

TESTS = [
    *(f"tests/unit/test_a.py::test_one[{n}]" for n in range(3)),
    *(f"tests/long/test_b.py::test_it[{n}@home]" for n in range(7)),
    "tests/clients/test_c.py::test_it[x]@sdk",
    *(f"tests/unit/test_d.py::test_two[{n}]" for n in range(2)),
    "tests/clients/test_e.py::test_it[x]@sdk",
]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "SECONDS", {"tests/long/": 7.0, "tests/long/test_b.py::test_it[0": 1.0})
    monkeypatch.setattr(order, "PIECE_S", 20.0)


def test_a_module_is_a_piece_a_long_one_several_and_a_group_one() -> None:
    of = dict(zip(TESTS, pieces(TESTS), strict=True))
    sizes = sorted(len(list(tests)) for _, tests in groupby(sorted(of.values())))
    # The long one takes 1 + 7 + 7 seconds, and 7 + 7 + 7, and 7.
    assert sizes == [1, 2, 2, 3, 3, 3]
    assert of[TESTS[10]] == of[TESTS[13]] == "sdk"


def test_what_takes_longest_begins_first_and_keeps_its_order() -> None:
    ordered = [TESTS[at] for at in longest_first(TESTS)]
    assert sorted(ordered) == sorted(TESTS)
    assert ordered[:7] == TESTS[3:10]
    assert [t for t in ordered if "test_a" in t] == TESTS[:3]
    # The two that are told of apart come together.
    assert abs(ordered.index(TESTS[10]) - ordered.index(TESTS[13])) == 1


def test_pieces_are_the_same_before_and_after() -> None:
    """One process sorts, another cuts."""
    ordered = [TESTS[at] for at in longest_first(TESTS)]
    assert dict(zip(ordered, pieces(ordered), strict=True)) == dict(zip(TESTS, pieces(TESTS), strict=True))
